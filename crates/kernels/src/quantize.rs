//! Quantised weights: integers of 8 or 4 bits with a scale for each block of 32 inputs, and how floats become them.
//!
//! 32 divides the rows of every published model that we know; the blocks of 256 of GGML's K-quants do not divide the 896 columns of
//! Qwen2.5-0.5B. A weight is an integer, from -128 to 127 or from -8 to 7, times the scale.

use crate::isa::vectorized;

/// Inputs that share a scale.
pub const BLOCK: usize = 32;

/// The code of zero in eight bits.
const ZERO_OF_EIGHT: f32 = 128.0;

/// The code of zero in four bits.
const ZERO_OF_FOUR: f32 = 8.0;

/// The bits of a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bits {
    /// One byte for each weight, in order: its integer and 128, as in ONNX Runtime's `MatMulNBits` with its default zero point.
    Eight,
    /// Sixteen bytes for each block, each code an integer and 8: weight `i` in the low half of byte `i`, weight `i + 16` in the high half, as in
    /// GGML's `Q4_0`.
    Four,
}

/// Some rows of quantised weights.
#[derive(Clone, Copy, Debug)]
pub struct Blocks<'a> {
    /// Bits of a weight.
    pub bits: Bits,
    /// `[blocks, bits.block_bytes()]`
    pub codes: &'a [u8],
    /// `[blocks]`
    pub scales: &'a [f32],
}

impl Bits {
    /// Bytes of the codes of one block.
    pub fn block_bytes(self) -> usize {
        match self {
            Self::Eight => BLOCK,
            Self::Four => BLOCK / 2,
        }
    }

    /// The code of zero: what is added to an integer to make its code.
    pub const fn offset(self) -> i32 {
        match self {
            Self::Eight => 128,
            Self::Four => 8,
        }
    }

    /// Quantises `weights`, whole blocks, to `codes`, `[blocks, block_bytes()]`, and `scales`, `[blocks]`, on the calling thread. The integers
    /// are the same on every processor.
    pub fn quantize(self, weights: &[f32], codes: &mut [u8], scales: &mut [f32]) {
        let blocks = weights.as_chunks::<BLOCK>().0;
        let parts = blocks.chunks(LANES).zip(codes.chunks_mut(LANES * self.block_bytes())).zip(scales.chunks_mut(LANES));
        for ((blocks, codes), scales) in parts {
            let mut transposed = [[0.0; LANES]; BLOCK];
            for (lane, block) in blocks.iter().enumerate() {
                transposed.iter_mut().zip(block).for_each(|(transposed, weight)| transposed[lane] = *weight);
            }
            let best = match self {
                Self::Eight => nearest(&mut transposed, 128.0, &ROUNDINGS_OF_EIGHT),
                Self::Four => nearest(&mut transposed, 8.0, &ROUNDINGS_OF_FOUR),
            };
            scales.copy_from_slice(&best[..scales.len()]);
            for (lane, codes) in codes.chunks_exact_mut(self.block_bytes()).enumerate() {
                self.write(lane, &transposed, codes);
            }
        }
    }

    /// Writes the integers of one lane as codes.
    fn write(self, lane: usize, numbers: &[[f32; LANES]; BLOCK], codes: &mut [u8]) {
        match self {
            Self::Eight => {
                codes.iter_mut().zip(numbers).for_each(|(code, numbers)| *code = (numbers[lane] + ZERO_OF_EIGHT) as u8);
            }
            Self::Four => {
                let half = |i: usize| (numbers[i][lane] + ZERO_OF_FOUR) as u8;
                codes.iter_mut().enumerate().for_each(|(i, code)| *code = half(i) | half(i + BLOCK / 2) << 4);
            }
        }
    }
}

impl<'a> Blocks<'a> {
    /// The rows `rows` of a matrix of `columns` columns.
    pub fn rows(self, rows: std::ops::Range<usize>, columns: usize) -> Blocks<'a> {
        let per_row = columns / BLOCK;
        let bytes = per_row * self.bits.block_bytes();
        Blocks {
            bits: self.bits,
            codes: &self.codes[rows.start * bytes..rows.end * bytes],
            scales: &self.scales[rows.start * per_row..rows.end * per_row],
        }
    }

    /// Block number `block`.
    pub(crate) fn block(self, block: usize) -> Blocks<'a> {
        self.rows(block..block + 1, BLOCK)
    }
}

/// Blocks that are quantised side by side. Each is computed in the same order as if it were alone, so the width of the processor's vectors
/// does not change a bit.
const LANES: usize = 16;

/// Candidate scales, by where they put the weight of the greatest magnitude: in steps beyond the lowest integer. -1 is plain rounding.
/// Eight bits are so precise that two candidates suffice.
const ROUNDINGS_OF_EIGHT: [f32; 2] = [-1.0, 0.0];
const ROUNDINGS_OF_FOUR: [f32; 20] = {
    let mut steps = [0.0; 20];
    let mut i = 0;
    while i < steps.len() {
        steps[i] = 0.1 * (i as f32 - 10.0);
        i += 1;
    }
    steps
};

vectorized! {
    /// Replaces blocks of weights, one in each lane, by the nearest integers from `-span` to `span - 1`, and returns the scales.
    ///
    /// The weight of the greatest magnitude is put on the lowest integer, or somewhat beyond or short of it, since each of these scales rounds
    /// the others differently; the rounding and scale of least squared error are kept. After `make_qx_quants` of llama.cpp
    /// (`ggml/src/ggml-quants.c`), with equal importance of all weights. A block with an infinity or NaN has the scale NaN, which shows in
    /// the logits.
    fn nearest(blocks: &mut [[f32; LANES]; BLOCK], span: f32, roundings: &[f32]) -> [f32; LANES] {
        let mut extremes = [0.0_f32; LANES];
        let mut sums = [0.0_f32; LANES];
        for weights in blocks.iter() {
            for ((extreme, sum), weight) in extremes.iter_mut().zip(&mut sums).zip(weights) {
                *extreme = if weight.abs() > extreme.abs() { *weight } else { *extreme };
                // NaN for an infinity or NaN.
                *sum += *weight * 0.0;
            }
        }
        let (mut errors, mut scales, mut inverses) = ([f32::INFINITY; LANES], [f32::NAN; LANES], [0.0; LANES]);
        for rounding in roundings {
            let inverse = extremes.map(|extreme| if extreme.abs() < LEAST { 0.0 } else { -(span + rounding) / extreme });
            let (error, scale) = rounded_error(blocks, span, &inverse);
            for lane in 0..LANES {
                let better = error[lane] < errors[lane];
                errors[lane] = if better { error[lane] } else { errors[lane] };
                scales[lane] = if better { scale[lane] } else { scales[lane] };
                inverses[lane] = if better { inverse[lane] } else { inverses[lane] };
            }
        }
        for weights in blocks.iter_mut() {
            for (weight, inverse) in weights.iter_mut().zip(&inverses) {
                *weight = number(*weight, *inverse, span);
            }
        }
        std::array::from_fn(|lane| scales[lane] + sums[lane])
    }
}

/// The least squared error of each lane when its weights are rounded with `inverse`, and the scale that achieves it.
#[inline(always)]
fn rounded_error(blocks: &[[f32; LANES]; BLOCK], span: f32, inverse: &[f32; LANES]) -> ([f32; LANES], [f32; LANES]) {
    let (mut products, mut squares, mut errors) = ([0.0_f32; LANES], [0.0_f32; LANES], [0.0_f32; LANES]);
    for weights in blocks {
        for lane in 0..LANES {
            let number = number(weights[lane], inverse[lane], span);
            products[lane] += weights[lane] * number;
            squares[lane] += number * number;
        }
    }
    let scales = std::array::from_fn(|lane| if squares[lane] > 0.0 { products[lane] / squares[lane] } else { 0.0 });
    for weights in blocks {
        for lane in 0..LANES {
            let error = weights[lane] - scales[lane] * number(weights[lane], inverse[lane], span);
            errors[lane] += error * error;
        }
    }
    (errors, scales)
}

/// The integer that `weight` becomes.
#[inline(always)]
fn number(weight: f32, inverse: f32, span: f32) -> f32 {
    rounded(weight * inverse).clamp(-span, span - 1.0)
}

/// Blocks of smaller weights become zeros: the inverse of their scale would overflow.
const LEAST: f32 = 1e-30;

/// `round_ties_even` for small values, without a function call on processors that lack the instruction.
#[inline(always)]
fn rounded(value: f32) -> f32 {
    const ROUNDER: f32 = (3_u32 << 22) as f32;
    (value + ROUNDER) - ROUNDER
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there_and_back(bits: Bits, weights: &[f32]) -> Vec<f32> {
        let n = weights.len() / BLOCK;
        let (mut codes, mut scales) = (vec![0; n * bits.block_bytes()], vec![0.0; n]);
        bits.quantize(weights, &mut codes, &mut scales);
        let mut out = vec![0.0; weights.len()];
        Blocks { bits, codes: &codes, scales: &scales }.dequantize(&mut out);
        out
    }

    #[test]
    fn weights_on_the_grid_round_trip() {
        let weights: Vec<f32> = (0..4 * BLOCK).map(|i| ((i * 7 % 16) as f32 - 8.0) * 0.03).collect();
        for bits in [Bits::Four, Bits::Eight] {
            for (weight, back) in weights.iter().zip(there_and_back(bits, &weights)) {
                let allowed = if bits == Bits::Four { 1e-6 } else { 0.24 / 127.0 };
                assert!((weight - back).abs() <= allowed, "{bits:?}: {weight} {back}");
            }
        }
    }

    #[test]
    fn quantisation_error_is_that_of_rounding() {
        let weights: Vec<f32> = (0..64 * BLOCK).map(|i| ((i * i) as f32 * 0.37).sin()).collect();
        for (bits, step) in [(Bits::Four, 1.0 / 7.0), (Bits::Eight, 1.0 / 127.0)] {
            let back = there_and_back(bits, &weights);
            let errors = || weights.iter().zip(&back).map(|(weight, back)| (weight - back).abs() / step);
            let mean = errors().map(|error| error * error).sum::<f32>() / weights.len() as f32;
            // Uniform rounding errors have a deviation of 1/√12, 0.289; the weight opposite to the greatest is off by up to a step.
            assert!(mean.sqrt() <= 0.295, "{bits:?}: {}", mean.sqrt());
            assert!(errors().all(|error| error <= 1.01), "{bits:?}: {}", errors().fold(0.0, f32::max));
        }
    }

    /// One block alone: `nearest` must be bit-identical.
    fn nearest_of_one(block: &[f32], span: f32, roundings: &[f32]) -> (f32, Vec<f32>) {
        let extreme = block.iter().fold(0.0_f32, |extreme, &weight| if weight.abs() > extreme.abs() { weight } else { extreme });
        if extreme == 0.0 {
            return (0.0, vec![0.0; BLOCK]);
        }
        let mut best = (f32::INFINITY, f32::NAN, Vec::new());
        for rounding in roundings {
            let inverse = -(span + rounding) / extreme;
            let numbers: Vec<f32> = block.iter().map(|w| (w * inverse).round_ties_even().clamp(-span, span - 1.0)).collect();
            let pairs = || block.iter().zip(&numbers);
            let product: f32 = pairs().map(|(weight, number)| weight * number).sum();
            let scale = product / pairs().map(|(_, number)| number * number).sum::<f32>();
            let error: f32 = pairs().map(|(weight, number)| (weight - scale * number) * (weight - scale * number)).sum();
            if error < best.0 {
                best = (error, scale, numbers);
            }
        }
        (best.1, best.2)
    }

    #[test]
    fn blocks_side_by_side_match_each_alone_bit_for_bit() {
        // Partial groups of lanes; some blocks are small, some have a single large weight.
        for n_blocks in [1, 16, 37] {
            let weights: Vec<f32> = (0..n_blocks * BLOCK)
                .map(|i| {
                    let scale = [1.0, 3e-4, 0.0, 7e3][i / BLOCK % 4];
                    ((i * i) as f32 * 0.37).sin() * if i % BLOCK == 5 { 0.9_f32.max(scale) } else { scale }
                })
                .collect();
            for (bits, span, roundings) in
                [(Bits::Eight, 128.0, &ROUNDINGS_OF_EIGHT[..]), (Bits::Four, 8.0, &ROUNDINGS_OF_FOUR[..])]
            {
                let (mut codes, mut scales) = (vec![0; n_blocks * bits.block_bytes()], vec![0.0; n_blocks]);
                bits.quantize(&weights, &mut codes, &mut scales);
                let mut back = vec![0.0; weights.len()];
                let ones = vec![1.0; n_blocks];
                Blocks { bits, codes: &codes, scales: &ones }.dequantize(&mut back);
                for (i, block) in weights.chunks(BLOCK).enumerate() {
                    let (scale, numbers) = nearest_of_one(block, span, roundings);
                    assert_eq!(scales[i].to_bits(), scale.to_bits(), "{bits:?}, block {i}");
                    assert_eq!(back[i * BLOCK..(i + 1) * BLOCK], numbers, "{bits:?}, block {i}");
                }
            }
        }
    }

    #[test]
    fn codes_are_integers_above_that_of_zero() {
        for bits in [Bits::Eight, Bits::Four] {
            let lowest = -bits.offset();
            let integers: [i32; BLOCK] = std::array::from_fn(|i| lowest + (5 * i as i32) % (2 * bits.offset()));
            let (mut codes, mut scales) = (vec![0; bits.block_bytes()], [0.0]);
            bits.quantize(&integers.map(|integer| integer as f32), &mut codes, &mut scales);
            let code = |i: usize| match bits {
                Bits::Eight => codes[i],
                Bits::Four => codes[i % 16] >> (4 * (i / 16)) & 15,
            };
            assert_eq!(scales, [1.0], "{bits:?}");
            assert_eq!(std::array::from_fn(|i| i32::from(code(i))), integers.map(|integer| integer - lowest), "{bits:?}");
        }
    }

    #[test]
    fn subnormal_weights_become_zeros() {
        let back = there_and_back(Bits::Four, &[1e-40; BLOCK]);
        assert!(back.iter().all(|&weight| weight == 0.0), "{back:?}");
    }

    #[test]
    fn zeros_stay_zero_and_infinities_stay_visible() {
        assert_eq!(there_and_back(Bits::Four, &[0.0; BLOCK]), [0.0; BLOCK]);
        let mut infinite = [0.5; BLOCK];
        infinite[3] = f32::INFINITY;
        assert!(there_and_back(Bits::Eight, &infinite).iter().any(|weight| !weight.is_finite()));
    }
}
