//! `tandem show`: what a model is, which files it has, where it runs.

mod catalog;
mod files;
mod memory_plan;
mod text;

pub(crate) use self::text::row;

use crate::words::clause;
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;
use tandem::backends::WeightType;
use tandem::embedding::{EmbeddingConfig, Similarity};
use tandem::files::GenerationConfig;
use tandem::numerics::NumericsCost;
use tandem::{ModelFiles, ModelInfo, ModelRef, OpenedModel, Resolver, TokenId, Work};

use self::files::{FileRow, GraphRow, SkippedRow};
use self::memory_plan::{MemoryReport, planned_tokens};
use crate::args::ShowArgs;
use crate::config::Config;
use crate::engine::{AdapterRow, admit, find_adapters, remark_on_adapters, settings};
use crate::output::Output;
use crate::resolve::{find, reference_settings, resolver};

/// What `--json` prints.
#[derive(Serialize)]
struct ModelReport {
    model: String,
    #[serde(flatten)]
    published: Published,
    graphs: Vec<GraphRow>,
    files: Vec<FileRow>,
    /// ONNX files that are there and not used.
    skipped: Vec<SkippedRow>,
    /// Null on a device with memory of its own.
    memory: Option<MemoryReport>,
    /// What it is for: text, embedding, reranking.
    work: String,
    /// Null for a model that makes no vectors.
    embedding: Option<EmbeddingRow>,
    /// Null with `--no-load`.
    loaded: Option<Loaded>,
}

/// What the model's files say of it.
#[derive(Serialize)]
struct Published {
    architecture: String,
    /// Weights and biases; null where only the graph knows.
    parameters: Option<u64>,
    n_layers: usize,
    hidden_size: usize,
    intermediate_size: Option<usize>,
    n_heads: usize,
    n_kv_heads: usize,
    head_dim: usize,
    vocab_size: usize,
    max_context: usize,
    chat_template: bool,
    end_tokens: Vec<TokenId>,
    licence: Option<String>,
}

/// How vectors are made.
#[derive(Serialize)]
struct EmbeddingRow {
    pooling: String,
    normalized: bool,
    dimensions: usize,
    max_tokens: usize,
    similarity: Similarity,
    /// By name.
    prompts: BTreeMap<String, String>,
    /// What follows a rule and not the model's files.
    remarks: Vec<String>,
}

/// How it runs.
#[derive(Serialize)]
struct Loaded {
    backend: String,
    engine_version: String,
    device: String,
    dtype: String,
    /// What most weights are in memory: `dtype`, or the narrower floats of the checkpoint, which are widened as they are read.
    memory_dtype: String,
    /// How weights were stored and what they run as; empty where `dtype` says it all.
    weight_types: Vec<WeightTypeRow>,
    threads: usize,
    adapters: Vec<AdapterRow>,
    load_ms: u64,
    /// In what keys and values are held; null for a model that does not generate.
    kv_dtype: Option<String>,
    kv_bytes_per_token: usize,
    /// What fast numerics cost; null where they cost nothing: for weights that are not quantised, and with `--numerics exact`.
    fast_numerics: Option<FastNumerics>,
    capabilities: Vec<String>,
    /// The share of the graph, 0 to 1, that runs on the device.
    device_share: f64,
    placement: Vec<PlacementRow>,
}

/// How far fast numerics are from exact ones.
#[derive(Serialize)]
struct FastNumerics {
    /// In nats, for a distribution of next tokens.
    mean_kl: f64,
    n_positions: usize,
}

/// Weights that were stored in one type.
#[derive(Serialize)]
struct WeightTypeRow {
    stored: String,
    runs_as: String,
    n_tensors: usize,
}

/// What one execution provider runs.
#[derive(Serialize)]
struct PlacementRow {
    provider: String,
    n_nodes: usize,
    operators: Vec<OperatorRow>,
}

#[derive(Serialize)]
struct OperatorRow {
    operator: String,
    n_nodes: usize,
}

pub(crate) fn show(args: ShowArgs, output: &Output) -> Result<ExitCode> {
    let config = Config::load()?;
    let engine = args.kv.within(args.engine).or(config.engine);
    let reference = args.model.reference;
    let resolver = resolver(&config.catalog, &engine);
    let resolved = resolver.resolve(&ModelRef::from(reference.as_str()), &reference_settings(&engine))?;
    if let Some(entry) = &resolved.entry {
        catalog::show(&reference, entry, &resolved, &resolver, &engine, output)?;
        return Ok(ExitCode::SUCCESS);
    }
    let settings = settings(&engine, output)?;
    let files = find(&resolver, &resolved, &settings, output)?;
    let work = files.model_config().map_or(Work::Text, |config| Work::of(&files, &config));
    let settings = match work {
        Work::Text => settings,
        Work::Embedding => settings.for_embeddings(),
        Work::Reranking => settings.for_reranking(&files)?,
    };
    let settings = find_adapters(&resolver, settings, output)?;
    let opened = resolver.open(files.clone(), &settings);
    let mut report = ModelReport {
        published: published(&files, opened.as_ref().ok())?,
        graphs: files::graphs(&files)?,
        files: files::all(&files, args.hashes, output)?,
        skipped: files::skipped(&files),
        memory: opened.as_ref().ok().and_then(|opened| memory_report(&resolver, opened)),
        model: reference,
        work: work.to_string(),
        embedding: embedding(work, &files, opened.as_ref().ok()),
        loaded: None,
    };
    if !args.no_load {
        let opened = opened?;
        admit(&opened, &resolver, 1, output)?;
        report.loaded = Some(load(&mut report, opened, work, output)?);
    }
    if output.is_json() {
        output.document(&report)?;
    } else {
        text::show(&report, output)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Loads the model; one that generates text is asked for its end tokens and for what fast numerics cost.
fn load(report: &mut ModelReport, opened: OpenedModel, work: Work, output: &Output) -> tandem::Result<Loaded> {
    let progress = output.progress(format!("loading {}", report.model));
    if work != Work::Text {
        let (model, time) = opened.load_model()?;
        remark_on_adapters(&model.info().adapters, &model.info().name, output);
        return Ok(loaded(model.info(), time, None));
    }
    let settings = opened.settings().clone();
    let model = opened.load()?;
    remark_on_adapters(&model.info().adapters, &model.info().name, output);
    progress.say("measuring what fast numerics cost");
    let cost = tandem::numerics::numerics_cost(&model, &settings)?;
    report.published.end_tokens = model.end_tokens().to_vec();
    Ok(loaded(model.info(), model.load_time(), cost))
}

/// What a long conversation with the model takes; nothing where that cannot be planned.
fn memory_report(resolver: &Resolver, opened: &OpenedModel) -> Option<MemoryReport> {
    let n_tokens = planned_tokens(opened.settings().context_length, usize::MAX);
    let plan = resolver.plan(opened.planner(), n_tokens).ok()?;
    let memory = resolver.memory();
    Some(MemoryReport::new(&plan, &memory, || clause(&resolver.advice(opened, n_tokens, &memory))))
}

/// `opened` is `None` for a model that this build cannot open.
fn published(files: &ModelFiles, opened: Option<&OpenedModel>) -> tandem::Result<Published> {
    let config = opened.map_or_else(|| files.model_config(), |opened| Ok(opened.config().clone()))?;
    let generation = files.generation_config.as_ref().map(GenerationConfig::from_file).transpose()?.unwrap_or_default();
    let mut end_tokens = [generation.eos_token_ids, config.eos_token_ids.clone()].concat();
    end_tokens.sort_unstable();
    end_tokens.dedup();
    Ok(Published {
        architecture: config.architecture.to_string(),
        parameters: (config.intermediate_size > 0).then(|| config.n_parameters()),
        n_layers: config.n_layers,
        hidden_size: config.hidden_size,
        intermediate_size: Some(config.intermediate_size).filter(|&size| size > 0),
        n_heads: config.n_heads,
        n_kv_heads: config.n_kv_heads,
        head_dim: config.head_dim(),
        vocab_size: config.vocab_size,
        max_context: config.max_context,
        chat_template: files::has_chat_template(files)?,
        end_tokens,
        licence: files::licence(files),
    })
}

/// What makes its vectors, for an embedding model whose files say it.
fn embedding(work: Work, files: &ModelFiles, opened: Option<&OpenedModel>) -> Option<EmbeddingRow> {
    let model = files.model_config().ok().filter(|_| work == Work::Embedding)?;
    let mut config = EmbeddingConfig::read(files, &model, None).ok()?;
    if let Some(output) = opened.and_then(OpenedModel::pooled_output) {
        config.pool_by_graph(files, &output, model.hidden_size).ok()?;
    }
    Some(EmbeddingRow {
        pooling: config.pooling_name(),
        normalized: config.is_normalized(),
        dimensions: config.dimensions.unwrap_or_else(|| config.width(model.hidden_size)),
        max_tokens: config.max_tokens,
        similarity: config.similarity,
        prompts: config.prompts.by_name.clone(),
        remarks: config.remarks,
    })
}

fn loaded(info: &ModelInfo, load_time: Duration, cost: Option<NumericsCost>) -> Loaded {
    Loaded {
        backend: info.backend.to_string(),
        engine_version: info.engine_version.clone(),
        device: info.device.to_string(),
        dtype: info.dtype.to_string(),
        memory_dtype: info.memory_dtype.to_string(),
        weight_types: weight_types(info),
        threads: info.threads,
        adapters: AdapterRow::all(&info.adapters),
        load_ms: u64::try_from(load_time.as_millis()).unwrap_or(u64::MAX),
        kv_dtype: info.kv_dtype.map(|dtype| dtype.to_string()),
        kv_bytes_per_token: info.kv_bytes_per_token,
        fast_numerics: cost.map(|cost| FastNumerics { mean_kl: cost.mean_kl, n_positions: cost.n_positions }),
        capabilities: info.capabilities.iter().map(|capability| capability.to_string()).collect(),
        device_share: info.device_share,
        placement: placement(info),
    }
}

fn weight_types(info: &ModelInfo) -> Vec<WeightTypeRow> {
    let row = |kind: &WeightType| WeightTypeRow {
        stored: kind.stored.clone(),
        runs_as: kind.runs_as.clone(),
        n_tensors: kind.n_tensors,
    };
    info.weight_types.iter().map(row).collect()
}

fn placement(info: &ModelInfo) -> Vec<PlacementRow> {
    let operator = |(operator, n_nodes): &(String, usize)| OperatorRow { operator: operator.clone(), n_nodes: *n_nodes };
    info.placement
        .iter()
        .map(|placed| PlacementRow {
            provider: placed.provider.clone(),
            n_nodes: placed.n_nodes,
            operators: placed.operators.iter().map(operator).collect(),
        })
        .collect()
}
