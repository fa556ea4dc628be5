//! Which products of a graph get inputs for adapters.

use tandem_core::adapter::AdaptedModule;
use tandem_onnx_graph::{AdapterInputs, Graph, Node, module_name};

/// The inputs that `graph` needs for adapters of `modules`, beside those that it has. A module without a product needs none, nor does one that
/// Tandem's operators compute, where they are used: `has_custom`.
pub(crate) fn needed_inputs(graph: &Graph, modules: &[AdaptedModule], has_custom: bool) -> Vec<AdapterInputs> {
    let own = own_inputs(graph);
    let mut needed = Vec::new();
    for product in graph.products().iter().filter(|product| !(has_custom && product.has_custom_operator())) {
        let is_here = |module: &&AdaptedModule| product.modules().iter().any(|(name, _)| *name == module.module);
        let mut here = modules.iter().filter(is_here).peekable();
        let has_gain = here.peek().is_some() && here.clone().any(|module| module.has_magnitude);
        if here.peek().is_some() && (has_gain || !own.iter().any(|own| own == product.name())) {
            needed.push(AdapterInputs { product: product.name().into(), has_gain });
        }
    }
    needed
}

/// The products whose result is added to that of factors which are inputs, with nothing between: `x W + (x A) B`. A graph that does
/// something else between them, such as a scale of its own, is treated as one without these inputs.
pub(crate) fn own_inputs(graph: &Graph) -> Vec<String> {
    let inputs = graph.main().inputs.iter().filter(|input| input.name.contains(".lora_A"));
    inputs.filter_map(|input| is_added(graph, &input.name).then(|| module_of(&input.name)).flatten()).collect()
}

/// Whether `graph` has products of modules, at a glance.
pub(crate) fn has_modules(graph: &Graph) -> bool {
    let weights = graph.initializers().iter().map(|tensor| tensor.name.as_str());
    graph.nodes().iter().map(|node| node.name.as_str()).chain(weights).any(|name| module_name(name).is_some())
}

fn module_of(input: &str) -> Option<String> {
    module_name(input.split_once(".lora_A")?.0)
}

fn is_added(graph: &Graph, first: &str) -> bool {
    let second = first.replace(".lora_A", ".lora_B");
    let product =
        |factor: &str| only(graph, |node| node.op_type == "MatMul" && node.inputs.get(1).is_some_and(|name| name == factor));
    let (Some(small), Some(update)) = (product(first), product(&second)) else { return false };
    let added = only(graph, |node| node.inputs.contains(&update.outputs[0]));
    update.inputs.first() == small.outputs.first() && added.is_some_and(|node| node.op_type == "Add")
}

/// The node that `is_it` is true of, if there is one alone.
fn only(graph: &Graph, is_it: impl Fn(&Node) -> bool) -> Option<&Node> {
    let mut nodes = graph.nodes().iter().filter(|node| is_it(node) && !node.outputs.is_empty());
    nodes.next().filter(|_| nodes.next().is_none())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tandem_core::DType;
    use tandem_core::backend::{Kernels, LoadOptions};
    use tandem_core::files::ModelFiles;

    use super::*;
    use crate::source::Source;

    #[test]
    fn products_of_own_operators_need_no_inputs() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens/qwen2-tied");
        let files = ModelFiles::discover(&golden, "qwen2-tied").unwrap();
        let config = files.model_config().unwrap();
        for (dtype, is_own) in [(DType::Int4, true), (DType::Int8, true), (DType::F32, true), (DType::F16, false)] {
            let mut options = LoadOptions::new().with_dtype(dtype);
            options.onnx.kernels = Some(Kernels::Tandem);
            let mut source = Source::choose(&files, &config, &options).unwrap();
            let (graph, _) = source.graph().unwrap();
            let products = graph.products();
            let names = products.iter().flat_map(|product| product.modules().iter().map(|(name, _)| name.clone()));
            let modules: Vec<AdaptedModule> = names.map(|module| AdaptedModule { module, has_magnitude: true }).collect();
            let needed = needed_inputs(&graph, &modules, false);
            assert_eq!(needed.len(), products.len(), "{dtype}");
            assert_eq!(needed_inputs(&graph, &modules, true), if is_own { vec![] } else { needed }, "{dtype}");
            source.use_custom_operators(&options).unwrap();
            let own: Vec<&str> = source.custom_products.iter().map(|product| product.name.as_str()).collect();
            let expected: Vec<&str> = products.iter().filter(|_| is_own).map(|product| product.name()).collect();
            assert_eq!(own, expected, "{dtype}");
        }
    }
}
