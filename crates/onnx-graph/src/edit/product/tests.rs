//! Names of modules as exporters write them, and weights in every form that is read.

use super::super::tests::{float_constants, graph_of, node};
use super::*;
use crate::encode::{self, Data};
use crate::graph::{Attribute, AttributeValue};
use crate::schema::graph::INITIALIZER;
use crate::wire::put_bytes;

#[test]
fn module_is_parsed_from_exporters_names() {
    let check = |name, expected: Option<&str>| assert_eq!(module(name).as_deref(), expected, "{name}");
    check("/model/layers.12/attn/qkv_proj/MatMul_Q4", Some("layers.12.self_attn.qkv_proj"));
    check("/model/layers.0/self_attn/q_proj/MatMul_quant", Some("layers.0.self_attn.q_proj"));
    check("/model.layers.3.mlp.down_proj", Some("layers.3.mlp.down_proj"));
    check("base_model.model.model.layers.1.self_attn.k_proj", Some("layers.1.self_attn.k_proj"));
    check("model.layers.1.mlp.experts.4.up_proj.weight", Some("layers.1.mlp.experts.4.up_proj"));
    check("/model/layers.0/self_attn/MatMul_1", None);
    check("/model/layers.0/attn/q_proj/lora_A/MatMul", None);
    check("lm_head", None);
    check("layers.x.q_proj", None);
    assert_eq!(module_name("base_model.model.lm_head").as_deref(), Some("lm_head"));
}

fn int(name: &str, value: i64) -> Attribute {
    Attribute { name: name.into(), value: AttributeValue::Int(value) }
}

fn initializers(constants: &[Vec<u8>]) -> Vec<u8> {
    let mut fields = Vec::new();
    constants.iter().for_each(|constant| put_bytes(&mut fields, INITIALIZER, constant));
    fields
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn rows(graph: &Graph, name: &str) -> Vec<f32> {
    let products = graph.products();
    let product = products.iter().find(|product| product.name() == name).unwrap_or_else(|| panic!("{name}: {products:?}"));
    let mut rows = Vec::new();
    product.for_each_row(0..product.n_outputs, None, &mut |row| rows.extend_from_slice(row)).unwrap();
    rows
}

#[test]
fn module_is_found_by_node_weight_or_bias() {
    let nodes = [
        Node { name: "/model/layers.0/attn/o_proj/MatMul".into(), ..node("MatMul", &["x", "w1"], &["y1"]) },
        node("MatMul", &["y1", "model.layers.0.mlp.up_proj.weight"], &["y2"]),
        node("Transpose", &["model.layers.0.mlp.down_proj.weight"], &["turned"]),
        node("MatMul", &["y2", "turned"], &["y3"]),
        node("MatMul", &["y3", "w4"], &["y4"]),
        node("Add", &["model.layers.1.self_attn.q_proj.bias", "y4"], &["y5"]),
        node("MatMul", &["y5", "w6"], &["/model/layers.1/mlp/gate_proj/MatMul_output_0"]),
        node("Gemm", &["y5", "w6", "model.layers.1.mlp.up_proj.bias"], &["y7"]),
        node("MatMul", &["y7", "w8"], &["y8"]),
        node("Tanh", &["y8"], &["logits"]),
        node("MatMul", &["y8", "w1"], &["nameless"]),
    ];
    let square = &[3, 3][..];
    let weights = ["w1", "model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.down_proj.weight", "w4", "w6", "w8"];
    let mut constants: Vec<(&str, &[i64])> = weights.iter().map(|name| (*name, square)).collect();
    constants.extend([("model.layers.1.self_attn.q_proj.bias", &[3][..]), ("model.layers.1.mlp.up_proj.bias", &[3])]);
    let graph = graph_of(&nodes, &float_constants(&constants));
    let names: Vec<_> = graph.products().iter().map(|product| product.name().to_owned()).collect();
    let expected = [
        "layers.0.self_attn.o_proj",
        "layers.0.mlp.up_proj",
        "layers.0.mlp.down_proj",
        "layers.1.self_attn.q_proj",
        "layers.1.mlp.gate_proj",
        "layers.1.mlp.up_proj",
        "lm_head",
    ];
    assert_eq!(names, expected);
}

#[test]
fn module_that_two_products_claim_has_none() {
    let named =
        |weight: &str, output: &str| Node { name: "/layers.0/o_proj".into(), ..node("MatMul", &["x", weight], &[output]) };
    let graph = graph_of(&[named("a", "y"), named("b", "z")], &float_constants(&[("a", &[2, 2]), ("b", &[2, 2])]));
    assert!(graph.products().is_empty());
}

#[test]
fn weights_are_read_row_by_row() {
    let named = |name: &str, node: Node| Node { name: format!("/layers.0/{name}"), ..node };
    let blocks = Node {
        domain: "com.microsoft".into(),
        attributes: vec![int("K", 3), int("N", 2), int("bits", 4), int("block_size", 16)],
        ..node("MatMulNBits", &["x", "codes", "scales", "zeros"], &["c"])
    };
    let nodes = [
        named("a_proj", node("MatMul", &["x", "plain"], &["a"])),
        node("Transpose", &["rows"], &["turned"]),
        named("b_proj", node("MatMul", &["x", "turned"], &["b"])),
        named("c_proj", blocks),
        node("DynamicQuantizeLinear", &["x"], &["q", "s", "z"]),
        named("d_proj", node("MatMulInteger", &["q", "integers", "z", "integer_zeros"], &["d_int"])),
        node("Cast", &["d_int"], &["d_float"]),
        node("Mul", &["s", "integer_scales"], &["d_scale"]),
        node("Mul", &["d_float", "d_scale"], &["d"]),
    ];
    let floats =
        |name: &str, dims: &[i64], values: &[f32]| encode::tensor(name, DataType::FLOAT, dims, Data::Raw(&bytes_of(values)));
    let bytes = |name: &str, dims: &[i64], values: &[u8]| encode::tensor(name, DataType::UINT8, dims, Data::Raw(values));
    let signed = |name: &str, dims: &[i64], values: &[u8]| encode::tensor(name, DataType::INT8, dims, Data::Raw(values));
    let mut codes = [0; 16];
    // Rows 1, 2, 3 and 4, 5, 6.
    codes[..2].copy_from_slice(&[0x21, 0x03]);
    codes[8..10].copy_from_slice(&[0x54, 0x06]);
    let constants = [
        floats("plain", &[3, 2], &[1.0, 4.0, 2.0, 5.0, 3.0, 6.0]),
        floats("rows", &[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
        bytes("codes", &[2, 1, 8], &codes),
        floats("scales", &[2, 1], &[2.0, 0.5]),
        bytes("zeros", &[2, 1], &[1, 2]),
        signed("integers", &[3, 2], &[1, 4, 2, 5, 255, 6]),
        signed("integer_zeros", &[2], &[0, 1]),
        floats("integer_scales", &[1], &[0.5]),
    ];
    let graph = graph_of(&nodes, &initializers(&constants));
    assert_eq!(rows(&graph, "layers.0.a_proj"), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    assert_eq!(rows(&graph, "layers.0.b_proj"), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    assert_eq!(rows(&graph, "layers.0.c_proj"), [0.0, 2.0, 4.0, 1.0, 1.5, 2.0]);
    assert_eq!(rows(&graph, "layers.0.d_proj"), [0.5, 1.0, -0.5, 1.5, 2.0, 2.5]);
}

#[test]
fn weights_in_typed_lists_are_read() {
    let list = |name: &str, data_type: DataType, field: u32, packed: Vec<u8>| {
        let mut out = encode::tensor(name, data_type, &[2, 1], Data::Raw(&[]));
        // `raw_data` comes last, with its length.
        out.truncate(out.len() - 2);
        put_bytes(&mut out, field, packed);
        out
    };
    let half = |value: f32| half::f16::from_f32(value).to_bits();
    let varints: Vec<u8> = [half(1.5), half(-2.0)]
        .iter()
        .flat_map(|bits| [(bits & 127) as u8 | 128, (bits >> 7 & 127) as u8 | 128, (bits >> 14) as u8])
        .collect();
    let constants = [list("floats", DataType::FLOAT, 4, bytes_of(&[1.5, -2.0])), list("halves", DataType::FLOAT16, 5, varints)];
    let named = |name: &str, weight: &str| Node { name: format!("/layers.0/{name}"), ..node("MatMul", &["x", weight], &[name]) };
    let graph = graph_of(&[named("o_proj", "floats"), named("up_proj", "halves")], &initializers(&constants));
    assert_eq!(rows(&graph, "layers.0.o_proj"), [1.5, -2.0]);
    assert_eq!(rows(&graph, "layers.0.up_proj"), [1.5, -2.0]);
}

/// A graph whose `layers.0.o_proj` multiplies by `codes`, `dims`, once they are dequantised with `attributes` by scales and zero points of
/// `[2]`, and turned if `turned`.
fn dequantised(dims: &[i64], attributes: &[Attribute], turned: bool, zeros: bool) -> Graph {
    let inputs = if zeros { &["codes", "scales", "zeros"][..] } else { &["codes", "scales"] };
    let weight = if turned { "turned" } else { "w" };
    let mut nodes = vec![Node { attributes: attributes.to_vec(), ..node("DequantizeLinear", inputs, &["w"]) }];
    nodes.extend(turned.then(|| node("Transpose", &["w"], &["turned"])));
    nodes.push(Node { name: "/layers.0/o_proj".into(), ..node("MatMul", &["x", weight], &["y"]) });
    let constants = [
        encode::tensor("codes", DataType::INT8, dims, Data::Raw(&[1, 2, 3, 4, 5, 250])),
        encode::tensor("scales", DataType::FLOAT, &[2], Data::Raw(&bytes_of(&[0.5, 2.0]))),
        encode::tensor("zeros", DataType::INT8, &[2], Data::Raw(&[1, 255])),
    ];
    graph_of(&nodes, &initializers(&constants))
}

#[test]
fn dequantised_weights_are_read_by_outputs() {
    let check = |graph: &Graph, expected: [f32; 6]| assert_eq!(rows(graph, "layers.0.o_proj"), expected);
    // `[inputs, outputs]`, three by two, with a scale for each output.
    check(&dequantised(&[3, 2], &[], false, false), [0.5, 1.5, 2.5, 4.0, 8.0, -12.0]);
    check(&dequantised(&[3, 2], &[int("axis", -1)], false, true), [0.0, 1.0, 2.0, 6.0, 10.0, -10.0]);
    // `[outputs, inputs]`, two by three.
    check(&dequantised(&[2, 3], &[int("axis", 0)], true, false), [0.5, 1.0, 1.5, 8.0, 10.0, -12.0]);
    check(&dequantised(&[2, 3], &[int("axis", -2)], true, true), [0.0, 0.5, 1.0, 10.0, 12.0, -10.0]);
}

#[test]
fn weight_that_is_not_read_names_its_module() {
    for (attributes, turned) in [(vec![int("axis", 0)], false), (vec![], true), (vec![int("block_size", 2)], false)] {
        let graph = dequantised(if turned { &[2, 3] } else { &[3, 2] }, &attributes, turned, false);
        let products = graph.products();
        let error = products[0].for_each_row(0..2, None, &mut |_| ()).unwrap_err();
        assert_eq!(error.field(), Some("layers.0.o_proj"));
    }
}
