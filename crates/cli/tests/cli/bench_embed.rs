//! `tandem bench` and `tandem parity` of embedding models.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::{Outcome, Place, engine, place_with_engine};

/// As short as a bench of an embedding model can be.
const SHORT: &str = "--length 4,8 --batch 1,2 --mixed 3 --queries 5 --rounds 2 --threads 1";

/// A place with the golden `name` of an embedding model as `./embedder`.
fn place_with(name: &str) -> Option<Place> {
    let place = place_with_engine()?;
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens/embedders").join(name);
    copy_all(&golden, &place, "embedder");
    Some(place)
}

fn copy_all(from: &Path, place: &Place, to: &str) {
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let name = entry.file_name().to_string_lossy().into_owned();
        match entry.path().is_dir() {
            // Both engines are to have the checkpoint.
            true if name == "onnx" => {}
            true => copy_all(&entry.path(), place, &format!("{to}/{name}")),
            false => place.write(&format!("{to}/{name}"), std::fs::read(entry.path()).unwrap()),
        }
    }
}

fn bench(place: &Place, more: &str) -> Vec<String> {
    assert!(place.path("embedder/config.json").is_file());
    let text = format!("bench embedder --backend {} --dtype f32,int8 {SHORT} {more}", engine());
    text.split_whitespace().map(str::to_owned).collect()
}

fn measured(place: &Place, more: &str) -> Value {
    let arguments = bench(place, more);
    place.json(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn embedding_models_are_measured_by_texts_and_queries() {
    let Some(place) = place_with("bert-mean") else { return };
    let report = measured(&place, "--json --html report.html");
    let batches: Vec<(u64, Option<u64>)> = report["entries"][0]["samples"][1]["embedded"]
        .as_array()
        .unwrap()
        .iter()
        .map(|batch| (batch["n_texts"].as_u64().unwrap(), batch["length"].as_u64()))
        .collect();
    assert_eq!(batches, [(1, Some(4)), (2, Some(4)), (1, Some(8)), (2, Some(8)), (3, None)]);
    for entry in report["entries"].as_array().unwrap() {
        for sample in entry["samples"].as_array().unwrap() {
            assert_eq!(sample["query_ms"].as_array().unwrap().len(), 5);
            assert!(sample["start_to_first_vector_ms"].as_f64() >= sample["load_ms"].as_f64());
            assert_eq!((&sample["prefill"], &sample["decode"]), (&json!([]), &json!([])));
        }
    }
    let cosine = |entry: usize| report["entries"][entry]["closeness"]["cosine_mean"].as_f64().unwrap();
    assert!(cosine(0) > 0.999_999_9 && (0.9..0.999_999_9).contains(&cosine(1)), "{} {}", cosine(0), cosine(1));
    let figures: Vec<&str> = report["summary"].as_array().unwrap().iter().map(|one| one["metric"].as_str().unwrap()).collect();
    for figure in ["tokens/s of 2 texts of 8", "texts/s of 3 texts of mixed length", "query, p99", "queries", "peak memory"] {
        assert!(figures.contains(&figure), "{figure}: {figures:?}");
    }
    assert!(report["advice"][0]["options"].as_str().unwrap().contains("--dtype"), "{report}");
    let page = place.read("report.html");
    for part in ["Embedding speed", "Closeness to f32", "Queries, one after the other", "3 texts of mixed length", "It embeds"] {
        assert!(page.contains(part), "`{part}` is not in the page");
    }
    assert!(!page.contains("Decod") && !page.contains("NaN"));
}

#[test]
fn the_table_of_an_embedding_model_has_speeds_cosines_and_ratios() {
    let Some(place) = place_with("qwen3") else { return };
    let arguments = bench(&place, "");
    let outcome = place.tandem(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    for part in
        ["query of 16, p50", "mixed, texts", "cosine, mean", "2x8", "against --backend", "too few rounds", "cosine to f32"]
    {
        assert!(outcome.stdout.contains(part), "`{part}` is not in:\n{}", outcome.stdout);
    }
}

#[test]
fn options_of_the_other_task_are_refused() {
    let Some(place) = place_with("qwen3") else { return };
    place.tandem(&["bench", "embedder", "--prompt", "4"]).fails(2, &["`--prompt`", "--task generate"]);
    place.tandem(&["bench", "model", "--length", "4"]).fails(2, &["`--length`", "--task embed"]);
    place.tandem(&["bench", "embedder", "--peer", "genai=./x"]).fails(2, &["`genai`", "--task generate"]);
    place.tandem(&["bench", "embedder", "--length", "100000", "--mixed", "0"]).fails(2, &["takes texts of", "--length"]);
    let short = "--task generate --prompt 4 --depth 0 --generate 2 --rounds 1 --dtype f32 --threads 1 --json --backend";
    let arguments: Vec<&str> = ["bench", "embedder"].into_iter().chain(short.split(' ')).chain([engine()]).collect();
    let report = place.json(&arguments);
    assert_eq!(report["entries"][0]["samples"][0]["decode"][0]["n_tokens"], 2);
    // Without the files of sentence-transformers it is a model like any other.
    place.remove("embedder/modules.json");
    let embeds = "--task embed --length 4 --batch 1 --mixed 0 --rounds 1 --dtype f32 --threads 1 --json --backend";
    let arguments: Vec<&str> = ["bench", "embedder"].into_iter().chain(embeds.split(' ')).chain([engine()]).collect();
    assert_eq!(place.json(&arguments)["entries"][0]["samples"][0]["embedded"][0]["n_tokens"], 4);
}

fn parity(place: &Place, candidate: &str, more: &[&str]) -> Outcome {
    let [reference, candidate] = ["f32", candidate].map(|dtype| format!("{}:{dtype}", engine()));
    let arguments = ["parity", "embedder", "--reference", &reference, "--candidate", &candidate];
    place.tandem(&[&arguments, more].concat())
}

#[test]
fn vectors_of_one_dtype_are_the_same_and_the_report_says_how_close() {
    let Some(place) = place_with("bert-mean") else { return };
    let outcome = parity(&place, "f32", &["--json", "--html", "parity.html"]);
    assert_eq!(outcome.code, Some(0), "{}{}", outcome.stdout, outcome.stderr);
    let report = outcome.json();
    let pair = &report["pairs"][0];
    assert_eq!((&report["verdict"], &pair["logits"]["verdict"]), (&json!("same"), &json!("absent")));
    assert_eq!(pair["rule"]["name"], "vectors of f32 against f32");
    assert!(pair["vectors"]["cosine_min"].as_f64().unwrap() >= 0.999_999 && pair["vectors"]["nearest"] == 1.0, "{pair}");
    let ways: Vec<&str> =
        pair["consistency"]["ways"].as_array().unwrap().iter().map(|way| way["way"].as_str().unwrap()).collect();
    assert_eq!(ways, ["again", "alone", "reversed", "anew", "other_threads"]);
    let page = place.read("parity.html");
    assert!(page.contains("nearest texts kept") && page.contains("minimum cosine"), "{page}");
}

#[test]
fn vectors_that_are_not_within_limits_are_exit_code_3() {
    let Some(place) = place_with("bert-mean") else { return };
    place.write(
        "limits.toml",
        "version = 1\n[[vectors]]\nname = \"strict\"\nreference = \"f32\"\ncandidate = \"int8\"\nreason = \"a test\"\nlimits = { cosine = 1.0 }\n",
    );
    let outcome = parity(&place, "int8", &["--thresholds", "limits.toml"]);
    assert_eq!(outcome.code, Some(3), "{}{}", outcome.stdout, outcome.stderr);
    for part in ["DIFFERENT: cosine", "minimum cosine", "not met", "nearest texts kept"] {
        assert!(outcome.stdout.contains(part), "`{part}` is not in:\n{}", outcome.stdout);
    }
    let outcome = parity(&place, "f32", &["--bisect"]);
    assert!(outcome.code == Some(0) && outcome.stdout.contains("no stage is at fault"), "{}{}", outcome.stdout, outcome.stderr);
}

#[test]
fn another_models_vectors_are_different() {
    let Some(place) = place_with("bert-mean") else { return };
    let other = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens/embedders/bert-cls");
    copy_all(&other, &place, "other");
    let side = format!("{}:f32", engine());
    let candidate = format!("{side}=./other");
    let outcome = place.tandem(&["parity", "embedder", "--reference", &side, "--candidate", &candidate, "--json"]);
    assert_eq!(outcome.code, Some(3), "{}{}", outcome.stdout, outcome.stderr);
    assert_eq!(outcome.json()["verdict"], "different");
}
