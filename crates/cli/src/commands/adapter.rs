//! `tandem adapter`: low-rank adapters, listed, shown, checked, converted and trained.

mod convert;
mod list;
mod train;

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;
use tandem::adapters::{Adapter, AdapterRef, AppliedAdapter, LowRankFactors, ScaledAdapter, check, other_base};
use tandem::hub::FileSelector;
use tandem::{ModelConfig, ModelFiles, Resolver, Settings};

use crate::args::{AdapterArgs, AdapterCommand, AdapterShowArgs, AdapterVerifyArgs};
use crate::commands::show::row;
use crate::config::Config;
use crate::engine::find_adapters;
use crate::figures::bytes;
use crate::output::Output;
use crate::resolve::{find_with, resolve_checkpoint, resolver};

/// What `adapter show --json` prints.
#[derive(Serialize)]
struct AdapterReport {
    adapter: String,
    format: Option<&'static str>,
    base_model: Option<String>,
    sha256: Option<String>,
    bytes: usize,
    /// DoRA: each row is scaled to a length that was trained.
    magnitudes: bool,
    modules: Vec<ModuleRow>,
    /// Tensors that it brings whole.
    replaced: Vec<String>,
}

#[derive(Serialize)]
struct ModuleRow {
    module: String,
    rank: usize,
    scale: f32,
    inputs: usize,
    outputs: usize,
}

pub(crate) fn adapter(args: AdapterArgs, output: &Output) -> Result<ExitCode> {
    match args.command {
        AdapterCommand::List(args) => list::list(&args, output),
        AdapterCommand::Show(args) => show(&args, output),
        AdapterCommand::Verify(args) => verify(&args, output),
        AdapterCommand::Convert(args) => convert::convert(&args, output),
        AdapterCommand::Train(args) => train::train(*args, output),
    }
}

fn show(args: &AdapterShowArgs, output: &Output) -> Result<ExitCode> {
    let base = args.base.as_deref().map(|base| checkpoint(base, output)).transpose()?;
    let config = base.as_ref().map(ModelFiles::model_config).transpose()?;
    let report = AdapterReport::new(&read(&args.adapter.reference, config.as_ref(), output)?);
    if output.is_json() {
        output.document(&report)?;
        return Ok(ExitCode::SUCCESS);
    }
    output.line(&output.for_stdout(&report.adapter))?;
    row(output, "format", report.format.unwrap_or("none"))?;
    row(output, "trained on", report.base_model.as_deref().unwrap_or("not said"))?;
    row(output, "size", &format!("{} of factors for {} modules", bytes(report.bytes as u64), report.modules.len()))?;
    for (what, modules) in report.kinds() {
        row(output, "modules", &format!("{modules} x {what}"))?;
    }
    if report.magnitudes {
        row(output, "magnitudes", "yes (DoRA)")?;
    }
    for tensor in &report.replaced {
        row(output, "replaces", tensor)?;
    }
    if let Some(sha256) = &report.sha256 {
        row(output, "SHA-256", sha256)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What `adapter verify --json` prints.
#[derive(Serialize)]
struct VerifyReport {
    adapter: String,
    base: String,
    fits: bool,
    n_modules: usize,
    /// The model that it says it was trained on, where that has another name.
    other_base: Option<String>,
}

fn verify(args: &AdapterVerifyArgs, output: &Output) -> Result<ExitCode> {
    let files = checkpoint(&args.base, output)?;
    let adapter = read(&args.adapter.reference, Some(&files.model_config()?), output)?;
    check(&files, std::slice::from_ref(&adapter))?;
    let other_base = other_base(&AppliedAdapter::of(&adapter), &files.name).map(ToOwned::to_owned);
    let report = VerifyReport {
        adapter: args.adapter.reference.clone(),
        base: files.name.clone(),
        fits: true,
        n_modules: adapter.adapter.factors().len(),
        other_base,
    };
    if let Some(other) = &report.other_base {
        output.note(&format!("warning: it was trained on `{other}`, and this is `{}`", report.base));
    }
    if output.is_json() {
        output.document(&report)?;
    } else {
        output.line(&format!("it fits: {} modules of `{}`", report.n_modules, output.for_stdout(&report.base)))?;
    }
    Ok(ExitCode::SUCCESS)
}

impl AdapterReport {
    fn new(adapter: &ScaledAdapter) -> Self {
        let adapter: &Adapter = &adapter.adapter;
        let origin = adapter.origin().clone();
        let module = |factors: &LowRankFactors| ModuleRow {
            module: factors.module.clone(),
            rank: factors.rank,
            scale: factors.scale,
            inputs: factors.inputs(),
            outputs: factors.outputs(),
        };
        Self {
            adapter: adapter.name().into(),
            format: origin.format,
            base_model: origin.base_model,
            sha256: origin.sha256,
            bytes: adapter.bytes(),
            magnitudes: adapter.factors().iter().any(|factors| factors.magnitude.is_some()),
            modules: adapter.factors().iter().map(module).collect(),
            replaced: adapter.replaced().iter().map(|tensor| tensor.name.clone()).collect(),
        }
    }

    /// How many modules there are of each kind.
    fn kinds(&self) -> BTreeMap<String, usize> {
        let mut kinds = BTreeMap::new();
        for ModuleRow { module, rank, scale, inputs, outputs } in &self.modules {
            let last = module.rsplit('.').next().unwrap_or(module);
            let kind = format!("{last} ({inputs} to {outputs}), rank {rank}, scale {scale}");
            *kinds.entry(kind).or_default() += 1;
        }
        kinds
    }
}

/// The checkpoint that `reference` names.
fn checkpoint(reference: &str, output: &Output) -> Result<ModelFiles> {
    let (resolver, resolved) = resolve_checkpoint(reference, output)?;
    find_with(FileSelector::checkpoint(), &resolver, &resolved, output)
}

/// The adapter that `reference` names, for a model of `base`; one of the hub is downloaded if need be.
fn read(reference: &str, base: Option<&ModelConfig>, output: &Output) -> Result<ScaledAdapter> {
    let config = Config::load()?;
    let resolver: Resolver = resolver(&config.catalog, &config.engine);
    let settings = Settings { adapters: vec![AdapterRef::new(reference, 1.0)], ..Settings::default() };
    let found = find_adapters(&resolver, settings, output)?.adapters;
    Ok(found[0].read(base)?)
}
