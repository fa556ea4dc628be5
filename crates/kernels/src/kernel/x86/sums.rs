//! Sums of the lanes of vectors: of one, and of several side by side with the same bits.

use std::arch::x86_64::*;

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn sum_avx2(of: __m256) -> f32 {
    let half = _mm_add_ps(_mm256_castps256_ps128(of), _mm256_extractf128_ps(of, 1));
    let pair = _mm_add_ps(half, _mm_movehl_ps(half, half));
    _mm_cvtss_f32(_mm_add_ss(pair, _mm_movehdup_ps(pair)))
}

/// The sum of each of up to eight vectors, added as by [`sum_avx2`]: lanes four apart, then two, then one.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn sums_avx2(of: &[__m256]) -> __m256 {
    // The order in which sums end up side by side.
    let given = |i: usize| of.get([0, 4, 1, 5, 2, 6, 3, 7][i]).copied().unwrap_or(_mm256_setzero_ps());
    let far = |i: usize| {
        let (a, b) = (given(2 * i), given(2 * i + 1));
        _mm256_add_ps(_mm256_permute2f128_ps::<0x20>(a, b), _mm256_permute2f128_ps::<0x31>(a, b))
    };
    let near = |i: usize| {
        let (a, b) = (_mm256_castps_pd(far(2 * i)), _mm256_castps_pd(far(2 * i + 1)));
        _mm256_add_ps(_mm256_castpd_ps(_mm256_unpacklo_pd(a, b)), _mm256_castpd_ps(_mm256_unpackhi_pd(a, b)))
    };
    let (a, b) = (near(0), near(1));
    _mm256_add_ps(_mm256_shuffle_ps::<0x88>(a, b), _mm256_shuffle_ps::<0xDD>(a, b))
}

/// The sum of each of up to sixteen vectors, added as by `_mm512_reduce_add_ps`: lanes eight apart, then four, two and one.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn sums_avx512(of: &[__m512]) -> __m512 {
    // The order in which sums end up side by side.
    let given = |i: usize| of.get(i % 4 * 4 + i / 4).copied().unwrap_or(_mm512_setzero_ps());
    let farthest = |i: usize| {
        let (a, b) = (given(2 * i), given(2 * i + 1));
        _mm512_add_ps(_mm512_shuffle_f32x4::<0x44>(a, b), _mm512_shuffle_f32x4::<0xEE>(a, b))
    };
    let far = |i: usize| {
        let (a, b) = (farthest(2 * i), farthest(2 * i + 1));
        _mm512_add_ps(_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xDD>(a, b))
    };
    let near = |i: usize| {
        let (a, b) = (_mm512_castps_pd(far(2 * i)), _mm512_castps_pd(far(2 * i + 1)));
        _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)))
    };
    let (a, b) = (near(0), near(1));
    _mm512_add_ps(_mm512_shuffle_ps::<0x88>(a, b), _mm512_shuffle_ps::<0xDD>(a, b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::x86;

    const NUMBERS: [f32; 19] =
        [1e8, -3.7, 0.1, 1e-3, -1e8, 2.5, 7e5, 0.33, -0.7, 1e6, 3.25, -4e4, 9.1, 0.02, -6.6, 1e7, -2.2, 5e-5, 8.8];

    /// Sums of several vectors have the bits that they have one by one.
    #[test]
    #[expect(unsafe_code, reason = "not every processor has these instructions")]
    fn sums_side_by_side_are_those_one_by_one() {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn check_avx2() {
            let vectors: Vec<__m256> = (0..8).map(|i| x86::avx2::load(NUMBERS[i..].first_chunk().unwrap())).collect();
            for n in 1..=vectors.len() {
                let mut sums = [f32::NAN; 8];
                x86::avx2::store(sums_avx2(&vectors[..n]), &mut sums);
                for (sum, vector) in sums.iter().zip(&vectors[..n]) {
                    assert_eq!(sum.to_bits(), sum_avx2(*vector).to_bits());
                }
            }
        }

        #[target_feature(enable = "avx512f")]
        fn check_avx512() {
            let vector = |i: usize| x86::avx512::load(&std::array::from_fn(|lane| NUMBERS[(lane * 5 + i) % NUMBERS.len()]));
            let vectors: Vec<__m512> = (0..16).map(vector).collect();
            for n in 1..=vectors.len() {
                let mut sums = [f32::NAN; 16];
                x86::avx512::store(sums_avx512(&vectors[..n]), &mut sums);
                for (sum, vector) in sums.iter().zip(&vectors[..n]) {
                    assert_eq!(sum.to_bits(), _mm512_reduce_add_ps(*vector).to_bits());
                }
            }
        }

        if crate::isa::Isa::all().contains(&crate::isa::Isa::Avx2) {
            // SAFETY: the processor has AVX2.
            unsafe { check_avx2() }
        }
        if crate::isa::Isa::all().contains(&crate::isa::Isa::Avx512) {
            // SAFETY: the processor has AVX-512.
            unsafe { check_avx512() }
        }
    }
}
