//! The float types of published weights: f32, f16 and bf16.
//!
//! 16-bit weights stay 16-bit in memory and are widened in registers. Results are bit-identical to those of f32, and decoding, which
//! waits for memory, reads half as much. `ModelInfo::memory_dtype` reports it.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use tandem_core::DType;

use crate::isa::vectorized;

/// A float type of weights.
///
/// # Safety
/// `DTYPE` must name the implementing type: vector loads cast pointers by it.
#[expect(unsafe_code, reason = "vector loads rely on `DTYPE`")]
pub(crate) unsafe trait Float: Copy + Send + Sync {
    const DTYPE: DType;

    fn widened(self) -> f32;

    /// Writes `values` to `out`, which is as long.
    fn widen(values: &[Self], out: &mut [f32]);
}

// SAFETY: `DType::F32` is `f32`.
#[expect(unsafe_code, reason = "vector loads rely on `DTYPE`")]
unsafe impl Float for f32 {
    const DTYPE: DType = DType::F32;

    fn widened(self) -> f32 {
        self
    }

    fn widen(values: &[Self], out: &mut [f32]) {
        out.copy_from_slice(values);
    }
}

// SAFETY: `DType::F16` is `f16`.
#[expect(unsafe_code, reason = "vector loads rely on `DTYPE`")]
unsafe impl Float for f16 {
    const DTYPE: DType = DType::F16;

    fn widened(self) -> f32 {
        self.to_f32()
    }

    fn widen(values: &[Self], out: &mut [f32]) {
        values.convert_to_f32_slice(out);
    }
}

// SAFETY: `DType::Bf16` is `bf16`.
#[expect(unsafe_code, reason = "vector loads rely on `DTYPE`")]
unsafe impl Float for bf16 {
    const DTYPE: DType = DType::Bf16;

    fn widened(self) -> f32 {
        self.to_f32()
    }

    fn widen(values: &[Self], out: &mut [f32]) {
        widen_bf16(values, out);
    }
}

vectorized! {
    fn widen_bf16(values: &[bf16], out: &mut [f32]) {
        // A bf16 is the upper half of an f32.
        out.iter_mut().zip(values).for_each(|(out, value)| *out = f32::from_bits(u32::from(value.to_bits()) << 16));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All bit patterns; the payload of a NaN is not compared.
    fn check<F: Float>(of_bits: impl Fn(u16) -> F, exact: impl Fn(F) -> f64) {
        let values: Vec<F> = (0..=u16::MAX).map(of_bits).collect();
        let mut wide = vec![1.0; values.len()];
        F::widen(&values, &mut wide);
        for (value, wide) in values.into_iter().zip(wide) {
            let exact = exact(value);
            assert!(f64::from(wide) == exact || wide.is_nan() && exact.is_nan(), "{wide} {exact}");
            assert_eq!(wide.is_nan(), value.widened().is_nan());
            assert!(wide.is_nan() || wide.to_bits() == value.widened().to_bits());
        }
    }

    #[test]
    fn widening_is_exact() {
        check(f16::from_bits, f16::to_f64);
        check(bf16::from_bits, bf16::to_f64);
    }
}
