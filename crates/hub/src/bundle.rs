//! Bundles: a model as one file, for machines without a network.
//!
//! A tar archive without compression, which weights would not give in to. Its first member, `tandem-bundle.json`, says which model it is
//! and which files it has, with size and hashes; the others are `files/<name>`. Reading one trusts nothing: names are checked, and
//! each content is verified before it gets its name in the cache.

mod read;
mod write;

use serde::{Deserialize, Serialize};
use tandem_core::{Error, Result};

use crate::cache::Tree;
use crate::content::ContentHash;
use crate::download::Target;
use crate::listing::{ListedFile, Listing};
use crate::names::is_file_name;
use crate::repository::{Commit, Repository, Revision};

const MANIFEST: &str = "tandem-bundle.json";
const FILES: &str = "files/";
const VERSION: u32 = 1;

#[derive(Deserialize, Serialize)]
struct Manifest {
    version: u32,
    repository: String,
    revision: String,
    commit: String,
    files: Vec<FileRow>,
    /// What the commit holds, as in `trees/<commit>.json` of the cache.
    tree: Option<Tree>,
}

#[derive(Deserialize, Serialize)]
struct FileRow {
    name: String,
    bytes: u64,
    /// By what name the hub knows the content.
    hash: String,
}

/// A manifest that was checked.
struct Contents {
    repository: Repository,
    revision: Revision,
    commit: Commit,
    targets: Vec<Target>,
    tree: Option<Listing>,
}

impl Manifest {
    fn check(self, file: &str) -> Result<Contents> {
        let bad = |field: &str, problem: String| Error::bad_field(format!("{file}/{MANIFEST}"), field, problem);
        if self.version != VERSION {
            return Err(bad("version", format!("is {}; this version of Tandem reads {VERSION}", self.version)));
        }
        let of_name = |field: &'static str| move |error: Error| bad(field, error.to_string());
        let target = |row: FileRow| {
            let hash: Option<ContentHash> = row.hash.parse().ok();
            let named = hash.filter(|hash| is_file_name(&row.name) && hash.digits() == row.hash);
            let hash =
                named.ok_or_else(|| bad("files", format!("`{}` has no possible name or hash", row.name.escape_debug())))?;
            Ok(Target { name: row.name, bytes: row.bytes, hash })
        };
        let commit = self.commit.parse().map_err(of_name("commit"))?;
        let targets: Vec<Target> = self.files.into_iter().map(target).collect::<Result<_>>()?;
        let tree = self.tree.and_then(|tree| tree.listing(&commit));
        if let Some(target) = tree.as_ref().and_then(|tree| targets.iter().find(|target| !target.is_in(tree))) {
            return Err(bad("tree", format!("does not list `{}`, which `files` has", target.name.escape_debug())));
        }
        Ok(Contents {
            repository: self.repository.parse().map_err(of_name("repository"))?,
            revision: self.revision.parse().map_err(of_name("revision"))?,
            commit,
            targets,
            tree,
        })
    }
}

impl Contents {
    /// What is in the bundle.
    fn listing(&self) -> Listing {
        let file = |target: &Target| ListedFile {
            name: target.name.clone(),
            bytes: Some(target.bytes),
            hash: Some(target.hash.clone()),
            blob_id: None,
        };
        Listing { commit: self.commit.clone(), files: self.targets.iter().map(file).collect() }
    }
}

impl Target {
    /// Whether `tree` has it, of the same size, and with the same hash where both are of one kind.
    fn is_in(&self, tree: &Listing) -> bool {
        let is_same = |file: &ListedFile| {
            let differs = file.hash.as_ref().is_some_and(|hash| hash.contradicts(&self.hash));
            file.bytes.is_none_or(|bytes| bytes == self.bytes) && !differs
        };
        tree.get(&self.name).is_some_and(is_same)
    }
}
