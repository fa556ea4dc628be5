//! What happens around each token and each turn: text from tokens as they come, the search for stop strings, and rendering a
//! conversation. On the built-in model's tokenizer, and a template in the form that most models publish.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a bench that cannot start is a panic, and criterion writes its own functions"
)]

use std::hint::black_box;
use std::path::Path;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tandem_core::stop::{StopMatcher, StopOptions};
use tandem_core::template::{ChatMessage, ChatTemplate, RenderOptions, TemplateTokens};
use tandem_core::tokenizer::{SpecialTokens, Tokenizer};

const TEXT: &str =
    "Once upon a time there was a fox who found a lantern in the deep wood. \"Who lit you?\" she asked. Nobody did. ";

const TEMPLATE: &str = "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' + message.content | trim + \
    '<|im_end|>\\n' }}{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}";

fn tokenizer() -> Tokenizer {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/demo/tokenizer.json");
    Tokenizer::from_json(&std::fs::read(path).unwrap(), "tokenizer.json").unwrap()
}

/// One token at a time, as a generation does it.
fn detokenise(criterion: &mut Criterion) {
    let tokenizer = tokenizer();
    let ids = tokenizer.encode(&TEXT.repeat(20), SpecialTokens::AsText).unwrap();
    let mut group = criterion.benchmark_group("detokenise");
    group.throughput(Throughput::Elements(ids.len() as u64));
    group.bench_function("one token at a time", |bencher| {
        bencher.iter(|| {
            let mut stream = tokenizer.stream(true);
            ids.iter().map(|&id| stream.push(black_box(id)).unwrap().len()).sum::<usize>()
        });
    });
    group.finish();
}

fn stop(criterion: &mut Criterion) {
    let pieces: Vec<&str> = TEXT.split_inclusive(' ').collect();
    let mut group = criterion.benchmark_group("stop strings");
    group.throughput(Throughput::Elements(pieces.len() as u64));
    for n in [0, 1, 16] {
        // Each begins as the text does and goes on otherwise: the worst case, which holds text back.
        let stop_strings = (0..n).map(|i| format!("lantern in the {i}")).collect();
        let options = StopOptions { end_tokens: Vec::new(), stop_strings };
        group.bench_function(format!("{n} of them"), |bencher| {
            bencher.iter(|| {
                let mut matcher = StopMatcher::new(&options).unwrap();
                pieces.iter().map(|piece| matcher.push(black_box(piece)).emit.len()).sum::<usize>()
            });
        });
    }
    group.finish();
}

fn template(criterion: &mut Criterion) {
    let template = ChatTemplate::new(TEMPLATE, TemplateTokens::new(None, &tokenizer()), "template").unwrap();
    let options = RenderOptions { add_generation_prompt: true, now: Some(0), ..RenderOptions::default() };
    let mut group = criterion.benchmark_group("template");
    for n in [1, 20] {
        let turn = || [ChatMessage::user(TEXT), ChatMessage::assistant(TEXT)];
        let messages: Vec<ChatMessage> = (0..n).flat_map(|_| turn()).collect();
        group.bench_function(format!("{n} turns"), |bencher| {
            bencher.iter(|| template.render(black_box(&messages), &options).unwrap());
        });
    }
    group.finish();
}

criterion_group!(benches, detokenise, stop, template);
criterion_main!(benches);
