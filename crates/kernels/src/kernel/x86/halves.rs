//! f16 and bf16 values as vectors of f32.
#![expect(unsafe_code, reason = "vectors are loaded from addresses")]

/// Eight at a time.
pub(super) mod avx2 {
    use std::arch::x86_64::*;

    /// # Safety
    /// `first` points to eight values.
    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    pub(in crate::kernel::x86) unsafe fn f16(first: *const half::f16) -> __m256 {
        // SAFETY: the caller guarantees eight values, 16 bytes.
        _mm256_cvtph_ps(unsafe { _mm_loadu_si128(first.cast()) })
    }

    /// # Safety
    /// `first` points to eight values.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(in crate::kernel::x86) unsafe fn bf16(first: *const half::bf16) -> __m256 {
        // SAFETY: the caller guarantees eight values, 16 bytes.
        let halves = unsafe { _mm_loadu_si128(first.cast()) };
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(halves)))
    }
}

/// Sixteen at a time.
pub(super) mod avx512 {
    use std::arch::x86_64::*;

    /// # Safety
    /// `first` points to sixteen values.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(in crate::kernel::x86) unsafe fn f16(first: *const half::f16) -> __m512 {
        // SAFETY: the caller guarantees sixteen values, 32 bytes.
        _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(first.cast()) })
    }

    /// # Safety
    /// `first` points to sixteen values.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(in crate::kernel::x86) unsafe fn bf16(first: *const half::bf16) -> __m512 {
        // SAFETY: the caller guarantees sixteen values, 32 bytes.
        let halves = unsafe { _mm256_loadu_si256(first.cast()) };
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves)))
    }
}
