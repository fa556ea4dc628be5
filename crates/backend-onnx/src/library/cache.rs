//! The user's cache directory, and the library's path in it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use tandem_core::{Error, Result};

use super::VERSION;

/// The directory for everything that can be obtained or made again: `$TANDEM_CACHE`, else `$XDG_CACHE_HOME/tandem`, else `~/.cache/tandem`
/// (macOS: `~/Library/Caches/tandem`). It need not exist.
///
/// # Errors
/// [`Error::EngineLibrary`] when the user has no home directory.
pub fn cache_dir() -> Result<PathBuf> {
    cache_dir_from(|name| std::env::var_os(name), std::env::home_dir())
}

/// The name of the library's file on this system.
pub fn library_file_name() -> String {
    format!("{}onnxruntime{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX)
}

/// The system and processor of this build, such as `linux-x86_64`.
pub fn target() -> String {
    let musl = if cfg!(target_env = "musl") { "-musl" } else { "" };
    format!("{}-{}{musl}", std::env::consts::OS, std::env::consts::ARCH)
}

/// The path of the library in the cache `cache`.
pub fn library_in_cache(cache: &Path) -> PathBuf {
    cache.join("onnxruntime").join(VERSION).join(target()).join(library_file_name())
}

fn cache_dir_from(variable: impl Fn(&str) -> Option<OsString>, home: Option<PathBuf>) -> Result<PathBuf> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(own) = set("TANDEM_CACHE") {
        return super::search::absolute(&own);
    }
    // The XDG specification has relative paths ignored.
    if let Some(shared) = set("XDG_CACHE_HOME").filter(|path| path.is_absolute()) {
        return Ok(shared.join("tandem"));
    }
    let home = home.filter(|path| path.is_absolute()).ok_or_else(|| Error::EngineLibrary {
        problem: "there is no cache directory: `TANDEM_CACHE`, `XDG_CACHE_HOME` and `HOME` are not set".into(),
        hint: "set `TANDEM_CACHE` to a directory that can be written".into(),
        source: None,
    })?;
    let caches = if cfg!(target_os = "macos") { "Library/Caches" } else { ".cache" };
    Ok(home.join(caches).join("tandem"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(variables: &[(&str, &str)], home: Option<&str>, expected: Option<&str>) {
        let variable = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into());
        let found = cache_dir_from(variable, home.map(PathBuf::from)).ok();
        assert_eq!(found, expected.map(PathBuf::from), "{variables:?} {home:?}");
    }

    #[test]
    fn cache_dir_is_the_first_that_is_set() {
        let own = ("TANDEM_CACHE", "/own");
        let shared = ("XDG_CACHE_HOME", "/shared");
        check(&[own, shared], Some("/me"), Some("/own"));
        check(&[shared], Some("/me"), Some("/shared/tandem"));
        let at_home = if cfg!(target_os = "macos") { "/me/Library/Caches/tandem" } else { "/me/.cache/tandem" };
        check(&[], Some("/me"), Some(at_home));
        check(&[("TANDEM_CACHE", ""), ("XDG_CACHE_HOME", "")], Some("/me"), Some(at_home));
        check(&[("XDG_CACHE_HOME", "relative")], Some("/me"), Some(at_home));
        check(&[], None, None);
        check(&[], Some(""), None);
    }

    #[test]
    fn relative_cache_is_resolved_against_the_working_directory() {
        let found = cache_dir_from(|name| (name == "TANDEM_CACHE").then(|| "here".into()), None).unwrap();
        assert_eq!(found, std::env::current_dir().unwrap().join("here"));
    }
}
