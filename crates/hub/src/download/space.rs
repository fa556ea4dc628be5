//! Is there room on the disk? Said before the download, not after.

use std::io;
use std::path::{Path, PathBuf};

use tandem_core::{Error, Result};

/// Asks whether `needed` bytes, and a fiftieth more, fit where `directory` is or is to be.
///
/// # Errors
/// [`Error::BadFile`] with both figures when they do not. A file system that does not tell is taken to have room.
pub(crate) fn check(directory: &Path, needed: u64) -> Result<()> {
    check_against(directory, needed, &|path| fs4::available_space(path))
}

fn check_against(directory: &Path, needed: u64, available: &dyn Fn(&Path) -> io::Result<u64>) -> Result<()> {
    let needed = needed.saturating_add(needed / 50);
    let Ok(free) = available(&existing(directory)) else { return Ok(()) };
    if needed <= free {
        return Ok(());
    }
    Err(Error::BadFile {
        file: directory.display().to_string(),
        problem: format!("there is not enough room: {} MB are needed, and {} MB are free", megabytes(needed), free / 1_000_000),
        hint: Some("make room (`tandem list`, `tandem rm`), or set `HF_HUB_CACHE` to a directory on another disk".into()),
        source: None,
    })
}

/// The nearest directory above `path`, or itself, that is there.
fn existing(path: &Path) -> PathBuf {
    let found = path.ancestors().find(|ancestor| ancestor.exists());
    found.filter(|found| !found.as_os_str().is_empty()).unwrap_or(Path::new(".")).into()
}

fn megabytes(bytes: u64) -> u64 {
    bytes.div_ceil(1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_said_with_both_figures() {
        let check = |needed, free| check_against(Path::new("no/such/cache"), needed, &|_| Ok(free));
        assert!(check(1_000_000_000, 1_020_000_000).is_ok());
        let error = check(1_000_000_000, 1_019_999_999).unwrap_err();
        let expected = "`no/such/cache`: there is not enough room: 1020 MB are needed, and 1019 MB are free";
        assert_eq!(error.to_string(), expected);
        assert!(error.hint().unwrap().to_string().contains("another disk"));
        assert!(check(u64::MAX, u64::MAX - 1).is_err());
    }

    #[test]
    fn a_file_system_that_does_not_tell_is_tried() {
        assert!(check_against(Path::new("x"), u64::MAX / 2, &|_| Err(io::ErrorKind::Unsupported.into())).is_ok());
    }
}
