//! A cache of its own, a hub of its own, and what must be true of a cache whatever happened.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha1::{Digest, Sha1};
use sha2::Sha256;
use tandem_core::Result;
use tandem_hub::{FileSelector, Hub, HubReference, HubSettings, PullOptions, Pulled, Token};
use tempfile::TempDir;

use crate::server::{COMMIT, FakeHub};

pub(crate) const WEIGHTS: &str = "model.safetensors";

/// A secret that no message may have.
pub(crate) const SECRET: &str = "hf_ThisIsTheSecret";

pub(crate) struct Place {
    pub(crate) dir: TempDir,
    pub(crate) hub: FakeHub,
}

/// Bytes that look like weights: the same for the same seed.
pub(crate) fn random(n_bytes: usize, seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| random.u8(..)).take(n_bytes).collect()
}

/// A checkpoint with weights of `n_bytes`.
pub(crate) fn checkpoint(n_bytes: usize) -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("config.json", br#"{"model_type": "qwen2"}"#.to_vec()),
        ("tokenizer.json", random(20_000, 1)),
        ("README.md", b"nobody wants it".to_vec()),
        ("pytorch_model.bin", b"nobody wants it".to_vec()),
        (WEIGHTS, random(n_bytes, 2)),
    ]
}

pub(crate) fn reference() -> HubReference {
    "owner/name".parse().unwrap()
}

pub(crate) fn wanted() -> FileSelector {
    FileSelector::new(|listing| Ok([listing.small()?, listing.checkpoint()?].concat()))
}

impl Place {
    /// With weights of 300 kB.
    pub(crate) fn new() -> Self {
        Self::with(&checkpoint(300_000))
    }

    pub(crate) fn with(files: &[(&str, Vec<u8>)]) -> Self {
        Self { dir: tempfile::tempdir().unwrap(), hub: FakeHub::start(files) }
    }

    pub(crate) fn cache(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    pub(crate) fn settings(&self) -> HubSettings {
        HubSettings {
            silence: Duration::from_millis(700),
            first_wait: Duration::from_millis(1),
            longest_wait: Duration::from_secs(5),
            attempts: 4,
            token: Some(Token::new(SECRET, "the test").unwrap()),
            ..HubSettings::new(self.hub.endpoint(), self.cache())
        }
    }

    pub(crate) fn pull(&self) -> Result<Pulled> {
        Hub::new(self.settings()).pull(&reference(), &PullOptions::new(wanted()))
    }

    /// Pulls, which must succeed, and compares every file.
    #[track_caller]
    pub(crate) fn pulls(&self) -> Pulled {
        let pulled = self.pull().unwrap_or_else(|error| panic!("{error}: {error:?}"));
        self.check_cache();
        for (name, bytes) in checkpoint(usize::try_from(self.size_of(&pulled)).unwrap()) {
            let is_wanted = pulled.files.iter().any(|file| file.name == name);
            assert_eq!(is_wanted, !matches!(name, "README.md" | "pytorch_model.bin"), "{name}");
            if is_wanted {
                assert!(fs::read(self.snapshot().join(name)).unwrap() == bytes, "{name} differs");
            }
        }
        pulled
    }

    /// Pulls, which must fail with a message that has all `parts`; nothing wrong is visible then.
    #[track_caller]
    pub(crate) fn fails(&self, parts: &[&str]) {
        let error = self.pull().unwrap_err();
        let sources = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source());
        let text = sources.map(ToString::to_string).collect::<Vec<_>>().join("; ")
            + "\nhint: "
            + &error.hint().unwrap_or_default().to_string();
        for part in parts {
            assert!(text.contains(part), "`{part}` is not in: {text}");
        }
        for secret in [SECRET, "s3cr3t"] {
            assert!(!text.contains(secret) && !format!("{error:?}").contains(secret), "{text} {error:?}");
        }
        self.check_cache();
    }

    pub(crate) fn repository(&self) -> PathBuf {
        self.cache().join("models--owner--name")
    }

    pub(crate) fn snapshot(&self) -> PathBuf {
        self.repository().join("snapshots").join(COMMIT)
    }

    /// The download of the weights that is not whole.
    pub(crate) fn partial(&self) -> PathBuf {
        self.repository().join("blobs").join(format!("{:x}.incomplete", Sha256::digest(self.weights())))
    }

    pub(crate) fn weights(&self) -> Vec<u8> {
        random(300_000, 2)
    }

    /// Leaves `bytes` as an earlier download.
    pub(crate) fn leave_partial(&self, bytes: &[u8]) {
        fs::create_dir_all(self.repository().join("blobs")).unwrap();
        fs::write(self.partial(), bytes).unwrap();
    }

    /// Whatever has its final name has the content that the name says, and nothing lies outside the cache.
    #[track_caller]
    pub(crate) fn check_cache(&self) {
        let beside: Vec<_> = fs::read_dir(self.dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(beside.iter().all(|name| name == "cache" || name == "home"), "{beside:?}");
        for (path, bytes) in files_below(&self.cache()) {
            let name = path.file_name().unwrap().to_str().unwrap();
            if !path.parent().unwrap().ends_with("blobs") || name.ends_with(".incomplete") {
                continue;
            }
            let found = match name.len() {
                64 => format!("{:x}", Sha256::digest(&bytes)),
                _ => format!("{:x}", Sha1::new_with_prefix(format!("blob {}\0", bytes.len())).chain_update(&bytes).finalize()),
            };
            assert_eq!(found, name, "a wrong byte is visible");
        }
    }

    fn size_of(&self, pulled: &Pulled) -> u64 {
        pulled.files.iter().find(|file| file.name == WEIGHTS).unwrap().bytes
    }
}

/// Every regular file below `directory`.
pub(crate) fn files_below(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            found.extend(files_below(&entry.path()));
        } else if kind.is_file() {
            found.insert(entry.path(), fs::read(entry.path()).unwrap());
        }
    }
    found
}
