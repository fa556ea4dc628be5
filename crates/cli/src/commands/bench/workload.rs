//! What is to be measured of a model, by what it was made for and what was asked.

use anyhow::Result;
use tandem::embedding::{EmbeddingConfig, Pool, Pooling, is_embedder};
use tandem::{ModelConfig, ModelFiles};
use tandem_bench::measure::{EmbedWorkload, Workload, longest};

use super::distinct;
use crate::args::{BenchTask, WorkOptions};
use crate::failure::Usage;

/// Lengths, depths and batches when none are named.
const PROMPTS: [usize; 3] = [32, 128, 512];
const DEPTHS: [usize; 2] = [0, 512];
const N_GENERATED: usize = 64;
const LENGTHS: [usize; 4] = [16, 32, 128, 256];
const BATCHES: [usize; 3] = [1, 8, 32];
const N_MIXED: usize = 128;
const N_QUERIES: usize = 200;

/// The most tokens of a text of mixed length.
const MOST_MIXED: usize = 256;

/// Tokens of a query.
const QUERY_TOKENS: usize = 16;

/// What the model of `files` is measured at, unless `asked` says it.
pub(super) fn task(asked: Option<BenchTask>, files: &ModelFiles, config: &ModelConfig) -> BenchTask {
    asked.unwrap_or(if is_embedder(files, config) { BenchTask::Embed } else { BenchTask::Generate })
}

/// The pooling of a model whose files name none: for a decoder that was made to generate, the last token, since speed does not depend
/// on it.
pub(super) fn pooling(files: &ModelFiles, config: &ModelConfig) -> Option<Pooling> {
    (!is_embedder(files, config)).then(|| Pooling::of(Pool::LastToken))
}

/// What `work` asks for, without what the model is too short for; that nothing is left is wrong usage.
pub(super) fn workload(task: BenchTask, work: &WorkOptions, files: &ModelFiles, config: &ModelConfig) -> Result<Workload> {
    let of_generation = [
        ("prompt", work.prompts.is_some()),
        ("generate", work.n_generated.is_some()),
        ("depth", work.depths.is_some()),
        ("parallel", work.parallel.is_some()),
    ];
    let of_embedding = [
        ("length", work.lengths.is_some()),
        ("batch", work.batches.is_some()),
        ("mixed", work.n_mixed.is_some()),
        ("queries", work.n_queries.is_some()),
    ];
    match task {
        BenchTask::Generate => {
            refuse(&of_embedding, "the model is measured at generating text", "--task embed")?;
            generation(work, config)
        }
        BenchTask::Embed => {
            refuse(&of_generation, "the model is measured at embedding", "--task generate")?;
            embedding(work, files, config)
        }
    }
}

/// Refuses the first option that was given.
fn refuse(options: &[(&str, bool)], why: &str, other: &str) -> Result<()> {
    match options.iter().find(|(_, is_given)| *is_given) {
        Some((option, _)) => {
            let message = format!("option `--{option}` measures nothing: {why}");
            Err(Usage::new(message, format!("leave it out, or add `{other}`")).into())
        }
        None => Ok(()),
    }
}

fn generation(work: &WorkOptions, config: &ModelConfig) -> Result<Workload> {
    let most = config.max_context;
    let n_generated = work.n_generated.map_or(N_GENERATED, usize::from);
    let mut workload = Workload {
        prompts: distinct("prompt", work.prompts.as_deref().unwrap_or(&PROMPTS), 1)?,
        depths: distinct("depth", work.depths.as_deref().unwrap_or(&DEPTHS), 0)?,
        n_generated,
        parallel: parallel(work)?,
        rounds: work.rounds.into(),
        embedding: None,
    };
    workload.prompts.retain(|&n| n <= most);
    workload.depths.retain(|&depth| depth.max(1) + n_generated <= most);
    if workload.prompts.is_empty() || workload.depths.is_empty() {
        let message = format!(
            "the model holds {most} tokens, and no prompt and depth that was asked for fits with {n_generated} generated"
        );
        return Err(Usage::new(message, "give smaller numbers to `--prompt`, `--depth` and `--generate`").into());
    }
    debug_assert!(longest(&workload) <= most);
    Ok(workload)
}

/// Numbers of sequences, with 1 to compare with.
fn parallel(work: &WorkOptions) -> Result<Vec<usize>> {
    let Some(asked) = &work.parallel else { return Ok(Vec::new()) };
    let mut parallel = distinct("parallel", asked, 1)?;
    if !parallel.contains(&1) {
        parallel.insert(0, 1);
    }
    Ok(parallel)
}

fn embedding(work: &WorkOptions, files: &ModelFiles, config: &ModelConfig) -> Result<Workload> {
    let most = EmbeddingConfig::read(files, config, pooling(files, config))?.max_tokens;
    let mut lengths = distinct("length", work.lengths.as_deref().unwrap_or(&LENGTHS), 1)?;
    lengths.retain(|&length| length <= most);
    let batches = distinct("batch", work.batches.as_deref().unwrap_or(&BATCHES), 1)?;
    let (n_mixed, n_queries) = (work.n_mixed.unwrap_or(N_MIXED), work.n_queries.unwrap_or(N_QUERIES));
    if lengths.is_empty() && n_mixed == 0 {
        let message = format!("the model takes texts of {most} tokens, and no length that was asked for fits");
        return Err(Usage::new(message, "give smaller numbers to `--length`, or leave out `--mixed`").into());
    }
    let embedding = EmbedWorkload {
        lengths,
        batches,
        n_mixed,
        most_mixed: MOST_MIXED.min(most),
        n_queries,
        query_tokens: QUERY_TOKENS.min(most),
    };
    let (prompts, depths) = (Vec::new(), Vec::new());
    Ok(Workload { prompts, depths, n_generated: 0, parallel: Vec::new(), rounds: work.rounds.into(), embedding: Some(embedding) })
}

/// What was asked for by name or by default and is more than the model holds.
pub(super) fn left_out(work: &WorkOptions, workload: &Workload) -> Vec<String> {
    let beyond = |asked: &[usize], taken: &[usize], what: &str| -> Vec<String> {
        asked.iter().filter(|n| !taken.contains(n)).map(|n| format!("{what} {n}")).collect()
    };
    if let Some(embedding) = &workload.embedding {
        return beyond(work.lengths.as_deref().unwrap_or(&LENGTHS), &embedding.lengths, "texts of");
    }
    let prompts = beyond(work.prompts.as_deref().unwrap_or(&PROMPTS), &workload.prompts, "a prompt of");
    let depths = beyond(work.depths.as_deref().unwrap_or(&DEPTHS), &workload.depths, "decoding at depth");
    [prompts, depths].concat()
}
