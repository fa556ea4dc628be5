//! Decoders that generate.
//!
//! Three exporters are in use: onnxruntime-genai's builder (no `position_ids`), optimum (`position_ids`) and the graphs published
//! for transformers.js (`num_logits_to_keep`). All name the KV cache `past_key_values.N.key` and `present.N.key`, with the shape
//! `[batch, kv_heads, tokens, head_dim]`.

use std::ffi::CString;

use ort::session::Session;
use ort::value::{Outlet, TensorElementType};
use tandem_core::backend::KvShape;
use tandem_core::config::ModelConfig;
use tandem_core::{DType, Error, Result};

use super::adapter::{AdapterPort, is_factor};
use super::{CachePort, Port, name_for_engine, names, tensor_type};
use crate::error::not_a_decoder;

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
    /// Inputs for adapters, which are not among `input_names`.
    pub(crate) adapters: Vec<AdapterPort>,
    /// Names of the other inputs, in the order in which runs pass them.
    pub(crate) input_names: Vec<CString>,
    /// Names of the outputs that runs request: logits first, then each cache.
    pub(crate) output_names: Vec<CString>,
}

/// The logits as declared.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogitsPort {
    pub(crate) dtype: TensorElementType,
    pub(crate) vocab_size: usize,
    /// The graph returns the logits of the last position only.
    pub(crate) last_only: bool,
}

/// The order of keys and values in the layout that belongs to no engine.
pub(crate) struct KvOrder {
    pub(crate) shape: KvShape,
    /// Among the caches of the graph: the keys of the first layer, its values, and so on.
    pub(crate) places: Vec<usize>,
}

/// How the names of caches end: of keys, and of values.
const KINDS: [&str; 2] = [".key", ".value"];

impl DecoderGraph {
    /// Reads the declaration of `session`, whose graph is `file`.
    ///
    /// Sizes that the graph leaves open, of the logits and of the heads, are those of `config`.
    pub(crate) fn read(session: &Session, file: &str, config: &ModelConfig) -> Result<Self> {
        let inputs: Vec<&Outlet> = session.inputs().iter().filter(|input| !is_factor(input.name())).collect();
        let outputs = session.outputs();
        let find = |name: &str| inputs.iter().position(|input| input.name() == name);
        let port = |name: &str| find(name).map(|index| Port::read(file, index, inputs[index])).transpose();

        let ids = port("input_ids")?
            .ok_or_else(|| not_a_decoder(file, format!("it has no input `input_ids`, only {}", names(session.inputs()))))?;
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
            return Err(not_a_decoder(file, format!("it has no KV cache among its inputs {}", names(session.inputs()))));
        }
        let named = inputs.iter().map(|input| input.name()).chain(optional.iter().map(|value| value.name()));
        let input_names = named.map(|name| name_for_engine(file, name)).collect::<Result<_>>()?;
        let adapters = AdapterPort::read_all(session, file, config)?;
        let file = file.to_owned();
        Ok(Self { file, ids, mask, positions, logits_to_keep, caches, logits, adapters, input_names, output_names })
    }

    /// In what keys and values are held.
    pub(crate) fn kv_dtype(&self) -> DType {
        match self.caches.first().map(|cache| cache.dtype) {
            Some(TensorElementType::Float16) => DType::F16,
            Some(TensorElementType::Bfloat16) => DType::Bf16,
            _ => DType::F32,
        }
    }

    /// Which cache has the keys and which the values of each layer, by their names; `None` where these or the sizes do not say so.
    pub(crate) fn kv_order(&self) -> Option<KvOrder> {
        let first = self.caches.first()?;
        let mut ports = Vec::new();
        for (place, port) in self.caches.iter().enumerate() {
            let name = self.input_names[port.input].to_str().ok()?;
            let is_alike = (port.kv_heads, port.head_dim, port.dtype) == (first.kv_heads, first.head_dim, first.dtype);
            let is_known = matches!(port.dtype, TensorElementType::Float32 | TensorElementType::Float16);
            let layer: usize = name.split('.').find_map(|part| part.parse().ok()).filter(|_| is_alike && is_known)?;
            ports.push((layer, KINDS.iter().position(|kind| name.ends_with(kind))?, place));
        }
        ports.sort_unstable();
        let is_whole = ports.iter().enumerate().all(|(i, &(layer, kind, _))| (layer, kind) == (i / 2, i % 2));
        let shape = KvShape { n_layers: ports.len() / 2, kv_heads: first.kv_heads, head_dim: first.head_dim };
        (is_whole && ports.len().is_multiple_of(2))
            .then(|| KvOrder { shape, places: ports.into_iter().map(|(.., place)| place).collect() })
    }

    /// Bytes of KV cache for one token.
    pub(crate) fn kv_bytes_per_token(&self) -> usize {
        self.caches.iter().map(|c| c.kv_heads * c.head_dim * c.dtype.byte_size(1).unwrap_or(0)).sum()
    }

    /// Whether its integers are matrices with a row for each sequence.
    pub(crate) fn takes_rows(&self) -> bool {
        [Some(self.ids), self.mask, self.positions].iter().flatten().all(|port| port.rank == 2)
    }

    /// Whether the graph can return the logits of every position.
    pub(crate) fn has_all_logits(&self) -> bool {
        self.logits_to_keep.is_some() || !self.logits.last_only
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

/// The output that continues the cache input `past`.
pub(super) fn present_name<'o>(past: &str, outputs: &'o [Outlet]) -> Option<&'o str> {
    let suffix = past.strip_prefix("past_key_values").or_else(|| past.strip_prefix("past"))?;
    let candidates = [format!("present{suffix}"), format!("present_key_values{suffix}")];
    outputs.iter().map(Outlet::name).find(|name| candidates.iter().any(|candidate| candidate == name))
}

/// Whether there are logits for each token, and not for each sequence.
pub(super) fn has_logits_of_tokens(outputs: &[Outlet]) -> bool {
    let logits = outputs.iter().find(|output| output.name() == "logits");
    logits.and_then(|output| output.dtype().tensor_shape()).is_some_and(|shape| shape.len() != 2)
}
