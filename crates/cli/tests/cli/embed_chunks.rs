//! `tandem embed --chunk`, and errors that name one of many texts.

use std::process::Stdio;

use serde_json::{Value, json};

use crate::embed::{floats, lines, place};
use crate::support::Place;

/// Texts of one to some hundred words, with characters of more than one byte.
fn long_lines(n: usize) -> String {
    (0..n).map(|i| format!("Straße {i} runs{}\n", " to the 日本 sea, and on".repeat(i % 9 * 3))).collect()
}

fn rows(lines: &str) -> Vec<Value> {
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The text that a row says it is of.
fn part<'t>(texts: &[&'t str], row: &Value) -> (&'t str, String) {
    let number = |field: &str| row[field].as_u64().unwrap() as usize;
    let text = texts[number("index")];
    (text, text.chars().skip(number("start")).take(number("end") - number("start")).collect())
}

#[test]
fn chunks_are_rows_that_say_where_they_stand() {
    let Some(place) = place() else { return };
    let input = long_lines(30);
    place.write("in.txt", &input);
    let texts: Vec<&str> = input.lines().collect();
    let embed = ["embed", "bert-mean", "--input", "in.txt", "--chunk", "20:5"];
    let outcome = place.tandem(&embed);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let rows = rows(&outcome.stdout);
    assert!(rows.len() > 60 && outcome.stderr.contains(&format!("{} chunks", rows.len())), "{}", outcome.stderr);
    let alone = place.tandem_with_input(
        &["embed", "bert-mean", "--format", "jsonl"],
        rows.iter().map(|row| format!("{}\n", row["text"].as_str().unwrap())).collect::<String>(),
    );
    let alone: Vec<Value> = crate::embed_chunks::rows(&alone.stdout);
    for (i, row) in rows.iter().enumerate() {
        let (text, own) = part(&texts, row);
        assert_eq!(row["text"], own, "{row}");
        assert!(row["n_tokens"].as_u64().unwrap() <= 22 && row["truncated"].is_null(), "{row}");
        // The text of a chunk has its vector.
        assert_eq!((&row["embedding"], &alone[i]["text"]), (&alone[i]["embedding"], &row["text"]));
        let before = i.checked_sub(1).map(|before| &rows[before]).filter(|before| before["index"] == row["index"]);
        let is_last = rows.get(i + 1).is_none_or(|next| next["index"] != row["index"]);
        match before {
            Some(before) => {
                assert_eq!(row["chunk"].as_u64().unwrap(), before["chunk"].as_u64().unwrap() + 1);
                assert!(row["start"].as_u64() <= before["end"].as_u64() && row["end"].as_u64() > before["end"].as_u64());
            }
            None => assert_eq!((&row["chunk"], &row["start"]), (&json!(0), &json!(0))),
        }
        assert!(!is_last || row["end"] == text.chars().count(), "{row}");
    }
    let report = place.json(&[&embed[..], &["--json"]].concat());
    assert_eq!((&report["n_texts"], &report["n_chunks"]), (&30.into(), &rows.len().into()));
    assert_eq!(report["embeddings"].as_array().unwrap().len(), rows.len());
    for (row, chunk) in rows.iter().zip(report["chunks"].as_array().unwrap()) {
        assert!(["index", "chunk", "start", "end"].iter().all(|field| row[*field] == chunk[*field]), "{row} {chunk}");
    }
}

#[test]
fn an_array_of_chunks_has_their_places_beside_it() {
    let Some(place) = place() else { return };
    place.write("in.txt", long_lines(30));
    let embed = |more: &[&str]| {
        let outcome = place.tandem(&[&["embed", "bert-mean", "--input", "in.txt"], more].concat());
        assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
        outcome.stdout
    };
    let shown = rows(&embed(&["--chunk", "20:5"]));
    embed(&["--chunk", "20:5", "--dedupe", "-o", "out.npy"]);
    let array = std::fs::read(place.path("out.npy")).unwrap();
    assert_eq!(array.len(), 128 + shown.len() * 32 * 4);
    let chunks = std::fs::read(place.path("out.npy.chunks.npy")).unwrap();
    assert!(
        String::from_utf8_lossy(&chunks[..128])
            .contains(&format!("'<i8', 'fortran_order': False, 'shape': ({}, 4)", shown.len()))
    );
    let numbers: Vec<u64> = chunks[128..].as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect();
    for (row, numbers) in shown.iter().zip(numbers.chunks(4)) {
        assert_eq!(["index", "chunk", "start", "end"].map(|field| row[field].as_u64().unwrap()), numbers);
    }
    // Another division is not gone on with, and is said.
    let other =
        |more: &[&str]| place.tandem(&[&["embed", "bert-mean", "--input", "in.txt", "-o", "out.npy", "--resume"], more].concat());
    other(&["--chunk", "20:4"]).fails(1, &["made in another way", "`rows.chunk` was \"20:5\" and is \"20:4\""]);
    other(&[]).fails(1, &["made in another way", "`rows.chunk` was \"20:5\" and is null"]);
    embed(&["-o", "out.npy", "--force"]);
    assert!(!place.path("out.npy.chunks.npy").exists(), "it was of the file that was replaced");
    other(&["--chunk", "20:5"]).fails(1, &["`rows.chunk` was null and is \"20:5\""]);
}

#[test]
fn chunks_go_on_where_a_run_was_killed() {
    let Some(place) = place() else { return };
    place.write("in.txt", long_lines(1500));
    for format in ["jsonl", "npy"] {
        let (whole, out) = (format!("whole.{format}"), format!("out.{format}"));
        let run = |file: &str, more: &[&str]| {
            let args = ["embed", "bert-mean", "--input", "in.txt", "-q", "--chunk", "9:3", "-o", file];
            let mut command = place.command(&[&args[..], more].concat());
            command.stdout(Stdio::null()).stderr(Stdio::null());
            command
        };
        assert!(run(&whole, &[]).status().unwrap().success());
        let mut kills = 0;
        for after in (0..).map(|i| std::time::Duration::from_millis(90 + 61 * i)).take(6) {
            let mut child = run(&out, &["--resume"]).spawn().unwrap();
            std::thread::sleep(after);
            if child.try_wait().unwrap().is_some() {
                break;
            }
            child.kill().unwrap();
            child.wait().unwrap();
            kills += 1;
        }
        assert!(kills > 0 && run(&out, &["--resume"]).status().unwrap().success());
        for extension in ["", ".chunks.npy"] {
            let read = |file: &str| std::fs::read(place.path(&format!("{file}{extension}"))).ok();
            assert!(
                read(&out) == read(&whole) && (extension.is_empty() || read(&out).is_some() == (format == "npy")),
                "{format}"
            );
        }
    }
}

#[test]
fn chunks_that_cannot_be_are_refused() {
    let Some(place) = place() else { return };
    let fails = |chunk: &str, more: &[&str], parts: &[&str]| {
        place.tandem(&[&["embed", "bert-mean", "a", "--chunk", chunk, "-o", "out.npy"], more].concat()).fails(2, parts);
        assert!(!place.path("out.npy.partial").exists());
    };
    fails("0:0", &[], &["`0:0`", "without tokens"]);
    fails("8:8", &[], &["`8:8`", "overlap"]);
    fails("8", &[], &["`8`", "two numbers"]);
    // 64 tokens fit, two of which the tokenizer adds.
    fails("63:1", &[], &["`63:1`", "more than the 62 tokens"]);
    fails("62:1", &["--prompt", "the river"], &["`62:1`", "more than the 60 tokens"]);
}

/// Which of more texts than are embedded together is wrong.
#[test]
fn an_error_names_the_text_among_all() {
    let Some(place) = place() else { return };
    let mut input: Vec<String> = lines(6000).lines().map(str::to_owned).collect();
    input[5432] = "river ".repeat(100);
    place.write("in.txt", input.join("\n"));
    let objects: Vec<String> = input.iter().map(|line| json!({ "text": line }).to_string()).collect();
    // An empty line of such a file is not a text.
    place.write("in.jsonl", format!("\n{}", objects.join("\n")));
    place.write("in.csv", format!("n,text\n{}", input.iter().map(|line| format!("1,{line}\n")).collect::<String>()));
    let embed = ["embed", "bert-mean", "--truncate", "error", "-q", "-o", "out.npy", "--force", "--input"];
    let long = "the text has 102 tokens, and 64 fit";
    for (file, line) in [("in.txt", 5433), ("in.jsonl", 5434), ("in.csv", 5434)] {
        for more in [&[][..], &["--dedupe"]] {
            let named = format!("text 5433 (`{file}:{line}`) cannot be used");
            place.tandem(&[&embed[..], &[file], more].concat()).fails(1, &[&named, long]);
        }
    }
    place.tandem(&["embed", "bert-mean", "--truncate", "error", "a", &input[5432]]).fails(1, &["text 2 cannot be used", long]);
}

#[test]
fn an_error_about_a_text_without_tokens_or_with_a_bad_vector_names_it() {
    let Some(place) = place() else { return };
    let empty_at = 4500;
    let input = |n: usize| (0..n).map(|i| if i == empty_at { "\n".into() } else { format!("text {i}\n") }).collect::<String>();
    without_template(&place);
    place.write("in.txt", input(5000));
    place
        .tandem(&["embed", "bare", "--input", "in.txt", "-q", "-o", "out.npy"])
        .fails(1, &["text 4501 (`in.txt:4501`)", "has no tokens"]);
    let report = place.tandem(&["rerank", "cross-bert", "--query", "x", "--input", "in.txt", "--top", "1"]);
    assert_eq!(report.code, Some(0), "a pair has tokens: {}", report.stderr);
    not_a_number(&place, "bert-mean/model.safetensors");
    // The weights of one token only: the texts before it are right.
    place.write("in.txt", format!("{}river\n", "sea\n".repeat(4321)));
    place
        .tandem(&["embed", "bert-mean", "--input", "in.txt", "-q", "-o", "nan.npy"])
        .fails(1, &["text 4322 (`in.txt:4322`)", "NaN"]);
}

/// `bert-mean` as `bare`, whose tokenizer adds nothing to a text.
fn without_template(place: &Place) {
    for file in
        ["config.json", "model.safetensors", "modules.json", "tokenizer.json", "tokenizer_config.json", "1_Pooling/config.json"]
    {
        place.copy_if_there(&format!("../embedders/bert-mean/{file}"), &format!("bare/{file}"));
    }
    place.edit_json("bare/tokenizer.json", |tokenizer| tokenizer["post_processor"] = Value::Null);
}

/// Makes the row of the word `river` in the table of words one of NaN.
fn not_a_number(place: &Place, weights: &str) {
    let vocabulary: Value = serde_json::from_str(&place.read("bert-mean/tokenizer.json")).unwrap();
    let id = vocabulary["model"]["vocab"]["river"].as_u64().unwrap() as usize;
    let mut bytes = std::fs::read(place.path(weights)).unwrap();
    let n_header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + n_header]).unwrap();
    let words = header.as_object().unwrap().iter().find(|(name, _)| name.ends_with("word_embeddings.weight")).unwrap().1;
    let width = words["shape"][1].as_u64().unwrap() as usize * 4;
    let start = 8 + n_header + words["data_offsets"][0].as_u64().unwrap() as usize + id * width;
    bytes[start..start + width].as_chunks_mut::<4>().0.iter_mut().for_each(|value| *value = f32::NAN.to_le_bytes());
    place.write(weights, bytes);
}

#[test]
fn the_text_before_a_bad_one_is_not_embedded_twice_when_a_run_goes_on() {
    let Some(place) = place() else { return };
    place.write("in.txt", lines(5000));
    let run = |more: &[&str]| place.tandem(&[&["embed", "bert-mean", "--input", "in.txt", "-o", "out.jsonl"], more].concat());
    assert_eq!(run(&[]).code, Some(0));
    let again = run(&["--resume"]);
    assert!(again.code == Some(0) && again.stderr.contains("0 texts"), "{}", again.stderr);
    assert_eq!(floats(&rows(&place.read("out.jsonl"))[4999]["embedding"]).len(), 32);
}
