//! `trees/<commit>.json`: what a commit holds, kept beside what was downloaded of it.
//!
//! Written and read by `huggingface_hub` from version 2 on (`_tree_cache.py`). A commit never changes, so neither does this.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tandem_core::Result;

use super::{CachedRepository, read_short, write_whole};
use crate::content::ContentHash;
use crate::failure::cannot;
use crate::listing::{ListedFile, Listing};
use crate::names::is_file_name;
use crate::repository::Commit;

const VERSION: u64 = 1;

/// The largest that is read.
const MAX_BYTES: u64 = 64 << 20;

/// The content of the file.
#[derive(Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Tree {
    format_version: u64,
    files: BTreeMap<String, Entry>,
}

#[derive(Debug, Deserialize, PartialEq, Serialize)]
struct Entry {
    size: u64,
    blob_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    lfs_sha256: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lfs_size: Option<u64>,
    /// The content in Xet storage, which is not used here; what Python wrote stays as it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    xet_hash: Option<String>,
}

impl CachedRepository {
    /// What `commit` holds; `None` when that is not known.
    pub(crate) fn tree(&self, commit: &Commit) -> Option<Listing> {
        let file = self.tree_file(commit);
        let tree: Tree = serde_json::from_str(&read_short(&file, MAX_BYTES).ok()?).ok()?;
        tree.listing(commit)
    }

    /// Remembers `listing`, in the place of another one. One that lacks sizes or hashes is not remembered.
    pub(crate) fn remember_tree(&self, listing: &Listing) -> Result<()> {
        let file = self.tree_file(&listing.commit);
        let Some(tree) = Tree::new(listing) else { return Ok(()) };
        // What is the same stays as it is: Python's file says more.
        if self.tree(&listing.commit).is_some_and(|known| Tree::new(&known).is_some_and(|known| known == tree)) {
            return Ok(());
        }
        let text = serde_json::to_vec_pretty(&tree).unwrap_or_default();
        write_whole(&file, &text, &self.directory()).map_err(|error| cannot("be written", &file, error))
    }

    fn tree_file(&self, commit: &Commit) -> PathBuf {
        self.directory().join("trees").join(format!("{commit}.json"))
    }
}

impl Tree {
    pub(crate) fn new(listing: &Listing) -> Option<Self> {
        let files = listing.files.iter().map(|file| Some((file.name.clone(), Entry::new(file)?)));
        Some(Self { format_version: VERSION, files: files.collect::<Option<_>>()? })
    }

    pub(crate) fn listing(self, commit: &Commit) -> Option<Listing> {
        let files = self.files.into_iter().filter(|(name, _)| is_file_name(name));
        let listing = Listing { commit: commit.clone(), files: files.map(|(name, entry)| entry.listed(name)).collect() };
        (self.format_version == VERSION).then_some(listing)
    }
}

impl Entry {
    fn new(file: &ListedFile) -> Option<Self> {
        let (size, blob_id) = (file.bytes?, file.blob_id.clone()?);
        let lfs_sha256 = match file.hash.as_ref()? {
            ContentHash::Sha256(digits) => Some(digits.clone()),
            ContentHash::GitSha1(_) => None,
        };
        Some(Self { size, blob_id, lfs_size: lfs_sha256.is_some().then_some(size), lfs_sha256, xet_hash: None })
    }

    fn listed(self, name: String) -> ListedFile {
        let hash = self.lfs_sha256.as_ref().unwrap_or(&self.blob_id).parse().ok();
        ListedFile { name, bytes: Some(self.lfs_size.unwrap_or(self.size)), hash, blob_id: Some(self.blob_id) }
    }
}
