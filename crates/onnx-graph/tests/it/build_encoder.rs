//! Graphs of encoders take exactly the weights of their specification, and have the operators that it describes.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use tandem_onnx_graph::{
    Activation, Blocks, BuildOptions, DataType, Dim, EmbeddingSpec, EncoderLayer, EncoderSpec, Error, Graph, Linear, Norm,
    NormKind, Norms, Outputs, RelativeBias, RopeTable, SourceError, Table, Weight, WeightFormat, WeightType, build, needs,
};

use crate::build::every_input_is_computed_before;

const HIDDEN: usize = 32;

fn linear(names: &[&str], has_bias: bool) -> Linear {
    let named = |kind: &str| names.iter().map(|name| format!("{name}.{kind}")).collect();
    Linear { weights: named("weight"), biases: if has_bias { named("bias") } else { vec![] } }
}

fn norm(name: &str, kind: NormKind) -> Norm {
    let bias = (kind == NormKind::Layer).then(|| format!("{name}.bias"));
    Norm { kind, weight: format!("{name}.weight"), bias, epsilon: 1e-6 }
}

fn table(name: &str, rows: usize) -> Table {
    Table { weight: format!("{name}.weight"), rows }
}

/// BERT's form, of two layers.
fn bert() -> EncoderSpec {
    let layer = |layer: usize| {
        let name = |part: &str| format!("{layer}.{part}");
        let after = |part: &str| Norms { of_sum: Some(norm(&name(part), NormKind::Layer)), ..Norms::default() };
        EncoderLayer {
            qkv: linear(&[&name("q"), &name("k"), &name("v")], true),
            query_norm: None,
            key_norm: None,
            rope: None,
            window: None,
            attention_out: linear(&[&name("o")], true),
            attention_norms: after("attention_norm"),
            up: linear(&[&name("up")], true),
            down: linear(&[&name("down")], true),
            mlp_norms: after("mlp_norm"),
        }
    };
    EncoderSpec {
        name: "tiny".into(),
        hidden_size: HIDDEN,
        intermediate_size: 48,
        n_heads: 4,
        n_kv_heads: 4,
        head_dim: 8,
        score_scale: 8_f32.sqrt().recip(),
        activation: Activation::Gelu,
        is_gated: false,
        embedding: EmbeddingSpec {
            words: table("words", 40),
            scale: None,
            token_types: Some(table("types", 2)),
            positions: Some((table("positions", 22), 2)),
            norm: Some(norm("embedding_norm", NormKind::Layer)),
        },
        relative_bias: None,
        ropes: vec![],
        layers: vec![layer(0), layer(1)],
        final_norm: None,
        is_causal: false,
        has_mask: false,
    }
}

/// Gemma's form: grouped heads, norms on both sides, rotary positions, a window in the first layer.
fn gemma() -> EncoderSpec {
    let bert = bert();
    let around = |name: &str| Norms {
        before: Some(norm(&format!("{name}_before"), NormKind::RmsOfOnePlus)),
        after: Some(norm(&format!("{name}_after"), NormKind::RmsOfOnePlus)),
        of_sum: None,
    };
    let rope = |frequency: f32| RopeTable { inverse_frequencies: vec![frequency; 4], attention_scaling: 1.0, n_positions: 50 };
    let layers = bert.layers.iter().enumerate().map(|(number, layer)| EncoderLayer {
        query_norm: Some(norm(&format!("{number}.q_norm"), NormKind::RmsOfOnePlus)),
        key_norm: Some(norm(&format!("{number}.k_norm"), NormKind::RmsOfOnePlus)),
        rope: Some(number),
        window: (number == 0).then_some(3),
        attention_norms: around(&format!("{number}.attention")),
        up: linear(&[&format!("{number}.gate"), &format!("{number}.up")], false),
        mlp_norms: around(&format!("{number}.mlp")),
        ..layer.clone()
    });
    EncoderSpec {
        n_kv_heads: 2,
        activation: Activation::GeluTanh,
        is_gated: true,
        embedding: EmbeddingSpec { scale: Some(2.0), token_types: None, positions: None, norm: None, ..bert.embedding.clone() },
        ropes: vec![rope(0.5), rope(0.25)],
        layers: layers.collect(),
        final_norm: Some(norm("final_norm", NormKind::RmsOfOnePlus)),
        ..bert
    }
}

fn options(weights: WeightFormat) -> BuildOptions {
    BuildOptions {
        outputs: Outputs::HiddenStates,
        weights,
        head: weights,
        blocks: Blocks::default(),
        rows: None,
        adapter_inputs: false,
        metadata: vec![],
    }
}

/// The graph of `spec`, the weights that were requested, and the size of both files.
fn built(spec: &EncoderSpec, options: &BuildOptions) -> (Graph, BTreeSet<String>, u64) {
    let needs = needs(spec, options, WeightType::F32).unwrap();
    let shapes: BTreeMap<_, _> = needs.weights.into_iter().collect();
    let mut requested = BTreeSet::new();
    let mut source = |name: &str| -> Result<Weight<'static>, SourceError> {
        requested.insert(name.to_owned());
        let shape = shapes.get(name).ok_or_else(|| format!("`{name}` is not needed"))?.clone();
        let bytes = vec![0; 4 * shape.iter().product::<usize>()];
        Ok(Weight { kind: WeightType::F32, shape, bytes: Cow::Owned(bytes) })
    };
    let built = build(spec, options, &mut source).unwrap();
    assert_eq!(requested, shapes.into_keys().collect());
    let size = (built.graph.len() + built.data.len()) as u64;
    assert!(size <= needs.n_bytes, "{size} of at most {}", needs.n_bytes);
    let graph = Graph::parse(built.graph, "built.onnx").unwrap();
    every_input_is_computed_before(&graph);
    let names: BTreeSet<&str> = graph.nodes().iter().map(|node| node.name.as_str()).collect();
    assert_eq!(names.len(), graph.nodes().len(), "the engine refuses two nodes of one name");
    (graph, requested, size)
}

#[test]
fn graphs_take_the_weights_of_their_specification() {
    for format in [WeightFormat::F32, WeightFormat::F16, WeightFormat::Int8] {
        let (_, weights, _) = built(&bert(), &options(format));
        // Three tables, a norm, and in each layer six matrices and two norms with their biases.
        assert_eq!(weights.len(), 3 + 2 + 2 * 16, "{weights:?}");
        let (_, weights, _) = built(&gemma(), &options(format));
        assert_eq!(weights.len(), 2 + 2 * (2 + 4 + 7 + 5), "{weights:?}");
    }
}

#[test]
fn inputs_and_outputs_are_as_documented() {
    let inputs = |spec: &EncoderSpec| {
        let (graph, ..) = built(spec, &options(WeightFormat::F32));
        let output = &graph.outputs()[0];
        assert_eq!((output.name.as_str(), output.data_type), ("last_hidden_state", Some(DataType::FLOAT)));
        assert_eq!(output.dims.as_ref().unwrap()[2], Dim::Fixed(HIDDEN as i64));
        graph.inputs().map(|input| input.name.clone()).collect::<Vec<_>>()
    };
    assert_eq!(inputs(&bert()), ["input_ids", "token_type_ids"]);
    assert_eq!(inputs(&EncoderSpec { has_mask: true, ..bert() }), ["input_ids", "attention_mask", "token_type_ids"]);
    let one_type = EmbeddingSpec { token_types: Some(table("types", 1)), ..bert().embedding };
    assert_eq!(inputs(&EncoderSpec { embedding: one_type, ..bert() }), ["input_ids"], "one row is always added");
    assert_eq!(inputs(&gemma()), ["input_ids"]);
}

#[test]
fn operators_are_those_of_the_form() {
    let counts = |spec: &EncoderSpec, format| built(spec, &options(format)).0.operator_counts();
    let plain = counts(&bert(), WeightFormat::F32);
    assert_eq!((plain["LayerNormalization"], plain["Gelu"], plain["com.microsoft.MultiHeadAttention"]), (5, 2, 2));
    let masked = counts(&EncoderSpec { has_mask: true, ..bert() }, WeightFormat::F32);
    assert_eq!((masked["Softmax"], masked.get("com.microsoft.MultiHeadAttention")), (2, None));
    assert!(!plain.contains_key("Where"), "nothing is masked");
    let gated = counts(&gemma(), WeightFormat::F32);
    assert_eq!((gated["RMSNormalization"], gated["com.microsoft.RotaryEmbedding"], gated["Where"]), (13, 4, 1));
    let int8 = counts(&bert(), WeightFormat::Int8);
    assert_eq!((int8["com.microsoft.MatMulNBits"], int8["MatMul"]), (6, 2), "queries, keys and values stay floats");
    let bias = RelativeBias { weight: "bias.weight".into(), n_buckets: 32, max_distance: 128 };
    let (graph, ..) = built(&EncoderSpec { relative_bias: Some(bias), ..bert() }, &options(WeightFormat::F32));
    assert_eq!(graph.operator_counts()["Softmax"], 2);
    assert_eq!(graph.main().initializer("buckets").unwrap().dims, [257]);
}

#[test]
fn inconsistent_specifications_are_refused() {
    let check = |spec: &EncoderSpec, options: &BuildOptions, field: &str| {
        let error: Error = needs(spec, options, WeightType::F32).unwrap_err();
        assert_eq!(error.field(), Some(field), "{error}");
    };
    let plain = options(WeightFormat::F32);
    check(&bert(), &BuildOptions { outputs: Outputs::Logits, ..plain.clone() }, "outputs");
    check(&bert(), &BuildOptions { adapter_inputs: true, ..plain.clone() }, "outputs");
    check(&bert(), &BuildOptions { rows: Some(WeightType::F32), ..plain.clone() }, "rows");
    check(&EncoderSpec { n_kv_heads: 3, ..bert() }, &plain, "n_kv_heads");
    check(&EncoderSpec { layers: vec![], ..bert() }, &plain, "layers");
    check(&EncoderSpec { ropes: vec![], ..gemma() }, &plain, "layers.0");
    check(&EncoderSpec { is_gated: false, ..gemma() }, &plain, "layers.0");
    let far = RopeTable { inverse_frequencies: vec![1.0; 3], ..gemma().ropes[0].clone() };
    check(&EncoderSpec { ropes: vec![far], ..gemma() }, &plain, "rope.inverse_frequencies");
    let bias = RelativeBias { weight: String::new(), n_buckets: 32, max_distance: 128 };
    check(&EncoderSpec { relative_bias: Some(bias), ..gemma() }, &plain, "relative_bias");
    let positions = (table("positions", 0), 0);
    let embedding = EmbeddingSpec { positions: Some(positions), ..bert().embedding };
    check(&EncoderSpec { embedding, ..bert() }, &plain, "positions.weight");
}
