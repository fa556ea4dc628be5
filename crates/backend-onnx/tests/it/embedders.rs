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
use tandem_core::{Backend, LoadOptions, OnnxOptions};

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
    let mut files = ModelFiles::discover(directory, &name(directory)).unwrap();
    files.graphs.clear();
    let options = options.with_purpose(Purpose::Encode).with_onnx(OnnxOptions::new().with_graph(graph));
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
fn check(embedder: &Embedder, directory: &Path, what: &str) {
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
