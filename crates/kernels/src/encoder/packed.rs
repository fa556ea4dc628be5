//! Linear layers of encoders: weights are packed once, when they are loaded, in the form in which tiles of tokens meet them.
//!
//! The tokens are in the lanes of vectors, and the weights are what the lanes are multiplied with: each sum is of one token and runs over
//! the inputs in their order, so it does not depend on the other tokens.

use rayon::prelude::*;
use tandem_core::DType;
use tandem_core::arena::{Arena, Slab};
use tandem_core::backend::Numerics;
use tandem_core::config::Activation;

use super::columns::Columns;
use super::pairs::{round_columns, round_weights, widen};
use crate::elementwise::activate;
use crate::isa::{Isa, vectorized};
use crate::kernel::PairProducts;
use crate::quantize::Bits;
use crate::quantized_activations::{QuantizedActivations, RowGroup, pack_columns};
use crate::tiles::{Lanes, PACKED_INPUTS, PackedTile, TILE};

/// The most rows of weights in a group, at any isa.
const MAX_GROUP: usize = PairProducts::INPUTS;

/// Columns of weights whose products are summed before they are added to the others: so rounding errors stay small.
const SLICE: usize = 448;

/// Blocks of tokens that meet a group of weights while it is in the nearest cache. Their inputs are in the second.
const BLOCKS_TOGETHER: usize = 4;

/// The least products that are worth a task of their own, some ten microseconds.
const TASK_PRODUCTS: usize = 1 << 19;

/// A linear layer, `[outputs, inputs]`.
pub struct PackedLinear {
    weights: PackedWeights,
    /// `[outputs]`
    bias: Option<Vec<f32>>,
    outputs: usize,
    inputs: usize,
    isa: Isa,
}

enum PackedWeights {
    /// Groups of rows, `[inputs, rows]` each.
    Floats(Slab<f32>),
    /// Rounded to bf16, in pairs: groups of rows, `[inputs / 2, rows]` each. Where the processor lacks products of those, they are widened.
    Pairs(Slab<u32>, Option<PairProducts>),
    /// Of 8 bits, in groups of rows.
    Bytes(Vec<RowGroup<'static>>),
}

/// What is done with the output of a linear layer.
#[derive(Clone, Copy, Debug)]
pub enum Then {
    /// It is written.
    Write,
    /// Its activation is written.
    Activate(Activation),
    /// It is added to what is there.
    Add,
}

/// The inputs of a product.
struct Operand<'x> {
    /// The lanes of each block that hold tokens.
    lanes: Vec<Lanes>,
    values: OperandValues<'x>,
}

/// Each block in the form that the weights need.
enum OperandValues<'x> {
    /// `[inputs, TILE]` each.
    Floats(Vec<&'x [f32]>),
    /// Rounded to bf16: `[inputs / 2, TILE]` each.
    Pairs(&'x [Vec<[u32; TILE]>]),
    /// The same, widened.
    Widened(&'x [Vec<f32>]),
    Bytes(&'x [PackedTile]),
}

/// Memory for inputs, reused by later products.
#[derive(Default)]
pub struct PackedInputs {
    tiles: Vec<PackedTile>,
    pairs: Vec<Vec<[u32; TILE]>>,
    widened: Vec<Vec<f32>>,
}

impl PackedLinear {
    /// Packs `weights`, `[outputs, inputs]`, rounded to `dtype`, into `arena`. With exact numerics the inputs of quantised weights stay floats, and so they
    /// are widened.
    pub fn new(
        (weights, inputs): (&[f32], usize),
        bias: Option<Vec<f32>>,
        (dtype, numerics): (DType, Numerics),
        arena: &Arena,
    ) -> Self {
        let isa = Isa::current();
        let outputs = weights.len() / inputs;
        let weights = match dtype {
            DType::Int8 => {
                let rounded = QuantizedActivations::new(weights, inputs);
                match numerics {
                    Numerics::Exact => PackedWeights::Floats(pack_floats(&rounded.widened(), inputs, isa.tile_inputs(), arena)),
                    Numerics::Fast => PackedWeights::Bytes(rounded.groups(Bits::Eight.offset(), PACKED_INPUTS)),
                }
            }
            DType::Bf16 => PackedWeights::Pairs(round_weights(weights, inputs, isa.tile_inputs(), arena), PairProducts::of(isa)),
            _ => PackedWeights::Floats(pack_floats(weights, inputs, isa.tile_inputs(), arena)),
        };
        Self { weights, bias, outputs, inputs, isa }
    }

    /// Products of pairs of bf16, where it uses them or may: whether its weights are rounded.
    pub fn pair_products(&self) -> Option<PairProducts> {
        match self.weights {
            PackedWeights::Floats(_) => None,
            PackedWeights::Pairs(_, products) => products,
            PackedWeights::Bytes(_) => PairProducts::of(self.isa),
        }
    }

    /// Width of its output.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Rows of weights in a group.
    fn group(&self) -> usize {
        match self.weights {
            PackedWeights::Floats(_) | PackedWeights::Pairs(..) => self.isa.tile_inputs(),
            PackedWeights::Bytes(_) => PACKED_INPUTS,
        }
    }

    /// Applies it to the tokens of `x`, and does with the result what `then` says; `out` has room for it.
    pub fn forward(&self, x: &Columns, then: Then, out: &mut Columns, packed: &mut PackedInputs) {
        assert!(x.width() == self.inputs && out.width() == self.outputs && x.n_tokens() == out.n_tokens(), "shapes agree");
        let operand = self.operand(x, packed);
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

    fn operand<'x>(&self, x: &'x Columns, packed: &'x mut PackedInputs) -> Operand<'x> {
        let n_blocks = x.blocks().len();
        let values = match self.weights {
            PackedWeights::Floats(_) => OperandValues::Floats(x.blocks().collect()),
            PackedWeights::Pairs(_, products) => {
                let blocks: Vec<&[f32]> = x.blocks().collect();
                packed.pairs.resize_with(packed.pairs.len().max(n_blocks), Vec::new);
                packed.pairs.par_iter_mut().zip(&blocks).for_each(|(pairs, block)| round_columns(block, pairs));
                if products.is_some() {
                    OperandValues::Pairs(&packed.pairs)
                } else {
                    packed.widened.resize_with(packed.widened.len().max(n_blocks), Vec::new);
                    packed.widened.par_iter_mut().zip(&packed.pairs[..n_blocks]).for_each(|(widened, pairs)| {
                        widened.resize(2 * pairs.len() * TILE, 0.0);
                        widen(pairs.as_flattened(), TILE, widened);
                    });
                    OperandValues::Widened(&packed.widened)
                }
            }
            PackedWeights::Bytes(_) => {
                if packed.tiles.len() < n_blocks {
                    packed.tiles.resize_with(n_blocks, || PackedTile::new(Bits::Eight, 0));
                }
                let tiles = &mut packed.tiles[..n_blocks];
                tiles.par_iter_mut().zip(x.blocks().collect::<Vec<_>>()).for_each(|(tile, block)| pack_columns(block, tile));
                OperandValues::Bytes(tiles)
            }
        };
        Operand { lanes: (0..n_blocks).map(|block| x.lanes(block)).collect(), values }
    }

    /// The group of `n` rows from `row` on.
    fn pairs_of<'w>(&self, weights: &'w [u32], row: usize, n: usize) -> &'w [u32] {
        let per_row = self.inputs.div_ceil(2);
        &weights[row * per_row..(row + n) * per_row]
    }

    /// The outputs from `first_row` on of the blocks from `first_block` on; `out` has a slice for each, `[rows, TILE]`.
    fn run(&self, operand: &Operand<'_>, first_row: usize, first_block: usize, then: Then, out: &mut [&mut [f32]]) {
        let group = self.group();
        let n_rows = out[0].len() / TILE;
        for start in (0..n_rows).step_by(group) {
            let n = group.min(n_rows - start);
            let row = first_row + start;
            let bias = self.bias.as_ref().map(|bias| &bias[row..row + n]);
            for (block, out) in (first_block..).zip(out.iter_mut()) {
                let out = &mut out[start * TILE..(start + n) * TILE];
                start_sums(out, bias, matches!(then, Then::Add));
                let lanes = operand.lanes[block];
                match (&self.weights, &operand.values) {
                    (PackedWeights::Floats(weights), OperandValues::Floats(x)) => {
                        let own = &weights[row * self.inputs..(row + n) * self.inputs];
                        let slices = x[block].chunks(SLICE * TILE).zip(own.chunks(SLICE * n));
                        slices.for_each(|(x, weights)| self.isa.columns_tile(x, weights, n, lanes, out));
                    }
                    (PackedWeights::Pairs(weights, Some(products)), OperandValues::Pairs(x)) => {
                        let slices = x[block].chunks(SLICE / 2).zip(self.pairs_of(weights, row, n).chunks(SLICE / 2 * n));
                        slices.for_each(|(x, weights)| products.add(x, weights, n, lanes, out));
                    }
                    (PackedWeights::Pairs(weights, _), OperandValues::Widened(x)) => {
                        widened_products(self.isa, &x[block], self.pairs_of(weights, row, n), n, lanes, out);
                    }
                    (PackedWeights::Bytes(groups), OperandValues::Bytes(x)) => {
                        let out = out.as_chunks_mut().0;
                        self.isa.packed_products(&x[block], &groups[row / group], lanes, out);
                    }
                    _ => unreachable!("an operand has the form of the weights"),
                }
                if let Then::Activate(activation) = then {
                    activate(activation, out);
                }
            }
        }
    }
}

/// Adds to `sums`, `[n, TILE]`, the products of `x`, `[inputs, TILE]`, with the pairs `weights`, `[inputs / 2, n]`, which are widened.
#[inline(never)]
fn widened_products(isa: Isa, x: &[f32], weights: &[u32], n: usize, lanes: Lanes, sums: &mut [f32]) {
    let mut floats = [0.0; SLICE * MAX_GROUP];
    for (x, weights) in x.chunks(SLICE * TILE).zip(weights.chunks(SLICE / 2 * n)) {
        let floats = &mut floats[..2 * weights.len()];
        widen(weights, n, floats);
        isa.columns_tile(x, floats, n, lanes, sums);
    }
}

vectorized! {
    /// What the sums of rows start with, `[rows, TILE]`: the bias of each, beside what is there where they are added to it.
    fn start_sums(out: &mut [f32], bias: Option<&[f32]>, adds: bool) {
        for (i, out) in out.as_chunks_mut::<TILE>().0.iter_mut().enumerate() {
            let bias = bias.map_or(0.0, |bias| bias[i]);
            if adds {
                out.iter_mut().for_each(|out| *out += bias);
            } else {
                *out = [bias; TILE];
            }
        }
    }
}

/// `weights`, `[outputs, inputs]`, in groups of `group` rows, `[inputs, rows]` each.
fn pack_floats(weights: &[f32], inputs: usize, group: usize, arena: &Arena) -> Slab<f32> {
    let mut packed = arena.zeros(weights.len());
    packed.par_chunks_mut(group * inputs).zip(weights.par_chunks(group * inputs)).for_each(|(packed, rows)| {
        let n = rows.len() / inputs;
        for (i, row) in rows.chunks_exact(inputs).enumerate() {
            packed[i..].iter_mut().step_by(n).zip(row).for_each(|(packed, weight)| *packed = *weight);
        }
    });
    packed
}
