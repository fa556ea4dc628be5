//! What the inputs and outputs of a graph are for, read from the graph's own declaration.

mod adapter;
mod decoder;
mod encoder;

use std::ffi::CString;

use ort::session::Session;
use ort::value::{DynValue, Outlet, Tensor, TensorElementType, ValueType};
use tandem_core::backend::Purpose;
use tandem_core::config::ModelConfig;
use tandem_core::{Error, Result};

pub(crate) use self::adapter::AdapterPort;
pub(crate) use self::decoder::{DecoderGraph, KvOrder};
pub(crate) use self::encoder::{EncoderGraph, Encoding, pooled_output};
use crate::error::Doing;

/// A graph by what it computes.
pub(crate) enum LoadedGraph {
    /// Logits over a KV cache.
    Decoder(DecoderGraph),
    /// Hidden states, or a row for each sequence.
    Encoder(EncoderGraph),
}

impl LoadedGraph {
    /// Reads the declaration of `session`, whose graph is `file`, for what `purpose` says. A graph that does not generate encodes.
    pub(crate) fn read(session: &Session, file: &str, config: &ModelConfig, purpose: Purpose) -> Result<Self> {
        let generates = decoder::has_logits_of_tokens(session.outputs());
        let is_to_generate = generates && purpose == Purpose::Generate && config.is_causal;
        if !is_to_generate && let Some(encoding) = Encoding::find(session.outputs(), file, config)? {
            return EncoderGraph::read(session, file, config, encoding).map(Self::Encoder);
        }
        match config.is_causal && purpose == Purpose::Generate {
            true => DecoderGraph::read(session, file, config).map(Self::Decoder),
            false => Err(encoder::not_an_encoder(file, session.outputs())),
        }
    }

    /// Its name in messages.
    pub(crate) fn file(&self) -> &str {
        match self {
            Self::Decoder(graph) => &graph.file,
            Self::Encoder(graph) => &graph.file,
        }
    }

    /// Names of all inputs, in the order in which runs pass them.
    pub(crate) fn input_names(&self) -> &[CString] {
        match self {
            Self::Decoder(graph) => &graph.input_names,
            Self::Encoder(graph) => &graph.input_names,
        }
    }
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

    /// A tensor of integers of `shape`, `[batch, tokens]`, in the dtype that the graph declares.
    pub(crate) fn matrix(&self, shape: [usize; 2], values: impl Iterator<Item = i64>) -> Result<DynValue> {
        self.tensor(shape.to_vec(), values)
    }

    /// A tensor of `n` integers in the dtype and rank that the graph declares: `[n]`, `[1, n]`, or a scalar.
    pub(crate) fn integers(&self, n: usize, values: impl Iterator<Item = i64>) -> Result<DynValue> {
        let shape = match self.rank {
            0 => vec![],
            rank => [vec![1; rank - 1], vec![n]].concat(),
        };
        self.tensor(shape, values)
    }

    fn tensor(&self, shape: Vec<usize>, values: impl Iterator<Item = i64>) -> Result<DynValue> {
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
