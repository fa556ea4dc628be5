//! Reads and checks ONNX files, and prints what is in them: `cargo run -p tandem-onnx-graph --example inspect -- FILE…`.
#![allow(clippy::print_stdout, reason = "an example writes to the terminal")]

use std::path::Path;

use tandem_onnx_graph::Graph;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for file in std::env::args_os().skip(1) {
        let path = Path::new(&file);
        let graph = Graph::open(path)?;
        let (producer, version) = graph.producer();
        println!("{}: IR {}, by `{producer} {version}`", graph.file(), graph.ir_version());
        println!("  opsets {:?}, external files {:?}", graph.opset_imports(), graph.external_files());
        println!("  {} nodes, {} initializers", graph.nodes().len(), graph.initializers().len());
        println!("  operators {:?}", graph.operator_counts());
        for value in graph.inputs().take(4).chain(graph.outputs().iter().take(2)) {
            println!("  `{}` {:?} {:?}", value.name, value.data_type, value.dims);
        }
        match graph.check(path.parent().unwrap_or(Path::new("."))) {
            Ok(()) => println!("  sound"),
            Err(error) => println!("  error: {error}\n  hint: {}", error.hint().unwrap_or("none")),
        }
    }
    Ok(())
}
