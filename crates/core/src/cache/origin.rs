//! Where a checkpoint is from: the files that determine what is made of it, and its name.

use std::path::{Component, Path};

use crate::files::{ModelFile, ModelFiles};

/// The files that determine what is made of a checkpoint: the configuration, and the weights in order.
pub fn sources(files: &ModelFiles) -> impl Iterator<Item = &ModelFile> {
    std::iter::once(&files.config).chain(&files.weights)
}

/// The checkpoint's name and revision: `owner/name` and the commit in a hub cache, elsewhere the directory's name.
pub fn origin(files: &ModelFiles) -> (String, Option<String>) {
    let Some(path) = files.config.path() else { return (files.name.clone(), None) };
    let directory = path.parent().and_then(|directory| std::path::absolute(directory).ok()).unwrap_or_default();
    if let Some((name, revision)) = in_hub_cache(&directory) {
        return (name, Some(revision));
    }
    let name = directory.components().rev().find_map(|component| match component {
        Component::Normal(name) => name.to_str(),
        _ => None,
    });
    (name.unwrap_or("checkpoint").into(), None)
}

/// `…/models--owner--name/snapshots/<revision>`; the layout is that of `huggingface_hub`.
fn in_hub_cache(directory: &Path) -> Option<(String, String)> {
    let revision = directory.file_name()?.to_str()?;
    let snapshots = directory.parent().filter(|parent| parent.file_name().is_some_and(|name| name == "snapshots"))?;
    let name = snapshots.parent()?.file_name()?.to_str()?.strip_prefix("models--")?;
    Some((name.replacen("--", "/", 1), revision.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origin_is_the_repository_or_the_directory() {
        let check = |config: &str, expected: &str, revision: Option<&str>| {
            let mut files = ModelFiles::embedded("demo", &[("demo/config.json", b"{}")]).unwrap();
            files.config = ModelFile::Path(config.into());
            assert_eq!(origin(&files), (expected.to_owned(), revision.map(Into::into)), "{config}");
        };
        check("/cache/models--Qwen--Qwen3-0.6B/snapshots/c1899de/config.json", "Qwen/Qwen3-0.6B", Some("c1899de"));
        check("/cache/models--gpt2/snapshots/1/config.json", "gpt2", Some("1"));
        check("/models/me/qwen/config.json", "qwen", None);
        check("/models/me/snapshots/1/config.json", "1", None);
        check("/config.json", "checkpoint", None);
        let embedded = ModelFiles::embedded("demo", &[("demo/config.json", b"{}")]).unwrap();
        assert_eq!(origin(&embedded), ("demo".into(), None));
    }
}
