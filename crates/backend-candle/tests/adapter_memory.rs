//! What a model with adapters takes beside its base: memory that the process has, by the system's count.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, missing_docs, reason = "a failed test is a panic")]

use std::fs;
use std::path::Path;
use std::sync::Arc;

use tandem_backend_candle::CandleBackend;
use tandem_core::adapter::{Adapter, LowRankFactors, ScaledAdapter};
use tandem_core::config::WeightRole;
use tandem_core::files::ModelFiles;
use tandem_core::{Backend, DType, LoadOptions, allocator};

/// Bytes of the process that are in memory, without what it has freed.
fn held() -> usize {
    allocator::trim();
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

#[test]
fn adapted_model_takes_its_factors() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens/qwen3-head128");
    let files = ModelFiles::discover(&directory, "qwen3-head128").unwrap();
    let config = files.model_config().unwrap();
    let projections = config.expected_weights().filter(|weight| weight.role == WeightRole::Projection);
    // A rank so large that the rest is little beside it even here.
    let rank = 4096;
    let factors = projections.map(|weight| LowRankFactors {
        module: weight.name.trim_end_matches(".weight").to_owned(),
        a: vec![0.5; rank * weight.shape[1]],
        b: vec![0.5; rank * weight.shape[0]],
        rank,
        scale: 1.0,
        magnitude: None,
    });
    let adapter = ScaledAdapter::new(Arc::new(Adapter::new("mine", factors.collect()).unwrap()));
    // Beside quantised weights `A` lies in twice 8 bits, each with a scale of 4 bytes for 32, and `B` in 16 bits.
    let sizes = |of: fn(&LowRankFactors) -> usize| adapter.adapter.factors().iter().map(of).sum::<usize>() as f64;
    let (a, b) = (sizes(|factors| factors.a.len()), sizes(|factors| factors.b.len()));
    let narrow = (2.0 * (1.0 + 4.0 / 32.0) * a + 2.0 * b) / (4.0 * (a + b));
    for (dtype, share) in [(DType::F32, 1.0), (DType::Int4, narrow)] {
        let model = CandleBackend::new().load(&files, &LoadOptions::new().with_dtype(dtype)).unwrap();
        let apply = || model.with_adapters(std::slice::from_ref(&adapter)).unwrap();
        let before = held();
        let adapted = apply();
        let taken = held() - before;
        let allowed = 1.05 * share * adapter.adapter.bytes() as f64;
        assert!(taken as f64 <= allowed, "{dtype}: {taken} bytes, {allowed:.0} are allowed");
        assert!(taken as f64 >= 0.9 * allowed, "{dtype}: {taken} bytes are fewer than the factors");
        drop(adapted);
    }
}
