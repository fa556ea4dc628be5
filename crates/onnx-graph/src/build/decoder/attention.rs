//! Grouped-query attention over the KV cache.
//!
//! `GroupQueryAttention` rotates queries and keys itself where heads are a multiple of 16 wide, and accepts multiples of 8 only. Other heads
//! are rotated before it, and padded with zeros: these add nothing to scores, and the padding of the result is cut off.

use super::super::network::{Matrix, constant};
use super::super::plan::{Recipe, Step};
use super::Decoder;
use crate::graph::{AttributeValue, DataType};

impl Decoder<'_> {
    /// The lengths that attention needs, from the mask: the tokens of each row minus one, and the longest row.
    pub(super) fn lengths(&mut self) {
        let to_int32 = i64::from(DataType::INT32.0);
        self.network.ints("mask_axis", &[1], &[1]);
        self.network.ints("mask_dim", &[], &[1]);
        self.network.add("", "ReduceSum", &["attention_mask", "mask_axis"], "row_tokens").with_int("keepdims", 0);
        self.network.add("", "Sub", &["row_tokens", "mask_axis"], "last_positions_int64");
        self.network.add("", "Cast", &["last_positions_int64"], "last_positions").with_int("to", to_int32);
        self.network.add("", "Shape", &["attention_mask"], "mask_shape");
        self.network.add("", "Gather", &["mask_shape", "mask_dim"], "total_tokens_int64").with_int("axis", 0);
        self.network.add("", "Cast", &["total_tokens_int64"], "total_tokens").with_int("to", to_int32);
        if !self.spec.rotates_in_attention() {
            self.positions();
        }
    }

    /// The position of each token, `[batch, tokens]`: the tokens before the run, and the index within it.
    fn positions(&mut self) {
        self.network.ints("zero", &[], &[0]);
        self.network.add("", "Shape", &["input_ids"], "ids_shape");
        self.network.add("", "Gather", &["ids_shape", "mask_dim"], "run_tokens").with_int("axis", 0);
        self.network.add("", "Range", &["zero", "run_tokens", "mask_dim"], "run_positions");
        self.network.add("", "Sub", &["row_tokens", "run_tokens"], "row_past");
        // A row that is shorter than the run has no past.
        self.network.add("", "Max", &["row_past", "zero"], "past_tokens");
        self.network.add("", "Unsqueeze", &["past_tokens", "mask_axis"], "first_positions");
        self.network.add("", "Add", &["first_positions", "run_positions"], "positions");
    }

    /// The tables of cosine and sine, `[n_positions, head_dim / 2]`.
    pub(super) fn rope(&mut self) {
        let dims = [self.spec.rope.n_positions, self.spec.head_dim / 2];
        for (name, function) in [("cos_cache", f64::cos as fn(f64) -> f64), ("sin_cache", f64::sin)] {
            let constants = vec![constant(name, self.network.float.data_type(), &dims)];
            self.network.steps.push(Step { constants, views: vec![], recipe: Recipe::Rope(self.spec.rope.clone(), function) });
        }
    }

    /// Attention to the tokens so far; returns the name of its output.
    pub(super) fn attention(&mut self, layer: usize, input: &str) -> String {
        let spec = self.spec;
        let rotates = spec.rotates_in_attention();
        let is_padded = spec.cached_head_dim() != spec.head_dim;
        let [mut query, mut key, mut kv_value] = self.query_key_value(layer, input);
        if !rotates {
            query = self.rotate(&query, spec.n_heads);
            key = self.rotate(&key, spec.n_kv_heads);
        }
        if is_padded {
            query = self.pad_heads(&query, spec.n_heads);
            key = self.pad_heads(&key, spec.n_kv_heads);
            kv_value = self.pad_heads(&kv_value, spec.n_kv_heads);
        }
        let (past, present) = (format!("past_key_values.{layer}"), format!("present.{layer}"));
        let (past_key, past_value) = (format!("{past}.key"), format!("{past}.value"));
        let inputs =
            [query.as_str(), &key, &kv_value, &past_key, &past_value, "last_positions", "total_tokens", "cos_cache", "sin_cache"];
        let context = format!("layers.{layer}.context");
        let output = if is_padded { format!("{context}.padded") } else { context.clone() };
        let node = self.network.add("com.microsoft", "GroupQueryAttention", &inputs[..if rotates { 9 } else { 7 }], &output);
        node.outputs.extend([format!("{present}.key"), format!("{present}.value")]);
        node.with_int("num_heads", spec.n_heads as i64);
        node.with_int("kv_num_heads", spec.n_kv_heads as i64);
        node.with("scale", AttributeValue::Float((spec.head_dim as f32).sqrt().recip()));
        node.with_int("do_rotary", i64::from(rotates));
        node.with_int("rotary_interleaved", 0);
        node.with_int("local_window_size", spec.layer_windows[layer].map_or(-1, |window| window as i64));
        if is_padded {
            self.unpad_heads(&output, &context);
        }
        context
    }

    /// Rotates the heads of `input` by their positions; returns the name of the result.
    fn rotate(&mut self, input: &str, n_heads: usize) -> String {
        let rotated = format!("{input}.rotated");
        let node =
            self.network.add("com.microsoft", "RotaryEmbedding", &[input, "positions", "cos_cache", "sin_cache"], &rotated);
        node.with_int("interleaved", 0);
        node.with_int("num_heads", n_heads as i64);
        rotated
    }

    /// Pads each head of `input` with zeros to its width in the KV cache; returns the name of the result.
    fn pad_heads(&mut self, input: &str, n_heads: usize) -> String {
        let [head_dim, cached] = [self.spec.head_dim, self.spec.cached_head_dim()].map(|size| size as i64);
        let value = |name: &str| format!("{input}.{name}");
        self.network.ints(&value("unpadded_shape"), &[4], &[0, 0, n_heads as i64, head_dim]);
        self.network.ints(&value("pads"), &[8], &[0, 0, 0, 0, 0, 0, 0, cached - head_dim]);
        self.network.ints(&value("padded_shape"), &[3], &[0, 0, n_heads as i64 * cached]);
        self.network.add("", "Reshape", &[input, &value("unpadded_shape")], &value("unpadded_heads"));
        self.network.add("", "Pad", &[&value("unpadded_heads"), &value("pads")], &value("padded_heads"));
        self.network.add("", "Reshape", &[&value("padded_heads"), &value("padded_shape")], &value("padded"));
        value("padded")
    }

    /// Cuts the padding off the heads of `input`.
    fn unpad_heads(&mut self, input: &str, output: &str) {
        let spec = self.spec;
        let value = |name: &str| format!("{output}.{name}");
        self.network.ints(&value("padded_shape"), &[4], &[0, 0, spec.n_heads as i64, spec.cached_head_dim() as i64]);
        self.network.ints(&value("from"), &[1], &[0]);
        self.network.ints(&value("to"), &[1], &[spec.head_dim as i64]);
        self.network.ints(&value("axis"), &[1], &[3]);
        self.network.ints(&value("flat_shape"), &[3], &[0, 0, spec.query_size() as i64]);
        self.network.add("", "Reshape", &[input, &value("padded_shape")], &value("padded_heads"));
        self.network.add("", "Slice", &[&value("padded_heads"), &value("from"), &value("to"), &value("axis")], &value("heads"));
        self.network.add("", "Reshape", &[&value("heads"), &value("flat_shape")], output);
    }

    /// The projection out of attention.
    pub(super) fn attention_output(&mut self, layer: usize, context: &str) -> String {
        let spec = self.spec;
        let output = format!("layers.{layer}.attention");
        let block = format!("layers.{layer}.self_attn.o_proj");
        let weight = self.part(&format!("{block}.weight"), &[spec.hidden_size, spec.query_size()]);
        let bias = spec.attention_output_bias.then(|| vec![self.part(&format!("{block}.bias"), &[spec.hidden_size])]);
        let name = weight.name.clone();
        let matrix = Matrix { weights: vec![weight], bias, format: self.options.weights };
        self.network.projection(context, &name, matrix, &output);
        output
    }

    /// Queries, keys and values from one product. Without norms, and if the operator rotates them, they stay packed in its first input.
    fn query_key_value(&mut self, layer: usize, input: &str) -> [String; 3] {
        let spec = self.spec;
        let block = format!("layers.{layer}.self_attn");
        let sizes = [("q", spec.query_size()), ("k", spec.kv_size()), ("v", spec.kv_size())];
        let weights = sizes.map(|(part, size)| self.part(&format!("{block}.{part}_proj.weight"), &[size, spec.hidden_size]));
        let bias =
            spec.qkv_bias.then(|| sizes.map(|(part, size)| self.part(&format!("{block}.{part}_proj.bias"), &[size])).into());
        let packed = format!("layers.{layer}.qkv");
        let name = format!("{}{block}.qkv_proj.weight", spec.prefix);
        let matrix = Matrix { weights: weights.into(), bias, format: self.options.weights };
        self.network.projection(input, &name, matrix, &packed);
        if !spec.qk_norm && spec.rotates_in_attention() {
            return [packed, String::new(), String::new()];
        }
        let split = ["query", "key", "value"].map(|part| format!("layers.{layer}.{part}"));
        let split_sizes = format!("layers.{layer}.split");
        self.network.ints(&split_sizes, &[3], &sizes.map(|(_, size)| size as i64));
        let node = self.network.add("", "Split", &[&packed, &split_sizes], &split[0]);
        node.outputs.extend([split[1].clone(), split[2].clone()]);
        node.with_int("axis", -1);
        if !spec.qk_norm {
            return split;
        }
        let query = self.head_norm(&block, "q_norm", &split[0], spec.n_heads);
        let key = self.head_norm(&block, "k_norm", &split[1], spec.n_kv_heads);
        let [_, _, kv_value] = split;
        [query, key, kv_value]
    }

    /// An RMS norm of each head.
    fn head_norm(&mut self, block: &str, name: &str, input: &str, n_heads: usize) -> String {
        let spec = self.spec;
        let weight = self.norm_weight(&format!("{block}.{name}.weight"), spec.head_dim);
        let value = |name: &str| format!("{input}.{name}");
        let head_dim = spec.head_dim as i64;
        self.network.ints(&value("heads_shape"), &[4], &[0, 0, n_heads as i64, head_dim]);
        self.network.ints(&value("flat_shape"), &[3], &[0, 0, n_heads as i64 * head_dim]);
        self.network.add("", "Reshape", &[input, &value("heads_shape")], &value("heads"));
        self.norm(&value("heads"), &weight, &value("normed_heads"));
        self.network.add("", "Reshape", &[&value("normed_heads"), &value("flat_shape")], &value("normed"));
        value("normed")
    }
}
