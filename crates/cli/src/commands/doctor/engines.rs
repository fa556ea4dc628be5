//! Engines and devices: each that claims to work has to compute something.

use std::path::Path;

use tandem::BackendKind;
use tandem::backends::DeviceReport;

use super::{Check, State};

const AREA: &str = "engines";

/// Every backend and device.
pub(super) fn checks(library: Option<&Path>) -> Vec<Check> {
    let mut checks = Vec::new();
    for kind in tandem::backends::KNOWN_BACKENDS {
        let backend = match tandem::backends::backend(Some(kind), library.map(Path::to_owned)) {
            Ok(backend) => backend,
            Err(error) => {
                let check = Check::new(AREA, kind.to_string(), State::Absent, "is not part of this build");
                checks.push(Check { remedy: error.hint().as_ref().map(crate::words::sentence), ..check });
                continue;
            }
        };
        let found = (kind == BackendKind::Onnx).then(|| tandem::backends::ort_library(library));
        if let Some(Err(error)) = found {
            checks.push(Check::bad(AREA, "onnx library", error.into()));
            continue;
        }
        let devices: Vec<Check> = backend.devices().into_iter().map(|device| device_check(kind, device, library)).collect();
        // Its version is known once it runs.
        checks.extend(found.and_then(Result::ok).map(|path| library_check(&path, library)));
        checks.extend(devices);
    }
    checks
}

/// What is known not to work, and the way that does.
pub(super) fn not_supported() -> [Check; 2] {
    const AREA: &str = "not supported";
    [
        Check::new(
            AREA,
            "candle on Metal",
            State::Absent,
            "its attention gives wrong text without an error (candle issue 3388), so it is not built in",
        )
        .with_remedy("on a Mac, use `--backend onnx --device coreml`, or `--device cpu`"),
        Check::new(
            AREA,
            "ANEMLL `.mlpackage`",
            State::Absent,
            "compiled for one context and one kind of machine, with nothing that another engine could be held to",
        )
        .with_remedy("use the checkpoint that it was made from, with `--device coreml` on a Mac"),
    ]
}

fn library_check(path: &Path, explicit: Option<&Path>) -> Check {
    let by = match explicit {
        Some(_) => "as `--ort-library` or the configuration says",
        None if std::env::var_os("ORT_DYLIB_PATH").is_some_and(|value| !value.is_empty()) => "as `ORT_DYLIB_PATH` says",
        None if tandem::paths::cache_dir().is_some_and(|cache| path.starts_with(cache)) => {
            "in the cache, where `tandem setup` puts it"
        }
        None => "beside the program",
    };
    match tandem::backends::ort_version() {
        Some(version) => Check::good(AREA, "onnx library", format!("ONNX Runtime {version}, {by}: {}", path.display())),
        None => Check::new(AREA, "onnx library", State::Bad, format!("does not start, {by}: {}", path.display()))
            .with_remedy("`tandem setup` obtains the right one"),
    }
}

/// A device that is said to be usable has to prove it. An unusable one is not a fault of the machine, except for the processor.
fn device_check(kind: BackendKind, report: DeviceReport, library: Option<&Path>) -> Check {
    let name = format!("{kind} on {}", report.device);
    if let Some(reason) = report.unusable {
        let state = if report.device == tandem::Device::Cpu { State::Bad } else { State::Absent };
        return Check { remedy: report.hint.as_ref().map(crate::words::sentence), ..Check::new(AREA, name, state, reason) };
    }
    match tandem::backends::check_device(kind, library, report.device) {
        Ok(provider) => {
            let what = if kind == BackendKind::Onnx { "a graph of one node ran" } else { "the built-in model ran" };
            Check::good(AREA, name, format!("{what} on {provider}"))
        }
        Err(error) => Check::bad(AREA, name, error.into()),
    }
}
