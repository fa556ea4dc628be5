//! MPNet's bias of scores by the distance of two tokens, shared by all layers.

use tandem_core::config::MAX_RELATIVE_DISTANCE;

/// The bias of each head for each distance.
pub struct RelativeBias {
    /// `[n_heads, 2 * max_tokens - 1]`; the query's position less the key's, from the least on.
    by_distance: Vec<f32>,
    max_tokens: usize,
}

impl RelativeBias {
    /// Of `table`, `[n_buckets, n_heads]`, for sequences of up to `max_tokens`.
    pub fn new(table: &[f32], n_buckets: usize, max_tokens: usize) -> Self {
        let n_heads = table.len() / n_buckets;
        let last = max_tokens as isize - 1;
        let of_head = |head: usize| (-last..=last).map(move |behind| table[bucket(behind, n_buckets) * n_heads + head]);
        Self { by_distance: (0..n_heads).flat_map(of_head).collect(), max_tokens }
    }

    /// The bias that head `head` adds to the scores of the queries from `query` on for the key at `key`.
    pub fn of(&self, head: usize, query: usize, key: usize) -> &[f32] {
        let n = 2 * self.max_tokens - 1;
        &self.by_distance[head * n..(head + 1) * n][query + self.max_tokens - 1 - key..]
    }
}

/// The bucket of a key that is `behind` positions before its query, or after it where that is negative: `relative_position_bucket` of
/// transformers' `modeling_mpnet.py`, in f32 as there.
fn bucket(behind: isize, n_buckets: usize) -> usize {
    let half = n_buckets / 2;
    let first = if behind < 0 { half } else { 0 };
    let (distance, exact) = (behind.unsigned_abs(), half / 2);
    if distance < exact {
        return first + distance;
    }
    let share = (distance as f32 / exact as f32).ln() / (MAX_RELATIVE_DISTANCE as f64 / exact as f64).ln() as f32;
    first + (exact + (share * (half - exact) as f32) as usize).min(half - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_those_of_transformers() {
        // `MPNetEncoder.relative_position_bucket(torch.tensor(-behind))` with 32 buckets.
        let check = |behind: isize, expected: usize| assert_eq!(bucket(behind, 32), expected, "{behind}");
        for i in 0..8 {
            check(i, i as usize);
        }
        for (behind, expected) in [(8, 8), (11, 8), (12, 9), (15, 9), (16, 10), (22, 10), (23, 11), (31, 11), (32, 12), (45, 12)]
        {
            check(behind, expected);
            check(-behind, expected + 16);
        }
        for (behind, expected) in [(46, 13), (63, 13), (64, 14), (90, 14), (91, 15), (128, 15), (511, 15)] {
            check(behind, expected);
        }
        check(-1, 17);
    }

    #[test]
    fn biases_of_a_key_follow_the_queries() {
        let (n_buckets, n_heads) = (32, 2);
        let table: Vec<f32> = (0..n_buckets * n_heads).map(|i| i as f32).collect();
        let bias = RelativeBias::new(&table, n_buckets, 50);
        for (head, query, key) in [(0, 0, 49), (1, 10, 3), (1, 30, 30)] {
            for (i, value) in bias.of(head, query, key).iter().take(50 - query).enumerate() {
                let behind = (query + i) as isize - key as isize;
                assert_eq!(*value, (bucket(behind, n_buckets) * n_heads + head) as f32, "{behind}");
            }
        }
    }
}
