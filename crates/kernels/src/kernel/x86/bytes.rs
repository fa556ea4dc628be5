//! Integer products of 8- or 4-bit weights with 8-bit activations in 256 bits: AVX2, and AVX-VNNI with its dot products of bytes.

/// The kernels on top of module `$way`, whose `step` adds products of bytes to partial sums and whose `total` makes final sums of them.
macro_rules! loops {
    ($module:ident, $features:literal, $way:ident) => {
        #[expect(unsafe_code, reason = "vectors are loaded from addresses")]
        pub(in crate::kernel) mod $module {
            use std::arch::x86_64::*;

            use super::super::fetch;
            use super::super::sums::sum_avx2;
            use super::super::tiles::transposed_avx2;
            use super::$way as way;
            use crate::quantize::{BLOCK, Bits, Blocks};
            use crate::quantized_activations::{BlockPair, RowGroup};
            use crate::tiles::{Lanes, PackedTile, TILE};

            /// Rows of a tile in a vector.
            const LANES: usize = 8;

            /// See [`Isa::integer_products`](crate::isa::Isa::integer_products).
            #[target_feature(enable = $features)]
            pub(in crate::kernel) fn integer_products(
                weights: Blocks<'_>,
                inputs: &[BlockPair],
                columns: usize,
                out: &mut [f32],
            ) {
                match weights.bits {
                    Bits::Eight => of_bits::<8>(weights, inputs, columns, out),
                    Bits::Four => of_bits::<4>(weights, inputs, columns, out),
                }
            }

            #[target_feature(enable = $features)]
            fn of_bits<const B: usize>(weights: Blocks<'_>, inputs: &[BlockPair], columns: usize, out: &mut [f32]) {
                match inputs.len() / columns.div_ceil(2 * BLOCK) {
                    // Not one row at a time as with wider vectors: loading the inputs again took 1 to 1.4 times as long (bench `kernels`).
                    1 => in_tiles::<B, 4, 1>(weights, inputs, columns, out),
                    2 => in_tiles::<B, 2, 2>(weights, inputs, columns, out),
                    3 => in_tiles::<B, 2, 3>(weights, inputs, columns, out),
                    4 => in_tiles::<B, 1, 4>(weights, inputs, columns, out),
                    5 => in_tiles::<B, 1, 5>(weights, inputs, columns, out),
                    6 => in_tiles::<B, 1, 6>(weights, inputs, columns, out),
                    7 => in_tiles::<B, 1, 7>(weights, inputs, columns, out),
                    _ => in_tiles::<B, 1, 8>(weights, inputs, columns, out),
                }
            }

            #[target_feature(enable = $features)]
            fn in_tiles<const B: usize, const R: usize, const N: usize>(
                weights: Blocks<'_>,
                inputs: &[BlockPair],
                columns: usize,
                out: &mut [f32],
            ) {
                let pairs = inputs.len() / N;
                let inputs: [&[BlockPair]; N] = std::array::from_fn(|i| &inputs[i * pairs..(i + 1) * pairs]);
                let rows = out.len() / N;
                let whole = rows - rows % R;
                for first in (0..whole).step_by(R) {
                    let weights = weights.rows(first..first + R, columns);
                    tile::<B, R, N>(weights, &inputs, columns, &mut out[first * N..(first + R) * N]);
                }
                for row in whole..rows {
                    let weights = weights.rows(row..row + 1, columns);
                    tile::<B, 1, N>(weights, &inputs, columns, &mut out[row * N..(row + 1) * N]);
                }
            }

            #[target_feature(enable = $features)]
            fn tile<const B: usize, const R: usize, const N: usize>(
                weights: Blocks<'_>,
                inputs: &[&[BlockPair]; N],
                columns: usize,
                out: &mut [f32],
            ) {
                let rows: [Blocks<'_>; R] = std::array::from_fn(|r| weights.rows(r..r + 1, columns));
                let mut sums = [[_mm256_setzero_ps(); N]; R];
                for block in 0..columns / BLOCK {
                    let (pair, half) = (block / 2, block % 2);
                    for (sums, row) in sums.iter_mut().zip(&rows) {
                        let codes = &row.codes[block * (B * BLOCK / 8)..];
                        fetch(codes);
                        let weight = unsigned::<B>(codes);
                        for (sum, input) in sums.iter_mut().zip(inputs) {
                            *sum = with_products::<B>(weight, row.scales[block], &input[pair], half, *sum);
                        }
                    }
                }
                for (sums, out) in sums.iter().zip(out.chunks_exact_mut(N)) {
                    for (sum, out) in sums.iter().zip(out) {
                        *out = sum_avx2(*sum);
                    }
                }
            }

            /// Adds to `sum` the products of a block and half of a pair.
            #[inline]
            #[target_feature(enable = $features)]
            fn with_products<const B: usize>(weight: __m256i, scale: f32, input: &BlockPair, half: usize, sum: __m256) -> __m256 {
                let (correction, scales) = (&input.correction[LANES * half..][..LANES], &input.scales[LANES * half..][..LANES]);
                // SAFETY: a block of codes and the two slices are 32 bytes each.
                let (codes, correction, scales) = unsafe {
                    (
                        _mm256_loadu_si256(input.codes[half].as_ptr().cast()),
                        _mm256_loadu_si256(correction.as_ptr().cast()),
                        _mm256_loadu_ps(scales.as_ptr()),
                    )
                };
                let dots = way::total::<B>(way::step::<B>(_mm256_setzero_si256(), weight, codes), correction);
                _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots), _mm256_mul_ps(_mm256_set1_ps(scale), scales), sum)
            }

            /// See [`Isa::pack`](crate::isa::Isa::pack).
            #[target_feature(enable = $features)]
            pub(in crate::kernel) fn pack(weights: Blocks<'_>, per_row: usize, packed: &mut PackedTile) {
                let rows = weights.scales.len() / per_row;
                for (block, (words, scales)) in
                    packed.words.as_chunks_mut::<LANES>().0.iter_mut().zip(&mut packed.scales).enumerate()
                {
                    for first in (0..TILE).step_by(LANES) {
                        let mut square = [_mm256_setzero_ps(); LANES];
                        for (square, row) in square.iter_mut().zip(first..rows) {
                            let own = weights.block(row * per_row + block);
                            *square = _mm256_castsi256_ps(match own.bits {
                                Bits::Eight => unsigned::<8>(own.codes),
                                Bits::Four => unsigned::<4>(own.codes),
                            });
                        }
                        for (words, transposed) in words.iter_mut().zip(transposed_avx2(square)) {
                            let words: &mut [u32; LANES] = words[first..].first_chunk_mut().expect("a tile has whole vectors");
                            // SAFETY: the array has eight words of four bytes.
                            unsafe { _mm256_storeu_si256(words.as_mut_ptr().cast(), _mm256_castps_si256(transposed)) };
                        }
                    }
                    for (row, scale) in scales.iter_mut().enumerate() {
                        *scale = if row < rows { weights.scales[row * per_row + block] } else { 0.0 };
                    }
                }
            }

            /// The codes of a block of `B` bits as unsigned bytes, in order.
            #[inline]
            #[target_feature(enable = $features)]
            fn unsigned<const B: usize>(codes: &[u8]) -> __m256i {
                let codes = &codes[..B * BLOCK / 8];
                // SAFETY: the slice has the 32 bytes (`B` is 8) or 16 bytes (4) that are loaded.
                unsafe {
                    if B == 8 {
                        return _mm256_loadu_si256(codes.as_ptr().cast());
                    }
                    let both = _mm_loadu_si128(codes.as_ptr().cast());
                    _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16::<4>(both), both), _mm256_set1_epi8(15))
                }
            }

            /// See [`Isa::packed_products`](crate::isa::Isa::packed_products).
            #[target_feature(enable = $features)]
            pub(in crate::kernel) fn packed_products(
                packed: &PackedTile,
                inputs: &RowGroup<'_>,
                lanes: Lanes,
                out: &mut [[f32; TILE]],
            ) {
                match packed.bits {
                    Bits::Eight => of_packed_bits::<8>(packed, inputs, lanes, out),
                    Bits::Four => of_packed_bits::<4>(packed, inputs, lanes, out),
                }
            }

            #[target_feature(enable = $features)]
            fn of_packed_bits<const B: usize>(packed: &PackedTile, inputs: &RowGroup<'_>, lanes: Lanes, out: &mut [[f32; TILE]]) {
                match inputs.n {
                    1 => of_packed::<B, 1>(packed, inputs, lanes, out),
                    2 => of_packed::<B, 2>(packed, inputs, lanes, out),
                    3 => of_packed::<B, 3>(packed, inputs, lanes, out),
                    4 => of_packed::<B, 4>(packed, inputs, lanes, out),
                    5 => of_packed::<B, 5>(packed, inputs, lanes, out),
                    _ => of_packed::<B, 6>(packed, inputs, lanes, out),
                }
            }

            /// One vector of rows after the other: registers hold the sums of one with all inputs.
            #[target_feature(enable = $features)]
            fn of_packed<const B: usize, const N: usize>(
                packed: &PackedTile,
                inputs: &RowGroup<'_>,
                lanes: Lanes,
                out: &mut [[f32; TILE]],
            ) {
                // The words of a block, a constant that is hidden from the compiler: it would unroll the loop over them.
                let words = packed.words.len() / packed.scales.len();
                for rows in 0..lanes.number() / LANES {
                    let blocks = packed.words.chunks_exact(words).zip(inputs.words.as_chunks::<N>().0.chunks_exact(words));
                    let input_scales = inputs.scales.as_chunks::<N>().0.iter().zip(inputs.correction.as_chunks::<N>().0);
                    let mut sums = [_mm256_setzero_ps(); N];
                    for ((weights, inputs), (scales, (input_scales, correction))) in
                        blocks.zip(packed.scales.iter().zip(input_scales))
                    {
                        let mut dots = [_mm256_setzero_si256(); N];
                        for (weights, inputs) in weights.iter().zip(inputs) {
                            let weights: &[u32; LANES] = &weights.as_chunks().0[rows];
                            // SAFETY: the array has eight words of four bytes.
                            let weights = unsafe { _mm256_loadu_si256(weights.as_ptr().cast()) };
                            for (dots, four) in dots.iter_mut().zip(inputs) {
                                *dots = way::step::<B>(*dots, weights, _mm256_set1_epi32(*four));
                            }
                        }
                        let scales: &[f32; LANES] = &scales.as_chunks().0[rows];
                        // SAFETY: the array has eight floats.
                        let scales = unsafe { _mm256_loadu_ps(scales.as_ptr()) };
                        let of_inputs = dots.iter().zip(input_scales.iter().zip(correction));
                        for (sum, (dots, (scale, correction))) in sums.iter_mut().zip(of_inputs) {
                            let dots = _mm256_cvtepi32_ps(way::total::<B>(*dots, _mm256_set1_epi32(*correction)));
                            *sum = _mm256_fmadd_ps(dots, _mm256_mul_ps(scales, _mm256_set1_ps(*scale)), *sum);
                        }
                    }
                    for (sum, out) in sums.iter().zip(&mut *out) {
                        let out: &mut [f32; LANES] = &mut out.as_chunks_mut().0[rows];
                        // SAFETY: the array has eight floats.
                        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), _mm256_add_ps(*sum, _mm256_loadu_ps(out.as_ptr()))) };
                    }
                }
            }
        }
    };
}

loops!(avx2, "avx2,fma", pairs);
loops!(avx_vnni, "avx2,fma,avxvnni", fours);

/// AVX2 alone: two products of bytes are added to an integer of sixteen bits.
mod pairs {
    use std::arch::x86_64::*;

    /// With four bits a product is at most 15 · 127, so the sixteen that a block contributes to each lane fit. With eight bits even two
    /// would not, so weights become signed again: 128 · 127 twice fits, and pairs are added to 32 bits at once.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn step<const B: usize>(sums: __m256i, weights: __m256i, inputs: __m256i) -> __m256i {
        if B == 4 {
            return _mm256_add_epi16(sums, _mm256_maddubs_epi16(weights, inputs));
        }
        let weights = _mm256_xor_si256(weights, _mm256_set1_epi8(i8::MIN));
        let products = _mm256_maddubs_epi16(_mm256_abs_epi8(weights), _mm256_sign_epi8(inputs, weights));
        _mm256_add_epi32(sums, _mm256_madd_epi16(products, _mm256_set1_epi16(1)))
    }

    /// `correction` applies to unsigned weights only.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn total<const B: usize>(sums: __m256i, correction: __m256i) -> __m256i {
        if B == 4 { _mm256_add_epi32(correction, _mm256_madd_epi16(sums, _mm256_set1_epi16(1))) } else { sums }
    }
}

/// AVX-VNNI.
mod fours {
    use std::arch::x86_64::*;

    #[inline]
    #[target_feature(enable = "avxvnni")]
    pub(super) fn step<const B: usize>(sums: __m256i, weights: __m256i, inputs: __m256i) -> __m256i {
        _mm256_dpbusd_avx_epi32(sums, weights, inputs)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn total<const B: usize>(sums: __m256i, correction: __m256i) -> __m256i {
        _mm256_add_epi32(sums, correction)
    }
}
