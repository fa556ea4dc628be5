//! What a commit holds: each file with size and hash.

use crate::content::ContentHash;
use crate::repository::Commit;

/// The files of one commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listing {
    pub(crate) commit: Commit,
    pub(crate) files: Vec<ListedFile>,
}

/// One of them. What a mirror leaves out is asked for file by file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ListedFile {
    pub(crate) name: String,
    pub(crate) bytes: Option<u64>,
    pub(crate) hash: Option<ContentHash>,
    /// Its name in git; for a large file that of the pointer to it.
    pub(crate) blob_id: Option<String>,
}

impl Listing {
    /// What is known of the file `name`.
    pub(crate) fn get(&self, name: &str) -> Option<&ListedFile> {
        self.files.iter().find(|file| file.name == name)
    }

    pub(crate) fn names(&self) -> Vec<&str> {
        self.files.iter().map(|file| file.name.as_str()).collect()
    }
}
