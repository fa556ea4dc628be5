//! `tandem setup`: obtains ONNX Runtime's library through the Python package client, or from a wheel that is there.
//!
//! One member of one pinned wheel, checked by SHA-256, is put into the user's cache under its final name only when it
//! is whole. Two set-ups at once make one download; one that was killed leaves files that the next one removes.

mod download;
mod pins;
mod place;
#[cfg(test)]
mod tests;
mod wheel;

use std::fmt;
use std::path::{Path, PathBuf};

use tandem_core::{Error, Result};

use self::pins::Pin;
use crate::library::{self, VERSION};

/// What a set-up is to do.
#[derive(Clone, Debug, Default)]
pub struct SetupOptions {
    /// A wheel to take the library from, instead of a download.
    pub wheel: Option<PathBuf>,
    /// The cache to put it into, instead of [`library::cache_dir`].
    pub cache: Option<PathBuf>,
    /// Obtain it even when it is there.
    pub force: bool,
}

/// A step of a set-up; it displays as one line for people.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum SetupEvent<'a> {
    /// Another process is setting up the same library.
    Waiting,
    /// A file is in the library's place that is not the pinned one.
    Replacing {
        /// The file.
        library: &'a Path,
        /// Its SHA-256.
        found: &'a str,
    },
    /// The package client starts.
    Downloading {
        /// The command.
        command: &'a str,
        /// The size of the wheel in bytes.
        bytes: u64,
    },
    /// A line that the package client wrote.
    Client {
        /// The line, without its end.
        line: &'a str,
    },
    /// The wheel is there and is checked.
    Checking {
        /// The wheel.
        wheel: &'a Path,
    },
    /// The library was put in its place.
    Placed {
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
            Self::Checking { wheel } => write!(f, "checking `{}`", wheel.display()),
            Self::Placed { library } => write!(f, "placed `{}`", library.display()),
        }
    }
}

/// What a set-up did.
#[derive(Clone, Debug)]
pub struct SetupReport {
    /// The library, absolute.
    pub library: PathBuf,
    /// The release of ONNX Runtime.
    pub version: &'static str,
    /// Whether the right library was there before, and nothing was done.
    pub already_there: bool,
}

/// Makes ONNX Runtime's library available to this user, and loads it once to see that this machine can.
///
/// It runs Python's package client with the process's variables and the user's configuration; `progress` is told of
/// every step. When the pinned library is there, nothing is written and no program is run.
///
/// # Errors
/// [`Error::Unsupported`] on a system without a pinned library. [`Error::EngineLibrary`] when there is no package
/// client, when it fails, when a file is not the pinned one, when the cache cannot be written, and when the library
/// does not load on this machine; the hint says how to do without a network.
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

/// What to obtain and which package clients to try.
struct Recipe<'a> {
    pin: &'a Pin,
    clients: Vec<download::Client>,
}

fn obtain(options: &SetupOptions, recipe: &Recipe<'_>, progress: &mut dyn FnMut(SetupEvent<'_>)) -> Result<SetupReport> {
    let pin = recipe.pin;
    let cache = options.cache.clone().map_or_else(library::cache_dir, |cache| library::absolute(&cache))?;
    let path = library::library_in_cache(&cache);
    let report = |already_there| SetupReport { library: path.clone(), version: VERSION, already_there };
    // Without the lock first, so that a cache which cannot be written serves as well.
    if !options.force && place::hash_in_place(&path)?.as_deref() == Some(pin.member_sha256) {
        return Ok(report(true));
    }

    let place = place::Place::lock(&path, progress)?;
    let found = place::hash_in_place(&path)?;
    match found.as_deref() {
        Some(found) if found == pin.member_sha256 && !options.force => return Ok(report(true)),
        Some(found) if found != pin.member_sha256 => progress(SetupEvent::Replacing { library: &path, found }),
        _ => {}
    }
    let work = place.work_dir()?;
    let wheel = match &options.wheel {
        Some(wheel) => {
            progress(SetupEvent::Checking { wheel });
            wheel.clone()
        }
        None => {
            let wheel = download::download(pin, &recipe.clients, work.path(), progress)?;
            progress(SetupEvent::Checking { wheel: &wheel });
            wheel::check(&wheel, pin)?;
            wheel
        }
    };
    let file = wheel::take_library(&wheel, pin, work.path())?;
    // The library comes last: where it is, its licence is too.
    for notice in pins::NOTICES {
        if let Some(file) = wheel::take_notice(&wheel, pin, notice, work.path())? {
            place.put(file, &path.with_file_name(notice))?;
        }
    }
    place.put(file, &path)?;
    progress(SetupEvent::Placed { library: &path });
    Ok(report(false))
}
