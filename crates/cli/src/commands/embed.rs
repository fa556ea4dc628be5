//! `tandem embed`: vectors of texts.

mod array;
mod file;
pub(super) mod input;
mod lines;
mod parquet;
mod row_file;
mod rows;
mod window;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::{Value, json};
use tandem::embedding::{Chunking, EmbedOptions, Similarity};
use tandem::{CancelToken, EmbeddingModel};

use self::file::VectorFile;
use self::input::Texts;
use self::row_file::Layout;
use self::rows::{Part, Row};
use self::window::Windows;
use crate::args::{EmbedArgs, Precision, VectorFormat};
use crate::config::Config;
use crate::engine::{AdapterRow, load_embedder};
use crate::failure::Usage;
use crate::figures::{counted, per_second};
use crate::interrupt::Interrupts;
use crate::output::{BOLD, DIM, Output};

/// The most texts that are compared with one another.
const MAX_COMPARED: usize = 1000;

/// Cut texts that are named.
const MAX_NAMED: usize = 5;

/// What `--json` prints.
#[derive(Serialize)]
struct EmbedReport<'r> {
    model: &'r str,
    backend: String,
    engine_version: &'r str,
    device: String,
    dtype: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    adapters: Vec<AdapterRow>,
    pooling: String,
    normalized: bool,
    prompt: &'r str,
    dimensions: usize,
    max_tokens: usize,
    /// What follows a rule and not the model's files.
    remarks: &'r [String],
    n_texts: usize,
    /// Where texts were divided.
    #[serde(skip_serializing_if = "Option::is_none")]
    n_chunks: Option<usize>,
    n_truncated: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    similarity: Option<SimilarityReport>,
    #[serde(flatten)]
    rows: Collected,
}

#[derive(Serialize)]
struct SimilarityReport {
    measure: Similarity,
    values: Vec<Vec<f64>>,
}

/// What is kept of every text, when it is asked for in one document.
#[derive(Default, Serialize)]
struct Collected {
    /// Where each stands, when texts were divided.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    chunks: Vec<ChunkReport>,
    n_tokens: Vec<usize>,
    truncated: Vec<bool>,
    embeddings: Vec<Vec<f32>>,
}

#[derive(Serialize)]
struct ChunkReport {
    /// The text.
    index: usize,
    #[serde(flatten)]
    part: Part,
}

/// Where vectors go.
enum Sink {
    File(VectorFile),
    Lines(Layout, Vec<u8>),
    Table,
    Collect(Vec<String>, Collected),
}

/// What was done.
#[derive(Default)]
struct Counts {
    n_texts: usize,
    /// Texts, or chunks of them.
    n_rows: usize,
    n_tokens: usize,
    /// Numbers of rows that were cut, the first few.
    cut: Vec<usize>,
    n_cut: usize,
    /// What an earlier run did.
    n_texts_before: usize,
}

pub(crate) fn embed(args: EmbedArgs, output: &Output) -> Result<ExitCode> {
    let config = Config::load()?;
    let engine = args.engine.clone().or(config.engine);
    let format = format(&args, output)?;
    if format == VectorFormat::Parquet {
        parquet::check_feature()?;
    }
    let texts = Texts::open(args.texts.clone(), args.input.input.as_deref(), &args.input.field)?;
    let model = load_embedder(&args.model.reference, &config.catalog, &engine, args.embedding.pooling(), output)?;
    for remark in &model.config().remarks {
        output.note(remark);
    }
    let cancel = CancelToken::new();
    let options = args.embedding.options().with_cancel(cancel.clone());
    let dimensions = model.embedder().dimensions(&options)?;
    if let Some(chunking) = args.chunk {
        // Chunks that cannot be are an error before there is a file.
        model.embedder().chunks(&[""; 0], chunking, &options)?;
    }
    remark_on_length(&model, &options, dimensions, output);
    let mut sink = sink(&args, format, &model, &options, dimensions, output)?;
    let interrupts = Interrupts::install(cancel).context("Ctrl-C cannot be listened to")?;
    interrupts.arm();
    let started = Instant::now();
    let windows = Windows::new(texts, &model, &options, args.chunk, args.vectors.dedupe);
    let done = run(windows, args.chunk.is_some(), &mut sink, output);
    interrupts.disarm();
    let counts = match done {
        Ok(counts) => counts,
        Err(error) => return Err(stopped(sink, error, output)),
    };
    let time = started.elapsed();
    finish(sink, &args, &model, &options, &counts, output)?;
    remark_on_cuts(&counts, model.config().max_tokens, output);
    let n_texts = counts.n_texts - counts.n_texts_before;
    let chunks = args.chunk.map_or_else(String::new, |_| format!(" · {} chunks", counts.n_rows));
    let speed = counted(counts.n_tokens, "token", per_second(counts.n_tokens, time));
    output.note(&format!("{}{chunks} · {speed}", counted(n_texts, "text", per_second(n_texts, time))));
    Ok(ExitCode::SUCCESS)
}

/// Embeds everything, a window of texts at a time.
fn run(mut windows: Windows<'_>, has_chunks: bool, sink: &mut Sink, output: &Output) -> Result<Counts> {
    let progress = output.progress("embedding");
    let started = Instant::now();
    let n_texts_before = windows.skip(sink.n_rows())?;
    let mut counts = Counts { n_texts: n_texts_before, n_texts_before, n_rows: sink.n_rows(), ..Counts::default() };
    while let Some(window) = windows.next()? {
        for row in window.rows() {
            sink.write(&row, output)?;
            counts.n_texts = row.index + 1;
            counts.n_rows += 1;
            counts.n_tokens += row.n_tokens;
            if row.n_cut > 0 {
                counts.n_cut += 1;
                if counts.cut.len() < MAX_NAMED {
                    counts.cut.push(row.index + 1);
                }
            }
        }
        sink.flush(output)?;
        let left = windows.time_left(started).map_or_else(String::new, |left| format!(", about {} s left", left.as_secs()));
        let chunks = if has_chunks { format!(", {} chunks", counts.n_rows) } else { String::new() };
        progress.say(format!("embedding: {} texts{chunks}, {} tokens{left}", counts.n_texts, counts.n_tokens));
    }
    Ok(counts)
}

/// The format that was asked for, or that the file's name or the terminal asks for.
fn format(args: &EmbedArgs, output: &Output) -> Result<VectorFormat> {
    let extension = args.vectors.file.as_ref().map(|file| file.extension().and_then(|part| part.to_str()).unwrap_or_default());
    let format = match (args.vectors.format, extension) {
        (Some(format), _) => format,
        (None, Some("npy")) => VectorFormat::Npy,
        (None, Some("jsonl" | "ndjson")) => VectorFormat::Jsonl,
        (None, Some("parquet")) => VectorFormat::Parquet,
        (None, Some(other)) => {
            let hint = "name a file that ends in `.jsonl`, `.npy` or `.parquet`, or give `--format`";
            return Err(Usage::new(format!("`.{other}` is not the name of a format"), hint).into());
        }
        (None, None) if output.stdout_is_terminal() => VectorFormat::Table,
        (None, None) => VectorFormat::Jsonl,
    };
    match (format, &args.vectors.file) {
        (VectorFormat::Npy, None) => {
            Err(Usage::new("an array of NumPy's needs a file", "name one with `--output FILE.npy`").into())
        }
        (VectorFormat::Parquet, None) => {
            Err(Usage::new("a Parquet file needs a name", "give one with `--output FILE.parquet`").into())
        }
        (VectorFormat::Table, Some(_)) => {
            Err(Usage::new("a table is not written to a file", "use the formats `jsonl`, `npy` or `parquet`").into())
        }
        _ => Ok(format),
    }
}

fn sink(
    args: &EmbedArgs,
    format: VectorFormat,
    model: &EmbeddingModel,
    options: &EmbedOptions,
    dimensions: usize,
    output: &Output,
) -> Result<Sink> {
    let vectors = &args.vectors;
    let has_chunks = args.chunk.is_some();
    let layout = Layout { format, precision: vectors.precision, dimensions, has_text: !vectors.no_text, has_chunks };
    if let Some(path) = &vectors.file {
        let fingerprint = fingerprint(model, options, &layout, args.chunk)?;
        return Ok(Sink::File(VectorFile::open(path, layout, &fingerprint, vectors.resume, vectors.force)?));
    }
    if output.is_json() && vectors.precision != Precision::F32 {
        return Err(Usage::new("`--json` prints values as computed", "leave `--precision` out, or use `--format jsonl`").into());
    }
    Ok(match format {
        _ if output.is_json() || vectors.similarity.is_some() => Sink::Collect(Vec::new(), Collected::default()),
        VectorFormat::Table => Sink::Table,
        _ => Sink::Lines(layout, Vec::new()),
    })
}

/// What makes the vectors what they are.
fn fingerprint(model: &EmbeddingModel, options: &EmbedOptions, layout: &Layout, chunking: Option<Chunking>) -> Result<Value> {
    let fingerprint = model.fingerprint(options)?;
    let mut rows = json!({
        "format": format!("{:?}", layout.format).to_lowercase(),
        "precision": format!("{:?}", layout.precision).to_lowercase(),
        "text": layout.has_text,
    });
    if let Some(chunking) = chunking {
        rows["chunk"] = chunking.to_string().into();
    }
    Ok(json!({ "id": fingerprint.id(), "space": fingerprint.space, "arithmetic": fingerprint.arithmetic, "rows": rows }))
}

impl Sink {
    /// Rows that an earlier run wrote.
    fn n_rows(&self) -> usize {
        if let Self::File(file) = self { file.n_rows() } else { 0 }
    }

    fn write(&mut self, row: &Row<'_>, output: &Output) -> Result<()> {
        match self {
            Self::File(file) => file.write(row),
            Self::Lines(layout, lines) => {
                let text = row.text.filter(|_| layout.has_text);
                Ok(Row { text, ..*row }.write_json(layout.precision, lines)?)
            }
            Self::Table => output.line(&table_row(row, output)),
            Self::Collect(texts, collected) => {
                texts.extend(row.text.map(str::to_owned));
                collected.chunks.extend(row.part.map(|part| ChunkReport { index: row.index, part }));
                collected.n_tokens.push(row.n_tokens);
                collected.truncated.push(row.n_cut > 0);
                collected.embeddings.push(row.vector.to_vec());
                Ok(())
            }
        }
    }

    fn flush(&mut self, output: &Output) -> Result<()> {
        match self {
            Self::File(file) => file.flush(),
            Self::Lines(_, lines) => {
                let text = String::from_utf8_lossy(lines).into_owned();
                lines.clear();
                output.model_text(&text)
            }
            _ => Ok(()),
        }
    }
}

/// The first values of a vector, and the text on one line.
fn table_row(row: &Row<'_>, output: &Output) -> String {
    let values: Vec<String> = row.vector.iter().take(4).map(|value| format!("{value:>8.4}")).collect();
    let text: String = row.text.unwrap_or_default().chars().take(50).collect();
    let cut = if row.n_cut > 0 { " (cut)" } else { "" };
    let chunk = row.part.map_or_else(String::new, |part| format!(".{:<3}", part.chunk + 1));
    let line = format!("{:>5}{chunk}  {:>4} tokens{cut}  [{} …]", row.index + 1, row.n_tokens, values.join(" "));
    format!("{line}  {}", output.paint(DIM, &format!("{text:?}")))
}

fn finish(
    sink: Sink,
    args: &EmbedArgs,
    model: &EmbeddingModel,
    options: &EmbedOptions,
    counts: &Counts,
    output: &Output,
) -> Result<()> {
    let (texts, rows) = match sink {
        Sink::File(file) => {
            file.finish()?;
            (Vec::new(), Collected::default())
        }
        Sink::Collect(texts, collected) => (texts, collected),
        _ => return Ok(()),
    };
    let similarity = args.vectors.similarity.map(|measure| compare(measure, &rows)).transpose()?;
    if output.is_json() {
        return report(args, model, options, counts, (rows, similarity), output);
    }
    match (similarity, &args.vectors.file) {
        (Some(similarity), _) => print_similarity(&similarity, &texts, output),
        (None, Some(file)) => output.line(&file.display().to_string()),
        (None, None) => Ok(()),
    }
}

fn report(
    args: &EmbedArgs,
    model: &EmbeddingModel,
    options: &EmbedOptions,
    counts: &Counts,
    (rows, similarity): (Collected, Option<SimilarityReport>),
    output: &Output,
) -> Result<()> {
    let (info, config) = (model.info(), model.config());
    output.document(&EmbedReport {
        model: &info.name,
        backend: info.backend.to_string(),
        engine_version: &info.engine_version,
        device: info.device.to_string(),
        dtype: info.dtype.to_string(),
        adapters: AdapterRow::all(&info.adapters),
        pooling: config.pooling_name(),
        normalized: config.makes_unit_vectors(options, info.hidden_size),
        prompt: config.prompts.text(&options.prompt)?,
        dimensions: model.embedder().dimensions(options)?,
        max_tokens: config.max_tokens,
        remarks: &config.remarks,
        n_texts: counts.n_texts,
        n_chunks: args.chunk.map(|_| counts.n_rows),
        n_truncated: counts.n_cut,
        file: args.vectors.file.as_ref().map(|file| file.display().to_string()),
        similarity,
        rows,
    })
}

fn compare(measure: Similarity, rows: &Collected) -> Result<SimilarityReport> {
    let vectors = &rows.embeddings;
    if vectors.len() > MAX_COMPARED {
        let hint = "write the vectors to a file and compare them there";
        return Err(Usage::new(format!("more than {MAX_COMPARED} texts are not compared with one another"), hint).into());
    }
    let values = vectors.iter().map(|one| vectors.iter().map(|other| measure.of(one, other)).collect()).collect();
    Ok(SimilarityReport { measure, values })
}

fn print_similarity(similarity: &SimilarityReport, texts: &[String], output: &Output) -> Result<()> {
    let numbers: Vec<String> = (1..=texts.len()).map(|number| format!("{number:>7}")).collect();
    output.line(&output.paint(BOLD, &format!("{:>9}{}", similarity.measure, numbers.concat())))?;
    for (number, (row, text)) in similarity.values.iter().zip(texts).enumerate() {
        let values: Vec<String> = row.iter().map(|value| format!("{value:>7.3}")).collect();
        let text: String = text.chars().take(40).collect();
        output.line(&format!("{:>9}{}  {}", number + 1, values.concat(), output.paint(DIM, &format!("{text:?}"))))?;
    }
    Ok(())
}

/// Vectors that were cut are no longer as long as they were.
fn remark_on_length(model: &EmbeddingModel, options: &EmbedOptions, dimensions: usize, output: &Output) {
    let config = model.config();
    let is_cut = dimensions < config.width(model.info().hidden_size);
    if is_cut && config.is_normalized() && options.normalize == tandem::embedding::Normalize::Auto {
        output.note(&format!(
            "vectors are cut to {dimensions} dimensions and are shorter than 1 now, as in sentence-transformers: `--normalize yes` makes \
             them 1 again"
        ));
    }
}

fn remark_on_cuts(counts: &Counts, max_tokens: usize, output: &Output) {
    if counts.n_cut == 0 {
        return;
    }
    let mut numbers: Vec<String> = counts.cut.iter().map(ToString::to_string).collect();
    if counts.n_cut > counts.cut.len() {
        numbers.push("…".into());
    }
    let (n_cut, n_texts, numbers) = (counts.n_cut, counts.n_texts, numbers.join(", "));
    output.note(&format!("{n_cut} of {n_texts} texts were longer than {max_tokens} tokens and were cut: {numbers}"));
}

/// What is done stays, and how to go on is said.
fn stopped(sink: Sink, error: anyhow::Error, output: &Output) -> anyhow::Error {
    if let Sink::File(mut file) = sink {
        match file.flush() {
            Ok(()) => output.note(&format!(
                "{} rows are in `{}`: the same command with `--resume` goes on",
                file.n_rows(),
                file.partial().display()
            )),
            Err(other) => output.note(&other.to_string()),
        }
    }
    error
}
