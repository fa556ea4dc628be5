//! Memory for results and intermediate values.

use rayon::prelude::*;

/// `n` zeros. Large buffers are written by all threads, because the first touch of new memory costs more than what follows.
pub fn zeros(n: usize) -> Vec<f32> {
    const TOGETHER: usize = 1024;
    const MANY: usize = 128 * TOGETHER;
    if n < MANY {
        return vec![0.0; n];
    }
    let parts = (0..n.div_ceil(TOGETHER)).into_par_iter().with_min_len(32).map(|_| [0.0; TOGETHER]);
    let mut zeros = parts.collect::<Vec<_>>().into_flattened();
    zeros.truncate(n);
    zeros
}

/// The first `n` values of `values`, which grows if necessary; their contents are left over from earlier uses.
pub fn scratch_slice(values: &mut Vec<f32>, n: usize) -> &mut [f32] {
    if values.len() < n {
        *values = zeros(n);
    }
    &mut values[..n]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_has_the_requested_length() {
        for n in [0, 1, 1024, 131_071, 131_072, 131_073, 400_000] {
            assert_eq!(zeros(n), vec![0.0; n]);
        }
    }
}
