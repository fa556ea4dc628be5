//! The report for people.

use anyhow::Result;

use super::{EmbeddingRow, Loaded, ModelReport, Published};
use crate::engine::AdapterRow;
use crate::figures::{bytes, many};
use crate::output::{BOLD, DIM, Output, WIDTH, wrap};

/// Operators that are listed for a provider.
const MAX_OPERATORS: usize = 8;

/// Columns before a value: two, its name, and one.
const INDENT: usize = 17;

pub(super) fn show(report: &ModelReport, output: &Output) -> Result<()> {
    let published = &report.published;
    output.line(&output.paint(BOLD, &report.model))?;
    row(output, "architecture", &published.architecture)?;
    if let Some(parameters) = published.parameters {
        row(output, "parameters", &many(parameters))?;
    }
    row(
        output,
        "sizes",
        &format!(
            "{} layers, hidden {}, {}{} heads of {} ({} for keys and values)",
            published.n_layers,
            published.hidden_size,
            published.intermediate_size.map(|size| format!("feed-forward {size}, ")).unwrap_or_default(),
            published.n_heads,
            published.head_dim,
            published.n_kv_heads
        ),
    )?;
    row(output, "vocabulary", &format!("{} tokens", published.vocab_size))?;
    row(output, "context", &format!("{} tokens", published.max_context))?;
    match &report.embedding {
        Some(embedding) => embedding_rows(embedding, output)?,
        None if report.work == "text" => text_rows(published, output)?,
        None => row(output, "work", &report.work)?,
    }
    row(output, "licence", published.licence.as_deref().unwrap_or("its files name none"))?;

    files(report, output)?;
    report.memory.iter().try_for_each(|memory| memory.show(output))?;
    match &report.loaded {
        Some(loaded) => running(loaded, output),
        None => Ok(()),
    }
}

fn text_rows(published: &Published, output: &Output) -> Result<()> {
    row(output, "chat template", if published.chat_template { "yes" } else { "none: use `--raw`" })?;
    let ends: Vec<String> = published.end_tokens.iter().map(ToString::to_string).collect();
    row(output, "end tokens", if ends.is_empty() { "none".into() } else { ends.join(", ") }.as_str())
}

fn embedding_rows(embedding: &EmbeddingRow, output: &Output) -> Result<()> {
    let EmbeddingRow { pooling, normalized, dimensions, max_tokens, similarity, prompts, remarks } = embedding;
    let length = if *normalized { "of length 1" } else { "of any length" };
    row(output, "vectors", &format!("{dimensions} dimensions, {length}, pooling `{pooling}`, similarity `{similarity}`"))?;
    row(output, "longest text", &format!("{max_tokens} tokens"))?;
    for (name, prompt) in prompts.iter().filter(|(_, prompt)| !prompt.is_empty()) {
        row(output, "prompt", &format!("{name}: {prompt:?}"))?;
    }
    remarks.iter().try_for_each(|remark| row(output, "remark", remark))
}

fn files(report: &ModelReport, output: &Output) -> Result<()> {
    if !report.graphs.is_empty() {
        heading(output, "graphs")?;
    }
    for graph in &report.graphs {
        let dtype = graph.dtype.as_deref().unwrap_or("dtype not in its name");
        output.line(&format!("  {:>10}  {dtype:<6} {}", bytes(graph.bytes), output.for_stdout(&graph.name)))?;
    }
    for skipped in &report.skipped {
        let line = format!("  not used    {}: {}", skipped.name, skipped.reason);
        output.line(&output.paint(DIM, &line))?;
    }
    heading(output, "files")?;
    for file in &report.files {
        output.line(&format!("  {:>10}  {}", bytes(file.bytes), output.for_stdout(&file.name)))?;
        if let Some(sha256) = &file.sha256 {
            output.line(&output.paint(DIM, &format!("  sha256 {sha256}")))?;
        }
    }
    Ok(())
}

fn running(loaded: &Loaded, output: &Output) -> Result<()> {
    heading(output, "loaded")?;
    row(output, "backend", &format!("{} {}", loaded.backend, loaded.engine_version))?;
    row(output, "device", &format!("{} ({:.0} % of the graph)", loaded.device, 100.0 * loaded.device_share))?;
    let kept = if loaded.memory_dtype == loaded.dtype { String::new() } else { format!(", in memory {}", loaded.memory_dtype) };
    row(output, "dtype", &format!("{}{kept}", loaded.dtype))?;
    for kind in &loaded.weight_types {
        row(output, "weights", &format!("{} of {}, run as {}", kind.n_tensors, kind.stored, kind.runs_as))?;
    }
    row(output, "threads", &loaded.threads.to_string())?;
    for AdapterRow { name, scale, sha256, .. } in &loaded.adapters {
        let hash = sha256.as_deref().map_or(String::new(), |hash| format!(", SHA-256 {hash}"));
        row(output, "adapter", &format!("{name}, scale {scale}{hash}"))?;
    }
    row(output, "loaded in", &format!("{} ms", loaded.load_ms))?;
    let kv_dtype = loaded.kv_dtype.as_ref().map_or(String::new(), |dtype| format!(", in {dtype}"));
    row(output, "KV cache", &format!("{} for each token{kv_dtype}", bytes(loaded.kv_bytes_per_token as u64)))?;
    if let Some(cost) = &loaded.fast_numerics {
        let cost = format!("fast: mean KL {:.2e} nats from exact, over {} positions", cost.mean_kl, cost.n_positions);
        row(output, "numerics", &cost)?;
    }
    row(output, "capabilities", &loaded.capabilities.join(", "))?;
    for placed in &loaded.placement {
        let named = |row: &super::OperatorRow| format!("{} {}", row.n_nodes, row.operator);
        let mut operators: Vec<String> = placed.operators.iter().take(MAX_OPERATORS).map(named).collect();
        if placed.operators.len() > MAX_OPERATORS {
            operators.push("…".into());
        }
        row(output, "placement", &format!("{}: {} nodes: {}", placed.provider, placed.n_nodes, operators.join(", ")))?;
    }
    Ok(())
}

pub(super) fn heading(output: &Output, text: &str) -> Result<()> {
    output.line(&format!("\n{}", output.paint(BOLD, text)))
}

pub(crate) fn row(output: &Output, name: &str, value: &str) -> Result<()> {
    for (i, line) in wrap(&output.for_stdout(value), WIDTH - INDENT).iter().enumerate() {
        output.line(&format!("  {:<14} {line}", if i == 0 { name } else { "" }))?;
    }
    Ok(())
}
