//! Reads the weights of an encoder from its checkpoint, and packs them.

use tandem_core::DType;
use tandem_core::backend::Numerics;
use tandem_core::config::{EncoderConfig, EncoderLayerNames, EncoderNames, ModelConfig, RopeConfig, RopeScaling};
use tandem_core::{Error, Remedy, Result};

use super::columns::LayerNorm;
use super::packed::{PackedLinear, is_whole_blocks};
use super::relative::RelativeBias;
use super::{Embedding, Encoder, Layer};
use crate::kernel::Isa;
use crate::rotary::Rotary;
use crate::weights::{CheckpointSource, WeightSource};

/// Reads all weights of the encoder that `config` describes, to run in `dtype`.
///
/// # Errors
/// [`Error::BadField`] names a weight that is missing or of another shape than the configuration says; [`Error::Unsupported`] for a dtype
/// that its widths do not suit.
pub(crate) fn encoder(source: &CheckpointSource<'_>, config: &ModelConfig, dtype: DType) -> Result<Encoder> {
    let Some(encoder) = &config.encoder else {
        return Err(Error::Unsupported { what: "a decoder".into(), reason: "it is not an encoder".into(), hint: None });
    };
    let names = config.encoder_names(|name| source.contains(name));
    let reader = Reader { source, config, encoder, names: &names, dtype, isa: Isa::current() };
    reader.check_widths()?;
    let (hidden, heads) = (config.hidden_size, config.n_heads);
    let relative = match (&names.relative_bias, encoder.relative_buckets) {
        (Some(name), Some(n)) => {
            let table = source.values(&[(format!("{name}.weight"), n)], &[heads])?;
            Some(RelativeBias::new(&table, n, config.max_context))
        }
        _ => None,
    };
    let rope = |theta| Rotary::new(&RopeConfig { theta, scaling: RopeScaling::Default }, config.head_dim());
    Ok(Encoder {
        isa: reader.isa,
        embedding: reader.embedding()?,
        layers: (0..config.n_layers).map(|i| reader.layer(&names.layers[i], config.layer_windows[i])).collect::<Result<_>>()?,
        final_norm: names.final_norm.as_ref().map(|name| reader.norm(name)).transpose()?,
        activation: encoder.activation,
        is_gated: encoder.is_gated,
        norm_first: encoder.norm_first,
        relative,
        rotary: encoder.first_position.is_none().then(|| {
            let all = config.rope.theta;
            [rope(all), rope(encoder.window_rope_theta.unwrap_or(all))]
        }),
        n_heads: heads,
        head_dim: config.head_dim(),
        hidden_size: hidden,
    })
}

struct Reader<'c> {
    source: &'c CheckpointSource<'c>,
    config: &'c ModelConfig,
    encoder: &'c EncoderConfig,
    names: &'c EncoderNames,
    dtype: DType,
    isa: Isa,
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

impl Reader<'_> {
    /// Rows of weights are quantised in whole blocks.
    fn check_widths(&self) -> Result<()> {
        let widths = [self.config.hidden_size, self.config.intermediate_size];
        match widths.into_iter().find(|width| self.dtype == DType::Int8 && !is_whole_blocks(*width)) {
            Some(width) => Err(Error::Unsupported {
                what: format!("dtype `{}` for `{}`", self.dtype, self.source.file),
                reason: format!("its rows have {width} weights, which is not a multiple of 32"),
                hint: Some(Remedy::UseDType(vec![DType::F32]).into()),
            }),
            None => Ok(()),
        }
    }

    fn embedding(&self) -> Result<Embedding> {
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

    fn layer(&self, names: &EncoderLayerNames, window: Option<usize>) -> Result<Layer> {
        let (hidden, inner) = (self.config.hidden_size, self.config.intermediate_size);
        let qkv: Vec<(&str, usize)> = names.qkv.iter().map(|name| (name.as_str(), 3 * hidden / names.qkv.len())).collect();
        let up = if self.encoder.is_gated { 2 * inner } else { inner };
        Ok(Layer {
            qkv: self.linear(&qkv, hidden, self.config.qkv_bias, query_dtype(self.dtype, self.source.numerics))?,
            attention_out: self.linear(
                &[(&names.attention_out, hidden)],
                hidden,
                self.config.attention_output_bias,
                self.dtype,
            )?,
            attention_norm: names.attention_norm.as_ref().map(|name| self.norm(name)).transpose()?,
            up: self.linear(&[(&names.up, up)], hidden, self.config.mlp_bias, self.dtype)?,
            down: self.linear(&[(&names.down, hidden)], inner, self.config.mlp_bias, self.dtype)?,
            mlp_norm: self.norm(&names.mlp_norm)?,
            window,
        })
    }

    /// Projections of the same input, `(name, outputs)` each, as one.
    fn linear(&self, parts: &[(&str, usize)], inputs: usize, biased: bool, dtype: DType) -> Result<PackedLinear> {
        let named = |what: &str| parts.iter().map(|(name, rows)| (format!("{name}.{what}"), *rows)).collect::<Vec<_>>();
        let bias = if biased { Some(self.source.vector(&named("bias"))?) } else { None };
        let weights = self.source.values(&named("weight"), &[inputs])?;
        Ok(PackedLinear::new(self.isa, &weights, inputs, bias, (dtype, self.source.numerics)))
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
