//! The weights of one block as vectors of floats, in order.
#![expect(unsafe_code, reason = "codes are loaded from addresses")]

use std::arch::x86_64::*;

/// Of 8 bits each: `codes` begins with 32 bytes.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) fn eight_avx2(codes: &[u8], scale: f32) -> [__m256; 4] {
    let codes = &codes[..32];
    let scale = _mm256_set1_ps(scale);
    std::array::from_fn(|i| {
        // SAFETY: eight bytes from `8 * i` on are within the 32 of `codes`, as `i` is below 4.
        let bytes = unsafe { _mm_loadl_epi64(codes.as_ptr().add(8 * i).cast()) };
        let numbers = _mm256_sub_epi32(_mm256_cvtepu8_epi32(bytes), _mm256_set1_epi32(128));
        _mm256_mul_ps(_mm256_cvtepi32_ps(numbers), scale)
    })
}

/// Of 4 bits each: `codes` begins with 16 bytes.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) fn four_avx2(codes: &[u8], scale: f32) -> [__m256; 4] {
    let codes = &codes[..16];
    let scale = _mm256_set1_ps(scale);
    std::array::from_fn(|i| {
        // SAFETY: eight bytes from 0 or 8 on are within the 16 of `codes`.
        let bytes = unsafe { _mm_loadl_epi64(codes.as_ptr().add(8 * (i % 2)).cast()) };
        let wide = _mm256_cvtepu8_epi32(bytes);
        let halves = if i < 2 { _mm256_and_si256(wide, _mm256_set1_epi32(15)) } else { _mm256_srli_epi32::<4>(wide) };
        _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_sub_epi32(halves, _mm256_set1_epi32(8))), scale)
    })
}

/// Of 8 bits each: `codes` begins with 32 bytes.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn eight_avx512(codes: &[u8], scale: f32) -> [__m512; 2] {
    let codes = &codes[..32];
    let scale = _mm512_set1_ps(scale);
    std::array::from_fn(|i| {
        // SAFETY: sixteen bytes from `16 * i` on are within the 32 of `codes`, as `i` is below 2.
        let bytes = unsafe { _mm_loadu_si128(codes.as_ptr().add(16 * i).cast()) };
        let numbers = _mm_xor_si128(bytes, _mm_set1_epi8(i8::MIN));
        _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(numbers)), scale)
    })
}

/// Of 4 bits each: `codes` begins with 16 bytes. A code is an index into the sixteen values that it can stand for; the instruction uses
/// the low four bits of an index and ignores the rest.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn four_avx512(codes: &[u8], scale: f32) -> [__m512; 2] {
    let codes = &codes[..16];
    let numbers = _mm512_setr_ps(-8., -7., -6., -5., -4., -3., -2., -1., 0., 1., 2., 3., 4., 5., 6., 7.);
    let numbers = _mm512_mul_ps(numbers, _mm512_set1_ps(scale));
    // SAFETY: `codes` has sixteen bytes.
    let wide = _mm512_cvtepu8_epi32(unsafe { _mm_loadu_si128(codes.as_ptr().cast()) });
    [_mm512_permutexvar_ps(wide, numbers), _mm512_permutexvar_ps(_mm512_srli_epi32::<4>(wide), numbers)]
}
