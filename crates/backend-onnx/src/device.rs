//! Devices as execution providers: which are usable here, and how a session is bound to exactly one.

use ort::environment::Environment;
use ort::session::Session;
use ort::session::builder::{AutoDevicePolicy, SessionBuilder};
use tandem_core::backend::{CoreMlOptions, LoadOptions};
use tandem_core::{BackendKind, Device, DeviceReport, Error, Result};

use crate::error::Doing;

/// The engine's name for the provider of `device`.
pub(crate) fn provider_name(device: Device) -> &'static str {
    match device {
        Device::Cuda(_) => "CUDAExecutionProvider",
        Device::CoreMl => "CoreMLExecutionProvider",
        _ => "CPUExecutionProvider",
    }
}

/// A builder of sessions that run on `options.device`, or the reason why it is not usable.
pub(crate) fn session_builder(environment: &Environment, options: &LoadOptions) -> Result<SessionBuilder> {
    const DOING: &str = "to prepare a session";
    // Without a policy the engine may register CoreML by itself and call it a CPU session.
    let builder = Session::builder(environment).doing(DOING)?.with_auto_device(AutoDevicePolicy::PreferCPU).doing(DOING)?;
    match options.device {
        Device::Cpu => Ok(builder),
        Device::Cuda(index) => with_cuda(builder, index),
        Device::CoreMl => with_coreml(builder, &options.coreml),
        other => Err(unavailable(other, "this backend does not know the device".into())),
    }
}

/// Every device that the engine knows, each tried by creating a builder for it.
pub(crate) fn reports(environment: &Environment) -> Vec<DeviceReport> {
    let cpu = DeviceReport { device: Device::Cpu, description: cpu_description(), unusable: None, hint: None };
    let accelerators = [(Device::Cuda(0), "NVIDIA GPU through CUDA"), (Device::CoreMl, "Apple CoreML")];
    let tried = accelerators.into_iter().map(|(device, description)| {
        let options = LoadOptions { device, ..LoadOptions::default() };
        let error = session_builder(environment, &options).err();
        DeviceReport {
            device,
            description: description.into(),
            hint: error.as_ref().and_then(Error::hint),
            unusable: error.map(|error| match error {
                Error::DeviceUnavailable { reason, .. } => reason,
                other => other.to_string(),
            }),
        }
    });
    std::iter::once(cpu).chain(tried).collect()
}

#[cfg(feature = "cuda")]
fn with_cuda(builder: SessionBuilder, index: u32) -> Result<SessionBuilder> {
    let device = Device::Cuda(index);
    let index = i32::try_from(index).map_err(|_| unavailable(device, "the index is too large".into()))?;
    let provider = ort::ep::CUDA::default().with_device_id(index).build().error_on_failure();
    builder.with_execution_providers([provider]).map_err(|error| unavailable(device, error.message().into()))
}

#[cfg(not(feature = "cuda"))]
fn with_cuda(_: SessionBuilder, index: u32) -> Result<SessionBuilder> {
    Err(unavailable(Device::Cuda(index), "this build does not include CUDA".into()))
}

#[cfg(feature = "coreml")]
fn with_coreml(builder: SessionBuilder, options: &CoreMlOptions) -> Result<SessionBuilder> {
    use ort::ep::coreml::{ComputeUnits as Units, CoreML, ModelFormat};
    use tandem_core::backend::ComputeUnits;

    let units = match options.compute_units {
        ComputeUnits::All => Units::All,
        ComputeUnits::CpuAndNeuralEngine => Units::CPUAndNeuralEngine,
        ComputeUnits::CpuAndGpu => Units::CPUAndGPU,
        ComputeUnits::CpuOnly => Units::CPUOnly,
    };
    let format = if options.neural_network_format { ModelFormat::NeuralNetwork } else { ModelFormat::MLProgram };
    let mut provider = CoreML::default()
        .with_compute_units(units)
        .with_model_format(format)
        .with_static_input_shapes(options.static_shapes)
        .with_subgraphs(options.subgraphs);
    if let Some(directory) = &options.cache_dir {
        provider = provider.with_model_cache_dir(directory.display());
    }
    builder
        .with_execution_providers([provider.build().error_on_failure()])
        .map_err(|error| unavailable(Device::CoreMl, error.message().into()))
}

#[cfg(not(feature = "coreml"))]
fn with_coreml(_: SessionBuilder, _: &CoreMlOptions) -> Result<SessionBuilder> {
    Err(unavailable(Device::CoreMl, "this build does not include CoreML".into()))
}

fn cpu_description() -> String {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{} processor, {threads} threads", std::env::consts::ARCH)
}

fn unavailable(device: Device, reason: String) -> Error {
    let hint = match device {
        Device::Cuda(_) if !cfg!(feature = "cuda") => "build with `--features cuda`, or use `--device cpu`",
        Device::CoreMl if !cfg!(feature = "coreml") && cfg!(target_os = "macos") => {
            "build with `--features coreml`, or use `--device cpu`"
        }
        Device::CoreMl => "CoreML exists on macOS only: use `--device cpu`",
        _ => "give `--ort-library` a library with this provider (the `onnxruntime-gpu` package has CUDA), or use `--device cpu`",
    };
    Error::DeviceUnavailable { backend: BackendKind::Onnx, device, reason, hint: hint.into() }
}
