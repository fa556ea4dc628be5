//! What goes wrong between here and the hub: what may be different the next time, and what will not.

use std::io;
use std::path::Path;
use std::time::Duration;

use tandem_core::error::Source;
use tandem_core::{Error, Remedies, Remedy, Result, disk};

/// A request that failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It may succeed when it is repeated.
    Passing {
        /// What went wrong.
        problem: String,
        /// When the server wants it repeated.
        wait: Option<Duration>,
        /// The transport's own error.
        source: Option<Source>,
    },
    /// It fails again.
    Lasting {
        /// What went wrong.
        problem: String,
        /// What to do.
        hint: Option<Remedies>,
        /// The status, when it was the server's word.
        status: Option<u16>,
    },
    /// This machine's own failure, such as a full disk.
    Local(Error),
    /// The caller ended it.
    Cancelled,
}

impl Failure {
    pub(crate) fn passing(problem: impl Into<String>) -> Self {
        Self::Passing { problem: problem.into(), wait: None, source: None }
    }

    pub(crate) fn lasting(problem: impl Into<String>, hint: impl Into<Remedies>) -> Self {
        Self::Lasting { problem: problem.into(), hint: Some(hint.into()), status: None }
    }

    /// The error of the work described by `doing`, such as "downloading `config.json`".
    pub(crate) fn during(self, doing: &str) -> Error {
        match self {
            Self::Passing { problem, source, .. } => Error::Hub {
                doing: doing.into(),
                problem,
                hint: Some("try again later: what was downloaded is kept, and the rest is asked for".into()),
                source,
            },
            Self::Lasting { problem, hint, .. } => Error::Hub { doing: doing.into(), problem, hint, source: None },
            Self::Local(error) => error,
            Self::Cancelled => Error::Cancelled,
        }
    }
}

/// Asks whether `needed` bytes fit where `directory` is or is to be.
pub(crate) fn check_space(directory: &Path, needed: u64) -> Result<()> {
    let hint = [Remedy::RemoveModels, "set `HF_HUB_CACHE` to a directory on another disk".into()];
    disk::check(directory, needed, &disk::free, hint)
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Local(error)
    }
}

/// A failure with a file or directory of the cache. `doing` is what was tried, such as `be read`.
pub(crate) fn cannot(doing: &str, path: &std::path::Path, error: io::Error) -> Error {
    let hint = match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            Some("make the cache writable, or set `HF_HUB_CACHE` to a directory that is".into())
        }
        _ => None,
    };
    Error::BadFile { file: path.display().to_string(), problem: format!("cannot {doing}"), hint, source: Some(error.into()) }
}
