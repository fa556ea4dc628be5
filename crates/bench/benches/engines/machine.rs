//! What is measured of a process of its own: the peak of a load.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use tandem_backend_candle::CandleBackend;
use tandem_bench::peak_rss_bytes;
use tandem_bench::record::bytes_per_weight;
use tandem_core::files::ModelFiles;
use tandem_core::{Backend, DType, LoadOptions};

/// Loads `checkpoint` into this process, which has done nothing else, and prints what that took.
pub(crate) fn load_alone(checkpoint: &Path, dtype: DType, threads: usize) -> Result<()> {
    let files = ModelFiles::discover(checkpoint, &checkpoint.to_string_lossy())?;
    let options = LoadOptions::new().with_dtype(dtype).with_threads(crate::runner::threads(threads)?);
    let started = Instant::now();
    let model = CandleBackend::new().load(&files, &options)?;
    let seconds = started.elapsed().as_secs_f64();
    let source: u64 = model.info().weight_files.iter().map(|file| file.bytes).sum();
    let result = (bytes_per_weight(model.info().memory_dtype) * files.model_config()?.n_parameters() as f64) as u64;
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    println!(
        "load to {dtype:<5} {seconds:>5.1} s, peak {:.0} MB of {:.0} allowed (source {:.0}, result {:.0})",
        megabytes(peak_rss_bytes().context("the system tells")?),
        1.2 * megabytes(source.max(result)) + 200.0,
        megabytes(source),
        megabytes(result),
    );
    Ok(())
}
