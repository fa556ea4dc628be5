//! The files of an entry: codes and scales of all matrices one after the other, and an index in JSON that says where each is and what it sums to.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use tandem_core::Result;
use tandem_core::arena::{Arena, Slab};
use tandem_core::cache::{CachedEntry, EntryFiles};
use tandem_core::file_bytes::FileBytes;
use tandem_core::staging::cannot;

use super::sum::{PIECE, of_piece, of_sums};

/// The files of an entry.
pub(super) const FILES: EntryFiles = EntryFiles { index: "weights.json", data: "weights.bin" };

/// More than what alignment and the index take.
pub(super) const ROOM: u64 = 16 << 20;

/// Large sections begin at pages, so that a mapped one shares none; small ones at lines of the processor's cache.
const PAGE: u64 = 4096;
const LINE: u64 = 64;

/// Where the matrices are, in the order in which they were made.
#[derive(Default, Serialize, Deserialize)]
struct Index {
    matrices: Vec<Place>,
}

/// Where a matrix is.
#[derive(Serialize, Deserialize)]
struct Place {
    name: String,
    /// Rows and columns.
    shape: [usize; 2],
    codes: Section,
    scales: Section,
}

/// A part of the file.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Section {
    offset: u64,
    bytes: usize,
    sum: u64,
}

/// A matrix of an entry.
pub(super) struct PackedMatrix {
    /// Rows and columns.
    pub(super) shape: [usize; 2],
    pub(super) codes: Slab<u8>,
    pub(super) scales: Slab<f32>,
}

/// Writes an entry. A failure is kept until the end, so that whoever quantises need not stop.
pub(super) struct Writer(Mutex<Writing>);

struct Writing {
    directory: PathBuf,
    data: BufWriter<File>,
    n_written: u64,
    index: Index,
    failed: Option<io::Error>,
}

impl Writer {
    /// Begins an entry in `directory`, which is created.
    ///
    /// # Errors
    /// [`Error::BadFile`](tandem_core::Error::BadFile) when it cannot be written.
    pub(super) fn new(directory: &Path) -> Result<Self> {
        let path = directory.join(FILES.data);
        let file = fs::create_dir(directory).and_then(|()| File::create_new(&path));
        let data = BufWriter::with_capacity(PIECE, file.map_err(|error| cannot("written", &path, error))?);
        let directory = directory.to_owned();
        Ok(Self(Mutex::new(Writing { directory, data, n_written: 0, index: Index::default(), failed: None })))
    }

    /// Adds the matrix `name`.
    pub(super) fn put(&self, name: String, shape: [usize; 2], codes: &Slab<u8>, scales: &Slab<f32>) {
        let mut writing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if writing.failed.is_some() {
            return;
        }
        let sections = writing.section(codes.bytes()).and_then(|codes| Ok((codes, writing.section(scales.bytes())?)));
        match sections {
            Ok((codes, scales)) => writing.index.matrices.push(Place { name, shape, codes, scales }),
            Err(error) => writing.failed = Some(error),
        }
    }

    /// Completes the entry.
    ///
    /// # Errors
    /// [`Error::BadFile`](tandem_core::Error::BadFile) when it could not be written.
    pub(super) fn finish(self) -> Result<()> {
        let Writing { directory, data, index, failed, .. } = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        let path = directory.join(FILES.data);
        let finish = || {
            failed.map_or(Ok(()), Err)?;
            data.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
            let mut file = File::create_new(directory.join(FILES.index))?;
            file.write_all(&serde_json::to_vec(&index)?)?;
            file.sync_all()
        };
        finish().map_err(|error| cannot("written", &path, error))
    }
}

impl Writing {
    fn section(&mut self, bytes: &[u8]) -> io::Result<Section> {
        let alignment = if bytes.len() as u64 >= PAGE { PAGE } else { LINE };
        let offset = self.n_written.next_multiple_of(alignment);
        self.data.write_all(&vec![0; (offset - self.n_written) as usize])?;
        self.data.write_all(bytes)?;
        self.n_written = offset + bytes.len() as u64;
        Ok(Section { offset, bytes: bytes.len(), sum: sum(bytes) })
    }
}

/// The sum of a section, on all threads.
fn sum(bytes: &[u8]) -> u64 {
    of_sums(bytes.par_chunks(PIECE).map(of_piece).collect::<Vec<_>>())
}

/// Reads the matrices of the entry in `directory` into `arena`, on all threads; `None` when they are damaged.
pub(super) fn read(directory: &Path, arena: &Arena) -> Option<HashMap<String, PackedMatrix>> {
    let (index, path) = (index(directory)?, directory.join(FILES.data));
    let length = usize::try_from(path.metadata().ok()?.len()).ok()?;
    let mut rest = length;
    let mut fits = |section: &Section| {
        rest = rest.checked_sub(section.bytes)?;
        section.range().filter(|range| range.end <= length)
    };
    // Before memory is allocated.
    if !index.matrices.iter().all(|place| fits(&place.codes).and_then(|_| fits(&place.scales)).is_some()) {
        return None;
    }
    let allocate = |place: &Place| PackedMatrix {
        shape: place.shape,
        codes: arena.zeros(place.codes.bytes),
        scales: arena.zeros(place.scales.bytes / size_of::<f32>()),
    };
    let mut matrices: Vec<PackedMatrix> = index.matrices.iter().map(allocate).collect();
    let mut sections: Vec<(Section, &mut [u8])> = Vec::with_capacity(2 * matrices.len());
    for (place, matrix) in index.matrices.iter().zip(&mut matrices) {
        sections.extend([(place.codes, matrix.codes.bytes_mut()), (place.scales, matrix.scales.bytes_mut())]);
    }
    read_sections(&path, sections).ok().filter(|is_whole| *is_whole)?;
    Some(index.matrices.into_iter().map(|place| place.name).zip(matrices).collect())
}

/// Reads `sections` of the file at `path`, each into its memory, and says whether they sum to what they should.
fn read_sections(path: &Path, sections: Vec<(Section, &mut [u8])>) -> io::Result<bool> {
    let expected: Vec<(u64, usize)> = sections.iter().map(|(section, out)| (section.sum, out.len().div_ceil(PIECE))).collect();
    let pieces = |(section, out): (Section, _)| {
        let pieces = <[u8]>::chunks_mut(out, PIECE).enumerate();
        pieces.map(move |(i, out)| (section.offset + (i * PIECE) as u64, out))
    };
    let pieces: Vec<(u64, &mut [u8])> = sections.into_iter().flat_map(pieces).collect();
    let read = |file: &mut io::Result<File>, (offset, out): (u64, &mut [u8])| {
        let file = file.as_mut().map_err(|error| io::Error::from(error.kind()))?;
        file.seek(SeekFrom::Start(offset))?;
        file.read_exact(out)?;
        Ok(of_piece(out))
    };
    // Pieces lie one after the other, and a thread takes the next: what a disk holds is read in order.
    let sums: io::Result<Vec<u64>> = pieces.into_par_iter().with_max_len(1).map_init(|| File::open(path), read).collect();
    let mut sums = sums?.into_iter();
    Ok(expected.into_iter().all(|(sum, n)| of_sums(sums.by_ref().take(n)) == sum))
}

/// Maps the matrices of `entry`, which stays in the cache for as long as one of them is used; `None` when they are damaged.
pub(super) fn map(entry: CachedEntry) -> Option<HashMap<String, PackedMatrix>> {
    let index = index(entry.directory())?;
    let file = Bytes::from_owner(Mapped { content: FileBytes::map(&entry.directory().join(FILES.data)).ok()?, _entry: entry });
    // Reading all of it once costs nothing: the first token does.
    let section = |section: Section| {
        let bytes = file.slice(section.range().filter(|range| range.end <= file.len())?);
        (sum(&bytes) == section.sum).then_some(bytes)
    };
    let matrix = |place: Place| {
        let (codes, scales) = (Slab::mapped(section(place.codes)?)?, Slab::mapped(section(place.scales)?)?);
        Some((place.name, PackedMatrix { shape: place.shape, codes, scales }))
    };
    index.matrices.into_iter().map(matrix).collect()
}

fn index(directory: &Path) -> Option<Index> {
    serde_json::from_slice(&fs::read(directory.join(FILES.index)).ok()?).ok()
}

impl Section {
    fn range(&self) -> Option<Range<usize>> {
        let start = usize::try_from(self.offset).ok()?;
        Some(start..start.checked_add(self.bytes)?)
    }
}

/// A mapped file, with what keeps it in the cache.
struct Mapped {
    content: FileBytes,
    _entry: CachedEntry,
}

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        &self.content
    }
}

#[cfg(test)]
mod tests {
    use tandem_core::LoadOptions;
    use tandem_core::cache::{About, Slot};
    use tandem_core::export::CachedKind;

    use super::*;

    fn values(n: usize, arena: &Arena) -> (Slab<u8>, Slab<f32>) {
        let (mut codes, mut scales) = (arena.zeros(16 * n), arena.zeros(n));
        codes.iter_mut().enumerate().for_each(|(i, code)| *code = (i * i % 251) as u8);
        scales.iter_mut().enumerate().for_each(|(i, scale)| *scale = i as f32);
        (codes, scales)
    }

    /// An entry of the cache with what `write` writes, whatever happens to it afterwards.
    fn entry(cache: &Path, write: impl FnOnce(&Path) -> Result<()>) -> CachedEntry {
        let options = LoadOptions::new();
        let slot = Slot::new(cache, &["key"], FILES, "a test".into(), &options);
        let about = About { kind: CachedKind::Weights, source: "test".into(), dtype: "int4".into() };
        slot.make(&about, 0, true, write).unwrap();
        slot.find().unwrap().unwrap()
    }

    #[test]
    fn what_was_written_is_read_and_mapped() {
        let (cache, arena) = (tempfile::tempdir().unwrap(), Arena::default());
        // More than a piece, less than a page, and nothing.
        let matrices: Vec<_> = [70_000, 3, 0].map(|n| values(n, &arena)).into();
        let write = |directory: &Path| {
            let writer = Writer::new(directory)?;
            for (i, (codes, scales)) in matrices.iter().enumerate() {
                writer.put(i.to_string(), [i, 1], codes, scales);
            }
            writer.finish()
        };
        let whole = entry(cache.path(), write);
        for found in [read(whole.directory(), &arena).unwrap(), map(whole).unwrap()] {
            for (i, (codes, scales)) in matrices.iter().enumerate() {
                let matrix = &found[&i.to_string()];
                assert_eq!((matrix.shape, &*matrix.scales), ([i, 1], &**scales));
                assert!(*matrix.codes == **codes);
            }
        }
        let damaged = |change: &dyn Fn(&Path)| {
            let entry = entry(cache.path(), write);
            change(entry.directory());
            read(entry.directory(), &arena).is_none() && map(entry).is_none()
        };
        let whole = fs::read(entry(cache.path(), write).directory().join(FILES.data)).unwrap();
        for (what, bytes) in [
            ("a bit", [&whole[..99], &[whole[99] ^ 4], &whole[100..]].concat()),
            ("the last byte", whole[..whole.len() - 1].to_vec()),
            ("everything", Vec::new()),
        ] {
            assert!(damaged(&|directory| fs::write(directory.join(FILES.data), &bytes).unwrap()), "{what}");
        }
        for (from, to) in
            [("\"offset\":0", "\"offset\":18446744073709551615"), ("\"bytes\":48", "\"bytes\":9999999999999"), ("{", "")]
        {
            assert!(
                damaged(&|directory| {
                    let index = fs::read_to_string(directory.join(FILES.index)).unwrap();
                    assert!(index.contains(from), "{index}");
                    fs::write(directory.join(FILES.index), index.replacen(from, to, 1)).unwrap();
                }),
                "{to}"
            );
        }
    }

    #[test]
    fn an_index_cannot_ask_for_more_memory_than_its_file_has() {
        let (cache, arena) = (tempfile::tempdir().unwrap(), Arena::default());
        let (codes, scales) = values(70_000, &arena);
        let entry = entry(cache.path(), |directory| {
            let writer = Writer::new(directory)?;
            writer.put("one".into(), [70_000, 1], &codes, &scales);
            writer.finish()
        });
        let path = entry.directory().join(FILES.index);
        let mut index: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let matrices = index["matrices"].as_array_mut().unwrap();
        matrices.extend(vec![matrices[0].clone(); 3]);
        assert!(read(entry.directory(), &arena).is_some());
        fs::write(&path, serde_json::to_vec(&index).unwrap()).unwrap();
        assert!(read(entry.directory(), &arena).is_none(), "all matrices have the same bytes");
    }

    #[test]
    fn failure_to_write_is_said_at_the_end() {
        let (dir, arena) = (tempfile::tempdir().unwrap(), Arena::default());
        let directory = dir.path().join("entry");
        let writer = Writer::new(&directory).unwrap();
        // Reading is all that this file is open for.
        let data = File::open(directory.join(FILES.data)).unwrap();
        writer.0.lock().unwrap().data = BufWriter::new(data);
        let (codes, scales) = values(70_000, &arena);
        for name in ["one", "two"] {
            writer.put(name.into(), [2, 3], &codes, &scales);
        }
        let error = writer.finish().unwrap_err();
        assert!(error.to_string().ends_with("weights.bin`: cannot be written"), "{error}");
        assert!(!directory.join(FILES.index).exists());
    }
}
