//! From a model reference to the files it names.

use std::path::Path;

use tandem_core::files::{ModelFiles, near_names};
use tandem_core::{Error, Result};

use crate::demo;

/// Finds the files that `reference` names: `demo`, a directory as published, or a graph file within one.
///
/// A directory called `demo` is named by its path, `./demo`.
///
/// # Errors
/// [`Error::ModelNotFound`] with names that are near, and those of [`ModelFiles::discover`].
pub fn find(reference: &str) -> Result<ModelFiles> {
    if reference == demo::NAME {
        return demo::files();
    }
    let path = Path::new(reference);
    if path.exists() || looks_like_a_path(reference) {
        return ModelFiles::discover(path, reference);
    }
    Err(not_found(reference))
}

fn looks_like_a_path(reference: &str) -> bool {
    reference.starts_with(['.', '/', '~']) || reference.ends_with(".onnx") || reference.ends_with(".gguf")
}

fn not_found(reference: &str) -> Error {
    let directories =
        std::fs::read_dir(".").into_iter().flatten().flatten().filter(|entry| entry.path().join("config.json").is_file());
    let names = directories.map(|entry| entry.file_name().to_string_lossy().into_owned()).chain([demo::NAME.to_owned()]);
    let near = near_names(reference, names);
    let hint = match near.as_slice() {
        [] if reference.contains('/') => {
            "this version downloads nothing: fetch the repository's files into a directory and name that directory".into()
        }
        [] => "name `demo`, or a directory with the model's files".into(),
        near => format!("did you mean {}", near.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")),
    };
    Error::ModelNotFound { reference: reference.into(), reason: "it is no built-in model and no path that exists".into(), hint }
}
