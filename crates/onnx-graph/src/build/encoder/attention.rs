//! Attention of all tokens to all, or to those within a window.
//!
//! Query heads that share a key head stand in a dim of their own, over which keys and values are repeated without a copy:
//! `[batch, kv_heads, heads of each, tokens, head_dim]`. Where each has its own, that dim is left out.

use super::super::WeightFormat;
use super::Encoder;
use crate::graph::AttributeValue;

impl Encoder<'_> {
    /// Attention from `input` to its projection; returns the name of its output.
    pub(super) fn attention(&mut self, layer: usize, input: &str) -> String {
        let spec = &self.spec.layers[layer];
        let value = |name: &str| format!("layers.{layer}.{name}");
        let [query, key, kv_value] = self.query_key_value(layer, input);
        let (context, output) = (value("context"), value("attention"));
        if self.keeps_no_scores(layer) {
            let node = self.network.add("com.microsoft", "MultiHeadAttention", &[&query, &key, &kv_value], &context);
            node.with_int("num_heads", self.spec.n_heads as i64);
            node.with("scale", AttributeValue::Float(self.spec.score_scale));
        } else {
            self.attention_by_scores(layer, [&query, &key, &kv_value], &context);
        }
        self.linear(&spec.attention_out, &context, &[self.spec.hidden_size], self.spec.query_size(), &output);
        output
    }

    /// Whether a layer's attention is the operator that computes scores block by block and keeps none of them, which has neither windows nor
    /// biases. It is as fast as single operators, and takes memory in proportion to a text and not to its square.
    fn keeps_no_scores(&self, layer: usize) -> bool {
        !self.is_grouped() && self.score_bias(layer).is_empty()
    }

    /// Attention of single operators.
    fn attention_by_scores(&mut self, layer: usize, [query, key, kv_value]: [&str; 3], context: &str) {
        let value = |name: &str| format!("layers.{layer}.{name}");
        self.network.number(&value("scale"), self.spec.score_scale);
        self.network.add("", "Mul", &[query, &value("scale")], &value("scaled_query"));
        let n_shared = self.spec.n_heads / self.spec.n_kv_heads;
        let (tokens, transposed): (&[i64], &[i64]) =
            if self.is_grouped() { (&[0, 2, 3, 1, 4], &[0, 2, 3, 4, 1]) } else { (&[0, 2, 1, 3], &[0, 2, 3, 1]) };
        let query = self.heads(&value("scaled_query"), n_shared, tokens);
        let key = self.heads(key, 1, transposed);
        let kv_value = self.heads(kv_value, 1, tokens);
        let scores = value("scores");
        self.network.add("", "MatMul", &[&query, &key], &scores);
        let mut sum = scores;
        for (index, bias) in self.score_bias(layer).into_iter().enumerate() {
            let with_bias = value(&format!("scores.{index}"));
            self.network.add("", "Add", &[&sum, &bias], &with_bias);
            sum = with_bias;
        }
        self.network.add("", "Softmax", &[&sum], &value("shares")).with_int("axis", -1);
        self.network.add("", "MatMul", &[&value("shares"), &kv_value], &value("context_heads"));
        let permutation: &[i64] = if self.is_grouped() { &[0, 3, 1, 2, 4] } else { &[0, 2, 1, 3] };
        self.transpose(&value("context_heads"), permutation, &value("context_tokens"));
        self.network.ints(&value("flat_shape"), &[3], &[0, 0, -1]);
        self.network.add("", "Reshape", &[&value("context_tokens"), &value("flat_shape")], context);
    }

    /// How many dims of the scores stand between the batch and the last.
    pub(super) fn n_head_dims(&self) -> usize {
        if self.is_grouped() { 3 } else { 2 }
    }

    /// Whether query heads share key heads.
    fn is_grouped(&self) -> bool {
        self.spec.n_heads != self.spec.n_kv_heads
    }

    /// Queries, keys and values, `[batch, tokens, heads * head_dim]`.
    fn query_key_value(&mut self, layer: usize, input: &str) -> [String; 3] {
        let spec = &self.spec.layers[layer];
        let value = |name: &str| format!("layers.{layer}.{name}");
        let sizes = [self.spec.query_size(), self.spec.kv_size(), self.spec.kv_size()];
        let rows = if spec.qkv.weights.len() == 1 { vec![sizes.iter().sum()] } else { sizes.to_vec() };
        let packed = value("qkv");
        // Softmax magnifies their errors: of the loss of all-MiniLM-L6-v2 in int8 two thirds came from them.
        let format = if self.options.weights == WeightFormat::Int8 { WeightFormat::F32 } else { self.options.weights };
        self.linear_in(format, &spec.qkv, input, &rows, self.spec.hidden_size, &packed);
        let [mut query, mut key, kv_value] = ["query", "key", "value"].map(value);
        self.network.ints(&value("split"), &[3], &sizes.map(|size| size as i64));
        let node = self.network.add("", "Split", &[&packed, &value("split")], &query);
        node.outputs.extend([key.clone(), kv_value.clone()]);
        node.with_int("axis", -1);
        for (heads, norm, n_heads) in
            [(&mut query, &spec.query_norm, self.spec.n_heads), (&mut key, &spec.key_norm, self.spec.n_kv_heads)]
        {
            if let Some(norm) = norm {
                let [by_head, normed] = ["heads", "normed"].map(|name| format!("{heads}.{name}"));
                self.network.ints(&format!("{heads}.heads_shape"), &[4], &[0, 0, n_heads as i64, self.spec.head_dim as i64]);
                self.network.add("", "Reshape", &[heads, &format!("{heads}.heads_shape")], &by_head);
                self.norm(norm, self.spec.head_dim, &by_head, &format!("{heads}.normed_heads"));
                self.network.ints(&format!("{heads}.flat_shape"), &[3], &[0, 0, -1]);
                self.network.add("", "Reshape", &[&format!("{heads}.normed_heads"), &format!("{heads}.flat_shape")], &normed);
                *heads = normed;
            }
            if let Some(rope) = spec.rope {
                let rotated = format!("{heads}.rotated");
                let [cos, sin] = ["cos_cache", "sin_cache"].map(|name| format!("{name}.{rope}"));
                let inputs = [heads.as_str(), "first_position", &cos, &sin];
                let node = self.network.add("com.microsoft", "RotaryEmbedding", &inputs, &rotated);
                node.with_int("interleaved", 0);
                node.with_int("num_heads", n_heads as i64);
                *heads = rotated;
            }
        }
        [query, key, kv_value]
    }

    /// `input`, `[batch, tokens, heads * head_dim]`, with heads in dims of their own, of which so many share a key head.
    fn heads(&mut self, input: &str, n_shared: usize, permutation: &[i64]) -> String {
        let [shape, split, output] = ["by_head_shape", "by_token", "by_head"].map(|name| format!("{input}.{name}"));
        let [kv_heads, n_shared, head_dim] = [self.spec.n_kv_heads, n_shared, self.spec.head_dim].map(|size| size as i64);
        let dims = if self.is_grouped() { vec![0, 0, kv_heads, n_shared, head_dim] } else { vec![0, 0, kv_heads, head_dim] };
        self.network.ints(&shape, &[dims.len()], &dims);
        self.network.add("", "Reshape", &[input, &shape], &split);
        self.transpose(&split, permutation, &output);
        output
    }

    fn transpose(&mut self, input: &str, permutation: &[i64], output: &str) {
        self.network.add("", "Transpose", &[input], output).with("perm", AttributeValue::Ints(permutation.into()));
    }
}
