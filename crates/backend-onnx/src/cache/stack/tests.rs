//! The caches of several sessions become consecutive slots, with as few moves as can be.

use ort::value::TensorElementType;
use tandem_core::conformance::{describe, with_fixture};

use super::*;
use crate::library;

const CONTEXT: usize = 2000;

fn ports() -> Vec<CachePort> {
    (0..2).map(|i| CachePort { input: i, output: i, dtype: TensorElementType::Float32, kv_heads: 2, head_dim: 8 }).collect()
}

/// A cache and the tokens that it holds, whose values are `mark` and the position.
struct Cache {
    cache: KvCache,
    held: usize,
    mark: f32,
}

impl Cache {
    fn new(mark: f32, held: usize) -> Self {
        let mut new = Self { cache: KvCache::in_place(&ports(), CONTEXT).unwrap(), held: 0, mark };
        new.append(held);
        new
    }

    /// As a session alone does.
    fn append(&mut self, n: usize) {
        self.cache.reserve(self.held, self.held + n).unwrap();
        for position in self.held..self.held + n {
            self.each(position, |value, expected| *value = expected);
        }
        self.held += n;
    }

    fn check(&mut self) {
        for position in 0..self.held {
            self.each(position, |value, expected| assert_eq!(*value, expected, "position {position}"));
        }
    }

    /// Calls `each` with the values at `position` and what they are.
    fn each(&mut self, position: usize, each: impl Fn(&mut f32, f32)) {
        let (expected, KvCache::InPlace(cache)) = (self.mark + position as f32, &mut self.cache) else { panic!("in place") };
        for buffer in &mut cache.buffers {
            let values = buffer.try_extract_tensor_mut::<f32>().unwrap().1;
            for head in values.chunks_exact_mut(cache.capacity * 8) {
                head[position * 8..][..8].iter_mut().for_each(|value| each(value, expected));
            }
        }
    }

    fn slot(&self) -> &Slot {
        let KvCache::InPlace(cache) = &self.cache else { panic!("in place") };
        cache.slot.as_ref().unwrap()
    }

    fn index(&self) -> usize {
        self.slot().index()
    }
}

/// A run: each of `caches` gets a token by way of the stack, and is checked. Returns the slab.
fn step(caches: &mut [&mut Cache]) -> Arc<Slab> {
    let mut held: Vec<_> = caches.iter_mut().map(|cache| (&mut cache.cache, cache.held)).collect();
    let (mut stack, places) = Stack::gather(&mut held, CONTEXT).unwrap();
    let mut sorted = places.clone();
    sorted.sort_unstable();
    assert!(sorted.into_iter().eq(0..caches.len()), "{places:?}");
    for buffer in &mut stack.buffers {
        let capacity = buffer.shape()[2] as usize;
        let values = buffer.try_extract_tensor_mut::<f32>().unwrap().1;
        for (cache, place) in caches.iter().zip(&places) {
            for head in values.chunks_exact_mut(capacity * 8).skip(place * 2).take(2) {
                head[cache.held * 8..][..8].fill(cache.mark + cache.held as f32);
            }
        }
    }
    let slab = Arc::clone(&stack._slab);
    drop(stack);
    for cache in caches {
        cache.held += 1;
        cache.check();
    }
    slab
}

fn with_engine(test: impl FnOnce()) {
    with_fixture(|| library::environment(None).map_err(|error| describe(&error)), |_| test());
}

#[test]
fn sequences_stay_where_they_are_from_step_to_step() {
    with_engine(|| {
        let [mut a, mut b, mut c] = [(1e4, 3), (2e4, 200), (3e4, 0)].map(|(mark, held)| Cache::new(mark, held));
        let slab = step(&mut [&mut a, &mut b, &mut c]);
        let places = [a.index(), b.index(), c.index()];
        for _ in 0..5 {
            // In whatever order they come.
            assert!(Arc::ptr_eq(&slab, &step(&mut [&mut c, &mut a, &mut b])));
            assert_eq!([a.index(), b.index(), c.index()], places);
        }
        assert!(Arc::ptr_eq(&slab, &step(&mut [&mut b, &mut a])), "neighbours are a stack too");
        // A step alone changes nothing.
        a.append(40);
        assert!(Arc::ptr_eq(&slab, &step(&mut [&mut a, &mut b, &mut c])));
    });
}

#[test]
fn sequences_come_and_go_with_few_copies() {
    with_engine(|| {
        let mut caches: Vec<Cache> = (0..5).map(|i| Cache::new(1e4 * i as f32, 10 * i)).collect();
        let slab = step(&mut caches.iter_mut().collect::<Vec<_>>());
        assert_eq!((slab.n_slots(), caches.iter().map(Cache::index).collect::<Vec<_>>()), (16, vec![0, 1, 2, 3, 4]));
        caches.remove(2);
        caches.push(Cache::new(9e4, 77));
        assert!(Arc::ptr_eq(&slab, &step(&mut caches.iter_mut().collect::<Vec<_>>())), "the new one has the free slot");
        assert_eq!(caches.iter().map(Cache::index).collect::<Vec<_>>(), [0, 1, 3, 4, 2]);
        // One that rests, and keeps what it has, is passed by.
        let mut resting = caches.remove(1);
        assert!(Arc::ptr_eq(&slab, &step(&mut caches.iter_mut().collect::<Vec<_>>())));
        assert_eq!(caches.iter().map(Cache::index).collect::<Vec<_>>(), [5, 3, 4, 2]);
        resting.check();
        caches.push(resting);
        assert!(Arc::ptr_eq(&slab, &step(&mut caches.iter_mut().collect::<Vec<_>>())));
        // Two that have shared runs meet others that have.
        let mut others: Vec<Cache> = (0..2).map(|i| Cache::new(5e5 + 1e4 * i as f32, 30)).collect();
        step(&mut others.iter_mut().collect::<Vec<_>>());
        assert!(Arc::ptr_eq(&slab, &step(&mut caches.iter_mut().chain(&mut others).collect::<Vec<_>>())));
    });
}

#[test]
fn sequences_that_outgrow_a_slab_move_to_a_larger_one() {
    with_engine(|| {
        let (mut a, mut b) = (Cache::new(1e4, 250), Cache::new(2e4, 5));
        let first = step(&mut [&mut a, &mut b]);
        assert_eq!(first.capacity(), 512);
        a.append(261);
        let second = step(&mut [&mut a, &mut b]);
        assert_eq!((first.capacity(), second.capacity(), a.held, b.held), (512, 1024, 513, 7));
        // One that grows alone leaves the slab, and returns.
        b.append(1100);
        b.check();
        assert!(!Arc::ptr_eq(b.slot().slab(), &second) && Arc::ptr_eq(a.slot().slab(), &second));
        let third = step(&mut [&mut a, &mut b]);
        assert_eq!(third.capacity(), CONTEXT, "not more than any may hold");
    });
}

#[test]
fn a_short_sequence_beside_a_long_one_speaks_for_what_it_holds() {
    with_engine(|| {
        let (mut long, mut short) = (Cache::new(1e4, 1000), Cache::new(2e4, 5));
        assert_eq!((long.cache.capacity(1000), short.cache.capacity(5)), (2000, 256));
        let slab = step(&mut [&mut long, &mut short]);
        assert_eq!(slab.capacity(), CONTEXT);
        assert_eq!((long.cache.capacity(1001), short.cache.capacity(6)), (1024, 6));
        short.append(300);
        // What it had once is there until it goes elsewhere.
        short.held = 2;
        assert_eq!(short.cache.capacity(2), 512);
    });
}

#[test]
fn caches_of_another_kind_are_not_gathered() {
    with_engine(|| {
        let (mut a, mut carried) = (Cache::new(1e4, 7), KvCache::carried(&ports()).unwrap());
        let mut on_device = KvCache::on_device(&ports(), &ort::memory::Allocator::default(), 300).unwrap();
        for other in [&mut carried, &mut on_device] {
            let result = Stack::gather(&mut [(&mut a.cache, 7), (other, 0)], CONTEXT);
            assert!(matches!(result, Err(Error::Unsupported { .. })));
            a.check();
        }
    });
}
