//! Which nodes become a block, whatever exporter wrote them, and which stay with the engine.

use super::super::super::tests::{graph_of, node};
use super::super::block::{OUTPUTS_ATTRIBUTE, STEPS_ATTRIBUTE, WIDTHS_ATTRIBUTE};
use super::super::{ADAPTER_INPUT, BLOCK_OPERATOR, CONTRIB, OPERATOR_DOMAIN};
use super::*;
use crate::encode::{self, Data};
use crate::graph::{Attribute, DataType, Dim, ValueInfo};
use crate::schema::graph;
use crate::wire::put_bytes;

/// The width of all rows.
const WIDTH: i64 = 64;

fn contrib(op_type: &str, inputs: &[&str], outputs: &[&str], attributes: &[(&str, AttributeValue)]) -> Node {
    let attributes = attributes.iter().map(|(name, value)| Attribute { name: (*name).into(), value: value.clone() }).collect();
    Node { domain: CONTRIB.into(), attributes, ..node(op_type, inputs, outputs) }
}

fn product(input: &str, output: &str) -> Node {
    let ints = [("K", WIDTH), ("N", WIDTH), ("block_size", 32), ("accuracy_level", 4)];
    contrib("MatMulNBits", &[input, "codes", "scales"], &[output], &ints.map(|(name, value)| (name, AttributeValue::Int(value))))
}

fn skip_norm(inputs: [&str; 2], outputs: &[&str]) -> Node {
    contrib("SkipSimplifiedLayerNormalization", &[inputs[0], inputs[1], "weight"], outputs, &[])
}

/// The rows `x` and `other` and the halves `half` are given.
fn graph(nodes: &[Node], outputs: &[&str]) -> Graph {
    let mut fields = Vec::new();
    let mut constant = |name: &str, data_type: DataType, dims: &[i64]| {
        let bytes = vec![0; (dims.iter().product::<i64>() as u64 * data_type.bits().unwrap() / 8) as usize];
        put_bytes(&mut fields, graph::INITIALIZER, encode::tensor(name, data_type, dims, Data::Raw(&bytes)));
    };
    constant("codes", DataType::UINT8, &[WIDTH, WIDTH / 32, 16]);
    constant("scales", DataType::FLOAT, &[WIDTH, WIDTH / 32]);
    constant("weight", DataType::FLOAT, &[WIDTH]);
    constant("narrow", DataType::FLOAT, &[1]);
    let mut value = |field, name: &str, data_type| {
        let value = ValueInfo { name: name.into(), data_type: Some(data_type), dims: Some(vec![Dim::Unknown; 3]) };
        put_bytes(&mut fields, field, encode::value_info(&value));
    };
    value(graph::INPUT, "x", DataType::FLOAT);
    value(graph::INPUT, "other", DataType::FLOAT);
    value(graph::INPUT, "half", DataType::FLOAT16);
    outputs.iter().for_each(|output| value(graph::OUTPUT, output, DataType::FLOAT));
    graph_of(nodes, &fields)
}

fn edited(before: &Graph) -> Graph {
    let mut edit = before.edit();
    edit.use_custom_operators(DataType::FLOAT);
    Graph::parse(edit.to_bytes().unwrap(), "edited.onnx").unwrap()
}

/// The operators of the graph after the edit.
fn operators(nodes: &[Node], outputs: &[&str]) -> Vec<String> {
    edited(&graph(nodes, outputs)).nodes().iter().map(|node| node.op_type.clone()).collect()
}

fn read(node: &Node) -> RowBlock {
    let ints = |name: &str| match node.attribute(name) {
        Some(AttributeValue::Ints(values)) => values.clone(),
        other => panic!("{name}: {other:?}"),
    };
    RowBlock::from_ints(&ints(STEPS_ATTRIBUTE), &ints(WIDTHS_ATTRIBUTE), &ints(OUTPUTS_ATTRIBUTE)).unwrap()
}

/// Between two attentions, as exporters for ONNX Runtime write it: with `gate` from the gate's product to its activation.
fn layer(gate: &[Node]) -> Vec<Node> {
    let before = [product("x", "out"), skip_norm(["x", "out"], &["normed", "", "", "sum"]), product("normed", "g")];
    let after = [
        product("normed", "u"),
        node("Mul", &["a", "u"], &["gated"]),
        product("gated", "down"),
        skip_norm(["sum", "down"], &["y", "", "", "residual"]),
        product("y", "qkv"),
    ];
    [&before[..], gate, &after[..]].concat()
}

#[test]
fn a_layer_becomes_one_node() {
    let quick = contrib("QuickGelu", &["g"], &["a"], &[("alpha", AttributeValue::Float(1.0))]);
    let sigmoid = [node("Sigmoid", &["g"], &["s"]), node("Mul", &["g", "s"], &["a"])];
    for gate in [&[quick][..], &sigmoid] {
        let nodes = layer(gate);
        let after = edited(&graph(&nodes, &["qkv", "residual"]));
        let [node] = after.nodes() else { panic!("{:?}", after.nodes()) };
        assert_eq!((node.op_type.as_str(), node.domain.as_str()), (BLOCK_OPERATOR, OPERATOR_DOMAIN));
        assert_eq!(node.inputs, ["x", "codes", "scales", "weight"]);
        assert_eq!(node.outputs, ["residual", "qkv"]);
        let kinds: Vec<String> =
            read(node).steps.iter().map(|step| format!("{step:?}").split([' ', '(']).next().unwrap().into()).collect();
        // Both products of the same input are one step.
        assert_eq!(kinds, ["Products", "Add", "RmsNorm", "Products", "Gated", "Products", "Add", "RmsNorm", "Products"]);
        assert!(matches!(&read(node).steps[3], RowStep::Products { matrices, .. } if matrices.len() == 2));
        assert!(matches!(&read(node).steps[4], RowStep::Gated(RowFunction::Silu, _)));
        assert!(read(node).widths.iter().all(|&width| [0, WIDTH as usize].contains(&width)));
    }
}

#[test]
fn values_that_something_else_reads_are_returned() {
    let chain = [product("x", "a"), product("a", "b"), product("b", "c"), node("Neg", &["b"], &["d"])];
    let after = edited(&graph(&chain, &["a", "c", "d"]));
    let names: Vec<_> = after.nodes().iter().map(|node| node.op_type.as_str()).collect();
    assert_eq!(names, [BLOCK_OPERATOR, "Neg"]);
    assert_eq!(after.nodes()[0].outputs, ["a", "b", "c"]);
    // An activation that is an output is not put into a product.
    let gate = contrib("QuickGelu", &["g"], &["a"], &[("alpha", AttributeValue::Float(1.0))]);
    let after = edited(&graph(&layer(&[gate]), &["qkv", "residual", "a"]));
    assert_eq!(after.nodes()[0].outputs, ["a", "residual", "qkv"]);
    assert!(read(&after.nodes()[0]).steps.iter().any(|step| matches!(step, RowStep::Mul(_))));
}

#[test]
fn a_block_ends_where_another_node_needs_it() {
    let chain = [product("x", "a"), node("Neg", &["other"], &["n"]), product("a", "b"), product("b", "c")];
    assert_eq!(operators(&chain, &["c", "n"]), ["Neg", BLOCK_OPERATOR], "a node that needs nothing of it is before it");
    let chain = [product("x", "a"), product("a", "b"), node("Neg", &["b"], &["n"]), product("a", "c"), product("c", "d")];
    assert_eq!(operators(&chain, &["d", "n"]), [BLOCK_OPERATOR, "Neg", BLOCK_OPERATOR]);
    let chain = [product("x", "a"), node("Neg", &["a"], &["n"]), product("n", "b")];
    assert_eq!(operators(&chain, &["b"]), ["MatMulNBits", "Neg", "MatMulNBits"], "a product alone stays alone");
    let chain = [node("Sigmoid", &["x"], &["a"]), node("Sigmoid", &["a"], &["b"])];
    assert_eq!(operators(&chain, &["b"]), ["Sigmoid", "Sigmoid"], "without a product nothing changes");
}

#[test]
fn rows_that_may_differ_are_not_put_together() {
    let own = ["MatMulNBits", BLOCK_OPERATOR];
    let check = |what: &str, last: Node, is_in: bool| {
        let found = operators(&[product("x", "a"), product("a", "b"), last.clone()], &["b", last.outputs[0].as_str()]);
        let expected: Vec<&str> = if is_in { vec![own[1]] } else { vec![own[1], last.op_type.as_str()] };
        assert_eq!(found, expected, "{what}");
    };
    let with = |node: Node, name: &str, value: AttributeValue| {
        let attributes = vec![Attribute { name: name.into(), value }];
        Node { attributes, ..node }
    };
    let norm = || node("SimplifiedLayerNormalization", &["b", "weight"], &["y"]);
    check("sum", node("Add", &["a", "b"], &["y"]), true);
    check("sum with rows of another size", node("Add", &["b", "other"], &["y"]), false);
    check("sum with a vector", node("Add", &["weight", "b"], &["y"]), true);
    check("sum with a number", node("Add", &["b", "narrow"], &["y"]), false);
    check("product with a vector", node("Mul", &["b", "weight"], &["y"]), false);
    check("norm", norm(), true);
    check("norm over all but the first dim", with(norm(), "axis", AttributeValue::Int(1)), false);
    check("norm in halves", with(norm(), "stash_type", AttributeValue::Int(10)), false);
    check("norm of halves", node("SimplifiedLayerNormalization", &["half", "weight"], &["y"]), false);
    check("norm of one number", node("SimplifiedLayerNormalization", &["b", "narrow"], &["y"]), false);
    check("norm with deviations", node("SimplifiedLayerNormalization", &["b", "weight"], &["y", "deviations"]), false);
    check("norm of a sum", skip_norm(["a", "b"], &["y"]), true);
    check("norm of a sum with other rows", skip_norm(["b", "other"], &["y"]), false);
    check(
        "norm of a sum with a bias",
        contrib("SkipSimplifiedLayerNormalization", &["a", "b", "weight", "weight"], &["y"], &[]),
        false,
    );
    check("another activation", contrib("QuickGelu", &["b"], &["y"], &[]), false);
    check("GELU", with(node("Gelu", &["b"], &["y"]), "approximate", AttributeValue::Text(b"tanh".to_vec())), true);
    check("exact GELU", node("Gelu", &["b"], &["y"]), false);
    check("another domain", Node { domain: "other".into(), ..node("Sigmoid", &["b"], &["y"]) }, false);
    let biased = Node { inputs: ["b", "codes", "scales", "", "", "a"].map(String::from).into(), ..product("b", "y") };
    assert_eq!(operators(&[product("x", "a"), product("a", "b"), biased], &["y"]), [own[1], own[0]], "a bias that is computed");
}

#[test]
fn products_of_modules_get_an_input_for_adapters() {
    let named = |input: &str, output: &str, name: &str| Node { name: name.into(), ..product(input, output) };
    let nodes =
        [named("x", "a", "/model/layers.0/mlp/gate_proj/MatMul"), named("x", "b", ""), named("b", "c", "layers.0.mlp.down_proj")];
    let before = graph(&nodes, &["a", "c"]);
    let mut edit = before.edit();
    let names: Vec<_> = edit.use_custom_operators(DataType::FLOAT).products.iter().map(|product| product.name.clone()).collect();
    assert_eq!(names, ["layers.0.mlp.gate_proj", "layers.0.mlp.down_proj"]);
    let after = Graph::parse(edit.to_bytes().unwrap(), "edited.onnx").unwrap();
    let [node] = after.nodes() else { panic!("{:?}", after.nodes()) };
    assert_eq!(node.inputs, ["x", "codes", "scales", ADAPTER_INPUT]);
    let name = |number| node.attribute(&super::super::block::product_attribute(number)).cloned();
    assert!(matches!(name(0), Some(AttributeValue::Text(name)) if name == b"layers.0.mlp.gate_proj"));
    assert!(name(1).is_none());
    assert!(matches!(name(2), Some(AttributeValue::Text(name)) if name == b"layers.0.mlp.down_proj"));
    assert_eq!(read(node).n_inputs(), Some(3));
}

/// The time that an edit takes does not grow with the square of a hostile graph.
#[test]
fn a_block_has_a_limited_number_of_nodes() {
    let names: Vec<String> = (0..MOST_NODES + 40).map(|i| format!("v{i}")).collect();
    let sums = names.windows(2).map(|pair| node("Add", &[&pair[0], &pair[0]], &[&pair[1]]));
    let nodes: Vec<Node> = std::iter::once(product("x", &names[0])).chain(sums).collect();
    let operators = operators(&nodes, &[&names[names.len() - 1]]);
    assert_eq!(operators[0], BLOCK_OPERATOR);
    assert_eq!(operators.len(), 1 + names.len() - MOST_NODES, "what is left has no product");
}
