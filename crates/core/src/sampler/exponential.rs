//! The exponential function, the same on every platform and fast over a whole vocabulary.
//!
//! The C library's `exp` differs between platforms in the last bit, which is enough to draw another token, and one
//! call for each of 150,000 tokens costs a tenth of a decode step. What stands here is additions, multiplications and
//! integer shifts alone: IEEE 754 fixes their results, and compilers turn the loop into vector instructions.

/// Below this, [`exp`] is 0: the last value whose result is a normal number.
pub(super) const LOWEST: f64 = -708.0;

/// Accumulators of [`sum`]; their number is part of the result, which depends on the order of additions.
const LANES: usize = 8;

/// `e^x` for `x <= 0` within 1 unit in the last place; 0 below [`LOWEST`], minus infinity included.
///
/// Cody and Waite's reduction, `e^x = 2^n e^r` with `|r| <= ln(2) / 2`, and the Taylor series of `e^r` to `r^13 / 13!`,
/// whose remainder is under 2^-57.
#[inline(always)]
pub(super) fn exp(x: f64) -> f64 {
    /// Adding it leaves a number of magnitude below 2^51 rounded to an integer, in the low bits of the sum.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    /// ln 2 in two parts; the first has zeros at its end, so that its product with `n` is exact.
    const LN_2_HIGH: f64 = f64::from_bits(0x3FE6_2E42_FEE0_0000);
    const LN_2_LOW: f64 = f64::from_bits(0x3DEA_39EF_3579_3C76);

    let inside = if x > LOWEST { x } else { LOWEST };
    let shifted = inside * std::f64::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (inside - n * LN_2_HIGH) - n * LN_2_LOW;
    let mut series = 1.0 / 6_227_020_800.0;
    for reciprocal in RECIPROCAL_FACTORIALS {
        series = series * r + reciprocal;
    }
    let power_of_two = f64::from_bits((shifted.to_bits() << 52).wrapping_add(1023 << 52));
    if x < LOWEST { 0.0 } else { series * power_of_two }
}

/// `1 / k!` for `k` from 12 down to 0.
const RECIPROCAL_FACTORIALS: [f64; 13] = [
    1.0 / 479_001_600.0,
    1.0 / 39_916_800.0,
    1.0 / 3_628_800.0,
    1.0 / 362_880.0,
    1.0 / 40_320.0,
    1.0 / 5_040.0,
    1.0 / 720.0,
    1.0 / 120.0,
    1.0 / 24.0,
    1.0 / 6.0,
    0.5,
    1.0,
    1.0,
];

/// The sum of `values` in an order that does not depend on the processor.
#[inline(always)]
pub(super) fn sum(values: &[f64]) -> f64 {
    let mut lanes = [0.0; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += value;
        }
    }
    lanes.iter().chain(rest).fold(0.0, |total, value| total + value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_at_the_ends() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-0.0), 1.0);
        assert_eq!(exp(-709.0), 0.0);
        assert_eq!(exp(-1e300), 0.0);
        assert_eq!(exp(f64::NEG_INFINITY), 0.0);
        assert!(exp(LOWEST) > 0.0);
    }

    #[test]
    fn within_one_unit_of_the_library() {
        let (mut worst, mut x) = (0, 0.0);
        while x > LOWEST {
            let (ours, library) = (exp(x), libm::exp(x));
            worst = worst.max(ours.to_bits().abs_diff(library.to_bits()));
            assert!(ours <= 1.0, "a weight is at most that of the best token: {x}");
            x -= 0.000_731 + x * -0.001;
        }
        assert!(worst <= 1, "{worst} units in the last place");
    }

    #[test]
    fn sums_every_value() {
        for n in 0..40 {
            let values: Vec<f64> = (1..=n).map(f64::from).collect();
            assert_eq!(sum(&values), f64::from(n * (n + 1) / 2));
        }
    }
}
