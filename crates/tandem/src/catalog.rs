//! The models that are known by name: data, not code. The list is `catalog/builtin.toml`; a user's own entries have the same form.

mod entry;

use std::io;

use serde::Deserialize;
use tandem_core::files::{did_you_mean, near_names};
use tandem_core::{Error, Result, paths};

pub use self::entry::{CatalogEntry, Kind};

/// The list that is part of the program.
const BUILTIN: &str = include_str!("catalog/builtin.toml");

/// Entries by name, in the order of the list; a user's own come first.
#[derive(Clone, Debug, PartialEq)]
pub struct Catalog {
    entries: Vec<CatalogEntry>,
}

/// A file of entries.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    model: Vec<CatalogEntry>,
}

impl Catalog {
    /// The entries that are part of the program.
    pub fn builtin() -> Self {
        let list: List = toml::from_str(BUILTIN).expect("the list is checked by a test of this file");
        Self { entries: list.model }
    }

    /// The program's entries with those that the user's own `tandem.toml` adds, as `[[model]]`.
    ///
    /// # Errors
    /// [`Error::BadFile`] and [`Error::BadField`] for a file or an entry that cannot be.
    pub fn of_user() -> Result<Self> {
        let Some(file) = paths::config_dir().map(|dir| dir.join("tandem.toml")) else { return Ok(Self::builtin()) };
        let name = file.to_string_lossy();
        match std::fs::read_to_string(&file) {
            Ok(text) => Self::builtin().with_toml(&text, &name),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(Self::builtin()),
            Err(error) => Err(Error::bad_file(name, "cannot be read", error)),
        }
    }

    /// Adds the entries of `text`, TOML with tables `[[model]]`, which may have other keys; `file` is its name in messages.
    ///
    /// # Errors
    /// As [`of_user`](Self::of_user).
    pub fn with_toml(self, text: &str, file: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Own {
            #[serde(default)]
            model: Vec<CatalogEntry>,
        }
        let first_line = |error: &toml::de::Error| error.message().lines().next().unwrap_or_default().to_owned();
        let table: toml::Table = text.parse().map_err(|error| Error::bad_file(file, "is not valid TOML", error))?;
        let own = Own::deserialize(table).map_err(|error| Error::bad_field(file, "model", first_line(&error)))?;
        self.with_own(own.model, file)
    }

    /// Puts a user's `own` entries before the others; one takes the place of another of its name. `file` is where they stand, for
    /// messages.
    ///
    /// # Errors
    /// [`Error::BadField`] for an entry that cannot be, or a name that stands twice.
    pub fn with_own(mut self, own: Vec<CatalogEntry>, file: &str) -> Result<Self> {
        for (i, entry) in own.iter().enumerate() {
            entry.check(file)?;
            if own[..i].iter().any(|earlier| earlier.name == entry.name) {
                return Err(Error::bad_field(file, "model.name", format!("`{}` stands there twice", entry.name)));
            }
        }
        self.entries.retain(|entry| own.iter().all(|own| own.name != entry.name));
        self.entries.splice(0..0, own);
        Ok(self)
    }

    /// All entries.
    pub fn entries(&self) -> &[CatalogEntry] {
        &self.entries
    }

    /// What [`find`](Self::find) finds: every entry's name, and the names without their sizes.
    pub fn names(&self) -> impl Iterator<Item = String> {
        let family = |entry: &CatalogEntry| entry.name.split_once(':').map(|(family, _)| family.to_owned());
        self.entries.iter().flat_map(move |entry| [Some(entry.name.clone()), family(entry)]).flatten()
    }

    /// The entry that `name` names: exactly, in any case of letters, or without its size, `qwen2.5`, for the smallest of that name.
    pub fn find(&self, name: &str) -> Option<&CatalogEntry> {
        let name = name.to_lowercase();
        let family = |entry: &CatalogEntry| entry.name.split_once(':').is_some_and(|(family, _)| family == name);
        let exactly = self.entries.iter().find(|entry| entry.name == name);
        exactly.or_else(|| self.entries.iter().filter(|entry| family(entry)).min_by_key(|entry| entry.parameters))
    }

    /// Whether `reference` has the form of a catalog's name, `family:size`, rather than that of a path or a repository.
    pub fn is_name(reference: &str) -> bool {
        !reference.contains(['/', '\\'])
            && reference.split_once(':').is_some_and(|(family, size)| family.len() > 1 && !size.is_empty())
    }

    /// The error for a name that no entry has, with those that are near.
    pub fn unknown(&self, name: &str) -> Error {
        let all: Vec<String> = self.entries.iter().map(|entry| format!("`{}`", entry.name)).collect();
        Error::ModelNotFound {
            reference: name.into(),
            reason: "the catalog has no such name".into(),
            hint: did_you_mean(&near_names(name, self.names()), &format!("the names are {}", all.join(", "))).into(),
        }
    }
}

#[cfg(test)]
mod tests;
