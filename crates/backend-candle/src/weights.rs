//! From weights to a decoder: every one by its name and shape, those that take the same input as one. Those of a checkpoint are
//! widened to f32 or quantised; `gguf` reads the other format.

use half::f16;
use rayon::prelude::*;
use tandem_core::arena::Arena;
use tandem_core::backend::Numerics;
use tandem_core::checkpoint::{Checkpoint, StoredTensor};
use tandem_core::config::ModelConfig;
use tandem_core::{DType, Error, Remedy, Result};

use crate::decoder::{Decoder, Layer};
use crate::linear::{Linear, Matrix, Rooms, Stored};
use crate::quantize::{BLOCK, Bits};
use crate::rotary::{Heads, Rotary};

/// Where weights come from. `parts` are their names as published, with the rows of each; what is read is one above the other.
pub(crate) trait Source {
    /// Whether there is a weight called `name`.
    fn contains(&self, name: &str) -> bool;

    /// Tensors of the shapes `[rows, columns]` as one matrix.
    ///
    /// # Errors
    /// [`Error::BadField`] for one that is missing or of another shape.
    fn matrix(&self, parts: &[(String, usize)], columns: usize) -> Result<Matrix>;

    /// The values of tensors of the shapes `[rows]`.
    ///
    /// # Errors
    /// As [`matrix`](Self::matrix).
    fn vector(&self, parts: &[(String, usize)]) -> Result<Vec<f32>>;
}

/// Reads all weights of a decoder of the form `config`.
///
/// # Errors
/// [`Error::BadField`] names a weight that is missing or of another shape than the configuration says.
pub(crate) fn decoder(source: &dyn Source, config: &ModelConfig) -> Result<Decoder> {
    // Checkpoints of embedding models are published without it.
    let prefix = if source.contains("model.embed_tokens.weight") { "model." } else { "" };
    let reader = Named { source, config };
    let (vocab, hidden) = (config.vocab_size, config.hidden_size);
    let mut layers = Vec::with_capacity(config.n_layers);
    for i in 0..config.n_layers {
        layers.push(reader.layer(&format!("{prefix}layers.{i}"), config.layer_windows[i])?);
    }
    Ok(Decoder {
        embedding: source.matrix(&[(format!("{prefix}embed_tokens.weight"), vocab)], hidden)?,
        layers,
        norm: reader.vector(&format!("{prefix}norm.weight"), hidden)?,
        head: match config.tie_word_embeddings {
            true => None,
            false => Some(source.matrix(&[("lm_head.weight".into(), vocab)], hidden)?),
        },
        rms_norm_eps: config.rms_norm_eps as f32,
        rotary: Rotary::new(config),
        heads: Heads { queries: config.n_heads, keys: config.n_kv_heads, head_dim: config.head_dim() },
        rooms: Rooms::default(),
    })
}

/// A source with the form that says which weights there are.
struct Named<'c> {
    source: &'c dyn Source,
    config: &'c ModelConfig,
}

impl Named<'_> {
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
            true => Some(self.source.vector(&named("bias"))?),
            false => None,
        };
        Ok(Linear { weights: self.source.matrix(&named("weight"), inputs)?, bias })
    }

    fn vector(&self, name: &str, n: usize) -> Result<Vec<f32>> {
        self.source.vector(&[(name.to_owned(), n)])
    }
}

/// The weights of a checkpoint.
pub(crate) struct Reader<'c> {
    pub(crate) checkpoint: &'c Checkpoint,
    /// Names the weights in messages.
    pub(crate) file: &'c str,
    /// How matrices are quantised, where they are.
    pub(crate) bits: Option<Bits>,
    /// How products with those are computed.
    pub(crate) numerics: Numerics,
    /// Where matrices are put.
    pub(crate) arena: &'c Arena,
}

impl Source for Reader<'_> {
    fn contains(&self, name: &str) -> bool {
        self.checkpoint.contains(name)
    }

    fn matrix(&self, parts: &[(String, usize)], columns: usize) -> Result<Matrix> {
        let rows = parts.iter().map(|(_, rows)| rows).sum();
        let stored = match self.bits {
            None => self.floats(parts, columns)?,
            Some(bits) => self.quantized(bits, parts, rows, columns)?,
        };
        Ok(Matrix::new(stored, rows, columns, self.numerics))
    }

    fn vector(&self, parts: &[(String, usize)]) -> Result<Vec<f32>> {
        self.values(parts, &[])
    }
}

impl Reader<'_> {
    /// As they are stored where they are stored alike, and otherwise widened.
    fn floats(&self, parts: &[(String, usize)], columns: usize) -> Result<Stored> {
        let stored = self.checked_all(parts, &[columns])?;
        let first = stored.first().map_or(DType::F32, |tensor| tensor.dtype);
        let dtype = if stored.iter().all(|tensor| tensor.dtype == first) { first } else { DType::F32 };
        let halves = |out: &mut [u16]| self.read(&stored, out, |_, bytes, out| copy_halves(bytes, out));
        Ok(Stored::floats(dtype, self.arena, number(&stored), halves, |out| self.read(&stored, out, widen)))
    }

    /// As [`matrix`](Source::matrix), quantised row by row: the matrix is never there as floats.
    fn quantized(&self, bits: Bits, parts: &[(String, usize)], rows: usize, columns: usize) -> Result<Stored> {
        if !columns.is_multiple_of(BLOCK) {
            return Err(Error::Unsupported {
                what: format!("quantising `{}` of `{}`", parts[0].0, self.file),
                reason: format!("its rows have {columns} weights, no multiple of {BLOCK}"),
                hint: Some(Remedy::UseDType(vec![DType::F32]).into()),
            });
        }
        let stored = self.checked_all(parts, &[columns])?;
        let (row_blocks, row_bytes) = (columns / BLOCK, columns / BLOCK * bits.block_bytes());
        let (mut codes, mut scales) = (self.arena.zeros(rows * row_bytes), self.arena.zeros(rows * row_blocks));
        let (mut codes_left, mut scales_left) = (&mut *codes, &mut *scales);
        for (tensor, (_, n)) in stored.iter().zip(parts) {
            let (own_codes, own_scales);
            (own_codes, codes_left) = codes_left.split_at_mut(n * row_bytes);
            (own_scales, scales_left) = scales_left.split_at_mut(n * row_blocks);
            let row_source = columns * bytes_of(tensor.dtype);
            let n = (READ_TOGETHER / row_source).max(1);
            let pieces = own_codes.chunks_mut(n * row_bytes).zip(own_scales.chunks_mut(n * row_blocks));
            for ((codes, scales), bytes) in pieces.zip(tensor.bytes.chunks(n * row_source)) {
                let rows = codes.par_chunks_mut(row_bytes).zip(scales.par_chunks_mut(row_blocks));
                rows.zip(bytes.par_chunks(row_source)).for_each_init(
                    || vec![0.0; columns],
                    |floats, ((codes, scales), bytes)| {
                        widen(tensor.dtype, bytes, floats);
                        bits.quantize(floats, codes, scales);
                    },
                );
                self.checkpoint.release();
            }
        }
        Ok(Stored::Blocks { bits, codes, scales })
    }

    /// The values of tensors of the shapes `[rows, inner...]`, one after the other.
    fn values(&self, parts: &[(String, usize)], inner: &[usize]) -> Result<Vec<f32>> {
        let stored = self.checked_all(parts, inner)?;
        let mut values = vec![0.0; number(&stored)];
        self.read(&stored, &mut values, widen);
        Ok(values)
    }

    /// Has `write` make the values of all tensors, one after the other, of their bytes.
    fn read<V: Send>(&self, stored: &[StoredTensor<'_>], mut rest: &mut [V], write: fn(DType, &[u8], &mut [V])) {
        for tensor in stored {
            let own;
            (own, rest) = rest.split_at_mut(tensor.shape.iter().product());
            let size = bytes_of(tensor.dtype);
            for (own, bytes) in own.chunks_mut(READ_TOGETHER / size).zip(tensor.bytes.chunks(READ_TOGETHER)) {
                let bytes = bytes.par_chunks(WIDENED_TOGETHER * size);
                own.par_chunks_mut(WIDENED_TOGETHER).zip(bytes).for_each(|(own, bytes)| write(tensor.dtype, bytes, own));
                self.checkpoint.release();
            }
        }
    }

    /// Tensors of the shapes `[rows, inner...]`. A shape is checked against a header that fits its file before memory is taken for it.
    fn checked_all(&self, parts: &[(String, usize)], inner: &[usize]) -> Result<Vec<StoredTensor<'_>>> {
        parts.iter().map(|(name, rows)| self.checked(name, &[&[*rows], inner].concat())).collect()
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

/// All values of `stored` as f32.
pub(crate) fn widened(stored: &StoredTensor<'_>) -> Vec<f32> {
    let mut values = vec![0.0; stored.shape.iter().product()];
    let bytes = stored.bytes.par_chunks(WIDENED_TOGETHER * bytes_of(stored.dtype));
    values.par_chunks_mut(WIDENED_TOGETHER).zip(bytes).for_each(|(values, bytes)| widen(stored.dtype, bytes, values));
    values
}

/// Bytes of a file that are read before its memory is given back, so that a load takes little more than what it makes.
const READ_TOGETHER: usize = 32 << 20;

/// Values widened together by one thread.
const WIDENED_TOGETHER: usize = 1 << 16;

/// Bytes of a value as it is stored.
pub(crate) fn bytes_of(dtype: DType) -> usize {
    if dtype == DType::F32 { 4 } else { 2 }
}

/// How many values there are in all.
fn number(stored: &[StoredTensor<'_>]) -> usize {
    stored.iter().map(|tensor| tensor.shape.iter().product::<usize>()).sum()
}

/// Writes the bits of each value of `bytes`, which has two bytes, to `out`, which has as many places.
pub(crate) fn copy_halves(bytes: &[u8], out: &mut [u16]) {
    out.iter_mut().zip(bytes.as_chunks().0).for_each(|(out, bytes)| *out = u16::from_le_bytes(*bytes));
}

/// Writes the values of `bytes` as f32 to `out`, which has as many places.
pub(crate) fn widen(dtype: DType, bytes: &[u8], out: &mut [f32]) {
    match dtype {
        DType::F32 => out.iter_mut().zip(bytes.as_chunks().0).for_each(|(out, bytes)| *out = f32::from_le_bytes(*bytes)),
        DType::F16 => {
            out.iter_mut().zip(bytes.as_chunks().0).for_each(|(out, bytes)| *out = f16::from_le_bytes(*bytes).to_f32());
        }
        // Brain floats are the upper half of an f32.
        _ => out
            .iter_mut()
            .zip(bytes.as_chunks().0)
            .for_each(|(out, bytes)| *out = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16)),
    }
}
