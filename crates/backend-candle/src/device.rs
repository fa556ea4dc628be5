//! Devices: which are usable here, and the thread pool of the processor.

mod cuda;

use std::num::NonZeroUsize;
use std::sync::Arc;

use tandem_core::{BackendKind, Device, DeviceReport, Error, Remedies, Remedy, Result};
use tandem_kernels::{Threads, check_instruction_set, instruction_set};

/// All devices of the engine, each tried.
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

/// Opens `device` in candle, after a test that it computes.
pub(crate) fn open(device: Device) -> Result<candle_core::Device> {
    match device {
        Device::Cpu => check_instruction_set().map(|()| candle_core::Device::Cpu),
        Device::Cuda(index) => cuda::open(index),
        Device::CoreMl => Err(unavailable(
            device,
            "candle does not support CoreML",
            [Remedy::UseBackend(BackendKind::Onnx), Remedy::UseDevice(Device::Cpu)],
        )),
        other => Err(unavailable(other, "this backend does not support it", Remedy::UseDevice(Device::Cpu))),
    }
}

/// The thread pool of a model: the requested number of threads, or as many as affinity and control group allow.
///
/// Each model has its own, because candle's pools take their size from `/proc/cpuinfo`, which respects neither. Between runs they sleep, so there
/// is no option to spin.
pub(crate) fn threads(count: Option<NonZeroUsize>) -> Result<Arc<Threads>> {
    let n = n_threads(count);
    let threads =
        Threads::new(n).map_err(|source| Error::engine(BackendKind::Candle, &format!("to start {n} threads"), source))?;
    Ok(Arc::new(threads))
}

/// The requested number of threads, or what this process may use.
pub(crate) fn n_threads(count: Option<NonZeroUsize>) -> usize {
    count.or_else(|| std::thread::available_parallelism().ok()).map_or(1, usize::from)
}

fn cpu_description() -> String {
    let threads = n_threads(None);
    format!("{} processor, {threads} threads, kernels for {}", std::env::consts::ARCH, instruction_set())
}

fn unavailable(device: Device, reason: impl Into<String>, hint: impl Into<Remedies>) -> Error {
    Error::DeviceUnavailable { backend: BackendKind::Candle, device, reason: reason.into(), hint: hint.into() }
}
