//! Values rounded to bf16, in pairs: two of successive rows in a word, the first in its lower half.

use tandem_core::arena::{Arena, Slab};

use crate::isa::vectorized;
use crate::tiles::TILE;

/// Rounds `x`, `[rows, TILE]`, to `pairs`, `[rows / 2, TILE]`. An odd last row is paired with zeros.
pub(super) fn round_columns(x: &[f32], pairs: &mut Vec<[u32; TILE]>) {
    let rows = x.as_chunks::<TILE>().0;
    pairs.resize(rows.len().div_ceil(2), [0; TILE]);
    let (whole, rest) = rows.as_chunks::<2>();
    round_rows(whole, pairs);
    if let ([row], Some(last)) = (rest, pairs.last_mut()) {
        round_rows(&[[*row, [0.0; TILE]]], std::slice::from_mut(last));
    }
}

/// Rounds `weights`, `[outputs, inputs]`, in groups of `group` rows: `[inputs / 2, rows]` each.
pub(super) fn round_weights(weights: &[f32], inputs: usize, group: usize, arena: &Arena) -> Slab<u32> {
    let pair = |pair: &[f32]| rounded(pair[0]) | rounded(pair.get(1).copied().unwrap_or(0.0)) << 16;
    let per_row = inputs.div_ceil(2);
    let mut pairs = arena.zeros::<u32>(weights.len() / inputs * per_row);
    for (rows, pairs) in weights.chunks(group * inputs).zip(pairs.chunks_mut(group * per_row)) {
        let n = rows.len() / inputs;
        for (first, pairs) in (0..inputs).step_by(2).zip(pairs.chunks_exact_mut(n)) {
            let rows = rows.chunks_exact(inputs).zip(pairs);
            rows.for_each(|(row, out)| *out = pair(&row[first..inputs.min(first + 2)]));
        }
    }
    pairs
}

/// Writes the values of `pairs`, `[rows / 2, n]`, to `out`, `[rows, n]`.
pub(super) fn widen(pairs: &[u32], n: usize, out: &mut [f32]) {
    for (pairs, out) in pairs.chunks_exact(n).zip(out.chunks_exact_mut(2 * n)) {
        let (first, second) = out.split_at_mut(n);
        first.iter_mut().zip(pairs).for_each(|(out, pair)| *out = f32::from_bits(pair << 16));
        second.iter_mut().zip(pairs).for_each(|(out, pair)| *out = f32::from_bits(pair & 0xFFFF_0000));
    }
}

vectorized! {
    fn round_rows(rows: &[[[f32; TILE]; 2]], pairs: &mut [[u32; TILE]]) {
        for (pairs, [first, second]) in pairs.iter_mut().zip(rows) {
            for (pair, (first, second)) in pairs.iter_mut().zip(first.iter().zip(second)) {
                *pair = rounded(*first) | rounded(*second) << 16;
            }
        }
    }
}

/// The bits of `value` as bf16, ties to even; NaN stays NaN.
#[inline(always)]
fn rounded(value: f32) -> u32 {
    let bits = value.to_bits();
    let nearest = (bits.wrapping_add(0x7FFF + (bits >> 16 & 1))) >> 16;
    if value.is_nan() { 0x7FC0 } else { nearest }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    #[test]
    fn rounding_is_that_of_bf16() {
        for value in [0.0, -0.0, 1.0, -1.000_1, 3.15, 1e-40, 3.4e38, f32::INFINITY, f32::NEG_INFINITY, 0.003_906_25] {
            for value in [value, f32::from_bits(value.to_bits() ^ 0x8000), f32::from_bits(value.to_bits() | 0x1_8000)] {
                let expected = bf16::from_f32(value);
                let own = bf16::from_bits(rounded(value) as u16);
                assert!(own == expected || own.is_nan() && expected.is_nan(), "{value}: {own} {expected}");
            }
        }
        assert!(bf16::from_bits(rounded(f32::from_bits(0x7FFF_FFFF)) as u16).is_nan());
    }

    #[test]
    fn odd_rows_are_paired_with_zeros() {
        let x: Vec<f32> = (0..3 * TILE).map(|i| i as f32).collect();
        let (mut pairs, mut back) = (Vec::new(), vec![f32::NAN; 4 * TILE]);
        round_columns(&x, &mut pairs);
        widen(pairs.as_flattened(), TILE, &mut back);
        assert_eq!(back[..3 * TILE], x);
        assert!(back[3 * TILE..].iter().all(|value| *value == 0.0));
        // Rows of three weights in groups of two: 1 2 3, 4 5 6, 7 8 9.
        let weights: Vec<f32> = (1..=9).map(|i| i as f32).collect();
        let pairs = round_weights(&weights, 3, 2, &Arena::default());
        let mut group = vec![f32::NAN; 8];
        widen(&pairs[..4], 2, &mut group);
        assert_eq!(group, [1.0, 4.0, 2.0, 5.0, 3.0, 6.0, 0.0, 0.0]);
        let mut last = vec![f32::NAN; 4];
        widen(&pairs[4..], 1, &mut last);
        assert_eq!(last, [7.0, 8.0, 9.0, 0.0]);
    }
}
