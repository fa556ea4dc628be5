//! Keys and values that are written to a cache, of any float type.

use std::ops::Range;

use rayon::prelude::*;

use crate::float::Float;
use crate::isa::vectorized;

/// Fewer values are written by the calling thread.
const MIN_PARALLEL: usize = 1 << 15;

/// How the keys or the values of a layer lie in a slice, whose first values are theirs: in blocks, each `[kv_heads, positions, head_dim]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheLayout {
    /// Heads.
    pub kv_heads: usize,
    /// The width of a head.
    pub head_dim: usize,
    /// Positions of a block.
    pub positions: usize,
    /// From the start of a block to that of the next, in values; between blocks others may lie.
    pub stride: usize,
}

impl CacheLayout {
    /// One block of `capacity` positions: `[kv_heads, capacity, head_dim]`.
    pub fn contiguous([kv_heads, capacity, head_dim]: [usize; 3]) -> Self {
        Self { kv_heads, head_dim, positions: capacity, stride: kv_heads * capacity * head_dim }
    }

    /// The values of a block.
    pub fn block_len(&self) -> usize {
        self.kv_heads * self.positions * self.head_dim
    }

    /// How many positions `n_values` have room for.
    pub fn capacity(&self, n_values: usize) -> usize {
        match n_values.checked_sub(self.block_len()) {
            Some(rest) if self.block_len() > 0 => (rest / self.stride + 1) * self.positions,
            _ => 0,
        }
    }

    /// `positions` in parts, none of which is in two blocks.
    fn parts(&self, positions: Range<usize>) -> impl Iterator<Item = Range<usize>> + use<> {
        let (of_block, mut start) = (self.positions, positions.start);
        std::iter::from_fn(move || {
            let end = positions.end.min((start / of_block + 1) * of_block);
            (start < end).then(|| std::mem::replace(&mut start, end)..end)
        })
    }

    /// Where `positions` of head number `head` lie, all in one block.
    fn place(&self, head: usize, positions: &Range<usize>) -> Range<usize> {
        let (block, first) = (positions.start / self.positions, positions.start % self.positions);
        let start = block * self.stride + (head * self.positions + first) * self.head_dim;
        start..start + positions.len() * self.head_dim
    }
}

/// The keys or the values of a layer.
#[derive(Clone, Copy, Debug)]
pub struct CacheView<'c, F> {
    /// Those of the first block come first.
    pub values: &'c [F],
    /// How they lie.
    pub layout: CacheLayout,
}

impl<'c, F: Float> CacheView<'c, F> {
    /// The rows of `positions` of head number `head`, `[n, head_dim]`, in parts, none of which is in two blocks.
    pub fn rows(self, head: usize, positions: Range<usize>) -> impl Iterator<Item = &'c [F]> {
        self.layout.parts(positions).map(move |part| &self.values[self.layout.place(head, &part)])
    }

    /// How many positions it has room for.
    pub fn capacity(&self) -> usize {
        self.layout.capacity(self.values.len())
    }
}

/// Writes `given`, the keys or the values of some tokens, `[kv_heads, n, head_dim]`, to `cache`, which lies as `layout` says, after its
/// first `n_past` positions, each rounded to the nearest number of its type.
///
/// # Errors
/// The largest magnitude that is finite and becomes infinite in the cache: attention to it would mean nothing. Everything is written
/// nevertheless, and what is not finite stays so.
///
/// # Panics
/// For slices that are not of these shapes, and for positions that the cache lacks.
pub fn append<F: Float>(given: &[f32], cache: &mut [F], layout: CacheLayout, n_past: usize) -> std::result::Result<(), f32> {
    let (of_head, head_dim) = (given.len() / layout.kv_heads, layout.head_dim);
    assert!(given.len() == layout.kv_heads * of_head && of_head.is_multiple_of(head_dim), "heads are whole, of whole tokens");
    let n = of_head / head_dim;
    assert!(n_past + n <= layout.capacity(cache.len()), "there is room for the tokens");
    if n == 0 {
        return Ok(());
    }
    let first_block = n_past / layout.positions;
    let blocks = cache[first_block * layout.stride..].chunks_mut(layout.stride);
    let mut tasks: Vec<(&[f32], &mut [F])> = Vec::new();
    for (positions, block) in layout.parts(n_past..n_past + n).zip(blocks) {
        for (head, cache) in block[..layout.block_len()].chunks_exact_mut(layout.positions * head_dim).enumerate() {
            let own = &given[head * of_head..][(positions.start - n_past) * head_dim..][..positions.len() * head_dim];
            tasks.push((own, &mut cache[positions.start % layout.positions * head_dim..][..own.len()]));
        }
    }
    if given.len() < MIN_PARALLEL {
        tasks.into_iter().for_each(|(given, cache)| F::narrow(given, cache));
    } else {
        tasks.into_par_iter().for_each(|(given, cache)| F::narrow(given, cache));
    }
    if F::OVERFLOW == f32::INFINITY {
        return Ok(());
    }
    let largest = largest_finite(given);
    if largest < F::OVERFLOW { Ok(()) } else { Err(largest) }
}

/// Independent maxima.
const LANES: usize = 16;

vectorized! {
    /// The largest magnitude of those of `values` that are finite, or 0.
    fn largest_finite(values: &[f32]) -> f32 {
        let mut largest = [0.0_f32; LANES];
        for values in values.chunks(LANES) {
            for (largest, value) in largest.iter_mut().zip(values) {
                let magnitude = value.abs();
                *largest = if magnitude > *largest && magnitude < f32::INFINITY { magnitude } else { *largest };
            }
        }
        largest.into_iter().fold(0.0, f32::max)
    }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;

    /// Two heads of two values, three positions, of which the last two are written.
    fn check<F: Float>(zero: F, given: [f32; 8], expected: [f32; 12], result: std::result::Result<(), f32>) {
        let mut cache = [zero; 12];
        assert_eq!(append(&given, &mut cache, CacheLayout::contiguous([2, 3, 2]), 1), result, "{}", F::DTYPE);
        assert_eq!(cache.map(F::widened), expected, "{}", F::DTYPE);
    }

    #[test]
    fn append_leaves_what_is_held_and_rounds() {
        let given = [1.0, -2.0, 3.0, 2049.0, 5.0, 6.0, -65_519.0, 8.0];
        check(0.0, given, [0.0, 0.0, 1.0, -2.0, 3.0, 2049.0, 0.0, 0.0, 5.0, 6.0, -65_519.0, 8.0], Ok(()));
        check(f16::ZERO, given, [0.0, 0.0, 1.0, -2.0, 3.0, 2048.0, 0.0, 0.0, 5.0, 6.0, -65_504.0, 8.0], Ok(()));
        check(bf16::ZERO, given, [0.0, 0.0, 1.0, -2.0, 3.0, 2048.0, 0.0, 0.0, 5.0, 6.0, -65_536.0, 8.0], Ok(()));
    }

    #[test]
    fn append_reports_what_a_type_cannot_hold() {
        let infinity = f32::INFINITY;
        let given = [1.0, infinity, 65_520.0, 4.0, -1e30, 6.0, 7.0, 8.0];
        check(0.0, given, [0.0, 0.0, 1.0, infinity, 65_520.0, 4.0, 0.0, 0.0, -1e30, 6.0, 7.0, 8.0], Ok(()));
        check(f16::ZERO, given, [0.0, 0.0, 1.0, infinity, infinity, 4.0, 0.0, 0.0, -infinity, 6.0, 7.0, 8.0], Err(1e30));
        let mut cache = [bf16::ZERO; 2];
        assert_eq!(append(&[f32::MAX, 1.0], &mut cache, CacheLayout::contiguous([1, 1, 2]), 0), Err(f32::MAX));
        assert_eq!(cache[0], bf16::INFINITY);
    }

    /// `n` tokens of `heads` heads.
    fn numbers(heads: usize, n: usize, head_dim: usize) -> Vec<f32> {
        (0..heads * n * head_dim).map(|i| (i as f32 * 0.37).sin() * 9.0).collect()
    }

    #[test]
    fn append_of_many_values_is_that_of_few() {
        let (heads, n, head_dim) = (3, 300, 40);
        let given = numbers(heads, n, head_dim);
        assert!(given.len() > MIN_PARALLEL);
        let contiguous = CacheLayout::contiguous([heads, 320, head_dim]);
        let blocks = CacheLayout { positions: 64, stride: heads * 64 * head_dim + 17, ..contiguous };
        for layout in [contiguous, blocks] {
            let mut whole = vec![f16::ZERO; 5 * layout.stride];
            append(&given, &mut whole, layout, 7).unwrap();
            let mut one = vec![f16::ZERO; whole.len()];
            for token in 0..n {
                let row: Vec<f32> =
                    (0..heads).flat_map(|head| &given[(head * n + token) * head_dim..][..head_dim]).copied().collect();
                append(&row, &mut one, layout, 7 + token).unwrap();
            }
            assert_eq!(whole, one);
            let view = CacheView { values: &whole, layout };
            for head in 0..heads {
                let held: Vec<f16> = view.rows(head, 7..7 + n).flatten().copied().collect();
                let own = &given[head * n * head_dim..][..n * head_dim];
                assert_eq!(held, own.iter().map(|value| f16::from_f32(*value)).collect::<Vec<_>>());
            }
            let n_written = whole.iter().filter(|value| **value != f16::ZERO).count();
            assert!(n_written <= given.len(), "nothing else is written: {n_written}");
        }
    }

    #[test]
    fn rows_end_with_blocks() {
        let layout = CacheLayout { kv_heads: 2, head_dim: 3, positions: 4, stride: 100 };
        assert_eq!([layout.capacity(23), layout.capacity(24), layout.capacity(123), layout.capacity(124)], [0, 4, 4, 8]);
        let values: Vec<f32> = (0..224).map(|i| i as f32).collect();
        let view = CacheView { values: &values, layout };
        assert_eq!(view.capacity(), 12);
        let rows: Vec<(f32, usize)> = view.rows(1, 2..9).map(|rows| (rows[0], rows.len())).collect();
        assert_eq!(rows, [(18.0, 6), (112.0, 12), (212.0, 3)]);
        assert_eq!(view.rows(0, 5..5).count(), 0);
    }

    #[test]
    #[should_panic(expected = "there is room")]
    fn append_beyond_the_capacity_is_refused() {
        let _ = append(&[0.0; 4], &mut [f16::ZERO; 4], CacheLayout::contiguous([1, 2, 2]), 1);
    }
}
