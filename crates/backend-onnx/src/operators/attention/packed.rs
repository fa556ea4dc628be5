//! What a node attends to in a run for several sequences: each has its own caches, of which the engine is given those of the first.

use std::ops::Range;

use super::{Cache, FloatsMut, Held, Own, Spans, node_error};
use crate::operators::batch::{Batch, CacheMemory};

impl Batch {
    /// Where the new tokens of all sequences stand; the node is given `[1, n]` tokens, and the caches of the first, of `capacity` positions.
    pub(super) fn spans(&self, [rows, n]: [usize; 2], capacity: usize) -> ort::Result<Spans> {
        if rows != 1 || n != self.n_rows() {
            return Err(node_error(format!("{rows} rows of {n} tokens are not the {} tokens of a batch", self.n_rows())));
        }
        let starts: Vec<usize> = self.sequences.iter().map(|sequence| sequence.n_past).collect();
        let end = self.sequences.iter().map(|sequence| sequence.n_past + sequence.n_tokens).max().unwrap_or(0);
        Ok(Spans { starts, end, capacity })
    }

    /// What each sequence has of a node whose presents are those of the first, and of its result, `[n, width]`.
    pub(super) fn owned<'o, F: Held>(
        &'o self,
        presents: &'o mut [FloatsMut<'_, F>; 2],
        [kv_heads, head_dim]: [usize; 2],
        mut out: &'o mut [f32],
    ) -> ort::Result<Vec<Own<'o, F>>> {
        let width = out.len() / self.n_rows();
        let [keys, values] = [self.cache_at(presents[0].data_ptr())?, self.cache_at(presents[1].data_ptr())?];
        if keys == values {
            return Err(node_error("keys and values have the same cache"));
        }
        let mut owned = Vec::with_capacity(self.sequences.len());
        for sequence in &self.sequences {
            let positions = sequence.n_past + sequence.n_tokens;
            let cache = |place: usize| {
                let CacheMemory { start, part } = sequence.caches[place];
                Cache::in_blocks(start.as_ptr().cast(), part, [kv_heads, head_dim], positions)
            };
            let cache = [cache(keys)?, cache(values)?];
            let (rows, kernels) = (sequence.rows.clone(), sequence.kernels());
            owned.push(Own { rows, start: sequence.n_past, kernels, cache, out: [&mut [], &mut []] });
        }
        let mut parts: Vec<(Range<usize>, usize, usize)> = Vec::new();
        for (i, sequence) in self.sequences.iter().enumerate() {
            parts.extend(sequence.rows.iter().cloned().enumerate().map(|(kind, rows)| (rows, i, kind)));
        }
        parts.sort_by_key(|(rows, ..)| (rows.start, rows.end));
        for (rows, i, kind) in parts {
            (owned[i].out[kind], out) = out.split_at_mut(rows.len() * width);
        }
        Ok(owned)
    }
}
