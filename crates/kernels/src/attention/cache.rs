//! Keys and values that are written to a cache, of any float type.

use rayon::prelude::*;

use crate::float::Float;
use crate::isa::vectorized;

/// Fewer values are written by the calling thread.
const MIN_PARALLEL: usize = 1 << 15;

/// Writes `given`, the keys or the values of some tokens, `[kv_heads, n, head_dim]`, to `cache`, `[kv_heads, capacity, head_dim]`, after its
/// first `n_past` positions, each rounded to the nearest number of its type.
///
/// # Errors
/// The largest magnitude that is finite and becomes infinite in the cache: attention to it would mean nothing. Everything is written
/// nevertheless, and what is not finite stays so.
///
/// # Panics
/// For slices that are not of these shapes, and for positions that the cache lacks.
pub fn append<F: Float>(
    given: &[f32],
    cache: &mut [F],
    [kv_heads, head_dim]: [usize; 2],
    n_past: usize,
) -> std::result::Result<(), f32> {
    let (of_head, capacity) = (given.len() / kv_heads, cache.len() / kv_heads);
    let first = n_past * head_dim;
    assert!(given.len() == kv_heads * of_head && cache.len() == kv_heads * capacity, "heads are whole");
    assert!(of_head.is_multiple_of(head_dim) && first + of_head <= capacity, "there is room for whole tokens");
    if of_head == 0 {
        return Ok(());
    }
    let head = |(given, cache): (&[f32], &mut [F])| F::narrow(given, &mut cache[first..first + of_head]);
    if given.len() < MIN_PARALLEL {
        given.chunks_exact(of_head).zip(cache.chunks_exact_mut(capacity)).for_each(head);
    } else {
        given.par_chunks_exact(of_head).zip(cache.par_chunks_exact_mut(capacity)).for_each(head);
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
        assert_eq!(append(&given, &mut cache, [2, 2], 1), result, "{}", F::DTYPE);
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
        assert_eq!(append(&[f32::MAX, 1.0], &mut cache, [1, 2], 0), Err(f32::MAX));
        assert_eq!(cache[0], bf16::INFINITY);
    }

    #[test]
    fn append_of_many_values_is_that_of_few() {
        let (heads, n, head_dim, capacity) = (3, 300, 40, 320);
        let given: Vec<f32> = (0..heads * n * head_dim).map(|i| (i as f32 * 0.37).sin() * 9.0).collect();
        assert!(given.len() > MIN_PARALLEL);
        let mut whole = vec![f16::ZERO; heads * capacity * head_dim];
        append(&given, &mut whole, [heads, head_dim], 7).unwrap();
        let mut one = vec![f16::ZERO; whole.len()];
        for token in 0..n {
            let row: Vec<f32> =
                (0..heads).flat_map(|head| &given[(head * n + token) * head_dim..][..head_dim]).copied().collect();
            append(&row, &mut one, [heads, head_dim], 7 + token).unwrap();
        }
        assert_eq!(whole, one);
    }

    #[test]
    #[should_panic(expected = "there is room")]
    fn append_beyond_the_capacity_is_refused() {
        let _ = append(&[0.0; 4], &mut [f16::ZERO; 4], [1, 2], 1);
    }
}
