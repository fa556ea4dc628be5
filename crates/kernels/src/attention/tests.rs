//! Attention against f64, with caches of every float type.

use half::f16;

use super::*;

pub(super) fn numbers(n: usize, seed: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * i + seed) as f32 * 0.61).sin() * 2.0).collect()
}

/// One query of one head in f64.
fn expected<F: Float>(shared: &AttentionInputs<'_, F>, row: usize, head: usize) -> Vec<f64> {
    let query = &shared.queries[(head * shared.n + row) * shared.head_dim..][..shared.head_dim];
    fn at<F: Float>(cache: CacheView<'_, F>, head: usize, position: usize) -> &[F] {
        cache.rows(head, position..position + 1).next().unwrap()
    }
    let key_head = head / shared.group;
    let score = |position| {
        let keys = at(shared.keys, key_head, position);
        let dot: f64 = keys.iter().zip(query).map(|(k, q)| f64::from(k.widened()) * f64::from(*q)).sum();
        let score = dot * f64::from(shared.scoring.scale);
        shared.scoring.softcap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh()).exp()
    };
    let visible = shared.mask.visible(row);
    let all: f64 = visible.clone().map(score).sum();
    let value = |position, i: usize| f64::from(at(shared.values, key_head, position)[i].widened());
    let of = |i: usize| visible.clone().map(|position| score(position) * value(position, i)).sum::<f64>();
    (0..shared.head_dim).map(|i| of(i) / all).collect()
}

/// Heads, key heads, width of a head.
type Shape = (usize, usize, usize);

/// The attention of `isa` to `keys` and `values`, compared with f64 in some rows.
fn check_with<F: Float>(
    isa: Isa,
    queries: &[f32],
    [keys, values]: [&[F]; 2],
    (shape, n): (Shape, usize),
    of: (AttentionMask, Scoring),
) -> Vec<f32> {
    let ((n_heads, kv_heads, head_dim), (mask, scoring)) = (shape, of);
    let layout = CacheLayout::contiguous([kv_heads, keys.len() / (kv_heads * head_dim), head_dim]);
    let [keys, values] = [keys, values].map(|values| CacheView { values, layout });
    let group = n_heads / kv_heads;
    let shared = AttentionInputs { queries, keys, values, n_heads, group, n, head_dim, mask, scoring };
    let mut out = vec![f32::NAN; n * n_heads * head_dim];
    shared.write(isa, Kernels::Fastest, &mut out);
    // How they lie changes no bit.
    let (blocks, layout) = in_blocks([keys, values]);
    let [keys, values] = [0, layout.block_len()].map(|start| CacheView { values: &blocks[start..], layout });
    let mut of_blocks = vec![f32::NAN; out.len()];
    AttentionInputs { queries, keys, values, n_heads, group, n, head_dim, mask, scoring }.write(
        isa,
        Kernels::Fastest,
        &mut of_blocks,
    );
    assert_eq!(of_blocks, out);
    for (row, head) in [(0, 0), (n / 2, n_heads / 2), (n - 1, n_heads - 1)] {
        let own = &out[(row * n_heads + head) * head_dim..][..head_dim];
        for (own, expected) in own.iter().zip(expected(&shared, row, head)) {
            let what = format!(
                "{isa:?} {} {n_heads} heads, {n} after {}, window {:?}, row {row}, head {head}",
                F::DTYPE,
                mask.n_past,
                mask.window
            );
            assert!((f64::from(*own) - expected).abs() < 1e-5, "{what}: {own} {expected}");
        }
    }
    out
}

/// Keys and values in blocks, side by side, with others between them.
pub(super) fn in_blocks<F: Float>([keys, values]: [CacheView<'_, F>; 2]) -> (Vec<F>, CacheLayout) {
    let (wide, capacity) = (keys.layout, keys.capacity());
    let mut layout = CacheLayout { positions: POSITIONS, ..wide };
    layout.stride = 3 * layout.block_len();
    let mut blocks = vec![keys.values[0]; capacity.div_ceil(POSITIONS) * layout.stride];
    for (start, cache) in [(0, keys), (layout.block_len(), values)] {
        for head in 0..wide.kv_heads {
            for (block, rows) in cache.values[head * capacity * wide.head_dim..][..capacity * wide.head_dim]
                .chunks(POSITIONS * wide.head_dim)
                .enumerate()
            {
                let first = start + block * layout.stride + head * POSITIONS * wide.head_dim;
                blocks[first..first + rows.len()].copy_from_slice(rows);
            }
        }
    }
    (blocks, layout)
}

/// Every set of instructions; many queries have the same bits where keys and values are widened first.
fn check(shape: Shape, n: usize, mask: AttentionMask, softcap: Option<f32>) {
    let (n_heads, kv_heads, head_dim) = shape;
    let of = (mask, Scoring { scale: 1.0 / (head_dim as f32).sqrt(), softcap });
    let size = kv_heads * (mask.n_past + n + 5) * head_dim;
    let (queries, keys, values) = (numbers(n_heads * n * head_dim, 0), numbers(size, 1), numbers(size, 2));
    let narrow = |wide: &[f32]| -> Vec<f16> { wide.iter().map(|value| f16::from_f32(*value)).collect() };
    let narrow = [narrow(&keys), narrow(&values)];
    let wide = narrow.each_ref().map(|narrow| -> Vec<f32> { narrow.iter().map(|value| value.to_f32()).collect() });
    for isa in Isa::all() {
        check_with(isa, &queries, [&keys, &values], (shape, n), of);
        let own = check_with(isa, &queries, [&narrow[0], &narrow[1]], (shape, n), of);
        let of_wide = check_with(isa, &queries, [&wide[0], &wide[1]], (shape, n), of);
        let largest = own.iter().zip(&of_wide).map(|(own, wide)| (own - wide).abs()).fold(0.0, f32::max);
        assert!(largest <= if n > MAX_ROWS { 0.0 } else { 2e-6 }, "{isa:?} {shape:?}, {n} after {}: {largest}", mask.n_past);
    }
}

#[test]
fn attention_matches_f64() {
    for shape in [(14, 2, 16), (4, 4, 8), (20, 2, 24)] {
        for (n_past, n) in [(0, 1), (255, 1), (256, 1), (700, 1), (300, 3), (0, 9), (40, 70)] {
            for (window, ahead) in [(None, None), (Some(7), None), (Some(400), None), (None, Some(n)), (Some(7), Some(n))] {
                // Those that see ahead have nothing before them.
                let n_past = if ahead.is_some() { 0 } else { n_past };
                check(shape, n, AttentionMask { n_past, window, ahead }, None);
                check(shape, n, AttentionMask { n_past, window, ahead }, Some(1.5));
            }
        }
    }
}

/// The division into parts does not depend on the threads.
#[test]
fn attention_has_the_same_bits_at_any_number_of_threads() {
    let mask = AttentionMask { n_past: 1500, window: None, ahead: None };
    let narrow = |seed| -> Vec<f16> { numbers(2 * 1501 * 64, seed).into_iter().map(f16::from_f32).collect() };
    let (queries, keys, values) = (numbers(14 * 64, 0), narrow(1), narrow(2));
    let run = |threads, kernels| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let mut out = vec![f32::NAN; 14 * 64];
        let layout = CacheLayout::contiguous([2, 1501, 64]);
        let caches = [&keys, &values].map(|values| CacheView { values, layout });
        let scoring = Scoring { scale: 0.125, softcap: None };
        pool.install(|| attention(&queries, caches, [14, 1], mask, scoring, kernels, &mut out));
        out
    };
    for kernels in [Kernels::Fastest, Kernels::ByShape] {
        let alone = run(1, kernels);
        assert!(alone.iter().all(|value| value.is_finite()));
        assert_eq!(run(2, kernels), alone);
        assert_eq!(run(3, kernels), alone);
    }
}
