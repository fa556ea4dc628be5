//! Small decoders of one layer, and where they are pruned.

use super::super::tests::{float_constants, graph_of, node};
use super::*;
use crate::encode;
use crate::graph::{Attribute, AttributeValue, DataType, Dim, ValueInfo};
use crate::schema::graph;
use crate::wire::put_bytes;
use crate::{Graph, LogitsControl, LowRank};

fn contrib(op_type: &str, inputs: &[&str], outputs: &[&str]) -> Node {
    Node { domain: "com.microsoft".into(), ..node(op_type, inputs, outputs) }
}

fn with_int(mut node: Node, name: &str, value: i64) -> Node {
    node.attributes.push(Attribute { name: name.into(), value: AttributeValue::Int(value) });
    node
}

fn named(name: &str, node: Node) -> Node {
    Node { name: name.into(), ..node }
}

/// Attention, a projection out of it, a gated block after a norm, and a head.
fn decoder() -> Vec<Node> {
    vec![
        node("Gather", &["embedding", "input_ids"], &["embed"]),
        node("MatMul", &["embed", "square"], &["query"]),
        contrib("GroupQueryAttention", &["query", "", "", "past"], &["context", "present", "present_value"]),
        named("/layers.0/attn/o_proj/MatMul", node("MatMul", &["context", "square"], &["attention"])),
        contrib("SkipSimplifiedLayerNormalization", &["embed", "attention", "row"], &["normed", "", "", "sum"]),
        named("/layers.0/mlp/up_proj/MatMul", node("MatMul", &["normed", "square"], &["up"])),
        node("Sigmoid", &["up"], &["gate"]),
        node("Mul", &["up", "gate"], &["gated"]),
        node("Add", &["gated", "row"], &["biased"]),
        contrib("SkipSimplifiedLayerNormalization", &["sum", "biased", "row"], &["hidden"]),
        node("MatMul", &["hidden", "vocabulary"], &["logits"]),
    ]
}

fn graph(nodes: &[Node]) -> Graph {
    let value = |name: &str, data_type, dims: &[&str]| {
        let dims = dims.iter().map(|dim| dim.parse().map_or_else(|_| Dim::Symbolic((*dim).into()), Dim::Fixed)).collect();
        encode::value_info(&ValueInfo { name: name.into(), data_type: Some(data_type), dims: Some(dims) })
    };
    let mut fields = float_constants(&[
        ("embedding", &[9, 4]),
        ("square", &[4, 4]),
        ("row", &[4]),
        ("rows", &[7, 4]),
        ("vocabulary", &[4, 9]),
    ]);
    put_bytes(&mut fields, graph::INPUT, value("input_ids", DataType::INT64, &["batch", "tokens"]));
    put_bytes(&mut fields, graph::INPUT, value("past", DataType::FLOAT, &["batch", "1", "past", "4"]));
    put_bytes(&mut fields, graph::OUTPUT, value("logits", DataType::FLOAT, &["batch", "tokens", "9"]));
    for name in ["context", "normed", "sum", "query", "gate"] {
        put_bytes(&mut fields, graph::VALUE_INFO, value(name, DataType::FLOAT, &["batch", "tokens", "4"]));
    }
    graph_of(nodes, &fields)
}

/// The values of which the kept tokens are taken.
fn cuts(nodes: &[Node]) -> Vec<String> {
    cuts_of(&edited(nodes, |_| {}))
}

fn cuts_of(graph: &Graph) -> Vec<String> {
    graph.nodes().iter().filter(|node| node.op_type == "Slice").map(|slice| slice.inputs[0].clone()).collect()
}

fn edited(nodes: &[Node], change: impl FnOnce(&mut crate::Edit<'_>)) -> Graph {
    let graph = graph(nodes);
    let mut edit = graph.edit();
    assert_eq!(edit.control_logits("logits").unwrap(), LogitsControl::Input);
    change(&mut edit);
    let edited = Graph::parse(edit.to_bytes().unwrap(), "edited.onnx").unwrap();
    let mut known: HashSet<&str> = edited.main().inputs.iter().map(|input| input.name.as_str()).collect();
    known.extend(edited.initializers().iter().map(|tensor| tensor.name.as_str()));
    for node in edited.nodes() {
        assert!(node.inputs.iter().all(|input| input.is_empty() || known.contains(input.as_str())), "{node:?}");
        known.extend(node.outputs.iter().map(String::as_str));
    }
    edited
}

/// The inputs of the node that computes `value`.
fn inputs<'g>(graph: &'g Graph, value: &str) -> Vec<&'g str> {
    graph.main().producer(value).unwrap().inputs.iter().map(String::as_str).collect()
}

#[test]
fn only_kept_positions_are_computed_after_the_last_attention() {
    let graph = edited(&decoder(), |_| {});
    assert_eq!(cuts_of(&graph), ["context", "embed"]);
    assert_eq!(inputs(&graph, "attention"), ["num_logits_to_keep/context", "square"]);
    assert_eq!(inputs(&graph, "normed"), ["num_logits_to_keep/embed", "attention", "row"]);
    assert_eq!((inputs(&graph, "query"), inputs(&graph, "hidden")), (vec!["embed", "square"], vec!["sum", "biased", "row"]));
    let declared: Vec<_> = graph.main().values.iter().map(|value| value.name.as_str()).collect();
    assert_eq!(declared, ["context", "query"], "shapes of values that count kept tokens are gone");
}

#[test]
fn values_with_other_consumers_keep_all_positions() {
    let with = |extra: Node| [decoder(), vec![extra]].concat();
    assert_eq!(cuts(&with(node("Relu", &["gated"], &["other"]))), ["gated", "sum"]);
    assert_eq!(cuts(&with(node("Relu", &["hidden"], &["other"]))), ["hidden"]);
    // Both outputs of one operator, of which others take one.
    assert_eq!(cuts(&with(node("Relu", &["sum"], &["other"]))), ["normed", "sum"]);
    assert_eq!(cuts(&with(node("Relu", &["context"], &["other"]))), ["context", "embed"]);

    for outputs_first in [true, false] {
        let graph = graph(&decoder());
        let mut edit = graph.edit();
        if outputs_first {
            edit.add_output("gated", DataType::FLOAT).unwrap();
        }
        edit.control_logits("logits").unwrap();
        edit.add_output("gated", DataType::FLOAT).unwrap();
        let edited = Graph::parse(edit.to_bytes().unwrap(), "edited.onnx").unwrap();
        assert_eq!(cuts_of(&edited), ["gated", "sum"]);
        assert_eq!(edited.outputs().len(), 2);
    }
}

/// An operator whose branch takes a value of the graph around it, as it is in a file.
#[test]
fn values_read_by_nested_graphs_keep_all_positions() {
    let mut body = Vec::new();
    put_bytes(&mut body, graph::NODE, encode::node(&node("Relu", &["gated"], &["inner"])));
    let mut branch = Vec::new();
    put_bytes(&mut branch, crate::schema::attribute::NAME, "then_branch");
    put_bytes(&mut branch, crate::schema::attribute::G, body);
    let mut conditional = encode::node(&node("If", &["row"], &["other"]));
    put_bytes(&mut conditional, crate::schema::node::ATTRIBUTE, branch);
    let plain = graph(&decoder());
    let mut patches = super::super::patches::Patches::default();
    patches.append(plain.main().range.start, graph::NODE, &conditional);
    let nested = Graph::parse(patches.apply(crate::wire::Slice::whole(plain.bytes())), "nested.onnx").unwrap();
    let mut edit = nested.edit();
    edit.control_logits("logits").unwrap();
    let edited = Graph::parse(edit.to_bytes().unwrap(), "edited.onnx").unwrap();
    assert_eq!(cuts_of(&edited), ["gated", "sum"]);
}

#[test]
fn operators_that_may_mix_positions_stop_the_pruning() {
    let replaced = |index: usize, other: Node| {
        let mut nodes = decoder();
        nodes[index] = other;
        nodes
    };
    let gate = |other: Node| cuts(&replaced(6, other));
    assert_eq!(gate(node("Softmax", &["up"], &["gate"])), ["gate", "up", "sum"]);
    assert_eq!(gate(Node { domain: "own".into(), ..node("Sigmoid", &["up"], &["gate"]) }), ["gate", "up", "sum"]);
    assert_eq!(gate(node("Add", &["up", "rows"], &["gate"])), ["gate", "up", "sum"], "seven rows for seven tokens");
    assert_eq!(gate(node("MatMul", &["up", "up"], &["gate"])), ["gate", "up", "sum"]);
    assert_eq!(gate(node("MatMul", &["up", "square"], &["gate"])), ["context", "embed"]);
    let reduced = |axis| with_int(node("LayerNormalization", &["up", "row"], &["gate"]), "axis", axis);
    assert_eq!((gate(reduced(-1)), gate(reduced(1))), (vec!["context".into(), "embed".into()], cuts(&replaced(6, reduced(1)))));
    assert_eq!(gate(reduced(1)), ["gate", "up", "sum"]);
    let turned = with_int(contrib("FusedMatMul", &["up", "square"], &["gate"]), "transA", 1);
    assert_eq!(gate(turned), ["gate", "up", "sum"]);
    // Scale and zero point of all tokens together.
    let mut nodes = decoder();
    nodes[7] = node("DynamicQuantizeLinear", &["up"], &["q", "q_scale", "q_zero"]);
    nodes.insert(8, node("MatMulInteger", &["q", "square", "q_zero"], &["integers"]));
    nodes.insert(9, node("Mul", &["integers", "q_scale"], &["gated"]));
    assert_eq!(cuts(&nodes), ["q", "sum"]);
}

#[test]
fn decomposed_norm_is_pruned() {
    let norm = |axis: i64| {
        let mut reduce = node("ReduceMean", &["square_of_sum"], &["mean"]);
        reduce.attributes.push(Attribute { name: "axes".into(), value: AttributeValue::Ints(vec![axis]) });
        let mut nodes = decoder();
        nodes[9] = node("Add", &["sum", "biased"], &["all"]);
        for (offset, added) in [
            node("Mul", &["all", "all"], &["square_of_sum"]),
            reduce,
            node("Sqrt", &["mean"], &["root"]),
            node("Div", &["all", "root"], &["hidden"]),
        ]
        .into_iter()
        .enumerate()
        {
            nodes.insert(10 + offset, added);
        }
        cuts(&nodes)
    };
    assert_eq!((norm(-1), norm(2)), (vec!["context".into(), "embed".into()], vec!["context".into(), "embed".into()]));
    assert_eq!(norm(1), ["hidden"]);
}

#[test]
fn low_rank_update_sees_the_positions_of_its_product() {
    let update = |module, n_outputs: usize| LowRank { module, rank: 1, a: &[1.0; 4], b: &[1.0; 4][..n_outputs], scale: 1.0 };
    for updates_first in [true, false] {
        let graph = graph(&decoder());
        let mut edit = graph.edit();
        let updates = [update("model.layers.0.self_attn.o_proj", 4), update("model.layers.0.mlp.up_proj", 4)];
        if updates_first {
            edit.add_low_rank(&updates).unwrap();
        }
        edit.control_logits("logits").unwrap();
        if !updates_first {
            edit.add_low_rank(&updates).unwrap();
        }
        let edited = Graph::parse(edit.to_bytes().unwrap(), "edited.onnx").unwrap();
        assert_eq!(cuts_of(&edited), ["context", "embed"]);
        assert_eq!(inputs(&edited, "low_rank/attention/small")[0], "num_logits_to_keep/context");
        assert_eq!(inputs(&edited, "low_rank/up/small")[0], "normed");
        assert_eq!(inputs(&edited, "low_rank/attention/base")[0], "num_logits_to_keep/context");
    }
}
