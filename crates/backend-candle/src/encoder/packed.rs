//! Linear layers of encoders: weights are packed once, when they are loaded, in the form in which tiles of tokens meet them.
//!
//! The tokens are in the lanes of vectors, and the weights are what the lanes are multiplied with: each sum is of one token and runs over
//! the inputs in their order, so it does not depend on the other tokens.

use rayon::prelude::*;
use tandem_core::DType;
use tandem_core::config::Activation;

use super::columns::Columns;
use crate::elementwise::activate;
use crate::kernel::{Isa, PACKED_INPUTS, PackedTile, TILE, vectorized};
use crate::quantize::{BLOCK, Bits};
use crate::quantized_activations::{QuantizedActivations, RowGroup, pack_columns};

/// The most rows of weights that meet a tile at once, at any isa.
const MAX_GROUP: usize = 12;

/// Columns of weights whose products are summed before they are added to the others: so rounding errors stay small.
const SLICE: usize = 448;

/// Blocks of tokens that meet a group of weights while it is in the nearest cache. Their inputs are in the second.
const BLOCKS_TOGETHER: usize = 4;

/// The least products that are worth a task of their own, some ten microseconds.
const TASK_PRODUCTS: usize = 1 << 19;

/// A linear layer, `[outputs, inputs]`.
pub(super) struct PackedLinear {
    weights: PackedWeights,
    /// `[outputs]`
    bias: Option<Vec<f32>>,
    outputs: usize,
    inputs: usize,
    isa: Isa,
}

enum PackedWeights {
    /// Groups of rows, `[inputs, rows]` each.
    Floats(Vec<f32>),
    /// Of 8 bits, in groups of rows.
    Bytes(Vec<RowGroup>),
}

/// What is done with the output of a linear layer.
#[derive(Clone, Copy)]
pub(super) enum Then {
    /// It is written.
    Write,
    /// Its activation is written.
    Activate(Activation),
    /// It is added to what is there.
    Add,
}

/// The inputs of a product in the form that its weights need.
enum Operand<'x> {
    /// `[inputs, TILE]` each.
    Floats(Vec<&'x [f32]>),
    Bytes(Vec<PackedTile>),
}

impl PackedLinear {
    /// Packs `weights`, `[outputs, inputs]`: in `bits`, 8 of them, or as floats.
    pub(super) fn new(isa: Isa, weights: &[f32], inputs: usize, bias: Option<Vec<f32>>, dtype: DType) -> Self {
        let outputs = weights.len() / inputs;
        let weights = match dtype {
            DType::Int8 => {
                PackedWeights::Bytes(QuantizedActivations::new(weights, inputs).groups(Bits::Eight.offset(), PACKED_INPUTS))
            }
            _ => PackedWeights::Floats(pack_floats(weights, inputs, isa.tile_inputs())),
        };
        Self { weights, bias, outputs, inputs, isa }
    }

    /// Width of its output.
    pub(super) fn outputs(&self) -> usize {
        self.outputs
    }

    /// Rows of weights in a group.
    fn group(&self) -> usize {
        match self.weights {
            PackedWeights::Floats(_) => self.isa.tile_inputs(),
            PackedWeights::Bytes(_) => PACKED_INPUTS,
        }
    }

    /// Applies it to the tokens of `x`, and does with the result what `then` says; `out` has room for it.
    pub(super) fn forward(&self, x: &Columns, then: Then, out: &mut Columns) {
        assert!(x.width() == self.inputs && out.width() == self.outputs && x.n_tokens() == out.n_tokens(), "shapes agree");
        let operand = self.operand(x);
        let n_blocks = x.blocks().len();
        let products = n_blocks * TILE * self.inputs * self.outputs;
        let n_groups = self.outputs.div_ceil(self.group());
        // Tasks divide the outputs, or the tokens where there are many.
        let n_tasks = rayon::current_num_threads().min(products / TASK_PRODUCTS).max(1);
        let n_parts = if n_blocks >= n_tasks * BLOCKS_TOGETHER { 1 } else { n_tasks };
        let rows = n_groups.div_ceil(n_parts) * self.group();
        let mut tasks: Vec<(usize, usize, Vec<&mut [f32]>)> = Vec::new();
        for (part, blocks) in out.row_parts(rows).into_iter().enumerate() {
            let mut blocks = blocks.into_iter();
            for first in (0..n_blocks).step_by(BLOCKS_TOGETHER) {
                tasks.push((part * rows, first, blocks.by_ref().take(BLOCKS_TOGETHER).collect()));
            }
        }
        match tasks.len() {
            1 => tasks.into_iter().for_each(|(row, block, mut out)| self.run(&operand, row, block, then, &mut out)),
            _ => {
                let tasks = tasks.into_par_iter().with_max_len(1);
                tasks.for_each(|(row, block, mut out)| self.run(&operand, row, block, then, &mut out));
            }
        }
    }

    fn operand<'x>(&self, x: &'x Columns) -> Operand<'x> {
        match self.weights {
            PackedWeights::Floats(_) => Operand::Floats(x.blocks().collect()),
            PackedWeights::Bytes(_) => Operand::Bytes(x.blocks().map(pack_columns).collect()),
        }
    }

    /// The outputs from `first_row` on of the blocks from `first_block` on; `out` has a slice for each, `[rows, TILE]`.
    fn run(&self, operand: &Operand<'_>, first_row: usize, first_block: usize, then: Then, out: &mut [&mut [f32]]) {
        let group = self.group();
        let n_rows = out[0].len() / TILE;
        for start in (0..n_rows).step_by(group) {
            let n = group.min(n_rows - start);
            let row = first_row + start;
            let bias = self.bias.as_ref().map(|bias| &bias[row..row + n]);
            for (block, out) in out.iter_mut().enumerate() {
                let mut sums = [[0.0; TILE]; MAX_GROUP];
                let sums = &mut sums[..n];
                match (&self.weights, operand) {
                    (PackedWeights::Floats(weights), Operand::Floats(x)) => {
                        let own = &weights[row * self.inputs..(row + n) * self.inputs];
                        let slices = x[first_block + block].chunks(SLICE * TILE).zip(own.chunks(SLICE * n));
                        slices.for_each(|(x, weights)| self.isa.tile(x, weights, sums.as_flattened_mut()));
                    }
                    (PackedWeights::Bytes(groups), Operand::Bytes(x)) => {
                        self.isa.packed_products(&x[first_block + block], &groups[row / group], sums);
                    }
                    _ => unreachable!("`operand` has the form of the weights"),
                }
                finish(sums.as_flattened_mut(), bias, then, &mut out[start * TILE..(start + n) * TILE]);
            }
        }
    }
}

/// Adds the bias of each row of `sums`, `[rows, TILE]`, and does the rest.
fn finish(sums: &mut [f32], bias: Option<&[f32]>, then: Then, out: &mut [f32]) {
    if let Some(bias) = bias {
        for (sums, bias) in sums.as_chunks_mut::<TILE>().0.iter_mut().zip(bias) {
            sums.iter_mut().for_each(|sum| *sum += bias);
        }
    }
    match then {
        Then::Write => out.copy_from_slice(sums),
        Then::Activate(activation) => {
            activate(activation, sums);
            out.copy_from_slice(sums);
        }
        Then::Add => add(out, sums),
    }
}

vectorized! {
    fn add(out: &mut [f32], values: &[f32]) {
        out.iter_mut().zip(values).for_each(|(out, value)| *out += value);
    }
}

/// `weights`, `[outputs, inputs]`, in groups of `group` rows, `[inputs, rows]` each.
fn pack_floats(weights: &[f32], inputs: usize, group: usize) -> Vec<f32> {
    let mut packed = vec![0.0; weights.len()];
    packed.par_chunks_mut(group * inputs).zip(weights.par_chunks(group * inputs)).for_each(|(packed, rows)| {
        let n = rows.len() / inputs;
        for (i, row) in rows.chunks_exact(inputs).enumerate() {
            packed[i..].iter_mut().step_by(n).zip(row).for_each(|(packed, weight)| *packed = *weight);
        }
    });
    packed
}

/// Whether rows of `inputs` weights can be quantised.
pub(super) fn is_whole_blocks(inputs: usize) -> bool {
    inputs.is_multiple_of(BLOCK)
}
