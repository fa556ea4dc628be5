//! Quantised products against the plain kernels, to the bit; the tests of all levels compare the rest with f64.

use crate::isa::Isa;
use crate::quantize::{BLOCK, Bits, Blocks};
use crate::quantized_activations::QuantizedActivations;
use crate::tiles::{Lanes, MAX_ROWS, PACKED_INPUTS, PackedTile, TILE};

/// Any codes, also such as no checkpoint has, with scales of different sizes.
struct Weights {
    bits: Bits,
    codes: Vec<u8>,
    scales: Vec<f32>,
}

impl Weights {
    fn new(bits: Bits, blocks: usize) -> Self {
        let mut state = 7_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        let codes = (0..blocks * bits.block_bytes()).map(|_| next()).collect();
        let scales = (0..blocks).map(|_| (f32::from(next()) - 100.0) * 1.7e-3).collect();
        Self { bits, codes, scales }
    }

    fn blocks(&self) -> Blocks<'_> {
        Blocks { bits: self.bits, codes: &self.codes, scales: &self.scales }
    }
}

fn inputs(n: usize, columns: usize) -> QuantizedActivations {
    let value = |i: usize| ((i * i) as f32 * 0.37).sin() * [1.0, 1e-3, 40.0, 0.0][i / BLOCK % 4];
    QuantizedActivations::new(&(0..n * columns).map(value).collect::<Vec<_>>(), columns)
}

/// Rows and blocks of every remainder.
const SHAPES: [(usize, usize); 7] = [(1, 1), (2, 2), (3, 5), (4, 28), (5, 3), (31, 4), (32, 7)];

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn every_level_has_the_integer_products_of_plain_rust() {
    assert!(Isa::all().contains(&Isa::Neon), "every processor has NEON");
    for (bits_of_weights, (rows, per_row)) in
        [Bits::Eight, Bits::Four].into_iter().flat_map(|bits| SHAPES.map(|shape| (bits, shape)))
    {
        let weights = Weights::new(bits_of_weights, rows * per_row);
        let columns = per_row * BLOCK;
        for n in 1..=MAX_ROWS {
            let pairs = inputs(n, columns).pairs(bits_of_weights.offset());
            let products = |isa: Isa| {
                let mut out = vec![f32::NAN; rows * n];
                isa.integer_products(weights.blocks(), &pairs, columns, &mut out);
                bits(&out)
            };
            let expected = products(Isa::Plain);
            for isa in Isa::all() {
                assert_eq!(products(isa), expected, "{isa:?} {bits_of_weights:?} {rows}x{per_row} {n}");
            }
        }
    }
}

#[test]
fn every_level_has_the_packed_products_of_plain_rust() {
    for (bits_of_weights, (rows, per_row)) in
        [Bits::Eight, Bits::Four].into_iter().flat_map(|bits| SHAPES.map(|shape| (bits, shape)))
    {
        let weights = Weights::new(bits_of_weights, rows * per_row);
        let columns = per_row * BLOCK;
        let packed = |isa: Isa| {
            let mut packed = PackedTile::new(bits_of_weights, columns);
            isa.pack(weights.blocks(), per_row, &mut packed);
            packed
        };
        let plain = packed(Isa::Plain);
        for isa in Isa::all() {
            let own = packed(isa);
            assert_eq!((own.words, own.scales), (plain.words.clone(), plain.scales.clone()), "{isa:?} {bits_of_weights:?}");
        }
        for (n, lanes) in (1..=PACKED_INPUTS).flat_map(|n| [(n, Lanes::All), (n, Lanes::Half)]) {
            let groups = inputs(n, columns).groups(bits_of_weights.offset(), PACKED_INPUTS);
            let products = |isa: Isa| {
                let mut out = vec![[0.3; TILE]; n];
                isa.packed_products(&plain, &groups[0], lanes, &mut out);
                bits(out.as_flattened())
            };
            let expected = products(Isa::Plain);
            for isa in Isa::all() {
                assert_eq!(products(isa), expected, "{isa:?} {bits_of_weights:?} {rows}x{per_row} {n} {lanes:?}");
            }
        }
    }
}

#[test]
fn every_level_dequantizes_as_plain_rust() {
    for bits_of_weights in [Bits::Eight, Bits::Four] {
        let weights = Weights::new(bits_of_weights, 9);
        let floats = |isa: Isa| {
            let mut out = vec![f32::NAN; 9 * BLOCK];
            isa.dequantize(weights.blocks(), &mut out);
            bits(&out)
        };
        for isa in Isa::all() {
            assert_eq!(floats(isa), floats(Isa::Plain), "{isa:?} {bits_of_weights:?}");
        }
    }
}

/// The environment variable of `cargo xtask check-aarch64`, which names the instruction set that the emulated processor has.
#[test]
fn the_processor_has_the_expected_instructions() {
    let Some(expected) = std::env::var_os("TANDEM_EXPECTED_ISA") else { return };
    let best = Isa::all().pop().map(|isa| isa.to_string());
    assert_eq!(best.as_deref().map(std::ffi::OsStr::new), Some(expected.as_os_str()));
}
