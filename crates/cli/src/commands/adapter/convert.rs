//! `tandem adapter convert`: an adapter in another form, or within a checkpoint.

use std::process::ExitCode;

use anyhow::{Context, Result};
use serde::Serialize;
use tandem::adapters::{MergeOptions, ScaledAdapter, write_merged, write_mlx, write_onnx_adapter, write_peft};
use tandem::{CancelToken, DType, ModelFiles};

use super::{checkpoint, read};
use crate::args::{AdapterConvertArgs, AdapterForm};
use crate::failure::Usage;
use crate::interrupt::Interrupts;
use crate::output::Output;

/// What `--json` prints.
#[derive(Serialize)]
struct ConvertReport {
    adapter: String,
    form: String,
    path: String,
}

pub(super) fn convert(args: &AdapterConvertArgs, output: &Output) -> Result<ExitCode> {
    let is_merge = args.to == AdapterForm::Merged;
    if !is_merge && args.scale != 1.0 {
        return Err(
            Usage::new("`--scale` is for `--to merged`", "apply a part of an adapter with `--adapter ADAPTER=SCALE`").into()
        );
    }
    if args.dtype.is_some() && !is_merge && args.to != AdapterForm::OnnxAdapter {
        return Err(
            Usage::new("`--dtype` is for `--to merged` and `--to onnx-adapter`", "leave it out: values are kept in f32").into()
        );
    }
    let base = args.base.as_deref().map(|base| checkpoint(base, output)).transpose()?;
    let config = base.as_ref().map(ModelFiles::model_config).transpose()?;
    let adapter = ScaledAdapter { scale: args.scale, ..read(&args.adapter.reference, config.as_ref(), output)? };
    let path = &args.path;
    match (args.to, &base) {
        (AdapterForm::Peft, _) => write_peft(&adapter.adapter, path)?,
        (AdapterForm::Mlx, _) => write_mlx(&adapter.adapter, path, config.map(|config| config.n_layers))?,
        (AdapterForm::OnnxAdapter, _) => write_onnx_adapter(&adapter.adapter, path, args.dtype.unwrap_or(DType::F32))?,
        (AdapterForm::Merged, Some(base)) => merge(base, adapter, args, output)?,
        (AdapterForm::Merged, None) => {
            return Err(Usage::new("merging needs the checkpoint", "name it with `--base MODEL`").into());
        }
    }
    let path = path.display().to_string();
    if output.is_json() {
        let form = clap::ValueEnum::to_possible_value(&args.to).map_or(String::new(), |form| form.get_name().to_owned());
        output.document(&ConvertReport { adapter: args.adapter.reference.clone(), form, path })?;
    } else {
        output.line(&output.for_stdout(&path))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Ctrl-C leaves nothing behind.
fn merge(base: &ModelFiles, adapter: ScaledAdapter, args: &AdapterConvertArgs, output: &Output) -> Result<()> {
    let cancel = CancelToken::new();
    let interrupts = Interrupts::install(cancel.clone()).context("Ctrl-C cannot be listened to")?;
    let progress = output.progress(format!("merging into {}", base.name));
    let options = MergeOptions { dtype: args.dtype, progress: progress.listener(), cancel };
    interrupts.arm();
    let merged = write_merged(base, &[adapter], &args.path, &options);
    interrupts.disarm();
    drop(progress);
    Ok(merged?)
}
