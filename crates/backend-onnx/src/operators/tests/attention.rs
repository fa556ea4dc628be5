//! Attention in place and not, of packed and separate projections, rotated or not, with windows and limits.

use half::f16;
use ort::value::{DynValue, Tensor};
use tandem_core::backend::Kernels as Whose;
use tandem_onnx_graph::DataType;

use super::onnx::{FLOAT, INT32, OneNode, float_bytes};
use super::{Loaded, floats, numbers, with_engine};

const HEADS: usize = 6;
const KV_HEADS: usize = 2;
/// Positions of the tables.
const POSITIONS: usize = 800;

/// What a node is.
#[derive(Clone, Copy, Debug, Default)]
struct Case {
    is_packed: bool,
    rotates: bool,
    window: Option<usize>,
    softcap: f32,
    head_dim: usize,
}

const INPUTS: [&str; 7] = ["query", "key", "value", "past.key", "past.value", "last", "total"];
const OUTPUTS: [&str; 3] = ["y", "present.key", "present.value"];

impl Case {
    fn graph(self) -> Vec<u8> {
        let mut inputs = INPUTS.to_vec();
        if self.is_packed {
            inputs[1..3].fill("");
        }
        let mut constants = Vec::new();
        if self.rotates {
            inputs.extend(["cos", "sin"]);
            let width = self.head_dim / 2;
            let angle = |i: usize| (i / width) as f32 / 1e4_f32.powf((i % width) as f32 / width as f32);
            for (name, function) in [("cos", f32::cos as fn(f32) -> f32), ("sin", f32::sin)] {
                let table: Vec<f32> = (0..POSITIONS * width).map(|i| function(angle(i))).collect();
                constants.push((name, FLOAT, vec![POSITIONS, width], float_bytes(&table)));
            }
        }
        let ranks = [3, 3, 3, 4, 4, 1, 1];
        let kinds = [FLOAT, FLOAT, FLOAT, FLOAT, FLOAT, INT32, INT32];
        let given = INPUTS.iter().zip(kinds).zip(ranks).map(|((name, kind), rank)| (*name, kind, rank));
        let integers = [
            ("num_heads", HEADS as i64),
            ("kv_num_heads", KV_HEADS as i64),
            ("do_rotary", i64::from(self.rotates)),
            ("local_window_size", self.window.map_or(-1, |window| window as i64)),
        ];
        let node = OneNode {
            operator: "GroupQueryAttention",
            inputs,
            outputs: OUTPUTS.to_vec(),
            integers: integers.into(),
            floats: if self.softcap > 0.0 { vec![("softcap", self.softcap), ("scale", 0.5)] } else { Vec::new() },
            constants,
            given: given.filter(|(name, ..)| !self.is_packed || !["key", "value"].contains(name)).collect(),
            ranks: vec![3, 4, 4],
        };
        node.bytes()
    }

    fn load(self, whose: Whose) -> Loaded {
        self.with_cache(whose, DataType::FLOAT)
    }

    fn with_cache(self, whose: Whose, cache: DataType) -> Loaded {
        let names: Vec<&str> = INPUTS.into_iter().filter(|name| !self.is_packed || !["key", "value"].contains(name)).collect();
        Loaded::with_cache(&self.graph(), whose, [&names, &OUTPUTS], cache)
    }

    /// The inputs for `n` tokens of each row, which follow so many; a cache has `capacity` positions.
    fn inputs(self, n: usize, pasts: &[usize], capacity: usize) -> Vec<DynValue> {
        let (batch, width) = (pasts.len(), self.head_dim);
        let projected = |heads: usize, seed: usize| {
            let values = numbers(batch * n * heads * width, seed);
            Tensor::from_array(([batch, n, heads * width], values)).unwrap().into_dyn()
        };
        let mut inputs = match self.is_packed {
            true => vec![projected(HEADS + 2 * KV_HEADS, 1)],
            false => vec![projected(HEADS, 1), projected(KV_HEADS, 2), projected(KV_HEADS, 3)],
        };
        for seed in [4, 5] {
            // Nothing behind the past is read.
            let mut cache = Tensor::<f32>::new(&ort::memory::Allocator::default(), [batch, KV_HEADS, capacity, width]).unwrap();
            let values = numbers(batch * KV_HEADS * capacity * width, seed);
            for (i, (to, value)) in cache.extract_tensor_mut().1.iter_mut().zip(values).enumerate() {
                let (row, position) = (i / (KV_HEADS * capacity * width), i / width % capacity);
                *to = if position < pasts[row] { value } else { f32::NAN };
            }
            inputs.push(cache.into_dyn());
        }
        let last: Vec<i32> = pasts.iter().map(|past| (past + n - 1) as i32).collect();
        let total = last.iter().max().unwrap() + 1;
        inputs.push(Tensor::from_array(([batch], last)).unwrap().into_dyn());
        inputs.push(Tensor::from_array(([1], vec![total])).unwrap().into_dyn());
        inputs
    }
}

/// Output, keys and values of `side`, the caches up to where each row ends.
fn results(side: &Loaded, case: Case, n: usize, pasts: &[usize], capacity: usize, in_place: bool) -> Vec<Vec<f32>> {
    let inputs = case.inputs(n, pasts, capacity);
    let first = inputs.len() - 4;
    let places = if in_place { [None, Some(first), Some(first + 1)] } else { [None; 3] };
    let outputs = side.run(&inputs, &places);
    let mut results = Vec::new();
    for (output, place) in outputs.iter().zip(places) {
        let value = output.as_ref().or(place.map(|place| &inputs[place])).unwrap();
        let (shape, values) = (value.shape().to_vec(), floats(value));
        if shape.len() == 4 {
            let (capacity, width) = (shape[2] as usize, shape[3] as usize);
            let held = values.chunks(capacity * width).enumerate();
            results.push(held.flat_map(|(head, values)| &values[..(pasts[head / KV_HEADS] + n) * width]).copied().collect());
        } else {
            results.push(values.to_vec());
        }
    }
    results
}

fn check(sides: &[Loaded; 2], case: Case, n: usize, pasts: &[usize], in_place: bool) {
    let end = pasts.iter().max().unwrap() + n;
    // What is not appended to in place has as many positions as there are.
    let capacity = if in_place { end + 5 } else { end - n };
    let [own, theirs] = sides.each_ref().map(|side| results(side, case, n, pasts, capacity, in_place));
    for (name, (own, theirs)) in OUTPUTS.iter().zip(own.iter().zip(&theirs)) {
        assert_eq!(own.len(), theirs.len());
        for (i, (own, theirs)) in own.iter().zip(theirs).enumerate() {
            let what = format!("{case:?}, {n} after {pasts:?}, in place {in_place}: {name}[{i}]");
            assert!((own - theirs).abs() <= 2e-5, "{what}: {own} is not {theirs}");
        }
    }
}

fn sides(case: Case) -> [Loaded; 2] {
    [Whose::Tandem, Whose::Runtime].map(|whose| case.load(whose))
}

#[test]
fn attention_is_the_engines() {
    with_engine(|| {
        let plain = Case { is_packed: true, rotates: true, head_dim: 32, ..Case::default() };
        let cases = [
            plain,
            Case { is_packed: false, ..plain },
            Case { rotates: false, head_dim: 24, ..plain },
            Case { window: Some(7), ..plain },
            Case { window: Some(300), is_packed: false, ..plain },
            Case { softcap: 3.0, ..plain },
        ];
        for case in cases {
            let sides = sides(case);
            for past in [0, 1, 255, 256, 700] {
                for n in [1, 3, 9, 40] {
                    check(&sides, case, n, &[past], true);
                    check(&sides, case, n, &[past], false);
                }
            }
        }
    });
}

#[test]
fn rows_of_a_batch_have_their_own_lengths() {
    with_engine(|| {
        let case = Case { is_packed: true, rotates: true, head_dim: 32, ..Case::default() };
        let sides = sides(case);
        check(&sides, case, 1, &[3, 260, 17], true);
        check(&sides, case, 12, &[0, 0], true);
        check(&sides, case, 12, &[0, 0], false);
        check(&sides, case, 1, &[9, 9], false);
    });
}

/// The caches among `inputs`, of this case, as f16.
fn narrowed(mut inputs: Vec<DynValue>) -> Vec<DynValue> {
    let first = inputs.len() - 4;
    for cache in &mut inputs[first..first + 2] {
        let shape: Vec<usize> = cache.shape().iter().map(|&size| size as usize).collect();
        let mut narrow = Tensor::<f16>::new(&ort::memory::Allocator::default(), shape).unwrap();
        narrow.extract_tensor_mut().1.iter_mut().zip(floats(cache)).for_each(|(to, value)| *to = f16::from_f32(*value));
        *cache = narrow.into_dyn();
    }
    inputs
}

/// Attention over a cache in f16 is that over one in f32 that holds the same numbers, but for the new tokens, which are rounded.
#[test]
fn attention_over_f16_is_near_that_over_f32() {
    with_engine(|| {
        let plain = Case { is_packed: true, rotates: true, head_dim: 32, ..Case::default() };
        for case in [plain, Case { is_packed: false, ..plain }, Case { window: Some(7), ..plain }, Case { softcap: 3.0, ..plain }]
        {
            let [narrow, wide] = [DataType::FLOAT16, DataType::FLOAT].map(|cache| case.with_cache(Whose::Tandem, cache));
            for (past, n) in [(0, 1), (255, 1), (700, 1), (256, 3), (40, 9), (0, 40)] {
                for in_place in [true, false] {
                    let capacity = if in_place { past + n + 5 } else { past };
                    let first = if case.is_packed { 1 } else { 3 };
                    let places = if in_place { [None, Some(first), Some(first + 1)] } else { [None; 3] };
                    let [inputs, wide_inputs] = [(); 2].map(|()| case.inputs(n, &[past], capacity));
                    let inputs = narrowed(inputs);
                    let own = narrow.run(&inputs, &places);
                    let theirs = wide.run(&wide_inputs, &places);
                    let what = format!("{case:?}, {n} after {past}, in place {in_place}");
                    let (own_out, their_out) = (floats(own[0].as_ref().unwrap()), floats(theirs[0].as_ref().unwrap()));
                    for (own, theirs) in own_out.iter().zip(their_out) {
                        // 2.3e-3 was measured, with scores of up to 3.
                        assert!((own - theirs).abs() <= 5e-3, "{what}: {own} is not {theirs}");
                    }
                    for (i, place) in places.iter().enumerate().skip(1) {
                        let held = own[i].as_ref().or(place.map(|place| &inputs[place])).unwrap();
                        let expected = theirs[i].as_ref().or(place.map(|place| &wide_inputs[place])).unwrap();
                        let width = held.shape()[2] as usize * case.head_dim;
                        let held = held.try_extract_tensor::<f16>().unwrap().1;
                        let rows = held.chunks(width).zip(floats(expected).chunks(width));
                        for (held, expected) in rows.map(|(held, expected)| (&held[..(past + n) * case.head_dim], expected)) {
                            for (held, expected) in held.iter().zip(expected) {
                                assert_eq!(*held, f16::from_f32(*expected), "{what}");
                            }
                        }
                    }
                }
            }
        }
    });
}
