//! Errors of ONNX files, with file, field and value.

use std::fmt;
use std::io;

/// A result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error; each variant names the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A failure of the operating system to read or write.
    #[error("`{file}`: cannot be {done}")]
    Io {
        /// The path.
        file: String,
        /// What was attempted, as a participle: `read`, `written`.
        done: &'static str,
        /// The system's own error.
        source: io::Error,
    },

    /// An invalid file.
    #[error("`{file}`: {problem}")]
    File {
        /// The path, or the name of an embedded file.
        file: String,
        /// What is wrong.
        problem: String,
        /// What to do.
        hint: Option<String>,
    },

    /// A field with an invalid value.
    #[error("`{file}`: field `{field}`: {problem}")]
    Field {
        /// The path, or the name of an embedded file.
        file: String,
        /// The field, dotted from the root: `graph.initializer[3].external_data.location`.
        field: String,
        /// What is wrong, with the value.
        problem: String,
        /// What to do.
        hint: Option<String>,
    },

    /// A weight of a checkpoint that cannot be read.
    #[error("`{model}`: the weight `{name}` cannot be read")]
    Weight {
        /// The model.
        model: String,
        /// The weight.
        name: String,
        /// The reader's own error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },

    /// Work that the caller interrupted.
    #[error("`{model}`: building its graph was interrupted")]
    Interrupted {
        /// The model.
        model: String,
    },
}

impl Error {
    /// The path of the file, or the name of an embedded one, or of the model.
    pub fn file(&self) -> &str {
        match self {
            Self::Io { file, .. }
            | Self::File { file, .. }
            | Self::Field { file, .. }
            | Self::Weight { model: file, .. }
            | Self::Interrupted { model: file } => file,
        }
    }

    /// The field at fault, dotted from the root of the file.
    pub fn field(&self) -> Option<&str> {
        match self {
            Self::Field { field, .. } => Some(field),
            Self::Weight { name, .. } => Some(name),
            Self::Io { .. } | Self::File { .. } | Self::Interrupted { .. } => None,
        }
    }

    /// The remedy, if there is one.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::File { hint, .. } | Self::Field { hint, .. } => hint.as_deref(),
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                    Some("the disk is full: free some space, or choose another directory")
                }
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                    Some("make it readable and writable, or choose another directory")
                }
                _ => None,
            },
            Self::Weight { .. } | Self::Interrupted { .. } => None,
        }
    }

    pub(crate) fn io(file: impl Into<String>, done: &'static str, source: io::Error) -> Self {
        Self::Io { file: file.into(), done, source }
    }

    pub(crate) fn bad_file(file: &str, problem: impl Into<String>) -> Self {
        Self::File { file: file.into(), problem: problem.into(), hint: None }
    }

    pub(crate) fn bad_field(file: &str, field: impl ToString, problem: impl Into<String>) -> Self {
        Self::Field { file: file.into(), field: field.to_string(), problem: problem.into(), hint: None }
    }

    pub(crate) fn with_hint(mut self, remedy: impl Into<String>) -> Self {
        if let Self::File { hint, .. } | Self::Field { hint, .. } = &mut self {
            *hint = Some(remedy.into());
        }
        self
    }
}

/// The position of a reader in the file: a list from the innermost field outwards, formatted only for errors.
#[derive(Clone, Copy)]
pub(crate) struct At<'a> {
    parent: Option<&'a At<'a>>,
    name: &'static str,
    index: Option<usize>,
}

impl<'a> At<'a> {
    /// The whole file.
    pub(crate) const ROOT: At<'static> = At { parent: None, name: "", index: None };

    /// A field that appears at most once.
    pub(crate) fn field(&'a self, name: &'static str) -> At<'a> {
        At { parent: Some(self), name, index: None }
    }

    /// One of a field's repetitions.
    pub(crate) fn item(&'a self, name: &'static str, index: usize) -> At<'a> {
        At { parent: Some(self), name, index: Some(index) }
    }
}

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
            if parent.parent.is_some() {
                f.write_str(".")?;
            }
        }
        f.write_str(self.name)?;
        self.index.map_or(Ok(()), |index| write!(f, "[{index}]"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn position_is_dotted_from_the_root() {
        let graph = At::ROOT.field("graph");
        let tensor = graph.item("initializer", 3);
        assert_eq!(tensor.field("external_data").field("location").to_string(), "graph.initializer[3].external_data.location");
        assert_eq!(At::ROOT.to_string(), "");
    }
}
