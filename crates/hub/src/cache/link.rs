//! From a name in a snapshot to the content in `blobs`.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

/// Makes `pointer` a link to `blob`, in the place of what is there. Where there are no symbolic links it is a second name of the
/// content, or a copy, which Python's library takes as well. `work` is a directory on the same disk that nobody looks into.
pub(super) fn link(blob: &Path, pointer: &Path, work: &Path) -> io::Result<()> {
    let directory = pointer.parent().unwrap_or(Path::new("."));
    let target = relative(blob, directory);
    if fs::read_link(pointer).is_ok_and(|found| found == target) && pointer.exists() {
        return Ok(());
    }
    fs::create_dir_all(directory)?;
    // Made under another name first: whoever reads sees the old one or the new one.
    let place = tempfile::Builder::new().prefix(".tandem-").tempdir_in(work)?;
    let made = place.path().join("link");
    symlink(&target, &made).or_else(|_| fs::hard_link(blob, &made)).or_else(|_| fs::copy(blob, &made).map(drop))?;
    fs::rename(made, pointer)
}

#[cfg(unix)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

/// It takes a privilege on Windows.
#[cfg(not(unix))]
fn symlink(_target: &Path, _link: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// `path` as seen from `directory`; both lie below the same root.
fn relative(path: &Path, directory: &Path) -> PathBuf {
    let (path, directory): (Vec<Component<'_>>, Vec<_>) = (path.components().collect(), directory.components().collect());
    let n_same = path.iter().zip(&directory).take_while(|(a, b)| a == b).count();
    let up = directory[n_same..].iter().map(|_| Component::ParentDir);
    up.chain(path[n_same..].iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_relative_so_that_a_cache_can_be_moved() {
        let check = |path: &str, from: &str, expected: &str| {
            assert_eq!(relative(Path::new(path), Path::new(from)), Path::new(expected));
        };
        check("/c/m/blobs/1", "/c/m/snapshots/2", "../../blobs/1");
        check("/c/m/blobs/1", "/c/m/snapshots/2/onnx", "../../../blobs/1");
        check("c/m/blobs/1", "c/m/snapshots/2", "../../blobs/1");
    }

    #[test]
    fn a_link_takes_the_place_of_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("blobs")).unwrap();
        for (blob, text) in [("blobs/1", "one"), ("blobs/2", "two")] {
            fs::write(at(blob), text).unwrap();
            link(&at(blob), &at("snapshots/c/onnx/model"), dir.path()).unwrap();
            link(&at(blob), &at("snapshots/c/onnx/model"), dir.path()).unwrap();
            assert_eq!(fs::read_to_string(at("snapshots/c/onnx/model")).unwrap(), text);
        }
        assert_eq!(fs::read_dir(at("snapshots/c/onnx")).unwrap().count(), 1);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
