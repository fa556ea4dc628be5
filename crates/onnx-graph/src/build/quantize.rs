//! Quantises weights to integers with a scale, and optionally a zero point, for each block of inputs, as `MatMulNBits` and
//! `GatherBlockQuantized` read them.
//!
//! A weight is `(code - zero) * scale`. Without zero points `zero` is half the range of the codes, and the scale may be
//! negative. Layout: `ContribOperators.md` of ONNX Runtime, `MatMulNBits`: codes `[outputs, blocks, block_size * bits / 8]`,
//! scales `[outputs, blocks]`, zero points `[outputs, bytes of a row's codes]`; of two 4-bit codes in a byte the lower half is
//! the first.

mod search;

use std::num::NonZero;
use std::ops::Range;
use std::thread;

use super::spec::Blocks;
use super::weights::{GoOn, Weight};
use crate::error::Result;

/// How a matrix is quantised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct QuantFormat {
    /// 4 or 8.
    pub(super) bits: usize,
    pub(super) blocks: Blocks,
}

/// Codes, scales and zero points of one matrix.
#[derive(Debug, Default)]
pub(super) struct Quantized {
    pub(super) codes: Vec<u8>,
    /// `[outputs, blocks]`
    pub(super) scales: Vec<f32>,
    /// Empty in a symmetric format.
    pub(super) zeros: Vec<u8>,
}

impl QuantFormat {
    pub(super) fn n_blocks(self, n_inputs: usize) -> usize {
        n_inputs.div_ceil(self.blocks.size)
    }

    /// Bytes of one block's codes.
    pub(super) fn block_bytes(self) -> usize {
        self.blocks.size * self.bits / 8
    }

    /// Bytes of one row's zero points.
    pub(super) fn zero_bytes(self, n_inputs: usize) -> usize {
        (self.n_blocks(n_inputs) * self.bits).div_ceil(8)
    }
}

/// Quantises stacked `[outputs, inputs]` weights on all cores; the result does not depend on their number. `None` if a weight is not finite.
/// An error of `go_on`, which is called between rows, ends it.
pub(super) fn quantize(
    weights: &[Weight<'_>],
    n_inputs: usize,
    format: QuantFormat,
    go_on: &GoOn<'_>,
) -> Result<Option<Quantized>> {
    let n_rows: usize = weights.iter().map(|weight| weight.shape[0]).sum();
    let n_threads = thread::available_parallelism().map_or(1, NonZero::get).min(n_rows);
    let rows_each = n_rows.div_ceil(n_threads);
    let quantize_rows = match format.blocks.size {
        16 => quantize_rows::<16>,
        64 => quantize_rows::<64>,
        128 => quantize_rows::<128>,
        _ => quantize_rows::<32>,
    };
    let parts = thread::scope(|scope| {
        let spawn =
            |first| scope.spawn(move || quantize_rows(weights, first..n_rows.min(first + rows_each), n_inputs, format, go_on));
        let threads: Vec<_> = (0..n_rows).step_by(rows_each).map(spawn).collect();
        threads.into_iter().map(|thread| thread.join().expect("quantising does not panic")).collect::<Vec<_>>()
    });
    let mut all = Quantized::default();
    for part in parts {
        let Some(part) = part? else { return Ok(None) };
        all.codes.extend_from_slice(&part.codes);
        all.scales.extend_from_slice(&part.scales);
        all.zeros.extend_from_slice(&part.zeros);
    }
    Ok(Some(all))
}

fn quantize_rows<const N: usize>(
    weights: &[Weight<'_>],
    rows: Range<usize>,
    n_inputs: usize,
    format: QuantFormat,
    go_on: &GoOn<'_>,
) -> Result<Option<Quantized>> {
    let mut row = vec![0.0; n_inputs.next_multiple_of(N)];
    let mut out = Quantized::default();
    let mut zeros = Vec::new();
    let mut first = 0;
    for weight in weights {
        let last = first + weight.shape[0];
        for index in rows.start.max(first)..rows.end.min(last) {
            go_on()?;
            weight.widen((index - first) * n_inputs, &mut row[..n_inputs]);
            if !row.iter().all(|weight| weight.is_finite()) {
                return Ok(None);
            }
            for block in row.as_chunks::<N>().0 {
                let fit = search::best(block, format);
                out.scales.push(fit.scale);
                pack(fit.codes.iter().map(|code| (code + fit.zero) as u8), format.bits, &mut out.codes);
                zeros.push(fit.zero as u8);
            }
            if !format.blocks.symmetric {
                pack(zeros.drain(..), format.bits, &mut out.zeros);
            }
            zeros.clear();
        }
        first = last;
    }
    Ok(Some(out))
}

/// Writes codes of `bits`; a remaining half byte is zero.
fn pack(mut codes: impl Iterator<Item = u8>, bits: usize, out: &mut Vec<u8>) {
    if bits == 8 {
        return out.extend(codes);
    }
    while let Some(low) = codes.next() {
        out.push(low | codes.next().unwrap_or(0) << 4);
    }
}

#[cfg(test)]
mod tests;
