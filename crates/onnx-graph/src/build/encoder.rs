//! The operators of an encoder: standard ones, which ONNX Runtime fuses itself as well as anyone by hand, and of its own the rotary embedding
//! and the attention that keeps no scores.
//!
//! The graph runs whole sequences of one length. Without [`EncoderSpec::has_mask`] it takes no mask: there is no padding.

mod attention;
mod between;
mod layer;
mod spec;

pub use self::spec::{Activation, EmbeddingSpec, EncoderLayer, EncoderSpec, Linear, Norm, NormKind, Norms, RelativeBias, Table};
use super::network::{Network, constant};
use super::plan::{Part, Recipe, Step};
use super::spec::BuildOptions;
use super::weights::WeightType;
use crate::graph::{AttributeValue, DataType, Dim, ValueInfo};

/// The name of the output, `[batch, tokens, hidden_size]`.
const OUTPUT: &str = "last_hidden_state";

/// An encoder under construction.
pub(super) struct Encoder<'s> {
    spec: &'s EncoderSpec,
    options: &'s BuildOptions,
    network: Network<'s>,
}

impl<'s> Encoder<'s> {
    /// The whole encoder; `stored` is the type of the embedding in the checkpoint.
    pub(super) fn network(spec: &'s EncoderSpec, options: &'s BuildOptions, stored: WeightType) -> Network<'s> {
        let mut encoder = Self { spec, options, network: Network::new(options) };
        encoder.io();
        encoder.lengths();
        encoder.ropes();
        encoder.between();
        let mut hidden = encoder.embed(stored);
        for layer in 0..spec.layers.len() {
            hidden = encoder.layer(layer, &hidden);
        }
        let computed = encoder.network.computed(OUTPUT);
        match &spec.final_norm {
            Some(norm) => encoder.norm(norm, spec.hidden_size, &hidden, &computed),
            None => {
                encoder.network.add("", "Identity", &[&hidden], &computed);
            }
        }
        encoder.network.widen(&computed, OUTPUT);
        encoder.network
    }

    fn io(&mut self) {
        let symbol = |name: &str| Dim::Symbolic(name.into());
        let [batch, tokens] = [symbol("batch_size"), symbol("sequence_length")];
        let value = |name: &str, data_type, dims: &[Dim]| ValueInfo {
            name: name.into(),
            data_type: Some(data_type),
            dims: Some(dims.into()),
        };
        let has_types = self.spec.embedding.token_types.as_ref().is_some_and(|table| table.rows > 1);
        for (name, is_there) in [("input_ids", true), ("attention_mask", self.spec.has_mask), ("token_type_ids", has_types)] {
            if is_there {
                self.network.inputs.push(value(name, DataType::INT64, &[batch.clone(), tokens.clone()]));
            }
        }
        let width = Dim::Fixed(self.spec.hidden_size as i64);
        self.network.outputs.push(value(OUTPUT, DataType::FLOAT, &[batch, tokens, width]));
    }

    /// The number of tokens of each sequence, in a list.
    fn lengths(&mut self) {
        let node = self.network.add("", "Shape", &["input_ids"], "n_tokens");
        node.with_int("start", 1);
        node.with_int("end", 2);
    }

    /// The tables of cosine and sine, `[n_positions, head_dim / 2]`.
    fn ropes(&mut self) {
        if self.spec.ropes.is_empty() {
            return;
        }
        self.network.ints("first_position", &[1], &[0]);
        for (index, table) in self.spec.ropes.iter().enumerate() {
            let dims = [table.n_positions, self.spec.head_dim / 2];
            for (name, function) in [("cos_cache", f64::cos as fn(f64) -> f64), ("sin_cache", f64::sin)] {
                let constants = vec![constant(&format!("{name}.{index}"), self.network.float.data_type(), &dims)];
                self.network.steps.push(Step { constants, views: vec![], recipe: Recipe::Rope(table.clone(), function) });
            }
        }
    }

    /// The sum of words, types and positions, and its norm; returns the name of its value.
    fn embed(&mut self, stored: WeightType) -> String {
        let spec = &self.spec.embedding;
        let mut sum = "words".to_owned();
        self.network.look_up(self.spec.words(), stored, "input_ids", &sum);
        if let Some(scale) = spec.scale {
            self.network.number("embedding_scale", scale);
            self.network.add("", "Mul", &[&sum, "embedding_scale"], "scaled_words");
            sum = "scaled_words".into();
        }
        if let Some(types) = &spec.token_types {
            let part = self.table(types);
            if types.rows > 1 {
                self.network.look_up(part, WeightType::F32, "token_type_ids", "types");
            } else {
                self.network.floats("types", vec![part]);
            }
            self.network.add("", "Add", &[&sum, "types"], "typed_words");
            sum = "typed_words".into();
        }
        if let Some((positions, first)) = &spec.positions {
            let part = self.table(positions);
            let table = part.name.clone();
            self.network.floats(&table, vec![part]);
            self.network.ints("position_from", &[1], &[*first as i64]);
            self.network.ints("position_axis", &[1], &[0]);
            self.network.add("", "Add", &["n_tokens", "position_from"], "position_to");
            // A gather of a range would be rewritten by ONNX Runtime into a slice that fails.
            self.network.add("", "Slice", &[&table, "position_from", "position_to", "position_axis"], "positions");
            self.network.add("", "Add", &[&sum, "positions"], "placed_words");
            sum = "placed_words".into();
        }
        if let Some(norm) = &spec.norm {
            self.norm(norm, self.spec.hidden_size, &sum, "embed");
            sum = "embed".into();
        }
        sum
    }

    fn table(&self, table: &Table) -> Part {
        Part { name: table.weight.clone(), shape: vec![table.rows, self.spec.hidden_size] }
    }

    /// A norm over the last dim, of `size`.
    fn norm(&mut self, norm: &Norm, size: usize, input: &str, output: &str) {
        let part = |name: &String| vec![Part { name: name.clone(), shape: vec![size] }];
        let [weight, bias] = ["norm_weight", "norm_bias"].map(|name| format!("{output}.{name}"));
        self.network.floats(&weight, part(&norm.weight));
        match norm.kind {
            NormKind::Layer => {
                let mut inputs = vec![input, &weight];
                if let Some(name) = &norm.bias {
                    self.network.floats(&bias, part(name));
                    inputs.push(&bias);
                }
                let node = self.network.add("", "LayerNormalization", &inputs, output);
                node.with_int("axis", -1);
                node.with("epsilon", AttributeValue::Float(norm.epsilon));
            }
            NormKind::Rms => self.network.rms_norm(input, &weight, norm.epsilon, output),
            NormKind::RmsOfOnePlus => {
                let [one, sum] = ["one", "one_plus"].map(|name| format!("{output}.{name}"));
                self.network.number(&one, 1.0);
                self.network.add("", "Add", &[&weight, &one], &sum);
                self.network.rms_norm(input, &sum, norm.epsilon, output);
            }
        }
    }
}

impl EncoderSpec {
    /// The table of words.
    pub(super) fn words(&self) -> Part {
        let words = &self.embedding.words;
        Part { name: words.weight.clone(), shape: vec![words.rows, self.hidden_size] }
    }
}
