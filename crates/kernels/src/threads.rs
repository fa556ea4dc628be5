//! The threads of a model, on which loops run.
//!
//! A run of a model is on one of them, and the others take parts of its loops. Between two loops are some ten microseconds, in which rayon would put
//! them to sleep, and waking them takes as long: so they look for work until the run is over or has had none for a while. Between runs all sleep.

use std::hint;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder, Yield};

/// How long a thread looks for work before it sleeps until the next loop: an engine's own operators take longer over many tokens, and need
/// the processor then.
const PATIENCE: Duration = Duration::from_micros(200);

/// How often it looks at nothing before it looks for work again.
const PAUSES: usize = 16;

/// A pool of threads, and the run that it is for.
#[derive(Debug)]
pub struct Threads {
    pool: ThreadPool,
    /// Another number in each run, and when several are at work.
    run: Arc<AtomicU64>,
}

/// Ends the watch of others when the run is over, however it ends.
struct Watched<'t>(&'t AtomicU64);

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Threads {
    /// So many threads.
    ///
    /// # Errors
    /// When the system has none.
    pub fn new(n: usize) -> Result<Self, ThreadPoolBuildError> {
        let pool = ThreadPoolBuilder::new().num_threads(n).thread_name(|i| format!("kernels-{i}")).build()?;
        Ok(Self { pool, run: Arc::default() })
    }

    /// How many they are.
    pub fn n(&self) -> usize {
        self.pool.current_num_threads()
    }

    /// Calls `work` on one of the threads, whose loops the others share and sleep in between.
    pub fn install<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.pool.install(work)
    }

    /// As [`install`](Self::install), of a run of a model, whose loops follow each other closely: the others stay awake.
    pub fn run<T: Send>(&self, run: impl FnOnce() -> T + Send) -> T {
        self.pool.install(|| {
            let number = self.run.fetch_add(1, Ordering::Relaxed) + 1;
            let _watched = Watched(&self.run);
            let (own, current) = (self.pool.current_thread_index(), Arc::clone(&self.run));
            self.pool.spawn_broadcast(move |thread| {
                // The one that runs the graph may come here while it waits for the others.
                if Some(thread.index()) != own {
                    look_for_work(|| current.load(Ordering::Relaxed) == number);
                }
            });
            run()
        })
    }
}

/// Does what there is to do while `is_running`, until there was nothing for a while.
fn look_for_work(is_running: impl Fn() -> bool) {
    let mut last = Instant::now();
    while is_running() {
        if rayon::yield_now() == Some(Yield::Executed) {
            last = Instant::now();
        } else if last.elapsed() > PATIENCE {
            return;
        }
        (0..PAUSES).for_each(|_| hint::spin_loop());
    }
}

#[cfg(test)]
mod tests {
    use rayon::prelude::*;

    use super::*;

    fn sum(threads: &Threads) -> u64 {
        threads.run(|| (0..50).map(|_| (0..1000_u32).into_par_iter().with_max_len(10).map(u64::from).sum::<u64>()).sum())
    }

    #[test]
    fn runs_at_the_same_time_end() {
        for n in [1, 2, 3] {
            let threads = Threads::new(n).unwrap();
            assert_eq!(sum(&threads), 50 * 499_500);
            std::thread::scope(|scope| {
                let all: Vec<_> = (0..4).map(|_| scope.spawn(|| (0..200).map(|_| sum(&threads)).sum::<u64>())).collect();
                all.into_iter().for_each(|run| assert_eq!(run.join().unwrap(), 200 * 50 * 499_500));
            });
        }
    }

    #[test]
    fn a_run_that_panics_leaves_the_pool_usable() {
        let threads = Threads::new(2).unwrap();
        let run = std::panic::AssertUnwindSafe(|| threads.run(|| panic!("of this test")));
        assert!(std::panic::catch_unwind(run).is_err());
        assert_eq!(sum(&threads), 50 * 499_500);
    }
}
