//! The smallest graph that shows whether an engine computes.

use super::plan::{IR_VERSION, OPSET};
use crate::encode;
use crate::graph::{DataType, Dim, Node, ValueInfo};
use crate::schema::{graph, model};
use crate::wire::{put_bytes, put_int};

/// An ONNX file with one node: `y = x · x` of a float matrix `x` of `[2, 2]`. Every engine and provider can run it.
pub fn smoke_test_graph() -> Vec<u8> {
    let value = |name: &str| ValueInfo {
        name: name.into(),
        data_type: Some(DataType::FLOAT),
        dims: Some(vec![Dim::Fixed(2), Dim::Fixed(2)]),
    };
    let product = Node {
        name: "product".into(),
        op_type: "MatMul".into(),
        inputs: vec!["x".into(), "x".into()],
        outputs: vec!["y".into()],
        ..Node::default()
    };
    let mut body = Vec::new();
    put_bytes(&mut body, graph::NODE, encode::node(&product));
    put_bytes(&mut body, graph::NAME, "smoke_test");
    put_bytes(&mut body, graph::INPUT, encode::value_info(&value("x")));
    put_bytes(&mut body, graph::OUTPUT, encode::value_info(&value("y")));
    let mut out = Vec::new();
    put_int(&mut out, model::IR_VERSION, IR_VERSION);
    put_bytes(&mut out, model::PRODUCER_NAME, "tandem");
    put_bytes(&mut out, model::GRAPH, &body);
    put_bytes(&mut out, model::OPSET_IMPORT, encode::opset_import("", OPSET));
    out
}

#[cfg(test)]
mod tests {
    use crate::{Graph, smoke_test_graph};

    #[test]
    fn smoke_test_graph_has_one_node_and_one_input() {
        let graph = Graph::parse(smoke_test_graph(), "smoke test").unwrap();
        let nodes: Vec<_> = graph.nodes().iter().map(|node| (node.op_type.as_str(), node.inputs.len())).collect();
        assert_eq!(nodes, [("MatMul", 2)]);
        assert_eq!(graph.inputs().map(|input| input.name.as_str()).collect::<Vec<_>>(), ["x"]);
    }
}
