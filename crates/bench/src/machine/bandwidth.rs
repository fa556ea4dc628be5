//! How fast memory can be read: the limit of decoding, which reads every weight for every token.

use std::hint::black_box;
use std::time::Instant;

/// Larger than any cache.
const BYTES: usize = 512 << 20;
const PASSES: usize = 3;

/// Bytes per second when `threads` threads each read a part of a large array: the best of three passes, what memory can do and not what
/// it did beside others.
pub fn read_bandwidth(threads: usize) -> f64 {
    let array = vec![1_u64; BYTES / size_of::<u64>()];
    let part = array.len().div_ceil(threads.max(1));
    let pass = || {
        let started = Instant::now();
        std::thread::scope(|scope| {
            for part in array.chunks(part) {
                scope.spawn(|| black_box(sum(part)));
            }
        });
        started.elapsed().as_secs_f64()
    };
    BYTES as f64 / (0..PASSES).map(|_| pass()).fold(f64::INFINITY, f64::min)
}

/// Eight sums at once, so that additions never wait for each other.
fn sum(values: &[u64]) -> u64 {
    let mut sums = [0_u64; 8];
    let (chunks, rest) = values.as_chunks::<8>();
    for chunk in chunks {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            *sum = sum.wrapping_add(*value);
        }
    }
    sums.iter().chain(rest).fold(0, |all, value| all.wrapping_add(*value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_read() {
        for n in [0, 1, 8, 27] {
            assert_eq!(sum(&(1..=n).collect::<Vec<u64>>()), n * (n + 1) / 2);
        }
        assert!(read_bandwidth(2) > 1e8);
    }
}
