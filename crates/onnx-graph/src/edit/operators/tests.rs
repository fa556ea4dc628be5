//! Which nodes are given to Tandem's operators, and that nothing else changes.

use super::super::tests::{graph_of, node};
use super::*;
use crate::encode::{self, Data};
use crate::graph::{Attribute, Dim, ValueInfo};
use crate::schema::graph;

fn contrib(op_type: &str, inputs: &[&str], outputs: &[&str], attributes: &[(&str, AttributeValue)]) -> Node {
    let attributes = attributes.iter().map(|(name, value)| Attribute { name: (*name).into(), value: value.clone() }).collect();
    Node { domain: CONTRIB.into(), attributes, ..node(op_type, inputs, outputs) }
}

fn ints<'a>(values: &[(&'a str, i64)]) -> Vec<(&'a str, AttributeValue)> {
    values.iter().map(|(name, value)| (*name, AttributeValue::Int(*value))).collect()
}

/// A graph of `node` with the constants of a product of 64 inputs and 3 outputs in 4 bits, and the inputs of attention.
fn graph(node: Node, past: DataType) -> Graph {
    let mut fields = Vec::new();
    let mut constant = |name: &str, data_type: DataType, dims: &[i64]| {
        let bytes = vec![0; (dims.iter().product::<i64>() as u64 * data_type.bits().unwrap() / 8) as usize];
        put_bytes(&mut fields, graph::INITIALIZER, encode::tensor(name, data_type, dims, Data::Raw(&bytes)));
    };
    constant("codes", DataType::UINT8, &[3, 2, 16]);
    constant("scales", DataType::FLOAT, &[3, 2]);
    constant("halves", DataType::FLOAT16, &[3, 2]);
    constant("zeros", DataType::UINT8, &[3, 1]);
    constant("open", DataType::FLOAT, &[3, 2]);
    for (name, data_type) in [
        ("x", DataType::FLOAT),
        ("open", DataType::FLOAT),
        ("past.key", past),
        ("past.value", past),
        ("lengths", DataType::INT32),
    ] {
        let value = ValueInfo { name: name.into(), data_type: Some(data_type), dims: Some(vec![Dim::Unknown]) };
        put_bytes(&mut fields, graph::INPUT, encode::value_info(&value));
    }
    graph_of(&[super::super::tests::node("Neg", &["x"], &["negative"]), node], &fields)
}

fn check(what: &str, node: Node, past: DataType, expected: bool) {
    let before = graph(node, past);
    let mut edit = before.edit();
    assert_eq!(edit.use_custom_operators(DataType::FLOAT).n_nodes, usize::from(expected), "{what}");
    let after = Graph::parse(edit.to_bytes().unwrap(), "edited.onnx").unwrap();
    let (old, new) = (&before.nodes()[1], &after.nodes()[1]);
    assert_eq!(new.domain == OPERATOR_DOMAIN, expected, "{what}");
    let imports: Vec<_> = after.opset_imports().iter().map(|import| (import.domain.as_str(), import.version)).collect();
    assert_eq!(imports, if expected { vec![(OPERATOR_DOMAIN, 1)] } else { vec![] }, "{what}");
    assert_eq!((&old.op_type, &old.inputs, &old.outputs), (&new.op_type, &new.inputs, &new.outputs), "{what}");
    assert_eq!(old.attributes.len(), new.attributes.len(), "{what}");
    assert_eq!(before.slice(&before.nodes()[0].range), after.slice(&after.nodes()[0].range), "{what}");
    // A second edit finds nothing more to do.
    assert_eq!(after.edit().use_custom_operators(DataType::FLOAT).n_nodes, 0, "{what}");
}

#[test]
fn products_of_whole_blocks_with_constant_weights_are_given_away() {
    let product = |inputs: &[&str], attributes: &[(&str, i64)]| contrib("MatMulNBits", inputs, &["y"], &ints(attributes));
    let plain = [("K", 64), ("N", 3), ("bits", 4), ("block_size", 32)];
    let with = |more: &[(&'static str, i64)]| [&plain, more].concat();
    let check = |what: &str, inputs: &[&str], attributes: &[(&str, i64)], expected: bool| {
        check(what, product(inputs, attributes), DataType::FLOAT, expected);
    };
    check("plain", &["x", "codes", "scales"], &plain, true);
    check("bits by default", &["x", "codes", "scales"], &[plain[0], plain[1], plain[3]], true);
    check("accuracy", &["x", "codes", "scales"], &with(&[("accuracy_level", 4)]), true);
    check("bias", &["x", "codes", "scales", "", "", "bias"], &plain, true);
    check("zero points", &["x", "codes", "scales", "zeros"], &plain, true);
    check("zero points of floats", &["x", "codes", "scales", "scales"], &plain, false);
    check("weights that may be overridden", &["x", "codes", "open"], &plain, false);
    check("weights that are computed", &["x", "codes", "negative"], &plain, false);
    check("another order of inputs", &["x", "codes", "scales", "", "lengths"], &plain, false);
    check("f16", &["x", "codes", "halves"], &plain, false);
    check("another shape", &["x", "codes", "scales"], &[("K", 64), ("N", 4), ("block_size", 32)], false);
    check("other bits", &["x", "codes", "scales"], &[("K", 64), ("N", 3), ("bits", 2), ("block_size", 32)], false);
    check("a small block", &["x", "codes", "scales"], &[("K", 64), ("N", 3), ("block_size", 16)], false);
    check("a partial block", &["x", "codes", "scales"], &[("K", 48), ("N", 3), ("block_size", 32)], false);
    check("packed by the engine", &["x", "codes", "scales"], &with(&[("weight_prepacked", 1)]), false);
    check("an unknown attribute", &["x", "codes", "scales"], &with(&[("transposed", 0)]), false);
    let elsewhere = Node { domain: "other".into(), ..product(&["x", "codes", "scales"], &plain) };
    super::tests::check("another domain", elsewhere, DataType::FLOAT, false);
}

#[test]
fn attention_that_is_known_to_the_last_attribute_is_given_away() {
    let outputs = ["y", "present.key", "present.value"];
    let plain = [("num_heads", 4), ("kv_num_heads", 2)];
    let packed = ["x", "", "", "past.key", "past.value", "lengths", "lengths"];
    let rotated = [&packed[..], &["scales", "scales"]].concat();
    let attention = |inputs: &[&str], outputs: &[&str], attributes: &[(&str, i64)]| {
        contrib("GroupQueryAttention", inputs, outputs, &ints(&[&plain, attributes].concat()))
    };
    let check_with = |what: &str, inputs: &[&str], attributes: &[(&str, i64)], expected: bool| {
        check(what, attention(inputs, &outputs, attributes), DataType::FLOAT, expected);
    };
    check_with("packed", &packed, &[], true);
    check_with("separate", &["x", "x", "x", "past.key", "past.value", "lengths", "lengths"], &[], true);
    check_with("rotated", &rotated, &[("do_rotary", 1), ("rotary_interleaved", 0), ("local_window_size", 9)], true);
    check_with("rotated without tables", &packed, &[("do_rotary", 1)], false);
    check_with("interleaved", &rotated, &[("do_rotary", 1), ("rotary_interleaved", 1)], false);
    check_with("smooth", &packed, &[("smooth_softmax", 1)], false);
    check_with("not smooth", &packed, &[("smooth_softmax", -1)], true);
    check_with("quantised cache", &packed, &[("kv_cache_bit_width", 8)], false);
    check_with("an unknown attribute", &packed, &[("causal", 0)], false);
    check_with("positions", &[&rotated[..], &["lengths"]].concat(), &[("do_rotary", 1)], false);
    check_with("positions that are left out", &[&rotated[..], &["", ""]].concat(), &[("do_rotary", 1)], true);
    check_with("no cache", &["x", "x", "x", "", "", "lengths", "lengths"], &[], false);
    check("f16", attention(&packed, &outputs, &[]), DataType::FLOAT16, false);
    let scores = [&outputs[..], &["scores"]].concat();
    check("scores", attention(&packed, &scores, &[]), DataType::FLOAT, false);
    let attributes =
        [("num_heads", AttributeValue::Int(4)), ("scale", AttributeValue::Float(0.5)), ("softcap", AttributeValue::Float(30.0))];
    check("scale and limit", contrib("GroupQueryAttention", &packed, &outputs, &attributes), DataType::FLOAT, true);
    let attributes = [("k_quant_type", AttributeValue::Text(b"PER_TENSOR".to_vec()))];
    check("quantised keys", contrib("GroupQueryAttention", &packed, &outputs, &attributes), DataType::FLOAT, false);
}

#[test]
fn product_of_a_module_gets_an_input_for_adapters() {
    let attributes = ints(&[("K", 64), ("N", 3), ("block_size", 32)]);
    let product = contrib("MatMulNBits", &["x", "codes", "scales"], &["y"], &attributes);
    let name = "/model/layers.0/attn/q_proj/MatMul";
    let before = graph(Node { name: name.into(), ..product }, DataType::FLOAT);
    let mut edit = before.edit();
    let CustomOperators { n_nodes, products } = edit.use_custom_operators(DataType::FLOAT);
    let modules = vec![("layers.0.self_attn.q_proj".to_owned(), 0..3)];
    let expected = CustomProduct { name: "layers.0.self_attn.q_proj".into(), modules, n_inputs: 64, n_outputs: 3, bits: 4 };
    assert_eq!((n_nodes, products), (1, vec![expected]));
    let after = Graph::parse(edit.to_bytes().unwrap(), "edited.onnx").unwrap();
    let node = &after.nodes()[1];
    assert_eq!(node.inputs, ["x", "codes", "scales", "", "", "", ADAPTER_INPUT]);
    let named = node.attributes.iter().find(|attribute| attribute.name == MODULE_ATTRIBUTE).map(|attribute| &attribute.value);
    assert!(matches!(named, Some(AttributeValue::Text(name)) if name == b"layers.0.self_attn.q_proj"), "{named:?}");
    let main = after.main();
    let declared = main.inputs.iter().find(|input| input.name == ADAPTER_INPUT).unwrap();
    assert_eq!((declared.data_type, declared.dims.as_deref()), (Some(DataType::INT64), Some(&[][..])));
    assert_eq!(main.initializer(ADAPTER_INPUT).unwrap().n_elements(), Some(1));
}

/// The pasts and presents of a graph of attention, and whether its cache can be narrow.
fn caches_after(node: Node, more: &[Node], outputs: &[&str], cache: DataType) -> (bool, Vec<(String, DataType)>, Vec<Node>) {
    let mut fields = Vec::new();
    let value = |name: &str, data_type| {
        let dims = vec![Dim::Fixed(1), Dim::Fixed(2), Dim::Symbolic("tokens".into()), Dim::Fixed(16)];
        encode::value_info(&ValueInfo { name: name.into(), data_type: Some(data_type), dims: Some(dims) })
    };
    for name in ["x", "past.key", "past.value"] {
        put_bytes(&mut fields, graph::INPUT, value(name, DataType::FLOAT));
    }
    put_bytes(&mut fields, graph::INPUT, value("lengths", DataType::INT32));
    for name in outputs {
        put_bytes(&mut fields, graph::OUTPUT, value(name, DataType::FLOAT));
    }
    let before = graph_of(&[&[node], more].concat(), &fields);
    let can = before.can_hold_f16();
    let mut edit = before.edit();
    edit.use_custom_operators(cache);
    let after = Graph::parse(edit.to_bytes().unwrap(), "edited.onnx").unwrap();
    let main = after.main();
    let values = main.inputs.iter().chain(&main.outputs);
    for (old, new) in before.main().inputs.iter().chain(&before.main().outputs).zip(values.clone()) {
        assert_eq!((&old.name, &old.dims), (&new.name, &new.dims));
    }
    let types = values.map(|value| (value.name.clone(), value.data_type.unwrap())).collect();
    (can, types, after.nodes().to_vec())
}

#[test]
fn caches_of_own_attention_become_f16() {
    let inputs = ["x", "", "", "past.key", "past.value", "lengths", "lengths"];
    let attention = || {
        contrib("GroupQueryAttention", &inputs, &["y", "new.key", "new.value"], &ints(&[("num_heads", 2), ("kv_num_heads", 2)]))
    };
    let all = ["y", "new.key", "new.value"];
    let narrow = |name: &str| name.starts_with("past") || name.starts_with("new");
    let (can, types, nodes) = caches_after(attention(), &[], &all, DataType::FLOAT16);
    assert!(can);
    for (name, found) in &types {
        let expected = if *name == "lengths" {
            DataType::INT32
        } else if narrow(name) {
            DataType::FLOAT16
        } else {
            DataType::FLOAT
        };
        assert_eq!(*found, expected, "{name}");
    }
    assert_eq!((nodes[0].domain.as_str(), nodes[0].op_type.as_str()), (OPERATOR_DOMAIN, F16_ATTENTION));
    // As requested, and where something else reads a past or a present, or a present is not an output.
    let stays = |what: &str, more: &[Node], outputs: &[&str], cache, expected: bool| {
        let (can, types, nodes) = caches_after(attention(), more, outputs, cache);
        assert_eq!(can, expected, "{what}");
        assert!(types.iter().all(|(_, found)| *found != DataType::FLOAT16), "{what}");
        assert_eq!(nodes[0].op_type, "GroupQueryAttention", "{what}");
    };
    let neg = |input: &str| super::super::tests::node("Neg", &[input], &["negative"]);
    stays("f32", &[], &all, DataType::FLOAT, true);
    stays("a past", &[neg("past.key")], &all, DataType::FLOAT16, false);
    stays("a present", &[neg("new.value")], &all, DataType::FLOAT16, false);
    stays("no output", &[], &["y", "new.key"], DataType::FLOAT16, false);
    let unknown = attention();
    let unknown = Node {
        attributes: [unknown.attributes.clone(), contrib("", &[], &[], &ints(&[("sinks", 1)])).attributes].concat(),
        ..unknown
    };
    let (can, ..) = caches_after(unknown, &[], &all, DataType::FLOAT16);
    assert!(!can, "attention of the engine");
}
