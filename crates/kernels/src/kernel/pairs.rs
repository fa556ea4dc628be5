//! Products of bf16, two at a time, where the processor has an instruction for them.

use crate::isa::Isa;
use crate::tiles::{Lanes, TILE};

/// Proof that the processor has AVX-512 with dot products of pairs of bf16.
#[derive(Clone, Copy, Debug)]
pub struct PairProducts(());

impl PairProducts {
    /// The most inputs of a tile.
    pub(crate) const INPUTS: usize = 12;

    /// `None` where the processor lacks them, or `isa` is a lower one.
    pub(crate) fn of(isa: Isa) -> Option<Self> {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Avx512Vnni if is_x86_feature_detected!("avx512bf16") => Some(Self(())),
            _ => None,
        }
    }

    /// Adds to `sums`, `[n, TILE]` with `n` up to [`INPUTS`](Self::INPUTS), the products of `columns`, `[pairs, TILE]`, with the first of each
    /// row of `inputs`, `[pairs, stride]`: two values in each word, the first in its lower half. Subnormal values count as zeros.
    pub(crate) fn add(self, columns: &[[u32; TILE]], inputs: &[u32], stride: usize, lanes: Lanes, sums: &mut [f32]) {
        let n = sums.len() / TILE;
        assert!((1..=Self::INPUTS).contains(&n) && sums.len() == n * TILE, "the sums are whole rows, and few");
        assert!(n <= stride && columns.len() == inputs.len().div_ceil(stride), "columns and inputs are of one inner length");
        // SAFETY: `of` has checked that the processor has the instructions.
        #[cfg(target_arch = "x86_64")]
        #[expect(unsafe_code, reason = "not every processor has these instructions")]
        unsafe {
            super::x86::pairs::add(columns, inputs, stride, lanes, sums);
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (lanes, self);
    }
}
