//! From a checkpoint to a decoder: every weight by its name and shape, widened to f32, those that take the same input made one.

use half::f16;
use rayon::prelude::*;
use tandem_core::checkpoint::{Checkpoint, StoredTensor};
use tandem_core::config::ModelConfig;
use tandem_core::{DType, Error, Result};

use crate::decoder::{Decoder, Layer};
use crate::error::Doing;
use crate::linear::{Linear, Matrix};
use crate::rotary::{Heads, Rotary};

const DOING: &str = "to load the weights";

/// Reads all weights of a decoder of the form `config` from `checkpoint`, which messages call `file`.
///
/// # Errors
/// [`Error::BadField`] names a weight that is missing or of another shape than the configuration says.
pub(crate) fn decoder(checkpoint: &Checkpoint, config: &ModelConfig, file: &str) -> Result<Decoder> {
    // Checkpoints of embedding models are published without it.
    let prefix = if checkpoint.contains("model.embed_tokens.weight") { "model." } else { "" };
    let reader = Reader { checkpoint, config, file };
    let (vocab, hidden) = (config.vocab_size, config.hidden_size);
    let mut layers = Vec::with_capacity(config.n_layers);
    for i in 0..config.n_layers {
        layers.push(reader.layer(&format!("{prefix}layers.{i}"), config.layer_windows[i])?);
    }
    Ok(Decoder {
        embedding: reader.matrix(&[(format!("{prefix}embed_tokens.weight"), vocab)], hidden)?,
        layers,
        norm: reader.vector(&format!("{prefix}norm.weight"), hidden)?,
        head: match config.tie_word_embeddings {
            true => None,
            false => Some(reader.matrix(&[("lm_head.weight".into(), vocab)], hidden)?),
        },
        rms_norm_eps: config.rms_norm_eps as f32,
        rotary: Rotary::new(config),
        heads: Heads { queries: config.n_heads, keys: config.n_kv_heads, head_dim: config.head_dim() },
    })
}

struct Reader<'c> {
    checkpoint: &'c Checkpoint,
    config: &'c ModelConfig,
    /// Names the weights in messages.
    file: &'c str,
}

impl Reader<'_> {
    fn layer(&self, name: &str, window: Option<usize>) -> Result<Layer> {
        let config = self.config;
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let (queries, keys) = (config.n_heads * config.head_dim(), config.n_kv_heads * config.head_dim());
        let part = |block: &str, projection: &str, rows: usize| (format!("{name}.{block}.{projection}_proj"), rows);
        let attention = |projection: &str, rows: usize| part("self_attn", projection, rows);
        let qkv = [attention("q", queries), attention("k", keys), attention("v", keys)];
        Ok(Layer {
            attention_norm: self.vector(&format!("{name}.input_layernorm.weight"), hidden)?,
            qkv: self.linear(&qkv, hidden, config.qkv_bias)?,
            qk_norms: match config.qk_norm {
                true => Some((
                    self.vector(&format!("{name}.self_attn.q_norm.weight"), config.head_dim())?,
                    self.vector(&format!("{name}.self_attn.k_norm.weight"), config.head_dim())?,
                )),
                false => None,
            },
            attention_out: self.linear(&[attention("o", hidden)], queries, config.attention_output_bias)?,
            mlp_norm: self.vector(&format!("{name}.post_attention_layernorm.weight"), hidden)?,
            gate_up: self.linear(&[part("mlp", "gate", inner), part("mlp", "up", inner)], hidden, config.mlp_bias)?,
            down: self.linear(&[part("mlp", "down", hidden)], inner, config.mlp_bias)?,
            window,
        })
    }

    /// Projections of the same input, `(name, outputs)` each, one above the other.
    fn linear(&self, parts: &[(String, usize)], inputs: usize, biased: bool) -> Result<Linear> {
        let named = |what: &str| parts.iter().map(|(name, rows)| (format!("{name}.{what}"), *rows)).collect::<Vec<_>>();
        let bias = match biased {
            true => Some(self.values(&named("bias"), &[])?),
            false => None,
        };
        Ok(Linear { weights: self.matrix(&named("weight"), inputs)?, bias })
    }

    /// Matrices, `(name, rows)` each, one above the other.
    fn matrix(&self, parts: &[(String, usize)], columns: usize) -> Result<Matrix> {
        let rows = parts.iter().map(|(_, rows)| rows).sum();
        Ok(Matrix::new(self.values(parts, &[columns])?, rows, columns).doing(DOING)?)
    }

    fn vector(&self, name: &str, n: usize) -> Result<Vec<f32>> {
        self.values(&[(name.to_owned(), n)], &[])
    }

    /// The values of tensors of the shapes `[rows, inner...]`, one after the other.
    fn values(&self, parts: &[(String, usize)], inner: &[usize]) -> Result<Vec<f32>> {
        // Every shape is checked against a header that fits its file before memory is taken for it.
        let stored = parts
            .iter()
            .map(|(name, rows)| self.checked(name, &[&[*rows], inner].concat()))
            .collect::<Result<Vec<StoredTensor<'_>>>>()?;
        let mut values = vec![0.0; stored.iter().map(|tensor| tensor.shape.iter().product::<usize>()).sum()];
        let mut rest = values.as_mut_slice();
        for tensor in &stored {
            let (own, after) = rest.split_at_mut(tensor.shape.iter().product());
            widen(tensor, own);
            rest = after;
        }
        Ok(values)
    }

    fn checked(&self, name: &str, shape: &[usize]) -> Result<StoredTensor<'_>> {
        let stored = self.checkpoint.tensor(name)?;
        if stored.shape == shape {
            return Ok(stored);
        }
        let problem = format!("the weight is {:?}, and the configuration makes it {shape:?}", stored.shape);
        Err(Error::bad_field(self.file, name, problem))
    }
}

/// Values widened together by one thread.
const WIDENED_TOGETHER: usize = 1 << 16;

/// Writes the values of `tensor` as f32 to `out`, which has as many places.
fn widen(tensor: &StoredTensor<'_>, out: &mut [f32]) {
    let size = if tensor.dtype == DType::F32 { 4 } else { 2 };
    out.par_chunks_mut(WIDENED_TOGETHER).zip(tensor.bytes.par_chunks(WIDENED_TOGETHER * size)).for_each(|(out, bytes)| {
        match tensor.dtype {
            DType::F32 => {
                out.iter_mut().zip(bytes.as_chunks().0).for_each(|(out, bytes)| *out = f32::from_le_bytes(*bytes));
            }
            DType::F16 => {
                out.iter_mut().zip(bytes.as_chunks().0).for_each(|(out, bytes)| *out = f16::from_le_bytes(*bytes).to_f32());
            }
            // Brain floats are the upper half of an f32.
            _ => out
                .iter_mut()
                .zip(bytes.as_chunks().0)
                .for_each(|(out, bytes)| *out = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16)),
        }
    });
}
