//! What the inputs and outputs of a decoder graph are for, read from the graph's own declaration.
//!
//! Three exporters are in use: onnxruntime-genai's builder (no `position_ids`), optimum (`position_ids`) and the graphs published
//! for transformers.js (`num_logits_to_keep`). All name the KV cache `past_key_values.N.key` and `present.N.key`, with the shape
//! `[batch, kv_heads, tokens, head_dim]`.

use std::ffi::CString;

use ort::session::Session;
use ort::value::{DynValue, Outlet, Tensor, TensorElementType, ValueType};
use tandem_core::config::ModelConfig;
use tandem_core::{Error, Result};

use crate::error::{Doing, not_a_decoder};

/// The input that says how many of the last positions get logits.
const LOGITS_TO_KEEP: &str = "num_logits_to_keep";

/// A decoder graph: the purpose of each input and output.
#[derive(Debug)]
pub(crate) struct DecoderGraph {
    /// Its name in messages.
    pub(crate) file: String,
    /// Token ids, `[batch, tokens]`.
    pub(crate) ids: Port,
    /// Ones for every token in the cache or in the run, `[batch, past + tokens]`.
    pub(crate) mask: Option<Port>,
    /// The position of each token of the run, `[batch, tokens]`.
    pub(crate) positions: Option<Port>,
    /// How many of the last positions get logits; 0 is all.
    pub(crate) logits_to_keep: Option<Port>,
    /// Keys and values of each layer.
    pub(crate) caches: Vec<CachePort>,
    /// Scores, `[batch, tokens or kept, vocab_size]`.
    pub(crate) logits: LogitsPort,
    /// Names of all inputs, in the order in which runs pass them.
    pub(crate) input_names: Vec<CString>,
    /// Names of the outputs that runs request: logits first, then each cache.
    pub(crate) output_names: Vec<CString>,
}

/// An input: its index in [`DecoderGraph::input_names`], and how a value for it is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Port {
    pub(crate) index: usize,
    pub(crate) dtype: TensorElementType,
    pub(crate) rank: usize,
}

/// One KV tensor: the past that is passed in and the present that is returned, `[batch, kv_heads, tokens, head_dim]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CachePort {
    pub(crate) input: usize,
    /// Index in [`DecoderGraph::output_names`].
    pub(crate) output: usize,
    pub(crate) dtype: TensorElementType,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
}

/// The logits as declared.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogitsPort {
    pub(crate) dtype: TensorElementType,
    pub(crate) vocab_size: usize,
    /// The graph returns the logits of the last position only.
    pub(crate) last_only: bool,
}

impl DecoderGraph {
    /// Reads the declaration of `session`, whose graph is `file`.
    ///
    /// Sizes that the graph leaves open, of the logits and of the heads, are those of `config`.
    pub(crate) fn read(session: &Session, file: &str, config: &ModelConfig) -> Result<Self> {
        let inputs = session.inputs();
        let outputs = session.outputs();
        let find = |name: &str| inputs.iter().position(|input| input.name() == name);
        let port = |name: &str| find(name).map(|index| Port::read(file, index, &inputs[index])).transpose();

        let ids = port("input_ids")?
            .ok_or_else(|| not_a_decoder(file, format!("it has no input `input_ids`, only {}", names(inputs))))?;
        let mask = port("attention_mask")?;
        let positions = port("position_ids")?;
        // Graphs built by Tandem have a default for it, which other programs leave as it is.
        let optional = session.overridable_initializers().into_iter().find(|value| value.name() == LOGITS_TO_KEEP);
        let logits_to_keep = match &optional {
            Some(value) => Some(Port::of(file, inputs.len(), value.name(), value.dtype())?),
            None => port(LOGITS_TO_KEEP)?,
        };
        let logits = LogitsPort::read(file, outputs, config.vocab_size)?;

        let known = [Some(ids), mask, positions, logits_to_keep];
        let mut caches = Vec::new();
        let mut output_names = vec![name_for_engine(file, "logits")?];
        for (index, input) in inputs.iter().enumerate() {
            if known.iter().flatten().any(|port| port.index == index) {
                continue;
            }
            let present = present_name(input.name(), outputs)
                .ok_or_else(|| not_a_decoder(file, format!("its input `{}` is unknown", input.name())))?;
            caches.push(CachePort::read(file, index, output_names.len(), input, config)?);
            output_names.push(name_for_engine(file, present)?);
        }
        if caches.is_empty() {
            return Err(not_a_decoder(file, format!("it has no KV cache among its inputs {}", names(inputs))));
        }
        let named = inputs.iter().map(Outlet::name).chain(optional.iter().map(|value| value.name()));
        let input_names = named.map(|name| name_for_engine(file, name)).collect::<Result<_>>()?;
        let file = file.to_owned();
        Ok(Self { file, ids, mask, positions, logits_to_keep, caches, logits, input_names, output_names })
    }

    /// Bytes of KV cache for one token.
    pub(crate) fn kv_bytes_per_token(&self) -> usize {
        self.caches.iter().map(|c| c.kv_heads * c.head_dim * c.dtype.byte_size(1).unwrap_or(0)).sum()
    }

    /// Whether the graph can return the logits of every position.
    pub(crate) fn has_all_logits(&self) -> bool {
        self.logits_to_keep.is_some() || !self.logits.last_only
    }
}

impl Port {
    fn read(file: &str, index: usize, outlet: &Outlet) -> Result<Self> {
        Self::of(file, index, outlet.name(), outlet.dtype())
    }

    fn of(file: &str, index: usize, name: &str, value: &ValueType) -> Result<Self> {
        let (dtype, shape) = tensor_type(file, name, value)?;
        if !matches!(dtype, TensorElementType::Int64 | TensorElementType::Int32) {
            return Err(Error::bad_field(file, name, format!("the input is `{dtype}`, and must be int64 or int32")));
        }
        Ok(Self { index, dtype, rank: shape.len() })
    }

    /// A tensor of `n` integers in the dtype and rank that the graph declares: `[n]`, `[1, n]`, or a scalar.
    pub(crate) fn integers(&self, n: usize, values: impl Iterator<Item = i64>) -> Result<DynValue> {
        let shape = match self.rank {
            0 => vec![],
            rank => [vec![1; rank - 1], vec![n]].concat(),
        };
        let tensor = match self.dtype {
            TensorElementType::Int32 => {
                Tensor::from_array((shape, values.map(|v| v as i32).collect::<Vec<_>>())).map(Tensor::into_dyn)
            }
            _ => Tensor::from_array((shape, values.collect::<Vec<_>>())).map(Tensor::into_dyn),
        };
        tensor.doing("to make an input")
    }
}

impl CachePort {
    fn read(file: &str, input: usize, output: usize, outlet: &Outlet, config: &ModelConfig) -> Result<Self> {
        let (dtype, shape) = tensor_type(file, outlet.name(), outlet.dtype())?;
        if !matches!(dtype, TensorElementType::Float32 | TensorElementType::Float16) {
            return Err(Error::bad_field(file, outlet.name(), format!("the KV cache is `{dtype}`, and must be f32 or f16")));
        }
        let &[_, kv_heads, _, head_dim] = shape else {
            let problem = format!("the KV cache has the shape {shape:?}, and must have [batch, kv_heads, tokens, head_dim]");
            return Err(Error::bad_field(file, outlet.name(), problem));
        };
        let size = |declared: i64, configured: usize| usize::try_from(declared).ok().filter(|&n| n > 0).unwrap_or(configured);
        Ok(Self {
            input,
            output,
            dtype,
            kv_heads: size(kv_heads, config.n_kv_heads),
            head_dim: size(head_dim, config.head_dim()),
        })
    }
}

impl LogitsPort {
    fn read(file: &str, outputs: &[Outlet], vocab_size: usize) -> Result<Self> {
        let outlet = outputs
            .iter()
            .find(|output| output.name() == "logits")
            .ok_or_else(|| not_a_decoder(file, format!("it has no output `logits`, only {}", names(outputs))))?;
        let (dtype, shape) = tensor_type(file, outlet.name(), outlet.dtype())?;
        if !matches!(dtype, TensorElementType::Float32 | TensorElementType::Float16) {
            return Err(Error::bad_field(file, "logits", format!("the output is `{dtype}`, and must be f32 or f16")));
        }
        match shape[..] {
            [_, tokens, vocab] => {
                let declared = usize::try_from(vocab).ok().filter(|&v| v > 0);
                Ok(Self { dtype, vocab_size: declared.unwrap_or(vocab_size), last_only: tokens == 1 })
            }
            _ => {
                Err(Error::bad_field(file, "logits", format!("the shape is {shape:?}, and must be [batch, tokens, vocab_size]")))
            }
        }
    }
}

/// Checks that a run returned `value` with the expected shape, since a graph may compute other shapes than it declares.
///
/// # Errors
/// [`Error::BadField`] with the output `name`.
pub(crate) fn check_shape(file: &str, name: &str, value: &DynValue, expected: &[usize]) -> Result<()> {
    let (_, shape) = tensor_type(file, name, value.dtype())?;
    if shape.iter().map(|&dim| usize::try_from(dim).ok()).eq(expected.iter().map(|&dim| Some(dim))) {
        return Ok(());
    }
    Err(Error::bad_field(file, name, format!("a run returned the shape {shape:?}, and {expected:?} was expected")))
}

/// The output that continues the cache input `past`.
fn present_name<'o>(past: &str, outputs: &'o [Outlet]) -> Option<&'o str> {
    let suffix = past.strip_prefix("past_key_values").or_else(|| past.strip_prefix("past"))?;
    let candidates = [format!("present{suffix}"), format!("present_key_values{suffix}")];
    outputs.iter().map(Outlet::name).find(|name| candidates.iter().any(|candidate| candidate == name))
}

pub(crate) fn tensor_type<'v>(file: &str, name: &str, value: &'v ValueType) -> Result<(TensorElementType, &'v [i64])> {
    match value {
        ValueType::Tensor { ty, shape, .. } => Ok((*ty, shape)),
        other => Err(Error::bad_field(file, name, format!("it is `{other}`, not a tensor"))),
    }
}

fn name_for_engine(file: &str, name: &str) -> Result<CString> {
    CString::new(name)
        .map_err(|error| Error::bad_file(file, format!("the name `{}` contains a zero byte", name.escape_debug()), error))
}

fn names(outlets: &[Outlet]) -> String {
    const SHOWN: usize = 8;
    let mut text = outlets.iter().take(SHOWN).map(|o| format!("`{}`", o.name())).collect::<Vec<_>>().join(", ");
    if outlets.len() > SHOWN {
        text += &format!(" and {} more", outlets.len() - SHOWN);
    }
    if text.is_empty() { "none".into() } else { text }
}

#[cfg(test)]
mod tests {
    use tandem_core::conformance::{describe, with_fixture};

    use super::*;
    use crate::library;

    #[test]
    fn unexpected_shape_is_an_error_with_both_shapes() {
        with_fixture(
            || library::environment(None).map_err(|error| describe(&error)),
            |_| {
                let value = Tensor::from_array(([1_usize, 2, 3], vec![0_f32; 6])).unwrap().into_dyn();
                check_shape("model.onnx", "present.0.key", &value, &[1, 2, 3]).unwrap();
                for expected in [&[1, 2, 4][..], &[1, 2], &[1, 2, 3, 1]] {
                    let error = check_shape("model.onnx", "present.0.key", &value, expected).unwrap_err().to_string();
                    assert!(error.contains("field `present.0.key`") && error.contains("[1, 2, 3]"), "{error}");
                }
            },
        );
    }
}
