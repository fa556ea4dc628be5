//! Products of one input with several matrices: what is done with the input is done once, and the tasks of all matrices are one loop.

use std::ops::Range;

use rayon::prelude::*;

use super::integers::FewIntegers;
use super::{Kernels, MatrixView, RowRun, Terms};
use crate::low_rank::{Inputs, Shared};
use crate::quantize::Bits;
use crate::quantized_activations::QuantizedActivations;
use crate::strips::STRIP;
use crate::tiles::{MAX_ROWS, TILE};

/// One of several products of the same rows.
pub struct ProductPart<'p> {
    /// What is multiplied by.
    pub matrix: MatrixView<'p>,
    /// What is added.
    pub terms: Terms<'p>,
    /// The result, `[n, rows]`.
    pub out: &'p mut [f32],
}

/// Writes the products of `x`, `[n, columns]`, with all matrices of `parts`, where the kernels of each of `runs` of rows are chosen by
/// themselves: to the bit what [`MatrixView::write_products`] gives for each.
///
/// # Panics
/// As [`MatrixView::write_products`].
pub fn write_products(x: &[f32], parts: &mut [ProductPart<'_>], runs: &[RowRun], packed: &mut Vec<f32>) {
    let Some(columns) = parts.first().map(|part| part.matrix.columns) else { return };
    if let [RowRun { n_rows, kernels }] = *runs {
        assert_eq!(x.len(), n_rows * columns, "every row is of a run");
        return write_run(x, parts, kernels, packed);
    }
    let mut first = 0;
    for RowRun { n_rows, kernels } in runs.iter().copied() {
        let rows = first..first + n_rows;
        let own = parts.iter_mut().map(|part| {
            let out = &mut part.out[rows.start * part.matrix.rows..rows.end * part.matrix.rows];
            ProductPart { matrix: part.matrix, terms: part.terms, out }
        });
        write_run(&x[rows.start * columns..rows.end * columns], &mut own.collect::<Vec<_>>(), kernels, packed);
        first = rows.end;
    }
    assert_eq!(x.len(), first * columns, "every row is of a run");
}

/// As [`write_products`], of one run.
fn write_run(x: &[f32], parts: &mut [ProductPart<'_>], kernels: Kernels, packed: &mut Vec<f32>) {
    let Some(columns) = parts.first().map(|part| part.matrix.columns) else { return };
    let n = x.len() / columns;
    let is_alike = parts.iter().all(|part| part.matrix.columns == columns && x.len() == n * columns);
    let is_whole = parts.iter().all(|part| part.out.len() == n * part.matrix.rows);
    // With more rows, products take long enough for loops of their own.
    let is_one = n == 1 && kernels.rows(n) <= MAX_ROWS;
    let kinds = parts.iter().map(|part| (part.matrix.integer_bits(), part.matrix.is_in_strips())).collect::<Vec<_>>();
    let is_together = parts.len() > 1 && is_alike && is_whole && is_one && kinds.windows(2).all(|both| both[0] == both[1]);
    if !is_together {
        for part in parts {
            part.matrix.write_product(x, part.terms, kernels, packed, part.out);
        }
        return;
    }
    match kinds[0].0 {
        None => in_one_loop(parts, Inputs::Floats(x), |matrix, rows, out| matrix.products_of_few(rows, x, out)),
        Some(_) => {
            let inputs = QuantizedActivations::new(x, columns);
            let few = parts[0].matrix.few_integers(&inputs, 0..1);
            let has_update = parts.iter().any(|part| part.terms.update.is_some());
            let of_updates = if has_update { inputs.pairs(Bits::Eight.offset()) } else { Vec::new() };
            in_one_loop(parts, Inputs::Pairs(&of_updates), |matrix, rows, out| match &few {
                FewIntegers::Pairs(pairs) => matrix.products_of_pairs(rows, pairs, out),
                FewIntegers::Group(group) => matrix.products_of_group(rows, group, &mut [out]),
            });
        }
    }
    for part in parts {
        part.matrix.add_terms(x, part.terms, kernels, part.out);
    }
}

/// As [`MatrixView::product_of_few`] of one row, for each of `parts`.
fn in_one_loop(
    parts: &mut [ProductPart<'_>],
    inputs: Inputs<'_>,
    products: impl Fn(MatrixView<'_>, Range<usize>, &mut [f32]) + Sync,
) {
    let own: Vec<_> =
        parts.iter().map(|part| (part.matrix, part.terms.update.map(|update| Shared::new(update, inputs)))).collect();
    let mut tasks = Vec::new();
    for ((matrix, low), part) in own.iter().zip(parts) {
        let unit = if matrix.is_in_strips() { STRIP } else { 4 };
        let share = matrix.task_rows(if low.is_some() { TILE } else { unit });
        tasks.extend(part.out.chunks_mut(share).enumerate().map(|(i, out)| (*matrix, low.as_ref(), i * share, out)));
    }
    tasks.into_par_iter().with_max_len(1).for_each(|(matrix, low, first, out)| {
        let rows = first..first + out.len();
        if let Some(low) = low {
            low.compute();
        }
        products(matrix, rows.clone(), out);
        if let Some(low) = low {
            low.apply(&rows, out);
        }
    });
}

#[cfg(test)]
mod tests {
    use tandem_core::backend::Numerics;

    use super::*;
    use crate::low_rank::Update;
    use crate::product::Weights;
    use crate::quantize::{BLOCK, Blocks};

    #[test]
    fn products_together_are_those_of_each_alone() {
        let columns = 6 * BLOCK;
        let number = |i: usize| ((i * i + 7 * i) as f32 * 0.37).sin();
        let bias: Vec<f32> = (0..70).map(number).collect();
        let codes: Vec<u8> = (0..70 * columns / 2).map(|i| (i * i % 251) as u8).collect();
        let scales: Vec<f32> = (0..70 * 6).map(|i| 0.01 * number(i)).collect();
        let update = tandem_core::adapter::ModuleUpdate {
            rank: 3,
            a: (0..3 * columns).map(number).collect(),
            b: (0..70 * 3).map(number).collect(),
            gain: None,
        };
        let update = Update::new(vec![(0..70, update)], [70, columns], true, &tandem_core::arena::Arena::default());
        for numerics in [Numerics::Fast, Numerics::Exact] {
            let matrix = |rows: usize| {
                let (codes, scales) = (&codes[..rows * columns / 2], &scales[..rows * 6]);
                MatrixView::new(Weights::Blocks(Blocks { bits: Bits::Four, codes, scales }), [rows, columns], numerics)
            };
            for lengths in [&[1][..], &[2], &[5], &[8], &[9], &[20], &[1; 8], &[1; 11], &[1, 1, 1, 17], &[18, 9, 2, 1, 1, 1]] {
                let n = lengths.iter().sum();
                let x: Vec<f32> = (0..n * columns).map(number).collect();
                let terms = [Terms { bias: Some(&bias[..40]), update: None }, Terms { bias: None, update: Some(&update) }];
                let one = |kernels| vec![RowRun { n_rows: n, kernels }];
                let each = RowRun::of_sequences(lengths.iter().copied());
                for runs in [one(Kernels::Fastest), one(Kernels::ByShape), one(Kernels::OfRows(8)), each] {
                    let mut outs = [vec![f32::NAN; n * 40], vec![f32::NAN; n * 70]];
                    let matrices = [matrix(40), matrix(70)];
                    let parts = matrices.iter().zip(terms).zip(&mut outs);
                    let mut parts: Vec<_> =
                        parts.map(|((matrix, terms), out)| ProductPart { matrix: *matrix, terms, out }).collect();
                    write_products(&x, &mut parts, &runs, &mut Vec::new());
                    for ((matrix, terms), out) in matrices.iter().zip(terms).zip(outs) {
                        let mut alone = vec![f32::NAN; out.len()];
                        matrix.write_products(&x, terms, &runs, &mut Vec::new(), &mut alone);
                        assert_eq!(out, alone, "{lengths:?}, {numerics:?}, {runs:?}");
                    }
                }
            }
        }
    }
}
