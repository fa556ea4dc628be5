//! Graphs with inputs for a low-rank adapter: without one they compute what others do, with one the same as an adapter that was built
//! into the graph.

use std::fs;
use std::path::Path;

use ort::environment::Environment;
use ort::memory::Allocator;
use ort::session::{Session, SessionInputValue};
use ort::value::Tensor;
use tandem_backend_onnx::export::export;
use tandem_backend_onnx::library;
use tandem_core::conformance;
use tandem_core::files::ModelFiles;
use tandem_core::{DType, ExportOptions, GraphFormat};
use tandem_onnx_graph::{Dim, Graph, LowRank};

use super::checkpoints::golden;

const RANK: usize = 3;
const SCALE: f32 = 0.5;
const IDS: [i64; 5] = [3, 14, 1, 5, 9];

#[test]
fn adapter_inputs_match_an_adapter_built_into_the_graph() {
    let environment = || library::environment(None).map_err(|error| conformance::describe(&error));
    for name in ["qwen2-tied", "qwen3", "llama3-rope"] {
        conformance::with_fixture(environment, |environment| check(name, environment));
    }
}

fn check(name: &str, environment: &Environment) {
    let logits = |graph: &Path, adapter: &[Input]| logits(environment, graph, adapter);
    let dir = tempfile::tempdir().unwrap();
    let made = |adapter_inputs, directory: &str| {
        let format = GraphFormat { adapter_inputs, ..GraphFormat::of(DType::F32) };
        let options = ExportOptions { format, ..ExportOptions::new(dir.path().join(directory), DType::F32) };
        export(&ModelFiles::discover(&golden(name), name).unwrap(), &options).unwrap().graph
    };
    let (plain, open) = (made(false, "plain"), made(true, "open"));
    let base = logits(&plain, &[]);
    assert_eq!(logits(&open, &[]), base, "{name}: without an adapter nothing changes");

    let adapter = Adapter::new(&open);
    let built_in = plain.with_file_name("built-in.onnx");
    let graph = Graph::open(&plain).unwrap();
    let mut edit = graph.edit();
    edit.add_low_rank(&adapter.updates()).unwrap();
    fs::write(&built_in, edit.to_bytes().unwrap()).unwrap();
    let (given, expected) = (logits(&open, &adapter.inputs()), logits(&built_in, &[]));
    let difference = |other: &[f32]| {
        given.iter().zip(other).map(|(one, other)| (one - other).abs()).fold(0.0, f32::max)
            / base.iter().fold(0.0, |most: f32, logit| most.max(logit.abs()))
    };
    assert!(difference(&expected) < 1e-5, "{name}: {}", difference(&expected));
    assert!(difference(&base) > 1e-2, "{name}: the adapter must matter, {}", difference(&base));
}

/// Name, shape and elements.
type Input = (String, [usize; 2], Vec<f32>);

/// Factors for the values' projection of the first layer and the last projection of the second, by their columns in the graph.
struct Adapter {
    /// `[rank, inputs]` and `[outputs, rank]`.
    value: [Vec<f32>; 2],
    down: [Vec<f32>; 2],
    /// All columns of queries, keys and values, and those before the values'.
    n_packed: usize,
    first_value: usize,
}

impl Adapter {
    fn new(graph: &Path) -> Self {
        let graph = Graph::open(graph).unwrap();
        let sizes = |input: &str| {
            let input = graph.main().inputs.iter().find(|other| other.name == input).unwrap();
            let fixed = |dim: &Dim| if let Dim::Fixed(size) = dim { Some(*size as usize) } else { None };
            input.dims.as_ref().unwrap().iter().find_map(fixed).unwrap()
        };
        let n_packed = sizes("model.layers.0.self_attn.qkv_proj.lora_B.weight");
        let cache = graph.inputs().find(|input| input.name == "past_key_values.0.value").unwrap().dims.clone().unwrap();
        let (Dim::Fixed(heads), Dim::Fixed(head_dim)) = (&cache[1], &cache[3]) else { panic!("{cache:?}") };
        let n_values = (heads * head_dim) as usize;
        let factors = |n_inputs, n_outputs| [numbers(RANK * n_inputs, 1), numbers(n_outputs * RANK, 2)];
        Self {
            value: factors(sizes("model.layers.0.self_attn.qkv_proj.lora_A.weight"), n_values),
            down: factors(
                sizes("model.layers.1.mlp.down_proj.lora_A.weight"),
                sizes("model.layers.1.mlp.down_proj.lora_B.weight"),
            ),
            n_packed,
            first_value: n_packed - n_values,
        }
    }

    fn updates(&self) -> [LowRank<'_>; 2] {
        let update = |module, [a, b]: &'_ [Vec<f32>; 2]| LowRank {
            module,
            rank: RANK,
            a: a.clone().leak(),
            b: b.clone().leak(),
            scale: SCALE,
        };
        [
            update("base_model.model.model.layers.0.self_attn.v_proj", &self.value),
            update("base_model.model.model.layers.1.mlp.down_proj", &self.down),
        ]
    }

    /// As the graph takes them: transposed, the scale in `B`, zero in the columns of queries and keys.
    fn inputs(&self) -> Vec<Input> {
        let transposed = |values: &[f32], n_columns: usize, scale: f32| -> Vec<f32> {
            let rows = values.len() / n_columns;
            (0..n_columns).flat_map(|column| (0..rows).map(move |row| scale * values[row * n_columns + column])).collect()
        };
        let named = |module: &str, [a, b]: &[Vec<f32>; 2], n_outputs: usize, first: usize| {
            let (n_inputs, n_columns) = (a.len() / RANK, b.len() / RANK);
            let own = transposed(b, RANK, SCALE);
            let mut wide = vec![0.0; RANK * n_outputs];
            for (row, own) in wide.chunks_exact_mut(n_outputs).zip(own.chunks_exact(n_columns)) {
                row[first..first + n_columns].copy_from_slice(own);
            }
            let name = |factor: &str| format!("model.layers.{module}.lora_{factor}.weight");
            [(name("A"), [n_inputs, RANK], transposed(a, n_inputs, 1.0)), (name("B"), [RANK, n_outputs], wide)]
        };
        let n_down = self.down[1].len() / RANK;
        let packed = named("0.self_attn.qkv_proj", &self.value, self.n_packed, self.first_value);
        packed.into_iter().chain(named("1.mlp.down_proj", &self.down, n_down, 0)).collect()
    }
}

/// Numbers between -0.5 and 0.5.
fn numbers(count: usize, seed: usize) -> Vec<f32> {
    (0..count).map(|index| ((index * 7919 + seed * 104_729) % 1009) as f32 / 1009.0 - 0.5).collect()
}

/// The logits of [`IDS`] from an empty cache.
fn logits(environment: &Environment, graph: &Path, adapter: &[Input]) -> Vec<f32> {
    let mut session = Session::builder(environment).unwrap().commit_from_file(graph).unwrap();
    let mut inputs: Vec<(String, SessionInputValue<'_>)> = Vec::new();
    let n_tokens = IDS.len();
    inputs.push(("input_ids".into(), Tensor::from_array(([1, n_tokens], IDS.to_vec())).unwrap().into()));
    inputs.push(("attention_mask".into(), Tensor::from_array(([1, n_tokens], vec![1_i64; n_tokens])).unwrap().into()));
    for input in Graph::open(graph).unwrap().inputs().filter(|input| input.name.starts_with("past_key_values")) {
        let dims = input.dims.as_ref().unwrap();
        let (Dim::Fixed(heads), Dim::Fixed(head_dim)) = (&dims[1], &dims[3]) else { panic!("{dims:?}") };
        let empty = Tensor::<f32>::new(&Allocator::default(), [1, *heads as usize, 0, *head_dim as usize]).unwrap();
        inputs.push((input.name.clone(), empty.into()));
    }
    for (name, shape, values) in adapter {
        inputs.push((name.clone(), Tensor::from_array((*shape, values.clone())).unwrap().into()));
    }
    let outputs = session.run(inputs).unwrap();
    outputs["logits"].try_extract_tensor::<f32>().unwrap().1.to_vec()
}
