//! Rotary positions of queries and keys that are columns.

use rayon::prelude::*;

use super::columns::Columns;
use crate::isa::Isa;
use crate::rotary::Table;
use crate::tiles::TILE;

/// The rotations of tokens: for each block of them cosines and sines, `[head_dim / 2, TILE]` each.
pub struct Rotation(Vec<(Vec<f32>, Vec<f32>)>);

impl Rotation {
    /// Of tokens at `positions`, which `table` has.
    pub fn new(table: &Table, positions: &[usize]) -> Self {
        let isa = Isa::current();
        let of_block = |positions: &[usize]| {
            let (cosines, sines) = table.at(positions);
            let half = cosines.len() / positions.len();
            let turned = |rows: &[f32]| {
                let mut out = vec![0.0; half * TILE];
                isa.transpose(rows, half, half, &mut out);
                out
            };
            (turned(&cosines), turned(&sines))
        };
        Self(positions.chunks(TILE).map(of_block).collect())
    }

    /// Rotates the first `n_heads` heads of every token: the pairs `(i, i + head_dim / 2)` of each head, like `rotate_half` of
    /// transformers.
    pub fn apply(&self, columns: &mut Columns, n_heads: usize, head_dim: usize) {
        let half = head_dim / 2;
        columns.blocks_mut().zip(&self.0).for_each(|(block, (cosines, sines))| {
            for head in block.chunks_exact_mut(head_dim * TILE).take(n_heads) {
                let (first, second) = head.split_at_mut(half * TILE);
                for ((first, second), (cosine, sine)) in first.iter_mut().zip(second).zip(cosines.iter().zip(sines)) {
                    (*first, *second) = (*first * cosine - *second * sine, *second * cosine + *first * sine);
                }
            }
        });
    }
}
