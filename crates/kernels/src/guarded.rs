//! Kernels on memory between pages that nobody may touch: a read or write beyond weights, inputs, outputs or keys ends the process.
//!
//! Sizes are odd on purpose: what remains after whole vectors is where loops go too far.

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr;

use bytemuck::Pod;
use half::{bf16, f16};
use tandem_core::backend::Numerics;

use crate::isa::Isa;
use crate::matrix::{Kernels, MatrixView, Terms, Weights};
use crate::quantize::{BLOCK, Bits, Blocks};
use crate::strips::{self, STRIP, Strips};
use crate::tiles::{MAX_ROWS, TILE};

/// The largest page of the processors that tests run on.
const PAGE: usize = 64 << 10;

/// Which side of the values the page lies at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Before,
    Behind,
}

/// Values directly before or behind a page that nobody may touch.
pub(crate) struct Guarded<V> {
    mapping: *mut libc::c_void,
    n_mapped: usize,
    values: *mut V,
    n: usize,
    owned: PhantomData<V>,
}

impl<V: Pod> Guarded<V> {
    pub(crate) fn new(values: &[V], side: Side) -> Self {
        let n_bytes = size_of_val(values);
        let n_usable = n_bytes.next_multiple_of(PAGE);
        let n_mapped = n_usable + 2 * PAGE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: new memory where the system has room; an error is handled.
        #[expect(unsafe_code, reason = "memory is mapped")]
        let mapping = unsafe { libc::mmap(ptr::null_mut(), n_mapped, libc::PROT_NONE, flags, -1, 0) };
        assert_ne!(mapping, libc::MAP_FAILED);
        let start = match side {
            Side::Before => PAGE,
            Side::Behind => PAGE + n_usable - n_bytes,
        };
        // SAFETY: the middle of the new mapping, which has room for the values from `start` on.
        #[expect(unsafe_code, reason = "memory is made usable, and filled")]
        let own = unsafe {
            let usable = mapping.byte_add(PAGE);
            assert_eq!(libc::mprotect(usable, n_usable, libc::PROT_READ | libc::PROT_WRITE), 0);
            let own = mapping.byte_add(start).cast::<V>();
            ptr::copy_nonoverlapping(values.as_ptr(), own, values.len());
            own
        };
        Self { mapping, n_mapped, values: own, n: values.len(), owned: PhantomData }
    }
}

impl<V> Deref for Guarded<V> {
    type Target = [V];

    #[expect(unsafe_code, reason = "values in mapped memory")]
    fn deref(&self) -> &[V] {
        // SAFETY: so many values were written there, aligned as the end and the start of a page are; they live as long as the mapping.
        unsafe { std::slice::from_raw_parts(self.values, self.n) }
    }
}

impl<V> DerefMut for Guarded<V> {
    #[expect(unsafe_code, reason = "values in mapped memory")]
    fn deref_mut(&mut self) -> &mut [V] {
        // SAFETY: as above, and nobody else has them.
        unsafe { std::slice::from_raw_parts_mut(self.values, self.n) }
    }
}

impl<V> Drop for Guarded<V> {
    #[expect(unsafe_code, reason = "memory is unmapped")]
    fn drop(&mut self) {
        // SAFETY: it is this value's own mapping, and goes with it.
        unsafe { libc::munmap(self.mapping, self.n_mapped) };
    }
}

fn numbers(n: usize, seed: usize) -> Vec<f32> {
    (0..n).map(|i| (((i * i + 7 * i + seed * 131) % 997) as f32 * 0.71).sin()).collect()
}

pub(crate) fn each(mut check: impl FnMut(Isa, Side)) {
    for isa in Isa::all() {
        for side in [Side::Before, Side::Behind] {
            check(isa, side);
        }
    }
}

/// Products with `weights` of so many rows and columns, for few and many rows of inputs.
fn check_products(weights: Weights<'_>, [rows, columns]: [usize; 2], side: Side, isa: Isa) {
    // Strips are multiplied with quantised inputs alone.
    let is_in_strips = matches!(weights, Weights::Strips(_));
    for numerics in [Numerics::Fast, Numerics::Exact].into_iter().take(if is_in_strips { 1 } else { 2 }) {
        let matrix = MatrixView::new(weights, [rows, columns], numerics).on(isa);
        for n in [1, 2, 3, 5, 7, MAX_ROWS, 9, 13, 16, 17, 33] {
            let bias = Guarded::new(&numbers(rows, 5), side);
            let terms = Terms { bias: Some(&bias), update: None };
            let x = Guarded::new(&numbers(n * columns, n), side);
            for kernels in [Kernels::Fastest, Kernels::ByShape, Kernels::OfRows(7)] {
                let mut out = Guarded::new(&vec![f32::NAN; n * rows], side);
                matrix.write_product(&x, terms, kernels, &mut Vec::new(), &mut out);
                assert!(out.iter().all(|out| out.is_finite()), "{isa} {side:?} {rows}x{columns}, {n} rows, {kernels:?}");
            }
        }
    }
}

#[test]
fn products_with_floats_stay_within_their_memory() {
    each(|isa, side| {
        for shape @ [rows, columns] in [[1, 1], [3, 15], [5, 33], [17, 100], [37, 31], [70, 65]] {
            let values = numbers(rows * columns, 1);
            check_products(Weights::F32(&Guarded::new(&values, side)), shape, side, isa);
            let halves: Vec<f16> = values.iter().map(|value| f16::from_f32(*value)).collect();
            check_products(Weights::F16(&Guarded::new(&halves, side)), shape, side, isa);
            let halves: Vec<bf16> = values.iter().map(|value| bf16::from_f32(*value)).collect();
            check_products(Weights::Bf16(&Guarded::new(&halves, side)), shape, side, isa);
        }
    });
}

#[test]
fn products_with_blocks_stay_within_their_memory() {
    each(|isa, side| {
        for shape @ [rows, n_blocks] in [[1, 1], [3, 2], [5, 3], [17, 5], [37, 17], [70, 9]] {
            let columns = n_blocks * BLOCK;
            for bits in [Bits::Four, Bits::Eight] {
                let n = rows * n_blocks;
                let (mut codes, mut scales) = (vec![0; n * bits.block_bytes()], vec![0.0; n]);
                bits.quantize(&numbers(rows * columns, 1), &mut codes, &mut scales);
                let (codes, scales) = (Guarded::new(&codes, side), Guarded::new(&scales, side));
                let blocks = Blocks { bits, codes: &codes, scales: &scales };
                check_products(Weights::Blocks(blocks), [rows, columns], side, isa);
                if isa.has_strips() {
                    let (mut codes, mut scales) = (codes.to_vec(), scales.to_vec());
                    strips::interleave(bits, &mut codes, &mut scales, columns);
                    let (codes, scales) = (Guarded::new(&codes, side), Guarded::new(&scales, side));
                    let strips = Strips::new(bits, &codes, &scales, columns);
                    check_products(Weights::Strips(strips), [rows, columns], side, isa);
                }
                let mut widened = Guarded::new(&vec![f32::NAN; rows * columns], side);
                isa.dequantize(blocks, &mut widened);
                assert!(widened.iter().all(|value| value.is_finite()), "{isa} {side:?} {shape:?}");
            }
        }
    });
}

#[test]
fn strips_are_interleaved_within_their_memory() {
    each(|isa, side| {
        for n in [1, 8, 15, 16, 17, 33] {
            let words: Vec<strips::Word> = (0..n * STRIP).map(|i| (i as u32).to_ne_bytes()).collect();
            let (rows, mut strip) = (Guarded::new(&words, side), Guarded::new(&vec![[0; 4]; words.len()], side));
            isa.interleave(&rows, &mut strip);
            let expected = (0..words.len()).map(|i| words[i % STRIP * n + i / STRIP]);
            assert!(strip.iter().copied().eq(expected), "{isa} {side:?}, rows of {n} words");
        }
    });
}

#[test]
fn attention_stays_within_its_memory() {
    each(|isa, side| {
        for (positions, width) in [(1, 8), (3, 16), (5, 40), (7, 64), (13, 80), (17, 128), (255, 64)] {
            let wide = numbers(positions * width, 3);
            let narrow: Vec<f16> = wide.iter().map(|value| f16::from_f32(*value)).collect();
            let (wide, narrow) = (Guarded::new(&wide, side), Guarded::new(&narrow, side));
            for n in 1..=MAX_ROWS {
                let queries = Guarded::new(&numbers(n * width, n), side);
                let weights = Guarded::new(&numbers(positions * n, 2), side);
                let mut scores = Guarded::new(&vec![f32::NAN; positions * n], side);
                let mut sums = Guarded::new(&vec![0.0; n * width], side);
                isa.scores(&wide, &queries, width, &mut scores);
                isa.weighted_sums(&weights, &wide, width, &mut sums);
                isa.scores(&narrow, &queries, width, &mut scores);
                isa.weighted_sums(&weights, &narrow, width, &mut sums);
                let finite = scores.iter().chain(&*sums).all(|value| value.is_finite());
                assert!(finite, "{isa} {side:?} {positions}x{width}, {n} queries");
            }
        }
    });
}

#[test]
fn adapters_and_tiles_stay_within_their_memory() {
    each(|isa, side| {
        for (rank, n_tiles) in [(1, 1), (3, 2), (8, 3), (17, 5)] {
            let n = n_tiles * TILE;
            let tiles = numbers(rank * n, 7);
            let narrow: Vec<f16> = tiles.iter().map(|value| f16::from_f32(*value)).collect();
            let (tiles, narrow) = (Guarded::new(&tiles, side), Guarded::new(&narrow, side));
            let inputs = Guarded::new(&numbers(rank, 1), side);
            let mut out = Guarded::new(&vec![0.0; n], side);
            isa.add_tiles(&tiles, &inputs, &mut out);
            isa.add_tiles(&narrow, &inputs, &mut out);
            assert!(out.iter().all(|out| out.is_finite()), "{isa} {side:?}, rank {rank}");
        }
        for inner in [1, 5, 16, 33] {
            let weights = Guarded::new(&numbers(inner * TILE, 1), side);
            for n in 1..=isa.tile_inputs() {
                let inputs = Guarded::new(&numbers(inner * n, n), side);
                let mut sums = Guarded::new(&vec![0.0; n * TILE], side);
                isa.tile(&weights, &inputs, &mut sums);
                assert!(sums.iter().all(|sum| sum.is_finite()), "{isa} {side:?}, {inner} by {n}");
            }
        }
    });
}

/// The page is there: a process that touches it is ended, which a child shows.
#[test]
fn a_touch_ends_the_process() {
    const CHILD: &str = "TANDEM_TEST_TOUCHES";
    if std::env::var_os(CHILD).is_some() {
        let values = Guarded::new(&[1_u8, 2, 3], Side::Behind);
        // SAFETY: none: it is what must end this process.
        #[expect(unsafe_code, reason = "memory is touched that must not be")]
        let beyond = unsafe { values.as_ptr().add(3).read_volatile() };
        panic!("{beyond} was read");
    }
    let own = std::env::current_exe().unwrap();
    let name = "guarded::a_touch_ends_the_process";
    let ended = std::process::Command::new(own).args(["--exact", name]).env(CHILD, "1").output().unwrap();
    use std::os::unix::process::ExitStatusExt;
    assert!(ended.status.signal().is_some(), "{ended:?}");
}
