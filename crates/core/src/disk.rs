//! Is there room on the disk? Said before the work, not after.

use std::io;
use std::path::Path;

use crate::error::{Error, Result};
use crate::remedy::Remedies;
use crate::size::Size;

/// Free bytes for this user on the disk where `path` is or is to be.
///
/// # Errors
/// When the system does not say.
pub fn free(path: &Path) -> io::Result<u64> {
    let found = path.ancestors().find(|ancestor| ancestor.exists());
    fs4::available_space(found.filter(|found| !found.as_os_str().is_empty()).unwrap_or(Path::new(".")))
}

/// Asks whether `needed` bytes, and a fiftieth more, fit where `directory` is or is to be, of which `free` says what is there
/// ([`free`], but for tests); `hint` is what to do when they do not.
///
/// # Errors
/// [`Error::BadFile`] with what is needed and what is missing when they do not. A file system that does not tell is taken to have room.
pub fn check(directory: &Path, needed: u64, free: &dyn Fn(&Path) -> io::Result<u64>, hint: impl Into<Remedies>) -> Result<()> {
    let needed = needed.saturating_add(needed / 50);
    let Ok(free) = free(directory) else { return Ok(()) };
    if needed <= free {
        return Ok(());
    }
    Err(Error::BadFile {
        file: directory.display().to_string(),
        problem: format!("there is not enough room: {} are needed, {} more than are free", Size(needed), Size(needed - free)),
        hint: Some(hint.into()),
        source: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_with_what_is_missing() {
        let check = |needed, free| check(Path::new("no/such/cache"), needed, &|_| Ok(free), "use another disk");
        assert!(check(1_000_000_000, 1_020_000_000).is_ok());
        let error = check(1_000_000_000, 1_019_990_000).unwrap_err();
        let expected = "`no/such/cache`: there is not enough room: 1.0 GB are needed, 10 kB more than are free";
        assert_eq!(
            (error.to_string().as_str(), error.hint().map(|hint| hint.to_string()).as_deref()),
            (expected, Some("use another disk"))
        );
        assert!(check(40_000_000, 999).unwrap_err().to_string().ends_with("41 MB are needed, 41 MB more than are free"));
        assert!(check(u64::MAX, u64::MAX - 1).is_err());
    }

    #[test]
    fn a_file_system_that_does_not_tell_is_tried() {
        assert!(check(Path::new("x"), u64::MAX / 2, &|_| Err(io::ErrorKind::Unsupported.into()), "").is_ok());
    }

    #[test]
    fn the_disk_is_that_of_the_nearest_directory_there_is() {
        let dir = tempfile::tempdir().unwrap();
        assert!(free(&dir.path().join("not/yet")).unwrap() > 0);
        assert!(free(Path::new("no-such-directory-here")).unwrap() > 0);
    }
}
