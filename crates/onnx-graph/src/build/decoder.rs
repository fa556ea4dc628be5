//! The operators of a decoder, and the constants that they need.

mod attention;
mod layer;

use super::network::{Matrix, Network};
use super::plan::Part;
use super::quantize::QuantFormat;
use super::spec::{BuildOptions, DecoderSpec};
use super::weights::WeightType;
use crate::graph::{DataType, Dim, ValueInfo};

/// A decoder under construction.
pub(super) struct Decoder<'s> {
    spec: &'s DecoderSpec,
    options: &'s BuildOptions,
    network: Network<'s>,
    /// The operators that follow see only the kept positions.
    is_kept: bool,
}

/// The values that pass from layer to layer.
struct Stream {
    /// The sum of what the layers have added so far.
    residual: String,
    /// The output of the last block, not yet added; none before the first.
    update: Option<String>,
}

impl<'s> Decoder<'s> {
    /// The whole decoder; `stored` is the type of the embedding in the checkpoint.
    pub(super) fn network(spec: &'s DecoderSpec, options: &'s BuildOptions, stored: WeightType) -> Network<'s> {
        let mut decoder = Self { spec, options, network: Network::new(options), is_kept: false };
        decoder.io();
        decoder.lengths();
        decoder.rope();
        let residual = decoder.embed(stored);
        let mut stream = Stream { residual, update: None };
        for layer in 0..spec.n_layers {
            stream = decoder.layer(layer, stream);
        }
        let hidden = decoder.network.computed("hidden_states");
        let name = decoder.norm_weight("norm.weight", spec.hidden_size);
        decoder.add_norm(stream, &name, &hidden);
        if let Some(last) = decoder.network.nodes.last_mut() {
            // The sum is not used any more.
            last.outputs.truncate(1);
        }
        if options.outputs.hidden_states() {
            decoder.network.widen(&hidden, "hidden_states");
        }
        if options.outputs.logits() {
            let logits = decoder.network.computed("logits");
            decoder.head(&hidden, &logits);
            decoder.network.widen(&logits, "logits");
        }
        decoder.network
    }

    fn io(&mut self) {
        let spec = self.spec;
        let value =
            |name: String, data_type, dims: &[Dim]| ValueInfo { name, data_type: Some(data_type), dims: Some(dims.into()) };
        let symbol = |name: &str| Dim::Symbolic(name.into());
        let size = |size: usize| Dim::Fixed(size as i64);
        let batch = symbol("batch_size");
        let tokens = symbol("sequence_length");
        let float_type = self.network.float.data_type();
        let int = |name: &str, dims: &[Dim]| value(name.into(), DataType::INT64, dims);
        let float = |name: &str, dims: &[Dim]| value(name.into(), DataType::FLOAT, dims);
        self.network.inputs.push(int("input_ids", &[batch.clone(), tokens.clone()]));
        self.network.inputs.push(int("attention_mask", &[batch.clone(), symbol("total_sequence_length")]));
        if self.options.outputs.logits() {
            // An initializer of the input's name is its default.
            self.network.ints("num_logits_to_keep", &[], &[0]);
            self.network.inputs.push(int("num_logits_to_keep", &[]));
            self.network.outputs.push(float("logits", &[batch.clone(), symbol("num_logits"), size(spec.vocab_size)]));
        }
        if self.options.outputs.hidden_states() {
            self.network.outputs.push(float("hidden_states", &[batch.clone(), tokens, size(spec.hidden_size)]));
        }
        for (layer, part) in (0..spec.n_layers).flat_map(|layer| [(layer, "key"), (layer, "value")]) {
            let dims = |tokens: &str| [batch.clone(), size(spec.n_kv_heads), symbol(tokens), size(spec.cached_head_dim())];
            let cache = |name: String, tokens| value(name, float_type, &dims(tokens));
            self.network.inputs.push(cache(format!("past_key_values.{layer}.{part}"), "past_sequence_length"));
            self.network.outputs.push(cache(format!("present.{layer}.{part}"), "present_sequence_length"));
        }
    }

    /// The embedding of `input_ids`. A quantised head that is tied to the embedding is stored once and looked up by blocks; without a
    /// quantised head it is as in [`look_up`](Network::look_up).
    fn embed(&mut self, stored: WeightType) -> String {
        let spec = self.spec;
        let part = spec.embedding();
        let name = part.name.clone();
        if let Some(format) = self.shared_format() {
            self.network.quantized_steps(&name, vec![part], format, true);
            self.lookup(&name, format);
            return "embed".into();
        }
        let stored = if self.shares_floats() { self.options.rows.unwrap_or(WeightType::F32) } else { stored };
        self.network.look_up(part, stored, "input_ids", "embed");
        "embed".into()
    }

    /// Rows of the quantised embedding, without the padding of their last blocks.
    fn lookup(&mut self, name: &str, format: QuantFormat) {
        let fills = self.spec.hidden_size.is_multiple_of(format.blocks.size);
        let [codes, scales, zeros] = ["codes", "scales", "zeros"].map(|part| format!("{name}.lookup_{part}"));
        let inputs = [codes.as_str(), "input_ids", &scales, &zeros];
        let inputs = &inputs[..if format.blocks.symmetric { 3 } else { 4 }];
        let node =
            self.network.add("com.microsoft", "GatherBlockQuantized", inputs, if fills { "embed" } else { "embed_blocks" });
        node.with_int("bits", format.bits as i64);
        node.with_int("block_size", format.blocks.size as i64);
        node.with_int("gather_axis", 0);
        node.with_int("quantize_axis", 1);
        if !fills {
            self.network.ints("embed_from", &[1], &[0]);
            self.network.ints("embed_to", &[1], &[self.spec.hidden_size as i64]);
            self.network.ints("embed_axis", &[1], &[2]);
            self.network.add("", "Slice", &["embed_blocks", "embed_from", "embed_to", "embed_axis"], "embed");
        }
    }

    /// The last `num_logits_to_keep` positions of each value: a slice from `-n` on, where `-0` is the first. Later operators see only these.
    fn keep<const N: usize>(&mut self, values: [String; N]) -> [String; N] {
        self.is_kept = true;
        self.network.ints("one_in_list", &[1], &[1]);
        self.network.ints("end", &[1], &[i64::MAX]);
        self.network.add("", "Neg", &["num_logits_to_keep"], "kept");
        self.network.add("", "Reshape", &["kept", "one_in_list"], "kept_from");
        values.map(|value| {
            let kept = format!("{value}.kept");
            self.network.add("", "Slice", &[&value, "kept_from", "end", "one_in_list"], &kept);
            kept
        })
    }

    /// From hidden states to logits.
    fn head(&mut self, hidden: &str, logits: &str) {
        let spec = self.spec;
        let [kept] = if self.is_kept { [hidden.to_owned()] } else { self.keep([hidden.to_owned()]) };
        let embedding = format!("{}embed_tokens.weight", spec.prefix);
        if let Some(format) = self.shared_format() {
            self.network.quantized_product(&kept, &embedding, None, [spec.hidden_size, spec.vocab_size], format, logits);
        } else if self.shares_floats() {
            self.network.product_of_rows(&kept, &embedding, logits);
        } else {
            let name = if spec.tie_word_embeddings { embedding } else { "lm_head.weight".into() };
            let part = Part { name, shape: vec![spec.vocab_size, spec.hidden_size] };
            let matrix = Matrix { weights: vec![part], bias: None, format: self.options.head };
            self.network.product(&kept, "head.weight", matrix, logits);
        }
    }

    /// The format of the quantised matrix that embedding and head share, if they do.
    fn shared_format(&self) -> Option<QuantFormat> {
        let shares = self.spec.tie_word_embeddings && self.options.outputs.logits();
        self.network.quant_format(self.options.head).filter(|_| shares)
    }

    /// Whether embedding and head share one matrix of floats.
    fn shares_floats(&self) -> bool {
        self.spec.tie_word_embeddings && self.options.outputs.logits() && self.options.head.bits().is_none()
    }

    /// A weight of the decoder's body, by its name after the prefix.
    fn part(&self, name: &str, shape: &[usize]) -> Part {
        Part { name: format!("{}{name}", self.spec.prefix), shape: shape.into() }
    }

    /// The weight of a norm; returns its name.
    fn norm_weight(&mut self, name: &str, size: usize) -> String {
        let part = self.part(name, &[size]);
        let name = part.name.clone();
        self.network.floats(&name, vec![part]);
        name
    }

    /// An RMS norm over the last dim.
    fn norm(&mut self, input: &str, weight: &str, output: &str) {
        self.network.rms_norm(input, weight, self.spec.rms_norm_eps, output);
    }
}
