//! Small graphs with one head each, as exporters write it, and what an edit leaves of them.

use std::fs;

use super::{Activations, LogitsControl};
use crate::encode::{self, Data};
use crate::graph::{Attribute, AttributeValue, DataType, Dim, ExternalData, Node, ValueInfo};
use crate::schema::{graph, model};
use crate::wire::{put_bytes, put_int};
use crate::{Error, Graph, TensorData};

/// A field that no version of ONNX has.
const UNKNOWN: (u32, &str) = (777, "kept as it is");

pub(super) fn node(op_type: &str, inputs: &[&str], outputs: &[&str]) -> Node {
    let names = |names: &[&str]| names.iter().map(|&name| name.into()).collect();
    Node { op_type: op_type.into(), inputs: names(inputs), outputs: names(outputs), ..Node::default() }
}

fn value(name: &str, dims: &[Dim]) -> Vec<u8> {
    encode::value_info(&ValueInfo { name: name.into(), data_type: Some(DataType::FLOAT), dims: Some(dims.to_vec()) })
}

fn symbolic(name: &str) -> Dim {
    Dim::Symbolic(name.into())
}

/// A graph of these nodes with the weights `w` and `scale`, whose logits have the shape `[batch, tokens, 5]`.
fn graph(nodes: &[Node], tokens: &Dim) -> Graph {
    let mut body = Vec::new();
    for (name, offset) in [("w", 0), ("scale", 64)] {
        let external = ExternalData { location: "model.onnx_data".into(), offset, length: Some(16) };
        put_bytes(&mut body, graph::INITIALIZER, encode::tensor(name, DataType::FLOAT, &[4], Data::External(&external)));
    }
    put_bytes(&mut body, graph::INPUT, value("hidden", &[symbolic("batch"), symbolic("tokens"), Dim::Fixed(4)]));
    put_bytes(&mut body, graph::OUTPUT, value("logits", &[symbolic("batch"), tokens.clone(), Dim::Fixed(5)]));
    for name in ["hidden", "product"] {
        put_bytes(&mut body, graph::VALUE_INFO, value(name, &[symbolic("batch"), symbolic("tokens")]));
    }
    graph_of(nodes, &body)
}

/// A graph of these nodes and these other fields of a `GraphProto`; every node has an unknown field too.
pub(super) fn graph_of(nodes: &[Node], fields: &[u8]) -> Graph {
    let mut body = Vec::new();
    for node in nodes {
        let mut bytes = encode::node(node);
        put_bytes(&mut bytes, UNKNOWN.0, UNKNOWN.1);
        put_bytes(&mut body, graph::NODE, bytes);
    }
    body.extend_from_slice(fields);
    let mut out = Vec::new();
    put_int(&mut out, model::IR_VERSION, 10);
    put_bytes(&mut out, model::GRAPH, body);
    put_bytes(&mut out, UNKNOWN.0, UNKNOWN.1);
    Graph::parse(out, "model.onnx").unwrap()
}

/// Initializers of zeros.
pub(super) fn float_constants(constants: &[(&str, &[i64])]) -> Vec<u8> {
    let mut fields = Vec::new();
    for (name, dims) in constants {
        let bytes = vec![0; 4 * dims.iter().product::<i64>() as usize];
        put_bytes(&mut fields, graph::INITIALIZER, encode::tensor(name, DataType::FLOAT, dims, Data::Raw(&bytes)));
    }
    fields
}

fn edited(graph: &Graph) -> Result<(LogitsControl, Graph), Error> {
    let mut edit = graph.edit();
    let control = edit.control_logits("logits")?;
    Ok((control, Graph::parse(edit.to_bytes()?, "edited.onnx")?))
}

/// The head's product must now take the slice; every other node must be the same, byte for byte.
fn check_sliced(nodes: &[Node], head: usize) {
    let before = graph(nodes, &symbolic("tokens"));
    let (control, after) = edited(&before).unwrap();
    assert_eq!(control, LogitsControl::Input);
    let operators: Vec<_> = after.nodes()[head..head + 3].iter().map(|node| node.op_type.as_str()).collect();
    assert_eq!(operators, ["Neg", "Reshape", "Slice"]);
    let slice = &after.nodes()[head + 2];
    assert_eq!((&slice.inputs[0], &after.nodes()[head + 3].inputs[0]), (&nodes[head].inputs[0], &slice.outputs[0]));
    for (index, old) in before.nodes().iter().enumerate().filter(|(index, _)| *index != head) {
        let new = &after.nodes()[if index < head { index } else { index + 3 }];
        assert_eq!(before.slice(&old.range), after.slice(&new.range));
    }
    let input = after.inputs().find(|input| input.name == "num_logits_to_keep").unwrap();
    assert_eq!((input.data_type, input.dims.as_deref()), (Some(DataType::INT64), Some([].as_slice())));
    assert_eq!(after.outputs()[0].dims.as_ref().unwrap()[1], symbolic("num_logits"));
    let count = |graph: &Graph, text: &str| graph.bytes().windows(text.len()).filter(|window| *window == text.as_bytes()).count();
    assert_eq!(count(&before, UNKNOWN.1), count(&after, UNKNOWN.1));
}

#[test]
fn head_is_found_before_elementwise_operators() {
    check_sliced(&[node("MatMul", &["hidden", "w"], &["logits"])], 0);
    check_sliced(&[node("MatMulNBits", &["hidden", "w", "scale"], &["logits"])], 0);
    check_sliced(&[node("Transpose", &["w"], &["wt"]), node("MatMul", &["hidden", "wt"], &["logits"])], 1);
    check_sliced(
        &[
            node("MatMul", &["hidden", "w"], &["product"]),
            node("Div", &["product", "scale"], &["small"]),
            node("Tanh", &["small"], &["soft"]),
            node("Mul", &["soft", "scale"], &["capped"]),
            node("Cast", &["capped"], &["logits"]),
        ],
        0,
    );
    check_sliced(
        &[
            node("DynamicQuantizeLinear", &["hidden"], &["q", "q_scale", "q_zero"]),
            node("MatMulInteger", &["q", "w", "q_zero"], &["product"]),
            node("Cast", &["product"], &["product_f"]),
            node("Mul", &["q_scale", "scale"], &["scales"]),
            node("Mul", &["product_f", "scales"], &["logits"]),
        ],
        1,
    );
}

#[test]
fn only_shapes_after_the_head_are_removed() {
    let nodes = [node("MatMul", &["hidden", "w"], &["product"]), node("Cast", &["product"], &["logits"])];
    let (_, after) = edited(&graph(&nodes, &symbolic("tokens"))).unwrap();
    let text = |text: &str| after.bytes().windows(text.len()).filter(|window| *window == text.as_bytes()).count();
    // The product and its use; the hidden states in their input, their shape and the slice.
    assert_eq!((text("product"), text("tokens")), (2, 2));
}

#[test]
fn operators_that_mix_tokens_are_refused() {
    let check = |nodes: &[Node], problem: &str| {
        let error = edited(&graph(nodes, &symbolic("tokens"))).unwrap_err();
        assert!(error.to_string().contains(problem), "{error}");
    };
    check(&[node("Softmax", &["hidden"], &["logits"])], "`logits` comes from a `Softmax`, which may mix tokens");
    check(&[node("MatMul", &["hidden", "hidden"], &["logits"])], "of two values that are not weights");
    check(&[node("MatMul", &[], &["logits"])], "of two values that are not weights");
    check(&[node("Add", &["hidden", "hidden"], &["logits"])], "of several values");
    check(&[node("Cast", &["hidden"], &["logits"])], "comes from `hidden`, which no node computes");
    check(&[node("Cast", &["logits"], &["logits"])], "more than 16 operations");
    check(&[], "comes from `logits`, which no node computes");
}

#[test]
fn graph_with_logits_control_is_unchanged() {
    let nodes = [node("MatMul", &["hidden", "w"], &["logits"])];
    let pruned = graph(&nodes, &Dim::Fixed(1));
    let (control, after) = edited(&pruned).unwrap();
    assert_eq!((control, after.bytes()), (LogitsControl::LastOnly, pruned.bytes()));
    let (_, controlled) = edited(&graph(&nodes, &symbolic("tokens"))).unwrap();
    let (control, after) = edited(&controlled).unwrap();
    assert_eq!((control, after.bytes()), (LogitsControl::Input, controlled.bytes()));
}

#[test]
fn accuracy_level_is_set_where_open_or_everywhere() {
    let quantized = |level: Option<i64>| {
        let attributes = level.map(|level| Attribute { name: "accuracy_level".into(), value: AttributeValue::Int(level) });
        Node { attributes: attributes.into_iter().collect(), ..node("MatMulNBits", &["hidden", "w", "scale"], &["logits"]) }
    };
    for (before, activations, after, n_changed) in [
        (None, Activations::Int8WhereOpen, Some(4), 1),
        (Some(0), Activations::Int8WhereOpen, Some(4), 1),
        (Some(1), Activations::Int8WhereOpen, Some(1), 0),
        (Some(4), Activations::Float, Some(0), 1),
        (None, Activations::Float, None, 0),
    ] {
        let graph = graph(&[quantized(before)], &symbolic("tokens"));
        let mut edit = graph.edit();
        assert_eq!(edit.set_activations(activations), n_changed);
        // Both edits of one node must hold.
        edit.control_logits("logits").unwrap();
        let edited = Graph::parse(edit.to_bytes().unwrap(), "edited.onnx").unwrap();
        assert_eq!(edited.nodes()[3].int("accuracy_level"), after);
        assert_eq!(edited.nodes()[3].attributes.len(), usize::from(after.is_some()));
    }
}

#[test]
fn biases_are_added_after_their_products_on_cuda() {
    let product = |inputs: &[&str], output| node("MatMulNBits", inputs, &[output]);
    let nodes = [
        product(&["hidden", "w", "scale", "", "", "w"], "product"),
        product(&["product", "w", "scale"], "plain"),
        product(&["plain", "w", "scale", "", "", "scale"], "logits"),
    ];
    let graph = graph(&nodes, &symbolic("tokens"));
    let mut edit = graph.edit();
    assert_eq!(edit.adapt_to_cuda().unwrap(), 2);
    assert_eq!(edit.set_activations(Activations::Int8WhereOpen), 3);
    let edited = Graph::parse(edit.to_bytes().unwrap(), "edited.onnx").unwrap();
    assert_eq!(
        lines(&edited),
        [
            "tandem.product.unbiased = MatMulNBits hidden w scale  ",
            "product = Add tandem.product.unbiased w",
            "plain = MatMulNBits product w scale",
            "tandem.logits.unbiased = MatMulNBits plain w scale  ",
            "logits = Add tandem.logits.unbiased scale",
        ]
    );
    assert_eq!(edited.nodes()[0].int("accuracy_level"), Some(4));
    assert_eq!(edited.edit().adapt_to_cuda().unwrap(), 0);
}

#[test]
fn omitted_zero_points_are_written_for_cuda() {
    let bits = |bits| vec![Attribute { name: "bits".into(), value: AttributeValue::Int(bits) }];
    let lookup = |inputs: &[&str], n| Node { attributes: bits(n), ..node("GatherBlockQuantized", inputs, &["logits"]) };
    let weights = |data_type| {
        let mut body = float_constants(&[("scale", &[3, 5])]);
        put_bytes(&mut body, graph::INITIALIZER, encode::tensor("codes", data_type, &[4], Data::Raw(&[0; 4])));
        body
    };
    for (n, byte, columns) in [(8, 0x80, 5), (4, 0x88, 3), (2, 0xaa, 2)] {
        for inputs in [&["shaped", "ids", "scale"][..], &["shaped", "ids", "scale", ""]] {
            let nodes = [node("Reshape", &["codes", "dims"], &["shaped"]), lookup(inputs, n)];
            let graph = graph_of(&nodes, &weights(DataType::UINT8));
            let mut edit = graph.edit();
            assert_eq!(edit.adapt_to_cuda().unwrap(), 1);
            let edited = Graph::parse(edit.to_bytes().unwrap(), "edited.onnx").unwrap();
            assert_eq!(lines(&edited)[1], "logits = GatherBlockQuantized shaped ids scale tandem.logits.zeros");
            let zeros = edited.initializers().iter().find(|tensor| tensor.name == "tandem.logits.zeros").unwrap();
            let TensorData::Inline(range) = &zeros.data else { panic!("they are written in the graph") };
            assert_eq!((zeros.dims.as_slice(), zeros.data_type), ([3, columns].as_slice(), DataType::UINT8));
            assert_eq!(edited.bytes()[range.clone()], vec![byte; 3 * columns as usize]);
            assert_eq!(edited.edit().adapt_to_cuda().unwrap(), 0);
        }
    }
    // Those of a type with four bits are 0 everywhere.
    let graph = graph_of(&[lookup(&["codes", "ids", "scale"], 4)], &weights(DataType(21)));
    assert_eq!(graph.edit().adapt_to_cuda().unwrap(), 0);
    let graph = graph_of(&[lookup(&["computed", "ids", "scale"], 4)], &weights(DataType::UINT8));
    assert!(graph.edit().adapt_to_cuda().unwrap_err().to_string().contains("`computed`"));
    let flat = [weights(DataType::UINT8), float_constants(&[("flat", &[15])])].concat();
    let graph = graph_of(&[lookup(&["codes", "ids", "flat"], 4)], &flat);
    assert!(graph.edit().adapt_to_cuda().unwrap_err().to_string().contains("`flat`"));
    // A cycle, and a node without inputs.
    for nodes in [
        vec![node("Reshape", &["b"], &["a"]), node("Reshape", &["a"], &["b"]), lookup(&["a", "ids", "scale"], 4)],
        vec![node("Reshape", &[], &["a"]), lookup(&["a", "ids", "scale"], 4)],
    ] {
        let graph = graph_of(&nodes, &weights(DataType::UINT8));
        assert!(graph.edit().adapt_to_cuda().unwrap_err().to_string().contains("`a`"));
    }
}

/// The nodes, one to a line.
fn lines(graph: &Graph) -> Vec<String> {
    graph.nodes().iter().map(|node| format!("{} = {} {}", node.outputs.join(" "), node.op_type, node.inputs.join(" "))).collect()
}

#[test]
fn inner_values_become_outputs() {
    let nodes = [node("MatMul", &["hidden", "w"], &["product"]), node("Cast", &["product"], &["logits"])];
    let graph = graph(&nodes, &symbolic("tokens"));
    let mut edit = graph.edit();
    edit.add_output("product", DataType::FLOAT).unwrap();
    edit.add_output("logits", DataType::FLOAT).unwrap();
    let error = edit.add_output("absent", DataType::FLOAT).unwrap_err();
    assert!(error.to_string().contains("no node computes the value `absent`"), "{error}");
    let edited = Graph::parse(edit.to_bytes().unwrap(), "edited.onnx").unwrap();
    assert_eq!(edited.outputs().iter().map(|output| output.name.as_str()).collect::<Vec<_>>(), ["logits", "product"]);
}

#[cfg(unix)]
#[test]
fn relocate_resolves_links_to_blobs() {
    let cache = tempfile::tempdir().unwrap();
    let snapshot = cache.path().join("models--a--b/snapshots/0123/onnx");
    let blobs = cache.path().join("models--a--b/blobs");
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(&blobs).unwrap();
    fs::write(blobs.join("cafe"), [0; 80]).unwrap();
    std::os::unix::fs::symlink("../../../blobs/cafe", snapshot.join("model.onnx_data")).unwrap();
    let graph = graph(&[node("MatMul", &["hidden", "w"], &["logits"])], &symbolic("tokens"));
    let mut edit = graph.edit();
    assert_eq!(edit.relocate(&snapshot).unwrap(), blobs.canonicalize().unwrap());
    let edited = Graph::parse(edit.to_bytes().unwrap(), "edited.onnx").unwrap();
    assert_eq!(edited.external_files().into_iter().collect::<Vec<_>>(), ["cafe"]);
    let offset = |graph: &Graph| match &graph.initializers()[1].data {
        TensorData::External(external) => (external.offset, external.length),
        other => panic!("{other:?}"),
    };
    assert_eq!(offset(&edited), offset(&graph));
    edited.check(&blobs).unwrap();

    let plain = tempfile::tempdir().unwrap();
    fs::write(plain.path().join("model.onnx_data"), [0; 80]).unwrap();
    let mut edit = graph.edit();
    assert_eq!(edit.relocate(plain.path()).unwrap(), plain.path().canonicalize().unwrap());
    assert_eq!(edit.to_bytes().unwrap(), graph.bytes());
    let error = graph.edit().relocate(cache.path()).unwrap_err();
    assert_eq!(error.field(), Some("graph.initializer[0].external_data.location"));
}
