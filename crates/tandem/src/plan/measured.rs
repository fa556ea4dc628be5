//! What runs really took, kept from run to run, so that the next plan is nearer.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

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

/// For how many seconds a bandwidth is believed: a week.
const VALID_FOR: u64 = 7 * 24 * 3600;

/// Peaks that were measured, the latest last.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Measurements {
    #[serde(default)]
    runs: Vec<Measurement>,
    #[serde(default)]
    bandwidths: Vec<Bandwidth>,
}

/// How fast a machine reads its memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bandwidth {
    /// The machine: the directory of a user may be on several.
    pub host: String,
    /// Threads that read at once.
    pub threads: usize,
    /// In bytes per second.
    pub bytes_per_second: f64,
    /// When, in seconds since 1970.
    pub measured_at: u64,
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

    /// The bandwidth of this machine's memory with `threads`, in bytes per second, if it was measured in the last days: the machine may
    /// have been busy.
    pub fn bandwidth(&self, threads: usize) -> Option<f64> {
        let (host, now) = (host(), now());
        let found = self.bandwidths.iter().find(|kept| kept.host == host && kept.threads == threads);
        found
            .filter(|kept| now.abs_diff(kept.measured_at) < VALID_FOR)
            .map(|kept| kept.bytes_per_second)
            .filter(|speed| speed.is_normal() && *speed > 0.0)
    }

    /// Sets the bandwidth of this machine's memory with `threads`.
    pub fn set_bandwidth(&mut self, threads: usize, bytes_per_second: f64) {
        let host = host();
        self.bandwidths.retain(|kept| kept.host != host || kept.threads != threads);
        self.bandwidths.push(Bandwidth { host, threads, bytes_per_second, measured_at: now() });
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

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn host() -> String {
    sysinfo::System::host_name().unwrap_or_default()
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
    fn bandwidths_are_kept_by_threads() {
        let mut measured = Measurements::default();
        assert_eq!(measured.bandwidth(2), None);
        for (threads, speed) in [(2, 1e9), (1, 5e8), (2, 3e9)] {
            measured.set_bandwidth(threads, speed);
        }
        assert_eq!([1, 2, 3].map(|threads| measured.bandwidth(threads)), [Some(5e8), Some(3e9), None]);
        measured.bandwidths.iter_mut().for_each(|kept| kept.host += "-of-another");
        assert_eq!(measured.bandwidth(2), None);
        measured.set_bandwidth(2, 3e9);
        measured.bandwidths.iter_mut().for_each(|kept| kept.measured_at -= VALID_FOR);
        assert_eq!(measured.bandwidth(2), None, "it is measured again after a week");
        measured.set_bandwidth(2, 0.0);
        assert_eq!(measured.bandwidth(2), None, "memory that could not be had is not slow memory");
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
