//! The user's cache directory, and the library's path in it.

use std::path::{Path, PathBuf};

use tandem_core::{Error, Result, paths};

use super::VERSION;

/// The [cache directory](paths::cache_dir) of the user.
///
/// # Errors
/// [`Error::EngineLibrary`] when the user has no home directory.
pub fn cache_dir() -> Result<PathBuf> {
    paths::cache_dir().ok_or_else(|| Error::EngineLibrary {
        problem: "there is no cache directory: `TANDEM_CACHE`, `XDG_CACHE_HOME` and `HOME` are not set".into(),
        hint: "set `TANDEM_CACHE` to a directory that can be written".into(),
        source: None,
    })
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
