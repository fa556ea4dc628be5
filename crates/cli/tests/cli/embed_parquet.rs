//! `tandem embed` of Parquet files, and to them.

use std::fs::File;
use std::process::Stdio;
use std::sync::Arc;

use parquet::basic::{Compression, GzipLevel, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::writer::SerializedFileWriter;
use parquet::record::{Field, RowAccessor};
use parquet::schema::parser::parse_message_type;
use serde_json::Value;

use crate::embed::{floats, lines, place};
use crate::support::Place;

/// A file with a number and an optional text in each row, `rows` to a group.
fn write(place: &Place, name: &str, texts: &[Option<&str>], rows: usize, compression: Compression) {
    let schema =
        parse_message_type("message m { required int64 n; optional group doc { optional binary body (STRING); } }").unwrap();
    let properties = Arc::new(WriterProperties::builder().set_compression(compression).build());
    let mut writer = SerializedFileWriter::new(File::create(place.path(name)).unwrap(), Arc::new(schema), properties).unwrap();
    for texts in texts.chunks(rows.max(1)) {
        let mut group = writer.next_row_group().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<Int64Type>().write_batch(&vec![7; texts.len()], None, None).unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let values: Vec<ByteArray> = texts.iter().flatten().map(|text| ByteArray::from(*text)).collect();
        let levels: Vec<i16> = texts.iter().map(|text| if text.is_some() { 2 } else { 1 }).collect();
        column.typed::<ByteArrayType>().write_batch(&values, Some(&levels), None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
    }
    writer.close().unwrap();
}

const BODY: [&str; 6] = ["embed", "bert-mean", "--field", "doc.body", "--format", "jsonl"];

#[test]
fn texts_of_a_column_are_those_of_lines() {
    let Some(place) = place() else { return };
    let input = lines(700);
    let texts: Vec<Option<&str>> = input.lines().map(Some).collect();
    place.write("in.txt", &input);
    let expected = place.tandem(&["embed", "bert-mean", "--input", "in.txt", "--format", "jsonl"]).stdout;
    assert_eq!(expected.lines().count(), 700);
    let (gzip, zstd) = (Compression::GZIP(GzipLevel::default()), Compression::ZSTD(ZstdLevel::default()));
    for (compression, rows) in
        [(Compression::SNAPPY, 1000), (zstd, 300), (gzip, 1), (Compression::LZ4_RAW, 256), (Compression::UNCOMPRESSED, 7)]
    {
        write(&place, "in.parquet", &texts, rows, compression);
        let outcome = place.tandem(&[&BODY[..], &["--input", "in.parquet"]].concat());
        assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
        assert!(outcome.stdout == expected, "{compression} {rows}");
    }
    write(&place, "none.parquet", &[], 1, Compression::SNAPPY);
    assert_eq!(place.json(&["embed", "bert-mean", "--field", "doc.body", "--input", "none.parquet", "--json"])["n_texts"], 0);
    let top = place.json(&["rerank", "cross-bert", "--query", "x", "--field", "doc.body", "--input", "in.parquet", "--json"]);
    assert_eq!(top["n_documents"], 700);
}

#[test]
fn what_is_wrong_with_a_file_is_said() {
    let Some(place) = place() else { return };
    write(&place, "in.parquet", &[Some("one"), None, Some("three")], 3, Compression::SNAPPY);
    let fails = |name: &str, field: &str, parts: &[&str]| {
        place
            .tandem(&["embed", "bert-mean", "--input", name, "--field", field, "-q", "-o", "out.npy", "--force"])
            .fails(1, parts);
    };
    fails("in.parquet", "doc.body", &["`in.parquet:2`", "column `doc.body` has no value"]);
    fails("in.parquet", "text", &["`in.parquet`", "no column `text`; there are `n`, `doc.body`", "--field"]);
    fails("in.parquet", "n", &["column `n` has values of the type INT64, not texts"]);
    place.write("not.parquet", "one\ntwo\nthree\n");
    fails("not.parquet", "text", &["not.parquet", "is not a Parquet file, or is damaged"]);
    place.write("bytes.parquet", "");
    fails("bytes.parquet", "text", &["is not a Parquet file"]);
    // A vector is not a text.
    assert_eq!(place.tandem(&["embed", "bert-mean", "a", "-o", "out.parquet"]).code, Some(0));
    fails("out.parquet", "embedding.list.element", &["has values of the type lists"]);
}

/// Each cut and each of many changed bytes gives vectors or an error, soon and in words.
#[test]
fn a_damaged_file_is_an_error() {
    let Some(place) = place() else { return };
    let texts = ["a".repeat(30), "bc".repeat(40), "one two".into()];
    let texts: Vec<Option<&str>> = texts.iter().map(|text| Some(text.as_str())).collect();
    write(&place, "in.parquet", &texts.repeat(20), 30, Compression::ZSTD(ZstdLevel::default()));
    let whole = std::fs::read(place.path("in.parquet")).unwrap();
    let check = |bytes: &[u8], what: &str| {
        place.write("damaged.parquet", bytes);
        // The input is read before the model is asked for anything more than its prompt.
        let outcome =
            place.tandem(&["embed", "bert-mean", "--input", "damaged.parquet", "--field", "doc.body", "--format", "jsonl"]);
        let is_error = outcome.code == Some(1) && outcome.stderr.contains("damaged.parquet");
        assert!(outcome.code == Some(0) || is_error, "{what}: {:?} {}", outcome.code, outcome.stderr);
        assert!(!outcome.stderr.contains("panicked"), "{what}: {}", outcome.stderr);
        outcome.code == Some(0)
    };
    for cut in (0..whole.len()).step_by(whole.len() / 12) {
        assert!(!check(&whole[..cut], &format!("cut at {cut}")), "cut at {cut}");
    }
    let mut seed = 7_u32;
    let mut random = |n: usize| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 8) as usize % n
    };
    for _ in 0..60 {
        let (at, value) = (random(whole.len()), random(256) as u8);
        let mut bytes = whole.clone();
        bytes[at] ^= value.max(1);
        check(&bytes, &format!("byte {at} with {value}"));
    }
}

fn column(place: &Place, name: &str) -> Vec<(i64, Option<String>, i64, Vec<f64>)> {
    let reader = SerializedFileReader::new(File::open(place.path(name)).unwrap()).unwrap();
    let value = |field: &Field| match field {
        Field::Float(value) => f64::from(*value),
        Field::Float16(value) => f64::from(value.to_f32()),
        Field::Byte(value) => f64::from(*value),
        Field::UByte(value) => f64::from(*value),
        other => panic!("{other}"),
    };
    let rows = reader.get_row_iter(None).unwrap().map(|row| row.unwrap());
    rows.map(|row| {
        let place = |name: &str| row.get_column_iter().position(|(column, _)| column == name);
        let list = row.get_list(place("embedding").unwrap()).unwrap();
        (
            row.get_long(place("index").unwrap()).unwrap(),
            place("text").map(|text| row.get_string(text).unwrap().clone()),
            row.get_long(place("n_tokens").unwrap()).unwrap(),
            list.elements().iter().map(value).collect(),
        )
    })
    .collect()
}

#[test]
fn vectors_in_a_file_are_those_on_the_screen() {
    let Some(place) = place() else { return };
    place.write("in.txt", lines(50));
    for precision in ["f32", "f16", "int8", "binary"] {
        let embed = |more: &[&str]| {
            let outcome = place.tandem(&[&["embed", "bert-mean", "--input", "in.txt", "--precision", precision], more].concat());
            assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
            outcome.stdout
        };
        let shown = embed(&["--format", "jsonl"]);
        embed(&["-o", "out.parquet", "--force"]);
        let rows = column(&place, "out.parquet");
        assert_eq!(rows.len(), 50);
        for (line, (index, text, n_tokens, vector)) in shown.lines().zip(rows) {
            let line: Value = serde_json::from_str(line).unwrap();
            assert_eq!((&line["index"], &line["text"], &line["n_tokens"]), (&index.into(), &text.into(), &n_tokens.into()));
            let values = floats(&line["embedding"]).into_iter().map(|value| f64::from(value as f32));
            assert!(values.eq(vector), "{precision}: {line}");
        }
    }
    assert!(!place.path("out.parquet.partial").exists() && !place.path("out.parquet.whole").exists());
    place.tandem(&["embed", "bert-mean", "a", "-o", "out.parquet"]).fails(1, &["out.parquet", "exists already"]);
    place.tandem(&["embed", "bert-mean", "a", "--format", "parquet"]).fails(2, &["needs a name"]);
    // What was written is read again.
    let again = place.json(&["embed", "bert-mean", "--input", "out.parquet", "--json"]);
    assert_eq!(again["n_texts"], 50);
    let no_text = place.tandem(&["embed", "bert-mean", "--input", "in.txt", "-o", "out.parquet", "--force", "--no-text"]);
    assert!(no_text.code == Some(0) && column(&place, "out.parquet")[0].1.is_none());
}

#[test]
fn a_run_that_was_killed_goes_on_to_the_same_bytes() {
    let Some(place) = place() else { return };
    place.write("in.txt", lines(14_000));
    let run = |file: &str, more: &[&str]| {
        let args = ["embed", "bert-mean", "--input", "in.txt", "-q", "--chunk", "20:4", "-o", file];
        let mut command = place.command(&[&args[..], more].concat());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    assert!(run("whole.parquet", &[]).status().unwrap().success());
    // Killed behind each of the first groups, and soon after.
    let written = || std::fs::metadata(place.path("out.parquet.partial")).map_or(0, |file| file.len());
    for after in [0, 40] {
        let before = written().max(16);
        let mut child = run("out.parquet", &["--resume"]).spawn().unwrap();
        while written() <= before && child.try_wait().unwrap().is_none() {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        std::thread::sleep(std::time::Duration::from_millis(after));
        assert!(child.try_wait().unwrap().is_none(), "it was done too soon");
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(written() > before && !place.path("out.parquet").exists());
    }
    assert!(run("out.parquet", &["--resume"]).status().unwrap().success());
    let read = |name: &str| std::fs::read(place.path(name)).unwrap();
    assert!(read("out.parquet") == read("whole.parquet"));
    // A whole file stays as it is, and grows with its input.
    assert!(run("out.parquet", &["--resume"]).status().unwrap().success());
    assert!(read("out.parquet") == read("whole.parquet"));
    let n_rows = column(&place, "out.parquet").len();
    place.write("in.txt", format!("{}one more\n", lines(14_000)));
    assert!(run("out.parquet", &["--resume"]).status().unwrap().success());
    let rows = column(&place, "out.parquet");
    assert_eq!((rows.len(), rows[n_rows].0, rows[n_rows].1.as_deref()), (n_rows + 1, 14_000, Some("one more")));
    // What replaces a file is not a continuation of it.
    let mut child = run("out.parquet", &["--force"]).spawn().unwrap();
    while written() <= 16 {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(run("out.parquet", &["--resume"]).status().unwrap().success());
    assert_eq!(column(&place, "out.parquet").len(), n_rows + 1);
}
