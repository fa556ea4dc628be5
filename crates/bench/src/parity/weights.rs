//! The second stage: do both sides hold the same weights?
//!
//! Files with the same hash are the same. Different checkpoints are compared weight by weight, by shape and by value. A graph that lies
//! beside a checkpoint is taken to be of it, which is said and left to the logits to show.

use std::collections::BTreeSet;

use half::{bf16, f16};
use serde::Serialize;
use tandem_core::checkpoint::{Checkpoint, StoredTensor};
use tandem_core::files::{ModelFile, ModelFiles};
use tandem_core::{CancelToken, DType, Error, Result};

use super::Side;

/// How many weights that differ are named.
const N_NAMED: usize = 10;

/// What two sides hold.
#[derive(Clone, Debug, Default, Serialize)]
pub struct WeightMeasures {
    /// Whether they hold the same weights, as far as files can tell.
    pub relation: Relation,
    /// What that rests on, for people.
    pub because: String,
    /// The files that the reference was loaded from.
    pub reference_files: Vec<HashedFile>,
    /// Those of the candidate.
    pub candidate_files: Vec<HashedFile>,
    /// Weights that were compared value by value.
    pub n_compared: usize,
    /// Weights that differ, at most ten of them.
    pub differences: Vec<WeightDifference>,
    /// How many differ.
    pub n_different: usize,
}

/// Whether two sides hold the same weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Relation {
    /// They were made from the same checkpoint: equal, or quantised from the same values.
    Same,
    /// They were not.
    Different,
    /// Files do not tell.
    #[default]
    Unknown,
}

/// A file with its hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HashedFile {
    /// Its name.
    pub name: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// SHA-256, in hexadecimal.
    pub sha256: String,
}

/// A weight that the two sides do not have alike.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WeightDifference {
    /// Its name.
    pub name: String,
    /// In what it differs, for people.
    pub problem: String,
    /// The largest difference of a value, where the shapes are the same.
    pub max_abs: Option<f64>,
}

/// Compares what the two sides were loaded from.
///
/// # Errors
/// [`Error::BadFile`] for a file that cannot be read, [`Error::Cancelled`].
pub(super) fn compare(reference: &Side<'_>, candidate: &Side<'_>, cancel: &CancelToken) -> Result<WeightMeasures> {
    let mut measures = WeightMeasures {
        reference_files: hashed(reference, cancel)?,
        candidate_files: hashed(candidate, cancel)?,
        ..WeightMeasures::default()
    };
    let hashes = |files: &[HashedFile]| files.iter().map(|file| file.sha256.clone()).collect::<Vec<_>>();
    let (ours, theirs) = (sources(reference.files, cancel)?, sources(candidate.files, cancel)?);
    if hashes(&measures.reference_files) == hashes(&measures.candidate_files) {
        measures.relation = Relation::Same;
        measures.because = "both read the same files".into();
    } else if ours.is_empty() || theirs.is_empty() {
        measures.because = "there is no checkpoint beside the graph to tell what it was made from".into();
    } else if ours == theirs {
        measures.relation = Relation::Same;
        measures.because = match made_here(reference) && made_here(candidate) {
            true => "both were made from the same checkpoint".into(),
            false => "the graph lies beside the checkpoint that the other side reads; the logits show whether it is of it".into(),
        };
    } else if reference.files.gguf().is_some() || candidate.files.gguf().is_some() {
        measures.because = "weights of a GGUF file are not compared by value; the logits show whether they are the same".into();
    } else {
        compare_values(reference.files, candidate.files, cancel, &mut measures)?;
    }
    Ok(measures)
}

/// Whether the side reads the checkpoint, or a graph that was made of it and no published one.
fn made_here(side: &Side<'_>) -> bool {
    let info = side.model.info();
    side.files.graphs.is_empty() || info.weight_files.iter().any(|file| file.name.ends_with(".safetensors"))
}

fn hashed(side: &Side<'_>, cancel: &CancelToken) -> Result<Vec<HashedFile>> {
    let info = side.model.info();
    let of = |file: &tandem_core::backend::WeightFile| {
        let found = match &file.path {
            Some(path) => Some(ModelFile::Path(path.clone())),
            // One that is part of the program.
            None => side.files.weights.iter().find(|weights| weights.name() == file.name.as_str()).cloned(),
        };
        let sha256 = found.map(|found| sha256(&found, cancel)).transpose()?.unwrap_or_default();
        Ok(HashedFile { name: file.name.clone(), bytes: file.bytes, sha256 })
    };
    info.weight_files.iter().map(of).collect()
}

/// Hashes of the checkpoint's weights.
fn sources(files: &ModelFiles, cancel: &CancelToken) -> Result<Vec<String>> {
    files.weights.iter().map(|file| sha256(file, cancel)).collect()
}

fn sha256(file: &ModelFile, cancel: &CancelToken) -> Result<String> {
    file.sha256_while(&mut |_| if cancel.is_cancelled() { Err(Error::Cancelled) } else { Ok(()) })
}

fn compare_values(ours: &ModelFiles, theirs: &ModelFiles, cancel: &CancelToken, measures: &mut WeightMeasures) -> Result<()> {
    let (ours, theirs) = (Checkpoint::open(ours)?, Checkpoint::open(theirs)?);
    let names: BTreeSet<&str> = ours.names().chain(theirs.names()).collect();
    for name in names {
        if cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        measures.n_compared += 1;
        if let Some(difference) = compare_weight(name, &ours, &theirs)? {
            measures.n_different += 1;
            if measures.differences.len() < N_NAMED {
                measures.differences.push(difference);
            }
        }
        ours.release();
        theirs.release();
    }
    measures.relation = if measures.n_different == 0 { Relation::Same } else { Relation::Different };
    measures.because = match measures.n_different {
        0 => "the checkpoints hold the same values".into(),
        n => format!("the checkpoints differ in {n} of {} weights", measures.n_compared),
    };
    Ok(())
}

fn compare_weight(name: &str, ours: &Checkpoint, theirs: &Checkpoint) -> Result<Option<WeightDifference>> {
    let of = |problem: String, max_abs| Ok(Some(WeightDifference { name: name.into(), problem, max_abs }));
    match (ours.contains(name), theirs.contains(name)) {
        (true, false) => return of("the candidate has none".into(), None),
        (false, true) => return of("the reference has none".into(), None),
        _ => {}
    }
    let (ours, theirs) = (ours.tensor(name)?, theirs.tensor(name)?);
    if ours.shape != theirs.shape {
        return of(format!("is {:?} for the reference and {:?} for the candidate", ours.shape, theirs.shape), None);
    }
    if ours.dtype == theirs.dtype && ours.bytes == theirs.bytes {
        return Ok(None);
    }
    let max_abs = values(&ours).zip(values(&theirs)).map(|(ours, theirs)| f64::from((ours - theirs).abs())).fold(0.0, f64::max);
    if max_abs == 0.0 { Ok(None) } else { of(format!("differs by up to {max_abs:.3e}"), Some(max_abs)) }
}

/// The values of a weight as f32.
pub(super) fn values<'t>(stored: &StoredTensor<'t>) -> Box<dyn Iterator<Item = f32> + 't> {
    match stored.dtype {
        DType::F32 => Box::new(stored.bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes))),
        DType::F16 => Box::new(stored.bytes.as_chunks().0.iter().map(|bytes| f16::from_le_bytes(*bytes).to_f32())),
        _ => Box::new(stored.bytes.as_chunks().0.iter().map(|bytes| bf16::from_le_bytes(*bytes).to_f32())),
    }
}
