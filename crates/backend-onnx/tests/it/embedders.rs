//! Embeddings equal those of sentence-transformers, from graphs that are built and from published ones.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tandem_backend_onnx::{OnnxBackend, library};
use tandem_core::backend::Purpose;
use tandem_core::conformance::{describe, with_fixture};
use tandem_core::embedding::{EmbedOptions, Embedder, EmbeddingConfig, Normalize, Prompt, Role, Similarity};
use tandem_core::files::ModelFiles;
use tandem_core::tokenizer::Tokenizer;
use tandem_core::{Backend, DType, LoadOptions, OnnxOptions};

/// The goldens of embedding models, by name.
pub(crate) fn directories() -> Vec<PathBuf> {
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens/embedders");
    let mut found: Vec<PathBuf> = fs::read_dir(all).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.join("expected.json").exists() && !name(path).starts_with("cross-"));
    found.sort();
    found
}

pub(crate) fn name(directory: &Path) -> String {
    directory.file_name().unwrap().to_string_lossy().into_owned()
}

/// Embeds with the graph at `graph`, or with one that is built from the checkpoint.
pub(crate) fn embedder(directory: &Path, graph: Option<PathBuf>, options: LoadOptions) -> Embedder {
    let onnx = options.onnx.clone().with_graph(graph);
    let options = options.with_onnx(onnx);
    let mut files = ModelFiles::discover(directory, &name(directory)).unwrap();
    files.graphs.clear();
    let options = options.with_purpose(Purpose::Encode);
    let model = OnnxBackend::new(None).load(&files, &options).unwrap_or_else(|error| panic!("{}", describe(&error)));
    let tokenizer = files.tokenizer.as_ref().unwrap();
    let tokenizer = Tokenizer::from_json(&tokenizer.read(1 << 26).unwrap(), "tokenizer.json").unwrap();
    let config = EmbeddingConfig::read(&files, &files.model_config().unwrap(), None).unwrap();
    Embedder::new(model, tokenizer, &files, config).unwrap()
}

fn options(case: &Value) -> EmbedOptions {
    let text = |field: &str| case[field].as_str().map(str::to_owned);
    let prompt = match (text("prompt"), text("prompt_name"), text("role").as_deref()) {
        (Some(prompt), ..) => Prompt::Text(prompt),
        (None, Some(name), _) => Prompt::Named(name),
        (None, None, Some("query")) => Prompt::Role(Role::Query),
        (None, None, Some("document")) => Prompt::Role(Role::Document),
        _ => Prompt::Default,
    };
    EmbedOptions::default()
        .with_prompt(prompt)
        .with_dimensions(case["dimensions"].as_u64().map(|n| n as usize))
        .with_normalize(if case["normalize"] == Value::Bool(true) { Normalize::Yes } else { Normalize::Auto })
}

/// Compares tokens, what was cut, and vectors of every case.
pub(crate) fn check(embedder: &Embedder, directory: &Path, what: &str) {
    let expected: Value = serde_json::from_slice(&fs::read(directory.join("expected.json")).unwrap()).unwrap();
    let cases = expected["cases"].as_array().unwrap();
    // Where the tokenizer forgets the token that ends a text, it is appended: then cases without it are another model's.
    let appends = cases.iter().any(|case| case["appended_token"].is_string());
    for (number, case) in cases.iter().enumerate().filter(|(_, case)| !appends || case["appended_token"].is_string()) {
        let what = format!("{} {what} case {number}", name(directory));
        let (options, texts) = (options(case), strings(&case["texts"]));
        let embeddings = embedder.embed(&texts, &options).unwrap_or_else(|error| panic!("{what}: {}", describe(&error)));
        for (i, vector) in embeddings.vectors().enumerate() {
            let tokens = embedder.tokenize(&texts[i], &options).unwrap();
            let ids: Vec<u64> = tokens.ids.iter().map(|&id| id.into()).collect();
            assert_eq!(serde_json::json!(ids), case["token_ids"][i], "{what}: {:?}", texts[i]);
            assert_eq!(serde_json::json!(tokens.n_cut > 0), case["truncated"][i], "{what}: {:?}", texts[i]);
            check_vector(vector, &floats(&case["embeddings"][i]), &format!("{what}: {:?}", texts[i]));
        }
    }
}

pub(crate) fn check_vector(vector: &[f32], expected: &[f32], what: &str) {
    assert_eq!(vector.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0_f32, |largest, value| largest.max(value.abs()));
    let furthest = vector.iter().zip(expected).fold(0_f32, |furthest, (a, b)| furthest.max((a - b).abs()));
    let cosine = Similarity::Cosine.of(vector, expected);
    assert!(furthest <= 1e-4 * largest && cosine >= 0.999_999, "{what}: {furthest} of {largest}, cosine {cosine}");
}

pub(crate) fn floats(values: &Value) -> Vec<f32> {
    values.as_array().unwrap().iter().map(|value| value.as_f64().unwrap() as f32).collect()
}

fn strings(values: &Value) -> Vec<String> {
    values.as_array().unwrap().iter().map(|value| value.as_str().unwrap().to_owned()).collect()
}

/// The graphs of a golden, as they were published.
fn graphs(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory.join("onnx")).into_iter().flatten();
    let mut graphs: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    graphs.retain(|path| path.extension().is_some_and(|extension| extension == "onnx"));
    graphs.sort();
    graphs
}

#[test]
fn built_graphs_embed_as_sentence_transformers() {
    with_fixture(
        || library::find(None).map_err(|error| describe(&error)),
        |_| {
            for directory in directories() {
                check(&embedder(&directory, None, LoadOptions::new()), &directory, "built");
            }
        },
    );
}

/// One whose only output is the vector of a text: the pooling of the model's files is not applied again.
#[test]
fn graphs_that_pool_by_themselves_embed_as_sentence_transformers() {
    with_fixture(
        || library::find(None).map_err(|error| describe(&error)),
        |_| {
            let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens/embedders/roberta");
            let embedder = embedder(&directory, Some(directory.join("onnx/pooled/model.onnx")), LoadOptions::new());
            assert_eq!(embedder.info().pooled_output.as_ref().unwrap().name, "sentence_embedding");
            assert_eq!(embedder.config().pooling_name(), "mean");
            assert!(embedder.config().remarks.iter().any(|remark| remark.contains("`sentence_embedding`")));
            check(&embedder, &directory, "pooled");
        },
    );
}

/// What engines need that compile a model for each shape.
#[test]
fn padding_to_few_lengths_changes_nothing() {
    const TEXTS: [&str; 4] =
        ["river", "the fox runs to the sea", "", "sea river fox the runs to sleeps sea river fox the runs to the sea"];
    with_fixture(
        || library::find(None).map_err(|error| describe(&error)),
        |_| {
            let padded = LoadOptions::new().with_onnx(OnnxOptions::new().with_buckets(vec![24, 9]));
            for directory in directories() {
                let others = graphs(&directory).into_iter().chain(Some(directory.join("onnx/pooled/model.onnx")));
                for graph in std::iter::once(None).chain(others.filter(|path| path.exists()).map(Some)) {
                    let what = format!("{} {graph:?}", name(&directory));
                    let embed = |options| embedder(&directory, graph.clone(), options).embed(&TEXTS, &EmbedOptions::default());
                    let (expected, own) = (embed(LoadOptions::new()).unwrap(), embed(padded.clone()).unwrap());
                    for (own, expected) in own.vectors().zip(expected.vectors()) {
                        let largest = expected.iter().fold(0_f32, |largest, value| largest.max(value.abs()));
                        let furthest = own.iter().zip(expected).fold(0_f32, |furthest, (a, b)| furthest.max((a - b).abs()));
                        assert!(furthest <= 1e-5 * largest, "{what}: {furthest} of {largest}");
                    }
                }
            }
        },
    );
}

#[test]
fn lengths_without_a_token_are_refused() {
    with_fixture(
        || library::find(None).map_err(|error| describe(&error)),
        |_| {
            let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens/embedders/bert-cls");
            let files = ModelFiles::discover(&directory, "bert-cls").unwrap();
            for lengths in [vec![], vec![8, 0]] {
                let options = LoadOptions::new().with_onnx(OnnxOptions::new().with_buckets(lengths));
                let error = OnnxBackend::new(None).load(&files, &options).err().unwrap().to_string();
                assert!(error.contains("buckets"), "{error}");
            }
        },
    );
}

/// What a text gets depends on its own tokens alone, to the bit: not on the texts beside it, their number, or their order.
#[test]
fn embeddings_do_not_depend_on_the_batch() {
    const WORDS: [&str; 9] = ["river", "the", "fox", "runs", "to", "sea", "THE", "sleeps", "🙂"];
    with_fixture(
        || library::find(None).map_err(|error| describe(&error)),
        |_| {
            for directory in directories() {
                let embedder = embedder(&directory, None, LoadOptions::new());
                let mut texts: Vec<String> = (0..60).map(|i| words(&WORDS, i)).collect();
                texts.push(String::from("river"));
                let options = EmbedOptions::default();
                let alone: Vec<Vec<f32>> = texts.iter().map(|text| embedder.embed(&[text], &options).unwrap().values).collect();
                for step in [1, 7, 60] {
                    // Each place once, since 61 is a prime.
                    let order: Vec<usize> = (0..texts.len()).map(|i| i * step % texts.len()).collect();
                    for size in [61, 17, 2] {
                        for part in order.chunks(size) {
                            let batch: Vec<&String> = part.iter().map(|&i| &texts[i]).collect();
                            let together = embedder.embed(&batch, &options).unwrap();
                            for (&i, vector) in part.iter().zip(together.vectors()) {
                                assert_eq!(vector, alone[i], "{} {:?} in a batch of {size}", name(&directory), texts[i]);
                            }
                        }
                    }
                }
            }
        },
    );
}

/// A text of up to 24 words, many of which have the same number.
fn words(words: &[&str], seed: usize) -> String {
    (0..seed * 5 % 25).map(|i| words[(seed * 7 + i * i + i) % words.len()]).collect::<Vec<_>>().join(" ")
}

/// Narrower weights change vectors little, and a vector does not depend on the batch with them either.
#[test]
fn vectors_of_narrower_weights_are_near_those_of_f32() {
    with_fixture(
        || library::find(None).map_err(|error| describe(&error)),
        |_| {
            let texts = ["The river runs to the sea.", "river", "The fox and the dog run to the river in the rain.", "sky sky!"];
            for directory in directories() {
                let embedder = |dtype| embedder(&directory, None, LoadOptions::new().with_dtype(dtype));
                let options = EmbedOptions::default();
                let expected = embedder(DType::F32).embed(&texts, &options).unwrap();
                for (dtype, least) in [(DType::Int8, 0.995), (DType::F16, 0.999_9)] {
                    // Of its activations f16 does not hold all.
                    if dtype == DType::F16 && name(&directory) == "gemma3" {
                        continue;
                    }
                    let embedder = embedder(dtype);
                    assert_eq!(embedder.info().dtype, dtype);
                    let found = embedder.embed(&texts, &options).unwrap();
                    for (i, (vector, expected)) in found.vectors().zip(expected.vectors()).enumerate() {
                        let what = format!("{} {dtype} {:?}", name(&directory), texts[i]);
                        let cosine = Similarity::Cosine.of(vector, expected);
                        assert!(cosine > least && vector != expected, "{what}: {cosine}");
                        assert_eq!(embedder.embed(&[texts[i]], &options).unwrap().values, vector, "{what}");
                    }
                }
            }
        },
    );
}

#[test]
fn published_graphs_embed_as_sentence_transformers() {
    with_fixture(
        || library::find(None).map_err(|error| describe(&error)),
        |_| {
            for directory in directories() {
                for graph in graphs(&directory) {
                    let what = graph.file_name().unwrap().to_string_lossy().into_owned();
                    check(&embedder(&directory, Some(graph), LoadOptions::new()), &directory, &what);
                }
            }
        },
    );
}
