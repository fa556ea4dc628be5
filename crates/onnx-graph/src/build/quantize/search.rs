//! The codes and the scale of one block that are nearest to it.
//!
//! For each rounding of a block the scale of least squared error is known; what is searched is the rounding. After
//! `make_qx_quants` and `make_qkx2_quants` of llama.cpp (`ggml/src/ggml-quants.c`).

use super::QuantFormat;

/// A block as codes, relative to the zero point.
pub(super) struct Fit<const N: usize> {
    error: f32,
    pub(super) scale: f32,
    pub(super) zero: f32,
    pub(super) codes: [f32; N],
}

/// The best of all roundings that are tried.
pub(super) fn best<const N: usize>(block: &[f32; N], format: QuantFormat) -> Fit<N> {
    let middle = (1_u32 << (format.bits - 1)) as f32;
    let mut best = Fit { error: f32::INFINITY, scale: 0.0, zero: middle, codes: [0.0; N] };
    let mut try_rounding = |zero: f32, inverse: f32| {
        let fit = fit(block, zero, inverse, 2.0 * middle - 1.0);
        if fit.error < best.error {
            best = fit;
        }
    };
    symmetric(block, format.bits, &mut try_rounding);
    if !format.blocks.symmetric {
        asymmetric(block, format.bits, &mut try_rounding);
    }
    best
}

/// The weight of the greatest magnitude is put on the lowest code, or somewhat beyond it or short of it: each of these scales
/// rounds the others differently.
fn symmetric(block: &[f32], bits: usize, try_rounding: &mut impl FnMut(f32, f32)) {
    /// Tenths of a code by which the greatest weight is moved. At -10 it is on the lowest code but one: plain rounding, which
    /// is thereby never better. 8 bits are so near already that only this and the lowest code are tried.
    const STEPS: [i32; 20] = [-10, 0, -9, -8, -7, -6, -5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 6, 7, 8, 9];
    let middle = (1_u32 << (bits - 1)) as f32;
    let extreme = block.iter().fold(0.0_f32, |extreme, &weight| if weight.abs() > extreme.abs() { weight } else { extreme });
    if extreme != 0.0 {
        for step in &STEPS[..if bits < 8 { STEPS.len() } else { 2 }] {
            try_rounding(middle, -(middle + 0.1 * *step as f32) / extreme);
        }
    }
}

/// The range of the weights, zero included, is spread over all codes, or over somewhat fewer or more; of those that are too
/// many some are cut off below, above or at both ends.
fn asymmetric(block: &[f32], bits: usize, try_rounding: &mut impl FnMut(f32, f32)) {
    /// Fifths of a code by which the range is wider than the codes.
    const STEPS: [i32; 12] = [0, -2, -1, 1, 2, 3, 4, 5, 6, 7, 8, 9];
    let greatest = ((1_u32 << bits) - 1) as f32;
    let low = block.iter().copied().fold(0.0, f32::min);
    let high = block.iter().copied().fold(0.0, f32::max);
    if high > low {
        for step in &STEPS[..if bits < 8 { STEPS.len() } else { 1 }] {
            let excess = 0.2 * *step as f32;
            let inverse = (greatest + excess) / (high - low);
            let from = (-low * inverse - excess.max(0.0)).floor().max(0.0) as u32;
            let to = (-low * inverse).ceil().min(greatest) as u32;
            (from..=to).for_each(|zero| try_rounding(zero as f32, inverse));
        }
    }
}

/// Rounds a block and gives the scale of least error for that rounding; codes go from 0 to `greatest`.
fn fit<const N: usize>(block: &[f32; N], zero: f32, inverse: f32, greatest: f32) -> Fit<N> {
    /// Added and taken away again it leaves a small number without its fraction, the nearest even one for a half: the same
    /// as `round_ties_even`, which is a call for each number where the processor has no instruction for it.
    const ROUNDER: f32 = (3_u32 << 22) as f32;
    let codes = block.map(|weight| ((weight * inverse).clamp(-zero, greatest - zero) + ROUNDER) - ROUNDER);
    let product = sum(block, &codes, |weight, code| weight * code);
    let square = sum(block, &codes, |_, code| code * code);
    if square == 0.0 {
        return Fit { error: f32::INFINITY, scale: 0.0, zero, codes };
    }
    let scale = product / square;
    let error = sum(block, &codes, |weight, code| (weight - scale * code) * (weight - scale * code));
    Fit { error, scale, zero, codes }
}

/// The sum over a block, in eight parts that the processor can add side by side.
fn sum<const N: usize>(block: &[f32; N], codes: &[f32; N], term: impl Fn(f32, f32) -> f32) -> f32 {
    let mut parts = [0.0; 8];
    for (block, codes) in block.as_chunks::<8>().0.iter().zip(codes.as_chunks::<8>().0) {
        for (part, (weight, code)) in parts.iter_mut().zip(block.iter().zip(codes)) {
            *part += term(*weight, *code);
        }
    }
    parts.iter().sum()
}
