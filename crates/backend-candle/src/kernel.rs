//! Inner loops on slices, in the widest vectors that the processor has: found when the program runs, not when it is built.
//!
//! candle's own product of one row with a matrix runs on one thread and its product of a few rows packs the whole matrix first; these
//! read each weight once, whatever the number of rows. Every width gives the same to within rounding, which the tests hold them to.

mod plain;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::sync::LazyLock;

use crate::float::Float;
use crate::quantize::{BLOCK, Bits, Blocks};
use crate::rounded::{Group, Pair};

/// The most rows of inputs that are multiplied while a weight is in a register.
pub(crate) const MAX_ROWS: usize = 8;

/// The most rounded inputs that meet a tile together.
pub(crate) const PACKED_INPUTS: usize = 6;

/// Rows of weights whose products with some inputs are computed in registers: a tile.
pub(crate) const TILE: usize = 32;

/// A set of instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// What every processor has.
    Plain,
    /// 256 bits, with fused multiply-add and f16.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// The same, with sums of products of bytes in one instruction.
    #[cfg(target_arch = "x86_64")]
    AvxVnni,
    /// 512 bits.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// The same, with sums of products of bytes in one instruction.
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
}

/// A tile of quantised weights as the products of whole numbers take them. Made once, it is used for many inputs.
pub(crate) struct Packed {
    bits: Bits,
    /// Four weights of a row in each number, offset so that they have no sign: `[columns / 4, TILE]`.
    words: Vec<[u32; TILE]>,
    /// `[columns / BLOCK, TILE]`
    scales: Vec<[f32; TILE]>,
}

impl Packed {
    /// Room for rows of `columns` weights.
    pub(crate) fn new(bits: Bits, columns: usize) -> Self {
        Self { bits, words: vec![[0; TILE]; columns / 4], scales: vec![[0.0; TILE]; columns / BLOCK] }
    }
}

impl Level {
    /// The best that this processor has.
    pub(crate) fn detect() -> Self {
        static BEST: LazyLock<Level> = LazyLock::new(|| Level::all().pop().expect("every processor has one"));
        *BEST
    }

    /// Whether products with quantised weights are faster when inputs are [`Rounded`](crate::rounded::Rounded) first: what the bench
    /// `kernels` tells.
    pub(crate) fn rounds(self) -> bool {
        match self {
            Self::Plain => false,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => false,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 | Self::AvxVnni | Self::Avx512Vnni => true,
        }
    }

    /// Every one that this processor has, the best last.
    pub(crate) fn all() -> Vec<Self> {
        let mut levels = vec![Self::Plain];
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c") {
            levels.push(Self::Avx2);
            if is_x86_feature_detected!("avxvnni") {
                levels.push(Self::AvxVnni);
            }
            if is_x86_feature_detected!("avx512f") {
                levels.push(Self::Avx512);
                let bytes = is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512vl");
                if bytes && is_x86_feature_detected!("avx512vnni") {
                    levels.push(Self::Avx512Vnni);
                }
            }
        }
        levels
    }

    /// Each row of `weights`, `[rows, columns]`, times each of `inputs`, `[n, columns]` with `n` up to [`MAX_ROWS`]: `[rows, n]`.
    /// Narrow weights give the same to the bit as when they are widened first.
    pub(crate) fn products<F: Float>(self, weights: &[F], inputs: &[f32], columns: usize, out: &mut [f32]) {
        let n = inputs.len() / columns;
        assert!((1..=MAX_ROWS).contains(&n) && inputs.len() == n * columns, "the inputs are whole rows, and few");
        assert_eq!(weights.len() * n, out.len() * columns, "there is a product for each pair of rows");
        match self {
            Self::Plain => plain::products(weights, inputs, columns, out),
            // SAFETY: a `Level` of this name is only made where the processor has these instructions.
            #[cfg(target_arch = "x86_64")]
            #[expect(unsafe_code, reason = "instructions that not every processor has")]
            Self::Avx2 | Self::AvxVnni => unsafe { x86::avx2::products(weights, inputs, columns, out) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            #[expect(unsafe_code, reason = "instructions that not every processor has")]
            Self::Avx512 | Self::Avx512Vnni => unsafe { x86::avx512::products(weights, inputs, columns, out) },
        }
    }

    /// For each of the columns of `weights`, `[rows, n]` with `n` up to [`MAX_ROWS`], the sum of the rows of `values`, `[rows, width]`,
    /// times their weights: `[n, width]`, added to `out`.
    pub(crate) fn weighted_sums(self, weights: &[f32], values: &[f32], width: usize, out: &mut [f32]) {
        let n = out.len() / width;
        assert!((1..=MAX_ROWS).contains(&n) && out.len() == n * width, "the sums are whole rows, and few");
        assert_eq!(weights.len() * width, values.len() * n, "every row has its weights");
        match self {
            Self::Plain => plain::weighted_sums(weights, values, width, out),
            // SAFETY: a `Level` of this name is only made where the processor has these instructions.
            #[cfg(target_arch = "x86_64")]
            #[expect(unsafe_code, reason = "instructions that not every processor has")]
            Self::Avx2 | Self::AvxVnni => unsafe { x86::avx2::weighted_sums(weights, values, width, out) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            #[expect(unsafe_code, reason = "instructions that not every processor has")]
            Self::Avx512 | Self::Avx512Vnni => unsafe { x86::avx512::weighted_sums(weights, values, width, out) },
        }
    }

    /// The most inputs of a tile.
    pub(crate) fn tile_inputs(self) -> usize {
        match self {
            Self::Plain => 4,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 | Self::AvxVnni => 6,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 | Self::Avx512Vnni => 12,
        }
    }

    /// Adds to `sums`, `[n, TILE]` with `n` up to [`tile_inputs`](Self::tile_inputs), the products of `weights`, `[inner, TILE]`, with
    /// `inputs`, `[inner, n]`.
    pub(crate) fn tile(self, weights: &[f32], inputs: &[f32], sums: &mut [f32]) {
        let n = sums.len() / TILE;
        assert!((1..=self.tile_inputs()).contains(&n) && sums.len() == n * TILE, "the sums are whole rows, and few");
        assert_eq!(weights.len() * n, inputs.len() * TILE, "weights and inputs are of one inner length");
        match self {
            Self::Plain => plain::tile(weights, inputs, sums),
            // SAFETY: a `Level` of this name is only made where the processor has these instructions.
            #[cfg(target_arch = "x86_64")]
            #[expect(unsafe_code, reason = "instructions that not every processor has")]
            Self::Avx2 | Self::AvxVnni => unsafe { x86::tiles::avx2::tile(weights, inputs, sums) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            #[expect(unsafe_code, reason = "instructions that not every processor has")]
            Self::Avx512 | Self::Avx512Vnni => unsafe { x86::tiles::avx512::tile(weights, inputs, sums) },
        }
    }

    /// Turns up to [`TILE`] rows of `inner` values, `stride` apart, into `out`, `[inner, TILE]`; rows that are missing are zeros.
    pub(crate) fn turn(self, rows: &[f32], stride: usize, inner: usize, out: &mut [f32]) {
        let n_rows = (rows.len() - inner) / stride + 1;
        assert!(n_rows <= TILE && inner <= stride && out.len() == inner * TILE, "a tile is as long as its rows");
        let (places, full) = match self {
            Self::Plain => (0, 0),
            // SAFETY: a `Level` of this name is only made where the processor has these instructions.
            #[cfg(target_arch = "x86_64")]
            #[expect(unsafe_code, reason = "instructions that not every processor has")]
            Self::Avx2 | Self::AvxVnni => unsafe { x86::tiles::avx2::turn(rows, stride, inner, out) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            #[expect(unsafe_code, reason = "instructions that not every processor has")]
            Self::Avx512 | Self::Avx512Vnni => unsafe { x86::tiles::avx512::turn(rows, stride, inner, out) },
        };
        for (place, out) in out.chunks_exact_mut(TILE).enumerate() {
            let first = if place < places { full } else { 0 };
            for (row, out) in out.iter_mut().enumerate().skip(first) {
                *out = if row < n_rows { rows[row * stride + place] } else { 0.0 };
            }
        }
    }

    /// As [`products`](Self::products), of quantised weights; `columns` are whole blocks. Inputs are not rounded.
    pub(crate) fn block_products(self, weights: Blocks<'_>, inputs: &[f32], columns: usize, out: &mut [f32]) {
        let n = inputs.len() / columns;
        assert!((1..=MAX_ROWS).contains(&n) && inputs.len() == n * columns, "the inputs are whole rows, and few");
        assert!(columns.is_multiple_of(BLOCK), "a row is whole blocks");
        assert_eq!(weights.scales.len() * BLOCK * n, out.len() * columns, "there is a product for each pair of rows");
        assert_eq!(weights.codes.len(), weights.scales.len() * weights.bits.block_bytes(), "every block has its codes");
        match self {
            Self::Plain => plain::block_products(weights, inputs, columns, out),
            // SAFETY: a `Level` of this name is only made where the processor has these instructions.
            #[cfg(target_arch = "x86_64")]
            #[expect(unsafe_code, reason = "instructions that not every processor has")]
            Self::Avx2 | Self::AvxVnni => unsafe { x86::avx2::block_products(weights, inputs, columns, out) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            #[expect(unsafe_code, reason = "instructions that not every processor has")]
            Self::Avx512 | Self::Avx512Vnni => unsafe { x86::avx512::block_products(weights, inputs, columns, out) },
        }
    }

    /// As [`block_products`](Self::block_products), of rounded inputs in [pairs](crate::rounded::Rounded::pairs).
    pub(crate) fn rounded_products(self, weights: Blocks<'_>, inputs: &[Pair], columns: usize, out: &mut [f32]) {
        let n = inputs.len() / columns.div_ceil(2 * BLOCK);
        assert!(
            (1..=MAX_ROWS).contains(&n) && inputs.len() == n * columns.div_ceil(2 * BLOCK),
            "the inputs are whole rows, and few"
        );
        assert!(columns.is_multiple_of(BLOCK), "a row is whole blocks");
        assert_eq!(weights.scales.len() * BLOCK * n, out.len() * columns, "there is a product for each pair of rows");
        assert_eq!(weights.codes.len(), weights.scales.len() * weights.bits.block_bytes(), "every block has its codes");
        match self {
            Self::Plain => plain::rounded_products(weights, inputs, columns, out),
            // SAFETY: a `Level` of this name is only made where the processor has these instructions.
            #[cfg(target_arch = "x86_64")]
            #[expect(unsafe_code, reason = "instructions that not every processor has")]
            Self::Avx2 | Self::Avx512 => unsafe { x86::bytes::avx2::products(weights, inputs, columns, out) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            #[expect(unsafe_code, reason = "instructions that not every processor has")]
            Self::AvxVnni => unsafe { x86::bytes::avx_vnni::products(weights, inputs, columns, out) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            #[expect(unsafe_code, reason = "instructions that not every processor has")]
            Self::Avx512Vnni => unsafe { x86::vnni::products(weights, inputs, columns, out) },
        }
    }

    /// Writes up to [`TILE`] rows of `per_row` blocks to `packed`, which has room for as many; rows that are missing are zeros.
    pub(crate) fn pack(self, weights: Blocks<'_>, per_row: usize, packed: &mut Packed) {
        let rows = weights.scales.len() / per_row;
        assert!((1..=TILE).contains(&rows) && weights.scales.len() == rows * per_row, "the rows are whole, and few");
        assert_eq!(weights.codes.len(), weights.scales.len() * weights.bits.block_bytes(), "every block has its codes");
        assert!(packed.bits == weights.bits && packed.scales.len() == per_row, "a tile is as long as its rows");
        match self {
            Self::Plain => plain::pack(weights, per_row, packed),
            // SAFETY: a `Level` of this name is only made where the processor has these instructions.
            #[cfg(target_arch = "x86_64")]
            #[expect(unsafe_code, reason = "instructions that not every processor has")]
            Self::Avx2 | Self::Avx512 => unsafe { x86::bytes::avx2::pack(weights, per_row, packed) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            #[expect(unsafe_code, reason = "instructions that not every processor has")]
            Self::AvxVnni => unsafe { x86::bytes::avx_vnni::pack(weights, per_row, packed) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            #[expect(unsafe_code, reason = "instructions that not every processor has")]
            Self::Avx512Vnni => unsafe { x86::vnni::pack(weights, per_row, packed) },
        }
    }

    /// The products of a tile with each of up to [`PACKED_INPUTS`] inputs.
    pub(crate) fn packed_products(self, packed: &Packed, inputs: &Group, out: &mut [[f32; TILE]]) {
        assert!((1..=PACKED_INPUTS).contains(&inputs.n) && out.len() == inputs.n, "the inputs are few");
        let n_blocks = packed.scales.len() * inputs.n;
        assert!(inputs.scales.len() == n_blocks && inputs.below.len() == n_blocks, "inputs are as long as rows");
        assert_eq!(inputs.words.len() * BLOCK, n_blocks * BLOCK * BLOCK / 4, "every block has its codes");
        match self {
            Self::Plain => plain::packed_products(packed, inputs, out),
            // SAFETY: a `Level` of this name is only made where the processor has these instructions.
            #[cfg(target_arch = "x86_64")]
            #[expect(unsafe_code, reason = "instructions that not every processor has")]
            Self::Avx2 | Self::Avx512 => unsafe { x86::bytes::avx2::packed_products(packed, inputs, out) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            #[expect(unsafe_code, reason = "instructions that not every processor has")]
            Self::AvxVnni => unsafe { x86::bytes::avx_vnni::packed_products(packed, inputs, out) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            #[expect(unsafe_code, reason = "instructions that not every processor has")]
            Self::Avx512Vnni => unsafe { x86::vnni::packed_products(packed, inputs, out) },
        }
    }
}

#[cfg(test)]
mod tests;
