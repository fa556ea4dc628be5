//! In which order texts are used: each once, in an order drawn by the seed, then all again in another.

use crate::sampler::uniform;

/// Keeps the draws of orders apart from those of factors.
const ORDERS: u64 = 0x6f72_6465_7273;

/// Of `n` texts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Order {
    n: usize,
    seed: u64,
}

impl Order {
    pub(super) fn new(n: usize, seed: u64) -> Self {
        Self { n, seed }
    }

    /// The texts used at `count` places from `start` on.
    pub(super) fn range(self, start: usize, count: usize) -> impl Iterator<Item = usize> {
        let mut epoch = (usize::MAX, Vec::new());
        (start..start + if self.n == 0 { 0 } else { count }).map(move |place| {
            if epoch.0 != place / self.n {
                epoch = (place / self.n, self.epoch(place / self.n));
            }
            epoch.1[place % self.n]
        })
    }

    /// Fisher and Yates.
    fn epoch(self, number: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.n).collect();
        for last in (1..self.n).rev() {
            let draw = uniform(self.seed ^ ORDERS, (number as u64) << 32 | last as u64);
            order.swap(last, (draw * (last + 1) as f64) as usize);
        }
        order
    }
}
