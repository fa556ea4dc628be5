//! The sizes in which kernels take inputs and weights, and a tile of weights for the integer ones.

use crate::quantize::{BLOCK, Bits};

/// The most rows of inputs that are multiplied while a weight is in a register.
pub(crate) const MAX_ROWS: usize = 8;

/// The most quantised inputs that are multiplied with a tile at once.
pub(crate) const PACKED_INPUTS: usize = 6;

/// Rows of weights of a tile, whose products with some inputs are computed in registers.
pub(crate) const TILE: usize = 32;

/// The lanes of a tile that are computed: its first half is enough for few columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lanes {
    All,
    Half,
}

impl Lanes {
    /// Enough for `n` columns.
    pub(crate) fn of(n: usize) -> Self {
        if n <= TILE / 2 { Self::Half } else { Self::All }
    }

    pub(crate) fn number(self) -> usize {
        match self {
            Self::All => TILE,
            Self::Half => TILE / 2,
        }
    }
}

/// A tile of quantised weights, laid out for the integer kernels. It is packed once and multiplied with many inputs.
pub(crate) struct PackedTile {
    pub(crate) bits: Bits,
    /// The codes of four weights of a row in each word: `[columns / 4, TILE]`.
    pub(crate) words: Vec<[u32; TILE]>,
    /// `[columns / BLOCK, TILE]`
    pub(crate) scales: Vec<[f32; TILE]>,
}

impl PackedTile {
    /// An empty tile for rows of `columns` weights.
    pub(crate) fn new(bits: Bits, columns: usize) -> Self {
        Self { bits, words: vec![[0; TILE]; columns / 4], scales: vec![[0.0; TILE]; columns / BLOCK] }
    }

    /// Makes room for rows of `columns`; what is in it is left over from earlier uses.
    pub(crate) fn reset(&mut self, columns: usize) {
        self.words.resize(columns / 4, [0; TILE]);
        self.scales.resize(columns / BLOCK, [0.0; TILE]);
    }
}
