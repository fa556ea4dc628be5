//! Devices: which can be used here, and the threads of the processor.

mod cuda;

use std::num::NonZeroUsize;
use std::sync::Arc;

use rayon::{ThreadPool, ThreadPoolBuilder};
use tandem_core::{BackendKind, Device, DeviceReport, Error, Remedies, Remedy, Result};

/// Every device that the engine knows, each tried.
pub(crate) fn reports() -> Vec<DeviceReport> {
    let cpu = (Device::Cpu, cpu_description());
    let gpus = (0..cuda::n_devices().max(1)).map(|index| (Device::Cuda(index), cuda::description(index)));
    std::iter::once(cpu)
        .chain(gpus)
        .map(|(device, description)| match open(device) {
            Ok(_) => DeviceReport::usable(device, description),
            Err(error) => DeviceReport::unusable(device, description, error),
        })
        .collect()
}

/// `device` as candle has it, after it has computed something.
pub(crate) fn open(device: Device) -> Result<candle_core::Device> {
    match device {
        Device::Cpu => Ok(candle_core::Device::Cpu),
        Device::Cuda(index) => cuda::open(index),
        Device::CoreMl => Err(unavailable(
            device,
            "candle has no CoreML",
            [Remedy::UseBackend(BackendKind::Onnx), Remedy::UseDevice(Device::Cpu)],
        )),
        other => Err(unavailable(other, "this backend has no such device", Remedy::UseDevice(Device::Cpu))),
    }
}

/// The threads that a model computes with: as many as asked for, or as the process may use by affinity and control group.
///
/// They are the model's own: candle's pools take their number from `/proc/cpuinfo`, which knows neither. Idle ones look for work a moment
/// and then sleep, so there is no option to spin.
pub(crate) fn threads(count: Option<NonZeroUsize>) -> Result<Arc<ThreadPool>> {
    let n = count.or_else(|| std::thread::available_parallelism().ok()).map_or(1, usize::from);
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

fn unavailable(device: Device, reason: impl Into<String>, hint: impl Into<Remedies>) -> Error {
    Error::DeviceUnavailable { backend: BackendKind::Candle, device, reason: reason.into(), hint: hint.into() }
}
