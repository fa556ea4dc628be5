//! Where the hub is, where its cache lies, and the token of the user: the variables of Python's `huggingface_hub`.
//!
//! <https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables>

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tandem_core::{Error, Result};

use crate::address::shown;
use crate::cache::read_short;

/// The largest file of a token that is read.
const MAX_TOKEN_FILE: u64 = 64 << 10;

const ENDPOINT: &str = "https://huggingface.co";

/// How to reach the hub, and where to keep what it gives.
#[derive(Clone)]
pub struct HubSettings {
    /// The hub's address, without a slash at its end. It may hold a password: [`shown_endpoint`](Self::shown_endpoint) does not.
    pub endpoint: String,
    /// The cache, shared with Python's `huggingface_hub`.
    pub cache: PathBuf,
    /// Who asks; `None` for what anyone may have.
    pub token: Option<Token>,
    /// Open no socket.
    pub offline: bool,
    /// How long the server may be silent.
    pub silence: Duration,
    /// The fewest bytes in a second that the server must send, on the average of [`throughput_window`](Self::throughput_window): with fewer the connection
    /// counts as broken.
    pub min_bytes_per_second: u64,
    /// How long the server may be slower than that.
    pub throughput_window: Duration,
    /// How long to wait before the first repetition; each further one waits twice as long.
    pub first_wait: Duration,
    /// The longest wait that a server may ask for.
    pub longest_wait: Duration,
    /// How often in a row a request may fail before it is given up.
    pub attempts: u32,
    /// How many files are downloaded at once.
    pub n_parallel: NonZeroUsize,
}

/// A secret that is written nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl HubSettings {
    /// Those of the environment: `HF_ENDPOINT`, `HF_HUB_CACHE`, `HF_HOME`, `HF_TOKEN`, `HF_TOKEN_PATH`, `HF_HUB_OFFLINE`,
    /// `HF_HUB_DOWNLOAD_TIMEOUT`.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] names a variable with a value that cannot be.
    pub fn from_env() -> Result<Self> {
        Self::from_variables(&|name| env::var_os(name), env::home_dir())
    }

    /// Those of `cache` at `endpoint`, with nothing of the environment.
    pub fn new(endpoint: impl Into<String>, cache: impl Into<PathBuf>) -> Self {
        Self {
            endpoint: endpoint.into(),
            cache: cache.into(),
            token: None,
            offline: false,
            silence: Duration::from_secs(30),
            min_bytes_per_second: 1 << 10,
            throughput_window: Duration::from_secs(60),
            first_wait: Duration::from_millis(500),
            longest_wait: Duration::from_secs(300),
            attempts: 6,
            n_parallel: NonZeroUsize::MIN.saturating_add(3),
        }
    }

    /// The hub's address for messages: without a password, and without a query.
    pub fn shown_endpoint(&self) -> String {
        shown(&self.endpoint)
    }

    fn from_variables(variable: &dyn Fn(&str) -> Option<OsString>, home: Option<PathBuf>) -> Result<Self> {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let text = |name: &str| set(name).map(|value| value.to_string_lossy().trim().to_owned());
        let is_on = |name: &str| text(name).is_some_and(|value| is_true(&value));
        let path = |name: &str| set(name).map(|value| with_home(PathBuf::from(value), home.as_deref()));

        let hub_home = path("HF_HOME").or_else(|| {
            let caches = path("XDG_CACHE_HOME").or_else(|| Some(home.as_ref()?.join(".cache")));
            caches.map(|caches| caches.join("huggingface"))
        });
        let cache =
            path("HF_HUB_CACHE").or_else(|| path("HUGGINGFACE_HUB_CACHE")).or_else(|| Some(hub_home.as_ref()?.join("hub")));
        let cache = cache.ok_or_else(|| Error::invalid_option("HF_HOME", "", "is not set, and neither is `HOME`"))?;
        let endpoint = text("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.into());
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        if !["https://", "http://"].iter().any(|scheme| endpoint.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty())) {
            return Err(Error::invalid_option("HF_ENDPOINT", shown(&endpoint), "is not an address that begins with `https://`"));
        }
        let token_file = path("HF_TOKEN_PATH").or_else(|| Some(hub_home?.join("token")));
        let mut settings = Self::new(endpoint, cache);
        settings.offline = is_on("HF_HUB_OFFLINE") || is_on("TRANSFORMERS_OFFLINE");
        settings.token = match text("HF_TOKEN").or_else(|| text("HUGGING_FACE_HUB_TOKEN")) {
            Some(token) => Some(Token::new(&token, "HF_TOKEN")?),
            None if is_on("HF_HUB_DISABLE_IMPLICIT_TOKEN") => None,
            None => token_file.map(|file| read_token(&file)).transpose()?.flatten(),
        };
        if let Some(seconds) = text("HF_HUB_DOWNLOAD_TIMEOUT") {
            let parsed = seconds.parse().ok().filter(|seconds| *seconds > 0);
            let bad = || Error::invalid_option("HF_HUB_DOWNLOAD_TIMEOUT", &seconds, "is not a number of seconds");
            settings.silence = Duration::from_secs(parsed.ok_or_else(bad)?);
        }
        Ok(settings)
    }
}

impl fmt::Debug for HubSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { endpoint, cache, token, offline, silence, min_bytes_per_second, throughput_window, .. } = self;
        let Self { first_wait, longest_wait, attempts, n_parallel, .. } = self;
        f.debug_struct("HubSettings")
            .field("endpoint", &shown(endpoint))
            .field("cache", cache)
            .field("token", token)
            .field("offline", offline)
            .field("silence", silence)
            .field("min_bytes_per_second", min_bytes_per_second)
            .field("throughput_window", throughput_window)
            .field("first_wait", first_wait)
            .field("longest_wait", longest_wait)
            .field("attempts", attempts)
            .field("n_parallel", n_parallel)
            .finish()
    }
}

impl Token {
    /// Takes `secret` as read from `place`.
    ///
    /// # Errors
    /// [`Error::InvalidOption`], without the secret in it, when it can be none.
    pub fn new(secret: &str, place: &str) -> Result<Self> {
        if secret.is_empty() || !secret.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Error::invalid_option(place, "…", "is not a token: it has characters that no token has"));
        }
        Ok(Self(secret.into()))
    }

    /// The value of the header `Authorization`.
    pub(crate) fn authorization(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// As `huggingface_hub` reads it.
fn is_true(value: &str) -> bool {
    ["1", "on", "yes", "true"].contains(&value.to_ascii_lowercase().as_str())
}

fn with_home(path: PathBuf, home: Option<&Path>) -> PathBuf {
    match (path.strip_prefix("~"), home) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path,
    }
}

/// The token that `hf auth login` wrote; none when there is no such file.
fn read_token(file: &Path) -> Result<Option<Token>> {
    let Ok(text) = read_short(file, MAX_TOKEN_FILE) else { return Ok(None) };
    let text = text.trim();
    if text.is_empty() { Ok(None) } else { Token::new(text, &file.display().to_string()).map(Some) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Result<HubSettings> {
        let variable = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into());
        HubSettings::from_variables(&variable, Some("/me".into()))
    }

    #[track_caller]
    fn check_cache(variables: &[(&str, &str)], expected: &str) {
        assert_eq!(settings(variables).unwrap().cache, Path::new(expected), "{variables:?}");
    }

    #[test]
    fn the_cache_is_that_of_python() {
        check_cache(&[], "/me/.cache/huggingface/hub");
        check_cache(&[("XDG_CACHE_HOME", "/caches")], "/caches/huggingface/hub");
        check_cache(&[("HF_HOME", "/hf"), ("XDG_CACHE_HOME", "/caches")], "/hf/hub");
        check_cache(&[("HF_HOME", "~/hf")], "/me/hf/hub");
        check_cache(&[("HF_HOME", "/hf"), ("HF_HUB_CACHE", "/cache")], "/cache");
        check_cache(&[("HUGGINGFACE_HUB_CACHE", "/older")], "/older");
    }

    #[test]
    fn the_hub_can_be_another_one_or_out_of_reach() {
        assert_eq!(settings(&[]).unwrap().endpoint, "https://huggingface.co");
        assert_eq!(settings(&[("HF_ENDPOINT", "http://mirror:8080/hf/")]).unwrap().endpoint, "http://mirror:8080/hf");
        for bad in ["mirror", "ftp://mirror", "https://"] {
            let message = settings(&[("HF_ENDPOINT", bad)]).unwrap_err().to_string();
            assert!(message.contains("`HF_ENDPOINT`"), "{message}");
        }
        for (value, expected) in [("1", true), ("ON", true), ("true", true), ("0", false), ("", false), ("no", false)] {
            assert_eq!(settings(&[("HF_HUB_OFFLINE", value)]).unwrap().offline, expected, "{value}");
        }
        assert_eq!(settings(&[("HF_HUB_DOWNLOAD_TIMEOUT", "7")]).unwrap().silence, Duration::from_secs(7));
        assert!(settings(&[("HF_HUB_DOWNLOAD_TIMEOUT", "soon")]).is_err());
    }

    #[test]
    fn a_token_is_found_and_never_shown() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path().to_str().unwrap();
        assert_eq!(settings(&[("HF_HOME", home)]).unwrap().token, None);
        std::fs::write(Path::new(home).join("token"), "hf_file\n").unwrap();
        let from_file = settings(&[("HF_HOME", home)]).unwrap();
        assert_eq!(from_file.token.as_ref().unwrap().authorization(), "Bearer hf_file");
        assert!(!format!("{from_file:?}").contains("hf_file"));
        let given = settings(&[("HF_HOME", home), ("HF_TOKEN", " hf_given ")]).unwrap();
        assert_eq!(given.token.unwrap().authorization(), "Bearer hf_given");
        assert_eq!(settings(&[("HF_HOME", home), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]).unwrap().token, None);
        let bad = settings(&[("HF_TOKEN", "hf_se cret")]).unwrap_err();
        assert!(!format!("{bad} {bad:?}").contains("cret"), "{bad:?}");
    }
}
