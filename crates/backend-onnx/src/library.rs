//! ONNX Runtime's library: finding it, checking it, and the one environment of the process.
//!
//! The library is loaded at run time, not linked: the build needs neither C++ nor a download, and a machine's own build (for CUDA, say)
//! can replace ours through one variable. It is loaded from an absolute path only, with its telemetry switched off, after the file has been
//! read and checked ([`inspect`]), since loading a truncated library kills the process. `api-24` is the oldest interface with everything
//! that is used (the report of which node runs where), so releases from 1.24 on work; [`VERSION`] is the one that is tested.

mod cache;
mod inspect;
mod search;
mod version;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use ort::environment::Environment;
use ort::logging::LogLevel;
use tandem_core::{BackendKind, Error, Remedy, Result};

pub use self::cache::{cache_dir, library_file_name, library_in_cache, target};
pub use self::inspect::inspect;
use self::search::SearchPath;
pub(crate) use self::search::absolute;

/// The release of ONNX Runtime that [`setup`](crate::setup) obtains; any later one of the same major version works too.
pub const VERSION: &str = "1.31.1";

/// The variable that switches ONNX Runtime's telemetry off; it is read when the environment is created.
const TELEMETRY_SWITCH: &str = "ORT_DISABLE_TELEMETRY";

/// The variable that sets how much of ONNX Runtime's own log goes to stderr.
const LOG_LEVEL: &str = "TANDEM_ORT_LOG";

/// The process's environment, and the library that it came from. A failed start is not kept: an application may run the set-up and try
/// again in the same process.
static LOADED: Mutex<Option<(PathBuf, Environment)>> = Mutex::new(None);

/// The absolute path of the library to load: `explicit`, else `ORT_DYLIB_PATH`, else beside the executable (`./` and `./lib/`), else in
/// the cache, where [`setup`](crate::setup) installs it.
///
/// The first path with anything at it decides: an unusable file there is an error, never a reason to look further. Relative paths
/// are resolved against the working directory.
///
/// # Errors
/// [`Error::EngineLibrary`] lists every path when nothing was found, and says what is wrong with a file that is not an ONNX Runtime
/// library for this machine.
pub fn find(explicit: Option<&Path>) -> Result<PathBuf> {
    let path = SearchPath::of_process(explicit)?.first()?;
    inspect(&path)?;
    Ok(path)
}

/// The environment of this process; the first call loads the library, later ones return the same environment.
///
/// ONNX Runtime's telemetry is off: by the variable `ORT_DISABLE_TELEMETRY`, which the first call sets where there is one thread, and
/// which a program that starts threads before sets with [`switch_telemetry_off`]. A call that fails leaves nothing behind: the next one tries again.
///
/// # Errors
/// Those of [`find`], and [`Error::EngineLibrary`] when telemetry cannot be switched off any more, when the library does not load, is older than this build needs, or
/// when another one is already in use: a process has one ONNX Runtime.
pub fn environment(explicit: Option<&Path>) -> Result<Environment> {
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((path, environment)) = loaded.as_ref() {
        return reuse(path, environment, explicit);
    }
    let path = find(explicit)?;
    let environment = load(&path)?
        .with_telemetry(false)
        .with_logger(logger(log_threshold()?))
        .build()
        .map_err(|error| Error::Engine { backend: BackendKind::Onnx, doing: "to start".into(), source: error.into() })?;
    environment.set_log_level(log_threshold()?);
    *loaded = Some((path, environment.clone()));
    Ok(environment)
}

/// Loads the library at `path` without starting the engine.
///
/// # Errors
/// [`Error::EngineLibrary`] with the loader's own reason.
pub(crate) fn load(path: &Path) -> Result<ort::environment::EnvironmentBuilder> {
    require_telemetry_off()?;
    ort::init_from(path).map_err(|error| Error::EngineLibrary {
        problem: match &error {
            ort::LoadDynamicError::BadVersion { version_str, .. } => format!(
                "`{}` is ONNX Runtime {version_str}, and this build needs 1.{} or later",
                path.display(),
                ort::MINOR_VERSION
            ),
            _ => format!("`{}` could not be loaded", path.display()),
        },
        hint: Remedy::SetUpLibrary.into(),
        source: Some(error.into()),
    })
}

/// The version of ONNX Runtime that this process uses, such as `1.31.1`; `None` before [`environment`] has succeeded.
pub fn runtime_version() -> Option<String> {
    LOADED.lock().unwrap_or_else(PoisonError::into_inner).as_ref().and_then(|(path, _)| version::version(path))
}

fn reuse(path: &Path, environment: &Environment, explicit: Option<&Path>) -> Result<Environment> {
    let asked = explicit.map(absolute).transpose()?;
    match asked {
        Some(asked) if asked != path => Err(Error::EngineLibrary {
            problem: format!("`{}` cannot be used: this process already uses `{}`", asked.display(), path.display()),
            hint: "a process has one ONNX Runtime: name the same library each time".into(),
            source: None,
        }),
        _ => Ok(environment.clone()),
    }
}

/// Sets the variable by which ONNX Runtime's telemetry is switched off.
///
/// # Safety
/// No other thread may read or write the variables of the process meanwhile, in Rust or in C: call it first thing in `main`.
#[expect(unsafe_code, reason = "ONNX Runtime reads the switch from the process's own variables")]
pub unsafe fn switch_telemetry_off() {
    // SAFETY: the caller promises it.
    unsafe { std::env::set_var(TELEMETRY_SWITCH, "1") }
}

/// Sets it where that is sound and it is not set.
pub(crate) fn require_telemetry_off() -> Result<()> {
    if std::env::var_os(TELEMETRY_SWITCH).is_some_and(|value| value == "1") {
        return Ok(());
    }
    if is_only_thread() {
        #[expect(unsafe_code, reason = "ONNX Runtime reads the switch from the process's own variables")]
        // SAFETY: this is the only thread, or every access takes a lock.
        unsafe {
            switch_telemetry_off();
        }
        return Ok(());
    }
    Err(Error::EngineLibrary {
        problem: format!(
            "ONNX Runtime's telemetry is not switched off: `{TELEMETRY_SWITCH}` is not `1`, and other threads run already"
        ),
        hint: format!(
            "set `{TELEMETRY_SWITCH}=1` before the process starts, or call `tandem::backends::prepare_process` first thing in `main`"
        )
        .into(),
        source: None,
    })
}

/// Whether no other thread of this process can read its variables.
#[cfg(target_os = "linux")]
fn is_only_thread() -> bool {
    std::fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.take(2).count() == 1)
}

/// Apple's C library has a lock around every access to them, and Rust's standard library goes through it.
#[cfg(not(target_os = "linux"))]
fn is_only_thread() -> bool {
    cfg!(target_vendor = "apple")
}

/// The lowest level of the engine's log that is written. `fatal` by default: failures are returned as errors anyway, and some of what is
/// logged as an error is harmless, such as a thread that could not be pinned in a container.
fn log_threshold() -> Result<LogLevel> {
    let Some(value) = std::env::var_os(LOG_LEVEL).filter(|value| !value.is_empty()) else {
        return Ok(LogLevel::Fatal);
    };
    match value.to_str() {
        Some("verbose") => Ok(LogLevel::Verbose),
        Some("info") => Ok(LogLevel::Info),
        Some("warning") => Ok(LogLevel::Warning),
        Some("error") => Ok(LogLevel::Error),
        Some("fatal") => Ok(LogLevel::Fatal),
        _ => Err(Error::invalid_option(
            LOG_LEVEL,
            value.to_string_lossy(),
            "is not `verbose`, `info`, `warning`, `error` or `fatal`",
        )),
    }
}

fn logger(threshold: LogLevel) -> ort::logging::LoggerFunction {
    Arc::new(move |level, category, _id, location, message| {
        if level >= threshold {
            #[expect(clippy::print_stderr, reason = "the user requested the engine's log with `TANDEM_ORT_LOG`")]
            {
                eprintln!("onnxruntime {level:?} {category} {location}: {message}");
            }
        }
    })
}
