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
    constant("rows", DataType::FLOAT, &[32, WIDTH]);
    constant("of_head", DataType::FLOAT, &[16]);
    constant("narrow_rows", DataType::BFLOAT16, &[WIDTH, WIDTH]);
    let mut integers = |name: &str, values: &[i64]| {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let tensor = encode::tensor(name, DataType::INT64, &[values.len() as i64], Data::Raw(&bytes));
        put_bytes(&mut fields, graph::INITIALIZER, tensor);
    };
    integers("sizes", &[32, 16, 16]);
    integers("huge_sizes", &[i64::MAX, i64::MAX, 66]);
    integers("two_heads", &[0, 0, 2, 16]);
    integers("one_head", &[0, 0, 1, 16]);
    integers("other_heads", &[0, 0, 2, 8]);
    integers("both", &[0, 0, 32]);
    integers("one", &[0, 0, 16]);
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

fn float_product(inputs: [&str; 2], output: &str, attributes: &[(&str, AttributeValue)]) -> Node {
    contrib("FusedMatMul", &inputs, &[output], &[&[("transB", AttributeValue::Int(1))], attributes].concat())
}

fn widened(output: &str) -> Node {
    let attributes = vec![Attribute { name: "to".into(), value: AttributeValue::Int(DataType::FLOAT.0.into()) }];
    Node { attributes, ..node("Cast", &["narrow_rows"], &[output]) }
}

#[test]
fn products_of_floats_read_what_was_cast_and_add_their_bias() {
    let nodes = [
        widened("w"),
        float_product(["x", "w"], "a", &[]),
        node("Add", &["weight", "a"], &["b"]),
        float_product(["x", "rows"], "c", &[]),
        float_product(["b", "w"], "d", &[("alpha", AttributeValue::Float(1.0))]),
        node("Add", &["d", "weight"], &["e"]),
    ];
    let after = edited(&graph(&nodes, &["c", "d", "e"]));
    let [block] = after.nodes() else { panic!("{:?}", after.nodes()) };
    assert_eq!(
        (&block.inputs[..], &block.outputs[..]),
        (&["x", "narrow_rows", "weight", "rows"].map(String::from)[..], &["c", "d", "e"].map(String::from)[..])
    );
    let width = WIDTH as usize;
    let narrow = FloatMatrix { weights: 1, data_type: DataType::BFLOAT16, bias: Some(2), columns: width, rows: width };
    let wide = FloatMatrix { weights: 3, data_type: DataType::FLOAT, bias: None, columns: width, rows: 32 };
    let expected = [
        RowStep::FloatProducts { input: 0, matrices: vec![narrow, wide] },
        // Something else reads what the bias is added to.
        RowStep::FloatProducts { input: 4, matrices: vec![FloatMatrix { bias: None, ..narrow }] },
        RowStep::AddVector([6, 2]),
    ];
    assert_eq!(read(block).steps, expected);
}

#[test]
fn a_product_of_floats_alone_is_a_block_and_others_stay() {
    let check = |what: &str, nodes: &[Node], outputs: &[&str], expected: &[&str]| {
        assert_eq!(operators(nodes, outputs), expected, "{what}");
    };
    let product = |attributes: &[(&str, AttributeValue)]| [widened("w"), float_product(["x", "w"], "a", attributes)];
    check("alone", &product(&[]), &["a"], &[BLOCK_OPERATOR]);
    check("what was cast is read elsewhere", &product(&[]), &["a", "w"], &["Cast", BLOCK_OPERATOR]);
    let halved = product(&[("alpha", AttributeValue::Float(0.5))]);
    check("scaled", &halved, &["a"], &["Cast", "FusedMatMul"]);
    let turned = product(&[("transA", AttributeValue::Int(1))]);
    check("of turned inputs", &turned, &["a"], &["Cast", "FusedMatMul"]);
    let columns = contrib("FusedMatMul", &["x", "w"], &["a"], &[("transB", AttributeValue::Int(0))]);
    check("in columns", &[widened("w"), columns], &["a"], &["Cast", "FusedMatMul"]);
    check("with what is given", &[float_product(["x", "other"], "a", &[])], &["a"], &["FusedMatMul"]);
    let halves = Node { attributes: vec![Attribute { name: "to".into(), value: AttributeValue::Int(10) }], ..widened("w") };
    check("in halves", &[halves, float_product(["half", "w"], "a", &[])], &["a"], &["Cast", "FusedMatMul"]);
}

#[test]
fn products_of_floats_have_names_for_adapters() {
    let named = Node { name: "/model.layers.0.mlp.up_proj".into(), ..float_product(["x", "w"], "a", &[]) };
    let before = graph(&[widened("w"), named], &["a"]);
    let products = before.edit().use_custom_operators(DataType::FLOAT).products;
    let [product] = &products[..] else { panic!("{products:?}") };
    assert_eq!((product.name.as_str(), product.bits, product.n_inputs), ("layers.0.mlp.up_proj", 16, WIDTH as usize));
    // Its weights are read, for magnitudes.
    let (mut n, products) = (0, before.products());
    products[0]
        .for_each_row(0..WIDTH as usize, None, &mut |row| n += usize::from(row.iter().all(|value| *value == 0.0)))
        .unwrap();
    assert_eq!(n, WIDTH as usize);
}

fn split(input: &str) -> Node {
    let attributes = vec![Attribute { name: "axis".into(), value: AttributeValue::Int(-1) }];
    Node { attributes, ..node("Split", &[input, "sizes"], &["q", "k", "v"]) }
}

/// The norms of heads, as builders write them.
fn head_norm(input: &str, shapes: [&str; 2], output: &str) -> [Node; 3] {
    let value = |name: &str| format!("{input}.{name}");
    [
        node("Reshape", &[input, shapes[0]], &[&value("heads")]),
        node("SimplifiedLayerNormalization", &[&value("heads"), "of_head"], &[&value("normed_heads")]),
        node("Reshape", &[&value("normed_heads"), shapes[1]], &[output]),
    ]
}

fn with_norms(more: &[Node]) -> Vec<Node> {
    let norms = [head_norm("q", ["two_heads", "both"], "queries"), head_norm("k", ["one_head", "one"], "keys")].concat();
    [&[product("x", "qkv"), split("qkv")][..], &norms, more].concat()
}

#[test]
fn norms_of_heads_are_a_part_of_the_block() {
    let after = edited(&graph(&with_norms(&[]), &["queries", "keys", "v"]));
    let [block] = after.nodes() else { panic!("{:?}", after.nodes()) };
    assert_eq!(block.inputs, ["x", "codes", "scales", "of_head"]);
    let RowBlock { widths, steps, outputs } = read(block);
    let norm = |input| RowStep::RmsNorm { input, weight: 3, epsilon: 1e-5_f32.to_bits() };
    let columns = |first| RowStep::Columns { input: 4, first };
    assert_eq!(steps[1..], [columns(0), columns(32), columns(48), norm(5), norm(6)]);
    assert_eq!(widths, [64, 0, 0, 0, 64, 32, 16, 16, 32, 16]);
    let names: Vec<_> = outputs.iter().zip(&block.outputs).map(|(value, name)| (*value, name.as_str())).collect();
    assert_eq!(names, [(7, "v"), (8, "queries"), (9, "keys")]);
}

#[test]
fn heads_are_neither_returned_by_a_block_nor_given_to_one() {
    const NAMES: [&str; 3] = ["Reshape", "SimplifiedLayerNormalization", "Reshape"];
    let check = |what: &str, nodes: &[Node], outputs: &[&str], expected: &[&[&str]]| {
        assert_eq!(operators(nodes, outputs), expected.concat(), "{what}");
    };
    let all = with_norms(&[]);
    check("normed heads", &all, &["queries", "keys", "v", "k.normed_heads"], &[&[BLOCK_OPERATOR], &NAMES]);
    let reader = [node("Neg", &["q.heads"], &["n"])];
    check("heads", &with_norms(&reader), &["keys", "v", "queries", "n"], &[&[BLOCK_OPERATOR], &NAMES, &NAMES, &["Neg"]]);
    let [reshape, norm, flat] = head_norm("q", ["other_heads", "both"], "queries");
    let other = [product("x", "qkv"), split("qkv"), reshape, norm, flat];
    check("other heads", &other, &["queries", "k", "v"], &[&[BLOCK_OPERATOR], &NAMES]);
    // What comes between a value and its norm ends the block before it, and a block behind it is not given heads.
    let [reshape, norm, flat] = head_norm("q", ["two_heads", "both"], "queries");
    let between = [product("x", "qkv"), split("qkv"), reshape, node("Neg", &["k"], &["n"]), norm, flat, product("x", "z")];
    check(
        "between",
        &between,
        &["queries", "v", "n", "z"],
        &[&[BLOCK_OPERATOR, "Reshape", "Neg"], &NAMES[1..], &["MatMulNBits"]],
    );
}

/// Sizes whose sum exceeds an integer, and is 64 when it wraps, are left to the engine, which refuses them.
#[test]
fn sizes_that_overflow_are_not_those_of_a_row() {
    let mut nodes = with_norms(&[]);
    nodes[1].inputs[1] = "huge_sizes".into();
    assert_eq!(operators(&nodes, &["queries", "keys", "v"])[1], "Split");
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
