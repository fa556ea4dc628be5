//! The kernels in plain Rust, for processors without AVX2.

use crate::float::Float;
use crate::quantize::{BLOCK, Bits, Blocks};
use crate::quantized_activations::{BlockPair, RowGroup};
use crate::tiles::{Lanes, PackedTile, TILE};

/// Independent sums, which the compiler turns into one or two vector registers.
const LANES: usize = 8;

/// See [`Isa::products`](crate::isa::Isa::products).
pub(super) fn products<F: Float>(weights: &[F], inputs: &[f32], columns: usize, out: &mut [f32]) {
    let n = inputs.len() / columns;
    let mut wide = vec![0.0; columns];
    for (row, out) in weights.chunks_exact(columns).zip(out.chunks_exact_mut(n)) {
        // Once for all inputs.
        F::widen(row, &mut wide);
        for (input, out) in inputs.chunks_exact(columns).zip(out) {
            *out = dot(&wide, input);
        }
    }
}

/// See [`Isa::add_tiles`](crate::isa::Isa::add_tiles).
pub(super) fn add_tiles<F: Float>(tiles: &[F], inputs: &[f32], out: &mut [f32]) {
    for (tile, out) in tiles.chunks_exact(inputs.len() * TILE).zip(out.as_chunks_mut::<TILE>().0) {
        for (row, input) in tile.as_chunks::<TILE>().0.iter().zip(inputs) {
            out.iter_mut().zip(row).for_each(|(out, weight)| *out += weight.widened() * input);
        }
    }
}

/// See [`Blocks::dequantize`].
pub(super) fn dequantize(weights: Blocks<'_>, out: &mut [f32]) {
    let out = out.as_chunks_mut::<BLOCK>().0.iter_mut().zip(weights.scales);
    match weights.bits {
        Bits::Eight => out.zip(weights.codes.as_chunks::<BLOCK>().0).for_each(|((out, scale), codes)| eight(codes, *scale, out)),
        Bits::Four => {
            out.zip(weights.codes.as_chunks::<{ BLOCK / 2 }>().0).for_each(|((out, scale), codes)| four(codes, *scale, out));
        }
    }
}

fn eight(codes: &[u8; BLOCK], scale: f32, out: &mut [f32; BLOCK]) {
    const ZERO: f32 = Bits::Eight.offset() as f32;
    *out = codes.map(|code| (f32::from(code) - ZERO) * scale);
}

fn four(codes: &[u8; BLOCK / 2], scale: f32, out: &mut [f32; BLOCK]) {
    const ZERO: f32 = Bits::Four.offset() as f32;
    let (low, high) = out.split_at_mut(BLOCK / 2);
    low.iter_mut().zip(codes).for_each(|(out, code)| *out = (f32::from(code & 15) - ZERO) * scale);
    high.iter_mut().zip(codes).for_each(|(out, code)| *out = (f32::from(code >> 4) - ZERO) * scale);
}

/// See [`Isa::block_products`](crate::isa::Isa::block_products).
pub(super) fn block_products(weights: Blocks<'_>, inputs: &[f32], columns: usize, out: &mut [f32]) {
    let n = inputs.len() / columns;
    let mut floats = [0.0; BLOCK];
    out.fill(0.0);
    for (row, out) in out.chunks_exact_mut(n).enumerate() {
        for block in 0..columns / BLOCK {
            dequantize(weights.rows(row..row + 1, columns).block(block), &mut floats);
            for (input, out) in inputs.chunks_exact(columns).zip(out.iter_mut()) {
                *out += dot(&floats, &input[block * BLOCK..(block + 1) * BLOCK]);
            }
        }
    }
}

/// See [`Isa::integer_products`](crate::isa::Isa::integer_products).
pub(super) fn integer_products(weights: Blocks<'_>, inputs: &[BlockPair], columns: usize, out: &mut [f32]) {
    let per_row = columns.div_ceil(2 * BLOCK);
    let n = inputs.len() / per_row;
    out.fill(0.0);
    for (row, out) in out.chunks_exact_mut(n).enumerate() {
        for block in 0..columns / BLOCK {
            let own = weights.rows(row..row + 1, columns).block(block);
            let (codes, half) = (unsigned(own), block % 2);
            for (input, out) in inputs.chunks_exact(per_row).zip(out.iter_mut()) {
                let pair = &input[block / 2];
                let products = codes.iter().zip(&pair.codes[half]).map(|(weight, code)| i32::from(*weight) * i32::from(*code));
                *out += (pair.correction[8 * half] + products.sum::<i32>()) as f32 * (pair.scales[8 * half] * own.scales[0]);
            }
        }
    }
}

/// See [`Isa::pack`](crate::isa::Isa::pack).
pub(super) fn pack(weights: Blocks<'_>, per_row: usize, packed: &mut PackedTile) {
    packed.words.fill([0; TILE]);
    packed.scales.fill([0.0; TILE]);
    for (i, scale) in weights.scales.iter().enumerate() {
        let (row, block) = (i / per_row, i % per_row);
        packed.scales[block][row] = *scale;
        for (word, codes) in unsigned(weights.block(i)).as_chunks().0.iter().enumerate() {
            packed.words[block * BLOCK / 4 + word][row] = u32::from_le_bytes(*codes);
        }
    }
}

/// See [`Isa::packed_products`](crate::isa::Isa::packed_products).
pub(super) fn packed_products(packed: &PackedTile, inputs: &RowGroup<'_>, lanes: Lanes, out: &mut [[f32; TILE]]) {
    for (input, out) in out.iter_mut().enumerate() {
        for (row, out) in out.iter_mut().enumerate().take(lanes.number()) {
            *out += (0..packed.scales.len()).map(|block| of_block(packed, inputs, block, row, input)).sum::<f32>();
        }
    }
}

/// The product of one block of row `row` and input number `input`.
fn of_block(packed: &PackedTile, inputs: &RowGroup<'_>, block: usize, row: usize, input: usize) -> f32 {
    let words = block * BLOCK / 4..(block + 1) * BLOCK / 4;
    let pairs = words.map(|word| (packed.words[word][row].to_le_bytes(), inputs.words[word * inputs.n + input].to_le_bytes()));
    let products =
        pairs.flat_map(|(weights, codes)| (0..4).map(move |i| i32::from(weights[i]) * i32::from(codes[i].cast_signed())));
    let i = block * inputs.n + input;
    (inputs.correction[i] + products.sum::<i32>()) as f32 * (packed.scales[block][row] * inputs.scales[i])
}

/// The codes of a block, one in each byte.
fn unsigned(block: Blocks<'_>) -> [u8; BLOCK] {
    match block.bits {
        Bits::Eight => std::array::from_fn(|i| block.codes[i]),
        Bits::Four => std::array::from_fn(|i| (block.codes[i % 16] >> (i / 16 * 4)) & 15),
    }
}

/// See [`Isa::weighted_sums`](crate::isa::Isa::weighted_sums).
pub(super) fn weighted_sums<F: Float>(weights: &[f32], values: &[F], width: usize, out: &mut [f32]) {
    let n = out.len() / width;
    let mut wide = vec![0.0; width];
    for (weights, values) in weights.chunks_exact(n).zip(values.chunks_exact(width)) {
        F::widen(values, &mut wide);
        for (weight, out) in weights.iter().zip(out.chunks_exact_mut(width)) {
            out.iter_mut().zip(&wide).for_each(|(out, value)| *out += weight * value);
        }
    }
}

/// See [`Isa::tile`](crate::isa::Isa::tile).
pub(super) fn tile(weights: &[f32], inputs: &[f32], sums: &mut [f32]) {
    let n = sums.len() / TILE;
    for (weights, inputs) in weights.as_chunks::<TILE>().0.iter().zip(inputs.chunks_exact(n)) {
        for (input, sums) in inputs.iter().zip(sums.as_chunks_mut::<TILE>().0) {
            sums.iter_mut().zip(weights).for_each(|(sum, weight)| *sum += weight * input);
        }
    }
}

/// See [`Isa::columns_tile`](crate::isa::Isa::columns_tile).
pub(super) fn columns_tile(columns: &[f32], inputs: &[f32], stride: usize, lanes: Lanes, sums: &mut [f32]) {
    for (columns, inputs) in columns.as_chunks::<TILE>().0.iter().zip(inputs.chunks(stride)) {
        for (input, sums) in inputs.iter().zip(sums.as_chunks_mut::<TILE>().0) {
            sums.iter_mut().zip(columns).take(lanes.number()).for_each(|(sum, column)| *sum += column * input);
        }
    }
}

/// See [`Isa::transpose`](crate::isa::Isa::transpose): the result is how many columns and rows are done: here none.
pub(super) fn transpose(_rows: &[f32], _stride: usize, _inner: usize, _out: &mut [f32]) -> (usize, usize) {
    (0, 0)
}

fn dot(left: &[f32], right: &[f32]) -> f32 {
    let mut sums = [0.0_f32; LANES];
    let (left, left_rest) = left.as_chunks::<LANES>();
    let (right, right_rest) = right.as_chunks::<LANES>();
    for (left, right) in left.iter().zip(right) {
        for (sum, (left, right)) in sums.iter_mut().zip(left.iter().zip(right)) {
            *sum += left * right;
        }
    }
    sums.iter().sum::<f32>() + left_rest.iter().zip(right_rest).map(|(left, right)| left * right).sum::<f32>()
}
