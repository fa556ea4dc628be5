//! How fast memory can be read: the limit of decoding, which reads every weight for every token.

use std::hint::black_box;
use std::time::{Duration, Instant};

use memmap2::MmapMut;

/// More bytes than any cache holds.
pub const MORE_THAN_CACHES: usize = 512 << 20;

/// How long the array is read, and how often at least. A machine that others share gives twice as much for a moment: what a model gets lies
/// in the middle.
const DURATION: Duration = Duration::from_millis(500);
const LEAST_PASSES: usize = 3;

/// Bytes per second when `threads` threads each read a part of an array of `n_bytes`, at best [`MORE_THAN_CACHES`]: the median of the passes of
/// half a second, by the processor time of the slowest thread, so that other programs do not count. The array lies in huge pages where the
/// system gives them, as weights do after a load. Zero where there is no memory for it.
pub fn read_bandwidth(threads: usize, n_bytes: usize) -> f64 {
    let Ok(mut array) = MmapMut::map_anon(n_bytes.max(1)) else { return 0.0 };
    // A system without them reads what it has.
    #[cfg(target_os = "linux")]
    let _ = array.advise(memmap2::Advice::HugePage);
    array.fill(1);
    let part = array.len().div_ceil(threads.max(1));
    let timed = |part: &[u8]| {
        let started = processor_seconds();
        black_box(sum(part));
        processor_seconds() - started
    };
    let pass = || {
        std::thread::scope(|scope| {
            let threads: Vec<_> = array.chunks(part).map(|part| scope.spawn(|| timed(part))).collect();
            threads.into_iter().filter_map(|thread| thread.join().ok()).fold(0.0, f64::max)
        })
    };
    let (started, mut passes) = (Instant::now(), Vec::new());
    while passes.len() < LEAST_PASSES || started.elapsed() < DURATION {
        passes.push(pass());
    }
    passes.sort_by(f64::total_cmp);
    array.len() as f64 / passes[passes.len() / 2]
}

/// The processor time of this thread, in seconds; elsewhere the time.
fn processor_seconds() -> f64 {
    #[cfg(unix)]
    {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
    }
    #[cfg(not(unix))]
    {
        static START: std::sync::LazyLock<std::time::Instant> = std::sync::LazyLock::new(std::time::Instant::now);
        START.elapsed().as_secs_f64()
    }
}

/// Of numbers of eight bytes. Eight sums at once, so that additions never wait for each other.
fn sum(bytes: &[u8]) -> u64 {
    let mut sums = [0_u64; 8];
    let (numbers, _) = bytes.as_chunks();
    let (chunks, rest) = numbers.as_chunks::<8>();
    for chunk in chunks {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            *sum = sum.wrapping_add(u64::from_ne_bytes(*value));
        }
    }
    let rest = rest.iter().map(|value| u64::from_ne_bytes(*value));
    sums.into_iter().chain(rest).fold(0, u64::wrapping_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bandwidth_reads_every_value() {
        for n in [0, 1, 8, 27] {
            let bytes: Vec<u8> = (1..=n).flat_map(u64::to_ne_bytes).collect();
            assert_eq!(sum(&bytes), n * (n + 1) / 2);
        }
        assert!(read_bandwidth(2, 8 << 20) > 1e8);
    }
}
