//! Products with weights: a few rows through our own loops, which read each weight once in all threads; many through `gemm`.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use crate::kernel::{Level, MAX_ROWS};
use crate::quantize::{Bits, Blocks};
use crate::values::{Values, tensor};

/// Rows of inputs up to which weights are read once for every eight of them, rather than packed for a product of matrices.
const FEW_ROWS: usize = 16;

/// The least number of weights that is worth a thread's attention.
const WORTH_A_THREAD: usize = 1 << 15;

/// Quantised weights that become floats at a time: 8 MB of them.
const DEQUANTIZED_TOGETHER: usize = 1 << 21;

/// A projection: `x Wᵀ + b`.
pub(crate) struct Linear {
    /// `[outputs, inputs]`
    pub(crate) weights: Matrix,
    /// `[outputs]`
    pub(crate) bias: Option<Vec<f32>>,
}

impl Linear {
    /// Of `x`, `[rows, inputs]`: `[rows, outputs]`.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.weights.product(x, self.bias.as_deref())
    }
}

/// Weights, `[rows, columns]`, each row those of one output.
pub(crate) struct Matrix {
    stored: Stored,
    rows: usize,
    columns: usize,
    level: Level,
}

enum Stored {
    /// `[rows, columns]`
    Floats(Tensor),
    /// See [`Blocks`].
    Blocks { bits: Bits, codes: Vec<u8>, scales: Vec<f32> },
}

/// The weights of a [`Matrix`] as slices.
enum Weights<'m> {
    Floats(Values<'m>),
    Blocks(Blocks<'m>),
}

impl Matrix {
    /// Takes `values`, row-major.
    pub(crate) fn floats(values: Vec<f32>, rows: usize, columns: usize) -> Result<Self> {
        Ok(Self { stored: Stored::Floats(tensor(values, (rows, columns))?), rows, columns, level: Level::detect() })
    }

    /// Takes the codes and scales of quantised values, row-major; `columns` are whole blocks.
    pub(crate) fn blocks(bits: Bits, codes: Vec<u8>, scales: Vec<f32>, rows: usize, columns: usize) -> Self {
        Self { stored: Stored::Blocks { bits, codes, scales }, rows, columns, level: Level::detect() }
    }

    /// The rows numbered `ids`: `[ids.len(), columns]`.
    pub(crate) fn select(&self, ids: &[u32]) -> Result<Tensor> {
        let weights = self.weights()?;
        let mut out = vec![0.0; ids.len() * self.columns];
        for (&id, out) in ids.iter().zip(out.chunks_exact_mut(self.columns)) {
            let id = id as usize;
            match &weights {
                Weights::Floats(values) => out.copy_from_slice(&values[id * self.columns..(id + 1) * self.columns]),
                Weights::Blocks(blocks) => blocks.rows(id..id + 1, self.columns).dequantize(out),
            }
        }
        tensor(out, (ids.len(), self.columns))
    }

    /// `x Wᵀ + bias` of `x`, `[n, columns]`: `[n, rows]`.
    pub(crate) fn product(&self, x: &Tensor, bias: Option<&[f32]>) -> Result<Tensor> {
        let (n, columns) = x.dims2()?;
        if columns != self.columns {
            candle_core::bail!("{columns} inputs for {} weights in a row", self.columns);
        }
        let (weights, x) = (self.weights()?, Values::of(x)?);
        let mut out = vec![0.0; n * self.rows];
        if n <= FEW_ROWS {
            for (x, out) in x.chunks(MAX_ROWS * columns).zip(out.chunks_mut(MAX_ROWS * self.rows)) {
                self.product_of_few(&weights, x, out);
            }
        } else {
            self.product_of_many(&weights, &x, &mut out);
        }
        if let Some(bias) = bias {
            for row in out.chunks_exact_mut(self.rows) {
                row.iter_mut().zip(bias).for_each(|(out, bias)| *out += bias);
            }
        }
        tensor(out, (n, self.rows))
    }

    fn weights(&self) -> Result<Weights<'_>> {
        Ok(match &self.stored {
            Stored::Floats(values) => Weights::Floats(Values::of(values)?),
            Stored::Blocks { bits, codes, scales } => Weights::Blocks(Blocks { bits: *bits, codes, scales }),
        })
    }

    /// Of up to [`MAX_ROWS`] rows; every thread takes rows of weights.
    fn product_of_few(&self, weights: &Weights<'_>, x: &[f32], out: &mut [f32]) {
        let (columns, n) = (self.columns, x.len() / self.columns);
        let share = self.rows.div_ceil(4 * rayon::current_num_threads()).next_multiple_of(4);
        let share = share.max(WORTH_A_THREAD.div_ceil(columns));
        let floats: Option<&[f32]> = if let Weights::Floats(values) = weights { Some(values) } else { None };
        let blocks = if let Weights::Blocks(blocks) = weights { Some(*blocks) } else { None };
        let by_weight = |out: &mut [f32]| {
            out.par_chunks_mut(share * n).enumerate().for_each(|(i, out)| {
                let rows = i * share..i * share + out.len() / n;
                if let Some(floats) = floats {
                    self.level.products(&floats[rows.start * columns..rows.end * columns], x, columns, out);
                } else if let Some(blocks) = blocks {
                    self.level.block_products(blocks.rows(rows, columns), x, columns, out);
                }
            });
        };
        if n == 1 {
            return by_weight(out);
        }
        let mut turned = vec![0.0; out.len()];
        by_weight(&mut turned);
        for (i, out) in out.chunks_exact_mut(self.rows).enumerate() {
            out.iter_mut().zip(turned[i..].iter().step_by(n)).for_each(|(out, value)| *out = *value);
        }
    }

    /// Of any number of rows, as a product of matrices. Blocks become floats a part at a time.
    fn product_of_many(&self, weights: &Weights<'_>, x: &[f32], out: &mut [f32]) {
        match weights {
            Weights::Floats(values) => self.product_of_part(values, x, out),
            Weights::Blocks(blocks) => {
                let together = (DEQUANTIZED_TOGETHER / self.columns).clamp(1, self.rows);
                let mut floats = vec![0.0; together * self.columns];
                for first in (0..self.rows).step_by(together) {
                    let n = together.min(self.rows - first);
                    let floats = &mut floats[..n * self.columns];
                    floats.par_chunks_mut(self.columns).enumerate().for_each(|(row, floats)| {
                        blocks.rows(first + row..first + row + 1, self.columns).dequantize(floats);
                    });
                    self.product_of_part(floats, x, &mut out[first..]);
                }
            }
        }
    }

    /// With the rows of `floats` alone; `out` begins at the output of the first.
    fn product_of_part(&self, floats: &[f32], x: &[f32], out: &mut [f32]) {
        let columns = self.columns;
        product_into(
            (x.len() / columns, columns, floats.len() / columns),
            Strided { values: x, row: columns, column: 1 },
            Strided { values: floats, row: 1, column: columns },
            StridedMut { values: out, row: self.rows },
            rayon::current_num_threads(),
        );
    }
}

/// A matrix within a slice.
pub(crate) struct Strided<'a> {
    pub(crate) values: &'a [f32],
    /// From one row to the next.
    pub(crate) row: usize,
    /// From one column to the next.
    pub(crate) column: usize,
}

/// A matrix to write, whose columns lie one beside the other.
pub(crate) struct StridedMut<'a> {
    pub(crate) values: &'a mut [f32],
    /// From one row to the next.
    pub(crate) row: usize,
}

/// `out = left right` for `left` of `[n, inner]` and `right` of `[inner, width]`, in `threads` of the current pool.
#[expect(unsafe_code, reason = "gemm takes addresses")]
pub(crate) fn product_into(
    (n, inner, width): (usize, usize, usize),
    left: Strided<'_>,
    right: Strided<'_>,
    out: StridedMut<'_>,
    threads: usize,
) {
    let end = |rows: usize, row: usize, columns: usize, column: usize| (rows - 1) * row + (columns - 1) * column + 1;
    assert!(n > 0 && inner > 0 && width > 0, "there is something to multiply");
    assert!(end(n, left.row, inner, left.column) <= left.values.len(), "the left matrix lies in its slice");
    assert!(end(inner, right.row, width, right.column) <= right.values.len(), "the right matrix lies in its slice");
    assert!(out.row >= width && end(n, out.row, width, 1) <= out.values.len(), "the result lies in its slice, rows apart");
    let threads = if threads > 1 { gemm::Parallelism::Rayon(threads) } else { gemm::Parallelism::None };
    // SAFETY: the assertions above: every element that the strides reach is within its slice, no two of the result are one, and `out`
    // is borrowed for this call alone.
    unsafe {
        gemm::gemm(
            n,
            width,
            inner,
            out.values.as_mut_ptr(),
            1,
            out.row as isize,
            false,
            left.values.as_ptr(),
            left.column as isize,
            left.row as isize,
            right.values.as_ptr(),
            right.column as isize,
            right.row as isize,
            0.0,
            1.0,
            false,
            false,
            false,
            threads,
        );
    }
}
