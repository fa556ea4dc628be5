//! From a model reference to the files it names.

use std::path::Path;

use tandem_core::files::{ModelFiles, near_names};
use tandem_core::{BackendKind, Error, Result};
use tandem_hub::catalog::Catalog;
use tandem_hub::{Hub, HubReference, PullOptions, Wanted};

use crate::backends::compiled;
use crate::demo;
use crate::model::Settings;

/// Finds the files that `reference` names, for the default backend at the dtype of its choice: see [`find_for`].
///
/// # Errors
/// As [`find_for`].
pub fn find(reference: &str) -> Result<ModelFiles> {
    find_for(reference, &Settings::default())
}

/// Finds the files that `reference` names: `demo`, a directory as published, a graph file within one, `owner/name[@revision]`
/// on the Hugging Face hub, or a name of the catalog, `qwen2.5:0.5b`.
///
/// Of a model on the hub, the files that the backend and dtype of `settings` need are downloaded, unless they are in the cache; the
/// progress and the cancel token are those of `settings.load`. Where the hub and its cache are is up to the environment
/// ([`HubSettings::from_env`](tandem_hub::HubSettings::from_env)).
///
/// A directory called `demo` is named by its path, `./demo`; one that exists is meant before a repository of its name.
///
/// # Errors
/// [`Error::ModelNotFound`] with names that are near, and those of [`ModelFiles::discover`] and [`Hub::find`].
pub fn find_for(reference: &str, settings: &Settings) -> Result<ModelFiles> {
    if reference == demo::NAME {
        return demo::files();
    }
    let path = Path::new(reference);
    if path.exists() || looks_like_a_path(reference) {
        return ModelFiles::discover(path, reference);
    }
    let named = named(reference, settings).ok_or_else(|| match Catalog::is_name(reference) {
        true => Catalog::builtin().unknown(reference),
        false => not_found(reference),
    })?;
    let options = PullOptions {
        progress: settings.load.progress.clone(),
        cancel: settings.load.cancel.clone(),
        ..PullOptions::new(wanted(settings))
    };
    let snapshot = Hub::from_env()?.find(&named, &options)?;
    ModelFiles::discover(&snapshot.directory, reference)
}

/// The repository on the hub that `reference` names, itself or by a name of the catalog, for the default backend: see
/// [`hub_reference_for`].
///
/// # Errors
/// As [`hub_reference_for`].
pub fn hub_reference(reference: &str) -> Result<HubReference> {
    hub_reference_for(reference, &Settings::default())
}

/// The repository on the hub that `reference` names, itself or by a name of the catalog, which may have one for each backend.
///
/// # Errors
/// [`Error::ModelNotFound`] when it names none.
pub fn hub_reference_for(reference: &str, settings: &Settings) -> Result<HubReference> {
    named(reference, settings).ok_or_else(|| Error::ModelNotFound {
        reference: reference.into(),
        reason: match reference == demo::NAME {
            true => "it is part of the program and not on the hub".into(),
            false => "it is not of the form `owner/name[@revision]`".into(),
        },
        hint: "name a model as the Hugging Face hub does, such as `Qwen/Qwen2.5-0.5B-Instruct`".into(),
    })
}

/// Which files the backend and dtype of `settings` need.
pub fn wanted(settings: &Settings) -> Wanted {
    let default = compiled().first().copied().unwrap_or(BackendKind::Onnx);
    Wanted { backend: settings.backend.unwrap_or(default), dtype: settings.load.dtype }
}

fn named(reference: &str, settings: &Settings) -> Option<HubReference> {
    let of_catalog = || Catalog::builtin().find(reference)?.repository(wanted(settings).backend).parse().ok();
    reference.parse().ok().or_else(of_catalog)
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
        [] => "name `demo`, a directory with the model's files, or `owner/name` for a model on the Hugging Face hub".into(),
        near => format!("did you mean {}", near.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")),
    };
    let reason = "it is no built-in model, no path that exists, and not of the form `owner/name`".into();
    Error::ModelNotFound { reference: reference.into(), reason, hint }
}
