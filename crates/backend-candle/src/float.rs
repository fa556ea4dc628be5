//! Floats as weights are published: f32, f16 or bf16.
//!
//! The narrow ones stay as they are in memory and are widened in registers, which is exact: a pass reads half as much, and gives the
//! same to the bit.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use tandem_core::DType;

/// A float.
///
/// # Safety
/// `DTYPE` is that of the type itself: loads of vectors rely on it.
#[expect(unsafe_code, reason = "the loops load vectors by it")]
pub(crate) unsafe trait Float: Copy + Send + Sync {
    const DTYPE: DType;

    fn widened(self) -> f32;

    /// Writes `values` to `out`, which has as many places.
    fn widen(values: &[Self], out: &mut [f32]);
}

// SAFETY: it is what it says.
#[expect(unsafe_code, reason = "see the trait")]
unsafe impl Float for f32 {
    const DTYPE: DType = DType::F32;

    fn widened(self) -> f32 {
        self
    }

    fn widen(values: &[Self], out: &mut [f32]) {
        out.copy_from_slice(values);
    }
}

// SAFETY: it is what it says.
#[expect(unsafe_code, reason = "see the trait")]
unsafe impl Float for f16 {
    const DTYPE: DType = DType::F16;

    fn widened(self) -> f32 {
        self.to_f32()
    }

    fn widen(values: &[Self], out: &mut [f32]) {
        values.convert_to_f32_slice(out);
    }
}

// SAFETY: it is what it says.
#[expect(unsafe_code, reason = "see the trait")]
unsafe impl Float for bf16 {
    const DTYPE: DType = DType::Bf16;

    fn widened(self) -> f32 {
        self.to_f32()
    }

    fn widen(values: &[Self], out: &mut [f32]) {
        widen_bf16(values, out);
    }
}

#[multiversion::multiversion(targets("x86_64+avx512f+avx512dq+avx512vl+avx512bw", "x86_64+avx2"))]
fn widen_bf16(values: &[bf16], out: &mut [f32]) {
    // The upper half of an f32, whatever it stands for.
    out.iter_mut().zip(values).for_each(|(out, value)| *out = f32::from_bits(u32::from(value.to_bits()) << 16));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All of them but those that are no numbers, whose payload is nobody's.
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
