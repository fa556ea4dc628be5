//! What is known before anything is measured: the model's files with their hashes, the text, the work.

use anyhow::Result;
use serde_json::{Value, json};
use tandem::files::ModelFile;
use tandem::{CancelToken, Error, ModelConfig, ModelFiles, SpecialTokens, TokenId, Tokenizer};
use tandem_bench::loss::{MOST_TOKENS, TEXT};
use tandem_bench::machine::Machine;
use tandem_bench::measure::{Workload, text};
use tandem_bench::parity::Corpus;
use tandem_bench::probe::Probe;
use tandem_bench::record::{Build, FileRecord, ModelRecord, Record, SCHEMA};
use tandem_bench::report::{Change, advise, noise};
use tandem_bench::shape::is_random;
use tandem_bench::statistics::interval;

use super::workload;
use crate::args::{BenchArgs, Peer};
use crate::output::Progress;

/// The largest published tokenizers have some 30 MB.
const MOST_TOKENIZER_BYTES: u64 = 64 << 20;

/// The most tokens of a text whose vectors are compared: cosines of longer ones say the same, and every entry embeds them.
const MOST_PROBED: usize = 128;

/// Texts of a checkpoint without a tokenizer.
const N_DRAWN: usize = 24;

/// What is known of a model and of what is to be done with it.
pub(super) struct Facts {
    pub(super) config: ModelConfig,
    pub(super) workload: Workload,
    /// What losses are measured on.
    pub(super) probe: Probe,
    pub(super) hashed: Vec<FileRecord>,
}

impl Facts {
    pub(super) fn read(files: &ModelFiles, args: &BenchArgs, cancel: &CancelToken, progress: &Progress) -> Result<Self> {
        let config = files.model_config()?;
        let task = workload::task(args.work.task, files, &config);
        let workload = workload::workload(task, &args.work, files, &config)?;
        let probe = probe(&workload, files, &config)?;
        let of_peers = args.peers.ggufs.iter().map(|path| ModelFile::Path(path.clone()));
        // A graph is hashed where it is all there is; one that is made of the weights follows from them.
        let graphs = files.graphs.iter().filter(|_| files.weights.is_empty()).map(|graph| graph.file.clone());
        let all = [files.config.clone()].into_iter().chain(files.weights.iter().cloned()).chain(graphs);
        let is_llama = args.peers.peers.iter().any(|peer| matches!(peer, Peer::LlamaBench(_)));
        let all: Vec<ModelFile> = all.chain(of_peers.filter(|_| is_llama)).collect();
        let hashed = all.iter().filter_map(|file| hash(file, cancel, progress).transpose()).collect::<Result<_>>()?;
        Ok(Self { config, workload, probe, hashed })
    }

    /// What was asked for and is more than the model holds.
    pub(super) fn left_out(&self, args: &BenchArgs) -> Option<String> {
        let all = workload::left_out(&args.work, &self.workload);
        let most = self.workload.embedding.as_ref().map_or(self.config.max_context, |embedding| embedding.most_mixed);
        (!all.is_empty()).then(|| format!("left out: {}; the model holds {most} tokens", all.join(", ")))
    }

    /// An empty record.
    pub(super) fn into_record(self, reference: &str, args: &BenchArgs) -> Result<Record> {
        let builds: Vec<Build> = match &args.report.builds {
            None => Vec::new(),
            Some(path) => {
                let name = path.display().to_string();
                let text = std::fs::read(path).map_err(|error| Error::bad_file(&name, "cannot be read", error))?;
                serde_json::from_slice(&text).map_err(|error| Error::bad_file(&name, "is not a list of builds", error))?
            }
        };
        Ok(Record {
            schema: SCHEMA,
            tandem_version: env!("CARGO_PKG_VERSION").into(),
            started: tandem_bench::record::now(),
            is_complete: false,
            model: ModelRecord {
                reference: reference.into(),
                architecture: self.config.architecture.to_string(),
                n_parameters: self.config.n_parameters(),
                vocab_size: self.config.vocab_size,
                is_random: is_random(&self.config),
                files: self.hashed,
            },
            machine: Machine::this(),
            workload: self.workload,
            builds,
            entries: Vec::new(),
        })
    }
}

/// The record with what follows from it, for programs: medians with intervals, what to use, noise, changes.
pub(super) fn document(record: &Record, changes: &[Change]) -> Value {
    let mut summary = Vec::new();
    for entry in record.measured() {
        for metric in record.metrics() {
            let values = entry.values(metric);
            if !values.is_empty() {
                let interval = interval(&values);
                summary.push(json!({"entry": entry.name, "metric": metric.to_string(), "unit": format!("{:?}", metric.unit()),
                    "median": interval.median, "low": interval.low, "high": interval.high, "n": values.len()}));
            }
        }
    }
    let advice: Vec<Value> = advise(record)
        .choices
        .iter()
        .map(|choice| json!({"wish": choice.wish, "entry": choice.entry.name, "options": choice.entry.options}))
        .collect();
    let changes: Vec<Value> = changes
        .iter()
        .map(|change| {
            let ratio = change.compared.ratio;
            json!({"entry": change.name, "metric": change.metric.to_string(), "ratio": ratio.median, "low": ratio.low,
                "high": ratio.high, "verdict": format!("{:?}", change.compared.verdict), "fails_gate": change.fails_gate()})
        })
        .collect();
    let mut document = serde_json::to_value(record).unwrap_or_default();
    if let Value::Object(fields) = &mut document {
        let noise = noise(record);
        fields.extend([
            ("summary".to_owned(), Value::Array(summary)),
            ("advice".to_owned(), Value::Array(advice)),
            ("changes".to_owned(), Value::Array(changes)),
            ("noise".to_owned(), noise.into()),
        ]);
    }
    document
}

/// What every entry is asked before the rounds.
fn probe(workload: &Workload, files: &ModelFiles, config: &ModelConfig) -> Result<Probe> {
    Ok(match &workload.embedding {
        Some(embedding) => Probe::Vectors(texts(files, config, embedding.most_mixed.min(MOST_PROBED))?),
        None => Probe::Logits(tokens(files, config)?),
    })
}

/// The text in the model's own tokens; a checkpoint without a tokenizer gets tokens that mean nothing.
fn tokens(files: &ModelFiles, config: &ModelConfig) -> Result<Vec<TokenId>> {
    let n = MOST_TOKENS.min(config.max_context);
    let Some(tokenizer) = tokenizer(files)? else { return Ok(text(0, n, config.vocab_size)) };
    let mut tokens = tokenizer.encode(TEXT, SpecialTokens::AsText)?;
    tokens.truncate(n);
    Ok(tokens)
}

/// The texts of the parity corpus, with the tokens that the tokenizer puts around a text, of at most `most` tokens each.
fn texts(files: &ModelFiles, config: &ModelConfig, most: usize) -> Result<Vec<Vec<TokenId>>> {
    let Some(tokenizer) = tokenizer(files)? else {
        return Ok((0..N_DRAWN).map(|number| text(number, most.min(16 + 8 * number), config.vocab_size)).collect());
    };
    let mut texts = Vec::new();
    for (_, text) in Corpus::embedded().texts() {
        let ids = tokenizer.encode_within(&text, most)?.0;
        texts.extend((!ids.is_empty()).then_some(ids));
    }
    Ok(texts)
}

fn tokenizer(files: &ModelFiles) -> Result<Option<Tokenizer>> {
    let Some(file) = &files.tokenizer else { return Ok(None) };
    Ok(Some(Tokenizer::from_json(&file.read(MOST_TOKENIZER_BYTES)?, &file.name())?))
}

/// A file with its hash; `None` for one that is not there, which whatever needs it reports.
fn hash(file: &ModelFile, cancel: &CancelToken, progress: &Progress) -> Result<Option<FileRecord>> {
    if file.path().is_some_and(|path| !path.is_file()) {
        return Ok(None);
    }
    let bytes = file.len()?;
    let mut done = 0;
    let sha256 = file.sha256_while(&mut |n| {
        done += n;
        progress.say(format!("hashing {}: {}%", file.file_name(), done.min(bytes) * 100 / bytes.max(1)));
        if cancel.is_cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    })?;
    Ok(Some(FileRecord { name: file.name().into_owned(), bytes, sha256 }))
}
