//! `tandem export`: a directory with a graph of a checkpoint.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};
use serde::Serialize;
use tandem::adapters::AppliedAdapter;
use tandem::hub::FileSelector;
use tandem::{DType, ExportOptions, Settings};

use crate::args::ExportArgs;
use crate::engine::{AdapterRow, find_adapters, remark_on_adapters};
use crate::figures;
use crate::interrupt::Interrupts;
use crate::output::Output;
use crate::resolve::{find_with, resolve_checkpoint};
use tandem_bench::peak_rss_bytes;

/// What `--json` prints.
#[derive(Serialize)]
struct ExportReport {
    model: String,
    directory: String,
    graph: String,
    dtype: String,
    head_dtype: String,
    block_size: usize,
    zero_points: bool,
    outputs: String,
    adapter_inputs: bool,
    adapters: Vec<AdapterRow>,
    /// All files together.
    bytes: u64,
    files: Vec<FileRow>,
    export_ms: u64,
    peak_rss_bytes: Option<u64>,
}

#[derive(Serialize)]
struct FileRow {
    name: String,
    bytes: u64,
}

pub(crate) fn export(args: ExportArgs, output: &Output) -> Result<ExitCode> {
    let (resolver, resolved) = resolve_checkpoint(&args.model.reference, output)?;
    let files = find_with(FileSelector::checkpoint(), &resolver, &resolved, output)?;
    let settings = find_adapters(&resolver, Settings { adapters: args.adapter, ..Settings::default() }, output)?;
    let adapters = tandem::adapters::read_adapters(&files, &settings)?;
    let applied: Vec<AppliedAdapter> = adapters.iter().map(AppliedAdapter::of).collect();
    remark_on_adapters(&applied, &files.name, output);
    let reference = &files.name;
    let directory = args.directory.unwrap_or_else(|| default_directory(reference, args.format.dtype));
    let format = args.format.format();
    let mut options = ExportOptions { format, adapters, replace: args.force, ..ExportOptions::new(directory, format.dtype) };
    let interrupts = Interrupts::install(options.cancel.clone()).context("Ctrl-C cannot be listened to")?;
    let started = Instant::now();
    let progress = output.progress(format!("exporting {reference}"));
    options.progress = progress.listener();
    interrupts.arm();
    let exported = tandem::export(&files, &options);
    interrupts.disarm();
    drop(progress);
    let exported = exported?;

    let time = started.elapsed();
    let bytes = exported.files.iter().map(|(_, bytes)| bytes).sum();
    let directory = exported.directory.display().to_string();
    if output.is_json() {
        output.document(&ExportReport {
            model: reference.clone(),
            directory,
            graph: exported.graph.display().to_string(),
            dtype: format.dtype.to_string(),
            head_dtype: format.head_dtype.to_string(),
            block_size: format.block_size,
            zero_points: format.zero_points,
            outputs: format.outputs.to_string(),
            adapter_inputs: format.adapter_inputs,
            adapters: AdapterRow::all(&applied),
            bytes,
            files: exported.files.into_iter().map(|(name, bytes)| FileRow { name, bytes }).collect(),
            export_ms: time.as_millis() as u64,
            peak_rss_bytes: peak_rss_bytes(),
        })?;
        return Ok(ExitCode::SUCCESS);
    }
    output.line(&output.for_stdout(&directory))?;
    let n_files = exported.files.len();
    output.note(&format!("{}: {} in {n_files} files, {:.1} s", format.dtype, figures::bytes(bytes), time.as_secs_f64()));
    Ok(ExitCode::SUCCESS)
}

/// `qwen-int4` for `./models/qwen`, in the working directory.
fn default_directory(reference: &str, dtype: DType) -> PathBuf {
    let name = std::path::absolute(reference).ok().and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
    format!("{}-{dtype}", name.as_deref().unwrap_or("model")).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_called_after_the_model_and_the_dtype() {
        let check = |reference, expected: &str| assert_eq!(default_directory(reference, DType::Int4), PathBuf::from(expected));
        check("demo", "demo-int4");
        check("./models/qwen/", "qwen-int4");
        check("/", "model-int4");
        let here = std::env::current_dir().unwrap();
        check(".", &format!("{}-int4", here.file_name().unwrap().to_str().unwrap()));
    }
}
