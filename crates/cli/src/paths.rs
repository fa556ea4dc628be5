//! Where the user keeps configuration and state: the XDG directories, and Application Support on macOS.

use std::env;
use std::path::PathBuf;

/// `$XDG_CONFIG_HOME/tandem`, else `~/.config/tandem`.
pub(crate) fn config_dir() -> Option<PathBuf> {
    user_dir("XDG_CONFIG_HOME", ".config")
}

/// `$XDG_STATE_HOME/tandem`, else `~/.local/state/tandem`.
pub(crate) fn state_dir() -> Option<PathBuf> {
    user_dir("XDG_STATE_HOME", ".local/state")
}

fn user_dir(variable: &str, in_home: &str) -> Option<PathBuf> {
    // The XDG specification has relative paths ignored.
    let given = env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    let in_home = if cfg!(target_os = "macos") { "Library/Application Support" } else { in_home };
    let base = given.or_else(|| Some(env::home_dir()?).filter(|home| home.is_absolute()).map(|home| home.join(in_home)))?;
    Some(base.join("tandem"))
}
