//! `tandem setup`: obtains ONNX Runtime's library through pip, or from a wheel that is already on disk.
//!
//! The library is one member of one pinned wheel, verified by SHA-256 before it is moved into place in the user's cache. The wheel comes
//! from the Python package index because pip is on most machines, knows their mirrors and proxies, and the wheel is the build that most
//! people run. Concurrent set-ups share one download; what a killed one leaves behind is removed by the next.

mod download;
mod install_dir;
mod pins;
#[cfg(test)]
mod tests;
mod wheel;

use std::fmt;
use std::path::{Path, PathBuf};

use tandem_core::{Error, Result};

use self::install_dir::InstallDir;
use self::pins::Pin;
use crate::library::{self, VERSION};

/// Options of a set-up.
#[derive(Clone, Debug, Default)]
pub struct SetupOptions {
    /// A wheel to take the library from, instead of downloading one.
    pub wheel: Option<PathBuf>,
    /// The cache to install it in, instead of [`library::cache_dir`].
    pub cache: Option<PathBuf>,
    /// Obtain it even if it is already installed.
    pub force: bool,
}

/// A step of a set-up; it displays as one line for people.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum SetupEvent<'a> {
    /// Another process is obtaining the same library.
    Waiting,
    /// A file at the library's path is not the pinned library and will be replaced.
    Replacing {
        /// The file.
        library: &'a Path,
        /// Its SHA-256.
        found: &'a str,
    },
    /// pip starts.
    Downloading {
        /// The command.
        command: &'a str,
        /// The size of the wheel in bytes.
        bytes: u64,
    },
    /// A line of pip's output.
    Client {
        /// The line, without its line end.
        line: &'a str,
    },
    /// The wheel is being verified.
    Verifying {
        /// The wheel.
        wheel: &'a Path,
    },
    /// The library was installed.
    Installed {
        /// The library.
        library: &'a Path,
    },
}

impl fmt::Display for SetupEvent<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Waiting => write!(f, "waiting for another set-up to finish"),
            Self::Replacing { library, found } => {
                write!(f, "replacing `{}`, which is not the pinned library (SHA-256 {found})", library.display())
            }
            Self::Downloading { command, bytes } => write!(f, "downloading {} MB: {command}", bytes.div_ceil(1_000_000)),
            Self::Client { line } => write!(f, "{line}"),
            Self::Verifying { wheel } => write!(f, "verifying `{}`", wheel.display()),
            Self::Installed { library } => write!(f, "installed `{}`", library.display()),
        }
    }
}

/// The result of a set-up.
#[derive(Clone, Debug)]
pub struct SetupReport {
    /// The library, absolute.
    pub library: PathBuf,
    /// The release of ONNX Runtime.
    pub version: &'static str,
    /// Whether the right library was installed already, and nothing was done.
    pub already_there: bool,
}

/// Installs ONNX Runtime's library for this user, and loads it once to see that this machine can.
///
/// pip runs with the process's environment and the user's configuration; `progress` is called with every step. If the pinned library is
/// installed already, nothing is written and nothing is run.
///
/// # Errors
/// [`Error::Unsupported`] on a system without a pinned library. [`Error::EngineLibrary`] when pip is missing or fails, when a file is not
/// the pinned one, when the cache cannot be written, and when the library does not load on this machine; the hint says how to install
/// it without a network.
pub fn run(options: &SetupOptions, progress: &mut dyn FnMut(SetupEvent<'_>)) -> Result<SetupReport> {
    let recipe = Recipe { pin: pins::pin_for(&library::target())?, clients: download::known_clients() };
    let report = obtain(options, &recipe, progress)?;
    library::load(&report.library).map_err(|error| match error {
        Error::EngineLibrary { problem, source, .. } => Error::EngineLibrary {
            problem,
            hint: "the library needs glibc 2.28 and libstdc++, or macOS 14; elsewhere, build ONNX Runtime and name its library with \
                   `ORT_DYLIB_PATH`"
                .into(),
            source,
        },
        other => other,
    })?;
    Ok(report)
}

/// What to obtain, and the pip commands to try.
struct Recipe<'a> {
    pin: &'a Pin,
    clients: Vec<download::Client>,
}

fn obtain(options: &SetupOptions, recipe: &Recipe<'_>, progress: &mut dyn FnMut(SetupEvent<'_>)) -> Result<SetupReport> {
    let pin = recipe.pin;
    let cache = options.cache.clone().map_or_else(library::cache_dir, |cache| library::absolute(&cache))?;
    let path = library::library_in_cache(&cache);
    let report = |already_there| SetupReport { library: path.clone(), version: VERSION, already_there };
    // Before the lock is taken, so that a read-only cache works too.
    if !options.force && install_dir::sha256_at(&path)?.as_deref() == Some(pin.member_sha256) {
        return Ok(report(true));
    }

    let install_dir = InstallDir::lock(&path, progress)?;
    let found = install_dir::sha256_at(&path)?;
    match found.as_deref() {
        Some(found) if found == pin.member_sha256 && !options.force => return Ok(report(true)),
        Some(found) if found != pin.member_sha256 => progress(SetupEvent::Replacing { library: &path, found }),
        _ => {}
    }
    let work = install_dir.work_dir()?;
    let wheel = match &options.wheel {
        Some(wheel) => {
            progress(SetupEvent::Verifying { wheel });
            wheel.clone()
        }
        None => {
            let wheel = download::download(pin, &recipe.clients, work.path(), progress)?;
            progress(SetupEvent::Verifying { wheel: &wheel });
            wheel::check(&wheel, pin)?;
            wheel
        }
    };
    let file = wheel::take_library(&wheel, pin, work.path())?;
    // The library comes last, so that it is never there without its licence.
    for notice in pins::NOTICES {
        if let Some(file) = wheel::take_notice(&wheel, pin, notice, work.path())? {
            install_dir.put(file, &path.with_file_name(notice))?;
        }
    }
    install_dir.put(file, &path)?;
    progress(SetupEvent::Installed { library: &path });
    Ok(report(false))
}
