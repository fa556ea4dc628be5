//! The order of work: constants are made one by one from the weights that they need, and written to a sink.

use super::decoder::Decoder;
use super::encoder::{Encoder, EncoderSpec};
use super::network::Network;
use super::quantize::{self, QuantFormat};
use super::spec::{BuildOptions, DecoderSpec, RopeTable};
use super::weights::{self, FloatType, Weight, WeightType};
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
    Rope(RopeTable, fn(f64) -> f64),
    /// Weights one after the other, as floats.
    Floats(Vec<Part>),
    /// Weights one above the other, transposed, as floats.
    Transposed(Vec<Part>),
    /// Weights one above the other, in this type.
    Rows(Vec<Part>, WeightType),
    /// Weights one above the other, quantised: codes, scales, and zero points where the format has them.
    Quantized(Vec<Part>, QuantFormat),
}

/// One weight that a constant is made from.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
}

/// What to build.
#[derive(Clone, Copy, Debug)]
pub enum Spec<'s> {
    /// A decoder over a KV cache.
    Decoder(&'s DecoderSpec),
    /// An encoder.
    Encoder(&'s EncoderSpec),
}

/// What a graph is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Needs {
    /// The weights of a checkpoint, by name, with their shapes.
    pub weights: Vec<(String, Vec<usize>)>,
    /// An upper bound on the bytes of the graph with its weights.
    pub n_bytes: u64,
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
    spec: Spec<'_>,
    options: &BuildOptions,
    source: &mut WeightSource<'_, '_>,
    sink: &mut dyn Sink,
    interrupted: &Interrupted<'_>,
) -> Result<Vec<u8>> {
    spec.check(options)?;
    let embedding = spec.embedding();
    let stored = weights::read(spec.name(), source, &embedding.name, &embedding.shape)?.kind;
    let network = spec.network(options, stored);
    let mut body = Vec::new();
    network.nodes.iter().for_each(|node| put_bytes(&mut body, graph::NODE, encode::node(node)));
    put_bytes(&mut body, graph::NAME, spec.kind());
    for step in &network.steps {
        let work = Work { model: spec.name(), float: options.float(), interrupted };
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

/// What a graph of `spec` is made of, where the checkpoint has its embedding in the type `stored`.
///
/// # Errors
/// When the specification is inconsistent.
pub fn needs<'s>(spec: impl Into<Spec<'s>>, options: &BuildOptions, stored: WeightType) -> Result<Needs> {
    /// Large constants are aligned to pages.
    const PAGE: u64 = 4096;
    let spec = spec.into();
    spec.check(options)?;
    let network = spec.network(options, stored);
    let mut weights: Vec<(String, Vec<usize>)> = Vec::new();
    for part in network.steps.iter().flat_map(|step| step.recipe.parts()) {
        if !weights.iter().any(|(name, _)| *name == part.name) {
            weights.push((part.name.clone(), part.shape.clone()));
        }
    }
    let constants = network.steps.iter().flat_map(|step| &step.constants).map(|constant| constant.n_bytes() + 2 * PAGE);
    let nodes = network.nodes.iter().map(|node| encode::node(node).len() as u64);
    Ok(Needs { weights, n_bytes: constants.chain(nodes).sum::<u64>() + PAGE })
}

impl<'s> From<&'s DecoderSpec> for Spec<'s> {
    fn from(spec: &'s DecoderSpec) -> Self {
        Self::Decoder(spec)
    }
}

impl<'s> From<&'s EncoderSpec> for Spec<'s> {
    fn from(spec: &'s EncoderSpec) -> Self {
        Self::Encoder(spec)
    }
}

impl<'s> Spec<'s> {
    pub(super) fn name(self) -> &'s str {
        match self {
            Self::Decoder(spec) => &spec.name,
            Self::Encoder(spec) => &spec.name,
        }
    }

    /// The name of the graph.
    fn kind(self) -> &'static str {
        match self {
            Self::Decoder(_) => "decoder",
            Self::Encoder(_) => "encoder",
        }
    }

    fn check(self, options: &BuildOptions) -> Result<()> {
        options.check(self.name())?;
        match self {
            Self::Decoder(spec) => spec.check(),
            Self::Encoder(spec) => spec.check(options),
        }
    }

    fn embedding(self) -> Part {
        match self {
            Self::Decoder(spec) => spec.embedding(),
            Self::Encoder(spec) => spec.words(),
        }
    }

    fn network(self, options: &'s BuildOptions, stored: WeightType) -> Network<'s> {
        match self {
            Self::Decoder(spec) => Decoder::network(spec, options, stored),
            Self::Encoder(spec) => Encoder::network(spec, options, stored),
        }
    }
}

impl Recipe {
    /// The weights that it takes.
    fn parts(&self) -> &[Part] {
        match self {
            Self::Fixed(_) | Self::Rope(..) => &[],
            Self::Floats(parts) | Self::Transposed(parts) | Self::Rows(parts, _) | Self::Quantized(parts, _) => parts,
        }
    }
}

impl Constant {
    fn n_bytes(&self) -> u64 {
        let n_elements: u64 = self.dims.iter().map(|&dim| dim.unsigned_abs()).product();
        (n_elements * self.data_type.bits().unwrap_or(64)).div_ceil(8)
    }
}

/// The context in which constants are made.
struct Work<'w> {
    /// Its name in messages.
    model: &'w str,
    float: FloatType,
    interrupted: &'w Interrupted<'w>,
}

impl Work<'_> {
    /// An error if the work was interrupted.
    fn go_on(&self) -> Result<()> {
        match (self.interrupted)() {
            true => Err(Error::Interrupted { model: self.model.into() }),
            false => Ok(()),
        }
    }

    /// The bytes of a step's constants.
    fn make(&self, step: &Step, source: &mut WeightSource<'_, '_>) -> Result<Vec<Vec<u8>>> {
        let Self { model, float, .. } = *self;
        let go_on = || self.go_on();
        let mut read = |parts: &[Part]| -> Result<Vec<_>> {
            parts.iter().map(|part| weights::read(model, source, &part.name, &part.shape)).collect()
        };
        Ok(match &step.recipe {
            Recipe::Fixed(bytes) => vec![bytes.clone()],
            Recipe::Rope(table, function) => vec![float.to_bytes(&table.values(*function))],
            Recipe::Floats(parts) => vec![weights::concatenate(&read(parts)?, float, &go_on)?],
            Recipe::Rows(parts, kind) => {
                let weights = read(parts)?;
                let is_other = |weight: &Weight<'_>| *kind != WeightType::F32 && weight.kind != *kind;
                if let Some(index) = weights.iter().position(is_other) {
                    return Err(Error::bad_field(model, &parts[index].name, "is of another type than the others"));
                }
                vec![weights::stack(&weights, *kind, &go_on)?]
            }
            Recipe::Transposed(parts) => vec![weights::transpose(&read(parts)?, parts[0].shape[1], float, &go_on)?],
            Recipe::Quantized(parts, format) => {
                let quantized = quantize::quantize(&read(parts)?, parts[0].shape[1], *format, &go_on)?.ok_or_else(|| {
                    Error::bad_field(model, &parts[0].name, "a weight in it is not finite, so it cannot be quantised")
                        .with_hint("the weights are damaged: download them again")
                })?;
                let mut made = vec![quantized.codes, float.to_bytes(&quantized.scales)];
                made.extend((!format.blocks.symmetric).then_some(quantized.zeros));
                made
            }
        })
    }
}
