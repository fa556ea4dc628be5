//! Indexes that were made in another way than is expected, and what is found of each.

use std::path::Path;

use tandem::embedding::{
    Difference, EmbedOptions, Embeddings, IndexRow, Normalize, Prompt, TokenizedText, Verdict, Verification, verify,
};
use tandem::{DType, EmbeddingModel, ModelRef, Settings};

use crate::support::{engines, golden, resolver};

/// Embedding models of every family, with another pooling for each.
const MODELS: [(&str, &str); 10] = [
    ("bert-mean", "cls"),
    ("bert-cls", "mean"),
    ("bert-dense", "cls"),
    ("roberta", "lasttoken"),
    ("xlm-roberta", "max"),
    ("mpnet", "cls"),
    ("distilbert", "cls"),
    ("modernbert", "cls"),
    ("qwen3", "mean"),
    ("mistral", "mean"),
];

fn texts() -> Vec<String> {
    let line = |i: usize| (0..3 + i % 5).map(move |j| ["river", "Fox", "the", "sleeps", "lantern", "sea"][(i * 7 + j * 5) % 6]);
    let mut texts: Vec<String> = (0..20).map(|i| line(i).collect::<Vec<_>>().join(" ") + &format!(" {i}")).collect();
    // Longer than any model here takes.
    texts.extend((0..4).map(|i| (0..90).flat_map(|j| line(i + j)).collect::<Vec<_>>().join(" ")));
    texts
}

fn load(path: &Path, settings: &Settings) -> EmbeddingModel {
    resolver().load_embedder(&ModelRef::Local(path.into()), settings).unwrap()
}

fn model(name: &str, settings: &Settings) -> EmbeddingModel {
    load(&golden("embedders").join(name), settings)
}

/// The model `name` as if its files said something else.
fn with_file(name: &str, file: &str, content: &str, settings: &Settings) -> EmbeddingModel {
    let (_dir, copy) = crate::embeddings::changed(name, file, content);
    load(&copy, settings)
}

fn rows(texts: &[String], embeddings: &Embeddings) -> Vec<IndexRow> {
    let row = |(text, vector): (&String, &[f32])| IndexRow { text: text.clone(), vector: vector.to_vec() };
    texts.iter().zip(embeddings.vectors()).map(row).collect()
}

/// What is found of the vectors that `maker` makes, when those of `model` under `options` are expected.
fn found(maker: &EmbeddingModel, made: &EmbedOptions, model: &EmbeddingModel, expected: &EmbedOptions) -> Verification {
    let texts = texts();
    let index = rows(&texts, &maker.embed(&texts, made).unwrap());
    verify(model.embedder(), expected, &index).unwrap()
}

/// The pooling, in the form before sentence-transformers 5.4.
fn pooling(mode: &str) -> String {
    let field = match mode {
        "cls" => "pooling_mode_cls_token",
        "max" => "pooling_mode_max_tokens",
        "lasttoken" => "pooling_mode_lasttoken",
        _ => "pooling_mode_mean_tokens",
    };
    format!("{{\"{field}\": true}}")
}

struct Cases {
    n: usize,
    faults: Vec<String>,
}

impl Cases {
    fn check(&mut self, what: &str, found: &Verification, is_right: impl Fn(&Verification) -> bool) {
        self.n += 1;
        if !is_right(found) {
            self.faults.push(format!("{what}: {found:?}"));
        }
    }
}

fn only(found: &Verification, is_it: impl Fn(&Difference) -> bool) -> bool {
    found.verdict == Verdict::OtherWay && found.differences.len() == 1 && is_it(&found.differences[0])
}

#[test]
fn the_cause_is_named_in_every_case() {
    let plain = EmbedOptions::new();
    let none = Prompt::Text(String::new());
    let unprompted = plain.clone().with_prompt(none);
    let mut cases = Cases { n: 0, faults: Vec::new() };
    let Some(settings) = engines().pop() else { return };
    for (i, (name, other_pooling)) in MODELS.into_iter().enumerate() {
        let own = model(name, &settings);
        let width = own.config().width(own.info().hidden_size);
        let prompted = plain.clone().with_prompt(Prompt::Text("passage: ".into()));
        let prompt = found(&own, &unprompted, &own, &prompted);
        cases.check(&format!("{name}, prompt"), &prompt, |found| {
            only(found, |cause| matches!(cause, Difference::Prompt { index, .. } if index.is_empty()))
        });
        let pooled = with_file(name, "1_Pooling/config.json", &pooling(other_pooling), &settings);
        let pooled = found(&pooled, &unprompted, &own, &unprompted);
        cases.check(&format!("{name}, pooling"), &pooled, |found| {
            only(found, |cause| matches!(cause, Difference::Pooling { index, .. } if index == other_pooling))
        });
        let (made, expected) = match own.config().is_normalized() && own.config().dimensions.is_none() {
            true => (Normalize::No, Normalize::Auto),
            false => (Normalize::Yes, Normalize::No),
        };
        let normalized = found(&own, &plain.clone().with_normalize(made), &own, &plain.clone().with_normalize(expected));
        cases.check(&format!("{name}, normalisation"), &normalized, |found| {
            only(found, |cause| matches!(cause, Difference::Normalization { index, .. } if *index == (made == Normalize::Yes)))
        });
        let short = with_file(name, "sentence_bert_config.json", "{\"max_seq_length\": 32}", &settings);
        let cut = found(&short, &unprompted, &own, &unprompted);
        cases.check(&format!("{name}, truncation"), &cut, |found| {
            only(found, |cause| matches!(cause, Difference::Truncation { index: 32, expected: 64 }))
        });
        let few = plain.clone().with_dimensions(8).with_normalize(Normalize::No);
        let few = found(&own, &few, &own, &plain.clone().with_dimensions(width).with_normalize(Normalize::No));
        cases.check(&format!("{name}, dimensions"), &few, |found| {
            only(found, |cause| matches!(cause, Difference::Dimensions { index: 8, .. }))
        });
        let (other, _) = MODELS[(i + 1) % MODELS.len()];
        let other = model(other, &settings);
        let n = width.min(other.config().width(other.info().hidden_size));
        let options = plain.clone().with_dimensions(n);
        let other = found(&other, &options, &own, &options);
        cases.check(&format!("{name}, another model"), &other, |found| found.verdict == Verdict::OtherModel);
    }
    without_ends(&mut cases, &settings);
    assert!(cases.n >= 60, "{}", cases.n);
    assert!(cases.faults.is_empty(), "{} of {}:\n{}", cases.faults.len(), cases.n, cases.faults.join("\n"));
}

/// Indexes of models that pool the last token, made of texts without the token that ends them.
fn without_ends(cases: &mut Cases, settings: &Settings) {
    let options = EmbedOptions::new().with_prompt(Prompt::Text(String::new()));
    for name in ["qwen3", "mistral", "qwen2", "qwen3-no-end"] {
        let own = model(name, settings);
        let texts = texts();
        let without = |text: &String| {
            let TokenizedText { mut ids, n_prompt, n_cut } = own.embedder().tokenize(text, &options).unwrap();
            ids.pop();
            TokenizedText { ids, n_prompt, n_cut }
        };
        let tokens: Vec<TokenizedText> = texts.iter().map(without).collect();
        let index = rows(&texts, &own.embedder().embed_tokens(&tokens, &options).unwrap());
        let found = verify(own.embedder(), &options, &index).unwrap();
        cases.check(&format!("{name}, end"), &found, |found| {
            only(found, |cause| matches!(cause, Difference::End { index: false, expected: true }))
        });
    }
}

#[test]
fn an_index_that_is_right_is_never_accused() {
    let plain = EmbedOptions::new();
    for (name, _) in MODELS {
        for maker in engines() {
            for reader in engines() {
                let found = found(&model(name, &maker), &plain, &model(name, &reader), &plain);
                assert_eq!((found.verdict, found.differences.len()), (Verdict::Same, 0), "{name}: {found:?}");
            }
        }
    }
}

#[test]
fn another_dtype_is_the_same_space() {
    let plain = EmbedOptions::new();
    for settings in engines() {
        for name in ["bert-mean", "bert-cls", "roberta", "distilbert"] {
            let load = settings.load.clone().with_dtype(DType::Int8);
            let made = found(&model(name, &Settings { load, ..settings.clone() }), &plain, &model(name, &settings), &plain);
            assert_eq!((made.verdict, made.differences.len()), (Verdict::OtherArithmetic, 0), "{name}: {made:?}");
        }
    }
}

#[test]
fn an_index_of_bytes_is_other_arithmetic() {
    let Some(settings) = engines().pop() else { return };
    let own = model("bert-mean", &settings);
    let texts = texts();
    let mut index = rows(&texts, &own.embed(&texts, &EmbedOptions::new()).unwrap());
    for row in &mut index {
        let largest = row.vector.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
        row.vector.iter_mut().for_each(|value| *value = (*value / largest * 127.0).round());
    }
    let found = verify(own.embedder(), &EmbedOptions::new(), &index).unwrap();
    assert_eq!((found.verdict, found.differences.len()), (Verdict::OtherArithmetic, 0), "{found:?}");
}
