//! Rotary position embedding: tables in f32 that grow when a position is first needed, and the rotation of queries and keys.

use std::sync::{Arc, PoisonError, RwLock};

use tandem_core::config::RopeConfig;

use crate::elementwise::{norm_in_place, rows};

/// Positions of the first table.
const FIRST_POSITIONS: usize = 512;

/// Cosines and sines, shared by all sessions.
pub struct Rotary {
    inv_freq: Vec<f32>,
    attention_factor: f32,
    table: RwLock<Arc<Table>>,
}

/// Cosines and sines of the first positions: `[positions, head_dim / 2]` each.
pub struct Table {
    cosines: Vec<f32>,
    sines: Vec<f32>,
    n_positions: usize,
}

/// The heads in the output of the fused projection.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    /// Query heads.
    pub queries: usize,
    /// Key heads, and as many value heads.
    pub keys: usize,
    /// Width of a head.
    pub head_dim: usize,
}

/// Norms of queries and keys, `[head_dim]` each.
#[derive(Clone, Copy, Debug)]
pub struct Norms<'l> {
    /// Of queries.
    pub queries: &'l [f32],
    /// Of keys.
    pub keys: &'l [f32],
    /// Added to the mean of squares.
    pub eps: f32,
}

impl Rotary {
    /// For heads of `head_dim` values.
    pub fn new(rope: &RopeConfig, head_dim: usize) -> Self {
        let empty = Table { cosines: Vec::new(), sines: Vec::new(), n_positions: 0 };
        Self { inv_freq: rope.inv_freq(head_dim), attention_factor: rope.attention_factor(), table: RwLock::new(Arc::new(empty)) }
    }

    /// A table of at least `n_positions`.
    pub fn table(&self, n_positions: usize) -> Arc<Table> {
        let known = Arc::clone(&self.table.read().unwrap_or_else(PoisonError::into_inner));
        if known.n_positions >= n_positions {
            return known;
        }
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        if table.n_positions < n_positions {
            *table = Arc::new(self.compute(n_positions.next_power_of_two().max(FIRST_POSITIONS)));
        }
        Arc::clone(&table)
    }

    /// Angles are products in f32, as in transformers, so that both rotate by the same angle.
    fn compute(&self, n_positions: usize) -> Table {
        let angles = (0..n_positions).flat_map(|position| self.inv_freq.iter().map(move |frequency| position as f32 * frequency));
        let (cosines, sines) = angles.map(|a| (a.cos() * self.attention_factor, a.sin() * self.attention_factor)).unzip();
        Table { cosines, sines, n_positions }
    }
}

impl Table {
    /// Cosines and sines of `positions`: `[positions, head_dim / 2]` each.
    pub fn at(&self, positions: &[usize]) -> (Vec<f32>, Vec<f32>) {
        let width = self.cosines.len() / self.n_positions;
        let of = |table: &[f32]| positions.iter().flat_map(|position| &table[position * width..][..width]).copied().collect();
        (of(&self.cosines), of(&self.sines))
    }

    /// Splits `projected`, `[n, (queries + 2 * keys) * head_dim]`, into heads in `out`, `[queries + 2 * keys, n, head_dim]`; queries and keys
    /// are normed and rotated by `positions`, one for each of the `n` rows.
    ///
    /// # Panics
    /// For slices of other lengths, and for positions beyond the table.
    pub fn heads(&self, projected: &[f32], heads: &Heads, norms: Option<Norms<'_>>, positions: &[usize], out: &mut [f32]) {
        let (n, head_dim) = (positions.len(), heads.head_dim);
        let width = (heads.queries + 2 * heads.keys) * head_dim;
        assert!(projected.len() == n * width && out.len() == n * width, "each row has all heads");
        rows(out, n * head_dim, |head, out| {
            for (row, out) in out.chunks_exact_mut(head_dim).enumerate() {
                out.copy_from_slice(&projected[row * width + head * head_dim..][..head_dim]);
                if head < heads.queries + heads.keys {
                    if let Some(norms) = norms {
                        norm_in_place(out, if head < heads.queries { norms.queries } else { norms.keys }, norms.eps);
                    }
                    self.rotate(out, positions[row]);
                }
            }
        });
    }

    /// Rotates the pairs `(i, i + head_dim / 2)` of one head, like `rotate_half` of transformers, to `position`, which the table has.
    pub fn rotate(&self, head: &mut [f32], position: usize) {
        let half = head.len() / 2;
        let cosines = &self.cosines[position * half..][..half];
        let sines = &self.sines[position * half..][..half];
        rotate_pairs(head, cosines, sines);
    }
}

/// Rotates the pairs `(i, i + head.len() / 2)` of `head` by the angles of these cosines and sines, one for each pair.
pub fn rotate_pairs(head: &mut [f32], cosines: &[f32], sines: &[f32]) {
    let (first, second) = head.split_at_mut(head.len() / 2);
    for ((first, second), (cosine, sine)) in first.iter_mut().zip(second).zip(cosines.iter().zip(sines)) {
        (*first, *second) = (*first * cosine - *second * sine, *second * cosine + *first * sine);
    }
}

#[cfg(test)]
mod tests {
    use tandem_core::config::RopeScaling;

    use super::*;

    const HEAD_DIM: usize = 8;
    const THETA: f64 = 1e6;

    fn rotary() -> Rotary {
        Rotary::new(&RopeConfig { theta: THETA, scaling: RopeScaling::Default }, HEAD_DIM)
    }

    #[test]
    fn far_positions_are_rotated_by_the_exact_angle() {
        // In half precision, where others compute it, the angle of position 8000 is off by whole turns.
        let rotary = rotary();
        for position in [0, 1, 255, 256, 2049, 8000, 32_767] {
            let mut head = [1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0];
            rotary.table(position + 1).rotate(&mut head, position);
            for i in 0..HEAD_DIM / 2 {
                let angle = position as f64 / THETA.powf(2.0 * i as f64 / HEAD_DIM as f64);
                // An angle in f32 is off by half a unit in its last place, and so is the frequency.
                let allowed = 1e-6 + angle * 1.2e-7;
                let off = [f64::from(head[i]) - angle.cos(), f64::from(head[i + HEAD_DIM / 2]) - angle.sin()];
                assert!(off.iter().all(|off| off.abs() <= allowed), "position {position}, pair {i}: {off:?}");
            }
        }
    }

    #[test]
    fn growing_the_table_keeps_existing_positions() {
        let rotary = rotary();
        let first = rotary.table(3);
        let grown = rotary.table(first.n_positions + 1);
        assert!(grown.n_positions > first.n_positions);
        assert_eq!(grown.cosines[..first.cosines.len()], first.cosines);
        assert_eq!(grown.sines[..first.sines.len()], first.sines);
        assert!(Arc::ptr_eq(&rotary.table(5), &grown), "a table that is long enough is reused");
    }
}
