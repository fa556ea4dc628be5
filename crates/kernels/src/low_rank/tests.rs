//! The update against its definition in double precision, on every instruction set.

use super::*;
use crate::quantized_activations::QuantizedActivations;

/// Outputs and inputs of a matrix, whose modules do not end at tiles.
const ROWS: usize = 150;
const COLUMNS: usize = 320;

fn numbers(n: usize, seed: usize) -> Vec<f32> {
    (0..n).map(|i| (((i * i + 7 * i + seed * 131) % 997) as f32 * 0.71).sin()).collect()
}

fn module(rows: Range<usize>, rank: usize, has_gain: bool) -> (Range<usize>, ModuleUpdate) {
    let n = rows.len();
    let gain = has_gain.then(|| numbers(n, rank + 2).iter().map(|value| 1.0 + 0.1 * value).collect());
    (rows, ModuleUpdate { rank, a: numbers(rank * COLUMNS, rank), b: numbers(n * rank, rank + 1), gain })
}

/// Three modules of which the second has two updates, one of them together with the first, and the rest has none.
fn updates() -> Vec<(Range<usize>, ModuleUpdate)> {
    vec![module(0..70, 16, false), module(70..90, 3, true), module(0..90, 35, true), module(121..140, 1, false)]
}

/// `gain ∘ product + B (A x)` in double precision, for `x` and products of any number of rows.
fn expected(updates: &[(Range<usize>, ModuleUpdate)], x: &[f32], products: &[f32]) -> Vec<f64> {
    let of = |row: usize, x: &[f32], product: f32| {
        let own = || updates.iter().filter(|(rows, _)| rows.contains(&row));
        let gain = own().filter_map(|(rows, update)| Some(f64::from(update.gain.as_ref()?[row - rows.start]) - 1.0));
        let low = own().map(|(rows, update)| {
            let b = &update.b[(row - rows.start) * update.rank..][..update.rank];
            let a = update.a.chunks(COLUMNS);
            a.zip(b).map(|(a, b)| f64::from(*b) * dot(a, x)).sum::<f64>()
        });
        (1.0 + gain.sum::<f64>()) * f64::from(product) + low.sum::<f64>()
    };
    let rows = x.chunks(COLUMNS).zip(products.chunks(ROWS));
    rows.flat_map(|(x, products)| products.iter().enumerate().map(move |(row, product)| of(row, x, *product))).collect()
}

fn dot(left: &[f32], right: &[f32]) -> f64 {
    left.iter().zip(right).map(|(left, right)| f64::from(*left) * f64::from(*right)).sum()
}

fn on(isa: Isa, narrow: bool) -> Update {
    Update { isa, ..Update::new(updates(), [ROWS, COLUMNS], narrow, &Arena::default()) }
}

#[track_caller]
fn close(computed: &[f32], expected: &[f64], narrow: bool, what: &str) {
    let scale = expected.iter().fold(0.0_f64, |most, value| most.max(value.abs()));
    let allowed = if narrow { 1e-3 } else { 1e-6 };
    for (computed, expected) in computed.iter().zip(expected) {
        assert!((f64::from(*computed) - expected).abs() <= allowed * scale, "{what}: {computed} {expected} of {scale}");
    }
}

#[test]
fn few_rows_match_f64() {
    for isa in Isa::all() {
        for narrow in [false, true] {
            let update = on(isa, narrow);
            for n in [1, 2, 5, 8] {
                let (x, products) = (numbers(n * COLUMNS, n), numbers(n * ROWS, n + 9));
                let shared = Shared::new(&update, Inputs::Floats(&x));
                // Tasks of 64 rows, of which the second begins alone.
                shared.compute();
                let mut out = vec![0.0; n * ROWS];
                for (i, out) in out.chunks_mut(64 * n).enumerate() {
                    let rows = i * 64..i * 64 + out.len() / n;
                    for (row, out) in rows.clone().zip(out.chunks_mut(n)) {
                        out.iter_mut().enumerate().for_each(|(i, out)| *out = products[i * ROWS + row]);
                    }
                    shared.apply(&rows, out);
                }
                let by_input: Vec<f32> =
                    (0..n).flat_map(|i| out.iter().skip(i).step_by(n).copied().collect::<Vec<_>>()).collect();
                close(&by_input, &expected(&updates(), &x, &products), narrow, &format!("{isa:?}, {n} rows, narrow: {narrow}"));
                for (i, own) in by_input.chunks(ROWS).enumerate() {
                    let shared = Shared::new(&update, Inputs::Floats(&x[i * COLUMNS..(i + 1) * COLUMNS]));
                    shared.compute();
                    let mut alone = products[i * ROWS..(i + 1) * ROWS].to_vec();
                    shared.apply(&(0..ROWS), &mut alone);
                    assert!(own == alone, "{isa:?}, row {i} of {n}, narrow: {narrow}");
                }
            }
        }
    }
}

#[test]
fn tiles_match_f64_and_do_not_depend_on_the_other_rows() {
    for isa in Isa::all() {
        for narrow in [false, true] {
            let update = on(isa, narrow);
            let size = isa.tile_inputs();
            let apply = |x: &[f32], products: &[f32]| {
                let n = x.len() / COLUMNS;
                let low = update.low(x, size);
                let mut out = vec![0.0; n * ROWS];
                for first in (0..ROWS).step_by(TILE) {
                    let (tile, lanes) = (low.tile(first), TILE.min(ROWS - first));
                    for group in 0..n.div_ceil(size) {
                        let own = group * size..n.min((group + 1) * size);
                        let mut sums = vec![0.0; own.len() * TILE];
                        for (i, sums) in own.clone().zip(sums.chunks_mut(TILE)) {
                            sums[..lanes].copy_from_slice(&products[i * ROWS + first..][..lanes]);
                        }
                        tile.apply(group, &mut sums);
                        for (i, sums) in own.zip(sums.chunks(TILE)) {
                            out[i * ROWS + first..][..lanes].copy_from_slice(&sums[..lanes]);
                        }
                    }
                }
                out
            };
            let n = 75;
            let (x, products) = (numbers(n * COLUMNS, 3), numbers(n * ROWS, 4));
            let together = apply(&x, &products);
            close(&together, &expected(&updates(), &x, &products), narrow, &format!("{isa:?}, narrow: {narrow}"));
            for n in [1, 2, 31, 33] {
                assert_eq!(apply(&x[..n * COLUMNS], &products[..n * ROWS]), together[..n * ROWS], "{isa:?}, {n} rows");
            }
        }
    }
}

#[test]
fn quantised_rows_match_f64_and_do_not_depend_on_the_other_rows() {
    let columns = 9 * BLOCK;
    let mut updates = updates();
    updates.iter_mut().for_each(|(_, update)| update.a = numbers(update.rank * columns, update.rank));
    for (isa, bits) in Isa::all().into_iter().flat_map(|isa| [(isa, Bits::Four), (isa, Bits::Eight)]) {
        let update = Update { isa, ..Update::new(updates.clone(), [ROWS, columns], true, &Arena::default()) };
        let low = |x: &[f32]| {
            let groups = QuantizedActivations::new(x, columns).groups(bits.offset(), PACKED_INPUTS);
            update.low_of_groups(&groups, 2 * PACKED_INPUTS, bits).values
        };
        let n = 4 * PACKED_INPUTS + 1;
        let x = numbers(n * columns, 3);
        let (together, rank) = (low(&x), update.rank());
        // The values of the last row, which is alone in its group.
        let rounded = QuantizedActivations::new(&x, columns).widened();
        let own = &rounded[(n - 1) * columns..];
        let expected: Vec<f64> = updates.iter().flat_map(|(_, update)| update.a.chunks(columns)).map(|a| dot(a, own)).collect();
        let computed: Vec<f32> = together[(n - 1) * rank..].to_vec();
        let undone: Vec<f32> = computed.iter().zip(of_b(&updates)).map(|(value, power)| value / power).collect();
        let largest = expected.iter().fold(0.0_f64, |most, value| most.max(value.abs()));
        for (computed, expected) in undone.iter().zip(&expected) {
            assert!((f64::from(*computed) - expected).abs() <= 1e-4 * largest, "{isa:?}, {bits:?}: {computed} {expected}");
        }
        assert_eq!(low(&x[(n - 1) * columns..]), computed, "{isa:?}, {bits:?}: alone");
        let pairs = QuantizedActivations::new(&x[(n - 1) * columns..], columns).pairs(Bits::Eight.offset());
        let shared = Shared::new(&update, Inputs::Pairs(&pairs));
        shared.compute();
        let few: Vec<f32> = shared.values.iter().map(|value| f32::from_bits(value.load(Ordering::Relaxed))).collect();
        let most = computed.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
        assert!(few.iter().zip(&computed).all(|(a, b)| (a - b).abs() <= 1e-6 * most), "{isa:?}, {bits:?}: {few:?} {computed:?}");
    }
}

/// The powers of two by which columns of `B` are divided.
fn of_b(updates: &[(Range<usize>, ModuleUpdate)]) -> Vec<f32> {
    let of = |update: &ModuleUpdate| {
        let (mut before, mut after) = (update.clone(), update.clone());
        normalize(&mut after, before.a.len() / before.rank);
        before.b.truncate(before.rank);
        before.b.iter().zip(&after.b).map(|(before, after)| before / after).collect::<Vec<_>>()
    };
    updates.iter().flat_map(|(_, update)| of(update)).collect()
}

#[test]
fn narrow_factors_keep_small_values() {
    // Below what f16 represents, as factors are after few steps of training.
    let mut update = module(0..ROWS, 4, false).1;
    update.b.iter_mut().for_each(|value| *value *= 1e-9);
    update.a.iter_mut().for_each(|value| *value *= 1e3);
    let updates = vec![(0..ROWS, update)];
    let (x, products) = (numbers(COLUMNS, 1), vec![0.0; ROWS]);
    let narrow = Update::new(updates.clone(), [ROWS, COLUMNS], true, &Arena::default());
    let mut out = products.clone();
    let shared = Shared::new(&narrow, Inputs::Floats(&x));
    shared.compute();
    out.chunks_mut(TILE).enumerate().for_each(|(i, out)| shared.apply(&(i * TILE..i * TILE + out.len()), out));
    close(&out, &expected(&updates, &x, &products), true, "small factors");
}

/// Another adapted model costs its factors: of queries, keys and values in the shape of Qwen2.5-0.5B, in f32 and, beside quantised weights, `A` in
/// twice 8 bits, each with a scale of 4 bytes for 32, and `B` in 16 bits.
#[test]
fn an_update_takes_its_factors() {
    let (columns, rank) = (896, 16);
    let rows = [0..896, 896..1024, 1024..1152];
    let updates = rows.map(|rows| {
        let (a, b) = (numbers(rank * columns, 1), numbers(rows.len() * rank, 2));
        (rows, ModuleUpdate { rank, a, b, gain: None })
    });
    let (a, b) = (3 * rank * columns, 1152 * rank);
    for (narrow, expected) in [(false, 4 * (a + b)), (true, 2 * (a + a / BLOCK * 4) + 2 * b)] {
        let update = Update::new(updates.to_vec(), [1152, columns], narrow, &Arena::default());
        let taken = update.bytes();
        assert!((expected..=expected + expected / 20).contains(&taken), "narrow {narrow}: {taken} bytes for {expected}");
    }
}
