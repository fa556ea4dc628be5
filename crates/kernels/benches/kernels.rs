//! The inner loops on the shapes of Qwen2.5-0.5B: `cargo bench -p tandem-kernels --bench kernels`.
//!
//! Those of few inputs run on one thread, in each set of instructions that the processor has; the others on all.
#![allow(missing_docs, reason = "criterion's macros make functions")]

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use half::{bf16, f16};
use tandem_kernels::attention::{AttentionMask, CacheLayout, CacheView, Scoring, attention};
use tandem_kernels::matrix::Kernels;
use tandem_kernels::measured::{Instructions, Quantized};

/// Rows and columns of the weights of a layer.
const SHAPES: [(&str, usize, usize); 4] =
    [("qkv", 1152, 896), ("attention out", 896, 896), ("gate and up", 9728, 896), ("down", 896, 4864)];

/// Numbers between -1 and 1 of a linear congruential sequence.
fn numbers(n: usize) -> Vec<f32> {
    let mut state = 1_u32;
    (0..n)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

/// A row of inputs: what is read is what takes the time.
fn step(criterion: &mut Criterion) {
    for (name, rows, columns) in SHAPES {
        let mut group = criterion.benchmark_group(format!("step, {name}"));
        let (weights, input, mut out) = (numbers(rows * columns), numbers(columns), vec![0.0; rows]);
        let (eight, four) = (Quantized::eight(&weights), Quantized::four(&weights));
        let narrow: Vec<bf16> = weights.iter().map(|weight| bf16::from_f32(*weight)).collect();
        for isa in Instructions::all() {
            group.throughput(Throughput::Bytes(4 * weights.len() as u64));
            let of = |dtype: &str| format!("{dtype}, {isa:?}");
            group.bench_function(of("f32"), |bencher| bencher.iter(|| isa.products(&weights, &input, columns, &mut out)));
            group.throughput(Throughput::Bytes(2 * weights.len() as u64));
            group.bench_function(of("bf16"), |bencher| bencher.iter(|| isa.bf16_products(&narrow, &input, columns, &mut out)));
            group.throughput(Throughput::Bytes(weights.len() as u64 * 9 / 8));
            group.bench_function(of("int8"), |bencher| bencher.iter(|| isa.block_products(&eight, &input, columns, &mut out)));
            group.throughput(Throughput::Bytes(weights.len() as u64 * 5 / 8));
            group.bench_function(of("int4"), |bencher| bencher.iter(|| isa.block_products(&four, &input, columns, &mut out)));
            let int4 = of("int4, int8 activations");
            group.bench_function(int4, |bencher| bencher.iter(|| isa.integer_products(&four, &input, columns, &mut out)));
            group.throughput(Throughput::Bytes(weights.len() as u64 * 9 / 8));
            let int8 = of("int8, int8 activations");
            group.bench_function(int8, |bencher| bencher.iter(|| isa.integer_products(&eight, &input, columns, &mut out)));
        }
    }
}

/// Up to eight rows of inputs of several sequences, which share one pass over the weights. Those of the head lie in no cache.
fn steps_together(criterion: &mut Criterion) {
    for (name, rows, columns) in SHAPES.into_iter().chain([("head", 151_936, 896)]) {
        let mut group = criterion.benchmark_group(format!("steps together, {name}"));
        let (weights, isa) = (numbers(rows * columns), Instructions::all().pop().expect("there is a plain one"));
        let kinds = [("int8", Quantized::eight(&weights)), ("int4", Quantized::four(&weights))];
        let in_strips = kinds.clone().map(|(dtype, weights)| (format!("{dtype} in strips"), weights.in_strips(columns)));
        let kinds = kinds.map(|(dtype, weights)| (dtype.to_owned(), Some(weights))).into_iter().chain(in_strips);
        for (dtype, weights) in kinds.filter_map(|(dtype, weights)| Some((dtype, weights?))) {
            for n in [1, 2, 3, 4, 8] {
                let (inputs, mut out) = (numbers(n * columns), vec![0.0; n * rows]);
                group.throughput(Throughput::Elements((n * rows * columns) as u64));
                group.bench_function(format!("{n} of {dtype}"), |bencher| {
                    bencher.iter(|| isa.integer_products_together(&weights, &inputs, columns, &mut out));
                });
            }
        }
    }
}

/// 512 rows of inputs: arithmetic takes the time, an element of throughput being a multiplication with an addition.
fn prompt(criterion: &mut Criterion) {
    const N: usize = 512;
    for (name, rows, columns) in SHAPES {
        let mut group = criterion.benchmark_group(format!("prompt of {N}, {name}"));
        group.sample_size(10).throughput(Throughput::Elements((N * rows * columns) as u64));
        let (weights, inputs, mut out) = (numbers(rows * columns), numbers(N * columns), vec![0.0; N * rows]);
        let (eight, four) = (Quantized::eight(&weights), Quantized::four(&weights));
        let narrow: Vec<bf16> = weights.iter().map(|weight| bf16::from_f32(*weight)).collect();
        for isa in Instructions::all() {
            let of = |dtype: &str| format!("{dtype}, {isa:?}");
            group.bench_function(of("f32"), |bencher| bencher.iter(|| isa.product(&weights, &inputs, columns, &mut out)));
            group.bench_function(of("bf16"), |bencher| bencher.iter(|| isa.bf16_product(&narrow, &inputs, columns, &mut out)));
            group.bench_function(of("int8"), |bencher| bencher.iter(|| isa.block_product(&eight, &inputs, columns, &mut out)));
            group.bench_function(of("int4"), |bencher| bencher.iter(|| isa.block_product(&four, &inputs, columns, &mut out)));
            for (name, weights) in [("int8, int8 activations", &eight), ("int4, rounded inputs", &four)] {
                let integer = |out: &mut [f32]| isa.integer_product(weights, &inputs, columns, out);
                group.bench_function(of(name), |bencher| bencher.iter(|| integer(&mut out)));
            }
        }
    }
}

fn attending(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("attention of a layer");
    group.sample_size(10);
    let cases = [(512, 1), (2048, 1), (8192, 1), (2048, 4), (0, 512), (1536, 512)];
    let of_parts = [(2000, 1), (2000, 4), (2000, 17)].map(|case| (case, Kernels::ByShape));
    for ((n_past, n), kernels) in cases.map(|case| (case, Kernels::Fastest)).into_iter().chain(of_parts) {
        let heads = |heads: usize, n: usize| numbers(heads * n * 64);
        let (queries, keys, values) = (heads(14, n), heads(2, n_past + n), heads(2, n_past + n));
        let narrowed = |wide: &[f32]| -> Vec<f16> { wide.iter().map(|value| f16::from_f32(*value)).collect() };
        let (narrow_keys, narrow_values) = (narrowed(&keys), narrowed(&values));
        let (mask, scoring) = (AttentionMask { n_past, window: None, ahead: None }, Scoring { scale: 0.125, softcap: None });
        let mut out = vec![0.0; n * 14 * 64];
        let layout = CacheLayout::contiguous([2, n_past + n, 64]);
        let wide = [&keys, &values].map(|values| CacheView { values, layout });
        let narrow = [&narrow_keys, &narrow_values].map(|values| CacheView { values, layout });
        let name = format!("{n}{} after {n_past}", if kernels == Kernels::ByShape { " as of many" } else { "" });
        group.bench_function(&*name, |bencher| {
            bencher.iter(|| attention(&queries, wide, [14, n], mask, scoring, kernels, &mut out));
        });
        group.bench_function(format!("{name}, f16"), |bencher| {
            bencher.iter(|| attention(&queries, narrow, [14, n], mask, scoring, kernels, &mut out));
        });
    }
}

/// On one thread.
fn quantizing(criterion: &mut Criterion) {
    let mut group: BenchmarkGroup<'_, WallTime> = criterion.benchmark_group("quantising");
    let weights = numbers(896 * 896);
    group.throughput(Throughput::Elements(weights.len() as u64));
    group.bench_function("to int8", |bencher| bencher.iter(|| Quantized::eight(&weights)));
    group.bench_function("to int4", |bencher| bencher.iter(|| Quantized::four(&weights)));
    let mut out = vec![0.0; weights.len()];
    for (name, quantized) in [("from int8", Quantized::eight(&weights)), ("from int4", Quantized::four(&weights))] {
        group.bench_function(name, |bencher| bencher.iter(|| quantized.dequantize(&mut out)));
    }
}

criterion_group!(benches, step, steps_together, prompt, attending, quantizing);
criterion_main!(benches);
