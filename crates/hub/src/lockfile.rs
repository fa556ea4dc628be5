//! `tandem.lock`: the commit of each model and the SHA-256 of each file, so that another machine or another day has the same bytes.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use tandem_core::{CancelToken, Error, Progress, ProgressEvent, Remedy, Result};

use crate::cache::read_short;
use crate::content::ContentHash;
use crate::failure::cannot;
use crate::listing::Listing;
use crate::names::is_file_name;
use crate::pulled::{Pulled, PulledFile};
use crate::repository::{Commit, Repository, Revision};

const VERSION: u32 = 1;

/// The largest that is read.
const MAX_BYTES: u64 = 4 << 20;

/// What a lock file holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LockFile {
    /// The models, by name.
    pub models: Vec<LockedModel>,
}

/// One model, fixed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockedModel {
    /// The repository.
    pub repository: Repository,
    /// The revision that was asked for.
    pub revision: Revision,
    /// The commit that it was.
    pub commit: Commit,
    /// Its files, by name.
    pub files: Vec<LockedFile>,
}

/// One file, fixed.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct LockedFile {
    /// Its name in the repository.
    pub name: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// Its SHA-256.
    pub sha256: String,
}

#[derive(Deserialize, Serialize)]
struct Document {
    version: u32,
    #[serde(default)]
    model: Vec<ModelTable>,
}

#[derive(Deserialize, Serialize)]
struct ModelTable {
    repository: String,
    revision: String,
    commit: String,
    file: Vec<LockedFile>,
}

impl LockFile {
    /// Reads the file at `path`; `None` when there is none.
    ///
    /// # Errors
    /// [`Error::BadFile`] and [`Error::BadField`] name what is wrong with it.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        let text = match read_short(path, MAX_BYTES) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(|error| cannot("be read", path, error))?,
        };
        Self::parse(&text, &path.display().to_string()).map(Some)
    }

    /// The model `repository`.
    pub fn get(&self, repository: &Repository) -> Option<&LockedModel> {
        self.models.iter().find(|model| model.repository == *repository)
    }

    /// The model `repository`, when it is locked with exactly the commit and the files of `listing`, as far as those can be compared.
    pub(crate) fn expect(&self, repository: &Repository, listing: &Listing) -> Result<&LockedModel> {
        let locked = self.get(repository).filter(|locked| locked.commit == listing.commit);
        let locked = locked.ok_or_else(|| Error::BadField {
            file: repository.to_string(),
            field: "commit".into(),
            problem: format!("`{}` is not what the lock file has", listing.commit),
            hint: Some(["bring what was locked".into(), Remedy::LockModels].into()),
        })?;
        let names = locked.names(listing)?;
        match listing.files.iter().find(|file| !names.contains(&file.name)) {
            Some(file) => Err(locked.differs(&file.name, "is not in the lock file")),
            None => Ok(locked),
        }
    }

    /// Puts `model` in, in the place of what was there of its repository.
    pub fn insert(&mut self, model: LockedModel) {
        self.models.retain(|other| other.repository != model.repository);
        self.models.push(model);
        self.models.sort_by(|a, b| a.repository.cmp(&b.repository));
    }

    /// Writes it to `path`, whole.
    ///
    /// # Errors
    /// [`Error::BadFile`] when that cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let written = crate::cache::write_whole(path, self.to_text().as_bytes(), directory);
        written.map_err(|error| cannot("be written", path, error))
    }

    fn to_text(&self) -> String {
        let table = |model: &LockedModel| ModelTable {
            repository: model.repository.to_string(),
            revision: model.revision.to_string(),
            commit: model.commit.to_string(),
            file: model.files.clone(),
        };
        let document = Document { version: VERSION, model: self.models.iter().map(table).collect() };
        let text = toml::to_string(&document).expect("tables of texts and numbers are TOML");
        format!("# Written by Tandem: the models that were locked, with commit and hash of each file.\n{text}")
    }

    fn parse(text: &str, file: &str) -> Result<Self> {
        let document: Document = toml::from_str(text).map_err(|error| Error::bad_file(file, "is not a lock file", error))?;
        if document.version != VERSION {
            return Err(Error::bad_field(
                file,
                "version",
                format!("is {}; this version of Tandem reads {VERSION}", document.version),
            ));
        }
        let model = |table: ModelTable| {
            let field = |name: &str| format!("model.{}.{name}", table.repository);
            if let Some(bad) = table.file.iter().find(|file| !file.is_possible()) {
                return Err(Error::bad_field(
                    file,
                    field("file"),
                    format!("`{}` has no possible name or hash", bad.name.escape_debug()),
                ));
            }
            Ok(LockedModel {
                repository: table.repository.parse().map_err(|error: Error| error_in(file, field("repository"), &error))?,
                revision: table.revision.parse().map_err(|error: Error| error_in(file, field("revision"), &error))?,
                commit: table.commit.parse().map_err(|error: Error| error_in(file, field("commit"), &error))?,
                files: table.file.clone(),
            })
        };
        Ok(Self { models: document.model.into_iter().map(model).collect::<Result<_>>()? })
    }
}

impl LockedModel {
    /// What was pulled as `revision`, with the SHA-256 of each file. Those of small files are computed.
    ///
    /// # Errors
    /// [`Error::BadFile`] when a file cannot be read, and [`Error::Cancelled`].
    pub fn of(pulled: &Pulled, revision: &Revision, progress: &Progress, cancel: &CancelToken) -> Result<Self> {
        let lock = |file: &PulledFile| {
            let sha256 = match &file.hash {
                Some(ContentHash::Sha256(digits)) => digits.clone(),
                _ => sha256(file, progress, cancel)?,
            };
            Ok(LockedFile { name: file.name.clone(), bytes: file.bytes, sha256 })
        };
        let mut files: Vec<LockedFile> = pulled.files.iter().map(lock).collect::<Result<_>>()?;
        files.sort_by(|a, b| a.name.cmp(&b.name));
        let (repository, commit) = (pulled.repository.clone(), pulled.snapshot.commit.clone());
        Ok(Self { repository, revision: revision.clone(), commit, files })
    }

    /// The names of the files, when `listing` has each as it is here.
    pub(crate) fn names(&self, listing: &Listing) -> Result<Vec<String>> {
        if listing.commit != self.commit {
            return Err(
                self.differs("commit", &format!("is `{}` on the hub, and `{}` in the lock file", listing.commit, self.commit))
            );
        }
        for file in &self.files {
            let listed = listing.get(&file.name).ok_or_else(|| self.differs(&file.name, "is not in the repository"))?;
            if let Some(bytes) = listed.bytes.filter(|bytes| *bytes != file.bytes) {
                return Err(self.differs(&file.name, &format!("has {bytes} bytes, and {} in the lock file", file.bytes)));
            }
            if let Some(ContentHash::Sha256(digits)) = listed.hash.as_ref().filter(|hash| self.contradicts(file, hash)) {
                return Err(
                    self.differs(&file.name, &format!("has the SHA-256 `{digits}`, and `{}` in the lock file", file.sha256))
                );
            }
        }
        Ok(self.files.iter().map(|file| file.name.clone()).collect())
    }

    /// Whether `files` are what is locked, each byte of them.
    pub(crate) fn check(&self, files: &[PulledFile], progress: &Progress, cancel: &CancelToken) -> Result<()> {
        for locked in &self.files {
            let file = files.iter().find(|file| file.name == locked.name);
            let file = file.ok_or_else(|| self.differs(&locked.name, "is not there"))?;
            let found = sha256(file, progress, cancel)?;
            if found != locked.sha256 {
                let problem = format!("has the SHA-256 `{found}`, and `{}` in the lock file", locked.sha256);
                return Err(self.differs(&locked.name, &problem));
            }
        }
        Ok(())
    }

    fn contradicts(&self, file: &LockedFile, listed: &ContentHash) -> bool {
        matches!(listed, ContentHash::Sha256(digits) if *digits != file.sha256)
    }

    fn differs(&self, field: &str, problem: &str) -> Error {
        Error::BadField {
            file: self.repository.to_string(),
            field: field.into(),
            problem: problem.into(),
            hint: Some(["find out why it is not what was locked".into(), Remedy::LockModels].into()),
        }
    }
}

impl LockedFile {
    fn is_possible(&self) -> bool {
        is_file_name(&self.name) && matches!(self.sha256.parse(), Ok(ContentHash::Sha256(digits)) if digits == self.sha256)
    }
}

fn sha256(file: &PulledFile, progress: &Progress, cancel: &CancelToken) -> Result<String> {
    let tell = |done| progress.tell(&ProgressEvent::Hashing { file: &file.name, done, total: file.bytes });
    let any = ContentHash::Sha256(String::new());
    let hashes = any.hash_file(&file.path, cancel, &tell).map_err(|error| cannot("be read", &file.path, error))?;
    hashes.map(|hashes| hashes.sha256).ok_or(Error::Cancelled)
}

fn error_in(file: &str, field: String, error: &Error) -> Error {
    match error {
        Error::InvalidOption { value, problem, .. } => {
            Error::bad_field(file, field, format!("`{}` {problem}", value.escape_debug()))
        }
        other => Error::bad_field(file, field, other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock_file() -> LockFile {
        let file = LockedFile { name: "config.json".into(), bytes: 5, sha256: "ab".repeat(32) };
        let model = LockedModel {
            repository: "owner/name".parse().unwrap(),
            revision: Revision::default(),
            commit: "0123456789".repeat(4).parse().unwrap(),
            files: vec![file],
        };
        LockFile { models: vec![model] }
    }

    #[test]
    fn what_is_written_is_read() {
        let lock = lock_file();
        let text = lock.to_text();
        assert_eq!(LockFile::parse(&text, "tandem.lock").unwrap(), lock);
        assert!(text.contains("[[model.file]]\nname = \"config.json\"\nbytes = 5\n"), "{text}");
    }

    #[test]
    fn a_repository_is_locked_once() {
        let mut lock = lock_file();
        let mut other = lock.models[0].clone();
        other.commit = "9".repeat(40).parse().unwrap();
        lock.insert(other.clone());
        assert_eq!(lock.models, [other]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let text = lock_file().to_text();
        let check = |from: &str, to: &str, expected: &str| {
            let error = LockFile::parse(&text.replace(from, to), "tandem.lock").unwrap_err().to_string();
            assert!(error.starts_with("`tandem.lock`: ") && error.contains(expected), "{error}");
        };
        check("version = 1", "version = 2", "field `version`: is 2");
        check("config.json", "../config.json", "`../config.json` has no possible name");
        check("abab", "", "no possible name or hash");
        check("owner/name", "../name", "`../name` begins or ends with");
        check("commit = \"0", "commit = \"main", "is not 40 hexadecimal digits");
        check("version = 1", "", "is not a lock file");
    }
}
