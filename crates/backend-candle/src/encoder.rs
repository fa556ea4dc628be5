//! Encoders: BERT and its descendants. Texts are concatenated without padding, linear layers run over all of their tokens, and attention
//! over those of each text.
//!
//! A token is a column of its block (`columns`), and nothing that is computed for one depends on the others but through the attention of
//! its own text: what a text gets does not depend on its batch, to the bit.

mod device;
mod model;
mod probe;
mod weights;

use tandem_core::backend::{ProbePoint, Stage};
use tandem_core::config::Activation;
use tandem_core::{CancelToken, TokenId};
use tandem_kernels::encoder::{
    Attention, Columns, LayerNorm, PackedInputs, PackedLinear, RelativeBias, Rotation, Sequence, Then,
};
use tandem_kernels::matrix::Matrix;
use tandem_kernels::rotary::Rotary;

pub(crate) use self::device::{DeviceEncoder, DeviceEncoderModel};
pub(crate) use self::model::{EncoderModel, MOST_TOKENS};
use self::probe::Recording;
pub(crate) use self::weights::encoder;

/// An encoder with its weights.
pub(crate) struct Encoder {
    embedding: Embedding,
    layers: Vec<Layer>,
    /// The norm of the last layer's output, where norms come first.
    final_norm: Option<LayerNorm>,
    activation: Activation,
    /// The feed-forward block is `down(activation(a) * b)`, of the halves `a` and `b` of `up`.
    is_gated: bool,
    /// Norms stand before a block, and not behind the sum with its residual.
    norm_first: bool,
    relative: Option<RelativeBias>,
    /// Rotary positions of layers that see all, and of those with a window.
    rotary: Option<[Rotary; 2]>,
    n_heads: usize,
    head_dim: usize,
    hidden_size: usize,
}

/// What a token's id, position and type become.
struct Embedding {
    /// `[vocab_size, hidden_size]`
    words: Matrix,
    /// `[first_position + max_tokens, hidden_size]`
    positions: Option<Vec<f32>>,
    /// The row of the first token's position.
    first_position: usize,
    /// `[n_token_types, hidden_size]`
    types: Option<Vec<f32>>,
    norm: LayerNorm,
}

/// One layer.
struct Layer {
    /// Query, key and value in one: `[3 * hidden_size, hidden_size]`.
    qkv: PackedLinear,
    attention_out: PackedLinear,
    attention_norm: Option<LayerNorm>,
    up: PackedLinear,
    down: PackedLinear,
    mlp_norm: LayerNorm,
    /// Tokens see those that are less than so many positions away; `None` for all.
    window: Option<usize>,
}

/// Texts that are computed together.
pub(crate) struct Texts<'b> {
    /// Their tokens, one text after the other.
    pub(crate) ids: &'b [TokenId],
    /// The type of each token; `None` stands for type 0.
    pub(crate) types: Option<&'b [u32]>,
    /// Tokens of each text.
    pub(crate) lengths: &'b [usize],
}

/// Memory of a pass, reused by later ones.
#[derive(Default)]
pub(crate) struct Buffers {
    states: Columns,
    normed: Columns,
    qkv: Columns,
    context: Columns,
    inner: Columns,
    gated: Columns,
    packed: PackedInputs,
    recording: Recording,
}

impl Encoder {
    /// Writes the states of the tokens of `texts` after the last norm to `out`, `[tokens, hidden_size]`; `None` once `cancel` is set.
    pub(crate) fn forward(&self, texts: &Texts<'_>, cancel: &CancelToken, buffers: &mut Buffers, out: &mut [f32]) -> Option<()> {
        let sequences = sequences(texts.lengths);
        self.embed(texts, &sequences, &mut buffers.states);
        buffers.record(None, Stage::Embedding);
        let rotations = self.rotations(&sequences);
        for (index, layer) in self.layers.iter().enumerate() {
            if cancel.is_cancelled() {
                return None;
            }
            let rotation = rotations.as_ref().map(|[all, window]| if layer.window.is_some() { window } else { all });
            self.attention_block((index, layer), &sequences, rotation, buffers);
            buffers.record(Some(index), Stage::AttentionResidual);
            self.mlp_block((index, layer), buffers);
            buffers.record(Some(index), Stage::MlpResidual);
        }
        if let Some(norm) = &self.final_norm {
            norm.apply(&mut buffers.states);
            buffers.record(None, Stage::FinalNorm);
        }
        buffers.states.write_rows(out);
        (!cancel.is_cancelled()).then_some(())
    }

    fn embed(&self, texts: &Texts<'_>, sequences: &[Sequence], states: &mut Columns) {
        let Embedding { words, positions, first_position, types, norm } = &self.embedding;
        let width = self.hidden_size;
        let mut rows = vec![0.0; texts.ids.len() * width];
        words.view().select(texts.ids, &mut rows);
        let mut add = |token: usize, table: &[f32], row: usize| {
            let own = rows[token * width..][..width].iter_mut();
            own.zip(&table[row * width..][..width]).for_each(|(value, added)| *value += added);
        };
        for sequence in sequences {
            for i in 0..sequence.n_tokens {
                let token = sequence.start + i;
                if let Some(table) = types {
                    add(token, table, texts.types.map_or(0, |types| types[token] as usize));
                }
                if let Some(table) = positions {
                    add(token, table, first_position + i);
                }
            }
        }
        states.reset(width, texts.ids.len());
        states.fill_from_rows(&rows);
        norm.apply(states);
    }

    /// Adds the output of the attention block to the states.
    fn attention_block(
        &self,
        (index, layer): (usize, &Layer),
        sequences: &[Sequence],
        rotation: Option<&Rotation>,
        buffers: &mut Buffers,
    ) {
        let Buffers { states, normed, qkv, context, packed, recording, .. } = buffers;
        let at = |stage| ProbePoint { layer: Some(index), stage };
        let n_tokens = states.n_tokens();
        qkv.reset(3 * self.hidden_size, n_tokens);
        match layer.attention_norm.as_ref().filter(|_| self.norm_first) {
            Some(norm) => {
                norm.write(states, normed);
                recording.add(at(Stage::AttentionNorm), normed);
                layer.qkv.forward(normed, Then::Write, qkv, packed);
            }
            None => layer.qkv.forward(states, Then::Write, qkv, packed),
        }
        recording.add_parts(&[at(Stage::Query), at(Stage::Key), at(Stage::Value)], qkv, self.hidden_size);
        if let Some(rotation) = rotation {
            rotation.apply(qkv, 2 * self.n_heads, self.head_dim);
            recording.add_parts(&[at(Stage::QueryRope), at(Stage::KeyRope)], qkv, self.hidden_size);
        }
        let attention = Attention {
            n_heads: self.n_heads,
            head_dim: self.head_dim,
            window: layer.window,
            relative: self.relative.as_ref(),
            products: layer.qkv.pair_products(),
        };
        context.reset(self.hidden_size, n_tokens);
        attention.run(qkv, sequences, context);
        recording.add(at(Stage::AttentionContext), context);
        recording.add_product(at(Stage::AttentionOutput), &layer.attention_out, context);
        layer.attention_out.forward(context, Then::Add, states, packed);
        if let Some(norm) = layer.attention_norm.as_ref().filter(|_| !self.norm_first) {
            norm.apply(states);
        }
    }

    /// Adds the output of the feed-forward block to the states.
    fn mlp_block(&self, (index, layer): (usize, &Layer), buffers: &mut Buffers) {
        let Buffers { states, normed, inner, gated, packed, recording, .. } = buffers;
        let at = |stage| ProbePoint { layer: Some(index), stage };
        let n_tokens = states.n_tokens();
        inner.reset(layer.up.outputs(), n_tokens);
        let input = if self.norm_first {
            layer.mlp_norm.write(states, normed);
            recording.add(at(Stage::MlpNorm), normed);
            &*normed
        } else {
            &*states
        };
        if self.is_gated {
            layer.up.forward(input, Then::Write, inner, packed);
            recording.add_parts(&[at(Stage::Gate), at(Stage::Up)], inner, layer.up.outputs() / 2);
            inner.write_gated(self.activation, gated);
            recording.add(at(Stage::Activation), gated);
            recording.add_product(at(Stage::Down), &layer.down, gated);
            layer.down.forward(gated, Then::Add, states, packed);
        } else {
            recording.add_product(at(Stage::Up), &layer.up, input);
            layer.up.forward(input, Then::Activate(self.activation), inner, packed);
            recording.add(at(Stage::Activation), inner);
            recording.add_product(at(Stage::Down), &layer.down, inner);
            layer.down.forward(inner, Then::Add, states, packed);
        }
        if !self.norm_first {
            layer.mlp_norm.apply(states);
        }
    }

    /// The rotations of all blocks in layers that see all, and in those with a window.
    fn rotations(&self, sequences: &[Sequence]) -> Option<[Rotation; 2]> {
        let rotary = self.rotary.as_ref()?;
        let positions: Vec<usize> = sequences.iter().flat_map(|sequence| 0..sequence.n_tokens).collect();
        let n_positions = sequences.iter().map(|sequence| sequence.n_tokens).max().unwrap_or(0);
        Some(rotary.each_ref().map(|rotary| Rotation::new(&rotary.table(n_positions), &positions)))
    }
}

impl Buffers {
    /// Records the states.
    fn record(&mut self, layer: Option<usize>, stage: Stage) {
        self.recording.add(ProbePoint { layer, stage }, &self.states);
    }
}

/// Where each text of `lengths` lies among the columns.
fn sequences(lengths: &[usize]) -> Vec<Sequence> {
    let mut start = 0;
    let of = |n_tokens: &usize| {
        let sequence = Sequence { start, n_tokens: *n_tokens };
        start += n_tokens;
        sequence
    };
    lengths.iter().map(of).collect()
}
