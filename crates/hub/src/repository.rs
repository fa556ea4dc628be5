//! What a repository, a revision and a commit of the hub may be called, and references to them: `owner/name[:variant][@revision]`.

use std::fmt;
use std::str::FromStr;

use tandem_core::{Error, Result};

/// A model's repository on the hub.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Repository {
    id: String,
}

/// A branch, a tag, or a commit.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Revision(String);

/// A commit: 40 hexadecimal digits, or 64.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Commit(String);

/// One of several GGUF files of a repository: its name, or the end of it that says how its weights are stored, such as `Q4_K_M`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Variant(String);

/// `owner/name[:variant][@revision]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HubReference {
    /// The repository.
    pub repository: Repository,
    /// Which of its GGUF files; `None` leaves it to the dtype, and is all there is for a checkpoint and for graphs.
    pub variant: Option<Variant>,
    /// The revision; `main` when none is named.
    pub revision: Revision,
}

impl Repository {
    /// `owner/name`.
    pub fn id(&self) -> &str {
        &self.id
    }
}

impl Revision {
    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The commit, when it is one.
    pub fn as_commit(&self) -> Option<Commit> {
        self.0.parse().ok()
    }
}

impl Variant {
    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Commit {
    /// Its digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Revision {
    fn default() -> Self {
        Self("main".into())
    }
}

impl From<Commit> for Revision {
    fn from(commit: Commit) -> Self {
        Self(commit.0)
    }
}

impl FromStr for Repository {
    type Err = Error;

    /// Reads `owner/name`; what each may be is the rule of `huggingface_hub.utils.validate_repo_id`.
    fn from_str(id: &str) -> Result<Self> {
        let bad = |problem: &str| Error::invalid_option("repository", id, problem);
        let (owner, name) = id.split_once('/').ok_or_else(|| bad("is not of the form `owner/name`"))?;
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        for part in [owner, name] {
            if part.is_empty() || !part.chars().all(is_allowed) {
                return Err(bad("is not of the form `owner/name`, with letters, digits, `-`, `_` and `.`"));
            }
            if part.starts_with(['-', '.']) || part.ends_with(['-', '.']) || part.contains("--") || part.contains("..") {
                return Err(bad("begins or ends with `-` or `.`, or has two of them in a row"));
            }
        }
        if id.len() > 96 || name.ends_with(".git") {
            return Err(bad("is longer than 96 characters or ends in `.git`"));
        }
        Ok(Self { id: id.into() })
    }
}

impl FromStr for Revision {
    type Err = Error;

    /// Reads a name that git allows for a branch or tag, without its more exotic characters.
    fn from_str(text: &str) -> Result<Self> {
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | '+');
        let is_part = |part: &str| !part.is_empty() && !part.starts_with(['.', '-']) && !part.ends_with('.');
        let fine = text.len() <= 255 && text.chars().all(is_allowed) && text.split('/').all(is_part) && !text.contains("..");
        if fine { Ok(Self(text.into())) } else { Err(Error::invalid_option("revision", text, "is not a branch, tag or commit")) }
    }
}

impl FromStr for Variant {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let fine = (1..=255).contains(&text.len()) && text.chars().all(is_allowed) && !text.starts_with(['.', '-']);
        if fine { Ok(Self(text.into())) } else { Err(Error::invalid_option("variant", text, "is not the name of a GGUF file")) }
    }
}

impl FromStr for Commit {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let is_hex = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        match text.len() {
            40 | 64 if is_hex => Ok(Self(text.into())),
            _ => Err(Error::invalid_option("commit", text, "is not 40 hexadecimal digits")),
        }
    }
}

impl FromStr for HubReference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (named, revision) = match text.split_once('@') {
            Some((named, revision)) => (named, revision.parse()?),
            None => (text, Revision::default()),
        };
        let (repository, variant) = match named.split_once(':') {
            Some((repository, variant)) => (repository, Some(variant.parse()?)),
            None => (named, None),
        };
        Ok(Self { repository: repository.parse()?, variant, revision })
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for HubReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.repository)?;
        if let Some(variant) = &self.variant {
            write!(f, ":{variant}")?;
        }
        if self.revision != Revision::default() {
            write!(f, "@{}", self.revision)?;
        }
        Ok(())
    }
}

impl From<Repository> for HubReference {
    fn from(repository: Repository) -> Self {
        Self { repository, variant: None, revision: Revision::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_read_and_written() {
        for text in [
            "Qwen/Qwen2.5-0.5B",
            "a/b@v1.0",
            "a_b/c.d-e@refs/pr/7",
            "a/b@0123456789012345678901234567890123456789",
            "a/b:Q4_K_M",
            "a/b:x-1.gguf@v1",
        ] {
            assert_eq!(text.parse::<HubReference>().unwrap().to_string(), text);
        }
        assert_eq!("a/b@main".parse::<HubReference>().unwrap().to_string(), "a/b");
        assert_eq!("a/b".parse::<HubReference>().unwrap().revision.as_str(), "main");
    }

    #[test]
    fn what_could_leave_the_cache_is_no_reference() {
        for text in [
            "demo", "a/b/c", "/a", "a/", "../a", "a/..", "a--b/c", "a/b.git", "~/a", "./a", "a/b@", "a/b@../x", "a/b@/x",
            "a/b@x//y", "a/b@-x", "a/b@x/.y", "a b/c", "a/b\0", "a/b@x\0", "a/b:", "a/b:x/y", "a/b:../x", "a:b/c", "a/b:x:y",
            "a/b:x\0", "a\\b/c", "C:/b", "a/b@x:y",
        ] {
            assert!(text.parse::<HubReference>().is_err(), "{text}");
        }
        assert!(format!("a/{}", "b".repeat(4096)).parse::<HubReference>().is_err());
    }

    #[test]
    fn commits_are_digits() {
        assert!("0123456789abcdef0123456789abcdef01234567".parse::<Commit>().is_ok());
        for bad in ["main", "0123456789abcdef0123456789abcdef0123456", "../../../89abcdef0123456789abcdef0123456", ""] {
            assert!(bad.parse::<Commit>().is_err(), "{bad}");
        }
    }
}
