//! What a MODEL names: the library resolves it, and what it came to is said here.

use anyhow::Result;
use tandem::catalog::Catalog;
use tandem::machine::Memory;
use tandem::{LoadOptions, ModelFiles, ModelRef, Resolved, Resolver, Settings};

use crate::args::EngineOptions;
use crate::config::Config;
use crate::download::with_progress;
use crate::figures::bytes;
use crate::output::Output;

/// What resolves references to models of `catalog` and others, for the machine that `options` name.
pub(crate) fn resolver(catalog: &Catalog, options: &EngineOptions) -> Resolver {
    let resolver = Resolver::new(catalog.clone());
    match options.memory {
        // A question about another machine: its limits are those that the question leaves out.
        Some(size) => resolver.with_memory(Memory::of_machine_with(size.0)),
        None => resolver,
    }
}

/// As much of `options` as decides what a reference names.
pub(crate) fn reference_settings(options: &EngineOptions) -> Settings {
    Settings {
        backend: options.weights.backend,
        load: LoadOptions::new().with_dtype(options.weights.dtype).with_threads(options.compute.threads),
        context_length: options.context.map(usize::from),
        ..Settings::default()
    }
}

/// What `reference` names; what `auto` came to is said.
///
/// # Errors
/// As [`Resolver::resolve`].
pub(crate) fn resolve(resolver: &Resolver, reference: &str, settings: &Settings, output: &Output) -> tandem::Result<Resolved> {
    let resolved = resolver.resolve(&ModelRef::from(reference), settings)?;
    if let Some((choice, taken)) = resolved.choice.as_ref().and_then(|choice| Some((choice, choice.taken()?))) {
        let (name, peak, usable) = (&taken.entry.name, bytes(taken.plan.peak()), bytes(choice.usable));
        output.note(&format!("`auto` is `{name}`: it takes about {peak} of {usable}: {}", taken.plan));
    }
    Ok(resolved)
}

/// The checkpoint that `reference` names, for work in which several backends are to have the same weights; under the user's own options.
///
/// # Errors
/// As [`resolve`], and for a configuration that is wrong.
pub(crate) fn resolve_checkpoint(reference: &str, output: &Output) -> Result<(Resolver, Resolved)> {
    let config = Config::load()?;
    let resolver = resolver(&config.catalog, &config.engine);
    let settings = reference_settings(&config.engine);
    let resolved = resolve(&resolver, reference, &settings, output)?.into_checkpoint()?;
    Ok((resolver, resolved))
}

/// The files of a resolved model, for the backend and dtype of `settings`; one of the hub is downloaded if need be.
///
/// # Errors
/// As [`Resolver::find`].
pub(crate) fn find(resolver: &Resolver, resolved: &Resolved, settings: &Settings, output: &Output) -> Result<ModelFiles> {
    shown(resolved, settings, output, |settings| resolver.find(resolved, settings))
}

/// The files of its checkpoint, whatever the backend.
///
/// # Errors
/// As [`Resolver::find_checkpoint`].
pub(crate) fn find_checkpoint(resolver: &Resolver, resolved: &Resolved, output: &Output) -> Result<ModelFiles> {
    shown(resolved, &Settings::default(), output, |settings| resolver.find_checkpoint(resolved, settings))
}

/// Does `find` with settings that show its progress, where a download is possible.
fn shown(
    resolved: &Resolved,
    settings: &Settings,
    output: &Output,
    find: impl FnOnce(&Settings) -> tandem::Result<ModelFiles>,
) -> Result<ModelFiles> {
    if !matches!(resolved.model, ModelRef::Hub(_)) {
        return Ok(find(settings)?);
    }
    with_progress(&resolved.model.to_string(), output, |progress, cancel| {
        let mut settings = settings.clone();
        (settings.load.progress, settings.load.cancel) = (progress, cancel);
        find(&settings)
    })
}
