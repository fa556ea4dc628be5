//! Every level against f64, and so against each other.

use super::*;
use crate::product::{self, Weights};
use crate::quantize::Bits;
use crate::quantized_activations::QuantizedActivations;
use crate::strips::{self, Strips};

/// `n` numbers between -1 and 1 of a linear congruential sequence (Numerical Recipes' constants).
fn numbers(n: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    (0..n)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

fn in_f64(weights: &[f32], inputs: &[f32], columns: usize) -> Vec<f32> {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() as f32;
    weights.chunks(columns).flat_map(|row| inputs.chunks(columns).map(move |input| dot(row, input))).collect()
}

#[test]
fn every_level_gives_the_products() {
    for (rows, columns) in [(1, 1), (1, 16), (3, 31), (5, 64), (9, 100), (2, 896), (7, 33), (4, 15), (13, 128)] {
        for n in 1..=MAX_ROWS {
            let (weights, inputs) = (numbers(rows * columns, 1), numbers(n * columns, 2));
            let expected = in_f64(&weights, &inputs, columns);
            for isa in Isa::all() {
                let mut out = vec![f32::NAN; rows * n];
                isa.products(&weights, &inputs, columns, &mut out);
                for (out, expected) in out.iter().zip(&expected) {
                    assert!((out - expected).abs() <= 2e-5, "{isa:?} {rows}x{columns} {n}: {out} {expected}");
                }
            }
        }
    }
}

#[test]
fn every_level_gives_the_scores() {
    for (rows, columns) in [(1, 16), (8, 64), (7, 32), (9, 80), (256, 64), (13, 128), (5, 40), (3, 8)] {
        let keys: Vec<half::f16> = numbers(rows * columns, 1).into_iter().map(half::f16::from_f32).collect();
        let wide: Vec<f32> = keys.iter().map(|key| key.to_f32()).collect();
        for n in 1..=MAX_ROWS {
            let queries = numbers(n * columns, 2);
            let expected = in_f64(&wide, &queries, columns);
            for isa in Isa::all() {
                let (mut out, mut one) = (vec![f32::NAN; rows * n], vec![f32::NAN; n]);
                isa.scores(&keys, &queries, columns, &mut out);
                for (out, expected) in out.iter().zip(&expected) {
                    assert!((out - expected).abs() <= 2e-5, "{isa:?} {rows}x{columns} {n}: {out} {expected}");
                }
                // The last row alone has the same bits.
                isa.scores(&keys[(rows - 1) * columns..], &queries, columns, &mut one);
                assert_eq!(one, out[(rows - 1) * n..], "{isa:?} {rows}x{columns} {n}");
            }
        }
    }
}

/// Narrow weights give what they give when they are widened first, to the bit.
#[test]
fn every_level_widens_weights_exactly() {
    fn check<F: Float>(narrow: &[F], inputs: &[f32], (rows, columns): (usize, usize)) {
        let mut wide = vec![0.0; narrow.len()];
        F::widen(narrow, &mut wide);
        for isa in Isa::all() {
            let products = |products: &dyn Fn(&mut [f32])| {
                let mut out = vec![f32::NAN; rows * inputs.len() / columns];
                products(&mut out);
                out
            };
            let expected = products(&|out| isa.products(&wide, inputs, columns, out));
            let own = products(&|out| isa.products(narrow, inputs, columns, out));
            assert_eq!(own, expected, "{isa:?} {} {rows}x{columns}", F::DTYPE);
        }
    }
    for shape @ (rows, columns) in [(1, 1), (3, 31), (5, 64), (9, 100), (2, 896), (7, 33), (4, 15)] {
        for n in 1..=MAX_ROWS {
            let (weights, inputs) = (numbers(rows * columns, 1), numbers(n * columns, 2));
            check(&weights.iter().map(|weight| half::f16::from_f32(*weight)).collect::<Vec<_>>(), &inputs, shape);
            check(&weights.iter().map(|weight| half::bf16::from_f32(*weight)).collect::<Vec<_>>(), &inputs, shape);
        }
    }
}

/// As with weights.
#[test]
fn every_level_widens_values_exactly() {
    for (rows, width) in [(1, 1), (3, 16), (5, 64), (70, 128), (9, 40), (2, 31)] {
        let narrow: Vec<half::f16> = numbers(rows * width, 6).into_iter().map(half::f16::from_f32).collect();
        let wide: Vec<f32> = narrow.iter().map(|value| value.to_f32()).collect();
        for n in 1..=MAX_ROWS {
            let weights = numbers(rows * n, 5);
            for isa in Isa::all() {
                let (mut own, mut expected) = (vec![1.0; n * width], vec![1.0; n * width]);
                isa.weighted_sums(&weights, &narrow, width, &mut own);
                isa.weighted_sums(&weights, &wide, width, &mut expected);
                assert_eq!(own, expected, "{isa:?} {rows}x{width} {n}");
            }
        }
    }
}

/// Sums of few rows are added side by side, those of the rows that remain alone: a row has the same bits either way.
#[test]
fn every_level_gives_a_row_the_same_sum_among_others() {
    for columns in [16, 64, 100, 31] {
        for n in 1..=MAX_ROWS {
            let (weights, inputs) = (numbers(9 * columns, 1), numbers(n * columns, 2));
            for isa in Isa::all() {
                let mut together = vec![f32::NAN; 9 * n];
                isa.products(&weights, &inputs, columns, &mut together);
                for (row, together) in weights.chunks_exact(columns).zip(together.chunks_exact(n)) {
                    let mut alone = vec![f32::NAN; n];
                    isa.products(row, &inputs, columns, &mut alone);
                    assert_eq!(alone, together, "{isa:?} {columns} {n}");
                }
            }
        }
    }
}

#[test]
fn every_level_turns_rows_and_gives_their_tiles() {
    for (n_rows, inner, stride) in [(32, 64, 64), (32, 33, 50), (31, 16, 16), (9, 40, 41), (1, 1, 1), (17, 96, 100)] {
        let rows = numbers((n_rows - 1) * stride + inner, 7);
        let row = |r: usize, place: usize| if r < n_rows { rows[r * stride + place] } else { 0.0 };
        for isa in Isa::all() {
            let mut transposed = vec![f32::NAN; inner * TILE];
            isa.transpose(&rows, stride, inner, &mut transposed);
            for (i, transposed) in transposed.iter().enumerate() {
                assert_eq!(*transposed, row(i % TILE, i / TILE), "{isa:?} {n_rows}x{inner} of {stride}");
            }
            for n in 1..=isa.tile_inputs() {
                let inputs = numbers(inner * n, 8);
                let mut sums = vec![1.0; n * TILE];
                isa.tile(&transposed, &inputs, &mut sums);
                for (i, sum) in sums.iter().enumerate() {
                    let terms = (0..inner).map(|k| f64::from(row(i % TILE, k)) * f64::from(inputs[k * n + i / TILE]));
                    let expected = 1.0 + terms.sum::<f64>();
                    assert!((f64::from(*sum) - expected).abs() <= 2e-5, "{isa:?} {n_rows}x{inner} {n}: {sum} {expected}");
                }
            }
        }
    }
}

#[test]
fn every_level_adds_tiles() {
    for (n, inner) in [(1, 1), (3, 2), (5, 16), (2, 35)] {
        let (tiles, inputs) = (numbers(n * inner * TILE, 5), numbers(inner, 6));
        let narrow: Vec<half::f16> = tiles.iter().map(|value| half::f16::from_f32(*value)).collect();
        let wide: Vec<f32> = narrow.iter().map(|value| value.to_f32()).collect();
        for isa in Isa::all() {
            let (mut out, mut of_narrow, mut of_wide) = (vec![1.0; n * TILE], vec![1.0; n * TILE], vec![1.0; n * TILE]);
            isa.add_tiles(&tiles, &inputs, &mut out);
            isa.add_tiles(&narrow, &inputs, &mut of_narrow);
            isa.add_tiles(&wide, &inputs, &mut of_wide);
            assert_eq!(of_narrow, of_wide, "{isa:?} {n}x{inner}");
            for (i, out) in out.iter().enumerate() {
                let column = tiles[i / TILE * inner * TILE + i % TILE..].iter().step_by(TILE);
                let expected = 1.0 + column.zip(&inputs).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
                assert!((f64::from(*out) - expected).abs() <= 2e-5, "{isa:?} {n}x{inner}: {out} {expected}");
            }
        }
    }
}

#[test]
fn every_level_gives_the_weighted_sums() {
    for (rows, width) in [(1, 1), (3, 16), (5, 64), (70, 128), (9, 40), (2, 31), (256, 80)] {
        for n in 1..=MAX_ROWS {
            let (weights, values) = (numbers(rows * n, 5), numbers(rows * width, 6));
            for isa in Isa::all() {
                let mut out = vec![1.0; n * width];
                isa.weighted_sums(&weights, &values, width, &mut out);
                for (i, out) in out.iter().enumerate() {
                    let (column, place) = (i / width, i % width);
                    let terms =
                        (0..rows).map(|row| f64::from(weights[row * n + column]) * f64::from(values[row * width + place]));
                    let expected = 1.0 + terms.sum::<f64>();
                    assert!((f64::from(*out) - expected).abs() <= 2e-5, "{isa:?} {rows}x{width} {n}: {out} {expected}");
                }
            }
        }
    }
}

#[test]
fn every_level_gives_the_products_of_blocks() {
    for bits in [Bits::Eight, Bits::Four] {
        for (rows, columns) in [(1, 32), (3, 64), (5, 96), (8, 896), (6, 160)] {
            let blocks = rows * columns / BLOCK;
            let (mut codes, mut scales) = (vec![0; blocks * bits.block_bytes()], vec![0.0; blocks]);
            bits.quantize(&numbers(rows * columns, 3), &mut codes, &mut scales);
            let weights = Blocks { bits, codes: &codes, scales: &scales };
            let mut floats = vec![0.0; rows * columns];
            weights.dequantize(&mut floats);
            for n in 1..=MAX_ROWS {
                let inputs = numbers(n * columns, 4);
                let expected = in_f64(&floats, &inputs, columns);
                for isa in Isa::all() {
                    let mut out = vec![f32::NAN; rows * n];
                    isa.block_products(weights, &inputs, columns, &mut out);
                    for (out, expected) in out.iter().zip(&expected) {
                        assert!((out - expected).abs() <= 2e-5, "{isa:?} {bits:?} {rows}x{columns} {n}: {out} {expected}");
                    }
                }
            }
        }
    }
}

/// Every level gives what whole numbers give.
#[test]
fn every_level_gives_the_products_of_rounded_inputs() {
    for bits in [Bits::Eight, Bits::Four] {
        for (rows, columns) in [(1, 32), (3, 64), (5, 96), (32, 896), (17, 160)] {
            let blocks = rows * columns / BLOCK;
            let (mut codes, mut scales) = (vec![0; blocks * bits.block_bytes()], vec![0.0; blocks]);
            bits.quantize(&numbers(rows * columns, 3), &mut codes, &mut scales);
            let weights = Blocks { bits, codes: &codes, scales: &scales };
            let mut floats = vec![0.0; rows * columns];
            weights.dequantize(&mut floats);
            for n in 1..=MAX_ROWS {
                let quantized = QuantizedActivations::new(&numbers(n * columns, 4), columns);
                let (pairs, groups) = (quantized.pairs(bits.offset()), quantized.groups(bits.offset(), PACKED_INPUTS));
                let of_blocks = quantized.codes.iter().zip(&quantized.scales);
                let back: Vec<f32> = of_blocks.flat_map(|(codes, scale)| codes.map(|code| f32::from(code) * scale)).collect();
                let expected = in_f64(&floats, &back, columns);
                let check = |isa: Isa, what: &str, row: usize, i: usize, out: f32| {
                    let expected = expected[row * n + i];
                    assert!((out - expected).abs() <= 2e-5, "{isa:?} {what} {bits:?} {rows}x{columns} {n}: {out} {expected}");
                };
                for isa in Isa::all() {
                    let mut out = vec![f32::NAN; rows * n];
                    isa.integer_products(weights, &pairs, columns, &mut out);
                    out.iter().enumerate().for_each(|(i, out)| check(isa, "few", i / n, i % n, *out));
                    let mut packed = PackedTile::new(bits, columns);
                    isa.pack(weights, columns / BLOCK, &mut packed);
                    for (first, inputs) in groups.iter().enumerate() {
                        let mut out = vec![[0.0; TILE]; inputs.n];
                        isa.packed_products(&packed, inputs, Lanes::All, &mut out);
                        let mut half = vec![[0.0; TILE]; inputs.n];
                        isa.packed_products(&packed, inputs, Lanes::Half, &mut half);
                        for (half, out) in half.iter().zip(&out) {
                            assert_eq!((&half[..TILE / 2], &half[TILE / 2..]), (&out[..TILE / 2], &[0.0; TILE / 2][..]));
                        }
                        for (i, out) in out.iter().enumerate() {
                            for (row, out) in out.iter().enumerate() {
                                let i = first * PACKED_INPUTS + i;
                                if row < rows { check(isa, "packed", row, i, *out) } else { assert_eq!(*out, 0.0) }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// A column has the same sums, whatever the lanes, the stride and the number of inputs.
#[test]
fn every_level_computes_columns_alike() {
    for (inner, stride) in [(1, 12), (5, 32), (70, 40)] {
        let (columns, inputs) = (numbers(inner * TILE, 1), numbers(inner * stride, 2));
        for isa in Isa::all() {
            let mut whole = vec![0.5; stride * TILE];
            for (i, sums) in whole.chunks_exact_mut(TILE).enumerate() {
                isa.columns_tile(&columns, &inputs[i..(inner - 1) * stride + i + 1], stride, Lanes::All, sums);
            }
            for (i, sums) in whole.chunks_exact(TILE).enumerate() {
                for (lane, sum) in sums.iter().enumerate() {
                    let pairs = (0..inner).map(|k| f64::from(columns[k * TILE + lane]) * f64::from(inputs[k * stride + i]));
                    assert!((f64::from(*sum) - 0.5 - pairs.sum::<f64>()).abs() <= 2e-5, "{isa:?} {inner}");
                }
            }
            for n in 1..=isa.tile_inputs() {
                let own = &inputs[..(inner - 1) * stride + n];
                let (mut all, mut half) = (vec![0.5; n * TILE], vec![0.5; n * TILE]);
                isa.columns_tile(&columns, own, stride, Lanes::All, &mut all);
                isa.columns_tile(&columns, own, stride, Lanes::Half, &mut half);
                assert_eq!(all, whole[..n * TILE], "{isa:?} {inner} {n}");
                for (half, all) in half.chunks(TILE).zip(all.chunks(TILE)) {
                    assert_eq!((&half[..TILE / 2], &half[TILE / 2..]), (&all[..TILE / 2], &[0.5; TILE / 2][..]));
                }
            }
        }
    }
}

/// Products of pairs are those of the rounded values.
#[test]
fn pairs_give_the_products() {
    let Some(products) = Isa::all().into_iter().find_map(PairProducts::of) else { return };
    let rounded = |values: &[f32]| -> Vec<u32> { values.iter().map(|value| value.to_bits() >> 16).collect() };
    let wide = |half: u32| f64::from(f32::from_bits(half << 16));
    for (inner, stride) in [(1, 12), (5, 32), (70, 40)] {
        let (columns, inputs) = (rounded(&numbers(2 * inner * TILE, 1)), rounded(&numbers(2 * inner * stride, 2)));
        let pairs = |halves: &[u32]| -> Vec<u32> { halves.as_chunks::<2>().0.iter().map(|[a, b]| a | b << 16).collect() };
        let (column_pairs, input_pairs) = (pairs(&columns), pairs(&inputs));
        let column_pairs = column_pairs.as_chunks::<TILE>().0;
        for n in 1..=PairProducts::INPUTS {
            let own = &input_pairs[..(inner - 1) * stride + n];
            let (mut all, mut half) = (vec![0.5; n * TILE], vec![0.5; n * TILE]);
            products.add(column_pairs, own, stride, Lanes::All, &mut all);
            products.add(column_pairs, own, stride, Lanes::Half, &mut half);
            for (i, (all, half)) in all.chunks(TILE).zip(half.chunks(TILE)).enumerate() {
                assert_eq!((&half[..TILE / 2], &half[TILE / 2..]), (&all[..TILE / 2], &[0.5; TILE / 2][..]));
                for (lane, sum) in all.iter().enumerate() {
                    let of =
                        |k: usize, h: usize| wide(columns[2 * (k * TILE + lane) + h]) * wide(inputs[2 * (k * stride + i) + h]);
                    let expected = 0.5 + (0..inner).map(|k| of(k, 0) + of(k, 1)).sum::<f64>();
                    assert!((f64::from(*sum) - expected).abs() <= 2e-5, "{inner} {n}: {sum} {expected}");
                }
            }
        }
    }
}

/// Strips give the bits that their rows give, with any number of inputs.
#[test]
fn strips_give_what_rows_give() {
    for isa in Isa::all().into_iter().filter(|isa| isa.has_strips()) {
        for (bits, rows, per_row) in [Bits::Eight, Bits::Four].into_iter().flat_map(|bits| {
            [(1, 2), (16, 1), (16, 16), (31, 17), (32, 5), (50, 36)].map(|(rows, per_row)| (bits, rows, per_row))
        }) {
            let (n_blocks, columns) = (rows * per_row, per_row * BLOCK);
            let weights = numbers(n_blocks * BLOCK, 1);
            let (mut codes, mut scales) = (vec![0; n_blocks * bits.block_bytes()], vec![0.0; n_blocks]);
            bits.quantize(&weights, &mut codes, &mut scales);
            let (row_codes, row_scales) = (codes.clone(), scales.clone());
            let in_rows = Blocks { bits, codes: &row_codes, scales: &row_scales };
            strips::interleave(bits, &mut codes, &mut scales, columns);
            let strips = Strips::new(bits, &codes, &scales, columns);
            for n in 1..=MAX_ROWS {
                let inputs = QuantizedActivations::new(&numbers(n * columns, 2), columns);
                let group = inputs.group(0..n, bits.offset());
                let products = |write: &dyn Fn(&mut [&mut [f32]])| {
                    let mut out = vec![f32::NAN; n * rows];
                    write(&mut out.chunks_mut(rows).collect::<Vec<_>>());
                    out
                };
                let of_strips =
                    products(&|out| isa.group_products((strips.memory(), Layout::Strips), SumOrder::InTurns, &group, out));
                assert_eq!(
                    of_strips,
                    products(&|out| isa.group_products((in_rows, Layout::Rows), SumOrder::InTurns, &group, out)),
                    "{bits:?} {rows} {per_row} {n}"
                );
                let mut each = vec![f32::NAN; rows * n];
                isa.integer_products(in_rows, &inputs.pairs(bits.offset()), columns, &mut each);
                let turned: Vec<f32> = (0..n * rows).map(|i| each[i % rows * n + i / rows]).collect();
                assert_eq!(of_strips, turned, "{bits:?} {rows} {per_row} {n}");
            }
        }
    }
}

/// So they do with the kernels of many inputs: of several groups, of several parts of the weights, and of rows that are larger than a part.
#[test]
fn strips_give_prompts_what_rows_give() {
    for isa in Isa::all().into_iter().filter(|isa| isa.has_strips()) {
        let sizes = [(1, 2), (16, 16), (31, 17), (50, 36), (300, 36), (3, 9000)];
        for (bits, (rows, per_row)) in [Bits::Eight, Bits::Four].into_iter().flat_map(|bits| sizes.map(|size| (bits, size))) {
            let (n_blocks, columns) = (rows * per_row, per_row * BLOCK);
            let (mut codes, mut scales) = (vec![0; n_blocks * bits.block_bytes()], vec![0.0; n_blocks]);
            bits.quantize(&numbers(n_blocks * BLOCK, 1), &mut codes, &mut scales);
            let (row_codes, row_scales) = (codes.clone(), scales.clone());
            let in_rows = Blocks { bits, codes: &row_codes, scales: &row_scales };
            strips::interleave(bits, &mut codes, &mut scales, columns);
            let strips = Strips::new(bits, &codes, &scales, columns);
            for n in [1, 8, 9, 20] {
                let inputs = QuantizedActivations::new(&numbers(n * columns, 2), columns);
                let (mut of_rows, mut of_strips) = (vec![f32::NAN; n * rows], vec![f32::NAN; n * rows]);
                product::integer_product(isa, Weights::Blocks(in_rows), &inputs, None, &mut of_rows);
                product::integer_product(isa, Weights::Strips(strips), &inputs, None, &mut of_strips);
                assert_eq!(of_rows, of_strips, "{bits:?} {rows} {per_row} {n}");
            }
        }
    }
}

/// Sums of products stay within what their registers hold, with codes that no checkpoint of ours has too.
#[test]
fn every_level_sums_the_largest_codes() {
    const COLUMNS: usize = 2 * BLOCK;
    for (bits, codes, weight) in
        [(Bits::Eight, 0x00, -128.0), (Bits::Eight, 0xFF, 127.0), (Bits::Four, 0xFF, 7.0), (Bits::Four, 0x00, -8.0)]
    {
        let codes = [codes; 2 * BLOCK];
        let weights = Blocks { bits, codes: &codes[..2 * bits.block_bytes()], scales: &[1.0; 2] };
        for input in [127.0, -127.0] {
            let quantized = QuantizedActivations::new(&[input; COLUMNS], COLUMNS);
            let (pairs, groups) = (quantized.pairs(bits.offset()), quantized.groups(bits.offset(), 1));
            for isa in Isa::all() {
                let (mut few, mut many) = ([0.0], [[0.0; TILE]]);
                isa.integer_products(weights, &pairs, COLUMNS, &mut few);
                let mut packed = PackedTile::new(bits, COLUMNS);
                isa.pack(weights, 2, &mut packed);
                isa.packed_products(&packed, &groups[0], Lanes::All, &mut many);
                let expected = weight * input * COLUMNS as f32;
                assert_eq!((few[0], many[0][0]), (expected, expected), "{isa:?} {bits:?} {weight} {input}");
            }
        }
    }
}

#[test]
#[should_panic(expected = "a product for each pair")]
fn an_output_of_another_size_is_refused() {
    Isa::current().products(&[0.0; 32], &[0.0; 16], 16, &mut [0.0; 3]);
}
