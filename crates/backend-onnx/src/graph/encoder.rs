//! Graphs that encode: encoders, and decoders that were exported for embeddings, with the KV cache among their inputs or without it.
//!
//! optimum exports for feature extraction with `last_hidden_state` or `token_embeddings`, in whose place or beside which a graph may have a row for each
//! sequence (`sentence_embedding`, `pooler_output`); cross-encoders have `logits` of `[batch, labels]` alone.

use std::ffi::CString;

use ort::session::Session;
use ort::value::{Outlet, TensorElementType};
use tandem_core::backend::PooledOutput;
use tandem_core::config::ModelConfig;
use tandem_core::{Error, Result};
use tandem_onnx_graph::{Dim, Graph};

use super::decoder::present_name;
use super::{CachePort, Port, name_for_engine, names, tensor_type};

/// What hidden states are called, `[batch, tokens, hidden_size]`: by optimum, by optimum for sentence-transformers, by Tandem's builder of
/// decoders.
const HIDDEN_STATES: [&str; 3] = ["last_hidden_state", "token_embeddings", "hidden_states"];

/// What a row for each sequence is called, `[batch, width]`.
const POOLED: [&str; 5] = ["sentence_embedding", "pooler_output", "text_embeds", "embeddings", "logits"];

/// An encoding graph: the purpose of each input, and its output.
#[derive(Debug)]
pub(crate) struct EncoderGraph {
    /// Its name in messages.
    pub(crate) file: String,
    /// Token ids, `[batch, tokens]`.
    pub(crate) ids: Port,
    /// Ones for every token, `[batch, tokens]`.
    pub(crate) mask: Option<Port>,
    /// The type of each token, `[batch, tokens]`.
    pub(crate) token_types: Option<Port>,
    /// The position of each token, `[batch, tokens]`.
    pub(crate) positions: Option<Port>,
    /// That of the first token.
    pub(crate) first_position: usize,
    /// Keys and values of each layer, of which there are none before a text.
    pub(crate) caches: Vec<CachePort>,
    /// What it gives.
    pub(crate) encoding: Encoding,
    /// Names of all inputs, in the order in which runs pass them.
    pub(crate) input_names: Vec<CString>,
    /// The name of the one output that runs request.
    pub(crate) output_names: Vec<CString>,
    /// The names of the KV cache after a run, one for each of `caches`, where hidden states depend on tokens before them alone.
    pub(crate) present_names: Option<Vec<CString>>,
}

/// What a graph gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// A row for each token.
    HiddenStates(RowsPort),
    /// A row for each sequence.
    Pooled(RowsPort),
}

/// An output that consists of rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RowsPort {
    pub(crate) name: String,
    /// The size of a row.
    pub(crate) width: usize,
}

impl Encoding {
    /// What the graph `file` with `outputs` gives; hidden states where it has both. A size that the graph leaves open is that of `config`.
    pub(super) fn find(outputs: &[Outlet], file: &str, config: &ModelConfig) -> Result<Option<Self>> {
        let named = |names: &[&str]| names.iter().find_map(|name| outputs.iter().find(|output| output.name() == *name));
        let of_rank = |rank: usize| {
            let mut fitting =
                outputs.iter().filter(|output| output.dtype().tensor_shape().is_some_and(|shape| shape.len() == rank));
            fitting.next().filter(|_| fitting.next().is_none())
        };
        let is_pooled = |output: &&Outlet| output.dtype().tensor_shape().is_some_and(|shape| shape.len() == 2);
        if let Some(output) = named(&HIDDEN_STATES) {
            return RowsPort::read(file, output, 3, Some(config.hidden_size)).map(|port| Some(Self::HiddenStates(port)));
        }
        if let Some(output) = named(&POOLED).filter(is_pooled) {
            return RowsPort::read(file, output, 2, None).map(|port| Some(Self::Pooled(port)));
        }
        // Some exporters number what they do not know.
        let width_of = |output: &&Outlet| output.dtype().tensor_shape().and_then(|shape| shape.last().copied());
        let is_hidden =
            |output: &&Outlet| output.name() != "logits" && width_of(output) == i64::try_from(config.hidden_size).ok();
        if let Some(output) = of_rank(3).filter(is_hidden) {
            return RowsPort::read(file, output, 3, None).map(|port| Some(Self::HiddenStates(port)));
        }
        of_rank(2).map(|output| RowsPort::read(file, output, 2, None).map(Self::Pooled)).transpose()
    }

    /// The output.
    pub(crate) fn port(&self) -> &RowsPort {
        match self {
            Self::HiddenStates(port) | Self::Pooled(port) => port,
        }
    }
}

/// The row for each sequence that `graph` gives in the place of hidden states, as [`Encoding::find`] will read it: of `width` where the graph
/// leaves that to the engine.
pub(crate) fn pooled_output(graph: &Graph, width: usize) -> Option<PooledOutput> {
    let outputs = graph.outputs();
    let named = |names: &[&str]| names.iter().find_map(|name| outputs.iter().find(|output| output.name == *name));
    if named(&HIDDEN_STATES).is_some() {
        return None;
    }
    let output = named(&POOLED)?;
    let width = match output.dims.as_deref()? {
        [_, Dim::Fixed(width)] => usize::try_from(*width).ok()?,
        [_, _] => width,
        _ => return None,
    };
    Some(PooledOutput { name: output.name.clone(), width })
}

impl RowsPort {
    /// An output of `rank` dims, the last of which is `width` where the graph does not say.
    fn read(file: &str, outlet: &Outlet, rank: usize, width: Option<usize>) -> Result<Self> {
        let (dtype, shape) = tensor_type(file, outlet.name(), outlet.dtype())?;
        if !matches!(dtype, TensorElementType::Float32 | TensorElementType::Float16) {
            return Err(Error::bad_field(file, outlet.name(), format!("the output is `{dtype}`, and must be f32 or f16")));
        }
        if shape.len() != rank {
            let expected = if rank == 3 { "[batch, tokens, hidden_size]" } else { "[batch, width]" };
            return Err(Error::bad_field(file, outlet.name(), format!("the shape is {shape:?}, and must be {expected}")));
        }
        let declared = shape.last().and_then(|&dim| usize::try_from(dim).ok()).filter(|&dim| dim > 0);
        let width = declared.or(width).ok_or_else(|| {
            Error::bad_field(file, outlet.name(), format!("the shape is {shape:?}, which leaves open how wide a row is"))
        })?;
        Ok(Self { name: outlet.name().into(), width })
    }
}

impl EncoderGraph {
    /// Reads the declaration of `session`, whose graph is `file` and gives `encoding`.
    pub(super) fn read(session: &Session, file: &str, config: &ModelConfig, encoding: Encoding) -> Result<Self> {
        let inputs = session.inputs();
        let find = |name: &str| inputs.iter().position(|input| input.name() == name);
        let port = |name: &str| find(name).map(|index| matrix_port(file, index, &inputs[index])).transpose();
        let ids = port("input_ids")?
            .ok_or_else(|| Error::bad_field(file, "input_ids", format!("the graph has no such input, only {}", names(inputs))))?;
        let (mask, token_types, positions) = (port("attention_mask")?, port("token_type_ids")?, port("position_ids")?);
        let known = [Some(ids), mask, token_types, positions];
        let mut caches = Vec::new();
        for (index, input) in inputs.iter().enumerate() {
            if known.iter().flatten().any(|port| port.index == index) {
                continue;
            }
            if !input.name().starts_with("past") {
                let problem = "it is not known what this input of the graph takes";
                return Err(Error::bad_field(file, input.name(), problem));
            }
            caches.push(CachePort::read(file, index, 0, input, config)?);
        }
        let presents: Option<Vec<&str>> =
            caches.iter().map(|cache| present_name(inputs[cache.input].name(), session.outputs())).collect();
        let in_parts = config.is_causal && !caches.is_empty() && matches!(encoding, Encoding::HiddenStates(_));
        let presents = presents.filter(|_| in_parts);
        let present_names = presents.map(|names| names.iter().map(|name| name_for_engine(file, name)).collect()).transpose()?;
        let input_names = inputs.iter().map(|input| name_for_engine(file, input.name())).collect::<Result<_>>()?;
        let output_names = vec![name_for_engine(file, &encoding.port().name)?];
        let file = file.to_owned();
        let first_position = config.encoder.as_ref().and_then(|encoder| encoder.first_position).unwrap_or(0);
        Ok(Self {
            file,
            ids,
            mask,
            token_types,
            positions,
            first_position,
            caches,
            encoding,
            input_names,
            output_names,
            present_names,
        })
    }
}

/// An input of integers for each token of each sequence.
fn matrix_port(file: &str, index: usize, outlet: &Outlet) -> Result<Port> {
    let port = Port::read(file, index, outlet)?;
    match port.rank {
        2 => Ok(port),
        rank => Err(Error::bad_field(file, outlet.name(), format!("the input has {rank} dims, and must be [batch, tokens]"))),
    }
}

/// A graph that gives neither hidden states nor a row for each sequence.
pub(super) fn not_an_encoder(file: &str, outputs: &[Outlet]) -> Error {
    Error::BadFile {
        file: file.into(),
        problem: format!("the graph does not encode: its outputs are {}", names(outputs)),
        hint: Some(
            "an encoding graph has `last_hidden_state` of [batch, tokens, hidden_size], or a row for each sequence; export the model for \
             feature extraction, or use its checkpoint"
                .into(),
        ),
        source: None,
    }
}
