//! How near quantised weights are, and that their bytes lie where the operators look for them.

use std::borrow::Cow;

use proptest::prelude::*;

use super::super::weights::{FloatType, WeightType};
use super::*;

fn quantize(weights: &[Weight<'_>], n_inputs: usize, bits: usize) -> Quantized {
    super::quantize(weights, n_inputs, bits).unwrap()
}

fn weight(values: &[f32], n_inputs: usize) -> Weight<'static> {
    Weight {
        kind: WeightType::F32,
        shape: vec![values.len() / n_inputs, n_inputs],
        bytes: Cow::Owned(FloatType::F32.to_bytes(values)),
    }
}

/// What the operators compute from codes and scales: `(code - zero) * scale`.
fn restore(quantized: &Quantized, n_inputs: usize, bits: usize) -> Vec<f32> {
    let zero = (1 << (bits - 1)) as f32;
    let codes: Vec<f32> = match bits {
        4 => quantized.codes.iter().flat_map(|byte| [byte & 15, byte >> 4]).map(f32::from).collect(),
        _ => quantized.codes.iter().copied().map(f32::from).collect(),
    };
    let scaled = codes
        .chunks(BLOCK_SIZE)
        .zip(&quantized.scales)
        .flat_map(|(block, scale)| block.iter().map(move |code| (code - zero) * scale));
    let padded: Vec<f32> = scaled.collect();
    padded.chunks(n_inputs.next_multiple_of(BLOCK_SIZE)).flat_map(|row| row[..n_inputs].to_vec()).collect()
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

proptest! {
    #[test]
    fn no_block_is_worse_than_rounded_to_nearest(block in prop::collection::vec(normal(), BLOCK_SIZE), bits in prop::sample::select(&[4_usize, 8][..])) {
        let restored = restore(&quantize(&[weight(&block, BLOCK_SIZE)], BLOCK_SIZE, bits), BLOCK_SIZE, bits);
        let plain = squared_error(&round_to_nearest(&block, bits), &block);
        prop_assert!(squared_error(&restored, &block) <= plain * (1.0 + 1e-3) + 1e-12);
    }

    #[test]
    fn weights_on_a_grid_are_exact(codes in prop::collection::vec(-8_i8..8, 2 * BLOCK_SIZE), exponent in -8_i32..8) {
        let scale = 2.0_f32.powi(exponent);
        let mut values: Vec<f32> = codes.iter().map(|&code| f32::from(code) * scale).collect();
        values[3] = -8.0 * scale;
        values[BLOCK_SIZE + 5] = -8.0 * scale;
        prop_assert_eq!(restore(&quantize(&[weight(&values, BLOCK_SIZE)], BLOCK_SIZE, 4), BLOCK_SIZE, 4), values);
    }
}

#[test]
fn the_search_takes_a_tenth_off_the_error() {
    let mut state = 1_u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    let values: Vec<f32> = (0..64 * 1024).map(|_| (0..8).map(|_| uniform()).sum()).collect();
    let restored = restore(&quantize(&[weight(&values, 256)], 256, 4), 256, 4);
    let plain: Vec<f32> = values.chunks(BLOCK_SIZE).flat_map(|block| round_to_nearest(block, 4)).collect();
    let (searched, plain) = (squared_error(&restored, &values), squared_error(&plain, &values));
    assert!(searched < 0.8 * plain, "{searched} of {plain}");
}

#[test]
fn rows_that_do_not_fill_their_blocks_are_padded_with_zeros() {
    let values: Vec<f32> = (0..2 * 48).map(|index| (index % 13) as f32 - 6.0).collect();
    for (bits, n_bytes) in [(4, 2 * 2 * 16), (8, 2 * 2 * 32)] {
        let quantized = quantize(&[weight(&values, 48)], 48, bits);
        assert_eq!((quantized.codes.len(), quantized.scales.len()), (n_bytes, 4));
        let zero = if bits == 4 { 0x88 } else { 0x80 };
        let row = n_bytes / 2;
        assert!(quantized.codes[row * 3 / 4..row].iter().all(|&code| code == zero));
        let restored = restore(&quantized, 48, bits);
        let greatest = restored.iter().zip(&values).map(|(left, right)| (left - right).abs()).fold(0.0, f32::max);
        assert!(greatest < if bits == 4 { 0.5 } else { 0.05 }, "{greatest}");
    }
}

#[test]
fn matrices_one_above_the_other_are_those_of_each_alone() {
    let values: Vec<f32> = (0..7 * 64).map(|index| ((index * 37) % 101) as f32 / 50.0 - 1.0).collect();
    let (above, below) = values.split_at(3 * 64);
    let both = quantize(&[weight(above, 64), weight(below, 64)], 64, 4);
    let apart = [above, below].map(|values| quantize(&[weight(values, 64)], 64, 4));
    assert_eq!(both.codes, [apart[0].codes.as_slice(), &apart[1].codes].concat());
    assert_eq!(both.scales, [apart[0].scales.as_slice(), &apart[1].scales].concat());
}

#[test]
fn a_block_of_zeros_stays_zero() {
    let quantized = quantize(&[weight(&[0.0; BLOCK_SIZE], BLOCK_SIZE)], BLOCK_SIZE, 4);
    assert_eq!((restore(&quantized, BLOCK_SIZE, 4), quantized.scales), (vec![0.0; BLOCK_SIZE], vec![0.0]));
}

#[test]
fn weights_that_are_no_numbers_have_no_codes() {
    for damaged in [f32::NAN, f32::INFINITY] {
        assert!(super::quantize(&[weight(&[&[1.0; 40][..], &[damaged; 24]].concat(), 32)], 32, 4).is_none());
    }
}
