//! Reads the weights of an encoder from its checkpoint, and packs them.

use tandem_core::DType;
use tandem_core::backend::Numerics;
use tandem_core::config::{EncoderConfig, EncoderLayerNames, EncoderNames, ModelConfig, RopeConfig, RopeScaling};
use tandem_core::{Error, Remedy, Result};
use tandem_kernels::encoder::{LayerNorm, PackedLinear, RelativeBias};
use tandem_kernels::quantize::BLOCK;
use tandem_kernels::rotary::Rotary;

use super::{Embedding, Encoder, Layer};
use crate::weights::{CheckpointSource, WeightSource};

/// Reads all weights of the encoder that `config` describes, to run in `dtype`.
///
/// # Errors
/// [`Error::BadField`] names a weight that is missing or of another shape than the configuration says; [`Error::Unsupported`] for a dtype
/// that its widths do not suit.
pub(crate) fn encoder(source: &CheckpointSource<'_>, config: &ModelConfig, dtype: DType) -> Result<Encoder> {
    let reader = Reader::new(source, config)?;
    check_widths(source, config, dtype)?;
    let linear = |RawLinear { weights, inputs, bias }: RawLinear, dtype| {
        PackedLinear::new((&weights, inputs), bias, (dtype, source.numerics), source.arena)
    };
    let layer = |index| {
        let raw = reader.layer(index)?;
        Ok(Layer {
            qkv: linear(raw.qkv, query_dtype(dtype, source.numerics)),
            attention_out: linear(raw.attention_out, dtype),
            attention_norm: raw.attention_norm,
            up: linear(raw.up, dtype),
            down: linear(raw.down, dtype),
            mlp_norm: raw.mlp_norm,
            window: raw.window,
        })
    };
    Ok(Encoder {
        embedding: reader.embedding()?,
        layers: (0..config.n_layers).map(layer).collect::<Result<_>>()?,
        final_norm: reader.final_norm()?,
        activation: reader.encoder.activation,
        is_gated: reader.encoder.is_gated,
        norm_first: reader.encoder.norm_first,
        relative: reader.relative()?,
        rotary: reader.rotary(),
        n_heads: config.n_heads,
        head_dim: config.head_dim(),
        hidden_size: config.hidden_size,
    })
}

/// The weights of one layer as published, widened.
pub(super) struct RawLayer {
    pub(super) qkv: RawLinear,
    pub(super) attention_out: RawLinear,
    pub(super) attention_norm: Option<LayerNorm>,
    pub(super) up: RawLinear,
    pub(super) down: RawLinear,
    pub(super) mlp_norm: LayerNorm,
    pub(super) window: Option<usize>,
}

/// A linear layer as published.
pub(super) struct RawLinear {
    /// `[outputs, inputs]`
    pub(super) weights: Vec<f32>,
    pub(super) inputs: usize,
    /// `[outputs]`
    pub(super) bias: Option<Vec<f32>>,
}

/// Reads the weights that a configuration describes.
pub(super) struct Reader<'c> {
    source: &'c CheckpointSource<'c>,
    config: &'c ModelConfig,
    pub(super) encoder: &'c EncoderConfig,
    names: EncoderNames,
}

/// In what queries, keys and values are computed in an encoder of `dtype`: softmax magnifies their errors. Of the loss of all-MiniLM-L6-v2 in
/// int8 two thirds came from them (mean cosine with f32 over 300 sentences 0.99963, and 0.99984 with them in bf16).
fn query_dtype(dtype: DType, numerics: Numerics) -> DType {
    match (dtype, numerics) {
        (DType::Int8, Numerics::Fast) => DType::Bf16,
        (DType::Int8, Numerics::Exact) => DType::F32,
        _ => dtype,
    }
}

/// Rows of weights are quantised in whole blocks.
fn check_widths(source: &CheckpointSource<'_>, config: &ModelConfig, dtype: DType) -> Result<()> {
    let widths = [config.hidden_size, config.intermediate_size];
    match widths.into_iter().find(|width| dtype == DType::Int8 && !width.is_multiple_of(BLOCK)) {
        Some(width) => Err(Error::Unsupported {
            what: format!("dtype `{dtype}` for `{}`", source.file),
            reason: format!("its rows have {width} weights, which is not a multiple of 32"),
            hint: Some(Remedy::UseDType(vec![DType::F32]).into()),
        }),
        None => Ok(()),
    }
}

impl<'c> Reader<'c> {
    pub(super) fn new(source: &'c CheckpointSource<'c>, config: &'c ModelConfig) -> Result<Self> {
        let Some(encoder) = &config.encoder else {
            return Err(Error::Unsupported { what: "a decoder".into(), reason: "it is not an encoder".into(), hint: None });
        };
        let names = config.encoder_names(|name| source.contains(name));
        Ok(Self { source, config, encoder, names })
    }

    pub(super) fn final_norm(&self) -> Result<Option<LayerNorm>> {
        self.names.final_norm.as_ref().map(|name| self.norm(name)).transpose()
    }

    pub(super) fn relative(&self) -> Result<Option<RelativeBias>> {
        let (Some(name), Some(n)) = (&self.names.relative_bias, self.encoder.relative_buckets) else { return Ok(None) };
        let table = self.source.values(&[(format!("{name}.weight"), n)], &[self.config.n_heads])?;
        Ok(Some(RelativeBias::new(&table, n, self.config.max_context)))
    }

    /// Rotary positions of layers that see all, and of those with a window.
    pub(super) fn rotary(&self) -> Option<[Rotary; 2]> {
        let rope = |theta| Rotary::new(&RopeConfig { theta, scaling: RopeScaling::Default }, self.config.head_dim());
        self.encoder.first_position.is_none().then(|| {
            let all = self.config.rope.theta;
            [rope(all), rope(self.encoder.window_rope_theta.unwrap_or(all))]
        })
    }

    pub(super) fn embedding(&self) -> Result<Embedding> {
        let hidden = self.config.hidden_size;
        let first_position = self.encoder.first_position.unwrap_or(0);
        let table = |name: &Option<String>, rows: usize| match name {
            Some(name) => self.source.values(&[(format!("{name}.weight"), rows)], &[hidden]).map(Some),
            None => Ok(None),
        };
        Ok(Embedding {
            words: self.source.matrix(&[(format!("{}.weight", self.names.words), self.config.vocab_size)], hidden)?,
            positions: table(&self.names.positions, first_position + self.config.max_context)?,
            first_position,
            types: table(&self.names.token_types, self.encoder.n_token_types)?,
            norm: self.norm(&self.names.embedding_norm)?,
        })
    }

    pub(super) fn layer(&self, index: usize) -> Result<RawLayer> {
        let (names, config): (&EncoderLayerNames, _) = (&self.names.layers[index], self.config);
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let qkv: Vec<(&str, usize)> = names.qkv.iter().map(|name| (name.as_str(), 3 * hidden / names.qkv.len())).collect();
        let up = if self.encoder.is_gated { 2 * inner } else { inner };
        Ok(RawLayer {
            qkv: self.linear(&qkv, hidden, config.qkv_bias)?,
            attention_out: self.linear(&[(&names.attention_out, hidden)], hidden, config.attention_output_bias)?,
            attention_norm: names.attention_norm.as_ref().map(|name| self.norm(name)).transpose()?,
            up: self.linear(&[(&names.up, up)], hidden, config.mlp_bias)?,
            down: self.linear(&[(&names.down, hidden)], inner, config.mlp_bias)?,
            mlp_norm: self.norm(&names.mlp_norm)?,
            window: config.layer_windows[index],
        })
    }

    /// Projections of the same input, `(name, outputs)` each, as one.
    fn linear(&self, parts: &[(&str, usize)], inputs: usize, biased: bool) -> Result<RawLinear> {
        let named = |what: &str| parts.iter().map(|(name, rows)| (format!("{name}.{what}"), *rows)).collect::<Vec<_>>();
        let bias = if biased { Some(self.source.vector(&named("bias"))?) } else { None };
        Ok(RawLinear { weights: self.source.values(&named("weight"), &[inputs])?, inputs, bias })
    }

    fn norm(&self, name: &str) -> Result<LayerNorm> {
        let [weight, bias] = self.names.norm_suffixes;
        let vector = |what: &str| self.source.vector(&[(format!("{name}.{what}"), self.config.hidden_size)]);
        Ok(LayerNorm {
            weight: vector(weight)?,
            bias: if self.encoder.norm_bias { Some(vector(bias)?) } else { None },
            eps: self.config.norm_eps as f32,
        })
    }
}
