//! Devices: which can be used here, and the threads of the processor.

use std::sync::Arc;

use rayon::{ThreadPool, ThreadPoolBuilder};
use tandem_core::backend::ThreadOptions;
use tandem_core::{BackendKind, Device, DeviceReport, Error, Result};

/// Every device that the engine knows.
pub(crate) fn reports() -> Vec<DeviceReport> {
    [(Device::Cpu, cpu_description()), (Device::Cuda(0), "NVIDIA GPU through CUDA".into())]
        .into_iter()
        .map(|(device, description)| {
            let error = check(device).err();
            DeviceReport {
                device,
                description,
                hint: error.as_ref().and_then(Error::hint),
                unusable: error.map(|error| match error {
                    Error::DeviceUnavailable { reason, .. } => reason,
                    other => other.to_string(),
                }),
            }
        })
        .collect()
}

/// Whether `device` can be used.
pub(crate) fn check(device: Device) -> Result<()> {
    match device {
        Device::Cpu => Ok(()),
        Device::Cuda(_) => Err(unavailable(
            device,
            "this version of Tandem runs candle on the processor only",
            "use `--backend onnx` for CUDA, or `--device cpu`",
        )),
        Device::CoreMl => Err(unavailable(device, "candle has no CoreML", "use `--backend onnx` for CoreML, or `--device cpu`")),
        other => Err(unavailable(other, "this backend has no such device", "use `--device cpu`")),
    }
}

/// The threads that a model computes with: as many as asked for, or as the process may use by affinity and control group.
///
/// They are the model's own: candle's pools take their number from `/proc/cpuinfo`, which knows neither. Idle ones look for work a moment
/// and then sleep, whatever [`ThreadOptions::spin`] says.
pub(crate) fn threads(options: &ThreadOptions) -> Result<Arc<ThreadPool>> {
    let n = options.count.or_else(|| std::thread::available_parallelism().ok()).map_or(1, usize::from);
    let pool = ThreadPoolBuilder::new().num_threads(n).thread_name(|i| format!("candle-{i}")).build();
    pool.map(Arc::new).map_err(|source| Error::Engine {
        backend: BackendKind::Candle,
        doing: format!("to start {n} threads"),
        source: Box::new(source),
    })
}

fn cpu_description() -> String {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{} processor, {threads} threads", std::env::consts::ARCH)
}

fn unavailable(device: Device, reason: &str, hint: &str) -> Error {
    Error::DeviceUnavailable { backend: BackendKind::Candle, device, reason: reason.into(), hint: hint.into() }
}
