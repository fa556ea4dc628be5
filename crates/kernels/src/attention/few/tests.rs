//! A few queries against those of a whole prompt, to the bit.

use half::f16;

use super::*;
use crate::attention::tests::{in_blocks, numbers};
use crate::attention::{AttentionMask, CacheLayout, CacheView, Scoring};
use crate::matrix::Kernels;
use crate::tiles::MAX_ROWS;

/// A sequence of `n` tokens.
struct Prompt<F> {
    /// Heads, key heads, width of a head.
    shape: [usize; 3],
    n: usize,
    queries: Vec<f32>,
    keys: Vec<F>,
    values: Vec<F>,
    window: Option<usize>,
    scoring: Scoring,
}

impl<F: Float> Prompt<F> {
    fn new(shape: [usize; 3], n: usize, window: Option<usize>, softcap: Option<f32>) -> Self {
        let [n_heads, kv_heads, head_dim] = shape;
        let cache = |seed| {
            let wide = numbers(kv_heads * n * head_dim, seed);
            let mut narrow = vec![F::zeroed(); wide.len()];
            F::narrow(&wide, &mut narrow);
            narrow
        };
        let scoring = Scoring { scale: 1.0 / (head_dim as f32).sqrt(), softcap };
        Self { shape, n, queries: numbers(n_heads * n * head_dim, 7), keys: cache(1), values: cache(2), window, scoring }
    }

    fn contiguous(&self) -> [CacheView<'_, F>; 2] {
        let layout = CacheLayout::contiguous([self.shape[1], self.n, self.shape[2]]);
        [&self.keys, &self.values].map(|values| CacheView { values, layout })
    }

    /// The attention of the tokens of `rows`, `[rows, heads * head_dim]`.
    fn attended(
        &self,
        caches: [CacheView<'_, F>; 2],
        rows: Range<usize>,
        of: impl Fn(&AttentionInputs<'_, F>, &mut [f32]),
    ) -> Vec<u32> {
        let [n_heads, kv_heads, head_dim] = self.shape;
        let heads = self.queries.chunks_exact(self.n * head_dim);
        let queries: Vec<f32> = heads.flat_map(|head| &head[rows.start * head_dim..rows.end * head_dim]).copied().collect();
        let mask = AttentionMask { n_past: rows.start, window: self.window, ahead: None };
        let ([keys, values], n, scoring) = (caches, rows.len(), self.scoring);
        let group = n_heads / kv_heads;
        let inputs = AttentionInputs { queries: &queries, keys, values, n_heads, group, n, head_dim, mask, scoring };
        let mut out = vec![f32::NAN; n * n_heads * head_dim];
        of(&inputs, &mut out);
        out.into_iter().map(f32::to_bits).collect()
    }
}

/// The next of a linear congruential sequence, below `below`.
fn next(state: &mut u32, below: usize) -> usize {
    *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
    (*state >> 8) as usize % below
}

/// Prompts in parts of few tokens and of many, with both layouts.
fn check_prompts<F: Float>(isa: Isa, seed: u32) {
    let mut state = seed;
    for shape in [[14, 2, 64], [4, 4, 8], [20, 2, 24], [8, 1, 33], [3, 3, 80], [40, 2, 16]] {
        let n = 1 + next(&mut state, 550);
        let window = [None, Some(1 + next(&mut state, 20)), Some(200 + next(&mut state, 200))][next(&mut state, 3)];
        let softcap = [None, Some(1.5)][next(&mut state, 2)];
        let prompt = Prompt::<F>::new(shape, n, window, softcap);
        let caches = prompt.contiguous();
        let (blocks, layout) = in_blocks(caches);
        let in_blocks = [0, layout.block_len()].map(|start| CacheView { values: &blocks[start..], layout });
        let whole = prompt.attended(caches, 0..n, |inputs, out| inputs.prefill(isa, out));
        let (of_row, mut first) = (shape[0] * shape[2], 0);
        while first < n {
            let most = if next(&mut state, 8) == 0 { 70 } else { MAX_ROWS };
            let rows = first..n.min(first + 1 + next(&mut state, most));
            let expected = &whole[rows.start * of_row..rows.end * of_row];
            let what = format!("{isa} {} {shape:?}, {rows:?} of {n}, window {window:?}, {softcap:?}", F::DTYPE);
            for caches in [caches, in_blocks] {
                let own = prompt.attended(caches, rows.clone(), |inputs, out| inputs.write(isa, Kernels::ByShape, out));
                assert!(own == expected, "{what}");
            }
            if next(&mut state, 8) == 0 {
                let many = prompt.attended(caches, rows.clone(), |inputs, out| inputs.prefill(isa, out));
                assert!(many == expected, "{what}: the tiles of many");
            }
            first = rows.end;
        }
    }
}

#[test]
fn a_prompt_has_the_same_bits_in_parts_of_few_tokens() {
    for isa in Isa::all() {
        for seed in 0..2 {
            check_prompts::<f32>(isa, seed);
            check_prompts::<f16>(isa, 100 + seed);
        }
    }
}

/// Also those of more queries than are computed so.
#[test]
fn any_number_of_queries_has_the_bits_of_many_at_any_number_of_threads() {
    for [n_heads, kv_heads] in [[14, 2], [40, 1], [6, 6]] {
        let prompt = Prompt::<f16>::new([n_heads, kv_heads, 32], 777, None, None);
        for n in [1, 2, 5, MAX_ROWS, 31, 40] {
            let rows = 777 - n..777;
            for isa in Isa::all() {
                let of = |inputs: &AttentionInputs<'_, f16>, out: &mut [f32]| inputs.few(isa, out);
                let many = prompt.attended(prompt.contiguous(), rows.clone(), |inputs, out| inputs.prefill(isa, out));
                for threads in [1, 2, 7] {
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                    let few = pool.install(|| prompt.attended(prompt.contiguous(), rows.clone(), of));
                    assert!(few == many, "{isa} {n_heads} heads, {n} queries, {threads} threads");
                }
            }
        }
    }
}

/// Few queries of a few kernels are computed in another order, or this file tests nothing.
#[test]
fn many_and_few_differ_in_their_last_bits() {
    let prompt = Prompt::<f32>::new([14, 2, 64], 700, None, None);
    let with = |kernels| prompt.attended(prompt.contiguous(), 696..700, |inputs, out| inputs.write(Isa::current(), kernels, out));
    assert!(with(Kernels::Fastest) != with(Kernels::ByShape));
    assert!(with(Kernels::Fastest) == with(Kernels::OfRows(MAX_ROWS)));
    let many = |kernels| prompt.attended(prompt.contiguous(), 660..700, |inputs, out| inputs.write(Isa::current(), kernels, out));
    assert!(many(Kernels::OfRows(MAX_ROWS))[36 * 14 * 64..] == with(Kernels::Fastest));
}

#[cfg(target_os = "linux")]
#[test]
fn few_queries_stay_within_their_memory() {
    use crate::guarded::{Guarded, each};

    each(|isa, side| {
        for (n_heads, head_dim, n_past, n) in [(2, 8, 0, 1), (6, 33, 238, 3), (14, 64, 479, 2), (34, 24, 500, 8)] {
            let size = 2 * (n_past + n) * head_dim;
            let guarded = |seed| Guarded::new(&numbers(size, seed), side);
            let narrow = |seed| Guarded::new(&numbers(size, seed).into_iter().map(f16::from_f32).collect::<Vec<_>>(), side);
            let queries = Guarded::new(&numbers(n_heads * n * head_dim, 3), side);
            let mut out = Guarded::new(&vec![f32::NAN; n_heads * n * head_dim], side);
            check_guarded(isa, [&guarded(1), &guarded(2)], (&queries, [n_heads, n, head_dim], n_past), &mut out);
            out.fill(f32::NAN);
            check_guarded(isa, [&narrow(1), &narrow(2)], (&queries, [n_heads, n, head_dim], n_past), &mut out);
        }
    });
}

#[cfg(target_os = "linux")]
fn check_guarded<F: Float>(
    isa: Isa,
    caches: [&[F]; 2],
    (queries, [n_heads, n, head_dim], n_past): (&[f32], [usize; 3], usize),
    out: &mut [f32],
) {
    let layout = CacheLayout::contiguous([2, n_past + n, head_dim]);
    let [keys, values] = caches.map(|values| CacheView { values, layout });
    let mask = AttentionMask { n_past, window: None, ahead: None };
    let scoring = Scoring { scale: 0.3, softcap: None };
    let inputs = AttentionInputs { queries, keys, values, n_heads, group: n_heads / 2, n, head_dim, mask, scoring };
    inputs.write(isa, Kernels::ByShape, out);
    assert!(out.iter().all(|value| value.is_finite()), "{isa}, {n} after {n_past}");
}
