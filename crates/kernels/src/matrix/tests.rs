//! Products of every kind of weights: against double precision, alone and among other rows, on few threads and on many.

use super::*;

/// So many that few rows of inputs are several tasks.
const ROWS: usize = 1502;
const COLUMNS: usize = 3 * BLOCK;

fn numbers(n: usize, seed: usize) -> Vec<f32> {
    (0..n).map(|i| (((i * i + 7 * i + seed * 131) % 997) as f32 * 0.71).sin()).collect()
}

fn quantized(bits: Bits, arena: &Arena, weights: &[f32]) -> Stored {
    let n = weights.len() / BLOCK;
    let (mut codes, mut scales) = (arena.zeros(n * bits.block_bytes()), arena.zeros(n));
    bits.quantize(weights, &mut codes, &mut scales);
    Stored::Blocks { bits, codes, scales }
}

/// A matrix of every kind.
fn matrices(numerics: Numerics) -> Vec<(String, Matrix)> {
    matrices_of(Isa::current(), [ROWS, COLUMNS], numerics)
}

fn matrices_of(isa: Isa, [rows, columns]: [usize; 2], numerics: Numerics) -> Vec<(String, Matrix)> {
    let (arena, weights) = (Arena::default(), numbers(rows * columns, 1));
    let halves = |round: fn(f32) -> u16| {
        let weights = &weights;
        move |out: &mut [u16]| out.iter_mut().zip(weights).for_each(|(out, weight)| *out = round(*weight))
    };
    let floats = |dtype, round| Stored::floats(dtype, &arena, weights.len(), halves(round), |out| out.copy_from_slice(&weights));
    let of = |stored| Matrix::on(isa, stored, [rows, columns], numerics);
    let mut offsets = arena.zeros(weights.len() / BLOCK);
    offsets.copy_from_slice(&numbers(weights.len() / BLOCK, 9));
    vec![
        ("f32".into(), of(floats(DType::F32, |_| 0))),
        ("f16".into(), of(floats(DType::F16, |weight| f16::from_f32(weight).to_bits()))),
        ("bf16".into(), of(floats(DType::Bf16, |weight| bf16::from_f32(weight).to_bits()))),
        (format!("int8, {numerics:?}"), of(quantized(Bits::Eight, &arena, &weights))),
        (format!("int4, {numerics:?}"), of(quantized(Bits::Four, &arena, &weights))),
        (format!("offsets, {numerics:?}"), of(quantized(Bits::Four, &arena, &weights)).with_offsets(offsets)),
    ]
}

fn each(check: impl Fn(&str, MatrixView<'_>)) {
    each_of([ROWS, COLUMNS], check);
}

fn each_of(sizes: [usize; 2], check: impl Fn(&str, MatrixView<'_>)) {
    for numerics in [Numerics::Exact, Numerics::Fast] {
        for isa in Isa::all() {
            for (name, matrix) in matrices_of(isa, sizes, numerics) {
                check(&format!("{name}, {isa}"), MatrixView { isa, ..matrix.view() });
            }
        }
    }
}

#[test]
fn products_match_f64() {
    let bias = numbers(ROWS, 3);
    each(|what, matrix| {
        let mut rows = Vec::new();
        matrix.each_row(0..ROWS, &mut |row| rows.extend_from_slice(row));
        let rounds_inputs = matrix.weights.bits().is_some() && matrix.numerics == Numerics::Fast;
        for (n, kernels) in
            [(1, Kernels::Fastest), (7, Kernels::Fastest), (12, Kernels::Fastest), (33, Kernels::Fastest), (7, Kernels::ByShape)]
        {
            let x = numbers(n * COLUMNS, n);
            let out = matrix.product(&x, Terms { bias: Some(&bias), update: None }, kernels);
            for (i, out) in out.iter().enumerate() {
                let (x, row) = (&x[i / ROWS * COLUMNS..][..COLUMNS], &rows[i % ROWS * COLUMNS..][..COLUMNS]);
                let product: f64 = x.iter().zip(row).map(|(x, weight)| f64::from(*x) * f64::from(*weight)).sum();
                let expected = product + f64::from(bias[i % ROWS]);
                let allowed = if rounds_inputs { 0.3 } else { 1e-4 };
                assert!((f64::from(*out) - expected).abs() <= allowed, "{what}, {n} rows, {kernels:?}: {out} {expected}");
            }
        }
    });
}

#[test]
fn rows_by_shape_do_not_depend_on_their_batch() {
    let x = numbers(40 * COLUMNS, 2);
    each(|what, matrix| {
        let product = |n: usize| matrix.product(&x[..n * COLUMNS], Terms::default(), Kernels::ByShape);
        let together = product(40);
        for n in [1, 2, 9, 31] {
            assert_eq!(product(n), together[..n * ROWS], "{what}, {n} rows");
        }
    });
}

/// Sequences of any lengths share products, and each gets the bits that it gets alone: rows short and long, of whole pairs of blocks and not.
#[test]
fn sequences_that_share_products_get_what_each_gets_alone() {
    let mut random = 7_usize;
    let mut below = |n: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % n
    };
    for sizes in [[70, COLUMNS], [37, 27 * BLOCK], [36, 20 * BLOCK], [5, 17 * BLOCK]] {
        let [rows, columns] = sizes;
        let bias = numbers(rows, 3);
        let terms = Terms { bias: Some(&bias), update: None };
        for _ in 0..6 {
            let lengths: Vec<usize> = (0..1 + below(12)).map(|_| [1, 1, 1, 1 + below(9), 7 + below(12), 40][below(6)]).collect();
            let runs = RowRun::of_sequences(lengths.iter().copied());
            let x = numbers(lengths.iter().sum::<usize>() * columns, below(100));
            each_of(sizes, |what, matrix| {
                let mut together = vec![f32::NAN; x.len() / columns * rows];
                matrix.write_products(&x, terms, &runs, &mut Vec::new(), &mut together);
                let (mut x, mut together) = (&x[..], &together[..]);
                for n in &lengths {
                    let alone = matrix.product(&x[..n * columns], terms, Kernels::Fastest);
                    assert!(together[..n * rows] == alone, "{what}, {sizes:?}, {n} rows among {lengths:?}");
                    (x, together) = (&x[n * columns..], &together[n * rows..]);
                }
            });
        }
    }
}

#[test]
fn products_do_not_depend_on_the_threads() {
    let pool = |n| rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap();
    let pools = [pool(1), pool(2), pool(5)];
    each(|what, matrix| {
        for (n, kernels) in [(1, Kernels::Fastest), (6, Kernels::Fastest), (20, Kernels::Fastest), (6, Kernels::ByShape)] {
            let x = numbers(n * COLUMNS, n);
            let [one, two, five] = pools.each_ref().map(|pool| pool.install(|| matrix.product(&x, Terms::default(), kernels)));
            assert!(one == two && one == five, "{what}, {n} rows, {kernels:?}");
        }
    });
}

#[test]
fn borrowed_codes_give_what_a_matrix_gives() {
    let (x, (_, matrix)) = (numbers(3 * COLUMNS, 4), matrices(Numerics::Exact).remove(3));
    let view = MatrixView::new(matrix.weights(), [ROWS, COLUMNS], Numerics::Exact);
    let of = |view: MatrixView<'_>| view.product(&x, Terms::default(), Kernels::Fastest);
    assert_eq!(of(view), of(matrix.view()));
    assert_eq!((matrix.dtype(), view.rows(), view.columns()), (DType::Int8, ROWS, COLUMNS));
}

#[test]
#[should_panic(expected = "a matrix has all of its weights")]
fn missing_weights_are_refused() {
    MatrixView::new(Weights::F32(&[0.0; 64]), [3, 32], Numerics::Exact);
}

#[test]
#[should_panic(expected = "whole rows")]
fn outputs_of_another_size_are_refused() {
    let weights = [0.0; 64];
    let view = MatrixView::new(Weights::F32(&weights), [2, 32], Numerics::Exact);
    view.write_product(&[0.0; 32], Terms::default(), Kernels::Fastest, &mut Vec::new(), &mut [0.0; 3]);
}
