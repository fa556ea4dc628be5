//! Each operator against the engine's own on small graphs of random numbers.

mod attention;
mod block;
mod floats;
mod onnx;
mod product;

use std::ffi::CString;
use std::ptr;
use std::sync::Arc;

use ort::AsPointer;
use ort::session::{RunOptions, Session};
use ort::value::DynValue;
use tandem_core::backend::{Kernels as Whose, LoadOptions};
use tandem_core::conformance::{describe, with_fixture};
use tandem_core::{Device, OnnxOptions};
use tandem_kernels::matrix::Kernels;
use tandem_kernels::{Threads, instruction_set};
use tandem_onnx_graph::{DataType, Graph};

use super::{MappedWeights, kernels_for};
use crate::engine::Engine;
use crate::library;
use crate::run::{Names, RawValue, run, take};

/// Calls `test` where the engine is installed.
fn with_engine(test: fn()) {
    with_fixture(|| library::find(None).map_err(|error| describe(&error)), |_| test());
}

/// A graph that is loaded with the kernels of one side.
struct Loaded {
    engine: Engine,
    mapped: Arc<MappedWeights>,
    names: [Names; 2],
}

impl Loaded {
    /// The graph `bytes`, all of which is one node of Tandem's operators.
    fn new(bytes: &[u8], whose: Whose, names: [&[&str]; 2]) -> Self {
        Self::with_cache(bytes, whose, names, DataType::FLOAT)
    }

    /// As [`new`](Self::new), with Tandem's attention over a cache of this type.
    fn with_cache(bytes: &[u8], whose: Whose, names: [&[&str]; 2], cache: DataType) -> Self {
        Self::with(bytes, whose, names, Kernels::Fastest, cache)
    }

    /// As [`new`](Self::new), with kernels that are chosen so.
    fn with_kernels(bytes: &[u8], whose: Whose, names: [&[&str]; 2], kernels: Kernels) -> Self {
        Self::with(bytes, whose, names, kernels, DataType::FLOAT)
    }

    fn with(bytes: &[u8], whose: Whose, [inputs, outputs]: [&[&str]; 2], kernels: Kernels, cache: DataType) -> Self {
        let environment = library::environment(None).unwrap();
        let mut builder = Session::builder(&environment).unwrap().with_intra_threads(2).unwrap();
        let (mut bytes, mapped) = (bytes.to_vec(), Arc::default());
        if whose == Whose::Tandem {
            builder = builder.with_operators(super::domain(kernels, &Arc::default(), &mapped).unwrap()).unwrap();
            let graph = Graph::parse(bytes, "test").unwrap();
            let mut edit = graph.edit();
            assert_eq!(edit.use_custom_operators(cache).n_nodes, 1, "the node is one that the operators know");
            bytes = edit.to_bytes().unwrap();
        }
        let session = builder.commit_from_memory(&bytes).unwrap();
        let threads = (whose == Whose::Tandem).then(|| Arc::new(Threads::new(2).unwrap()));
        let names = [inputs, outputs].map(|names| Names::new(names.iter().map(|name| CString::new(*name).unwrap()).collect()));
        Self { engine: Engine { _moving: None, session, threads }, mapped, names }
    }

    /// Runs it; an output is written to the input that `in_place` names for it.
    fn run(&self, inputs: &[DynValue], in_place: &[Option<usize>]) -> Vec<Option<DynValue>> {
        let inputs: Vec<RawValue> = inputs.iter().map(|input| input.ptr().cast_mut()).collect();
        let mut outputs: Vec<RawValue> =
            in_place.iter().map(|place| place.map_or(ptr::null_mut(), |index| inputs[index])).collect();
        let options = RunOptions::new().unwrap();
        // SAFETY: the values live until the end of this function, and no other run has them.
        #[expect(unsafe_code, reason = "one value as past and as present")]
        unsafe { run(&self.engine, &options, None, (&self.names[0], &inputs), (&self.names[1], &mut outputs)) }.unwrap();
        let taken = outputs.iter_mut().zip(in_place);
        taken.map(|(output, place)| if place.is_none() { take(&self.engine, output) } else { None }).collect()
    }
}

#[test]
fn own_kernels_are_the_processors_and_an_error_elsewhere() {
    let on = |kernels, device| {
        kernels_for(&LoadOptions::new().with_device(device).with_onnx(OnnxOptions::new().with_kernels(kernels)))
    };
    let by_default = if instruction_set() == "plain" { Whose::Runtime } else { Whose::Tandem };
    assert_eq!(on(None, Device::Cpu).unwrap(), by_default);
    for whose in [Whose::Tandem, Whose::Runtime] {
        assert_eq!(on(Some(whose), Device::Cpu).unwrap(), whose);
    }
    for device in [Device::Cuda(0), Device::CoreMl] {
        assert_eq!(on(None, device).unwrap(), Whose::Runtime);
        let error = on(Some(Whose::Tandem), device).unwrap_err().to_string();
        assert!(error.contains("processor") && error.contains(&device.to_string()), "{error}");
    }
}

/// Numbers between -2 and 2.
fn numbers(n: usize, seed: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * i + 31 * seed + 7 * i) as f32 * 0.61).sin() * 2.0).collect()
}

fn floats(value: &DynValue) -> &[f32] {
    value.try_extract_tensor::<f32>().unwrap().1
}
