//! Checks that a device computes: runs a graph of one node on it. That a provider is in the library says little.

use std::path::Path;
use std::time::{Duration, Instant};

use ort::value::Tensor;
use tandem_core::backend::LoadOptions;
use tandem_core::{BackendKind, Device, Error, Remedy, Result};
use tandem_onnx_graph::smoke_test_graph;

use crate::device::{provider_name, session_builder};
use crate::error::Doing;
use crate::{library, placement};

/// `[[1, 2], [3, 4]]`, and its square.
const MATRIX: [f32; 4] = [1.0, 2.0, 3.0, 4.0];
const SQUARE: [f32; 4] = [7.0, 10.0, 15.0, 22.0];

/// What ran on a device when it was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceCheck {
    /// The provider that the engine gave the node to.
    pub provider: String,
    /// How long it took to create the session and run it.
    pub time: Duration,
}

/// Runs a graph of one node on `device` with the library that `explicit` names, or the one that is found.
///
/// # Errors
/// As loading a model; [`Error::DeviceUnavailable`] also when the node was run elsewhere or its result is wrong.
pub fn check_device(explicit: Option<&Path>, device: Device) -> Result<DeviceCheck> {
    const DOING: &str = "to run a graph of one node";
    let started = Instant::now();
    let environment = library::environment(explicit)?;
    let options = LoadOptions::new().with_device(device);
    let mut builder = session_builder(&environment, &options)?.with_config_entry(placement::RECORD, "1").doing(DOING)?;
    let mut session = builder.commit_from_memory(&smoke_test_graph()).doing(DOING)?;
    let placed = placement::read(&session).doing(DOING)?;
    let provider = placed.first().map(|placed| placed.provider.clone()).unwrap_or_default();
    if provider != provider_name(device) {
        return Err(unavailable(device, format!("the node was run by `{provider}`")));
    }
    let matrix = Tensor::from_array(([2_usize, 2], MATRIX.to_vec())).doing(DOING)?;
    let outputs = session.run(ort::inputs!["x" => matrix]).doing(DOING)?;
    let (_, square) = outputs["y"].try_extract_tensor::<f32>().doing(DOING)?;
    if square != SQUARE {
        return Err(unavailable(device, format!("it computed {square:?} instead of {SQUARE:?}")));
    }
    Ok(DeviceCheck { provider, time: started.elapsed() })
}

fn unavailable(device: Device, reason: String) -> Error {
    let hint = [Remedy::UseDevice(Device::Cpu), Remedy::Report].into();
    Error::DeviceUnavailable { backend: BackendKind::Onnx, device, reason, hint }
}
