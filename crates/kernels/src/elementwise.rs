//! Norms, sums, activation functions and softmax, vectorised and in one pass.

mod activations;

use rayon::prelude::*;
use tandem_core::config::Activation;

pub use self::activations::activate;
pub(crate) use self::activations::product_of_halves;
use crate::isa::vectorized;
use crate::tiles::{MAX_ROWS, TILE};

/// The least number of values that several threads share.
const MIN_PARALLEL: usize = 1 << 15;

/// Values of a part that a thread takes.
const PART: usize = 1 << 13;

/// Writes the root mean square norm of each row of `x`, `[rows, weight.len()]`, to `out`, which is as long. Zhang and Sennrich,
/// <https://arxiv.org/abs/1910.07467>.
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "a norm is as long as its input");
    rows(out, weight.len(), |i, out| {
        out.copy_from_slice(&x[i * weight.len()..(i + 1) * weight.len()]);
        norm_in_place(out, weight, eps);
    });
}

/// `x + y`, which are of one length.
pub fn add(x: &[f32], y: &[f32]) -> Vec<f32> {
    assert_eq!(x.len(), y.len(), "what is added is as long");
    x.par_iter().zip(y).with_min_len(MIN_PARALLEL).map(|(x, y)| x + y).collect()
}

/// Writes `x + y` to `out`; all three are of one length.
pub fn write_sum(x: &[f32], y: &[f32], out: &mut [f32]) {
    in_parts([x, y], out, |x, y, out| out.iter_mut().zip(x.iter().zip(y)).for_each(|(out, (x, y))| *out = x + y));
}

/// Writes `x * y`, number by number, to `out`; all three are of one length.
pub fn write_product(x: &[f32], y: &[f32], out: &mut [f32]) {
    in_parts([x, y], out, |x, y, out| out.iter_mut().zip(x.iter().zip(y)).for_each(|(out, (x, y))| *out = x * y));
}

/// Writes `activation(gate) * up`, number by number, to `out`; all three are of one length. Results are those of [`gated`].
pub fn write_gated(activation: GateActivation, gate: &[f32], up: &[f32], out: &mut [f32]) {
    in_parts([gate, up], out, |gate, up, out| match activation {
        GateActivation::Silu => silu_product(gate, up, out),
        GateActivation::GeluTanh => gelu_product(gate, up, out),
    });
}

/// Calls `each` with parts of both inputs and of `out`, on several threads when there are many values.
fn in_parts([x, y]: [&[f32]; 2], out: &mut [f32], each: impl Fn(&[f32], &[f32], &mut [f32]) + Sync) {
    assert!(x.len() == out.len() && y.len() == out.len(), "all values are of one length");
    if out.len() < MIN_PARALLEL {
        return each(x, y, out);
    }
    let parts = out.par_chunks_mut(PART).zip(x.par_chunks(PART)).zip(y.par_chunks(PART));
    parts.for_each(|((out, x), y)| each(x, y, out));
}

/// The activation function of the gate in a feed-forward block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateActivation {
    /// `x` times its sigmoid.
    Silu,
    /// The approximation of GELU with a hyperbolic tangent: Gemma's.
    GeluTanh,
}

/// Writes `activation(gate) * up` of each row of `gate_up`, `[rows, 2 * width]`, whose first half is the gate, to `out`, `[rows, width]`.
pub fn gated(activation: GateActivation, gate_up: &[f32], width: usize, out: &mut [f32]) {
    rows(out, width, |i, out| {
        let (gate, up) = gate_up[2 * i * width..2 * (i + 1) * width].split_at(width);
        match activation {
            GateActivation::Silu => silu_product(gate, up, out),
            GateActivation::GeluTanh => gelu_product(gate, up, out),
        }
    });
}

/// Replaces each of many values by its sigmoid, on several threads.
pub fn sigmoid_all(values: &mut [f32]) {
    values.par_chunks_mut(PART).for_each(sigmoid);
}

/// Replaces each of many values by its activation, on several threads.
pub fn activate_all(activation: Activation, values: &mut [f32]) {
    values.par_chunks_mut(PART).for_each(|values| activate(activation, values));
}

/// Replaces each of many values by `cap * tanh(value / cap)`, on several threads.
pub fn softcap_all(values: &mut [f32], cap: f32) {
    values.par_chunks_mut(MIN_PARALLEL).for_each(|values| softcap(values, cap));
}

/// Calls `each` with every row of `out`, `[rows, width]`, and its index, on several threads when there are many values.
pub fn rows(out: &mut [f32], width: usize, each: impl Fn(usize, &mut [f32]) + Sync) {
    if out.len() < MIN_PARALLEL {
        out.chunks_exact_mut(width).enumerate().for_each(|(i, row)| each(i, row));
    } else {
        out.par_chunks_exact_mut(width).enumerate().for_each(|(i, row)| each(i, row));
    }
}

vectorized! {
    /// Root mean square norm of one row, on the calling thread.
    pub fn norm_in_place(row: &mut [f32], weight: &[f32], eps: f32) {
        let mut sums = [0.0_f32; LANES];
        let (whole, rest) = row.as_chunks::<LANES>();
        for chunk in whole {
            for (sum, value) in sums.iter_mut().zip(chunk) {
                *sum += value * value;
            }
        }
        let squares = sums.iter().sum::<f32>() + rest.iter().map(|value| value * value).sum::<f32>();
        let scale = 1.0 / (squares / row.len() as f32 + eps).sqrt();
        for (value, weight) in row.iter_mut().zip(weight) {
            *value = *value * scale * weight;
        }
    }
}

vectorized! {
    /// One step of an online softmax over each of [`TILE`] columns of `scores`, `[rows, TILE]`, which become `exp(score - largest)`: `largest`
    /// and `sums` continue those of earlier rows. The result is the factor by which weighted sums of earlier rows must be multiplied.
    pub(crate) fn softmax_step(scores: &mut [f32], largest: &mut [f32; TILE], sums: &mut [f32; TILE]) -> [f32; TILE] {
        let before = *largest;
        let rows = scores.as_chunks_mut::<TILE>().0;
        for row in rows.iter() {
            largest.iter_mut().zip(row).for_each(|(largest, score)| *largest = if *score > *largest { *score } else { *largest });
        }
        let shares: [f32; TILE] = std::array::from_fn(|i| exp(before[i] - largest[i]));
        sums.iter_mut().zip(&shares).for_each(|(sum, share)| *sum *= share);
        for row in rows {
            for ((score, largest), sum) in row.iter_mut().zip(largest.iter()).zip(sums.iter_mut()) {
                *score = exp(*score - largest);
                *sum += *score;
            }
        }
        shares
    }
}

vectorized! {
    /// Replaces the scores of `largest.len()` columns, `[rows, columns]`, by `exp(score - largest)`, and writes the largest and the sum of each
    /// column: a partial softmax, to be merged with others.
    ///
    /// Sixteen rows at a time are treated as one, so that any number of columns is processed in whole vectors.
    pub(crate) fn exponentials(scores: &mut [f32], largest: &mut [f32], sums: &mut [f32]) {
        let (columns, wide) = (largest.len(), largest.len() * LANES);
        let mut most = [f32::NEG_INFINITY; MAX_ROWS * LANES];
        let most = &mut most[..wide];
        for scores in scores.chunks(wide) {
            most.iter_mut().zip(scores).for_each(|(most, score)| *most = if *score > *most { *score } else { *most });
        }
        for (column, largest) in largest.iter_mut().enumerate() {
            *largest = most.iter().skip(column).step_by(columns).copied().fold(f32::NEG_INFINITY, f32::max);
        }
        most.chunks_exact_mut(columns).for_each(|most| most.copy_from_slice(largest));
        let mut added = [0.0_f32; MAX_ROWS * LANES];
        for scores in scores.chunks_mut(wide) {
            for ((score, most), added) in scores.iter_mut().zip(most.iter()).zip(&mut added) {
                *score = exp(*score - most);
                *added += *score;
            }
        }
        for (column, sum) in sums.iter_mut().enumerate() {
            *sum = added[..wide].iter().skip(column).step_by(columns).sum();
        }
    }
}

vectorized! {
    fn silu_product(gate: &[f32], up: &[f32], out: &mut [f32]) {
        for (out, (gate, up)) in out.iter_mut().zip(gate.iter().zip(up)) {
            *out = gate / (1.0 + exp(-gate)) * up;
        }
    }
}

vectorized! {
    fn sigmoid(values: &mut [f32]) {
        values.iter_mut().for_each(|value| *value = 1.0 / (1.0 + exp(-*value)));
    }
}

vectorized! {
    /// The gradients of `silu(gate) * up` by the row `gate_up`, `[2 * width]`, from those of its result, `[width]`: with `s` the sigmoid of
    /// the gate, `up s (1 + gate (1 - s))` and `gate s`.
    pub fn silu_gradients(gate_up: &[f32], gradient: &[f32], out: &mut [f32]) {
        let (gate, up) = gate_up.split_at(gradient.len());
        let (of_gate, of_up) = out.split_at_mut(gradient.len());
        let outs = of_gate.iter_mut().zip(of_up);
        for (((of_gate, of_up), g), (gate, up)) in outs.zip(gradient).zip(gate.iter().zip(up)) {
            let sigmoid = 1.0 / (1.0 + exp(-gate));
            *of_gate = g * up * sigmoid * (1.0 + gate * (1.0 - sigmoid));
            *of_up = g * gate * sigmoid;
        }
    }
}

vectorized! {
    /// `gelu(gate) * up`, where `gelu(x)` is approximately `x / (1 + exp(-2 √(2/π) (x + 0.044715 x³)))`. Hendrycks and Gimpel,
    /// <https://arxiv.org/abs/1606.08415>.
    fn gelu_product(gate: &[f32], up: &[f32], out: &mut [f32]) {
        const FACTOR: f32 = -2.0 * 0.797_884_6;
        for (out, (gate, up)) in out.iter_mut().zip(gate.iter().zip(up)) {
            *out = gate / (1.0 + exp(FACTOR * (gate + 0.044_715 * gate * gate * gate))) * up;
        }
    }
}

vectorized! {
    /// Replaces each value by `cap * tanh(value / cap)`.
    pub(crate) fn softcap(values: &mut [f32], cap: f32) {
        let inverse = 1.0 / cap;
        values.iter_mut().for_each(|value| *value = cap * tanh(*value * inverse));
    }
}

/// Independent sums.
const LANES: usize = 16;

/// The exponential without branches, so that loops around it become vectors: `2^n * e^r` with `r` within half of `ln 2`. The polynomial
/// is that of Cephes' `expf`, <https://www.netlib.org/cephes/>; the relative error is below 2e-7. It saturates near the limits of f32, and
/// NaN stays NaN.
#[inline(always)]
fn exp(x: f32) -> f32 {
    /// Adding it rounds to an integer in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let mut polynomial = 1.987_569_1e-4;
    for coefficient in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        polynomial = polynomial * r + coefficient;
    }
    let power = (shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127)) << 23;
    (polynomial * r * r + r + 1.0) * f32::from_bits(power)
}

/// The hyperbolic tangent without branches, as a quotient of polynomials: Eigen's (`generic_fast_tanh_float` in
/// `MathFunctionsImpl.h`, <https://gitlab.com/libeigen/eigen>). The relative error is below 1e-6.
#[inline(always)]
fn tanh(x: f32) -> f32 {
    const LARGEST: f32 = 7.905_311;
    let x = x.clamp(-LARGEST, LARGEST);
    let square = x * x;
    let mut numerator = -2.760_768_5e-16;
    for coefficient in [2.000_188e-13, -8.604_672e-11, 5.122_297_3e-8, 1.485_722_4e-5, 6.372_619_4e-4, 4.893_524_5e-3] {
        numerator = numerator * square + coefficient;
    }
    let mut denominator = 1.198_258_4e-6;
    for coefficient in [1.185_347_1e-4, 2.268_434_6e-3, 4.893_525e-3] {
        denominator = denominator * square + coefficient;
    }
    x * numerator / denominator
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tanh_matches_f64() {
        for i in -120_000..=120_000 {
            let x = i as f32 / 10_000.0;
            let expected = f64::from(x).tanh();
            let difference = (f64::from(tanh(x)) - expected).abs();
            assert!(difference <= 1e-6 * expected.abs(), "{x}: {} {expected}", tanh(x));
        }
        assert!(tanh(f32::NAN).is_nan());
    }

    #[test]
    fn gate_activations_match_f64() {
        let gates: Vec<f32> = (-900..=900).map(|i| i as f32 / 50.0).collect();
        let n = gates.len();
        let gate_up = [gates.clone(), vec![0.5; n]].concat();
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let normal = |x: f64| 0.5 * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh());
        for activation in [GateActivation::Silu, GateActivation::GeluTanh] {
            let mut out = vec![f32::NAN; n];
            gated(activation, &gate_up, n, &mut out);
            for (gate, out) in gates.iter().map(|gate| f64::from(*gate)).zip(out) {
                let share = if activation == GateActivation::Silu { sigmoid(gate) } else { normal(gate) };
                let expected = 0.5 * gate * share;
                assert!((f64::from(out) - expected).abs() <= 1e-6 * gate.abs().max(1.0), "{gate}: {out} {expected}");
            }
        }
    }

    #[test]
    fn values_in_parts_are_those_of_each_alone() {
        for n in [0, 1, 33, PART + 1, MIN_PARALLEL + PART + 5] {
            let (x, y): (Vec<f32>, Vec<f32>) = (0..n).map(|i| ((i as f32 * 0.7).sin() * 4.0, (i as f32 * 0.3).cos())).unzip();
            let written = |write: &dyn Fn(&mut [f32])| {
                let mut out = vec![f32::NAN; n];
                write(&mut out);
                out
            };
            let pairs = || x.iter().zip(&y);
            assert_eq!(written(&|out| write_sum(&x, &y, out)), pairs().map(|(x, y)| x + y).collect::<Vec<_>>());
            assert_eq!(written(&|out| write_product(&x, &y, out)), pairs().map(|(x, y)| x * y).collect::<Vec<_>>());
            for activation in [GateActivation::Silu, GateActivation::GeluTanh] {
                let expected = written(&|out| {
                    if n > 0 {
                        gated(activation, &[&x[..], &y].concat(), n, out)
                    }
                });
                let found = written(&|out| write_gated(activation, &x, &y, out));
                assert!(found.iter().zip(&expected).all(|(a, b)| (a - b).abs() <= 1e-6), "{activation:?}, {n}");
            }
            let (mut silu, mut sigmoids) = (x.clone(), x.clone());
            activate_all(Activation::Silu, &mut silu);
            sigmoid_all(&mut sigmoids);
            assert!(silu.iter().zip(sigmoids.iter().zip(&x)).all(|(silu, (sigmoid, x))| (silu - sigmoid * x).abs() <= 1e-6));
        }
    }

    #[test]
    fn exp_matches_f64() {
        for i in -8700..=8800 {
            let x = i as f32 / 100.0;
            let expected = f64::from(x).exp();
            let difference = (f64::from(exp(x)) - expected).abs() / expected;
            assert!(difference < 2e-7, "{x}: {difference:e}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(-1e30) < 1e-37);
    }

    #[test]
    fn online_softmax_matches_f64() {
        let scores: Vec<f32> = (0..37 * TILE).map(|i| (i as f32 * 0.7).sin() * 5.0 + i as f32 * 0.01).collect();
        let (mut largest, mut sums) = ([-1e30; TILE], [0.0; TILE]);
        let mut after = scores.clone();
        let mut last = [0.0; TILE];
        for part in after.chunks_mut(10 * TILE) {
            last = softmax_step(part, &mut largest, &mut sums);
        }
        for column in 0..TILE {
            let all: f64 = scores[column..].iter().step_by(TILE).map(|&score| f64::from(score).exp()).sum();
            let whole = f64::from(sums[column]) * f64::from(largest[column]).exp();
            assert!((whole - all).abs() < 1e-5 * all, "{column}: {whole} {all}");
            // The last step continues from the largest score before it.
            let before = scores[column..30 * TILE].iter().step_by(TILE).copied().fold(f32::NEG_INFINITY, f32::max);
            assert!((last[column] - (before - largest[column]).exp()).abs() < 1e-6);
        }
    }

    #[test]
    fn exponentials_match_each_column_alone() {
        for (rows, columns) in [(1, 1), (16, 7), (33, 8), (5, 3), (100, 5)] {
            let before: Vec<f32> = (0..rows * columns).map(|i| (i as f32 * 0.7).sin() * 9.0).collect();
            let (mut after, mut largest, mut sums) = (before.clone(), vec![0.0; columns], vec![0.0; columns]);
            exponentials(&mut after, &mut largest, &mut sums);
            for column in 0..columns {
                let of = |scores: &[f32]| scores.iter().skip(column).step_by(columns).copied().collect::<Vec<_>>();
                let expected = of(&before).into_iter().fold(f32::NEG_INFINITY, f32::max);
                assert_eq!(largest[column], expected, "{rows}x{columns}");
                let mut sum = 0.0;
                for (before, after) in of(&before).into_iter().zip(of(&after)) {
                    assert!((after - (before - expected).exp()).abs() < 1e-6, "{rows}x{columns}: {before} {after}");
                    sum += after;
                }
                assert!((sum - sums[column]).abs() < 1e-5 * sum, "{rows}x{columns}: {sum} {}", sums[column]);
            }
        }
    }

    #[test]
    fn nan_propagates_through_norm_and_softmax() {
        let mut row = [1.0, f32::NAN, 2.0];
        norm_in_place(&mut row, &[1.0; 3], 1e-6);
        assert!(row.iter().all(|value| value.is_nan()));
        let (mut scores, mut sums) = ([0.0; 2 * TILE], [0.0; TILE]);
        scores[TILE + 3] = f32::NAN;
        softmax_step(&mut scores, &mut [-1e30; TILE], &mut sums);
        assert!(sums[3].is_nan() && sums[4] == 2.0);
    }
}
