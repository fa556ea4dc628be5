//! Makes the edits that the ONNX Runtime backend makes at load, and writes the result beside the graph:
//! `cargo run -p tandem-onnx-graph --example edit -- model.onnx edited.onnx`.

use std::path::Path;

use tandem_onnx_graph::{Activations, Graph};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let [from, to] = std::env::args_os().skip(1).collect::<Vec<_>>().try_into().map_err(|_| "two paths are needed")?;
    let graph = Graph::open(Path::new(&from))?;
    let mut edit = graph.edit();
    edit.control_logits("logits")?;
    edit.set_activations(Activations::Int8WhereOpen);
    std::fs::write(to, edit.to_bytes()?)?;
    Ok(())
}
