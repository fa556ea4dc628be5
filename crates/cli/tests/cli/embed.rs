//! `tandem embed`, `rerank`, `fingerprint` and `verify-index`.

use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use crate::support::{Place, engine, has_onnx, place_with_engine, place_with_onnx};

/// A golden embedding model as `name` in the place.
fn embedder(place: &Place, name: &str) {
    let from = format!("../embedders/{name}");
    for file in [
        "config.json",
        "config_sentence_transformers.json",
        "model.safetensors",
        "modules.json",
        "sentence_bert_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "1_Pooling/config.json",
    ] {
        place.copy_if_there(&format!("{from}/{file}"), &format!("{name}/{file}"));
    }
}

pub(crate) fn place() -> Option<Place> {
    let place = place_with_engine()?;
    embedder(&place, "bert-mean");
    embedder(&place, "xlm-roberta");
    embedder(&place, "cross-bert");
    Some(place)
}

pub(crate) fn lines(n: usize) -> String {
    (0..n).map(|i| format!("the river number {i} runs to the sea{}\n", " and on".repeat(i % 7))).collect()
}

pub(crate) fn floats(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
}

#[test]
fn a_graph_that_pools_by_itself_is_said_to() {
    let Some(place) = place_with_onnx() else { return };
    embedder(&place, "roberta");
    let expected = place.json(&["embed", "roberta", "The river runs.", "--backend", "onnx", "--json"]);
    std::fs::remove_file(place.path("roberta/model.safetensors")).unwrap();
    place.copy("../embedders/roberta/onnx/pooled/model.onnx", "roberta/onnx/model.onnx");
    let shown = place.json(&["show", "roberta", "--no-load", "--json"]);
    let remarks = shown["embedding"]["remarks"].to_string();
    assert!(remarks.contains("`sentence_embedding`), which is `mean` by the model's files"), "{remarks}");
    let report = place.json(&["embed", "roberta", "The river runs.", "--json"]);
    assert_eq!((&report["pooling"], &report["remarks"]), (&"mean".into(), &shown["embedding"]["remarks"]));
    let (own, expected) = (floats(&report["embeddings"][0]), floats(&expected["embeddings"][0]));
    assert!(own.iter().zip(&expected).all(|(own, expected)| (own - expected).abs() < 1e-5), "{own:?} {expected:?}");
}

#[test]
fn one_document_has_everything() {
    let Some(place) = place() else { return };
    let report = place.json(&["embed", "bert-mean", "hello", "The river runs.", "--json"]);
    assert_eq!(
        (&report["model"], &report["pooling"], &report["normalized"]),
        (&"bert-mean".into(), &"mean".into(), &true.into())
    );
    assert_eq!((&report["dimensions"], &report["prompt"], &report["n_texts"]), (&32.into(), &"".into(), &2.into()));
    assert_eq!(report["truncated"], serde_json::json!([false, false]));
    let vectors = report["embeddings"].as_array().unwrap();
    assert_eq!((vectors.len(), floats(&vectors[0]).len(), report["n_tokens"].as_array().unwrap().len()), (2, 32, 2));
    let length: f64 = floats(&vectors[0]).iter().map(|value| value * value).sum();
    assert!((length - 1.0).abs() < 1e-5);
    let alike = place.json(&["embed", "bert-mean", "a", "a", "b", "--similarity", "--json"]);
    assert!((alike["similarity"]["values"][0][1].as_f64().unwrap() - 1.0).abs() < 1e-6);
    assert_eq!(alike["similarity"]["measure"], "cosine");
}

#[test]
fn lines_become_lines_in_their_order() {
    let Some(place) = place() else { return };
    let outcome = place.tandem_with_input(&["embed", "bert-mean", "--precision", "int8"], "one\n\nthree\r\n");
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let rows: Vec<Value> = outcome.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.iter().map(|row| row["text"].as_str().unwrap()).collect::<Vec<_>>(), ["one", "", "three"]);
    assert!(rows.iter().enumerate().all(|(i, row)| row["index"] == i && row["embedding"].as_array().unwrap().len() == 32));
    assert!(outcome.stderr.contains("3 texts"), "{}", outcome.stderr);
}

#[test]
fn every_form_of_input_gives_the_same_vectors() {
    let Some(place) = place() else { return };
    place.write("in.txt", "one\ntwo, too\n");
    place.write("in.jsonl", "{\"body\": \"one\", \"n\": 1}\n{\"body\": \"two, too\"}\n\n");
    place.write("strings.jsonl", "\"one\"\n\"two, too\"\n");
    place.write("in.csv", "id,body\n1,one\n2,\"two, too\"\n");
    place.write("in.tsv", "id\tbody\n1\tone\n2\ttwo, too\n");
    let embed =
        |input: &str| place.json(&["embed", "bert-mean", "--input", input, "--field", "body", "--json"])["embeddings"].clone();
    let expected = place.json(&["embed", "bert-mean", "one", "two, too", "--json"])["embeddings"].clone();
    for input in ["in.txt", "in.jsonl", "strings.jsonl", "in.csv", "in.tsv"] {
        assert_eq!(embed(input), expected, "{input}");
    }
}

#[test]
fn what_is_wrong_with_an_input_is_said_with_its_place() {
    let Some(place) = place() else { return };
    let fails = |name: &str, content: &[u8], parts: &[&str]| {
        place.write(name, content);
        place.tandem(&["embed", "bert-mean", "--input", name]).fails(1, parts);
    };
    fails("bad.txt", b"one\ncaf\xe9\n", &["bad.txt:2", "not valid UTF-8", "0xe9"]);
    fails("bad.jsonl", b"{\"text\": \"a\"}\n{\"text\": 5}\n", &["bad.jsonl:2", "not a text"]);
    fails("none.jsonl", b"{\"body\": \"a\"}\n", &["none.jsonl:1", "no field `text`", "--field"]);
    fails("cut.jsonl", b"{\"text\": \"a\"\n", &["cut.jsonl:1", "not JSON"]);
    fails("none.csv", b"a,b\n1,2\n", &["no column `text`", "`a`, `b`"]);
    fails("ragged.csv", b"text,b\n1,2\n3\n", &["ragged.csv:3"]);
    fails("long.txt", &vec![b'x'; (16 << 20) + 2], &["long.txt:1", "longer than"]);
    let parquet = if cfg!(feature = "parquet") { "is not a Parquet file" } else { "hint: build with `--features parquet`" };
    fails("rows.parquet", b"PAR1", &[parquet]);
    if cfg!(not(feature = "parquet")) {
        place.tandem(&["embed", "bert-mean", "a", "-o", "out.parquet"]).fails(1, &["Parquet", parquet]);
    }
    place.tandem(&["embed", "bert-mean", "--input", "absent.txt"]).fails(1, &["absent.txt", "cannot be opened"]);
    // Nothing is an input without texts.
    place.write("empty.txt", "");
    let outcome = place.tandem(&["embed", "bert-mean", "--input", "empty.txt", "--json"]);
    assert_eq!((outcome.code, outcome.json()["n_texts"].clone()), (Some(0), 0.into()));
}

#[test]
fn options_that_cannot_be_are_refused() {
    let Some(place) = place() else { return };
    place.tandem(&["embed", "bert-mean", "a", "--dimensions", "33"]).fails(2, &["`33` is more than the 32"]);
    place.tandem(&["embed", "bert-mean", "a", "--prompt-name", "web"]).fails(2, &["`web`"]);
    place.tandem(&["embed", "bert-mean", "a", "-o", "vectors.bin"]).fails(2, &["`.bin`"]);
    place.tandem(&["embed", "bert-mean", "a", "--format", "npy"]).fails(2, &["needs a file"]);
    place.tandem(&["embed", "model", "a"]).fails(1, &["`modules.json`", "generates text"]);
    place.tandem(&["run", "bert-mean", "a"]).fails(1, &["embeds texts", "tandem embed"]);
    place.tandem(&["embed", "cross-bert", "a"]).fails(1, &["`BertForSequenceClassification`", "rerank with it"]);
    place.tandem(&["rerank", "bert-mean", "--query", "a", "b"]).fails(1, &["`BertModel`"]);
    if has_onnx() {
        let bf16 = place.tandem(&["embed", "bert-mean", "a", "--backend", "onnx", "--dtype", "bf16"]);
        bf16.fails(1, &["dtype `bf16`", "hint: use `--backend candle`", "`--dtype f32`, `f16` or `int8`"]);
        assert!(!bf16.stderr.contains("int4"), "{}", bf16.stderr);
    }
    let long = "river ".repeat(200);
    place.tandem(&["embed", "bert-mean", &long, "--truncate", "error"]).fails(1, &["text 1", "has 202 tokens, and 64 fit"]);
    let outcome = place.tandem(&["embed", "bert-mean", "short", &long]);
    assert!(outcome.stderr.contains("1 of 2 texts were longer than 64 tokens and were cut: 2"), "{}", outcome.stderr);
}

#[test]
fn vectors_in_a_file_are_those_on_the_screen() {
    let Some(place) = place() else { return };
    place.write("in.txt", lines(40));
    let embed = |more: &[&str]| {
        let outcome = place.tandem(&[&["embed", "bert-mean", "--input", "in.txt"], more].concat());
        assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
        outcome.stdout
    };
    let shown = embed(&["--format", "jsonl"]);
    assert_eq!(embed(&["-o", "out.jsonl"]), "out.jsonl\n");
    assert_eq!(place.read("out.jsonl"), shown);
    embed(&["-o", "out.npy", "--dedupe"]);
    let array = std::fs::read(place.path("out.npy")).unwrap();
    assert!(array.starts_with(b"\x93NUMPY\x01\x00") && array.len() == 128 + 40 * 32 * 4);
    let first: Value = serde_json::from_str(shown.lines().next().unwrap()).unwrap();
    let values = array[128..].as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
    assert!(values.zip(floats(&first["embedding"])).all(|(own, shown)| own == shown as f32));
    let print: Value = serde_json::from_str(&place.read("out.npy.fingerprint.json")).unwrap();
    assert_eq!((&print["space"]["pooling"], &print["rows"]["format"]), (&"mean".into(), &"npy".into()));
    // What is there is not lost.
    place.tandem(&["embed", "bert-mean", "a", "-o", "out.npy"]).fails(1, &["out.npy", "exists already", "--resume", "--force"]);
    place.tandem(&["embed", "xlm-roberta", "a", "-o", "out.npy", "--resume"]).fails(1, &["made in another way", "weights"]);
    assert_eq!(std::fs::read(place.path("out.npy")).unwrap(), array);
    let again = place.tandem(&["embed", "bert-mean", "--input", "in.txt", "-o", "out.npy", "--resume"]);
    assert_eq!((again.code, std::fs::read(place.path("out.npy")).unwrap() == array), (Some(0), true));
}

#[test]
fn a_run_that_was_killed_goes_on() {
    let Some(place) = place() else { return };
    place.write("in.txt", lines(12_000));
    for format in ["jsonl", "npy"] {
        let (whole, out) = (format!("whole.{format}"), format!("out.{format}"));
        let args = |file: &str| {
            ["embed", "bert-mean", "--input", "in.txt", "-q", "-o"]
                .map(str::to_owned)
                .into_iter()
                .chain([file.to_owned()])
                .collect::<Vec<_>>()
        };
        let run = |file: &str, more: &[&str]| {
            let args = args(file);
            place.command(&args.iter().map(String::as_str).chain(more.iter().copied()).collect::<Vec<_>>())
        };
        assert!(run(&whole, &[]).stdout(Stdio::null()).status().unwrap().success());
        let mut kills = 0;
        // The first comes early: a busy machine is late with it.
        for after in (0..13).map(|i| Duration::from_millis(5 + 37 * i)) {
            let mut child = run(&out, &["--resume"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            std::thread::sleep(after);
            if child.try_wait().unwrap().is_some() {
                break;
            }
            child.kill().unwrap();
            child.wait().unwrap();
            kills += 1;
        }
        assert!(kills > 0 && run(&out, &["--resume"]).stdout(Stdio::null()).status().unwrap().success());
        assert_eq!(
            std::fs::read(place.path(&out)).unwrap(),
            std::fs::read(place.path(&whole)).unwrap(),
            "{format}, {kills} kills"
        );
    }
}

#[test]
fn documents_are_ordered_by_their_scores() {
    let Some(place) = place() else { return };
    let query = ["rerank", "cross-bert", "--query", "Where does the river run to?"];
    let documents = ["THE DOG SLEEPS.", "The river runs to the sea."];
    let report = place.json(&[&query[..], &documents, &["--json"]].concat());
    assert_eq!((&report["activation"], &report["results"][0]["index"]), (&"identity".into(), &1.into()));
    assert!((report["results"][0]["logit"].as_f64().unwrap() - 0.601_925_91).abs() < 1e-4);
    place.write("in.jsonl", "{\"text\": \"THE DOG SLEEPS.\"}\n{\"text\": \"The river runs to the sea.\"}\n");
    let top = place.json(&[&query[..], &["--input", "in.jsonl", "--top", "1", "--json"]].concat());
    assert_eq!((top["results"].as_array().unwrap().len(), &top["n_documents"]), (1, &2.into()));
    assert_eq!(top["results"][0], report["results"][0]);
    let table = place.tandem(&[&query[..], &documents].concat());
    assert!(table.stdout.lines().nth(1).unwrap().contains("runs to the sea"), "{}", table.stdout);
}

#[test]
fn what_a_reranker_cuts_is_counted_and_asked_for() {
    let Some(place) = place() else { return };
    let (short, long) = ("Where does the river run to?", "The river runs to the sea. ".repeat(30));
    let rerank = |query: &str, more: &[&str]| {
        place.tandem(&[&["rerank", "cross-bert", "--query", query, "The dog sleeps.", &long], more].concat())
    };
    for truncate in ["longest", "document"] {
        let outcome = rerank(short, &["--truncate-pair", truncate, "--json"]);
        let report = outcome.json();
        assert_eq!((&report["n_truncated"], &report["n_documents"]), (&1.into(), &2.into()), "{report}");
        let cut: Vec<&Value> = report["results"].as_array().unwrap().iter().filter(|row| row["truncated"] == true).collect();
        assert!(cut.len() == 1 && cut[0]["index"] == 1 && cut[0]["n_tokens"] == report["max_tokens"], "{report}");
        assert!(outcome.stderr.contains("1 of 2 pairs were longer than"), "{}", outcome.stderr);
    }
    assert_eq!(rerank(&long, &["--json"]).json()["n_truncated"], 2, "the longer of the two is cut");
    rerank(&long, &["--truncate-pair", "document"]).fails(1, &["text 1 cannot be used", "the query has", "tokens, and"]);
    rerank(short, &["--truncate-pair", "middle"]).fails(2, &["middle"]);
    rerank(short, &["--instruction", "Find rivers."]).fails(2, &["option `instruction`", "is not read by `cross-bert`"]);
    assert_eq!(rerank(short, &["--top", "1", "--json"]).json()["results"].as_array().unwrap().len(), 1);
}

#[test]
fn an_index_is_verified_and_its_cause_named() {
    let Some(place) = place() else { return };
    place.write("in.txt", lines(50));
    let make = |more: &[&str]| {
        let outcome = place.tandem(&[&["embed", "xlm-roberta", "--input", "in.txt", "--force"], more].concat());
        assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    };
    let verify = |more: &[&str]| place.tandem(&[&["verify-index"], more].concat());
    make(&["-o", "right.jsonl", "--prompt-name", "passage"]);
    let right = verify(&["right.jsonl", "--model", "xlm-roberta", "--prompt-name", "passage"]);
    assert_eq!(right.code, Some(0), "{}{}", right.stdout, right.stderr);
    assert!(right.stdout.starts_with("same: "), "{}", right.stdout);
    let wrong = verify(&["right.jsonl", "--model", "xlm-roberta", "--role", "query", "--json"]);
    assert_eq!((wrong.code, &wrong.json()["verdict"]), (Some(3), &"other_way".into()));
    assert_eq!(
        (&wrong.json()["differences"][0]["what"], &wrong.json()["differences"][0]["index"]),
        (&"prompt".into(), &"passage: ".into())
    );
    make(&["-o", "array.npy", "--precision", "f16"]);
    let array = verify(&["array.npy", "--input", "in.txt", "--model", "xlm-roberta"]);
    assert_eq!(array.code, Some(0), "{}{}", array.stdout, array.stderr);
    let other = verify(&["array.npy", "--input", "in.txt", "--model", "bert-mean"]);
    assert_eq!(other.code, Some(3), "{}", other.stdout);
    assert!(other.stdout.contains("another model"), "{}", other.stdout);
    verify(&["array.npy", "--model", "xlm-roberta"]).fails(2, &["no texts", "--input"]);
    place.write("short.txt", "one\n");
    verify(&["array.npy", "--input", "short.txt", "--model", "xlm-roberta"]).fails(1, &["50 rows", "1 texts"]);
    place.write("empty.jsonl", "");
    verify(&["empty.jsonl", "--model", "xlm-roberta"]).fails(1, &["has no rows"]);
    place.write("cut.npy", &std::fs::read(place.path("array.npy")).unwrap()[..300]);
    verify(&["cut.npy", "--input", "in.txt", "--model", "xlm-roberta"]).fails(1, &["cut short"]);
}

#[test]
fn a_fingerprint_is_of_the_space_and_not_of_the_engine() {
    let Some(place) = place() else { return };
    let print = |more: &[&str]| place.json(&[&["fingerprint", "xlm-roberta", "--json"], more].concat());
    let own = print(&[]);
    for backend in tandem::backends::compiled() {
        assert_eq!(print(&["--backend", &backend.to_string()])["id"], own["id"]);
    }
    assert_ne!(print(&["--role", "query"])["id"], own["id"]);
    assert_eq!((&own["space"]["pooling"], &own["arithmetic"]["backend"]), (&"mean".into(), &engine().into()));
    assert!(own["canaries"].as_array().unwrap().len() > 10);
    let shown = place.tandem(&["fingerprint", "bert-mean"]);
    assert!(shown.stdout.starts_with("tandem-embedding-1:"), "{}", shown.stdout);
}
