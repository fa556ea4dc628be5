//! Where a user's configuration, state and cache are: the XDG directories, and Application Support and Caches on macOS. None need exist.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;

/// `$XDG_CONFIG_HOME/tandem`, else `~/.config/tandem`.
pub fn config_dir() -> Option<PathBuf> {
    Surroundings::of_process().directory("XDG_CONFIG_HOME", ".config", "Library/Application Support")
}

/// `$XDG_STATE_HOME/tandem`, else `~/.local/state/tandem`.
pub fn state_dir() -> Option<PathBuf> {
    Surroundings::of_process().directory("XDG_STATE_HOME", ".local/state", "Library/Application Support")
}

/// The directory for what can be obtained or made again: `$TANDEM_CACHE`, else `$XDG_CACHE_HOME/tandem`, else `~/.cache/tandem` (macOS:
/// `~/Library/Caches/tandem`).
pub fn cache_dir() -> Option<PathBuf> {
    Surroundings::of_process().cache_dir()
}

struct Surroundings<F> {
    variable: F,
    home: Option<PathBuf>,
}

impl Surroundings<fn(&str) -> Option<OsString>> {
    fn of_process() -> Self {
        Self { variable: |name| env::var_os(name), home: env::home_dir() }
    }
}

impl<F: Fn(&str) -> Option<OsString>> Surroundings<F> {
    fn cache_dir(&self) -> Option<PathBuf> {
        match (self.variable)("TANDEM_CACHE").filter(|value| !value.is_empty()) {
            Some(own) => std::path::absolute(own).ok(),
            None => self.directory("XDG_CACHE_HOME", ".cache", "Library/Caches"),
        }
    }

    fn directory(&self, variable: &str, in_home: &str, on_macos: &str) -> Option<PathBuf> {
        // The XDG specification has relative paths ignored.
        let given = (self.variable)(variable).map(PathBuf::from).filter(|path| path.is_absolute());
        let in_home = if cfg!(target_os = "macos") { on_macos } else { in_home };
        let base = given.or_else(|| Some(self.home.as_ref().filter(|home| home.is_absolute())?.join(in_home)))?;
        Some(base.join("tandem"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(variables: &[(&str, &str)], home: Option<&str>, expected: Option<&str>) {
        let variable = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into());
        let found = Surroundings { variable, home: home.map(PathBuf::from) }.cache_dir();
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
        let here = env::current_dir().unwrap().join("here");
        check(&[("TANDEM_CACHE", "here")], None, here.to_str());
    }
}
