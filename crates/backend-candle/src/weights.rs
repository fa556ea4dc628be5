//! Builds a decoder from named weights, and reads those of a checkpoint (safetensors); `gguf` reads the other format.
//!
//! Projections that take the same input become one matrix. Weights are read a piece of the file at a time, and the pages of a piece are
//! released at once, so that loading takes little more memory than its result.

use std::sync::Arc;

use half::f16;
use rayon::prelude::*;
use tandem_core::arena::Arena;
use tandem_core::backend::{KvDType, Numerics, WeightType};
use tandem_core::checkpoint::{Checkpoint, StoredTensor};
use tandem_core::config::{Architecture, ModelConfig, RopeConfig, RopeScaling};
use tandem_core::{DType, Error, Remedy, Result};
use tandem_kernels::attention::Scoring;
use tandem_kernels::elementwise::GateActivation;
use tandem_kernels::matrix::{Matrix, Stored};
use tandem_kernels::quantize::{BLOCK, Bits};
use tandem_kernels::rotary::{Heads, Rotary};

use crate::decoder::{Decoder, Layer, NormWeight};
use crate::linear::{Linear, Modules};

/// A source of weights. `parts` are their published names with the rows of each; they are concatenated.
pub(crate) trait WeightSource {
    /// Whether there is a weight called `name`.
    fn contains(&self, name: &str) -> bool;

    /// The tensors of shapes `[rows, columns]` as one matrix.
    ///
    /// # Errors
    /// [`Error::BadField`] for one that is missing or of another shape.
    fn matrix(&self, parts: &[(String, usize)], columns: usize) -> Result<Matrix>;

    /// The values of the tensors of shapes `[rows]`.
    ///
    /// # Errors
    /// As [`matrix`](Self::matrix).
    fn vector(&self, parts: &[(String, usize)]) -> Result<Vec<f32>>;
}

/// A decoder with its dtype, and for a GGUF file the types that its weights are stored in.
pub(crate) struct LoadedDecoder {
    pub(crate) decoder: Decoder,
    pub(crate) dtype: DType,
    pub(crate) weight_types: Vec<WeightType>,
}

/// Reads all weights of the decoder that `config` describes.
///
/// # Errors
/// [`Error::BadField`] names a weight that is missing or of another shape than the configuration says.
pub(crate) fn decoder(source: &dyn WeightSource, config: &ModelConfig) -> Result<Decoder> {
    // Checkpoints of embedding models lack the prefix.
    let prefix = if source.contains("model.embed_tokens.weight") { "model." } else { "" };
    let reader = DecoderReader { source, config };
    let (vocab, hidden) = (config.vocab_size, config.hidden_size);
    let mut layers = Vec::with_capacity(config.n_layers);
    for i in 0..config.n_layers {
        layers.push(reader.layer(&format!("{prefix}layers.{i}"), config.layer_windows[i])?);
    }
    let embedding = Arc::new(source.matrix(&[(format!("{prefix}embed_tokens.weight"), vocab)], hidden)?);
    let (gemma, head_dim) = (config.gemma.as_ref(), config.head_dim());
    let has_head = generates(config, |name| source.contains(name));
    let head_modules: Modules = if has_head { [("lm_head".into(), 0..vocab)].into() } else { [].into() };
    let head = |weights| Linear::new(weights, None, head_modules);
    let window_rope = |theta| RopeConfig { theta, scaling: RopeScaling::Default };
    Ok(Decoder {
        embedding_scale: gemma.map(|_| (hidden as f32).sqrt()),
        layers,
        norm: reader.norm(&format!("{prefix}norm"), hidden)?,
        head: match has_own_head(source, config) {
            true => head(Arc::new(source.matrix(&[(HEAD.into(), vocab)], hidden)?)),
            false => head(Arc::clone(&embedding)),
        },
        embedding,
        logits_softcap: gemma.and_then(|gemma| gemma.logits_softcap).map(|cap| cap as f32),
        rms_norm_eps: config.norm_eps as f32,
        rotary: Arc::new(Rotary::new(&config.rope, head_dim)),
        window_rotary: gemma
            .and_then(|gemma| gemma.window_rope_theta)
            .map(|theta| Arc::new(Rotary::new(&window_rope(theta), head_dim))),
        scoring: Scoring {
            scale: (1.0 / gemma.map_or(head_dim as f64, |gemma| gemma.query_scale).sqrt()) as f32,
            softcap: gemma.and_then(|gemma| gemma.attention_softcap).map(|cap| cap as f32),
        },
        activation: if gemma.is_some() { GateActivation::GeluTanh } else { GateActivation::Silu },
        heads: Heads { queries: config.n_heads, keys: config.n_kv_heads, head_dim },
        kv_dtype: KvDType::F32,
        scratch: Arc::default(),
    })
}

/// The head, where it is not the embedding.
pub(crate) const HEAD: &str = "lm_head.weight";

/// Whether there is to be a head beside the embedding.
fn has_own_head(source: &dyn WeightSource, config: &ModelConfig) -> bool {
    !config.tie_word_embeddings && generates(config, |name| source.contains(name))
}

/// Whether the model of a checkpoint that has what `contains` says generates text. Embedding models do not: they see both ways, or
/// are published as the bare decoder, whose names lack the prefix.
pub(crate) fn generates(config: &ModelConfig, contains: impl Fn(&str) -> bool) -> bool {
    let has_head = || config.tie_word_embeddings || contains(HEAD) || contains("model.embed_tokens.weight");
    config.is_causal && has_head()
}

/// Reads the weights that `config` describes from `source`.
struct DecoderReader<'c> {
    source: &'c dyn WeightSource,
    config: &'c ModelConfig,
}

impl DecoderReader<'_> {
    fn layer(&self, name: &str, window: Option<usize>) -> Result<Layer> {
        let config = self.config;
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let (queries, keys) = (config.n_heads * config.head_dim(), config.n_kv_heads * config.head_dim());
        let part = |block: &str, projection: &str, rows: usize| (format!("{name}.{block}.{projection}_proj"), rows);
        let attention = |projection: &str, rows: usize| part("self_attn", projection, rows);
        let qkv = Parts {
            separate: vec![attention("q", queries), attention("k", keys), attention("v", keys)],
            packed: Some(attention("qkv", queries + 2 * keys)),
        };
        let gate_up = Parts {
            separate: vec![part("mlp", "gate", inner), part("mlp", "up", inner)],
            packed: Some(part("mlp", "gate_up", 2 * inner)),
        };
        let alone = |part: (String, usize)| Parts { separate: vec![part], packed: None };
        // Gemma has norms on both sides of a block, and `post_attention_layernorm` is one of the four.
        let norm = |norm: &str| self.norm(&format!("{name}.{norm}_layernorm"), hidden);
        let (post_attention_norm, mlp_norm, post_mlp_norm) = match &config.gemma {
            Some(_) => (Some(norm("post_attention")?), norm("pre_feedforward")?, Some(norm("post_feedforward")?)),
            None => (None, norm("post_attention")?, None),
        };
        Ok(Layer {
            attention_norm: norm("input")?,
            qkv: self.linear(&qkv, hidden, config.qkv_bias)?,
            qk_norms: match config.qk_norm {
                true => Some((
                    self.norm(&format!("{name}.self_attn.q_norm"), config.head_dim())?,
                    self.norm(&format!("{name}.self_attn.k_norm"), config.head_dim())?,
                )),
                false => None,
            },
            attention_out: self.linear(&alone(attention("o", hidden)), queries, config.attention_output_bias)?,
            post_attention_norm,
            mlp_norm,
            gate_up: self.linear(&gate_up, hidden, config.mlp_bias)?,
            down: self.linear(&alone(part("mlp", "down", hidden)), inner, config.mlp_bias)?,
            post_mlp_norm,
            window,
        })
    }

    /// Projections of the same input as one.
    fn linear(&self, parts: &Parts, inputs: usize, biased: bool) -> Result<Linear> {
        // Phi-3's are published as one.
        let published = match &parts.packed {
            Some(packed) if self.config.architecture == Architecture::Phi3 => std::slice::from_ref(packed),
            _ => &parts.separate,
        };
        let named = |what: &str| published.iter().map(|(name, rows)| (format!("{name}.{what}"), *rows)).collect::<Vec<_>>();
        let bias = match biased {
            true => Some(self.source.vector(&named("bias"))?.into()),
            false => None,
        };
        Ok(Linear::new(Arc::new(self.source.matrix(&named("weight"), inputs)?), bias, parts.modules()))
    }

    /// The weight of the norm `name`, `[n]`. Gemma's are published less one.
    fn norm(&self, name: &str, n: usize) -> Result<NormWeight> {
        let mut weight = self.source.vector(&[(format!("{name}.weight"), n)])?;
        if self.config.gemma.is_some() {
            weight.iter_mut().for_each(|weight| *weight += 1.0);
        }
        Ok(weight.into())
    }
}

/// Projections of the same input, `(name, outputs)` each.
struct Parts {
    separate: Vec<(String, usize)>,
    /// All of them under one name, which some families have.
    packed: Option<(String, usize)>,
}

impl Parts {
    /// Both kinds of names with their outputs.
    fn modules(&self) -> Modules {
        let mut first = 0;
        let separate = self.separate.iter().map(|(name, n)| {
            first += n;
            (name.clone(), first - n..first)
        });
        separate.chain(self.packed.as_ref().map(|(name, n)| (name.clone(), 0..*n))).collect()
    }
}

/// The weights of a checkpoint.
pub(crate) struct CheckpointSource<'c> {
    pub(crate) checkpoint: &'c Checkpoint,
    /// Names the weights in messages.
    pub(crate) file: &'c str,
    /// The bits to which matrices are quantised, if they are.
    pub(crate) bits: Option<Bits>,
    /// How products with quantised matrices are computed.
    pub(crate) numerics: Numerics,
    /// The memory of matrices.
    pub(crate) arena: &'c Arena,
}

impl WeightSource for CheckpointSource<'_> {
    fn contains(&self, name: &str) -> bool {
        self.checkpoint.contains(name)
    }

    fn matrix(&self, parts: &[(String, usize)], columns: usize) -> Result<Matrix> {
        let rows = parts.iter().map(|(_, rows)| rows).sum();
        let stored = match self.bits {
            None => self.floats(parts, columns)?,
            Some(bits) => self.quantized(bits, parts, columns, &|_| Ok(()))?,
        };
        Ok(Matrix::new(stored, rows, columns, self.numerics))
    }

    fn vector(&self, parts: &[(String, usize)]) -> Result<Vec<f32>> {
        self.values(parts, &[])
    }
}

impl CheckpointSource<'_> {
    /// In their stored dtype if all parts have the same, otherwise widened to f32.
    fn floats(&self, parts: &[(String, usize)], columns: usize) -> Result<Stored> {
        let stored = self.checked_all(parts, &[columns])?;
        let first = stored.first().map_or(DType::F32, |tensor| tensor.dtype);
        let dtype = if stored.iter().all(|tensor| tensor.dtype == first) { first } else { DType::F32 };
        let halves = |out: &mut [u16]| self.read(&stored, out, |_, bytes, out| copy_halves(bytes, out));
        Ok(Stored::floats(dtype, self.arena, number(&stored), halves, |out| self.read(&stored, out, widen)))
    }

    /// Quantises row by row, so that the matrix never exists as floats. `go_on` is told the bytes read as they are done.
    pub(crate) fn quantized(
        &self,
        bits: Bits,
        parts: &[(String, usize)],
        columns: usize,
        go_on: &dyn Fn(usize) -> Result<()>,
    ) -> Result<Stored> {
        let stored = self.checked_blocks(parts, columns)?;
        let rows: usize = parts.iter().map(|(_, rows)| rows).sum();
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
                go_on(bytes.len())?;
            }
        }
        Ok(Stored::Blocks { bits, codes, scales })
    }

    /// The tensors of shapes `[rows, columns]`, whose rows are whole blocks.
    pub(crate) fn checked_blocks(&self, parts: &[(String, usize)], columns: usize) -> Result<Vec<StoredTensor<'_>>> {
        if columns.is_multiple_of(BLOCK) {
            return self.checked_all(parts, &[columns]);
        }
        Err(Error::Unsupported {
            what: format!("quantising `{}` of `{}`", parts[0].0, self.file),
            reason: format!("its rows have {columns} weights, which is not a multiple of {BLOCK}"),
            hint: Some(Remedy::UseDType(vec![DType::F32]).into()),
        })
    }

    /// The values of the tensors of shapes `[rows, inner...]`, concatenated.
    pub(crate) fn values(&self, parts: &[(String, usize)], inner: &[usize]) -> Result<Vec<f32>> {
        let stored = self.checked_all(parts, inner)?;
        let mut values = vec![0.0; number(&stored)];
        self.read(&stored, &mut values, widen);
        Ok(values)
    }

    /// Calls `write` to convert the bytes of all tensors to values, concatenated.
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

    /// The tensors of shapes `[rows, inner...]`. Shapes are checked against the header before memory is allocated for them.
    fn checked_all(&self, parts: &[(String, usize)], inner: &[usize]) -> Result<Vec<StoredTensor<'_>>> {
        parts.iter().map(|(name, rows)| self.checked(name, &[&[*rows], inner].concat())).collect()
    }

    fn checked(&self, name: &str, shape: &[usize]) -> Result<StoredTensor<'_>> {
        let stored = self.checkpoint.tensor(name)?;
        if stored.shape == shape {
            return Ok(stored);
        }
        let problem = format!("the weight is {:?}, but the configuration makes it {shape:?}", stored.shape);
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

/// Bytes of a file that are read before its pages are released.
pub(crate) const READ_TOGETHER: usize = 32 << 20;

/// Values that a thread widens at a time.
const WIDENED_TOGETHER: usize = 1 << 16;

/// Bytes of a stored value.
pub(crate) fn bytes_of(dtype: DType) -> usize {
    if dtype == DType::F32 { 4 } else { 2 }
}

/// The number of values of all tensors.
fn number(stored: &[StoredTensor<'_>]) -> usize {
    stored.iter().map(|tensor| tensor.shape.iter().product::<usize>()).sum()
}

/// Copies the bits of 16-bit values from `bytes` to `out`, which is as long.
pub(crate) fn copy_halves(bytes: &[u8], out: &mut [u16]) {
    out.iter_mut().zip(bytes.as_chunks().0).for_each(|(out, bytes)| *out = u16::from_le_bytes(*bytes));
}

/// Writes the values in `bytes` as f32 to `out`, which is as long.
pub(crate) fn widen(dtype: DType, bytes: &[u8], out: &mut [f32]) {
    match dtype {
        DType::F32 => out.iter_mut().zip(bytes.as_chunks().0).for_each(|(out, bytes)| *out = f32::from_le_bytes(*bytes)),
        DType::F16 => {
            out.iter_mut().zip(bytes.as_chunks().0).for_each(|(out, bytes)| *out = f16::from_le_bytes(*bytes).to_f32());
        }
        // A bf16 is the upper half of an f32.
        _ => out
            .iter_mut()
            .zip(bytes.as_chunks().0)
            .for_each(|(out, bytes)| *out = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16)),
    }
}
