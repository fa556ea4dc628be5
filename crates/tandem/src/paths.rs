//! Where a user's configuration, state and cache are: the XDG directories, and Application Support on macOS.

use std::env;
use std::path::PathBuf;

/// `$XDG_CONFIG_HOME/tandem`, else `~/.config/tandem`.
pub fn config_dir() -> Option<PathBuf> {
    user_dir("XDG_CONFIG_HOME", ".config")
}

/// `$XDG_STATE_HOME/tandem`, else `~/.local/state/tandem`.
pub fn state_dir() -> Option<PathBuf> {
    user_dir("XDG_STATE_HOME", ".local/state")
}

/// The directory for what can be had again: `$TANDEM_CACHE`, else `$XDG_CACHE_HOME/tandem`, else `~/.cache/tandem`.
pub fn cache_dir() -> Option<PathBuf> {
    match env::var_os("TANDEM_CACHE").filter(|value| !value.is_empty()) {
        Some(own) => std::path::absolute(own).ok(),
        None => directory("XDG_CACHE_HOME", if cfg!(target_os = "macos") { "Library/Caches" } else { ".cache" }),
    }
}

fn user_dir(variable: &str, in_home: &str) -> Option<PathBuf> {
    directory(variable, if cfg!(target_os = "macos") { "Library/Application Support" } else { in_home })
}

fn directory(variable: &str, in_home: &str) -> Option<PathBuf> {
    // The XDG specification has relative paths ignored.
    let given = env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = given.or_else(|| Some(env::home_dir()?).filter(|home| home.is_absolute()).map(|home| home.join(in_home)))?;
    Some(base.join("tandem"))
}
