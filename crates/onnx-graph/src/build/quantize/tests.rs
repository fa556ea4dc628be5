//! How near quantised weights are, and that their bytes lie where the operators look for them.

use std::borrow::Cow;

use proptest::prelude::*;

use super::super::weights::{FloatType, WeightType};
use super::*;

const INT4: QuantFormat = QuantFormat { bits: 4, blocks: Blocks { size: 32, symmetric: true } };
const INT8: QuantFormat = QuantFormat { bits: 8, ..INT4 };

fn quantize(weights: &[Weight<'_>], n_inputs: usize, format: QuantFormat) -> Quantized {
    super::quantize(weights, n_inputs, format, &|| Ok(())).unwrap().unwrap()
}

fn weight(values: &[f32], n_inputs: usize) -> Weight<'static> {
    Weight {
        kind: WeightType::F32,
        shape: vec![values.len() / n_inputs, n_inputs],
        bytes: Cow::Owned(FloatType::F32.to_bytes(values)),
    }
}

fn unpack(bytes: &[u8], bits: usize) -> Vec<f32> {
    match bits {
        4 => bytes.iter().flat_map(|byte| [byte & 15, byte >> 4]).map(f32::from).collect(),
        _ => bytes.iter().copied().map(f32::from).collect(),
    }
}

/// What the operators compute from codes, scales and zero points: `(code - zero) * scale`.
fn restore(quantized: &Quantized, n_inputs: usize, format: QuantFormat) -> Vec<f32> {
    let (n_blocks, size) = (format.n_blocks(n_inputs), format.blocks.size);
    let n_rows = quantized.scales.len() / n_blocks;
    let codes = unpack(&quantized.codes, format.bits);
    let zeros: Vec<f32> = match format.blocks.symmetric {
        true => vec![(1 << (format.bits - 1)) as f32; n_rows * n_blocks],
        false => {
            let rows = quantized.zeros.chunks(format.zero_bytes(n_inputs));
            rows.flat_map(|row| unpack(row, format.bits)[..n_blocks].to_vec()).collect()
        }
    };
    let at = |row: usize, input: usize| {
        let block = row * n_blocks + input / size;
        (codes[block * size + input % size] - zeros[block]) * quantized.scales[block]
    };
    (0..n_rows).flat_map(|row| (0..n_inputs).map(move |input| (row, input))).map(|(row, input)| at(row, input)).collect()
}

fn squared_error(left: &[f32], right: &[f32]) -> f64 {
    left.iter().zip(right).map(|(left, right)| f64::from(left - right).powi(2)).sum()
}

/// Round to nearest, the greatest magnitude on the greatest code: what a quantiser without a search does.
fn round_to_nearest(block: &[f32], bits: usize) -> Vec<f32> {
    let greatest = ((1 << (bits - 1)) - 1) as f32;
    let scale = block.iter().fold(0.0_f32, |greatest, weight| greatest.max(weight.abs())) / greatest;
    block.iter().map(|weight| if scale == 0.0 { 0.0 } else { (weight / scale).round() * scale }).collect()
}

/// Numbers that are spread as weights are: a sum of uniform ones.
fn normal() -> impl Strategy<Value = f32> {
    prop::array::uniform8(-0.1_f32..0.1).prop_map(|parts| parts.iter().sum())
}

fn format() -> impl Strategy<Value = QuantFormat> {
    let sizes = prop::sample::select(&[16_usize, 32, 64, 128][..]);
    (prop::sample::select(&[4_usize, 8][..]), sizes, any::<bool>())
        .prop_map(|(bits, size, symmetric)| QuantFormat { bits, blocks: Blocks { size, symmetric } })
}

proptest! {
    #[test]
    fn error_is_at_most_that_of_rounding_to_nearest(row in prop::collection::vec(normal(), 128), format in format()) {
        let plain: Vec<f32> = row.chunks(format.blocks.size).flat_map(|block| round_to_nearest(block, format.bits)).collect();
        let restored = restore(&quantize(&[weight(&row, 128)], 128, format), 128, format);
        prop_assert!(squared_error(&restored, &row) <= squared_error(&plain, &row) * (1.0 + 1e-3) + 1e-12);
    }

    #[test]
    fn zero_points_do_not_increase_the_error(row in prop::collection::vec(normal(), 128), shift in -0.5_f32..0.5, format in format()) {
        let row: Vec<f32> = row.iter().map(|weight| weight + shift).collect();
        let [with, without] = [false, true].map(|symmetric| {
            let format = QuantFormat { blocks: Blocks { symmetric, ..format.blocks }, ..format };
            squared_error(&restore(&quantize(&[weight(&row, 128)], 128, format), 128, format), &row)
        });
        prop_assert!(with <= without * (1.0 + 1e-3) + 1e-12);
    }

    #[test]
    fn weights_on_a_grid_are_exact(codes in prop::collection::vec(-8_i8..8, 2 * INT4.blocks.size), exponent in -8_i32..8) {
        let scale = 2.0_f32.powi(exponent);
        let mut values: Vec<f32> = codes.iter().map(|&code| f32::from(code) * scale).collect();
        values[3] = -8.0 * scale;
        values[INT4.blocks.size + 5] = -8.0 * scale;
        prop_assert_eq!(restore(&quantize(&[weight(&values, INT4.blocks.size)], INT4.blocks.size, INT4), INT4.blocks.size, INT4), values);
    }
}

#[test]
fn search_reduces_the_error_by_a_tenth() {
    let mut state = 1_u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    let values: Vec<f32> = (0..64 * 1024).map(|_| (0..8).map(|_| uniform()).sum()).collect();
    let restored = restore(&quantize(&[weight(&values, 256)], 256, INT4), 256, INT4);
    let plain: Vec<f32> = values.chunks(INT4.blocks.size).flat_map(|block| round_to_nearest(block, 4)).collect();
    let (searched, plain) = (squared_error(&restored, &values), squared_error(&plain, &values));
    assert!(searched < 0.8 * plain, "{searched} of {plain}");
}

#[test]
fn incomplete_blocks_are_padded_with_zeros() {
    let values: Vec<f32> = (0..2 * 48).map(|index| (index % 13) as f32 - 6.0).collect();
    for (format, n_bytes) in [(INT4, 2 * 2 * 16), (INT8, 2 * 2 * 32)] {
        let bits = format.bits;
        let quantized = quantize(&[weight(&values, 48)], 48, format);
        assert_eq!((quantized.codes.len(), quantized.scales.len()), (n_bytes, 4));
        let zero = if bits == 4 { 0x88 } else { 0x80 };
        let row = n_bytes / 2;
        assert!(quantized.codes[row * 3 / 4..row].iter().all(|&code| code == zero));
        let restored = restore(&quantized, 48, format);
        let greatest = restored.iter().zip(&values).map(|(left, right)| (left - right).abs()).fold(0.0, f32::max);
        assert!(greatest < if bits == 4 { 0.5 } else { 0.05 }, "{greatest}");
    }
}

#[test]
fn stacked_matrices_equal_each_alone() {
    let values: Vec<f32> = (0..7 * 64).map(|index| ((index * 37) % 101) as f32 / 50.0 - 1.0).collect();
    let (above, below) = values.split_at(3 * 64);
    let both = quantize(&[weight(above, 64), weight(below, 64)], 64, INT4);
    let apart = [above, below].map(|values| quantize(&[weight(values, 64)], 64, INT4));
    assert_eq!(both.codes, [apart[0].codes.as_slice(), &apart[1].codes].concat());
    assert_eq!(both.scales, [apart[0].scales.as_slice(), &apart[1].scales].concat());
}

#[test]
fn zero_points_help_weights_of_one_sign() {
    let format = QuantFormat { blocks: Blocks { size: 16, symmetric: false }, ..INT4 };
    // Three blocks: the second half of the zero points' last byte is empty.
    let values: Vec<f32> = (0..2 * 48).map(|index| 0.25 + (index % 16) as f32 / 32.0).collect();
    let quantized = quantize(&[weight(&values, 48)], 48, format);
    assert_eq!((quantized.zeros.len(), quantized.zeros[1] >> 4, quantized.zeros[3] >> 4), (4, 0, 0));
    let symmetric = QuantFormat { blocks: Blocks { symmetric: true, ..format.blocks }, ..format };
    let without = quantize(&[weight(&values, 48)], 48, symmetric);
    assert!(without.zeros.is_empty());
    let error = |quantized, format| squared_error(&restore(quantized, 48, format), &values);
    assert!(error(&quantized, format) < 0.4 * error(&without, symmetric));
}

#[test]
fn block_of_zeros_stays_zero() {
    let quantized = quantize(&[weight(&[0.0; INT4.blocks.size], INT4.blocks.size)], INT4.blocks.size, INT4);
    assert_eq!((restore(&quantized, INT4.blocks.size, INT4), quantized.scales), (vec![0.0; INT4.blocks.size], vec![0.0]));
}

#[test]
fn non_finite_weights_are_refused() {
    for damaged in [f32::NAN, f32::INFINITY] {
        let weights = [weight(&[&[1.0; 40][..], &[damaged; 24]].concat(), 32)];
        assert!(super::quantize(&weights, 32, INT4, &|| Ok(())).unwrap().is_none());
    }
}
