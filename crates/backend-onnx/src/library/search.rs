//! The paths at which the library is searched for, in order.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use tandem_core::{Error, Remedy, Result};

use super::{cache_dir, library_file_name, library_in_cache};

/// The inputs of a search.
#[derive(Debug)]
pub(super) struct SearchPath {
    explicit: Option<PathBuf>,
    variable: Option<PathBuf>,
    executable_dir: Option<PathBuf>,
    cache: Result<PathBuf>,
}

impl SearchPath {
    pub(super) fn of_process(explicit: Option<&Path>) -> Result<Self> {
        let variable = std::env::var_os("ORT_DYLIB_PATH").filter(|value| !value.is_empty());
        let executable = std::env::current_exe().ok();
        Ok(Self {
            explicit: explicit.map(absolute).transpose()?,
            variable: variable.map(|value: OsString| absolute(Path::new(&value))).transpose()?,
            executable_dir: executable.as_deref().and_then(Path::parent).map(Path::to_path_buf),
            cache: cache_dir(),
        })
    }

    /// The first file that exists; one that was named must.
    pub(super) fn first(self) -> Result<PathBuf> {
        if let Some(path) = self.explicit {
            return named(path, "the path that was given");
        }
        if let Some(path) = self.variable {
            return named(path, "`ORT_DYLIB_PATH`");
        }
        let mut candidates = Vec::new();
        if let Some(dir) = self.executable_dir {
            candidates.push(dir.join(library_file_name()));
            candidates.push(dir.join("lib").join(library_file_name()));
        }
        candidates.push(library_in_cache(&self.cache?));
        // Even a dangling link counts: `inspect` says what is wrong with it.
        match candidates.iter().find(|path| path.symlink_metadata().is_ok()) {
            Some(path) => Ok(path.clone()),
            None => Err(not_found(&candidates)),
        }
    }
}

/// `path`, resolved against the working directory when it is relative; links are not followed.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|error| Error::EngineLibrary {
        problem: format!("`{}` is not a path", path.display()),
        hint: "give the path of a file".into(),
        source: Some(error.into()),
    })
}

fn named(path: PathBuf, by: &str) -> Result<PathBuf> {
    if path.symlink_metadata().is_ok() {
        return Ok(path);
    }
    Err(Error::EngineLibrary {
        problem: format!("ONNX Runtime's library was not found: {by} names `{}`, and there is no such file", path.display()),
        hint: Remedy::SetUpLibrary.into(),
        source: None,
    })
}

fn not_found(candidates: &[PathBuf]) -> Error {
    let paths: Vec<_> = candidates.iter().map(|path| format!("`{}`", path.display())).collect();
    Error::EngineLibrary {
        problem: format!(
            "ONNX Runtime's library was not found: no path was given, `ORT_DYLIB_PATH` is not set, and none of these files exists: {}",
            paths.join(", ")
        ),
        hint: Remedy::SetUpLibrary.into(),
        source: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixture {
        dir: tempfile::TempDir,
    }

    impl Fixture {
        fn new() -> Self {
            Self { dir: tempfile::tempdir().unwrap() }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        fn touch(&self, path: &Path) -> PathBuf {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, b"").unwrap();
            path.to_path_buf()
        }

        fn search_path(&self) -> SearchPath {
            SearchPath { explicit: None, variable: None, executable_dir: Some(self.path("bin")), cache: Ok(self.path("cache")) }
        }
    }

    #[test]
    fn search_prefers_named_then_beside_the_executable_then_the_cache() {
        let fixture = Fixture::new();
        let cached = fixture.touch(&library_in_cache(&fixture.path("cache")));
        assert_eq!(fixture.search_path().first().unwrap(), cached);

        let in_lib = fixture.touch(&fixture.path("bin/lib").join(library_file_name()));
        assert_eq!(fixture.search_path().first().unwrap(), in_lib);

        let beside = fixture.touch(&fixture.path("bin").join(library_file_name()));
        assert_eq!(fixture.search_path().first().unwrap(), beside);

        let variable = fixture.touch(&fixture.path("variable.so"));
        assert_eq!(SearchPath { variable: Some(variable.clone()), ..fixture.search_path() }.first().unwrap(), variable);

        let explicit = fixture.touch(&fixture.path("explicit.so"));
        let both = SearchPath { explicit: Some(explicit.clone()), variable: Some(variable), ..fixture.search_path() };
        assert_eq!(both.first().unwrap(), explicit);
    }

    #[test]
    fn not_found_error_lists_every_path_and_the_remedy() {
        let fixture = Fixture::new();
        let error = fixture.search_path().first().unwrap_err();
        let message = error.to_string();
        for path in [
            fixture.path("bin").join(library_file_name()),
            fixture.path("bin/lib").join(library_file_name()),
            library_in_cache(&fixture.path("cache")),
        ] {
            assert!(message.contains(&path.display().to_string()), "{message}");
        }
        assert!(message.contains("`ORT_DYLIB_PATH` is not set"), "{message}");
        assert!(error.hint() == Some(Remedy::SetUpLibrary.into()));
    }

    #[test]
    fn missing_named_library_is_an_error_despite_the_cache() {
        let fixture = Fixture::new();
        fixture.touch(&library_in_cache(&fixture.path("cache")));
        let missing = Some(fixture.path("gone.so"));
        let explicit = SearchPath { explicit: missing.clone(), ..fixture.search_path() }.first().unwrap_err().to_string();
        assert!(explicit.contains("the path that was given names") && explicit.contains("gone.so"), "{explicit}");
        let variable = SearchPath { variable: missing, ..fixture.search_path() }.first().unwrap_err().to_string();
        assert!(variable.contains("`ORT_DYLIB_PATH` names") && variable.contains("gone.so"), "{variable}");
    }
}
