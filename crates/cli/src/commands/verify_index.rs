//! `tandem verify-index`: whether an index is of a model.

mod index;

use std::process::ExitCode;

use anyhow::{Context, Result};
use serde::Serialize;
use tandem::CancelToken;
use tandem::embedding::{Difference, Verdict, Verification, verify};

use crate::args::VerifyIndexArgs;
use crate::config::Config;
use crate::engine::load_embedder;
use crate::failure::GATE_NOT_MET;
use crate::interrupt::Interrupts;
use crate::output::{BAD, BOLD, GOOD, Output};

/// What `--json` prints.
#[derive(Serialize)]
struct VerifyReport<'r> {
    index: String,
    model: &'r str,
    backend: String,
    dtype: String,
    /// Rows of the index.
    n_rows_of_index: usize,
    #[serde(flatten)]
    verification: &'r Verification,
}

pub(crate) fn verify_index(args: VerifyIndexArgs, output: &Output) -> Result<ExitCode> {
    let config = Config::load()?;
    let engine = args.engine.clone().or(config.engine);
    let (rows, n_rows) = index::sample(&args)?;
    let model = load_embedder(&args.model, &config.catalog, &engine, args.embedding.pooling(), output)?;
    for remark in &model.config().remarks {
        output.note(remark);
    }
    let cancel = CancelToken::new();
    let interrupts = Interrupts::install(cancel.clone()).context("Ctrl-C cannot be listened to")?;
    interrupts.arm();
    let progress = output.progress(format!("embedding {} rows again", rows.len()));
    let verification = verify(model.embedder(), &args.embedding.options().with_cancel(cancel), &rows)?;
    drop(progress);
    let is_right = matches!(verification.verdict, Verdict::Same | Verdict::OtherArithmetic);
    if output.is_json() {
        let info = model.info();
        output.document(&VerifyReport {
            index: args.index.display().to_string(),
            model: &info.name,
            backend: info.backend.to_string(),
            dtype: info.dtype.to_string(),
            n_rows_of_index: n_rows,
            verification: &verification,
        })?;
    } else {
        print(&verification, n_rows, output)?;
    }
    Ok(if is_right { ExitCode::SUCCESS } else { ExitCode::from(GATE_NOT_MET) })
}

fn print(verification: &Verification, n_rows: usize, output: &Output) -> Result<()> {
    let (style, headline) = match verification.verdict {
        Verdict::Same => (GOOD, "same: the index has the vectors of this model"),
        Verdict::OtherArithmetic => (GOOD, "same space, other arithmetic: most likely another dtype"),
        Verdict::OtherWay => (BAD, "different: the index was made with this model in another way"),
        Verdict::OtherModel => (BAD, "different: the index is of another model"),
    };
    output.line(&output.paint(style, headline))?;
    for difference in &verification.differences {
        output.line(&output.for_stdout(&format!("  {}", sentence(difference))))?;
    }
    let Verification { n_rows: compared, cosine_min, cosine_mean, explained_min, explained_mean, .. } = verification;
    output.line(&format!(
        "{} {compared} of {n_rows} rows, cosine {cosine_min:.6} at least, {cosine_mean:.6} in the mean",
        output.paint(BOLD, "compared")
    ))?;
    if !verification.differences.is_empty() {
        output.line(&format!(
            "{} with that, {explained_min:.6} at least, {explained_mean:.6} in the mean",
            output.paint(BOLD, "explained")
        ))?;
    }
    Ok(())
}

fn sentence(difference: &Difference) -> String {
    let yes = |flag: bool| if flag { "" } else { "not " };
    match difference {
        Difference::Prompt { index, expected } => format!("prompt: the index has {index:?}, expected {expected:?}"),
        Difference::Pooling { index, expected } => format!("pooling: the index has `{index}`, expected `{expected}`"),
        Difference::End { index, expected } => format!(
            "end of text: the index was made {} it, expected {}",
            if *index { "with" } else { "without" },
            if *expected { "with" } else { "without" }
        ),
        Difference::Normalization { index, expected } => {
            format!("length: the vectors of the index are {}of length 1, expected {}so", yes(*index), yes(*expected))
        }
        Difference::Truncation { index, expected } => format!("longest text: the index has {index} tokens, expected {expected}"),
        Difference::OuterBlanks => "blanks around texts were removed".into(),
        Difference::LowerCase { index } => format!("texts were {}turned to lower case", yes(*index)),
        Difference::Dimensions { index, expected } => format!("dimensions: the index has {index}, expected {expected}"),
        Difference::NoDense => "the layers that follow pooling were left out".into(),
    }
}
