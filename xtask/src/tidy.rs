//! Rules about the repository's files, as tests.
//!
//! A rule takes the files and gives back what breaks it, so that each is also shown to find what it is for.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

mod documents;
mod interface;
mod manifests;
mod sources;

/// Directories that are built, or private to one machine.
const NOT_OURS: [&str; 4] = ["target", ".git", "__pycache__", "shared"];

/// A larger file is data, not text that someone wrote.
const MAX_TEXT_SIZE: u64 = 1 << 20;

/// The files of a repository by their paths from its root; without a text when they are data.
struct Files(BTreeMap<String, Option<String>>);

impl Files {
    fn of_repository() -> Self {
        let mut files = Self(BTreeMap::new());
        files.collect("", &crate::process::root());
        assert!(files.0.contains_key("Cargo.lock"), "the root of the workspace");
        files
    }

    fn collect(&mut self, prefix: &str, dir: &Path) {
        for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
            let name = entry.file_name().into_string().unwrap();
            let path = format!("{prefix}{name}");
            if NOT_OURS.contains(&&*name) || name.starts_with(".venv") {
                continue;
            }
            if entry.file_type().unwrap().is_dir() {
                self.collect(&format!("{path}/"), &entry.path());
            } else {
                let is_small = entry.metadata().is_ok_and(|metadata| metadata.len() <= MAX_TEXT_SIZE);
                let text = is_small.then(|| fs::read_to_string(entry.path()).ok()).flatten();
                self.0.insert(path, text);
            }
        }
    }

    fn texts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().filter_map(|(path, text)| Some((path.as_str(), text.as_deref()?)))
    }

    fn texts_named(&self, ending: &str) -> impl Iterator<Item = (&str, &str)> {
        self.texts().filter(move |(path, _)| path.ends_with(ending))
    }

    fn text(&self, path: &str) -> &str {
        self.0.get(path).and_then(Option::as_deref).unwrap_or_default()
    }

    /// Whether there is such a file, or a directory with files.
    fn has(&self, path: &str) -> bool {
        let path = path.trim_end_matches('/');
        self.0.contains_key(path) || self.0.keys().any(|file| file.strip_prefix(path).is_some_and(|rest| rest.starts_with('/')))
    }
}

impl<const N: usize> From<[(&str, &str); N]> for Files {
    fn from(files: [(&str, &str); N]) -> Self {
        Self(files.into_iter().map(|(path, text)| (path.to_owned(), Some(text.to_owned()))).collect())
    }
}

/// Asserts that the repository keeps `rule`, and that `rule` finds something wrong with each of `broken`.
#[track_caller]
fn check<const N: usize>(rule: fn(&Files) -> Vec<String>, broken: [Files; N]) {
    let problems = rule(&Files::of_repository());
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
    for (n, files) in broken.iter().enumerate() {
        assert!(!rule(files).is_empty(), "the rule finds nothing in example {n}");
    }
}
