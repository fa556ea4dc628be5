//! The weights that an encoder needs, compared with a checkpoint before work begins.

use tandem_core::checkpoint::Checkpoint;
use tandem_core::{Error, Result};
use tandem_onnx_graph::{BuildOptions, EncoderSpec, needs};

use super::weight_type;
use crate::error::bad_graph;

/// Checks that `checkpoint` has the weights of `spec` with the shapes that the configuration file `config` implies, and in its layers no others. Beside the layers
/// published checkpoints have what encoding does not use: a pooler, heads, numbers of positions. Returns the bytes of the weights as stored,
/// and an upper bound on those of the graph.
///
/// # Errors
/// [`Error::BadField`] with the weight as the field.
pub(super) fn check(spec: &EncoderSpec, options: &BuildOptions, checkpoint: &Checkpoint, config: &str) -> Result<[u64; 2]> {
    let disagree = |weight: &str, problem: String| Error::BadField {
        file: checkpoint.file_of(weight).unwrap_or_default().into(),
        field: weight.into(),
        problem,
        hint: Some("config.json and the weights do not match: obtain both from the same source".into()),
    };
    let stored = weight_type(checkpoint.tensor(&spec.embedding.words.weight)?.dtype);
    let needs = needs(spec, options, stored).map_err(bad_graph)?;
    let mut stored_bytes = 0;
    for (name, shape) in &needs.weights {
        let stored = checkpoint.tensor(name)?;
        if stored.shape != shape {
            return Err(disagree(name, format!("has the shape {:?}, and `{config}` implies {shape:?}", stored.shape)));
        }
        stored_bytes += stored.bytes.len() as u64;
    }
    let known: std::collections::HashSet<&str> = needs.weights.iter().map(|(name, _)| name.as_str()).collect();
    let layers = layers_prefix(spec);
    let is_stray = |name: &&str| name.starts_with(layers) && !known.contains(name) && !name.ends_with("rotary_emb.inv_freq");
    match checkpoint.names().filter(is_stray).min() {
        Some(name) => Err(disagree(name, format!("is not part of the model that `{config}` describes"))),
        None => Ok([stored_bytes, needs.n_bytes]),
    }
}

/// What the names of the layers' weights begin with, up to the first layer's number.
fn layers_prefix(spec: &EncoderSpec) -> &str {
    let first = spec.layers.first().and_then(|layer| layer.down.weights.first()).map_or("", String::as_str);
    first.find(".0.").map_or(first, |number| &first[..=number])
}
