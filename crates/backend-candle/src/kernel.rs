//! Inner loops on slices, in the widest vectors that the processor has: found when the program runs, not when it is built.
//!
//! candle's own product of one row with a matrix runs on one thread and its product of a few rows packs the whole matrix first; these
//! read each weight once, whatever the number of rows. Every width gives the same to within rounding, which the tests hold them to.

mod plain;
#[cfg(target_arch = "x86_64")]
mod x86;

use crate::quantize::{BLOCK, Blocks};

/// The most rows of inputs that are multiplied while a weight is in a register.
pub(crate) const MAX_ROWS: usize = 8;

/// Rows of weights whose products with some inputs are computed in registers: a tile.
pub(crate) const TILE: usize = 32;

/// A set of instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// What every processor has.
    Plain,
    /// 256 bits, with fused multiply-add.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// 512 bits.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Level {
    /// The widest that this processor has.
    pub(crate) fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            if avx2 && is_x86_feature_detected!("avx512f") {
                return Self::Avx512;
            }
            if avx2 {
                return Self::Avx2;
            }
        }
        Self::Plain
    }

    /// Every one that this processor has.
    pub(crate) fn all() -> Vec<Self> {
        let mut levels = vec![Self::Plain];
        #[cfg(target_arch = "x86_64")]
        match Self::detect() {
            Self::Plain => {}
            Self::Avx2 => levels.push(Self::Avx2),
            Self::Avx512 => levels.extend([Self::Avx2, Self::Avx512]),
        }
        levels
    }

    /// Each row of `weights`, `[rows, columns]`, times each of `inputs`, `[n, columns]` with `n` up to [`MAX_ROWS`]: `[rows, n]`.
    pub(crate) fn products(self, weights: &[f32], inputs: &[f32], columns: usize, out: &mut [f32]) {
        let n = inputs.len() / columns;
        assert!((1..=MAX_ROWS).contains(&n) && inputs.len() == n * columns, "the inputs are whole rows, and few");
        assert_eq!(weights.len() * n, out.len() * columns, "there is a product for each pair of rows");
        match self {
            Self::Plain => plain::products(weights, inputs, columns, out),
            // SAFETY: a `Level` of this name is only made where the processor has these instructions.
            #[cfg(target_arch = "x86_64")]
            #[expect(unsafe_code, reason = "instructions that not every processor has")]
            Self::Avx2 => unsafe { x86::avx2::products(weights, inputs, columns, out) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            #[expect(unsafe_code, reason = "instructions that not every processor has")]
            Self::Avx512 => unsafe { x86::avx512::products(weights, inputs, columns, out) },
        }
    }

    /// For each of the columns of `weights`, `[rows, n]` with `n` up to [`MAX_ROWS`], the sum of the rows of `values`, `[rows, width]`,
    /// times their weights: `[n, width]`, added to `out`.
    pub(crate) fn weighted_sums(self, weights: &[f32], values: &[f32], width: usize, out: &mut [f32]) {
        let n = out.len() / width;
        assert!((1..=MAX_ROWS).contains(&n) && out.len() == n * width, "the sums are whole rows, and few");
        assert_eq!(weights.len() * width, values.len() * n, "every row has its weights");
        match self {
            Self::Plain => plain::weighted_sums(weights, values, width, out),
            // SAFETY: a `Level` of this name is only made where the processor has these instructions.
            #[cfg(target_arch = "x86_64")]
            #[expect(unsafe_code, reason = "instructions that not every processor has")]
            Self::Avx2 => unsafe { x86::avx2::weighted_sums(weights, values, width, out) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            #[expect(unsafe_code, reason = "instructions that not every processor has")]
            Self::Avx512 => unsafe { x86::avx512::weighted_sums(weights, values, width, out) },
        }
    }

    /// The most inputs of a tile.
    pub(crate) fn tile_inputs(self) -> usize {
        match self {
            Self::Plain => 4,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => 2,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => 12,
        }
    }

    /// Adds to `sums`, `[n, TILE]` with `n` up to [`tile_inputs`](Self::tile_inputs), the products of `weights`, `[inner, TILE]`, with
    /// `inputs`, `[inner, n]`.
    pub(crate) fn tile(self, weights: &[f32], inputs: &[f32], sums: &mut [f32]) {
        let n = sums.len() / TILE;
        assert!((1..=self.tile_inputs()).contains(&n) && sums.len() == n * TILE, "the sums are whole rows, and few");
        assert_eq!(weights.len() * n, inputs.len() * TILE, "weights and inputs are of one inner length");
        match self {
            Self::Plain => plain::tile(weights, inputs, sums),
            // SAFETY: a `Level` of this name is only made where the processor has these instructions.
            #[cfg(target_arch = "x86_64")]
            #[expect(unsafe_code, reason = "instructions that not every processor has")]
            Self::Avx2 => unsafe { x86::tiles::avx2::tile(weights, inputs, sums) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            #[expect(unsafe_code, reason = "instructions that not every processor has")]
            Self::Avx512 => unsafe { x86::tiles::avx512::tile(weights, inputs, sums) },
        }
    }

    /// Turns up to [`TILE`] rows of `inner` values, `stride` apart, into `out`, `[inner, TILE]`; rows that are missing are zeros.
    pub(crate) fn turn(self, rows: &[f32], stride: usize, inner: usize, out: &mut [f32]) {
        let n_rows = (rows.len() - inner) / stride + 1;
        assert!(n_rows <= TILE && inner <= stride && out.len() == inner * TILE, "a tile is as long as its rows");
        let (places, full) = match self {
            Self::Plain => (0, 0),
            // SAFETY: a `Level` of this name is only made where the processor has these instructions.
            #[cfg(target_arch = "x86_64")]
            #[expect(unsafe_code, reason = "instructions that not every processor has")]
            Self::Avx2 => unsafe { x86::tiles::avx2::turn(rows, stride, inner, out) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            #[expect(unsafe_code, reason = "instructions that not every processor has")]
            Self::Avx512 => unsafe { x86::tiles::avx512::turn(rows, stride, inner, out) },
        };
        for (place, out) in out.chunks_exact_mut(TILE).enumerate() {
            let first = if place < places { full } else { 0 };
            for (row, out) in out.iter_mut().enumerate().skip(first) {
                *out = if row < n_rows { rows[row * stride + place] } else { 0.0 };
            }
        }
    }

    /// As [`products`](Self::products), of quantised weights; `columns` are whole blocks. Inputs are not rounded.
    pub(crate) fn block_products(self, weights: Blocks<'_>, inputs: &[f32], columns: usize, out: &mut [f32]) {
        let n = inputs.len() / columns;
        assert!((1..=MAX_ROWS).contains(&n) && inputs.len() == n * columns, "the inputs are whole rows, and few");
        assert!(columns.is_multiple_of(BLOCK), "a row is whole blocks");
        assert_eq!(weights.scales.len() * BLOCK * n, out.len() * columns, "there is a product for each pair of rows");
        assert_eq!(weights.codes.len(), weights.scales.len() * weights.bits.block_bytes(), "every block has its codes");
        match self {
            Self::Plain => plain::block_products(weights, inputs, columns, out),
            // SAFETY: a `Level` of this name is only made where the processor has these instructions.
            #[cfg(target_arch = "x86_64")]
            #[expect(unsafe_code, reason = "instructions that not every processor has")]
            Self::Avx2 => unsafe { x86::avx2::block_products(weights, inputs, columns, out) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            #[expect(unsafe_code, reason = "instructions that not every processor has")]
            Self::Avx512 => unsafe { x86::avx512::block_products(weights, inputs, columns, out) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantize::Bits;

    /// `n` numbers between -1 and 1 of a linear congruential sequence (Numerical Recipes' constants).
    pub(super) fn numbers(n: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        (0..n)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 23) as f32 - 1.0
            })
            .collect()
    }

    fn in_f64(weights: &[f32], inputs: &[f32], columns: usize) -> Vec<f32> {
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() as f32;
        weights.chunks(columns).flat_map(|row| inputs.chunks(columns).map(move |input| dot(row, input))).collect()
    }

    #[test]
    fn every_level_gives_the_products() {
        for (rows, columns) in [(1, 1), (1, 16), (3, 31), (5, 64), (9, 100), (2, 896), (7, 33), (4, 15), (13, 128)] {
            for n in 1..=MAX_ROWS {
                let (weights, inputs) = (numbers(rows * columns, 1), numbers(n * columns, 2));
                let expected = in_f64(&weights, &inputs, columns);
                for level in Level::all() {
                    let mut out = vec![f32::NAN; rows * n];
                    level.products(&weights, &inputs, columns, &mut out);
                    for (out, expected) in out.iter().zip(&expected) {
                        assert!((out - expected).abs() <= 2e-5, "{level:?} {rows}x{columns} {n}: {out} {expected}");
                    }
                }
            }
        }
    }

    #[test]
    fn every_level_turns_rows_and_gives_their_tiles() {
        for (n_rows, inner, stride) in [(32, 64, 64), (32, 33, 50), (31, 16, 16), (9, 40, 41), (1, 1, 1), (17, 96, 100)] {
            let rows = numbers((n_rows - 1) * stride + inner, 7);
            let row = |r: usize, place: usize| if r < n_rows { rows[r * stride + place] } else { 0.0 };
            for level in Level::all() {
                let mut turned = vec![f32::NAN; inner * TILE];
                level.turn(&rows, stride, inner, &mut turned);
                for (i, turned) in turned.iter().enumerate() {
                    assert_eq!(*turned, row(i % TILE, i / TILE), "{level:?} {n_rows}x{inner} of {stride}");
                }
                for n in 1..=level.tile_inputs() {
                    let inputs = numbers(inner * n, 8);
                    let mut sums = vec![1.0; n * TILE];
                    level.tile(&turned, &inputs, &mut sums);
                    for (i, sum) in sums.iter().enumerate() {
                        let terms = (0..inner).map(|k| f64::from(row(i % TILE, k)) * f64::from(inputs[k * n + i / TILE]));
                        let expected = 1.0 + terms.sum::<f64>();
                        assert!((f64::from(*sum) - expected).abs() <= 2e-5, "{level:?} {n_rows}x{inner} {n}: {sum} {expected}");
                    }
                }
            }
        }
    }

    #[test]
    fn every_level_gives_the_weighted_sums() {
        for (rows, width) in [(1, 1), (3, 16), (5, 64), (70, 128), (9, 40), (2, 31), (256, 80)] {
            for n in 1..=MAX_ROWS {
                let (weights, values) = (numbers(rows * n, 5), numbers(rows * width, 6));
                for level in Level::all() {
                    let mut out = vec![1.0; n * width];
                    level.weighted_sums(&weights, &values, width, &mut out);
                    for (i, out) in out.iter().enumerate() {
                        let (column, place) = (i / width, i % width);
                        let terms =
                            (0..rows).map(|row| f64::from(weights[row * n + column]) * f64::from(values[row * width + place]));
                        let expected = 1.0 + terms.sum::<f64>();
                        assert!((f64::from(*out) - expected).abs() <= 2e-5, "{level:?} {rows}x{width} {n}: {out} {expected}");
                    }
                }
            }
        }
    }

    #[test]
    fn every_level_gives_the_products_of_blocks() {
        for bits in [Bits::Eight, Bits::Four] {
            for (rows, columns) in [(1, 32), (3, 64), (5, 96), (8, 896), (6, 160)] {
                let blocks = rows * columns / BLOCK;
                let (mut codes, mut scales) = (vec![0; blocks * bits.block_bytes()], vec![0.0; blocks]);
                bits.quantize(&numbers(rows * columns, 3), &mut codes, &mut scales);
                let weights = Blocks { bits, codes: &codes, scales: &scales };
                let mut floats = vec![0.0; rows * columns];
                weights.dequantize(&mut floats);
                for n in 1..=MAX_ROWS {
                    let inputs = numbers(n * columns, 4);
                    let expected = in_f64(&floats, &inputs, columns);
                    for level in Level::all() {
                        let mut out = vec![f32::NAN; rows * n];
                        level.block_products(weights, &inputs, columns, &mut out);
                        for (out, expected) in out.iter().zip(&expected) {
                            assert!((out - expected).abs() <= 2e-5, "{level:?} {bits:?} {rows}x{columns} {n}: {out} {expected}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "a product for each pair")]
    fn an_output_of_another_size_is_refused() {
        Level::detect().products(&[0.0; 32], &[0.0; 16], 16, &mut [0.0; 3]);
    }
}
