//! What is added to the scores of two tokens for where they stand: windows, a bias by distance, and the mask of padding.

use super::super::network::constant;
use super::super::plan::{Part, Recipe, Step};
use super::super::weights::FloatType;
use super::Encoder;

impl Encoder<'_> {
    /// Computes once what layers add to their scores.
    pub(super) fn between(&mut self) {
        let mut windows: Vec<usize> = self.spec.layers.iter().filter_map(|layer| layer.window).collect();
        windows.sort_unstable();
        windows.dedup();
        if self.spec.has_mask {
            self.padding();
        }
        if windows.is_empty() && self.spec.relative_bias.is_none() && !self.spec.is_causal {
            return;
        }
        self.distances();
        self.relative_bias();
        for window in windows {
            self.window(window);
        }
        if self.spec.is_causal {
            self.network.add("", "LessOrEqual", &["distances", "zero"], "causal.is_seen");
            self.unseen("causal");
        }
    }

    /// The name of what `layer` adds to its scores `[batch, heads, tokens, tokens]`; none where every token sees all alike.
    pub(super) fn score_bias(&self, layer: usize) -> Vec<String> {
        let padding = self.spec.has_mask.then(|| "padding".to_owned());
        let relative = self.spec.relative_bias.is_some().then(|| "relative_bias".to_owned());
        let causal = self.spec.is_causal.then(|| "causal".to_owned());
        let window = self.spec.layers[layer].window.map(|window| format!("window.{window}"));
        [padding, relative, causal, window].into_iter().flatten().collect()
    }

    /// For each token how far each other one is behind it: `[tokens, tokens]`, negative before it.
    fn distances(&mut self) {
        self.network.ints("zero", &[], &[0]);
        self.network.ints("one", &[], &[1]);
        self.network.ints("first_axis", &[1], &[0]);
        self.network.ints("second_axis", &[1], &[1]);
        self.network.add("", "Squeeze", &["n_tokens", "first_axis"], "token_count");
        self.network.add("", "Range", &["zero", "token_count", "one"], "token_numbers");
        self.network.add("", "Unsqueeze", &["token_numbers", "first_axis"], "others");
        self.network.add("", "Unsqueeze", &["token_numbers", "second_axis"], "own");
        self.network.add("", "Sub", &["others", "own"], "distances");
    }

    /// Minus infinity for tokens outside the window: `[tokens, tokens]`.
    fn window(&mut self, window: usize) {
        let value = |name: &str| format!("window.{window}.{name}");
        self.network.ints(&value("width"), &[], &[window as i64]);
        self.network.add("", "Abs", &["distances"], &value("distances"));
        self.network.add("", "Less", &[&value("distances"), &value("width")], &value("is_seen"));
        self.unseen(&format!("window.{window}"));
    }

    /// Minus infinity where `name.is_seen` is false: `name`, `[tokens, tokens]`.
    fn unseen(&mut self, name: &str) {
        let [is_seen, seen, unseen] = ["is_seen", "seen", "unseen"].map(|part| format!("{name}.{part}"));
        self.network.number(&seen, 0.0);
        self.network.number(&unseen, f32::NEG_INFINITY);
        self.network.add("", "Where", &[&is_seen, &seen, &unseen], name);
    }

    /// What hides padding: `[batch, 1, 1, tokens]`. It is finite, since padding that sees nothing else would become not a number, and with it
    /// every token in the next layer.
    fn padding(&mut self) {
        let hides = match self.network.float {
            FloatType::F32 => -1e30,
            FloatType::F16 => -3e4,
        };
        self.network.ints("no_token", &[], &[0]);
        self.network.number("token_bias", 0.0);
        self.network.number("padding_bias", hides);
        self.network.add("", "Equal", &["attention_mask", "no_token"], "is_padding");
        self.network.add("", "Where", &["is_padding", "padding_bias", "token_bias"], "padding_of_rows");
        self.network.ints("padding_axes", &[self.n_head_dims()], &[1, 2, 3][..self.n_head_dims()]);
        self.network.add("", "Unsqueeze", &["padding_of_rows", "padding_axes"], "padding");
    }

    /// The bias by distance, `[heads, tokens, tokens]`. Beyond the largest distance the bucket stays the same.
    fn relative_bias(&mut self) {
        let Some(bias) = &self.spec.relative_bias else { return };
        let furthest = bias.max_distance as i64;
        let buckets: Vec<i64> = (-furthest..=furthest).map(|distance| bias.bucket(distance) as i64).collect();
        self.network.ints("least_distance", &[], &[-furthest]);
        self.network.ints("largest_distance", &[], &[furthest]);
        self.network.ints("buckets", &[buckets.len()], &buckets);
        self.network.add("", "Clip", &["distances", "least_distance", "largest_distance"], "near_distances");
        self.network.add("", "Add", &["near_distances", "largest_distance"], "bucket_numbers");
        self.network.add("", "Gather", &["buckets", "bucket_numbers"], "distance_buckets");
        let part = Part { name: bias.weight.clone(), shape: vec![bias.n_buckets, self.spec.n_heads] };
        // One row for each head, so that what is gathered needs no transposition: `[heads, n_buckets]`.
        let constants = vec![constant(&part.name, self.network.float.data_type(), &[self.spec.n_heads, bias.n_buckets])];
        let table = part.name.clone();
        self.network.steps.push(Step { constants, views: vec![], recipe: Recipe::Transposed(vec![part]) });
        self.network.add("", "Gather", &[&table, "distance_buckets"], "relative_bias").with_int("axis", 1);
    }
}

impl super::RelativeBias {
    /// The bucket of a token that is `distance` behind, as transformers computes it, in 32 bits: half of the buckets are for tokens
    /// behind; of each half, one half is of one distance each, and the others widen logarithmically. Source:
    /// `MPNetEncoder.relative_position_bucket`.
    fn bucket(&self, distance: i64) -> usize {
        let half = self.n_buckets / 2;
        let (first, distance) = (if distance > 0 { half } else { 0 }, distance.unsigned_abs() as usize);
        let n_exact = half / 2;
        if distance < n_exact {
            return first + distance;
        }
        let of_logarithm = (distance as f32 / n_exact as f32).ln() / (self.max_distance as f32 / n_exact as f32).ln();
        first + (half - 1).min(n_exact + (of_logarithm * (half - n_exact) as f32) as usize)
    }
}

/// Where a bias of scores is wrong, no shape says so.
#[cfg(test)]
mod tests {
    use super::super::RelativeBias;

    #[test]
    fn buckets_are_those_of_transformers() {
        let bias = RelativeBias { weight: String::new(), n_buckets: 32, max_distance: 128 };
        let buckets = [-200, -128, -64, -32, -16, -9, -8, -7, -1, 0, 1, 7, 8, 12, 16, 23, 64, 127, 500];
        let expected = [15, 15, 14, 12, 10, 8, 8, 7, 1, 0, 17, 23, 24, 25, 26, 27, 30, 31, 31];
        assert_eq!(buckets.map(|distance| bias.bucket(distance)), expected);
    }
}
