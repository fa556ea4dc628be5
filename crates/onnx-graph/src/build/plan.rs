//! The order of work: constants are made one by one from the weights that they need, and written to a sink.

use super::decoder::Decoder;
use super::quantize::{self, QuantFormat};
use super::spec::{BuildOptions, DecoderSpec};
use super::weights::{self, FloatType, WeightType};
use super::{Interrupted, WeightSource, sink::Sink};
use crate::encode::{self, Data};
use crate::error::{Error, Result};
use crate::graph::{DataType, ExternalData};
use crate::schema::{graph, model};
use crate::wire::{put_bytes, put_int};

/// The operator set of ONNX 1.18, the first with `RMSNormalization`, and its format version; ONNX Runtime supports it from 1.23 on. ONNX
/// Runtime's own `SimplifiedLayerNormalization` is the same operator, but claims ONNX's domain, and `onnx.checker` refuses it.
pub(super) const OPSET: i64 = 23;
pub(super) const IR_VERSION: i64 = 11;

/// One constant of the graph.
#[derive(Clone, Debug)]
pub(super) struct Constant {
    pub(super) name: String,
    pub(super) data_type: DataType,
    pub(super) dims: Vec<i64>,
}

/// Constants that are made together.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) constants: Vec<Constant>,
    /// Other names and shapes for the same bytes, each for the constant at this index.
    pub(super) views: Vec<(usize, Constant)>,
    pub(super) recipe: Recipe,
}

/// How constants are made.
#[derive(Debug)]
pub(super) enum Recipe {
    /// These bytes.
    Fixed(Vec<u8>),
    /// A table of rope: each angle's cosine, or sine.
    Rope(fn(f64) -> f64),
    /// One weight in the checkpoint's type.
    AsStored(Part),
    /// Weights one after the other, as floats.
    Floats(Vec<Part>),
    /// Weights one above the other, transposed, as floats.
    Transposed(Vec<Part>),
    /// Weights one above the other, quantised: codes, scales, and zero points where the format has them.
    Quantized(Vec<Part>, QuantFormat),
}

/// One weight that a constant is made from.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
}

/// Where the data of a constant was written.
#[derive(Clone, Debug)]
pub(crate) enum Location {
    /// In the graph's own file.
    Inline(Vec<u8>),
    /// In another file.
    External(ExternalData),
}

/// Plans the network, makes its constants, and returns the ONNX file.
pub(super) fn run(
    spec: &DecoderSpec,
    options: &BuildOptions,
    source: &mut WeightSource<'_, '_>,
    sink: &mut dyn Sink,
    interrupted: &Interrupted<'_>,
) -> Result<Vec<u8>> {
    spec.check(options)?;
    let stored = embedding_type(spec, source)?;
    let network = Decoder::network(spec, options, stored);
    let mut body = Vec::new();
    network.nodes.iter().for_each(|node| put_bytes(&mut body, graph::NODE, encode::node(node)));
    put_bytes(&mut body, graph::NAME, "decoder");
    for step in &network.steps {
        let work = Work { spec, float: options.float(), interrupted };
        let mut locations = Vec::new();
        for bytes in work.make(step, source)? {
            locations.push(sink.put(bytes, &|| work.go_on())?);
        }
        let named = step.constants.iter().zip(&locations);
        let views = step.views.iter().map(|(index, constant)| (constant, &locations[*index]));
        for (constant, location) in named.chain(views) {
            let data = match location {
                Location::Inline(bytes) => Data::Raw(bytes),
                Location::External(external) => Data::External(external),
            };
            put_bytes(&mut body, graph::INITIALIZER, encode::tensor(&constant.name, constant.data_type, &constant.dims, data));
        }
    }
    network.inputs.iter().for_each(|input| put_bytes(&mut body, graph::INPUT, encode::value_info(input)));
    network.outputs.iter().for_each(|output| put_bytes(&mut body, graph::OUTPUT, encode::value_info(output)));
    Ok(model_proto(options, &body))
}

fn model_proto(options: &BuildOptions, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + 4096);
    put_int(&mut out, model::IR_VERSION, IR_VERSION);
    put_bytes(&mut out, model::PRODUCER_NAME, "tandem");
    put_bytes(&mut out, model::PRODUCER_VERSION, env!("CARGO_PKG_VERSION"));
    put_bytes(&mut out, model::GRAPH, body);
    put_bytes(&mut out, model::OPSET_IMPORT, encode::opset_import("", OPSET));
    put_bytes(&mut out, model::OPSET_IMPORT, encode::opset_import("com.microsoft", 1));
    let given = options.metadata.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    let own = [("tandem.weights", options.weights.name()), ("tandem.head", options.head.name())];
    for (key, value) in given.chain(own) {
        put_bytes(&mut out, model::METADATA_PROPS, encode::string_entry(key, value));
    }
    out
}

fn embedding_type(spec: &DecoderSpec, source: &mut WeightSource<'_, '_>) -> Result<WeightType> {
    let name = format!("{}embed_tokens.weight", spec.prefix);
    Ok(weights::read(&spec.name, source, &name, &[spec.vocab_size, spec.hidden_size])?.kind)
}

/// The context in which constants are made.
struct Work<'w> {
    spec: &'w DecoderSpec,
    float: FloatType,
    interrupted: &'w Interrupted<'w>,
}

impl Work<'_> {
    /// An error if the work was interrupted.
    fn go_on(&self) -> Result<()> {
        match (self.interrupted)() {
            true => Err(Error::Interrupted { model: self.spec.name.clone() }),
            false => Ok(()),
        }
    }

    /// The bytes of a step's constants.
    fn make(&self, step: &Step, source: &mut WeightSource<'_, '_>) -> Result<Vec<Vec<u8>>> {
        let Self { spec, float, .. } = *self;
        let go_on = || self.go_on();
        let mut read = |parts: &[Part]| -> Result<Vec<_>> {
            parts.iter().map(|part| weights::read(&spec.name, source, &part.name, &part.shape)).collect()
        };
        Ok(match &step.recipe {
            Recipe::Fixed(bytes) => vec![bytes.clone()],
            Recipe::Rope(function) => vec![float.to_bytes(&rope(spec, *function))],
            Recipe::AsStored(part) => {
                read(std::slice::from_ref(part))?.into_iter().map(|weight| weight.bytes.into_owned()).collect()
            }
            Recipe::Floats(parts) => vec![weights::concatenate(&read(parts)?, float, &go_on)?],
            Recipe::Transposed(parts) => vec![weights::transpose(&read(parts)?, parts[0].shape[1], float, &go_on)?],
            Recipe::Quantized(parts, format) => {
                let quantized = quantize::quantize(&read(parts)?, parts[0].shape[1], *format, &go_on)?.ok_or_else(|| {
                    Error::bad_field(&spec.name, &parts[0].name, "a weight in it is not finite, so it cannot be quantised")
                        .with_hint("the weights are damaged: download them again")
                })?;
                let mut made = vec![quantized.codes, float.to_bytes(&quantized.scales)];
                made.extend((!format.blocks.symmetric).then_some(quantized.zeros));
                made
            }
        })
    }
}

/// `[n_positions, head_dim / 2]`, computed as transformers does: the angle in 32 bits, then its cosine or sine, then the
/// scaling. Source: `LlamaRotaryEmbedding.forward`.
fn rope(spec: &DecoderSpec, function: fn(f64) -> f64) -> Vec<f32> {
    let table = &spec.rope;
    let positions = (0..table.n_positions).map(|position| position as f32);
    let angles = positions.flat_map(|position| table.inverse_frequencies.iter().map(move |frequency| position * frequency));
    angles.map(|angle| function(f64::from(angle)) as f32 * table.attention_scaling).collect()
}
