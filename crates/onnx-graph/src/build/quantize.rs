//! Weights as integers with a scale for each block of 32 inputs: what `MatMulNBits` and `GatherBlockQuantized` read.
//!
//! A weight is `(code - zero) * scale`, where `zero` is half the range of the codes and the scale may be negative. Layout:
//! `ContribOperators.md` of ONNX Runtime, `MatMulNBits`: `[outputs, blocks, block_size * bits / 8]`, lower halves first.

use std::num::NonZero;
use std::thread;

use super::weights::Weight;

/// Inputs that share a scale. 32 is the finest that is fast everywhere.
pub(super) const BLOCK_SIZE: usize = 32;

/// Codes and scales of one matrix.
#[derive(Debug, Default)]
pub(super) struct Quantized {
    pub(super) codes: Vec<u8>,
    /// `[outputs, blocks]`
    pub(super) scales: Vec<f32>,
}

/// Quantises `[outputs, inputs]` weights, one above the other, on all cores. The result does not depend on how many; there is
/// none when a weight is not finite.
pub(super) fn quantize(weights: &[Weight<'_>], n_inputs: usize, bits: usize) -> Option<Quantized> {
    let n_rows: usize = weights.iter().map(|weight| weight.shape[0]).sum();
    let n_threads = thread::available_parallelism().map_or(1, NonZero::get).min(n_rows);
    let rows_each = n_rows.div_ceil(n_threads);
    let parts = thread::scope(|scope| {
        let spawn = |first| scope.spawn(move || quantize_rows(weights, first..n_rows.min(first + rows_each), n_inputs, bits));
        let threads: Vec<_> = (0..n_rows).step_by(rows_each).map(spawn).collect();
        threads.into_iter().map(|thread| thread.join().expect("quantising does not panic")).collect::<Vec<_>>()
    });
    parts.into_iter().try_fold(Quantized::default(), |mut all, part| {
        let part = part?;
        all.codes.extend_from_slice(&part.codes);
        all.scales.extend_from_slice(&part.scales);
        Some(all)
    })
}

fn quantize_rows(weights: &[Weight<'_>], rows: std::ops::Range<usize>, n_inputs: usize, bits: usize) -> Option<Quantized> {
    let mut row = vec![0.0; n_inputs.next_multiple_of(BLOCK_SIZE)];
    let mut out = Quantized::default();
    let mut first = 0;
    for weight in weights {
        let last = first + weight.shape[0];
        for index in rows.start.max(first)..rows.end.min(last) {
            weight.widen((index - first) * n_inputs, &mut row[..n_inputs]);
            if !row.iter().all(|weight| weight.is_finite()) {
                return None;
            }
            for block in row.as_chunks::<BLOCK_SIZE>().0 {
                let (scale, codes) = quantize_block(block, bits);
                out.scales.push(scale);
                match bits {
                    4 => out.codes.extend(codes.as_chunks::<2>().0.iter().map(|[low, high]| low | high << 4)),
                    _ => out.codes.extend_from_slice(&codes),
                }
            }
        }
        first = last;
    }
    Some(out)
}

/// The scale and codes of one block that are nearest to it.
///
/// The weight of the greatest magnitude is put on the lowest code, or somewhat beyond it or short of it: each of these scales
/// rounds the others differently. For each rounding the scale of least squared error is known, and the best pair is taken.
/// After `make_qx_quants` of llama.cpp (`ggml/src/ggml-quants.c`), with equal importance of all weights.
fn quantize_block(block: &[f32; BLOCK_SIZE], bits: usize) -> (f32, [u8; BLOCK_SIZE]) {
    /// Tenths of a code by which the greatest weight is moved. At -10 it is on the lowest code but one: plain rounding, which
    /// is thereby never better. 8 bits are so near already that only this and the lowest code are tried.
    const STEPS: [i32; 20] = [-10, 0, -9, -8, -7, -6, -5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 6, 7, 8, 9];
    /// Added and taken away again it leaves a small number without its fraction, the nearest even one for a half: the same
    /// as `round_ties_even`, which is a call for each number where the processor has no instruction for it.
    const ROUNDER: f32 = (3_u32 << 22) as f32;
    let zero = (1_u32 << (bits - 1)) as f32;
    let extreme = block.iter().fold(0.0_f32, |extreme, &weight| if weight.abs() > extreme.abs() { weight } else { extreme });
    let round = |inverse: f32| block.map(|weight| ((weight * inverse).clamp(-zero, zero - 1.0) + ROUNDER) - ROUNDER);
    let mut best = (f32::INFINITY, 0.0, [0.0; BLOCK_SIZE]);
    if extreme != 0.0 {
        for step in &STEPS[..if bits < 8 { STEPS.len() } else { 2 }] {
            let codes = round(-(zero + 0.1 * *step as f32) / extreme);
            let product: f32 = sum(block, &codes, |weight, code| weight * code);
            let scale = product / sum(&codes, &codes, |code, _| code * code);
            let error = sum(block, &codes, |weight, code| (weight - scale * code) * (weight - scale * code));
            if error < best.0 {
                best = (error, scale, codes);
            }
        }
    }
    let (_, scale, codes) = best;
    (scale, codes.map(|code| (code + zero) as u8))
}

/// The sum over both, in eight parts that the processor can add side by side.
fn sum(left: &[f32; BLOCK_SIZE], right: &[f32; BLOCK_SIZE], term: impl Fn(f32, f32) -> f32) -> f32 {
    let mut parts = [0.0; 8];
    for (left, right) in left.as_chunks::<8>().0.iter().zip(right.as_chunks::<8>().0) {
        for (part, (left, right)) in parts.iter_mut().zip(left.iter().zip(right)) {
            *part += term(*left, *right);
        }
    }
    parts.iter().sum()
}

#[cfg(test)]
mod tests;
