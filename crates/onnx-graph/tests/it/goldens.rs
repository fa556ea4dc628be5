//! Graphs as onnxruntime-genai, optimum and onnx-community write them: read, checked, edited and damaged.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use tandem_onnx_graph::{Activations, Graph, LogitsControl, LowRank};

/// Every graph in `goldens/`.
fn graphs() -> Vec<PathBuf> {
    fn find(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            match entry.path() {
                path if path.is_dir() => find(&path, found),
                path if path.extension().is_some_and(|extension| extension == "onnx") => found.push(path),
                _ => {}
            }
        }
    }
    let mut found = Vec::new();
    find(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens"), &mut found);
    found.sort();
    assert!(!found.is_empty(), "there are no graphs in goldens/");
    found
}

/// Those that generate.
fn decoders() -> impl Iterator<Item = PathBuf> {
    graphs().into_iter().filter(|path| !path.iter().any(|part| part == "embedders"))
}

#[test]
fn published_encoders_pass() {
    for path in graphs().into_iter().filter(|path| path.iter().any(|part| part == "embedders")) {
        let graph = Graph::open(&path).unwrap();
        graph.check(path.parent().unwrap()).unwrap_or_else(|error| panic!("{error}"));
    }
}

#[test]
fn exported_graphs_pass_and_accept_logits_control() {
    for path in decoders() {
        let directory = path.parent().unwrap();
        let graph = Graph::open(&path).unwrap();
        graph.check(directory).unwrap_or_else(|error| panic!("{error}"));
        let mut edit = graph.edit();
        assert_eq!(edit.control_logits("logits").unwrap_or_else(|error| panic!("{error}")), LogitsControl::Input);
        edit.set_activations(Activations::Int8WhereOpen);
        assert_eq!(edit.relocate(directory).unwrap(), directory.canonicalize().unwrap());
        let edited = Graph::parse(edit.to_bytes().unwrap(), "edited.onnx").unwrap();
        edited.check(directory).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let had = graph.inputs().any(|input| input.name == "num_logits_to_keep");
        let slices = edited.nodes().iter().filter(|node| node.name.starts_with("num_logits_to_keep/"));
        let cut: Vec<_> = slices.map(|slice| slice.inputs[0].as_str()).collect();
        match first_of_kept(&graph) {
            _ if had => assert!(cut.is_empty()),
            Some(early) => assert_eq!(cut, early, "{}", path.display()),
            // Attention of single operators, whose shapes are not followed: at the head.
            None => assert_eq!(cut.len(), 1, "{}: {cut:?}", path.display()),
        }
        assert_eq!(edited.nodes().len(), graph.nodes().len() + if had { 0 } else { 2 + cut.len() });
        assert_eq!(edited.external_files(), graph.external_files());
        let quantized = edited.nodes().iter().filter(|node| node.op_type == "MatMulNBits");
        assert!(quantized.into_iter().all(|node| node.int("accuracy_level") == Some(4)));
    }
}

/// What comes into the last layer's operators after its attention, in a graph with an operator for attention.
fn first_of_kept(graph: &Graph) -> Option<[&str; 2]> {
    let computed = |suffix: &str| {
        let of_last = |value: &&String| value.contains("layers.1/") && value.ends_with(suffix);
        graph.nodes().iter().flat_map(|node| &node.outputs).find(of_last).map(String::as_str)
    };
    Some([computed("/attn/GroupQueryAttention/output_0")?, computed("/input_layernorm/output_3")?])
}

#[test]
fn empty_edit_keeps_every_byte() {
    for path in graphs() {
        let graph = Graph::open(&path).unwrap();
        assert_eq!(graph.edit().to_bytes().unwrap(), graph.bytes(), "{}", path.display());
    }
}

#[test]
fn every_projection_accepts_a_low_rank_update() {
    for path in decoders() {
        let graph = Graph::open(&path).unwrap();
        let attention = ["q_proj", "k_proj", "v_proj", "o_proj"].map(|name| format!("model.layers.1.self_attn.{name}"));
        let mlp = ["gate_proj", "up_proj", "down_proj"].map(|name| format!("model.layers.1.mlp.{name}"));
        for module in attention.into_iter().chain(mlp).chain(["lm_head".into()]) {
            // The shape is not known here: the message of a wrong one tells that the product was found.
            let update = LowRank { module: &module, rank: 1, a: &[], b: &[], scale: 1.0 };
            let message = graph.edit().add_low_rank(&[update]).unwrap_err().to_string();
            assert!(message.contains("and the graph has"), "{}: {message}", path.display());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Damaged in a few places, a graph is still one or an error, and an edit of it is one too.
    #[test]
    fn damage_makes_nothing_panic(
        graph in any::<prop::sample::Index>(), damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4), end in any::<Option<prop::sample::Index>>(),
    ) {
        let paths = graphs();
        if !paths.is_empty() {
            let path = graph.get(&paths);
            let mut bytes = fs::read(path).unwrap();
            damage.iter().for_each(|(at, byte)| *at.get_mut(&mut bytes) = *byte);
            if let Some(end) = end {
                bytes.truncate(end.index(bytes.len()));
            }
            if let Ok(graph) = Graph::parse(bytes, "damaged.onnx") {
                let _ = graph.check(path.parent().unwrap());
                let mut edit = graph.edit();
                edit.set_activations(Activations::Float);
                let _ = edit.control_logits("logits");
                let _ = edit.add_low_rank(&[LowRank { module: "layers.0.self_attn.o_proj", rank: 1, a: &[1.0; 32], b: &[1.0; 32], scale: 1.0 }]);
                prop_assert!(Graph::parse(edit.to_bytes().unwrap(), "edited.onnx").is_ok());
            }
        }
    }
}

#[test]
fn graphs_with_an_operator_for_attention_in_floats_take_several_sequences() {
    for path in graphs() {
        let graph = Graph::open(&path).unwrap();
        let name = path.to_string_lossy();
        let expected = ["genai_f32", "genai_int4", "onnx-community/onnx/model.onnx", "onnx-community/onnx/model_q4.onnx"];
        let is_expected = expected.iter().any(|part| name.contains(part));
        assert_eq!(graph.can_pack_sequences(), is_expected, "{name}");
    }
}
