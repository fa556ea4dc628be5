//! Checks an untrusted graph before an engine reads it: what it would open, run and allocate.
//!
//! ONNX Runtime checks much of this itself, and has been wrong about it (the CVEs of external data that leaves the model's
//! directory); an error from here also names the field.

mod external;
mod tensor;

use std::collections::BTreeSet;
use std::path::Path;

pub(crate) use self::external::resolve;
use crate::error::{At, Error, Result};
use crate::graph::walk::Visit;
use crate::graph::{Graph, Node, Subgraph};

/// Domains whose operators ONNX Runtime has built in.
const BUILT_IN_DOMAINS: [&str; 7] =
    ["", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc", "com.ms.internal.nhwc", "ai.onnx.preview.training"];

impl Graph {
    /// Checks the graph against the files in its `directory`: tensors have the size of their shape; external data stays within the
    /// directory (or the blobs of its hub cache) and within its file; operators do not need libraries; names are unique.
    ///
    /// # Errors
    /// The first thing that is wrong, by field and value.
    pub fn check(&self, directory: &Path) -> Result<()> {
        let mut files = external::Files::new(directory);
        let functions: BTreeSet<_> = self.functions().iter().map(|f| (f.domain.as_str(), f.name.as_str())).collect();
        if self.contents().n_training_infos > 0 {
            return Err(Error::bad_field(self.file(), "training_info", "training graphs are not supported"));
        }
        self.walk(&mut |at, visited| match visited {
            Visit::Subgraph(graph) => check_names(self.file(), at, graph),
            Visit::Node(node) => check_operator(self.file(), at, node, &functions),
            Visit::Tensor(tensor) => tensor::check(self.file(), at, tensor, Some(&mut files)),
            Visit::SparsePart(tensor) => tensor::check(self.file(), at, tensor, None),
        })
    }
}

fn check_names(file: &str, at: &At<'_>, graph: &Subgraph) -> Result<()> {
    let mut names = BTreeSet::new();
    for (index, tensor) in graph.initializers.iter().enumerate() {
        let at = at.item("initializer", index);
        let at = at.field("name");
        if tensor.name.is_empty() {
            return Err(Error::bad_field(file, at, "an initializer without a name"));
        }
        if !names.insert(tensor.name.as_str()) {
            return Err(Error::bad_field(file, at, format!("`{}` names two initializers", tensor.name)));
        }
    }
    let mut values = BTreeSet::new();
    for (index, node) in graph.nodes.iter().enumerate() {
        for (output, name) in node.outputs.iter().enumerate().filter(|(_, name)| !name.is_empty()) {
            if names.contains(name.as_str()) || !values.insert(name.as_str()) {
                let at = at.item("node", index);
                return Err(Error::bad_field(file, at.item("output", output), format!("`{name}` is computed or defined twice")));
            }
        }
    }
    Ok(())
}

fn check_operator(file: &str, at: &At<'_>, node: &Node, functions: &BTreeSet<(&str, &str)>) -> Result<()> {
    let operator = node.operator();
    if node.op_type == "EPContext" {
        return Err(Error::bad_field(file, at.field("op_type"), format!("`{operator}` runs compiled code of an accelerator"))
            .with_hint("use the graph from which it was compiled"));
    }
    let domain = node.domain.as_str();
    if BUILT_IN_DOMAINS.contains(&domain) || functions.contains(&(domain, node.op_type.as_str())) {
        return Ok(());
    }
    let problem = format!("`{operator}` is a custom operator, and custom operator libraries are not loaded");
    Err(Error::bad_field(file, at.field("domain"), problem)
        .with_hint("export the model again with the operators of ONNX Runtime"))
}

#[cfg(test)]
mod tests;
