//! Quantised weights of a checkpoint, kept for the next load: quantising takes seconds, reading what came of it a fraction of one.
//!
//! An entry of the [cache](tandem_core::cache) is a file with the codes and scales of all matrices, and an index of it. Where weights are to
//! lie in huge pages the file is read into such; otherwise it is mapped, and processes share it.

mod file;
mod sum;

use std::cell::{Cell, OnceCell};
use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use tandem_core::backend::LoadOptions;
use tandem_core::cache::{self, About, CachedEntry, MADE_IN_MEMORY, Slot};
use tandem_core::config::ModelConfig;
use tandem_core::export::CachedKind;
use tandem_core::files::{ModelFile, ModelFiles};
use tandem_core::staging::cannot;
use tandem_core::{DType, Error, ProgressEvent, Result};
use tandem_kernels::matrix::{Matrix, Stored};
use tandem_kernels::quantize::{BLOCK, Bits};
use tandem_kernels::strips::Layout;

use self::file::{PackedMatrix, Writer};
use crate::decoder::Decoder;
use crate::weights::{self, CheckpointSource, WeightSource};

/// What distinguishes entries of other layouts, or of matrices that were put together otherwise: it changes with either, and with the
/// rounding.
const LAYOUT: &str = if cfg!(target_endian = "little") { "blocks 1, little-endian" } else { "blocks 1, big-endian" };

/// The decoder that `config` describes, with the weights of `source`, the checkpoint of `files`. Quantised weights are those that an earlier load
/// kept, or are kept for the next.
///
/// # Errors
/// As [`weights::decoder`]; [`Error::Cancelled`], and [`Error::InvalidOption`] for a limit of the cache that is not a size. What else is
/// wrong with the cache is said, and the weights are not kept.
pub(crate) fn decoder(
    source: &CheckpointSource<'_>,
    files: &ModelFiles,
    config: &ModelConfig,
    options: &LoadOptions,
) -> Result<Decoder> {
    let Some(bits) = source.bits else { return weights::decoder(source, config) };
    let work = Work { source, bits, files, config, options };
    let is_kept = n_bytes_stored(files)? >= MADE_IN_MEMORY && files.weights.iter().all(|file| file.path().is_some());
    if is_kept { work.kept_or_quantized() } else { work.quantized(None) }
}

/// Bytes of the files of the weights.
fn n_bytes_stored(files: &ModelFiles) -> Result<u64> {
    files.weights.iter().map(ModelFile::len).sum()
}

/// A checkpoint to quantise.
struct Work<'w> {
    source: &'w CheckpointSource<'w>,
    bits: Bits,
    files: &'w ModelFiles,
    config: &'w ModelConfig,
    options: &'w LoadOptions,
}

impl Work<'_> {
    /// The decoder from the cache; what is wrong with that costs time, and not the model.
    fn kept_or_quantized(&self) -> Result<Decoder> {
        let made = OnceCell::new();
        let problem = match self.kept(&made) {
            Ok(Some(decoder)) => return Ok(decoder),
            Ok(None) => None,
            Err(error @ (Error::Cancelled | Error::InvalidOption { .. })) => return Err(error),
            Err(problem) => Some(problem),
        };
        let made = made.into_inner();
        if let Some(problem) = problem.filter(|_| !matches!(made, Some(Err(_)))) {
            let hint = problem.hint().map(|hint| format!("; {hint}")).unwrap_or_default();
            self.options.progress.tell(&ProgressEvent::NotKept { problem: &format!("{problem}{hint}") });
        }
        made.unwrap_or_else(|| self.quantized(None))
    }

    /// The decoder from an entry of the cache. Where there is none, one is made, and `made` becomes the decoder: whatever comes of the entry,
    /// weights are quantised once.
    fn kept(&self, made: &OnceCell<Result<Decoder>>) -> Result<Option<Decoder>> {
        let no_directory = || Error::BadFile {
            file: "the cache".into(),
            problem: "has no place: neither `TANDEM_CACHE`, `XDG_CACHE_HOME` nor `HOME` is set".into(),
            hint: None,
            source: None,
        };
        let entries = cache::directory(self.options.cache.as_deref()).ok_or_else(no_directory)?;
        // Weights are not hashed where nothing can be kept.
        fs::create_dir_all(&entries).map_err(|error| cannot("made", &entries, error))?;
        let hashes = cache::remembered_hashes(&entries, cache::sources(self.files), self.options)?;
        let dtype = self.dtype().to_string();
        let layout = match Layout::of(self.source.numerics) {
            Layout::Rows => "rows",
            Layout::Strips => "strips",
        };
        let key: Vec<&str> = [LAYOUT, layout, &dtype].into_iter().chain(hashes.iter().map(String::as_str)).collect();
        let slot = Slot::new(&entries, &key, file::FILES, format!("quantising {} to {dtype}", self.files.name), self.options);
        let about = About { kind: CachedKind::Weights, source: cache::origin(self.files).0, dtype };
        loop {
            let found = slot.find()?;
            let is_bad = found.is_some();
            if let Some(decoder) = found.map(|entry| self.read(entry)).transpose()?.flatten() {
                return Ok(Some(decoder));
            }
            let is_made = slot.make(&about, self.n_bytes(), is_bad, |directory| self.make(directory, made))?;
            if is_made {
                return Ok(None);
            }
        }
    }

    /// Quantises all weights, and writes them to `directory`.
    fn make(&self, directory: &Path, made: &OnceCell<Result<Decoder>>) -> Result<()> {
        let writer = Writer::new(directory)?;
        match made.get_or_init(|| self.quantized(Some(&writer))) {
            Ok(_) => writer.finish(),
            // It is the one that is reported.
            Err(_) => Err(Error::Cancelled),
        }
    }

    /// The decoder of weights that are quantised now, which go to `writer` too.
    fn quantized(&self, writer: Option<&Writer>) -> Result<Decoder> {
        let source = Quantizing {
            source: self.source,
            bits: self.bits,
            options: self.options,
            writer,
            done: Cell::new(0),
            total: self.source.checkpoint.n_bytes(),
        };
        weights::decoder(&source, self.config)
    }

    /// The decoder of the weights of `entry`; `None` when they are damaged.
    fn read(&self, entry: CachedEntry) -> Result<Option<Decoder>> {
        let packed = match self.options.huge_pages {
            true => file::read(entry.directory(), self.source.arena),
            false => file::map(entry),
        };
        let Some(packed) = packed else { return Ok(None) };
        let source = Kept { source: self.source, bits: self.bits, packed: Mutex::new(packed), is_incomplete: Cell::new(false) };
        match weights::decoder(&source, self.config) {
            Err(_) if source.is_incomplete.get() => Ok(None),
            decoder => decoder.map(Some),
        }
    }

    fn dtype(&self) -> DType {
        dtype(self.bits)
    }

    /// An upper bound on the bytes of an entry.
    fn n_bytes(&self) -> u64 {
        let checkpoint = self.source.checkpoint;
        let tensors = checkpoint.names().filter_map(|name| checkpoint.tensor(name).ok());
        let blocks: u64 = tensors.map(|tensor| tensor.shape.iter().product::<usize>().div_ceil(BLOCK) as u64).sum();
        blocks * (self.bits.block_bytes() + size_of::<f32>()) as u64 + file::ROOM
    }
}

fn dtype(bits: Bits) -> DType {
    match bits {
        Bits::Eight => DType::Int8,
        Bits::Four => DType::Int4,
    }
}

/// Names a matrix that is put together of `parts`.
fn name(parts: &[(String, usize)]) -> String {
    parts.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(" ")
}

/// A checkpoint whose matrices are quantised, said and written one by one.
struct Quantizing<'w> {
    source: &'w CheckpointSource<'w>,
    bits: Bits,
    options: &'w LoadOptions,
    writer: Option<&'w Writer>,
    /// Bytes of the checkpoint.
    done: Cell<u64>,
    total: u64,
}

impl WeightSource for Quantizing<'_> {
    fn contains(&self, name: &str) -> bool {
        self.source.contains(name)
    }

    fn matrix(&self, parts: &[(String, usize)], columns: usize) -> Result<Matrix> {
        let go_on = |n_bytes: usize| {
            self.done.set(self.done.get() + n_bytes as u64);
            let (dtype, done) = (dtype(self.bits), self.done.get());
            self.options.progress.tell(&ProgressEvent::Quantizing { dtype, done, total: self.total });
            if self.options.cancel.is_cancelled() { Err(Error::Cancelled) } else { Ok(()) }
        };
        go_on(0)?;
        let stored = self.source.quantized(self.bits, parts, columns, &go_on)?;
        let stored = stored.arranged(columns, Layout::of(self.source.numerics));
        let rows = parts.iter().map(|(_, rows)| rows).sum();
        if let (Some(writer), Stored::Blocks { codes, scales, .. } | Stored::Strips { codes, scales, .. }) =
            (self.writer, &stored)
        {
            writer.put(name(parts), [rows, columns], codes, scales);
        }
        Ok(Matrix::new(stored, rows, columns, self.source.numerics))
    }

    fn vector(&self, parts: &[(String, usize)]) -> Result<Vec<f32>> {
        self.source.vector(parts)
    }
}

/// A checkpoint whose matrices were quantised earlier.
struct Kept<'w> {
    source: &'w CheckpointSource<'w>,
    bits: Bits,
    packed: Mutex<HashMap<String, PackedMatrix>>,
    is_incomplete: Cell<bool>,
}

impl WeightSource for Kept<'_> {
    fn contains(&self, name: &str) -> bool {
        self.source.contains(name)
    }

    fn matrix(&self, parts: &[(String, usize)], columns: usize) -> Result<Matrix> {
        self.source.checked_blocks(parts, columns)?;
        let (name, rows) = (name(parts), parts.iter().map(|(_, rows)| rows).sum());
        let n_blocks = rows * columns / BLOCK;
        let is_right = |matrix: &PackedMatrix| {
            matrix.shape == [rows, columns]
                && matrix.codes.len() == n_blocks * self.bits.block_bytes()
                && matrix.scales.len() == n_blocks
        };
        let found = self.packed.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
        let Some(PackedMatrix { codes, scales, .. }) = found.filter(is_right) else {
            self.is_incomplete.set(true);
            return Err(Error::bad_field(self.source.file, &name, "the quantised weights in the cache lack it"));
        };
        let stored = Stored::quantized(Layout::of(self.source.numerics), self.bits, codes, scales);
        Ok(Matrix::new(stored, rows, columns, self.source.numerics))
    }

    fn vector(&self, parts: &[(String, usize)]) -> Result<Vec<f32>> {
        self.source.vector(parts)
    }
}
