//! Devices as execution providers: which are usable here, and how a session is bound to exactly one.

use ort::environment::Environment;
use ort::session::Session;
use ort::session::builder::{AutoDevicePolicy, SessionBuilder};
use tandem_core::backend::{CoreMlOptions, LoadOptions};
use tandem_core::{BackendKind, Device, DeviceReport, Error, Remedy, Result};

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
        Device::CoreMl => with_coreml(builder, &options.onnx.coreml),
        other => Err(unavailable(other, "this backend does not know the device".into())),
    }
}

/// Every device that the engine knows, each tried by creating a builder for it.
pub(crate) fn reports(environment: &Environment) -> Vec<DeviceReport> {
    let cpu = DeviceReport::usable(Device::Cpu, cpu_description());
    let accelerators = [(Device::Cuda(0), "NVIDIA GPU through CUDA"), (Device::CoreMl, "Apple CoreML")];
    let tried = accelerators.into_iter().map(|(device, description)| {
        let options = LoadOptions::new().with_device(device);
        match session_builder(environment, &options) {
            Ok(_) => DeviceReport::usable(device, description),
            Err(error) => DeviceReport::unusable(device, description, error),
        }
    });
    std::iter::once(cpu).chain(tried).collect()
}

#[cfg(feature = "cuda")]
fn with_cuda(builder: SessionBuilder, index: u32) -> Result<SessionBuilder> {
    let device = Device::Cuda(index);
    let index = i32::try_from(index).map_err(|_| unavailable(device, "the index is too large".into()))?;
    // The engine would compute f32 in TF32, which keeps 10 bits of a factor.
    let provider = ort::ep::CUDA::default().with_device_id(index).with_tf32(false).build().error_on_failure();
    builder.with_execution_providers([provider]).map_err(|error| unavailable(device, error.message().into()))
}

#[cfg(not(feature = "cuda"))]
fn with_cuda(_: SessionBuilder, index: u32) -> Result<SessionBuilder> {
    Err(unavailable(Device::Cuda(index), "this build does not include CUDA".into()))
}

#[cfg(feature = "coreml")]
fn with_coreml(builder: SessionBuilder, options: &CoreMlOptions) -> Result<SessionBuilder> {
    use ort::ep::coreml::{ComputeUnits as Units, CoreML, ModelFormat};
    use tandem_core::backend::{ComputeUnits, CoreMlFormat};

    let units = match options.compute_units {
        ComputeUnits::All => Units::All,
        ComputeUnits::CpuAndNeuralEngine => Units::CPUAndNeuralEngine,
        ComputeUnits::CpuAndGpu => Units::CPUAndGPU,
        ComputeUnits::CpuOnly => Units::CPUOnly,
    };
    let format = match options.format {
        CoreMlFormat::MlProgram => ModelFormat::MLProgram,
        CoreMlFormat::NeuralNetwork => ModelFormat::NeuralNetwork,
    };
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
    let build = match device {
        Device::Cuda(_) if !cfg!(feature = "cuda") => Some(Remedy::EnableFeature("cuda".into())),
        Device::CoreMl if cfg!(target_os = "macos") => {
            (!cfg!(feature = "coreml")).then_some(Remedy::EnableFeature("coreml".into()))
        }
        Device::CoreMl => None,
        _ => Some("use a library with this provider (the `onnxruntime-gpu` package has CUDA)".into()),
    };
    let hint = build.into_iter().chain([Remedy::UseDevice(Device::Cpu)]).collect();
    Error::DeviceUnavailable { backend: BackendKind::Onnx, device, reason, hint }
}
