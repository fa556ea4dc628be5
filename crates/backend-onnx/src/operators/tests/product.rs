//! Products in 8 and 4 bits, with and without zero points and bias.

use ort::value::Tensor;
use tandem_core::backend::{Kernels as Whose, Numerics};
use tandem_kernels::instruction_set;
use tandem_kernels::matrix::{Kernels, MatrixView, Terms, Weights as KernelWeights};
use tandem_kernels::quantize::{BLOCK, Bits, Blocks};
use tandem_kernels::strips::Layout;

use super::onnx::{FLOAT, OneNode, UINT8, float_bytes};
use super::{Loaded, floats, numbers, with_engine};

/// A weight matrix as the engine has it.
struct Weights {
    bits: usize,
    block: usize,
    rows: usize,
    columns: usize,
    codes: Vec<u8>,
    scales: Vec<f32>,
    zeros: Option<Vec<u8>>,
}

impl Weights {
    fn new(bits: usize, block: usize, [rows, columns]: [usize; 2], has_zeros: bool) -> Self {
        let byte = |i: usize| ((i * i * 7 + i * 13 + 5) % 251) as u8;
        let per_row = columns / block;
        Self {
            bits,
            block,
            rows,
            columns,
            codes: (0..rows * columns * bits / 8).map(byte).collect(),
            scales: numbers(rows * per_row, 3).iter().map(|scale| scale * 0.01).collect(),
            zeros: has_zeros.then(|| (0..rows * (per_row * bits).div_ceil(8)).map(byte).collect()),
        }
    }

    /// The weight of input `column` for output `row`.
    fn at(&self, row: usize, column: usize) -> f64 {
        let code = |bytes: &[u8], first: usize, i: usize| match self.bits {
            4 => i32::from(bytes[first + i / 2] >> (4 * (i % 2)) & 15),
            _ => i32::from(bytes[first + i]),
        };
        let (per_row, block) = (self.columns / self.block, column / self.block);
        let zero =
            self.zeros.as_ref().map_or(1 << (self.bits - 1), |zeros| code(zeros, row * (per_row * self.bits).div_ceil(8), block));
        let code = code(&self.codes, row * self.columns * self.bits / 8, column);
        f64::from(code - zero) * f64::from(self.scales[row * per_row + block])
    }

    fn graph(&self, bias: Option<&[f32]>, accuracy: i64) -> Vec<u8> {
        let Self { bits, block, rows, columns, .. } = *self;
        let per_row = columns / block;
        let mut constants = vec![
            ("codes", UINT8, vec![rows, per_row, block * bits / 8], self.codes.clone()),
            ("scales", FLOAT, vec![rows, per_row], float_bytes(&self.scales)),
        ];
        let zeros = self.zeros.as_ref().map(|zeros| ("zeros", UINT8, vec![zeros.len()], zeros.clone()));
        constants.extend(zeros);
        constants.extend(bias.map(|bias| ("bias", FLOAT, vec![rows], float_bytes(bias))));
        let zeros = if self.zeros.is_some() { "zeros" } else { "" };
        let mut inputs = vec!["x", "codes", "scales", zeros, "", if bias.is_some() { "bias" } else { "" }];
        inputs.truncate(inputs.iter().rposition(|input| !input.is_empty()).unwrap() + 1);
        let integers = [("K", columns), ("N", rows), ("bits", bits), ("block_size", block)];
        let integers = integers.map(|(name, value)| (name, value as i64));
        let node = OneNode {
            operator: "MatMulNBits",
            inputs,
            outputs: vec!["y"],
            integers: [&integers[..], &[("accuracy_level", accuracy)]].concat(),
            constants,
            given: vec![("x", FLOAT, 3)],
            ranks: vec![3],
            ..OneNode::default()
        };
        node.bytes()
    }
}

/// What an output should be, and how far from it one may be: by the rounding of sums, and of inputs to 8 bits where `accuracy` is 4.
fn expected(weights: &Weights, x: &[f32], bias: Option<&[f32]>, accuracy: i64, row: usize) -> (f64, f64) {
    let (mut sum, mut allowed) = (bias.map_or(0.0, |bias| f64::from(bias[row])), 1e-6);
    for (block, x) in x.chunks(weights.block).enumerate() {
        let step = x.iter().fold(0.0_f32, |all, x| all.max(x.abs())) / 127.0;
        for (i, &x) in x.iter().enumerate() {
            let weight = weights.at(row, block * weights.block + i);
            sum += weight * f64::from(x);
            allowed += weight.abs() * (f64::from(x.abs()) * 2e-6 + if accuracy == 4 { 0.51 * f64::from(step) } else { 0.0 });
        }
    }
    (sum, allowed)
}

fn check(weights: &Weights, has_bias: bool, accuracy: i64) {
    let bias = has_bias.then(|| numbers(weights.rows, 9));
    let bytes = weights.graph(bias.as_deref(), accuracy);
    let sides = [Whose::Tandem, Whose::Runtime].map(|whose| Loaded::new(&bytes, whose, [&["x"], &["y"]]));
    for n in [1, 3, 9, 40] {
        let x = numbers(n * weights.columns, n);
        let given = Tensor::from_array(([1, n, weights.columns], x.clone())).unwrap().into_dyn();
        let [own, theirs] = sides.each_ref().map(|side| side.run(std::slice::from_ref(&given), &[None]).remove(0).unwrap());
        assert_eq!(own.shape(), theirs.shape());
        for (i, (own, theirs)) in floats(&own).iter().zip(floats(&theirs)).enumerate() {
            let (token, row) = (i / weights.rows, i % weights.rows);
            let (expected, allowed) =
                expected(weights, &x[token * weights.columns..][..weights.columns], bias.as_deref(), accuracy, row);
            let Weights { bits, block, zeros, .. } = weights;
            let what = format!(
                "{bits} bits in blocks of {block}, zeros {}, bias {has_bias}, level {accuracy}, {n} rows",
                zeros.is_some()
            );
            assert!((f64::from(*own) - expected).abs() <= allowed, "{what}: {own} is not {expected} within {allowed}");
            assert!((f64::from(*own) - f64::from(*theirs)).abs() <= 2.0 * allowed, "{what}: {own} is not {theirs}");
        }
    }
}

/// Products are the same to the bit before and after weights are copied, interleaved, into memory of the process's own.
#[test]
fn copied_weights_give_the_same_bits() {
    with_engine(|| {
        for (bits, block, has_zeros) in [(4, 32, false), (8, 32, false), (4, 64, false), (4, 32, true), (8, 128, true)] {
            let weights = Weights::new(bits, block, [71, 3 * block], has_zeros);
            for accuracy in [0, 4] {
                let own = Loaded::new(&weights.graph(None, accuracy), Whose::Tandem, [&["x"], &["y"]]);
                let outputs = || {
                    [1, 2, 8, 9, 40].map(|n| {
                        let x = Tensor::from_array(([1, n, weights.columns], numbers(n * weights.columns, n))).unwrap();
                        floats(own.run(&[x.into_dyn()], &[None])[0].as_ref().unwrap()).to_vec()
                    })
                };
                let before = outputs();
                let is_copied = accuracy == 4 && (Layout::of(Numerics::Fast) == Layout::Strips);
                assert_eq!(own.mapped.copy_all() > 1, is_copied, "parts of {bits} bits, level {accuracy}");
                assert_eq!(outputs(), before, "{bits} bits in blocks of {block}, zeros {has_zeros}, level {accuracy}");
            }
        }
    });
}

#[test]
fn products_are_the_engines() {
    with_engine(|| {
        for bits in [4, 8] {
            for block in [32, 64, 128] {
                for has_zeros in [false, true] {
                    // An odd number of blocks, and of outputs.
                    let weights = Weights::new(bits, block, [71, 3 * block], has_zeros);
                    for accuracy in [0, 4] {
                        check(&weights, has_zeros, accuracy);
                        check(&weights, !has_zeros, accuracy);
                    }
                }
            }
        }
    });
}

#[test]
fn zero_points_in_the_middle_are_not_multiplied() {
    with_engine(|| {
        for bits in [4, 8] {
            let mut weights = Weights::new(bits, 32, [70, 96], true);
            let middle = if bits == 4 { 0x88 } else { 0x80 };
            weights.zeros.as_mut().unwrap().fill(middle);
            let plain = Weights::new(bits, 32, [70, 96], false);
            let x = Tensor::from_array(([1, 5, 96], numbers(5 * 96, 1))).unwrap().into_dyn();
            let [with, without] = [&weights, &plain].map(|weights| {
                let side = Loaded::new(&weights.graph(None, 4), Whose::Tandem, [&["x"], &["y"]]);
                side.run(std::slice::from_ref(&x), &[None]).remove(0).unwrap()
            });
            assert_eq!(floats(&with), floats(&without), "{bits} bits");
        }
    });
}

/// The codes of [`Weights`] as our kernels have them: weights `i` and `i + 16` of a block share a byte.
fn own_codes(weights: &Weights) -> Vec<u8> {
    if weights.bits == 8 {
        return weights.codes.clone();
    }
    let half = |block: &[u8], i: usize| block[i / 2] >> (4 * (i % 2)) & 15;
    weights.codes.chunks(BLOCK / 2).flat_map(|block| (0..BLOCK / 2).map(|i| half(block, i) | half(block, i + 16) << 4)).collect()
}

#[test]
fn products_are_those_of_candle() {
    with_engine(|| {
        for bits in [4, 8] {
            let weights = Weights::new(bits, BLOCK, [70, 3 * BLOCK], false);
            let side = Loaded::new(&weights.graph(None, 4), Whose::Tandem, [&["x"], &["y"]]);
            let (codes, named) = (own_codes(&weights), if bits == 4 { Bits::Four } else { Bits::Eight });
            let blocks = Blocks { bits: named, codes: &codes, scales: &weights.scales };
            let matrix = MatrixView::new(KernelWeights::Blocks(blocks), [weights.rows, weights.columns], Numerics::Fast);
            for n in [1, 3, 9, 40] {
                let x = numbers(n * weights.columns, n);
                let given = Tensor::from_array(([1, n, weights.columns], x.clone())).unwrap().into_dyn();
                let result = side.run(std::slice::from_ref(&given), &[None]).remove(0).unwrap();
                let theirs = matrix.product(&x, Terms::default(), Kernels::Fastest);
                // Few rows of 4 bits are summed in lanes, and a lane has other inputs of the block; the rest is equal to the bit.
                let is_equal = bits == 8 || n > 8 && instruction_set().contains("vnni");
                for (i, (own, theirs)) in floats(&result).iter().zip(&theirs).enumerate() {
                    let x = &x[i / weights.rows * weights.columns..][..weights.columns];
                    let sum: f64 =
                        x.iter().enumerate().map(|(c, x)| (weights.at(i % weights.rows, c) * f64::from(*x)).abs()).sum();
                    let allowed = if is_equal { 0.0 } else { 2e-6 * sum };
                    assert!(f64::from(own - theirs).abs() <= allowed, "{bits} bits, {n} rows: {own} is not {theirs}");
                }
            }
        }
    });
}
