//! What a MODEL names: the library resolves it, and what it came to is said here.

use anyhow::Result;
use tandem::catalog::Catalog;
use tandem::hub::FileSelector;
use tandem::machine::Memory;
use tandem::{ModelFiles, ModelRef, Resolved, Resolver, Settings};

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
    let settings = options.weights.settings();
    Settings {
        load: settings.load.with_threads(options.compute.threads),
        context_length: options.context.map(usize::from),
        ..settings
    }
}

/// What `reference` names; what `auto` came to is said.
///
/// # Errors
/// As [`Resolver::resolve`].
pub(crate) fn resolve(resolver: &Resolver, reference: &str, settings: &Settings, output: &Output) -> tandem::Result<Resolved> {
    let resolved = resolver.resolve(&ModelRef::from(reference), settings)?;
    if let Some((choice, chosen)) = resolved.choice.as_ref().and_then(|choice| Some((choice, choice.chosen()?))) {
        let (name, estimate, usable) = (&chosen.entry.name, &chosen.estimate, bytes(choice.usable));
        let (dtype, speed, peak) = (estimate.dtype(), estimate.tokens_per_second, bytes(estimate.plan.peak()));
        output.note(&format!("`auto` is `{name}` in {dtype}: about {peak} of {usable}, an estimated {speed:.0} tokens/s"));
    }
    Ok(resolved)
}

/// The checkpoint that `reference` names, for work in which several backends are to have the same weights; under the user's own options.
///
/// # Errors
/// As [`resolve`], and for a configuration that is wrong.
pub(crate) fn resolve_checkpoint(reference: &str, output: &Output) -> Result<(Resolver, Resolved)> {
    let config = Config::load()?;
    let engine = EngineOptions { weights: config.engine.weights.or_published(), ..config.engine };
    let resolver = resolver(&config.catalog, &engine);
    let settings = reference_settings(&engine);
    let resolved = resolve(&resolver, reference, &settings, output)?.into_checkpoint()?;
    Ok((resolver, resolved))
}

/// The files of a resolved model, for the backend and dtype of `settings`; one of the hub is downloaded if need be.
///
/// # Errors
/// As [`Resolver::find`].
pub(crate) fn find(resolver: &Resolver, resolved: &Resolved, settings: &Settings, output: &Output) -> Result<ModelFiles> {
    find_with(resolver.file_selector(settings), resolver, resolved, output)
}

/// The files that `select` chooses.
///
/// # Errors
/// As [`Resolver::find_with`].
pub(crate) fn find_with(select: FileSelector, resolver: &Resolver, resolved: &Resolved, output: &Output) -> Result<ModelFiles> {
    let mut settings = Settings::default();
    if !matches!(resolved.model, ModelRef::Hub(_)) {
        return Ok(resolver.find_with(select, resolved, &settings)?);
    }
    with_progress(&resolved.model.to_string(), output, |progress, cancel| {
        (settings.load.progress, settings.load.cancel) = (progress, cancel);
        resolver.find_with(select, resolved, &settings)
    })
}
