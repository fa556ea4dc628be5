//! Any bytes are a graph or an error, never a panic, and an edited graph is one still: `cargo +nightly fuzz run read`.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use tandem_onnx_graph::{Activations, Graph};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(graph) = Graph::parse(bytes.to_vec(), "fuzzed.onnx") {
        let _ = graph.check(Path::new("/nonexistent"));
        let _ = graph.operator_counts();
        let mut edit = graph.edit();
        edit.set_activations(Activations::Float);
        let _ = edit.control_logits("logits");
        if let Ok(edited) = edit.to_bytes() {
            assert!(Graph::parse(edited, "edited.onnx").is_ok());
        }
    }
});
