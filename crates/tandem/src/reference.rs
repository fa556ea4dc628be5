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

/// Finds the files that `reference` names: `demo`, a directory as published, a graph file within one, a GGUF file,
/// `owner/name[:variant][@revision]` on the Hugging Face hub, where the variant is one of several GGUF files, or a name of the catalog,
/// `qwen2.5:0.5b`.
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
    if names_a_path(reference) {
        return ModelFiles::discover(Path::new(reference), reference);
    }
    let named = named(reference, settings).ok_or_else(|| unknown(reference, &Catalog::builtin()))?;
    let options = PullOptions {
        progress: settings.load.progress.clone(),
        cancel: settings.load.cancel.clone(),
        ..PullOptions::new(wanted(settings))
    };
    let snapshot = Hub::from_env()?.find(&named, &options)?;
    // A GGUF file is a model by itself, and others of the repository may lie beside it.
    let gguf = snapshot.files.iter().find(|name| name.to_ascii_lowercase().ends_with(".gguf"));
    ModelFiles::discover(&gguf.map_or(snapshot.directory.clone(), |name| snapshot.directory.join(name)), reference)
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
    let not_of_hub = |reason: &str| Error::ModelNotFound {
        reference: reference.into(),
        reason: reason.into(),
        hint: "name a model as the Hugging Face hub does, such as `Qwen/Qwen2.5-0.5B-Instruct`".into(),
    };
    named(reference, settings).ok_or_else(|| match reference {
        demo::NAME => not_of_hub("it is part of the program and not on the hub"),
        path if names_a_path(path) => not_of_hub("it is a path on this machine and not on the hub"),
        _ => unknown(reference, &Catalog::builtin()),
    })
}

/// Whether `reference` is the built-in model or a path, and means the same whatever catalog there is.
pub fn is_local(reference: &str) -> bool {
    reference == demo::NAME || names_a_path(reference)
}

/// The error for a `reference` that names nothing: no path, no repository, and no entry of `catalog`. It offers what is near.
pub fn unknown(reference: &str, catalog: &Catalog) -> Error {
    if Catalog::is_name(reference) {
        return catalog.unknown(reference);
    }
    let directories =
        std::fs::read_dir(".").into_iter().flatten().flatten().filter(|entry| entry.path().join("config.json").is_file());
    let directories = directories.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let near = near_names(reference, directories.chain([demo::NAME.to_owned()]).chain(catalog.names()));
    Error::ModelNotFound {
        reference: reference.into(),
        reason: "it is no built-in model, no name of the catalog, no path that exists, and not of the form `owner/name[@revision]`"
            .into(),
        hint: match near.as_slice() {
            [] => "name `demo`, a directory with the model's files, `owner/name` for a model on the Hugging Face hub, or one of the \
                   catalog such as `qwen2.5:0.5b`"
                .into(),
            near => format!("did you mean {}?", near.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")).into(),
        },
    }
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

fn names_a_path(reference: &str) -> bool {
    let names_a_variant = || reference.parse::<HubReference>().is_ok_and(|reference| reference.variant.is_some());
    Path::new(reference).exists()
        || reference.starts_with(['.', '/', '~'])
        || (reference.ends_with(".onnx") || reference.ends_with(".gguf")) && !names_a_variant()
}
