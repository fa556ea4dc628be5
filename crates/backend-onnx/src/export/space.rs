//! Is there room on the disk? Said before the work, not after.

use std::io;
use std::path::{Path, PathBuf};

use tandem_core::{Error, Result};

/// Free bytes for this user on the disk that `path` is on.
pub(super) fn available(path: &Path) -> io::Result<u64> {
    fs4::available_space(path)
}

/// Asks whether `needed` bytes, and a fiftieth more, fit where `directory` is to be.
///
/// # Errors
/// [`Error::BadFile`] with both figures when they do not. A file system that does not tell is taken to have room.
pub(super) fn check(directory: &Path, needed: u64, available: &dyn Fn(&Path) -> io::Result<u64>) -> Result<()> {
    let needed = needed + needed / 50;
    let Ok(free) = available(&existing(directory)) else { return Ok(()) };
    if needed <= free {
        return Ok(());
    }
    Err(Error::BadFile {
        file: directory.display().to_string(),
        problem: format!("there is not enough room: {} are needed, and {} are free", size(needed), size(free)),
        hint: Some("make room, choose a directory on another disk, or a smaller dtype such as int4".into()),
        source: None,
    })
}

/// The nearest directory above `path`, or itself, that is there.
fn existing(path: &Path) -> PathBuf {
    let found = path.ancestors().find(|ancestor| ancestor.exists());
    found.filter(|found| !found.as_os_str().is_empty()).unwrap_or(Path::new(".")).into()
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{} kB", bytes.div_ceil(1000)),
        1_000_000..1_000_000_000 => format!("{} MB", bytes.div_ceil(1_000_000)),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_said_with_both_figures() {
        let check = |needed, free| check(Path::new("no/such/directory"), needed, &|_| Ok(free));
        assert!(check(1_000_000_000, 1_020_000_000).is_ok());
        let error = check(1_000_000_000, 1_019_999_999).unwrap_err();
        let expected = "`no/such/directory`: there is not enough room: 1.0 GB are needed, and 1.0 GB are free";
        assert_eq!(error.to_string(), expected);
        assert!(error.hint().unwrap().to_string().contains("another disk"));
        let error = check(40_000_000, 999).unwrap_err().to_string();
        assert!(error.ends_with("41 MB are needed, and 1 kB are free"), "{error}");
    }

    #[test]
    fn the_disk_is_that_of_the_nearest_directory_there_is() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(existing(&dir.path().join("a/b")), dir.path());
        assert_eq!(existing(Path::new("no-such-directory-here")), Path::new("."));
        assert!(available(&existing(dir.path())).unwrap() > 0);
    }

    #[test]
    fn a_file_system_that_does_not_tell_is_tried() {
        assert!(check(Path::new("x"), u64::MAX / 2, &|_| Err(io::ErrorKind::Unsupported.into())).is_ok());
    }
}
