//! Any bytes are a graph or an error, never a panic: `cargo +nightly fuzz run read`.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use tandem_onnx_graph::Graph;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(graph) = Graph::parse(bytes.to_vec(), "fuzzed.onnx") {
        let _ = graph.check(Path::new("/nonexistent"));
        let _ = graph.operator_counts();
    }
});
