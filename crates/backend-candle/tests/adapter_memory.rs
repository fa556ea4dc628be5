//! What a model with adapters takes beside its base: a counting allocator holds it to the factors.
#![allow(clippy::unwrap_used, missing_docs, reason = "a failed test is a panic")]
#![allow(unsafe_code, reason = "an allocator is unsafe by nature")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tandem_backend_candle::CandleBackend;
use tandem_core::adapter::{Adapter, LowRankFactors, ScaledAdapter};
use tandem_core::config::WeightRole;
use tandem_core::files::ModelFiles;
use tandem_core::{Backend, DType, LoadOptions};

/// Counts the bytes that are allocated.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call is forwarded to the system allocator with unchanged arguments.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `GlobalAlloc`, which is that of the system allocator.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `GlobalAlloc`, which is that of the system allocator.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[test]
fn adapted_model_takes_its_factors() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens/qwen3-head128");
    let files = ModelFiles::discover(&directory, "qwen3-head128").unwrap();
    let config = files.model_config().unwrap();
    let projections = config.expected_weights().filter(|weight| weight.role == WeightRole::Projection);
    // A rank so large that the rest is little beside it even here.
    let rank = 256;
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
        // Threads allocate what they keep.
        drop(apply());
        let before = HELD.load(Ordering::Relaxed);
        let adapted = apply();
        let taken = HELD.load(Ordering::Relaxed) - before;
        let allowed = 1.05 * share * adapter.adapter.bytes() as f64;
        assert!(taken as f64 <= allowed, "{dtype}: {taken} bytes, {allowed:.0} are allowed");
        assert!(taken as f64 >= 0.9 * allowed, "{dtype}: {taken} bytes are fewer than the factors");
        drop(adapted);
    }
}
