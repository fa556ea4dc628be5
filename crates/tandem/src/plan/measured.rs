//! What runs really took, kept from run to run, so that the next plan is nearer.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Engine;

/// Measurements that are kept of one engine and dtype; the oldest goes.
const KEPT: usize = 16;

/// A plan is corrected by runs whose sum was within this factor of its own: a small model says nothing of a large one.
const NEAR: f64 = 2.0;

/// The most that a correction may be, as a share of the sum, beside [`LEAST_BOUND`]: a measurement that is further off was of
/// something else (a debug build, another allocator, memory that was swapped out).
const BOUND: f64 = 0.5;
const LEAST_BOUND: f64 = 64e6;

/// Peaks that were measured, the latest last.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Measurements {
    #[serde(default)]
    runs: Vec<Measurement>,
}

/// One run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measurement {
    /// The engine.
    pub backend: String,
    /// The dtype of the weights.
    pub dtype: String,
    /// What the plan's parts came to.
    pub planned: u64,
    /// What the process used.
    pub peak: u64,
}

impl Measurements {
    /// Those that `file` keeps; none when it cannot be read: they are a convenience.
    pub fn read(file: &Path) -> Self {
        fs::read(file).ok().and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default()
    }

    /// Writes them to `file`, whole or not at all, and makes its directory.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, file: &Path) -> io::Result<()> {
        let dir = file.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(dir)?;
        let mut new = tempfile::NamedTempFile::new_in(dir)?;
        new.write_all(&serde_json::to_vec(self)?)?;
        new.persist(file)?;
        Ok(())
    }

    /// Adds a run, whose plan's parts came to `planned`.
    pub fn add(&mut self, engine: &Engine, planned: u64, peak: u64) {
        let (backend, dtype) = names(engine);
        self.runs.push(Measurement { backend, dtype, planned, peak });
        let alike = |run: &Measurement| names(engine) == (run.backend.clone(), run.dtype.clone());
        if self.runs.iter().filter(|run| alike(run)).count() > KEPT
            && let Some(oldest) = self.runs.iter().position(alike)
        {
            self.runs.remove(oldest);
        }
    }

    /// By how much runs on `engine` exceeded a sum like `planned`: the most of them. `None` when none was measured.
    pub fn correction(&self, engine: &Engine, planned: u64) -> Option<i64> {
        let (backend, dtype) = names(engine);
        let near = |run: &&Measurement| {
            let ratio = run.planned as f64 / planned.max(1) as f64;
            run.backend == backend && run.dtype == dtype && (1.0 / NEAR..=NEAR).contains(&ratio)
        };
        let bound = (planned as f64 * BOUND).max(LEAST_BOUND) as i64;
        let exceeds = |run: &Measurement| i64::try_from(run.peak).ok()?.checked_sub(i64::try_from(run.planned).ok()?);
        self.runs.iter().filter(near).filter_map(exceeds).filter(|over| over.abs() <= bound).max()
    }
}

fn names(engine: &Engine) -> (String, String) {
    (engine.backend.to_string(), engine.dtype.to_string())
}

#[cfg(test)]
mod tests {
    use tandem_core::{BackendKind, DType};

    use super::*;

    fn engine(dtype: DType) -> Engine {
        Engine { backend: BackendKind::Onnx, dtype, threads: 2 }
    }

    #[test]
    fn runs_like_it_correct_a_plan() {
        let mut measured = Measurements::default();
        assert_eq!(measured.correction(&engine(DType::Int4), 1_000_000_000), None);
        measured.add(&engine(DType::Int4), 1_000_000_000, 1_100_000_000);
        measured.add(&engine(DType::Int4), 1_000_000_000, 1_050_000_000);
        assert_eq!(measured.correction(&engine(DType::Int4), 900_000_000), Some(100_000_000), "the most counts");
        assert_eq!(measured.correction(&engine(DType::Int8), 1_000_000_000), None, "of another dtype");
        assert_eq!(measured.correction(&engine(DType::Int4), 3_000_000_000), None, "of another size");
        let candle = Engine { backend: BackendKind::Candle, ..engine(DType::Int4) };
        assert_eq!(measured.correction(&candle, 1_000_000_000), None, "of another engine");
    }

    #[test]
    fn what_cannot_be_is_no_correction() {
        let mut measured = Measurements::default();
        measured.add(&engine(DType::F32), 1_000_000_000, 5_000_000_000);
        assert_eq!(measured.correction(&engine(DType::F32), 1_000_000_000), None);
        measured.add(&engine(DType::F32), 1_000_000_000, 900_000_000);
        assert_eq!(measured.correction(&engine(DType::F32), 1_000_000_000), Some(-100_000_000));
    }

    #[test]
    fn the_oldest_go() {
        let mut measured = Measurements::default();
        measured.add(&engine(DType::F32), 1_000_000_000, 1_400_000_000);
        (0..KEPT).for_each(|_| measured.add(&engine(DType::F32), 1_000_000_000, 1_000_000_000));
        assert_eq!(measured.runs.len(), KEPT);
        assert_eq!(measured.correction(&engine(DType::F32), 1_000_000_000), Some(0));
    }

    #[test]
    fn they_are_kept_in_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("new/memory.json");
        assert_eq!(Measurements::read(&file), Measurements::default());
        let mut measured = Measurements::default();
        measured.add(&engine(DType::F32), 1, 2);
        measured.write(&file).unwrap();
        assert_eq!(Measurements::read(&file), measured);
        fs::write(&file, "{").unwrap();
        assert_eq!(Measurements::read(&file), Measurements::default());
    }
}
