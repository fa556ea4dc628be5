//! Built graphs are valid, have the shapes of the specification, and are reproducible.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use tandem_onnx_graph::{
    Blocks, BuildOptions, Built, DATA_FILE, DataType, DecoderSpec, Dim, Error, Graph, Outputs, RopeTable, SourceError,
    TensorData, Weight, WeightFormat, WeightType, build, build_inline, export,
};

const LAYERS: usize = 2;

fn spec() -> DecoderSpec {
    DecoderSpec {
        name: "tiny".into(),
        prefix: "model.".into(),
        n_layers: LAYERS,
        vocab_size: 40,
        hidden_size: 32,
        intermediate_size: 48,
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: 16,
        rms_norm_eps: 1e-6,
        qkv_bias: false,
        qk_norm: false,
        attention_output_bias: false,
        mlp_bias: false,
        tie_word_embeddings: true,
        rope: RopeTable { inverse_frequencies: vec![0.5; 8], attention_scaling: 2.0, n_positions: 100 },
        layer_windows: vec![None, Some(7)],
    }
}

fn options(outputs: Outputs, weights: WeightFormat) -> BuildOptions {
    let metadata = vec![("source".to_owned(), "a test".to_owned())];
    BuildOptions { outputs, weights, head: weights, blocks: Blocks::default(), rows: None, adapter_inputs: false, metadata }
}

/// Every weight of the specification, bf16, its elements made from its name.
fn source(spec: &DecoderSpec) -> impl FnMut(&str) -> Result<Weight<'static>, SourceError> {
    let (hidden, inner) = (spec.hidden_size, spec.intermediate_size);
    let (query, kv, head, vocab) =
        (spec.n_heads * spec.head_dim, spec.n_kv_heads * spec.head_dim, spec.head_dim, spec.vocab_size);
    let is_tied = spec.tie_word_embeddings;
    move |name| {
        let shape = match name.rsplit_once('.').map(|(stem, kind)| (stem.rsplit('.').next().unwrap(), kind)) {
            Some(("q_proj", "weight")) => vec![query, hidden],
            Some(("k_proj" | "v_proj", "weight")) => vec![kv, hidden],
            Some(("o_proj", "weight")) => vec![hidden, query],
            Some(("gate_proj" | "up_proj", "weight")) => vec![inner, hidden],
            Some(("down_proj", "weight")) => vec![hidden, inner],
            Some(("q_proj", "bias")) => vec![query],
            Some(("k_proj" | "v_proj", "bias")) => vec![kv],
            Some(("o_proj" | "down_proj", "bias")) => vec![hidden],
            Some(("gate_proj" | "up_proj", "bias")) => vec![inner],
            Some(("q_norm" | "k_norm", _)) => vec![head],
            Some(("embed_tokens", _)) => vec![vocab, hidden],
            Some(("lm_head", _)) if !is_tied => vec![vocab, hidden],
            Some(("input_layernorm" | "post_attention_layernorm" | "norm", _)) => vec![hidden],
            _ => return Err(format!("there is no `{name}`").into()),
        };
        let seed = name.bytes().fold(7_usize, |seed, byte| seed * 31 % 65_521 + usize::from(byte));
        let elements = (0..shape.iter().product()).map(|index: usize| ((seed + index * 7919) % 512) as f32 / 256.0 - 1.0);
        let bytes = elements.flat_map(|element| ((element.to_bits() >> 16) as u16).to_le_bytes()).collect();
        Ok(Weight { kind: WeightType::Bf16, shape, bytes: Cow::Owned(bytes) })
    }
}

fn built(spec: &DecoderSpec, options: &BuildOptions) -> (Graph, Built) {
    let built = build(spec, options, &mut source(spec)).unwrap();
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join(DATA_FILE), &built.data).unwrap();
    let graph = Graph::parse(built.graph.clone(), "built.onnx").unwrap();
    graph.check(directory.path()).unwrap();
    every_input_is_computed_before(&graph);
    (graph, built)
}

pub(crate) fn every_input_is_computed_before(graph: &Graph) {
    let mut known: Vec<&str> = graph.inputs().map(|input| input.name.as_str()).collect();
    known.extend(graph.initializers().iter().map(|tensor| tensor.name.as_str()));
    for node in graph.nodes() {
        for input in node.inputs.iter().filter(|input| !input.is_empty()) {
            assert!(known.contains(&input.as_str()), "`{}` takes `{input}`", node.name);
        }
        known.extend(node.outputs.iter().map(String::as_str));
    }
    for output in graph.outputs() {
        assert!(known.contains(&output.name.as_str()), "nothing computes `{}`", output.name);
    }
    for value in graph.nodes().iter().flat_map(|node| &node.outputs).filter(|value| !value.is_empty()) {
        let taken = graph.nodes().iter().any(|node| node.inputs.contains(value));
        assert!(taken || graph.outputs().iter().any(|output| output.name == *value), "`{value}` is not used");
    }
    let used = |name: &str| graph.nodes().iter().any(|node| node.inputs.iter().any(|input| input == name));
    for tensor in graph.initializers() {
        assert!(used(&tensor.name), "nothing takes `{}`", tensor.name);
    }
}

fn data<'b>(graph: &'b Graph, built: &'b Built, name: &str) -> &'b [u8] {
    match &graph.main().initializer(name).unwrap().data {
        TensorData::Inline(range) => graph.slice(range),
        TensorData::External(external) => &built.data[external.offset as usize..][..external.length.unwrap() as usize],
        other => panic!("{other:?}"),
    }
}

fn floats(graph: &Graph, built: &Built, name: &str) -> Vec<f32> {
    data(graph, built, name).as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

fn widened(spec: &DecoderSpec, name: &str) -> Vec<f32> {
    let bytes = source(spec)(name).unwrap().bytes;
    bytes.as_chunks::<2>().0.iter().map(|bytes| f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16)).collect()
}

#[test]
fn inputs_and_outputs_are_as_documented() {
    let spec = spec();
    let (graph, _) = built(&spec, &options(Outputs::LogitsAndHiddenStates, WeightFormat::F32));
    let symbol = |name: &str| Dim::Symbolic(name.into());
    let inputs: BTreeMap<_, _> = graph.main().inputs.iter().map(|input| (input.name.as_str(), input)).collect();
    assert_eq!(inputs.len(), 3 + 2 * LAYERS);
    assert_eq!(inputs["num_logits_to_keep"].dims, Some(vec![]));
    let default = graph.main().initializer("num_logits_to_keep").unwrap();
    assert!(
        matches!(&default.data, TensorData::Inline(range) if graph.bytes()[range.clone()] == [0; 8]),
        "all, unless it is given"
    );
    assert_eq!(inputs["input_ids"].data_type, Some(DataType::INT64));
    let cache = vec![symbol("batch_size"), Dim::Fixed(2), symbol("past_sequence_length"), Dim::Fixed(16)];
    assert_eq!(inputs["past_key_values.1.value"].dims, Some(cache));
    let outputs: Vec<_> = graph.outputs().iter().map(|output| output.name.as_str()).collect();
    assert_eq!(outputs, ["logits", "hidden_states", "present.0.key", "present.0.value", "present.1.key", "present.1.value"]);
    assert_eq!(graph.outputs()[0].dims.as_ref().unwrap()[2], Dim::Fixed(40));
    assert_eq!((graph.producer().0, graph.metadata()[0].1.as_str()), ("tandem", "a test"));
}

#[test]
fn weight_prefix_may_be_empty() {
    let spec = DecoderSpec { prefix: String::new(), qk_norm: true, ..spec() };
    let (graph, _) = built(&spec, &options(Outputs::HiddenStates, WeightFormat::F32));
    assert!(graph.main().initializer("norm.weight").is_some());
}

#[test]
fn heads_that_attention_does_not_accept_are_rotated_and_padded_before_it() {
    for (head_dim, cached, operators) in [
        (8, 8, ["RotaryEmbedding", "RotaryEmbedding", "GroupQueryAttention"].as_slice()),
        (6, 8, &["RotaryEmbedding", "RotaryEmbedding", "Pad", "Pad", "Pad", "GroupQueryAttention", "Slice"]),
        (16, 16, &["GroupQueryAttention"]),
    ] {
        let rope = RopeTable { inverse_frequencies: vec![1.0; head_dim / 2], ..spec().rope };
        let spec = DecoderSpec { head_dim, rope, ..spec() };
        let (graph, _) = built(&spec, &options(Outputs::Logits, WeightFormat::F32));
        let in_first_layer = graph.nodes().iter().filter(|node| node.outputs[0].starts_with("layers.0."));
        let of_attention = |name: &&str| ["RotaryEmbedding", "Pad", "GroupQueryAttention", "Slice"].contains(name);
        let found: Vec<_> = in_first_layer.map(|node| node.op_type.as_str()).filter(of_attention).collect();
        assert_eq!(found, operators, "{head_dim}");
        let past = graph.inputs().find(|input| input.name == "past_key_values.0.key").unwrap();
        assert_eq!(past.dims.as_ref().unwrap()[3], Dim::Fixed(cached));
    }
}

#[test]
fn hidden_states_graph_has_no_head() {
    let (graph, built) = built(&spec(), &options(Outputs::HiddenStates, WeightFormat::Int8));
    assert!(graph.main().inputs.iter().all(|input| input.name != "num_logits_to_keep"));
    assert!(graph.outputs().iter().all(|output| output.name != "logits"));
    assert_eq!(graph.operator_counts()["com.microsoft.MatMulNBits"], 5 * LAYERS);
    // The embedding is kept as it was.
    let embedding = "model.embed_tokens.weight";
    assert_eq!(data(&graph, &built, embedding), &*source(&spec())(embedding).unwrap().bytes);
}

#[test]
fn attention_has_windows_biases_and_norms() {
    let (graph, _) = built(&spec(), &options(Outputs::Logits, WeightFormat::F32));
    let attention: Vec<_> = graph.nodes().iter().filter(|node| node.op_type == "GroupQueryAttention").collect();
    assert_eq!(attention.iter().map(|node| node.int("local_window_size")).collect::<Vec<_>>(), [Some(-1), Some(7)]);
    assert_eq!((attention[0].int("num_heads"), attention[0].int("kv_num_heads")), (Some(4), Some(2)));
    assert_eq!(attention[0].inputs[1..3], ["", ""]);

    let spec = DecoderSpec { qkv_bias: true, qk_norm: true, attention_output_bias: true, mlp_bias: true, ..spec() };
    for (format, n_adds) in [(WeightFormat::F32, 5 * LAYERS), (WeightFormat::Int4, 0)] {
        let (graph, built) = built(&spec, &options(Outputs::Logits, format));
        let counts = graph.operator_counts();
        assert_eq!(counts.get("Add").copied().unwrap_or(0), n_adds, "a quantised product takes its bias itself");
        assert_eq!((counts["RMSNormalization"], counts["Split"]), (1 + 2 * LAYERS, LAYERS));
        let bias = floats(&graph, &built, "layers.1.qkv.bias");
        let parts = ["q", "k", "v"].map(|part| widened(&spec, &format!("model.layers.1.self_attn.{part}_proj.bias")));
        assert_eq!(bias, parts.concat());
    }
}

#[test]
fn float_weights_are_transposed() {
    let spec = spec();
    let (graph, built) = built(&spec, &options(Outputs::Logits, WeightFormat::F32));
    let packed = floats(&graph, &built, "model.layers.0.self_attn.qkv_proj.weight");
    assert_eq!(graph.main().initializer("model.layers.0.self_attn.qkv_proj.weight").unwrap().dims, [32, 128]);
    let parts = ["q", "k", "v"].map(|part| widened(&spec, &format!("model.layers.0.self_attn.{part}_proj.weight")));
    let rows = parts.concat();
    for (input, output) in [(0, 0), (31, 0), (5, 63), (6, 64), (7, 96), (31, 127)] {
        assert_eq!(packed[input * 128 + output], rows[output * 32 + input], "[{input}, {output}]");
    }
    let embedding = "model.embed_tokens.weight";
    assert_eq!(floats(&graph, &built, embedding), widened(&spec, embedding));
    let head = graph.nodes().iter().find(|node| node.outputs[0] == "logits").unwrap();
    assert_eq!((head.op_type.as_str(), head.inputs[1].as_str(), head.int("transB")), ("FusedMatMul", embedding, Some(1)));
    let (cosine, sine) = (floats(&graph, &built, "cos_cache"), floats(&graph, &built, "sin_cache"));
    assert_eq!((cosine.len(), cosine[0], sine[0]), (800, 2.0, 0.0));
    assert!((cosine[3 * 8] - 2.0 * 1.5_f32.cos()).abs() < 1e-6 && (sine[3 * 8] - 2.0 * 1.5_f32.sin()).abs() < 1e-6);
}

#[test]
fn matrices_in_rows_keep_the_type_of_the_checkpoint() {
    for is_tied in [true, false] {
        let spec = DecoderSpec { tie_word_embeddings: is_tied, qkv_bias: true, ..spec() };
        let in_rows = |kind| BuildOptions { rows: Some(kind), ..options(Outputs::Logits, WeightFormat::F32) };
        let (graph, built) = built(&spec, &in_rows(WeightType::Bf16));
        let name = "model.layers.0.self_attn.qkv_proj.weight";
        let tensor = graph.main().initializer(name).unwrap();
        assert_eq!((tensor.data_type, &tensor.dims[..]), (DataType::BFLOAT16, &[128, 32][..]));
        let parts = ["q", "k", "v"].map(|part| source(&spec)(&format!("model.layers.0.self_attn.{part}_proj.weight")).unwrap());
        assert_eq!(data(&graph, &built, name), parts.map(|part| part.bytes.into_owned()).concat());
        let embedding = "model.embed_tokens.weight";
        assert_eq!(data(&graph, &built, embedding), &*source(&spec)(embedding).unwrap().bytes);
        // The head and all projections read floats of 32 bits.
        let products: Vec<_> = graph.nodes().iter().filter(|node| node.op_type == "FusedMatMul").collect();
        assert_eq!(products.len(), 5 * LAYERS + 1);
        for product in products {
            let cast = graph.main().producer(&product.inputs[1]).unwrap();
            assert_eq!((cast.op_type.as_str(), cast.int("to")), ("Cast", Some(1)), "{}", product.name);
            assert!(graph.float_rows(product).is_some_and(|tensor| tensor.name == cast.inputs[0]), "{}", product.name);
        }
        assert_eq!(graph.products().len(), 5 * LAYERS + 1);
        assert!(graph.initializers().iter().any(|tensor| tensor.name == "head.weight") != is_tied);
        let norm = graph.main().initializer("model.norm.weight").unwrap();
        assert_eq!(norm.data_type, DataType::FLOAT);

        // Weights of another type are widened, or refused.
        let (graph, built) = self::built(&spec, &in_rows(WeightType::F32));
        let weights = "model.layers.1.mlp.up_proj.weight";
        assert_eq!(floats(&graph, &built, weights), widened(&spec, weights));
        let n_casts = 2 + usize::from(!is_tied);
        assert_eq!(graph.operator_counts()["Cast"], n_casts, "those of lengths, and of rows of an embedding of its own");
        let error = build(&spec, &in_rows(WeightType::F16), &mut source(&spec)).unwrap_err().to_string();
        assert!(error.contains("another type"), "{error}");
    }
    let quantized = BuildOptions { rows: Some(WeightType::Bf16), ..options(Outputs::Logits, WeightFormat::Int4) };
    assert!(build(&spec(), &quantized, &mut source(&spec())).unwrap_err().to_string().contains("rows"));
}

#[test]
fn f16_graph_computes_in_f16_and_outputs_f32() {
    let spec = DecoderSpec { qk_norm: true, qkv_bias: true, ..spec() };
    let (graph, built) = built(&spec, &options(Outputs::LogitsAndHiddenStates, WeightFormat::F16));
    let is_float = |data_type: DataType| [DataType::FLOAT, DataType::BFLOAT16].contains(&data_type);
    assert!(graph.initializers().iter().all(|tensor| !is_float(tensor.data_type)));
    let types: BTreeMap<_, _> = graph.outputs().iter().map(|output| (output.name.as_str(), output.data_type)).collect();
    assert_eq!((types["logits"], types["hidden_states"]), (Some(DataType::FLOAT), Some(DataType::FLOAT)));
    assert_eq!(types["present.0.key"], Some(DataType::FLOAT16));
    let name = "model.layers.0.self_attn.o_proj.weight";
    let halves = data(&graph, &built, name).as_chunks::<2>().0;
    let read = |index: usize| half::f16::from_le_bytes(halves[index]).to_f32();
    assert_eq!((halves.len(), read(1)), (64 * 32, widened(&spec, name)[64]));
    assert!(graph.metadata().contains(&("tandem.weights".into(), "f16".into())));

    let mixed = BuildOptions { head: WeightFormat::F16, ..options(Outputs::Logits, WeightFormat::Int4) };
    assert_eq!(build(&spec, &mixed, &mut source(&spec)).unwrap_err().field(), Some("head"));
}

#[test]
fn tied_quantised_embedding_is_stored_once() {
    let (graph, _) = built(&spec(), &options(Outputs::Logits, WeightFormat::Int4));
    let place = |name: &str| graph.main().initializer(name).unwrap().data.clone();
    assert_eq!(place("model.embed_tokens.weight.codes"), place("model.embed_tokens.weight.lookup_codes"));
    assert_eq!(place("model.embed_tokens.weight.scales"), place("model.embed_tokens.weight.lookup_scales"));
    assert_eq!(graph.operator_counts()["com.microsoft.GatherBlockQuantized"], 1);

    // A row of 48 does not fill its blocks: what fills them is cut off after the lookup.
    let odd = DecoderSpec { hidden_size: 48, ..spec() };
    let (graph, _) = built(&odd, &options(Outputs::Logits, WeightFormat::Int4));
    assert_eq!(graph.main().initializer("model.embed_tokens.weight.lookup_codes").unwrap().dims, [40, 32]);
    assert_eq!(graph.nodes().iter().find(|node| node.outputs[0] == "embed").unwrap().op_type, "Slice");

    let untied = DecoderSpec { tie_word_embeddings: false, ..spec() };
    let (graph, _) = built(&untied, &options(Outputs::Logits, WeightFormat::Int8));
    assert_eq!(graph.main().initializer("head.weight.codes").unwrap().dims, [40, 1, 32]);
}

#[test]
fn blocks_have_the_requested_size_and_zero_points() {
    let with = |size, symmetric, weights, head| {
        let blocks = Blocks { size, symmetric };
        built(&spec(), &BuildOptions { blocks, head, ..options(Outputs::Logits, weights) }).0
    };
    let dims = |graph: &Graph, name: &str| graph.main().initializer(name).map(|tensor| tensor.dims.clone());
    let down = "model.layers.0.mlp.down_proj.weight";
    // 48 inputs in blocks of 16, 32, 64 and 128, the last of which is not filled.
    for (size, n_blocks) in [(16, 3), (32, 2), (64, 1), (128, 1)] {
        let graph = with(size, true, WeightFormat::Int4, WeightFormat::Int4);
        assert_eq!(dims(&graph, &format!("{down}.codes")), Some(vec![32, n_blocks, size as i64 / 2]));
        assert_eq!(dims(&graph, &format!("{down}.scales")), Some(vec![32, n_blocks]));
        assert_eq!(dims(&graph, &format!("{down}.zeros")), None);
        let product = graph.nodes().iter().find(|node| node.inputs.contains(&format!("{down}.codes"))).unwrap();
        assert_eq!((product.int("block_size"), product.int("bits"), product.inputs.len()), (Some(size as i64), Some(4), 3));
    }
    let graph = with(16, false, WeightFormat::Int4, WeightFormat::Int8);
    assert_eq!(dims(&graph, &format!("{down}.zeros")), Some(vec![32, 2]));
    assert_eq!(dims(&graph, "model.embed_tokens.weight.lookup_zeros"), Some(vec![40, 2]));
    let lookup = graph.nodes().iter().find(|node| node.op_type == "GatherBlockQuantized").unwrap();
    assert_eq!((lookup.int("block_size"), lookup.int("bits"), lookup.inputs.len()), (Some(16), Some(8), 4));

    let blocks = Blocks { size: 48, symmetric: true };
    let error = build(&spec(), &BuildOptions { blocks, ..options(Outputs::Logits, WeightFormat::Int4) }, &mut source(&spec()));
    assert_eq!(error.unwrap_err().field(), Some("blocks.size"));
}

#[test]
fn inline_external_and_exported_graphs_are_equal() {
    let spec = spec();
    for format in [WeightFormat::F32, WeightFormat::Int4] {
        let options = options(Outputs::Logits, format);
        let (apart, in_memory) = built(&spec, &options);
        let inline = Graph::parse(build_inline(&spec, &options, &mut source(&spec)).unwrap(), "inline.onnx").unwrap();
        inline.check(Path::new("there is no such directory")).unwrap();
        for tensor in apart.initializers() {
            let TensorData::Inline(range) = &inline.main().initializer(&tensor.name).unwrap().data else { panic!() };
            assert_eq!(inline.slice(range), data(&apart, &in_memory, &tensor.name), "{}", tensor.name);
        }
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("a/b");
        let path = export(&spec, &options, &mut source(&spec), &directory, &|| false).unwrap();
        assert_eq!(fs::read(&path).unwrap(), in_memory.graph);
        assert_eq!(fs::read(directory.join(DATA_FILE)).unwrap(), in_memory.data);
        Graph::open(&path).unwrap().check(&directory).unwrap();
    }
}

#[test]
fn large_constants_are_page_aligned_and_do_not_overlap() {
    let (graph, built) = built(&spec(), &options(Outputs::Logits, WeightFormat::F32));
    let mut places: Vec<_> = graph
        .initializers()
        .iter()
        .filter_map(|tensor| match &tensor.data {
            TensorData::External(external) => Some((external.offset, external.length.unwrap())),
            _ => None,
        })
        .collect();
    places.sort_unstable();
    assert!(places.iter().all(|(offset, length)| offset % if *length >= 4096 { 4096 } else { 64 } == 0));
    assert!(places.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0));
    assert_eq!(places.last().map(|(offset, length)| offset + length), Some(built.data.len() as u64));
}

#[test]
fn weight_errors_leave_nothing_behind() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("exported");
    let options = options(Outputs::Logits, WeightFormat::F32);
    let spec = spec();
    let mut sound = source(&spec);
    let mut missing = |name: &str| match name {
        "model.norm.weight" => Err("it is not there".into()),
        _ => sound(name),
    };
    let error = export(&spec, &options, &mut missing, &directory, &|| false).unwrap_err();
    assert_eq!(
        (error.to_string(), error.field()),
        ("`tiny`: the weight `model.norm.weight` cannot be read".into(), Some("model.norm.weight"))
    );
    assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);

    let other = DecoderSpec { intermediate_size: 64, ..spec.clone() };
    let error = build(&spec, &options, &mut source(&other)).unwrap_err();
    assert_eq!(error.field(), Some("model.layers.0.mlp.gate_proj.weight"));
    assert!(error.to_string().ends_with("has the shape [64, 32] and not [48, 32]"), "{error}");

    let mut sound = source(&spec);
    let mut short = |name: &str| sound(name).map(|weight| Weight { bytes: Cow::Borrowed(&[0; 6]), ..weight });
    let error = build(&spec, &options, &mut short).unwrap_err();
    assert!(error.to_string().ends_with("has 6 bytes and not 2560"), "{error}");

    export(&spec, &options, &mut source(&spec), &directory, &|| false).unwrap();
    let error = export(&spec, &options, &mut source(&spec), &directory, &|| false).unwrap_err();
    assert!(matches!(error, Error::File { .. }) && error.to_string().ends_with("exists already"), "{error}");
}

#[test]
fn interruption_within_a_weight_leaves_nothing_behind() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("exported");
    // One weight of many rows, and no other that takes as many questions.
    let spec = DecoderSpec { vocab_size: 5000, ..spec() };
    for format in [WeightFormat::F32, WeightFormat::Int4] {
        let n_questions = AtomicUsize::new(0);
        let mut n_weights = 0;
        let mut sound = source(&spec);
        let mut counted = |name: &str| {
            n_weights += usize::from(name != "model.embed_tokens.weight");
            sound(name)
        };
        let interrupted = || n_questions.fetch_add(1, Ordering::SeqCst) >= 20;
        let error = export(&spec, &options(Outputs::Logits, format), &mut counted, &directory, &interrupted).unwrap_err();
        assert!(matches!(error, Error::Interrupted { .. }), "{error}");
        assert_eq!((error.to_string(), n_weights), ("`tiny`: building its graph was interrupted".into(), 0));
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }
}

#[test]
fn last_layer_computes_kept_positions_unless_hidden_states_are_output() {
    let slices = |outputs, adapter_inputs| {
        let options = BuildOptions { adapter_inputs, ..options(outputs, WeightFormat::F32) };
        let (graph, _) = built(&spec(), &options);
        let slices = graph.nodes().iter().filter(|node| node.op_type == "Slice");
        slices.map(|slice| slice.inputs[0].clone()).collect::<Vec<_>>()
    };
    let early = ["layers.1.context", "layers.1.attention_input.sum"];
    assert_eq!(slices(Outputs::Logits, false), early);
    assert_eq!(slices(Outputs::Logits, true), early);
    assert_eq!(slices(Outputs::LogitsAndHiddenStates, false), ["hidden_states"]);
    assert!(slices(Outputs::HiddenStates, false).is_empty());
}

#[test]
fn inconsistent_specifications_are_refused() {
    let check = |spec: &DecoderSpec, field: &str, problem: &str| {
        let error = build(spec, &options(Outputs::Logits, WeightFormat::F32), &mut source(spec)).unwrap_err();
        assert_eq!(error.field(), Some(field));
        assert!(error.to_string().contains(problem), "{error}");
    };
    check(&DecoderSpec { n_kv_heads: 3, ..spec() }, "n_kv_heads", "`3` does not divide `4` heads");
    check(&DecoderSpec { vocab_size: 0, ..spec() }, "vocab_size", "`0` is not between");
    check(&DecoderSpec { n_layers: 5000, ..spec() }, "n_layers", "`5000` is not between 1 and 4096");
    let rope = RopeTable { n_positions: 1 << 20, ..spec().rope };
    check(&DecoderSpec { head_dim: 1024, rope, ..spec() }, "rope.n_positions", "more than a table can hold");
    check(&DecoderSpec { head_dim: 15, ..spec() }, "rope.inverse_frequencies", "8 of them for heads of 15");
    check(&DecoderSpec { layer_windows: vec![], ..spec() }, "layer_windows", "0 of them for 2 layers");
    check(&DecoderSpec { layer_windows: vec![None, Some(0)], ..spec() }, "layer_windows", "`0` is not a number of tokens");
}

#[test]
fn adapter_inputs_default_to_rank_zero() {
    let options = BuildOptions { adapter_inputs: true, ..options(Outputs::Logits, WeightFormat::Int4) };
    let (graph, _) = built(&spec(), &options);
    let adapted: Vec<_> = graph.main().inputs.iter().filter(|input| input.name.contains(".lora_")).collect();
    // Two factors each of queries, keys and values together, of what follows attention, and of three projections.
    assert_eq!(adapted.len(), LAYERS * 5 * 2);
    for input in adapted {
        let default = graph.main().initializer(&input.name).unwrap();
        let is_a = input.name.ends_with(".lora_A.weight");
        assert_eq!(default.dims[usize::from(is_a)], 0, "{}", input.name);
        let symbols = input.dims.as_ref().unwrap().iter().filter(|dim| matches!(dim, Dim::Symbolic(_)));
        assert_eq!(symbols.count(), 1, "{}: any rank", input.name);
    }
    let base = built(&spec(), &BuildOptions { adapter_inputs: false, ..options }).0;
    assert!(base.main().inputs.iter().all(|input| !input.name.contains(".lora_")));
}
