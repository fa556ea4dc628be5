//! One token from 151,936 logits, the vocabulary of Qwen2.5, with each kind of option.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a bench that cannot start is a panic, and criterion writes its own functions"
)]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use tandem_core::TokenId;
use tandem_core::sampler::{Sampler, SamplingOptions};

const VOCAB_SIZE: usize = 151_936;

fn bench(criterion: &mut Criterion) {
    let base = SamplingOptions { temperature: 0.8, ..SamplingOptions::greedy() };
    let greedy = SamplingOptions::greedy();
    let cases = [
        ("greedy", greedy.clone()),
        ("greedy, repetition penalty over 2000", SamplingOptions { repetition_penalty: 1.1, ..greedy.clone() }),
        ("greedy, logprob", SamplingOptions { logprobs: true, ..greedy }),
        ("temperature", base.clone()),
        ("top-k 40, top-p 0.95", SamplingOptions { top_k: 40, top_p: 0.95, ..base.clone() }),
        ("top-p 0.95", SamplingOptions { top_p: 0.95, ..base.clone() }),
        ("min-p 0.05", SamplingOptions { min_p: 0.05, ..base.clone() }),
        ("typical-p 0.9", SamplingOptions { typical_p: 0.9, ..base.clone() }),
        (
            "top-k 40, top-p 0.95, repetition penalty over 2000",
            SamplingOptions { top_k: 40, top_p: 0.95, repetition_penalty: 1.1, ..base },
        ),
    ];
    for (shape, logits) in [("peaked", logits(2.5, 12.0)), ("flat", logits(2.5, 0.0))] {
        let mut group = criterion.benchmark_group(shape);
        for (name, options) in &cases {
            let mut sampler = Sampler::new(options.clone(), VOCAB_SIZE).unwrap();
            let history: Vec<TokenId> = (0..2000_u32).map(|i| i.wrapping_mul(2_654_435_761) % VOCAB_SIZE as u32).collect();
            let mut n = 0;
            group.bench_function(*name, |bencher| {
                bencher.iter(|| {
                    n += 1;
                    sampler.sample(black_box(&logits), &history, n).unwrap()
                });
            });
        }
        group.finish();
    }
}

/// Near-normal noise of this deviation, with 200 tokens that stand out by up to `peak`, as a language model's do.
fn logits(deviation: f32, peak: f32) -> Vec<f32> {
    let mut state = 1_u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32
    };
    let mut logits: Vec<f32> = (0..VOCAB_SIZE).map(|_| ((0..12).map(|_| uniform()).sum::<f32>() - 6.0) * deviation).collect();
    for i in 0..200 {
        logits[(i * 7_919) % VOCAB_SIZE] += peak * uniform();
    }
    logits
}

criterion_group!(benches, bench);
criterion_main!(benches);
