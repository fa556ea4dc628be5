//! Files that are wrong in one place each, and the message that they must give.

use std::fs;
use std::path::Path;

use crate::encode::{self, Data};
use crate::graph::{Attribute, AttributeValue, DataType, Dim, ExternalData, Node, ValueInfo};
use crate::schema::{attribute, graph, model, node, sparse, tensor};
use crate::wire::{put_bytes, put_int};
use crate::{Error, Graph};

/// A graph of one `Add` with a weight of 6 floats in `weights.bin`, its parts open to damage.
struct Crafted {
    tensors: Vec<Vec<u8>>,
    nodes: Vec<Vec<u8>>,
    extra: Vec<u8>,
}

impl Crafted {
    fn new() -> Self {
        let add =
            Node { op_type: "Add".into(), inputs: vec!["x".into(), "w".into()], outputs: vec!["y".into()], ..Node::default() };
        Self { tensors: vec![external("w", &[2, 3], "weights.bin", 8, Some(24))], nodes: vec![encode::node(&add)], extra: vec![] }
    }

    fn with_tensor(tensor: Vec<u8>) -> Self {
        Self { tensors: vec![tensor], ..Self::new() }
    }

    fn bytes(&self) -> Vec<u8> {
        let value = |name: &str| ValueInfo {
            name: name.into(),
            data_type: Some(DataType::FLOAT),
            dims: Some(vec![Dim::Symbolic("n".into()), Dim::Fixed(3)]),
        };
        let mut body = Vec::new();
        self.nodes.iter().for_each(|bytes| put_bytes(&mut body, graph::NODE, bytes));
        self.tensors.iter().for_each(|bytes| put_bytes(&mut body, graph::INITIALIZER, bytes));
        put_bytes(&mut body, graph::INPUT, encode::value_info(&value("x")));
        put_bytes(&mut body, graph::OUTPUT, encode::value_info(&value("y")));
        body.extend_from_slice(&self.extra);
        let mut out = Vec::new();
        put_int(&mut out, model::IR_VERSION, 10);
        put_bytes(&mut out, model::OPSET_IMPORT, encode::opset_import("", 21));
        put_bytes(&mut out, model::METADATA_PROPS, encode::string_entry("source", "a test"));
        put_bytes(&mut out, model::GRAPH, body);
        out
    }

    fn result(&self) -> Result<(), Error> {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("weights.bin"), [0; 32]).unwrap();
        fs::create_dir(directory.path().join("folder")).unwrap();
        Graph::parse(self.bytes(), "model.onnx")?.check(directory.path())
    }
}

fn external(name: &str, dims: &[i64], location: &str, offset: u64, length: Option<u64>) -> Vec<u8> {
    let place = ExternalData { location: location.into(), offset, length };
    encode::tensor(name, DataType::FLOAT, dims, Data::External(&place))
}

fn refused(crafted: &Crafted, field: &str, problem: &str) {
    let error = crafted.result().unwrap_err();
    assert_eq!(error.file(), "model.onnx");
    assert_eq!((error.field(), error.to_string().contains(problem)), (Some(field), true), "{error}");
}

#[test]
fn valid_graph_passes() {
    let crafted = Crafted::new();
    crafted.result().unwrap();
    let graph = Graph::parse(crafted.bytes(), "model.onnx").unwrap();
    assert_eq!(graph.inputs().map(|input| input.name.as_str()).collect::<Vec<_>>(), ["x"]);
    assert_eq!(graph.outputs()[0].dims, Some(vec![Dim::Symbolic("n".into()), Dim::Fixed(3)]));
    assert_eq!(graph.operator_counts().into_iter().collect::<Vec<_>>(), [("Add".to_owned(), 1)]);
    assert_eq!(graph.external_files().into_iter().collect::<Vec<_>>(), ["weights.bin"]);
    assert_eq!((graph.ir_version(), graph.opset_imports()[0].version), (10, 21));
    assert_eq!(graph.metadata(), [("source".to_owned(), "a test".to_owned())]);
    assert_eq!(graph.slice(&graph.nodes()[0].range), crafted.nodes[0]);
    assert_eq!(graph.slice(&graph.initializers()[0].range), crafted.tensors[0]);
}

#[test]
fn external_data_outside_the_directory_is_refused() {
    let field = "graph.initializer[0].external_data.location";
    for (location, problem) in [
        ("", "is not a file name"),
        ("../weights.bin", "`../weights.bin` is not a path within"),
        ("folder/../../x", "is not a path within"),
        ("./weights.bin", "is not a path within"),
        ("/proc/self/maps", "`/proc/self/maps` is not a path within"),
        ("*/_ORT_MEM_ADDR_/*", "is a memory address"),
        ("a\\b", "a character"),
        ("a\0", "a character"),
        ("absent.bin", "`absent.bin` cannot be found"),
        ("folder", "is not a regular file"),
    ] {
        refused(&Crafted::with_tensor(external("w", &[2, 3], location, 0, None)), field, problem);
    }
}

#[test]
fn external_data_beyond_the_end_of_its_file_is_refused() {
    let check = |offset, length, dims: &[i64], field: &str, problem: &str| {
        let field = format!("graph.initializer[0].{field}");
        refused(&Crafted::with_tensor(external("w", dims, "weights.bin", offset, length)), &field, problem);
    };
    check(9, None, &[2, 3], "external_data.offset", "`9` plus 24 bytes exceeds the size of `weights.bin`, 32 bytes");
    check(u64::MAX, None, &[2, 3], "external_data.offset", "exceeds the size");
    check(0, Some(20), &[2, 3], "external_data.length", "`20` is not the size of float [2, 3], 24");
    check(0, None, &[2, -3], "dims", "[2, -3]");
    check(0, None, &[1 << 40, 1 << 40], "dims", "overflows");
    check(0, None, &[1 << 31, 1 << 31], "dims", "too many bytes");
}

#[test]
fn external_data_entries_are_parsed_strictly() {
    let tensor = |entries: &[(&str, &str)]| {
        let mut out = encode::tensor("w", DataType::FLOAT, &[2, 3], Data::Raw(&[]));
        out.truncate(out.len() - 2);
        entries.iter().for_each(|(key, value)| put_bytes(&mut out, tensor::EXTERNAL_DATA, encode::string_entry(key, value)));
        put_int(&mut out, tensor::DATA_LOCATION, 1);
        Crafted::with_tensor(out)
    };
    let place = ("location", "weights.bin");
    let field = "graph.initializer[0].external_data";
    refused(&tensor(&[place, ("offset", "-1")]), &format!("{field}.offset"), "`-1` is not a number of bytes");
    refused(&tensor(&[place, ("length", "99999999999999999999")]), &format!("{field}.length"), "is not a number of bytes");
    refused(&tensor(&[place, place]), field, "the key `location` appears twice");
    refused(&tensor(&[("offset", "0")]), &format!("{field}.location"), "is missing");
    tensor(&[place, ("checksum", "left alone")]).result().unwrap();
}

#[cfg(unix)]
#[test]
fn links_may_lead_only_to_blobs_of_the_same_hub_repository() {
    use std::os::unix::fs::symlink;

    let cache = tempfile::tempdir().unwrap();
    let snapshot = cache.path().join("models--a--b/snapshots/0123/onnx");
    let blobs = cache.path().join("models--a--b/blobs");
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(&blobs).unwrap();
    fs::write(blobs.join("cafe"), [0; 32]).unwrap();
    fs::write(cache.path().join("secret"), [0; 32]).unwrap();
    symlink("../../../blobs/cafe", snapshot.join("weights.bin")).unwrap();
    let graph = Graph::parse(Crafted::new().bytes(), "model.onnx").unwrap();
    graph.check(&snapshot).unwrap();

    let refused_with = |directory: &Path, target: &str| {
        let link = directory.join("weights.bin");
        let _ = fs::remove_file(&link);
        symlink(target, link).unwrap();
        let error = graph.check(directory).unwrap_err();
        assert_eq!(error.field(), Some("graph.initializer[0].external_data.location"));
        assert!(error.to_string().contains("outside the graph's directory"), "{error}");
    };
    refused_with(&snapshot, "../../../../secret");
    let plain = cache.path().join("plain");
    fs::create_dir(&plain).unwrap();
    refused_with(&plain, "../secret");
    refused_with(&plain, "../models--a--b/blobs/cafe");
}

#[test]
fn inline_data_of_another_size_than_its_shape_is_refused() {
    let field = "graph.initializer[0]";
    let raw = |data_type, dims: &[i64], n_bytes| {
        Crafted::with_tensor(encode::tensor("w", data_type, dims, Data::Raw(&vec![0; n_bytes])))
    };
    raw(DataType::FLOAT, &[2, 3], 24).result().unwrap();
    raw(DataType(22), &[3, 3], 5).result().unwrap();
    refused(&raw(DataType::FLOAT, &[2, 3], 23), &format!("{field}.raw_data"), "has 23 bytes, and float [2, 3] takes 24");
    refused(&raw(DataType(99), &[1], 1), &format!("{field}.data_type"), "`99` is unknown");

    let mut list = encode::tensor("w", DataType::INT64, &[3], Data::Raw(&[]));
    list.truncate(list.len() - 2);
    put_bytes(&mut list, tensor::INT64_DATA, [1, 2, 0x83]);
    refused(&Crafted::with_tensor(list.clone()), &format!("{field}.int64_data"), "has 2 entries, and int64 [3] takes 3");
    put_bytes(&mut list, tensor::FLOAT_DATA, [0; 4]);
    refused(&Crafted::with_tensor(list), &format!("{field}.float_data"), "also has data in `int64_data`");

    let mut both = external("w", &[2, 3], "weights.bin", 0, None);
    put_bytes(&mut both, tensor::RAW_DATA, [0; 24]);
    refused(&Crafted::with_tensor(both), &format!("{field}.data_location"), "both external and in the file");
}

#[test]
fn duplicate_names_are_refused() {
    let mut crafted = Crafted::new();
    crafted.tensors.push(crafted.tensors[0].clone());
    refused(&crafted, "graph.initializer[1].name", "`w` names two initializers");
    let mut crafted = Crafted::new();
    crafted.nodes.push(crafted.nodes[0].clone());
    refused(&crafted, "graph.node[1].output[0]", "`y` is computed or defined twice");
    let mut twice = external("w", &[2, 3], "weights.bin", 0, None);
    put_bytes(&mut twice, tensor::NAME, "other");
    refused(&Crafted::with_tensor(twice), "graph.initializer[0].name", "the field appears twice");
}

#[test]
fn custom_operators_and_compiled_code_are_refused() {
    let node = |domain: &str, op_type: &str| {
        let node = Node { domain: domain.into(), op_type: op_type.into(), ..Node::default() };
        Crafted { nodes: vec![encode::node(&node)], ..Crafted::new() }
    };
    node("com.microsoft", "MatMulNBits").result().unwrap();
    refused(&node("ai.example", "Evil"), "graph.node[0].domain", "`ai.example.Evil` is a custom operator");
    refused(&node("com.microsoft", "EPContext"), "graph.node[0].op_type", "compiled code");
}

#[test]
fn nested_and_sparse_tensors_are_checked() {
    let outside = external("w", &[2, 3], "../x", 0, None);
    let mut body = Vec::new();
    put_bytes(&mut body, graph::INITIALIZER, &outside);
    let nested = |number, value: &[u8]| {
        let mut attribute = Vec::new();
        put_bytes(&mut attribute, attribute::NAME, "value");
        put_bytes(&mut attribute, number, value);
        let mut bytes = encode::node(&Node { op_type: "If".into(), ..Node::default() });
        put_bytes(&mut bytes, node::ATTRIBUTE, attribute);
        Crafted { nodes: vec![bytes], ..Crafted::new() }
    };
    let prefix = "graph.node[0].attribute[0]";
    let field = |place: &str| format!("{prefix}.{place}.external_data.location");
    refused(&nested(attribute::T, &outside), &field("tensors[0]"), "`../x`");
    refused(&nested(attribute::G, &body), &field("graphs[0].initializer[0]"), "`../x`");

    let mut values = Vec::new();
    put_bytes(&mut values, sparse::VALUES, external("w", &[2, 3], "weights.bin", 0, None));
    let field = format!("{prefix}.sparse_tensors[0].values.data_location");
    refused(&nested(attribute::SPARSE_TENSOR, &values), &field, "a sparse tensor with external data");
    let mut extra = Vec::new();
    put_bytes(&mut extra, graph::SPARSE_INITIALIZER, values);
    refused(&Crafted { extra, ..Crafted::new() }, "graph.sparse_initializer[0].values.data_location", "a sparse tensor");
}

#[test]
fn attributes_with_two_values_are_refused() {
    let mut bytes = encode::attribute(&Attribute { name: "axis".into(), value: AttributeValue::Int(1) });
    put_int(&mut bytes, attribute::I, 2);
    let mut node = encode::node(&Node { op_type: "Add".into(), ..Node::default() });
    put_bytes(&mut node, node::ATTRIBUTE, bytes);
    refused(&Crafted { nodes: vec![node], ..Crafted::new() }, "graph.node[0].attribute[0]", "more than one value");
}

#[test]
fn nesting_depth_is_bounded() {
    let mut body = Vec::new();
    for _ in 0..100 {
        let mut attribute = Vec::new();
        put_bytes(&mut attribute, attribute::G, &body);
        let mut node = Vec::new();
        put_bytes(&mut node, node::ATTRIBUTE, attribute);
        body.clear();
        put_bytes(&mut body, graph::NODE, node);
    }
    let mut bytes = Vec::new();
    put_bytes(&mut bytes, model::GRAPH, body);
    let error = Graph::parse(bytes, "deep.onnx").unwrap_err();
    assert!(error.to_string().contains("nested more than 16 deep"), "{error}");
}

#[test]
fn number_of_items_is_bounded() {
    let mut body = Vec::new();
    (0..2_000_001).for_each(|_| put_bytes(&mut body, graph::NODE, []));
    let mut bytes = Vec::new();
    put_bytes(&mut bytes, model::GRAPH, body);
    let error = Graph::parse(bytes, "wide.onnx").unwrap_err();
    assert!(error.to_string().contains("more than 2000000 messages"), "{error}");
}

#[test]
fn truncation_and_changed_bytes_do_not_panic() {
    let whole = Crafted::new().bytes();
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("weights.bin"), [0; 32]).unwrap();
    let mut passed = 0;
    let mut read =
        |bytes: &[u8]| match Graph::parse(bytes.to_vec(), "fuzzed.onnx").and_then(|graph| graph.check(directory.path())) {
            Ok(()) => passed += 1,
            Err(error) => assert!(error.to_string().contains("fuzzed.onnx"), "{error}"),
        };
    for end in 0..whole.len() {
        read(&whole[..end]);
    }
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        for value in 0..=255 {
            bytes[at] = value;
            read(&bytes);
        }
    }
    assert!(passed > 0, "a changed letter of a text changes nothing that is checked");
}

#[test]
fn missing_empty_and_other_files_are_errors() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.onnx");
    let message = |path: &Path| Graph::open(path).unwrap_err().to_string();
    assert!(message(&path).ends_with("model.onnx`: cannot be opened"));
    fs::write(&path, []).unwrap();
    assert!(message(&path).ends_with("it does not contain a graph"));
    fs::write(&path, "<html>not found</html>").unwrap();
    assert!(message(&path).contains("at byte 0"), "{}", message(&path));
    assert!(message(directory.path()).ends_with("is not a regular file"));
    fs::File::create(&path).unwrap().set_len(3 << 30).unwrap();
    assert!(message(&path).contains("3221225472 bytes"));
}
