//! Inner loops on slices, for the widest vectors of the processor that runs them: AVX-512, AVX2, NEON or plain Rust.
//!
//! candle's own product of one row with a matrix runs on one thread, and its product of a few rows packs the whole matrix first; these
//! read each weight once, whatever the number of rows. All instruction sets agree to within rounding, which the tests check.
//!
//! A few rows of inputs (up to [`MAX_ROWS`]) meet each weight while it is in a register, in 32, 16, 8 or 4 bits. On x86-64 weights are
//! prefetched, because rows are too short for the processor's own prefetcher. Each input has the bits that it has alone. One row of inputs goes through one row of weights after the other
//! where vectors are wide enough or weights are floats, because memory is read fastest in one stream. Many rows go through tiles, see
//! [`product`](crate::product). Products of quantised weights with quantised activations are sums of integers: with VNNI of 512 bits
//! (`x86::vnni`) or 256 bits, or with AVX2 alone (`x86::bytes`); on AArch64 with products of matrices (`neon::i8mm`), dot products or NEON alone
//! (`neon::bytes`).

#[cfg(target_arch = "aarch64")]
mod neon;
mod pairs;
mod plain;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use self::pairs::PairProducts;
use crate::float::Float;
use crate::isa::Isa;
use crate::quantize::{BLOCK, Blocks};
use crate::quantized_activations::{BlockPair, RowGroup};
use crate::strips::{Layout, STRIP, Word};
use crate::tiles::{Lanes, MAX_ROWS, PACKED_INPUTS, PackedTile, TILE};

/// Calls the implementation of a kernel for an instruction set: `floats` differ by the width of vectors, `integers` by the instructions
/// for products of bytes.
macro_rules! dispatch {
    (floats: $isa:ident, $kernel:ident $arguments:tt) => {
        dispatch!($isa, $kernel $arguments,
            "x86_64" Avx2 | AvxVnni => x86::avx2, "x86_64" Avx512 | Avx512Vnni => x86::avx512,
            "aarch64" Neon | NeonDotprod | NeonI8mm => neon::floats)
    };
    (integers: $isa:ident, $kernel:ident $arguments:tt) => {
        dispatch!($isa, $kernel $arguments,
            "x86_64" Avx2 | Avx512 => x86::bytes::avx2, "x86_64" AvxVnni => x86::bytes::avx_vnni, "x86_64" Avx512Vnni => x86::vnni,
            "aarch64" Neon => neon::bytes::widening, "aarch64" NeonDotprod => neon::bytes::dotprod, "aarch64" NeonI8mm => neon::i8mm)
    };
    ($isa:ident, $kernel:ident $arguments:tt, $($processor:literal $($name:ident)|+ => $($module:ident)::+),+) => {
        match $isa {
            Isa::Plain => plain::$kernel $arguments,
            $(
                // SAFETY: every `Isa` but `Plain` comes from `Isa::all`, which has checked that the processor has its instructions.
                #[cfg(target_arch = $processor)]
                #[expect(unsafe_code, reason = "not every processor has these instructions")]
                $(Isa::$name)|+ => unsafe { $($module)::+::$kernel $arguments },
            )+
        }
    };
}

/// In which order the products of blocks are added up, which decides the last bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SumOrder {
    /// To several sums in turns, as [`integer_products`](Isa::integer_products) does.
    InTurns,
    /// Each to the sum of those before it, as [`packed_products`](Isa::packed_products) does.
    OneAfterTheOther,
}

impl Blocks<'_> {
    /// Writes all weights to `out`, `[blocks, BLOCK]`, on the calling thread: each an integer times its scale, rounded once.
    ///
    /// # Panics
    /// For another number of codes, scales or weights.
    pub fn dequantize(self, out: &mut [f32]) {
        Isa::current().dequantize(self, out);
    }
}

impl Isa {
    /// See [`Blocks::dequantize`].
    pub(crate) fn dequantize(self, weights: Blocks<'_>, out: &mut [f32]) {
        assert_eq!(weights.codes.len(), weights.scales.len() * weights.bits.block_bytes(), "every block has its codes");
        assert_eq!(weights.scales.len() * BLOCK, out.len(), "every weight is written");
        dispatch!(floats: self, dequantize(weights, out))
    }

    /// Each row of `weights`, `[rows, columns]`, times each of `inputs`, `[n, columns]` with `n` up to [`MAX_ROWS`]: `[rows, n]`.
    /// f16 and bf16 weights give bit-identical results to the same weights in f32.
    pub(crate) fn products<F: Float>(self, weights: &[F], inputs: &[f32], columns: usize, out: &mut [f32]) {
        let n = inputs.len() / columns;
        assert!((1..=MAX_ROWS).contains(&n) && inputs.len() == n * columns, "the inputs are whole rows, and few");
        assert_eq!(weights.len() * n, out.len() * columns, "there is a product for each pair of rows");
        dispatch!(floats: self, products(weights, inputs, columns, out))
    }

    /// As [`products`](Self::products), of many short rows, such as keys: in another order of additions where that is faster, which is with f16
    /// and 512 bits.
    pub(crate) fn scores<F: Float>(self, keys: &[F], queries: &[f32], head_dim: usize, out: &mut [f32]) {
        #[cfg(target_arch = "x86_64")]
        if let (Some(halves), Self::Avx512 | Self::Avx512Vnni) = (F::halves(keys), self)
            && head_dim.is_multiple_of(x86::scores::TOGETHER)
        {
            let n = queries.len() / head_dim;
            assert!((1..=MAX_ROWS).contains(&n) && queries.len() == n * head_dim, "the queries are whole rows, and few");
            assert_eq!(keys.len() * n, out.len() * head_dim, "there is a product for each pair of rows");
            // SAFETY: `Isa::all` has checked that the processor has AVX-512.
            #[expect(unsafe_code, reason = "not every processor has these instructions")]
            unsafe {
                x86::scores::avx512(halves, queries, head_dim, out);
            }
            return;
        }
        self.products(keys, queries, head_dim, out);
    }

    /// Writes f16 `values` to `out`, which is as long, unless the instruction set is that of the plain kernels: whether it did is the result.
    #[cfg(target_arch = "aarch64")]
    pub(crate) fn widen_halves(self, values: &[half::f16], out: &mut [f32]) -> bool {
        assert_eq!(values.len(), out.len(), "every value is written");
        if self != Self::Plain {
            // SAFETY: every `Isa` but `Plain` comes from `Isa::all`, which has checked that the processor has its instructions.
            #[expect(unsafe_code, reason = "the functions are for processors with these instructions")]
            unsafe {
                neon::halves::widen(values, out);
            }
        }
        self != Self::Plain
    }

    /// As [`widen_halves`](Self::widen_halves), the other way: rounded to the nearest, ties to even.
    #[cfg(target_arch = "aarch64")]
    pub(crate) fn narrow_to_halves(self, values: &[f32], out: &mut [half::f16]) -> bool {
        assert_eq!(values.len(), out.len(), "every value is written");
        if self != Self::Plain {
            // SAFETY: every `Isa` but `Plain` comes from `Isa::all`, which has checked that the processor has its instructions.
            #[expect(unsafe_code, reason = "the functions are for processors with these instructions")]
            unsafe {
                neon::halves::narrow(values, out);
            }
        }
        self != Self::Plain
    }

    /// For each of the columns of `weights`, `[rows, n]` with `n` up to [`MAX_ROWS`], the sum of the rows of `values`, `[rows, width]`,
    /// times their weights: `[n, width]`, added to `out`. f16 and bf16 values give bit-identical results to the same values in f32.
    pub(crate) fn weighted_sums<F: Float>(self, weights: &[f32], values: &[F], width: usize, out: &mut [f32]) {
        let n = out.len() / width;
        assert!((1..=MAX_ROWS).contains(&n) && out.len() == n * width, "the sums are whole rows, and few");
        assert_eq!(weights.len() * width, values.len() * n, "every row has its weights");
        dispatch!(floats: self, weighted_sums(weights, values, width, out))
    }

    /// Adds to `out`, `[n, TILE]`, the products of `tiles`, `[n, inner, TILE]`, with `inputs`, `[inner]`.
    pub(crate) fn add_tiles<F: Float>(self, tiles: &[F], inputs: &[f32], out: &mut [f32]) {
        assert!(out.len().is_multiple_of(TILE) && !inputs.is_empty(), "the outputs are whole tiles");
        assert_eq!(tiles.len(), inputs.len() * out.len(), "each tile is as long as the inputs");
        dispatch!(floats: self, add_tiles(tiles, inputs, out))
    }

    /// Adds to `sums`, `[n, TILE]` with `n` up to [`tile_inputs`](Self::tile_inputs), the products of `weights`, `[inner, TILE]`, with
    /// `inputs`, `[inner, n]`.
    pub(crate) fn tile(self, weights: &[f32], inputs: &[f32], sums: &mut [f32]) {
        let n = sums.len() / TILE;
        assert!((1..=self.tile_inputs()).contains(&n) && sums.len() == n * TILE, "the sums are whole rows, and few");
        assert_eq!(weights.len() * n, inputs.len() * TILE, "weights and inputs are of one inner length");
        dispatch!(floats: self, tile(weights, inputs, sums))
    }

    /// As [`tile`](Self::tile), of columns that are not weights, `[inner, TILE]`: the inputs are the first of each row of `inputs`,
    /// `[inner, stride]`, and `lanes` are computed. A lane has the same bits whatever `lanes` and the number of inputs.
    pub(crate) fn columns_tile(self, columns: &[f32], inputs: &[f32], stride: usize, lanes: Lanes, sums: &mut [f32]) {
        let n = sums.len() / TILE;
        assert!((1..=self.tile_inputs()).contains(&n) && sums.len() == n * TILE, "the sums are whole rows, and few");
        assert!(
            n <= stride && columns.len() / TILE == inputs.len().div_ceil(stride),
            "columns and inputs are of one inner length"
        );
        dispatch!(floats: self, columns_tile(columns, inputs, stride, lanes, sums))
    }

    /// Transposes up to [`TILE`] rows of `inner` values, `stride` apart, into `out`, `[inner, TILE]`; missing rows become zeros.
    pub(crate) fn transpose(self, rows: &[f32], stride: usize, inner: usize, out: &mut [f32]) {
        let n_rows = (rows.len() - inner) / stride + 1;
        assert!(n_rows <= TILE && inner <= stride && out.len() == inner * TILE, "a tile is as long as its rows");
        let (whole_columns, whole_rows) = dispatch!(floats: self, transpose(rows, stride, inner, out));
        for (column, out) in out.chunks_exact_mut(TILE).enumerate() {
            let first = if column < whole_columns { whole_rows } else { 0 };
            for (row, out) in out.iter_mut().enumerate().skip(first) {
                *out = if row < n_rows { rows[row * stride + column] } else { 0.0 };
            }
        }
    }

    /// As [`products`](Self::products), of quantised weights with f32 inputs; `columns` are whole blocks.
    pub(crate) fn block_products(self, weights: Blocks<'_>, inputs: &[f32], columns: usize, out: &mut [f32]) {
        let n = inputs.len() / columns;
        assert!((1..=MAX_ROWS).contains(&n) && inputs.len() == n * columns, "the inputs are whole rows, and few");
        assert!(columns.is_multiple_of(BLOCK), "a row is whole blocks");
        assert_eq!(weights.scales.len() * BLOCK * n, out.len() * columns, "there is a product for each pair of rows");
        assert_eq!(weights.codes.len(), weights.scales.len() * weights.bits.block_bytes(), "every block has its codes");
        dispatch!(floats: self, block_products(weights, inputs, columns, out))
    }

    /// As [`block_products`](Self::block_products), with quantised inputs in
    /// [pairs](crate::quantized_activations::QuantizedActivations::pairs).
    pub(crate) fn integer_products(self, weights: Blocks<'_>, inputs: &[BlockPair], columns: usize, out: &mut [f32]) {
        let n = inputs.len() / columns.div_ceil(2 * BLOCK);
        assert!(
            (1..=MAX_ROWS).contains(&n) && inputs.len() == n * columns.div_ceil(2 * BLOCK),
            "the inputs are whole rows, and few"
        );
        assert!(columns.is_multiple_of(BLOCK), "a row is whole blocks");
        assert_eq!(weights.scales.len() * BLOCK * n, out.len() * columns, "there is a product for each pair of rows");
        assert_eq!(weights.codes.len(), weights.scales.len() * weights.bits.block_bytes(), "every block has its codes");
        dispatch!(integers: self, integer_products(weights, inputs, columns, out))
    }

    /// Whether there are kernels of weights in [strips](Layout::Strips), which are faster than those of rows.
    pub(crate) fn has_strips(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => true,
            _ => false,
        }
    }

    /// Writes the words of the sixteen rows of `rows` to `strip`, side by side.
    pub(crate) fn interleave(self, rows: &[Word], strip: &mut [Word]) {
        let n = rows.len() / STRIP;
        assert!(rows.len() == n * STRIP && strip.len() == rows.len(), "a strip is as large as its rows");
        let done = match self {
            // SAFETY: every `Isa` but `Plain` comes from `Isa::all`, which has checked that the processor has its instructions.
            #[cfg(target_arch = "x86_64")]
            #[expect(unsafe_code, reason = "not every processor has these instructions")]
            Self::Avx512 | Self::Avx512Vnni => unsafe { x86::strips::interleave(rows, strip) },
            _ => 0,
        };
        for (i, sixteen) in strip.as_chunks_mut::<STRIP>().0.iter_mut().enumerate().skip(done) {
            for (row, word) in sixteen.iter_mut().enumerate() {
                *word = rows[row * n + i];
            }
        }
    }

    /// The products of weights that lie as `layout` says, whole strips but for the last rows, with up to [`MAX_ROWS`] inputs: a slice of `out` for
    /// each. Only instruction sets that [have strips](Self::has_strips) have it.
    pub(crate) fn group_products(
        self,
        weights: (Blocks<'_>, Layout),
        sums: SumOrder,
        inputs: &RowGroup<'_>,
        out: &mut [&mut [f32]],
    ) {
        let (blocks, n_blocks) = (weights.0, inputs.scales.len() / inputs.n);
        assert!((1..=MAX_ROWS).contains(&inputs.n), "the inputs are few");
        assert_eq!(out.len(), inputs.n, "there are products of each input");
        let whole = inputs.words.len() * 4 == inputs.n * n_blocks * BLOCK && inputs.correction.len() == inputs.n * n_blocks;
        assert!(whole, "every block has its codes");
        let fits = |out: &&mut [f32]| !out.is_empty() && blocks.scales.len() == out.len() * n_blocks;
        assert!(out.iter().all(fits), "there is a product for each pair of rows");
        assert_eq!(blocks.codes.len(), blocks.scales.len() * blocks.bits.block_bytes(), "every block has its codes");
        match self {
            // SAFETY: every `Isa` but `Plain` comes from `Isa::all`, which has checked that the processor has its instructions.
            #[cfg(target_arch = "x86_64")]
            #[expect(unsafe_code, reason = "not every processor has these instructions")]
            Self::Avx512Vnni => unsafe { x86::strips::group_products(weights, sums, inputs, out) },
            _ => unreachable!("this instruction set has no kernels of strips"),
        }
    }

    /// Packs up to [`TILE`] rows of `per_row` blocks into `packed`; missing rows become zeros.
    pub(crate) fn pack(self, weights: Blocks<'_>, per_row: usize, packed: &mut PackedTile) {
        let rows = weights.scales.len() / per_row;
        assert!((1..=TILE).contains(&rows) && weights.scales.len() == rows * per_row, "the rows are whole, and few");
        assert_eq!(weights.codes.len(), weights.scales.len() * weights.bits.block_bytes(), "every block has its codes");
        assert!(packed.bits == weights.bits && packed.scales.len() == per_row, "a tile is as long as its rows");
        dispatch!(integers: self, pack(weights, per_row, packed))
    }

    /// Adds the products of the `lanes` of a tile with each of up to [`PACKED_INPUTS`] inputs to `out`.
    pub(crate) fn packed_products(self, packed: &PackedTile, inputs: &RowGroup<'_>, lanes: Lanes, out: &mut [[f32; TILE]]) {
        assert!((1..=PACKED_INPUTS).contains(&inputs.n) && out.len() == inputs.n, "the inputs are few");
        let n_blocks = packed.scales.len() * inputs.n;
        assert!(inputs.scales.len() == n_blocks && inputs.correction.len() == n_blocks, "inputs are as long as rows");
        assert_eq!(inputs.words.len() * BLOCK, n_blocks * BLOCK * BLOCK / 4, "every block has its codes");
        dispatch!(integers: self, packed_products(packed, inputs, lanes, out))
    }
}

#[cfg(test)]
mod tests;
