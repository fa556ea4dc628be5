//! A factor `A` beside quantised weights, in twice 8 bits: what the first integers round off is in second ones. So it keeps more than f16 would, and
//! the kernels of weights multiply it with inputs that are quantised already.

use std::ops::Range;

use tandem_core::arena::{Arena, Slab};

use crate::isa::Isa;
use crate::quantize::{BLOCK, Bits, Blocks};
use crate::tiles::{PackedTile, TILE};

/// Ranks of a part, which has each twice and so fills a tile.
pub(super) const HALF: usize = TILE / 2;

/// The rows of `A`, in parts of [`HALF`]: the first integers of all rows of a part, then the second.
pub(super) struct Integers {
    rank: usize,
    columns: usize,
    /// `[2 * rank, columns]`
    codes: Slab<u8>,
    /// `[2 * rank, columns / BLOCK]`
    scales: Slab<f32>,
}

impl Integers {
    /// Of `a`, `[rank, columns]`, whose rows are whole blocks.
    pub(super) fn of(a: &[f32], columns: usize, arena: &Arena) -> Self {
        let (mut codes, mut scales) = (arena.zeros(2 * a.len()), arena.zeros(2 * a.len() / BLOCK));
        let parts = codes.chunks_mut(TILE * columns).zip(scales.chunks_mut(TILE * columns / BLOCK));
        for ((codes, scales), rows) in parts.zip(a.chunks(HALF * columns)) {
            let mut rest = rows.to_vec();
            for (codes, scales) in codes.chunks_mut(rows.len()).zip(scales.chunks_mut(rows.len() / BLOCK)) {
                let blocks = rest.as_chunks_mut::<BLOCK>().0.iter_mut();
                for ((values, codes), scale) in blocks.zip(codes.as_chunks_mut::<BLOCK>().0).zip(scales) {
                    *scale = round(values, codes);
                }
            }
        }
        Self { rank: a.len() / columns, columns, codes, scales }
    }

    pub(super) fn bytes(&self) -> usize {
        self.codes.len() + size_of_val(&*self.scales)
    }

    /// The first and the second integers of `ranks`, which are of one part: their sum is `A`.
    pub(super) fn rows(&self, ranks: Range<usize>) -> [Blocks<'_>; 2] {
        let part = ranks.start / HALF * HALF;
        let n = HALF.min(self.rank - part);
        [0, n].map(|skipped| {
            let first = 2 * part + skipped + ranks.start - part;
            self.all().rows(first..first + ranks.len(), self.columns)
        })
    }

    /// A tile for each part, as long as a row: the first integers, then the second.
    pub(super) fn tiles(&self, isa: Isa) -> Vec<PackedTile> {
        let per_row = self.columns / BLOCK;
        let starts = (0..2 * self.rank).step_by(TILE);
        let tile = |start: usize| {
            let mut tile = PackedTile::new(Bits::Eight, self.columns);
            isa.pack(self.all().rows(start..(2 * self.rank).min(start + TILE), self.columns), per_row, &mut tile);
            tile
        };
        starts.map(tile).collect()
    }

    fn all(&self) -> Blocks<'_> {
        Blocks { bits: Bits::Eight, codes: &self.codes, scales: &self.scales }
    }
}

/// Writes the nearest integers from -127 to 127 as codes, keeps of `values` what is rounded off, and returns the scale.
fn round(values: &mut [f32; BLOCK], codes: &mut [u8; BLOCK]) -> f32 {
    let largest = values.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
    let (scale, inverse) = if largest > 0.0 { (largest / 127.0, 127.0 / largest) } else { (0.0, 0.0) };
    for (value, code) in values.iter_mut().zip(codes) {
        let integer = (*value * inverse).round();
        *code = (integer as i32 + Bits::Eight.offset()) as u8;
        *value -= integer * scale;
    }
    scale
}
