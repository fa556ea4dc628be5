//! The float types of published weights, and of keys and values in a cache: f32, f16 and bf16.
//!
//! What has 16 bits stays so in memory and is widened in registers. Results are bit-identical to those of the same values in f32, and decoding,
//! which waits for memory, reads half as much. `ModelInfo::memory_dtype` and `ModelInfo::kv_dtype` report it.

use bytemuck::Pod;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use tandem_core::DType;

#[cfg(target_arch = "aarch64")]
use crate::isa::Isa;
use crate::isa::vectorized;

/// A float type of weights, or of keys and values in a cache: f32, f16 or bf16.
///
/// # Safety
/// `DTYPE` must name the implementing type: vector loads cast pointers by it.
#[expect(unsafe_code, reason = "vector loads rely on `DTYPE`")]
pub unsafe trait Float: Pod + Send + Sync {
    /// Its name.
    const DTYPE: DType;

    /// The least magnitude that becomes infinite when it is rounded to this type.
    const OVERFLOW: f32;

    /// The same number in f32.
    fn widened(self) -> f32;

    /// Writes `values` to `out`, which is as long.
    ///
    /// # Panics
    /// For another length.
    fn widen(values: &[Self], out: &mut [f32]);

    /// Rounds `values` to the nearest, ties to even, and writes them to `out`, which is as long. What exceeds the type becomes infinite.
    ///
    /// # Panics
    /// For another length.
    fn narrow(values: &[f32], out: &mut [Self]);

    /// The same values, if they are f16.
    #[doc(hidden)]
    fn halves(_values: &[Self]) -> Option<&[f16]> {
        None
    }
}

// SAFETY: `DType::F32` is `f32`.
#[expect(unsafe_code, reason = "vector loads rely on `DTYPE`")]
unsafe impl Float for f32 {
    const DTYPE: DType = DType::F32;
    const OVERFLOW: f32 = f32::INFINITY;

    fn widened(self) -> f32 {
        self
    }

    fn widen(values: &[Self], out: &mut [f32]) {
        out.copy_from_slice(values);
    }

    fn narrow(values: &[f32], out: &mut [Self]) {
        out.copy_from_slice(values);
    }
}

// SAFETY: `DType::F16` is `f16`.
#[expect(unsafe_code, reason = "vector loads rely on `DTYPE`")]
unsafe impl Float for f16 {
    const DTYPE: DType = DType::F16;
    const OVERFLOW: f32 = 65_520.0;

    fn widened(self) -> f32 {
        self.to_f32()
    }

    fn widen(values: &[Self], out: &mut [f32]) {
        #[cfg(target_arch = "aarch64")]
        if Isa::current().widen_halves(values, out) {
            return;
        }
        values.convert_to_f32_slice(out);
    }

    fn narrow(values: &[f32], out: &mut [Self]) {
        #[cfg(target_arch = "aarch64")]
        if Isa::current().narrow_to_halves(values, out) {
            return;
        }
        out.convert_from_f32_slice(values);
    }

    fn halves(values: &[Self]) -> Option<&[f16]> {
        Some(values)
    }
}

// SAFETY: `DType::Bf16` is `bf16`.
#[expect(unsafe_code, reason = "vector loads rely on `DTYPE`")]
unsafe impl Float for bf16 {
    const DTYPE: DType = DType::Bf16;
    const OVERFLOW: f32 = f32::from_bits(0x7F7F_8000);

    fn widened(self) -> f32 {
        self.to_f32()
    }

    fn widen(values: &[Self], out: &mut [f32]) {
        widen_bf16(values, out);
    }

    fn narrow(values: &[f32], out: &mut [Self]) {
        out.convert_from_f32_slice(values);
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
    fn narrowing_rounds_to_the_nearest() {
        // 65,520 lies between the largest f16 and what would come next; 2,049 between two even significands.
        let values = [0.1, -0.0, 65_504.0, 65_519.0, 65_520.0, -1e6, 2049.0, 2051.0, f32::NAN, 1e-8];
        let mut narrow = [f16::ONE; 10];
        f16::narrow(&values, &mut narrow);
        let wide = narrow.map(f16::to_f32);
        let infinity = f32::INFINITY;
        assert_eq!(wide[..8], [f16::from_f32(0.1).to_f32(), 0.0, 65_504.0, 65_504.0, infinity, -infinity, 2048.0, 2052.0]);
        assert!(wide[1].is_sign_negative() && wide[8].is_nan());
        assert_eq!(wide[9], 0.0);
        let mut narrow = [bf16::ONE; 10];
        bf16::narrow(&values, &mut narrow);
        assert_eq!(narrow.map(bf16::to_f32)[4], 65_536.0);
    }

    #[test]
    fn widening_is_exact() {
        check(f16::from_bits, f16::to_f64);
        check(bf16::from_bits, bf16::to_f64);
    }
}
