//! Checks a library by reading the file: loading it would run its code, and a truncated library kills the process.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use object::read::ReadCache;
use object::{Architecture, BinaryFormat, FileKind, Object, ObjectKind, ObjectSegment};
use tandem_core::{Error, Remedy, Result};

/// The symbol through which all of ONNX Runtime is reached.
const ENTRY_POINT: &[u8] = b"OrtGetApiBase";

/// Checks that `path` is a complete ONNX Runtime library for this machine, without running any of it. Its version is known only once it is
/// loaded.
///
/// # Errors
/// [`Error::EngineLibrary`] says what the file is instead.
pub fn inspect(path: &Path) -> Result<()> {
    // Before it is opened: opening a pipe would wait for a writer.
    let metadata = fs::metadata(path).map_err(|error| unusable(path, "cannot be read", Some(error)))?;
    if !metadata.is_file() {
        let what = if metadata.is_dir() { "is a directory, not a library" } else { "is not a regular file" };
        return Err(unusable(path, what, None));
    }
    if metadata.len() == 0 {
        return Err(unusable(path, "is empty", None));
    }
    let file = File::open(path).map_err(|error| unusable(path, "cannot be read", Some(error)))?;
    let problem = problem_with(file, metadata.len()).map_err(|error| unusable(path, "cannot be read", Some(error)))?;
    problem.map_or(Ok(()), |problem| Err(unusable(path, &problem, None)))
}

/// What is wrong with a file of `length` bytes, as a predicate.
fn problem_with(mut file: File, length: u64) -> io::Result<Option<String>> {
    let mut magic = [0; 4];
    let n_read = file.read(&mut magic)?;
    if magic[..n_read] == *b"MZ\x90\0" {
        return Ok(Some("is a library for Windows".into()));
    }
    let data = ReadCache::new(file);
    match FileKind::parse(&data) {
        // A universal binary with one library per architecture: the loader picks its own.
        Ok(FileKind::MachOFat32 | FileKind::MachOFat64) if cfg!(target_os = "macos") => return Ok(None),
        Ok(FileKind::Elf32 | FileKind::MachO32) => return Ok(Some("is a library for a 32-bit machine".into())),
        Ok(FileKind::Elf64 | FileKind::MachO64) => {}
        Ok(_) | Err(_) => return Ok(Some("is not a library".into())),
    }
    // The headers refer to ranges beyond the end of the file.
    let Ok(object) = object::File::parse(&data) else {
        return Ok(Some("is a truncated or damaged library".into()));
    };
    Ok(problem_with_object(&object, length))
}

fn problem_with_object<'data>(object: &object::File<'data, &'data ReadCache<File>>, length: u64) -> Option<String> {
    let (format, here) = (object.format(), BinaryFormat::native_object());
    if format != here {
        return Some(format!("is a library in the format {format:?}, and this machine needs {here:?}"));
    }
    let (architecture, here) = (name_of(object.architecture()), std::env::consts::ARCH);
    if architecture != here {
        return Some(format!("is a library for `{architecture}`, and this machine is `{here}`"));
    }
    if object.kind() != ObjectKind::Dynamic {
        return Some("is a program or an object file, not a library".into());
    }
    let end = object.segments().map(|segment| segment.file_range()).map(|(start, size)| start.saturating_add(size)).max();
    if end.is_none_or(|end| end > length) {
        return Some("is a truncated or damaged library".into());
    }
    match exports_entry_point(object) {
        Ok(true) => None,
        Ok(false) => Some("is a library, but not ONNX Runtime: it does not export `OrtGetApiBase`".into()),
        Err(_) => Some("is a truncated or damaged library".into()),
    }
}

fn exports_entry_point<'data>(object: &object::File<'data, &'data ReadCache<File>>) -> object::Result<bool> {
    for export in object.exports()? {
        let export = export?;
        let name = export.name();
        // C names carry an underscore in Mach-O.
        if name.name().is_some_and(|name| name.strip_prefix(b"_").unwrap_or(name) == ENTRY_POINT) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The architecture as [`std::env::consts::ARCH`] names it.
fn name_of(architecture: Architecture) -> String {
    match architecture {
        Architecture::X86_64 => "x86_64".into(),
        Architecture::Aarch64 => "aarch64".into(),
        other => format!("{other:?}").to_lowercase(),
    }
}

fn unusable(path: &Path, what: &str, source: Option<io::Error>) -> Error {
    Error::EngineLibrary {
        problem: format!("`{}` {what}", path.display()),
        hint: ["move the file away".into(), Remedy::NameLibrary, Remedy::SetUpLibrary].into(),
        source: source.map(Into::into),
    }
}
