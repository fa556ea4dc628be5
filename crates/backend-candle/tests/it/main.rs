//! Integration tests of the backend. `bad_input` is a program of its own, since it counts the allocations of its process.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "a failed test is a panic")]

mod adapters;
mod batch;
mod cancel;
mod conformance;
mod embedders;
mod encoder_oracle;
mod gemma_phi;
mod gguf;
mod isa;
mod load;
mod oracle;
mod packed;
mod transformers;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde_json::Value;
use tandem_backend_candle::CandleBackend;
use tandem_core::files::ModelFiles;
use tandem_core::{Backend, LoadOptions, Model, Result};

/// The directory of the golden checkpoint `name`.
fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens").join(name)
}

fn load(directory: &Path, options: &LoadOptions) -> Result<Arc<dyn Model>> {
    CandleBackend::new().load(&ModelFiles::discover(directory, "model").unwrap(), options)
}

/// The golden checkpoint `name` with `change` made to its configuration, and only the weights that `keep` accepts.
fn edited(name: &str, change: impl Fn(&mut Value), keep: impl Fn(&str) -> bool) -> tempfile::TempDir {
    let (source, directory) = (golden(name), tempfile::tempdir().unwrap());
    let mut config: Value = serde_json::from_slice(&std::fs::read(source.join("config.json")).unwrap()).unwrap();
    change(&mut config);
    std::fs::write(directory.path().join("config.json"), config.to_string()).unwrap();
    let bytes = std::fs::read(source.join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let tensors = tensors.iter().map(|(name, view)| (name.to_owned(), view)).filter(|(name, _)| keep(name));
    safetensors::serialize_to_file(
        tensors.collect::<Vec<(String, TensorView<'_>)>>(),
        None,
        &directory.path().join("model.safetensors"),
    )
    .unwrap();
    directory
}
