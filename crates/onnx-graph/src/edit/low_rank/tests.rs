//! Updates of packed, plain and dynamically quantised products, as their factors multiply out.

use super::super::tests::{float_constants, graph_of, node};
use super::*;
use crate::graph::{Attribute, AttributeValue};
use crate::{Graph, TensorData};

/// The products of one layer: queries, keys and values in one (4 and 2 heads of 2), a plain one and one of integers.
fn graph() -> Graph {
    let named = |name: &str, node: Node| Node { name: format!("/model/layers.7/{name}/MatMul"), ..node };
    let int = |name: &str, value| Attribute { name: name.into(), value: AttributeValue::Int(value) };
    let attention = Node {
        attributes: vec![int("num_heads", 4), int("kv_num_heads", 2)],
        ..node("GroupQueryAttention", &["qkv"], &["context"])
    };
    let nodes = [
        named("attn/qkv_proj", node("MatMul", &["hidden", "w_qkv"], &["qkv"])),
        attention,
        named("attn/o_proj", node("MatMul", &["context", "w_o"], &["o"])),
        node("DynamicQuantizeLinear", &["o"], &["o_q", "o_scale", "o_zero"]),
        named("mlp/up_proj", node("MatMulInteger", &["o_q", "w_up", "o_zero"], &["up_int"])),
        node("Cast", &["up_int"], &["up_float"]),
        node("Mul", &["up_float", "o_scale"], &["up"]),
    ];
    let weights = float_constants(&[("w_qkv", &[3, 16]), ("w_o", &[8, 3]), ("w_up", &[3, 5])]);
    graph_of(&nodes, &weights)
}

fn update<'a>(module: &'a str, a: &'a [f32], b: &'a [f32]) -> LowRank<'a> {
    LowRank { module, rank: 1, a, b, scale: 0.5 }
}

fn edited(updates: &[LowRank<'_>]) -> Graph {
    let graph = graph();
    let mut edit = graph.edit();
    edit.add_low_rank(updates).unwrap();
    Graph::parse(edit.to_bytes().unwrap(), "adapted.onnx").unwrap()
}

fn floats(graph: &Graph, name: &str) -> (Vec<i64>, Vec<f32>) {
    let tensor = graph.main().initializer(name).unwrap();
    let TensorData::Inline(range) = &tensor.data else { panic!("{name} is elsewhere") };
    let values = graph.slice(range).as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
    (tensor.dims.clone(), values.collect())
}

#[test]
fn packed_modules_share_one_update() {
    let query: Vec<f32> = (0..8).map(|value| value as f32).collect();
    let graph = edited(&[
        update("base_model.model.model.layers.7.self_attn.v_proj", &[1.0, 2.0, 3.0], &[10.0, 20.0, 30.0, 40.0]),
        update("base_model.model.model.layers.7.self_attn.q_proj", &[4.0, 5.0, 6.0], &query),
    ]);
    assert_eq!(floats(&graph, "low_rank/qkv/a"), (vec![3, 2], vec![1.0, 4.0, 2.0, 5.0, 3.0, 6.0]));
    let (dims, b) = floats(&graph, "low_rank/qkv/b");
    assert_eq!(dims, [2, 16]);
    assert_eq!(b[..16], [[0.0; 12].as_slice(), &[5.0, 10.0, 15.0, 20.0]].concat());
    assert_eq!(b[16..], [query.iter().map(|value| value * 0.5).collect(), vec![0.0; 8]].concat());
    let names: Vec<_> = graph.nodes()[..4].iter().map(|node| (node.op_type.as_str(), node.outputs[0].as_str())).collect();
    let expected =
        [("MatMul", "low_rank/qkv/base"), ("MatMul", "low_rank/qkv/small"), ("MatMul", "low_rank/qkv/update"), ("Add", "qkv")];
    assert_eq!(names, expected);
}

#[test]
fn integer_product_is_updated_after_its_cast_to_float() {
    let graph = edited(&[update("layers.7.mlp.up_proj", &[1.0; 3], &[1.0; 5])]);
    let small = graph.main().producer("low_rank/up/small").unwrap();
    assert_eq!(small.inputs[0], "o");
    assert_eq!(graph.main().producer("low_rank/up/base").unwrap().op_type, "Mul");
    assert_eq!(graph.nodes().last().unwrap().outputs, ["up"], "after the last node as well");
}

#[test]
fn mismatched_updates_are_refused() {
    let check = |updates: &[LowRank<'_>], problem: &str| {
        let graph = graph();
        let error = graph.edit().add_low_rank(updates).unwrap_err();
        assert_eq!(error.field(), Some(updates[updates.len() - 1].module));
        assert!(error.to_string().contains(problem), "{error}");
    };
    let o_proj = update("model.layers.7.self_attn.o_proj", &[1.0; 8], &[1.0; 3]);
    check(&[update("model.layers.8.self_attn.o_proj", &[], &[])], "no product of the graph belongs to this module");
    check(&[update("model.layers.7.self_attn.qkv_proj", &[], &[])], "rank 1, and the graph has 3 inputs and 16 outputs");
    check(&[update("lm_head", &[], &[])], "no product of the graph belongs to this module");
    check(&[o_proj, LowRank { module: "layers.7.self_attn.o_proj", ..o_proj }], "is updated twice");
    check(&[LowRank { a: o_proj.b, b: o_proj.a, ..o_proj }], "has 3 and 8 elements and rank 1, and the graph has 8 inputs and 3");
    check(&[LowRank { rank: usize::MAX, ..o_proj }], "rank 18446744073709551615");
    check(&[LowRank { rank: 0, a: &[], b: &[], ..o_proj }], "rank 0");

    let graph = graph();
    let mut edit = graph.edit();
    edit.add_low_rank(&[o_proj]).unwrap();
    assert!(edit.add_low_rank(&[]).unwrap_err().to_string().ends_with("have been added already"));
}

#[test]
fn adapter_inputs_have_defaults_that_change_nothing() {
    let graph = graph();
    let mut edit = graph.edit();
    let inputs = |product: &str, has_gain| AdapterInputs { product: product.into(), has_gain };
    let requested = [inputs("layers.7.self_attn.qkv_proj", false), inputs("layers.7.mlp.up_proj", true)];
    edit.add_adapter_inputs(&requested).unwrap();
    let graph = Graph::parse(edit.to_bytes().unwrap(), "adaptable.onnx").unwrap();
    let defaults: Vec<_> = graph.overridable_initializers().map(|tensor| (tensor.name.as_str(), tensor.dims.clone())).collect();
    let expected = [
        ("layers.7.self_attn.qkv_proj.lora_A.weight", vec![3, 0]),
        ("layers.7.self_attn.qkv_proj.lora_B.weight", vec![0, 16]),
        ("layers.7.mlp.up_proj.lora_A.weight", vec![3, 0]),
        ("layers.7.mlp.up_proj.lora_B.weight", vec![0, 5]),
        ("layers.7.mlp.up_proj.lora_gain", vec![5]),
    ];
    assert_eq!(defaults, expected);
    assert_eq!(floats(&graph, "layers.7.mlp.up_proj.lora_gain").1, [0.0; 5]);
    let mut edit = graph.edit();
    let again = edit.add_adapter_inputs(&[inputs("layers.7.mlp.up_proj", false)]).unwrap_err().to_string();
    assert!(again.contains("has inputs for its adapter already"), "{again}");
    let missing = graph.edit().add_adapter_inputs(&[inputs("layers.8.mlp.up_proj", false)]).unwrap_err();
    assert_eq!(missing.field(), Some("layers.8.mlp.up_proj"));
}

#[test]
fn gains_do_not_scale_a_bias_within_the_product() {
    let nodes = [Node { name: "/model/layers.0/mlp/up_proj/Gemm".into(), ..node("Gemm", &["x", "w", "bias"], &["y"]) }];
    let graph = graph_of(&nodes, &float_constants(&[("w", &[3, 5]), ("bias", &[5])]));
    let mut edit = graph.edit();
    edit.add_adapter_inputs(&[AdapterInputs { product: "layers.0.mlp.up_proj".into(), has_gain: true }]).unwrap();
    let graph = Graph::parse(edit.to_bytes().unwrap(), "adaptable.onnx").unwrap();
    let added: Vec<_> = graph.nodes()[3..].iter().map(|node| (node.op_type.as_str(), node.inputs.join(" "))).collect();
    let expected = [
        ("Sub", "low_rank/y/base bias"),
        ("Mul", "low_rank/y/unbiased layers.0.mlp.up_proj.lora_gain"),
        ("Add", "low_rank/y/base low_rank/y/gained"),
        ("Add", "low_rank/y/scaled low_rank/y/update"),
    ];
    assert_eq!(added, expected.map(|(operator, inputs)| (operator, inputs.to_owned())));
    assert_eq!(graph.nodes().last().unwrap().outputs, ["y"]);
}

#[test]
fn head_is_updated_at_the_kept_positions() {
    let nodes = [node("MatMul", &["hidden", "w"], &["logits"])];
    let mut fields = float_constants(&[("w", &[3, 5])]);
    let dims = ["batch", "tokens", "vocabulary"].map(|name| Dim::Symbolic(name.into())).to_vec();
    let logits = ValueInfo { name: "logits".into(), data_type: Some(DataType::FLOAT), dims: Some(dims) };
    crate::wire::put_bytes(&mut fields, graph::OUTPUT, encode::value_info(&logits));
    let graph = graph_of(&nodes, &fields);
    let mut edit = graph.edit();
    edit.control_logits("logits").unwrap();
    edit.add_low_rank(&[update("lm_head", &[1.0; 3], &[1.0; 5])]).unwrap();
    let graph = Graph::parse(edit.to_bytes().unwrap(), "adapted.onnx").unwrap();
    let small = graph.main().producer("low_rank/logits/small").unwrap();
    assert_eq!(small.inputs[0], "num_logits_to_keep/hidden");
    assert_eq!(graph.nodes().last().unwrap().outputs, ["logits"]);
}
