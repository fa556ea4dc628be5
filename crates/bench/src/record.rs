//! A bench as a document: what was measured, of what, where, with every sample. It is what `--json` prints and what `--baseline` reads.

mod metric;

use std::path::Path;

use serde::{Deserialize, Serialize};
use tandem_core::backend::{Capability, DType, ModelInfo};
use tandem_core::{Error, Result};

pub use self::metric::{Metric, Unit};
use crate::closeness::Closeness;
use crate::loss::Loss;
use crate::machine::Machine;
use crate::measure::{Sample, Workload};

/// The version of the document's form. It changes when a reader of the old form would read the new one wrong.
pub const SCHEMA: u32 = 2;

/// The most that a document may weigh, in bytes.
const MOST_BYTES: u64 = 256 << 20;

/// A whole bench.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The version of Tandem.
    pub tandem_version: String,
    /// When it began, RFC 3339.
    pub started: String,
    /// Every round was measured; otherwise it was ended before.
    pub is_complete: bool,
    /// The model.
    pub model: ModelRecord,
    /// The machine.
    pub machine: Machine,
    /// What was measured.
    pub workload: Workload,
    /// The programs that were built for it.
    pub builds: Vec<Build>,
    /// What was measured, in the order of turns.
    pub entries: Vec<BenchEntry>,
}

/// The model that was measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelRecord {
    /// The reference that it was given by.
    pub reference: String,
    /// The `model_type` of its configuration.
    pub architecture: String,
    /// Weights and biases.
    pub n_parameters: u64,
    /// Rows of the logits.
    pub vocab_size: usize,
    /// Its weights were drawn at random: speeds are real, losses are not those of a published model.
    pub is_random: bool,
    /// Its files of weights, graphs and configuration.
    pub files: Vec<FileRecord>,
}

/// One file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FileRecord {
    /// Its name.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// The hash of its content, hexadecimal.
    pub sha256: String,
}

/// A program that was built to be measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Build {
    /// The features that it was built with.
    pub features: String,
    /// How long that took, in seconds.
    pub seconds: Option<f64>,
    /// Everything was built anew, nothing was there before.
    pub is_clean: bool,
    /// The size of the program.
    pub bytes: u64,
    /// The compiler.
    pub compiler: String,
}

/// One engine with one set of options, or a peer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BenchEntry {
    /// Its name, unique in the document: `onnx int4, 2 threads`.
    pub name: String,
    /// Not Tandem: what a user would pick instead.
    pub is_peer: bool,
    /// The options of Tandem's that choose it: `--backend onnx --dtype int4 --threads 2`.
    pub options: String,
    /// What was loaded; absent when it could not be.
    pub loaded: Option<Loaded>,
    /// How far it is from f32.
    pub loss: Option<Loss>,
    /// How close its vectors are to those of f32, for an embedding model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closeness: Option<Closeness>,
    /// Why neither is known.
    pub no_loss: Option<String>,
    /// Every sample.
    pub samples: Vec<Sample>,
    /// Why it was not measured, or not to its end.
    pub failure: Option<String>,
}

/// What an entry resolved to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Loaded {
    /// The engine.
    pub engine: String,
    /// Its version.
    pub engine_version: String,
    /// Where it runs.
    pub device: String,
    /// The dtype of the weights.
    pub dtype: String,
    /// Threads that it computes with.
    pub threads: usize,
    /// Bytes of its weights on disk.
    pub model_bytes: u64,
    /// Bytes of weights that one step reads.
    pub step_bytes: Option<u64>,
    /// In what keys and values are held; absent of a model that does not generate, and of peers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_dtype: Option<String>,
    /// Bytes of KV cache for one token.
    pub kv_bytes_per_token: Option<u64>,
    /// The most tokens that it takes.
    pub max_context: Option<usize>,
    /// It gives hidden states, which vectors are made of.
    pub has_hidden_states: bool,
    /// Files that its weights came from.
    pub weight_files: Vec<String>,
}

/// What one step reads of the weights.
#[derive(Clone, Copy, Debug)]
pub enum StepReads {
    /// So many, in the dtype that they were loaded in.
    Weights(u64),
    /// This share of the files, whose blocks may be of any size.
    Share(f64),
}

impl Loaded {
    /// From what a model says of itself; `reads` is absent for one that generates nothing.
    pub fn new(info: &ModelInfo, reads: Option<StepReads>) -> Self {
        let model_bytes = info.weight_files.iter().map(|file| file.bytes).sum();
        let step_bytes = reads.map(|reads| match reads {
            StepReads::Weights(n) => n as f64 * bytes_per_weight(info.memory_dtype),
            StepReads::Share(share) => model_bytes as f64 * share,
        });
        Self {
            engine: info.backend.to_string(),
            engine_version: info.engine_version.clone(),
            device: info.device.to_string(),
            dtype: info.dtype.to_string(),
            threads: info.threads,
            model_bytes,
            step_bytes: step_bytes.map(|bytes| bytes as u64),
            kv_dtype: info.kv_dtype.map(|dtype| dtype.to_string()),
            kv_bytes_per_token: reads.map(|_| info.kv_bytes_per_token as u64),
            max_context: Some(info.max_context),
            has_hidden_states: info.capabilities.has(Capability::HiddenStates),
            weight_files: info.weight_files.iter().filter_map(|file| Some(file.path.as_ref()?.display().to_string())).collect(),
        }
    }
}

/// What a weight takes in memory; a block of 32 quantised ones has a scale of 4 bytes.
pub fn bytes_per_weight(dtype: DType) -> f64 {
    match dtype {
        DType::F32 => 4.0,
        DType::F16 | DType::Bf16 => 2.0,
        DType::Int8 => 1.125,
        DType::Int4 => 0.625,
    }
}

impl Record {
    /// Reads a document.
    ///
    /// # Errors
    /// [`Error::BadFile`] when it cannot be read or parsed, [`Error::BadField`] when its form is of another version.
    pub fn read(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let size = std::fs::metadata(path).map_err(|error| Error::bad_file(&name, "cannot be read", error))?.len();
        if size > MOST_BYTES {
            return Err(Error::bad_field(&name, "", format!("weighs {size} bytes, and {MOST_BYTES} are the most")));
        }
        let text = std::fs::read_to_string(path).map_err(|error| Error::bad_file(&name, "cannot be read", error))?;
        let value: serde_json::Value =
            serde_json::from_str(&text).map_err(|error| Error::bad_file(&name, "is not valid JSON", error))?;
        match value.get("schema").and_then(serde_json::Value::as_u64) {
            Some(schema) if schema == u64::from(SCHEMA) => {}
            Some(schema) => {
                let problem = format!("is {schema}, and this version reads {SCHEMA}");
                return Err(Error::bad_field(&name, "schema", problem));
            }
            None => return Err(Error::bad_field(&name, "schema", "is missing: this is not a benchmark document")),
        }
        serde_json::from_value(value).map_err(|error| Error::bad_file(&name, "is not a complete benchmark document", error))
    }

    /// Writes the document; the file is whole or as it was before.
    ///
    /// # Errors
    /// [`Error::BadFile`] when it cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text =
            serde_json::to_string(self).map_err(|error| Error::bad_file(path.display().to_string(), "cannot be made", error))?;
        write_whole(path, text.as_bytes())
    }

    /// The entries that have samples.
    pub fn measured(&self) -> impl Iterator<Item = &BenchEntry> {
        self.entries.iter().filter(|entry| !entry.samples.is_empty())
    }

    /// Puts the samples of `other` behind those of the same entries, and further entries at the end.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when it is of another model, workload or machine.
    pub fn merge(&mut self, other: Self) -> Result<()> {
        let differs = |what: &str| Error::Unsupported {
            what: "merging these documents".into(),
            reason: format!("they differ in the {what}"),
            hint: Some("give documents of one bench, measured on one machine".into()),
        };
        if self.model.files != other.model.files || self.model.reference != other.model.reference {
            return Err(differs("model"));
        }
        if !self.machine.is_like(&other.machine) {
            return Err(differs("machine"));
        }
        if (Workload { rounds: 0, ..self.workload.clone() }) != (Workload { rounds: 0, ..other.workload.clone() }) {
            return Err(differs("workload"));
        }
        self.is_complete &= other.is_complete;
        for theirs in other.entries {
            match self.entries.iter_mut().find(|ours| ours.name == theirs.name) {
                Some(ours) => {
                    let n_before = ours.samples.iter().map(|sample| sample.round + 1).max().unwrap_or(0);
                    ours.samples
                        .extend(theirs.samples.into_iter().map(|sample| Sample { round: sample.round + n_before, ..sample }));
                    ours.failure = ours.failure.take().or(theirs.failure);
                }
                None => self.entries.push(theirs),
            }
        }
        self.workload.rounds =
            self.entries.iter().flat_map(|entry| &entry.samples).map(|sample| sample.round + 1).max().unwrap_or(0);
        Ok(())
    }
}

/// The time now, RFC 3339, to the second.
pub fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Writes `content` under another name in the same directory first.
///
/// # Errors
/// [`Error::BadFile`] when it cannot be written; what was there before is still there.
pub fn write_whole(path: &Path, content: &[u8]) -> Result<()> {
    let name = path.display().to_string();
    let failed = |error: std::io::Error| Error::BadFile {
        file: name.clone(),
        problem: "cannot be written".into(),
        hint: Some("make room on the disk, or name another file".into()),
        source: Some(error.into()),
    };
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(directory).map_err(failed)?;
    let mut file = tempfile::NamedTempFile::new_in(directory).map_err(failed)?;
    std::io::Write::write_all(&mut file, content).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    // A temporary file is its maker's alone; a report is read by others too.
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o644)).map_err(failed)?;
    }
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}
