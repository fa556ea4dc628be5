//! One layer: attention and feed-forward block, each with its norms and added to the residual.

use super::super::WeightFormat;
use super::super::network::Matrix;
use super::super::plan::Part;
use super::{Activation, Encoder, Linear, Norms};
use crate::graph::AttributeValue;

impl Encoder<'_> {
    /// From the hidden states before `layer` to those after it; returns the name of their value.
    pub(super) fn layer(&mut self, layer: usize, input: &str) -> String {
        let spec = &self.spec.layers[layer];
        let name = |part: &str| format!("layers.{layer}.{part}");
        let attention = |encoder: &mut Self, input: &str| encoder.attention(layer, input);
        let hidden = self.block(&name("attention"), input, &spec.attention_norms, attention);
        self.block(&name("mlp"), &hidden, &spec.mlp_norms, |encoder, input| encoder.mlp(layer, input))
    }

    /// A block between its norms, added to what goes into it.
    fn block(&mut self, name: &str, input: &str, norms: &Norms, block: impl FnOnce(&mut Self, &str) -> String) -> String {
        let size = self.spec.hidden_size;
        let value = |part: &str| format!("{name}_{part}");
        let mut inner = input.to_owned();
        if let Some(norm) = &norms.before {
            inner = value("input");
            self.norm(norm, size, input, &inner);
        }
        let mut update = block(self, &inner);
        if let Some(norm) = &norms.after {
            let normed = value("normed");
            self.norm(norm, size, &update, &normed);
            update = normed;
        }
        let sum = value("sum");
        self.network.add("", "Add", &[&update, input], &sum);
        let Some(norm) = &norms.of_sum else { return sum };
        let normed = value("output");
        self.norm(norm, size, &sum, &normed);
        normed
    }

    /// `down(activation(up(x)))`, or `down(activation(a) * b)` of the halves of `up(x)`.
    fn mlp(&mut self, layer: usize, input: &str) -> String {
        let spec = &self.spec.layers[layer];
        let value = |name: &str| format!("layers.{layer}.{name}");
        let (hidden, inner) = (self.spec.hidden_size, self.spec.intermediate_size);
        let rows = vec![self.spec.up_size() / spec.up.weights.len(); spec.up.weights.len()];
        self.linear(&spec.up, input, &rows, hidden, &value("up"));
        let activated = value("activated");
        let mut output = activated.clone();
        if self.spec.is_gated {
            let [gate, other, sizes] = ["gate", "gated", "halves"].map(value);
            self.network.ints(&sizes, &[2], &[inner as i64; 2]);
            let node = self.network.add("", "Split", &[&value("up"), &sizes], &gate);
            node.outputs.push(other.clone());
            node.with_int("axis", -1);
            self.activation(&gate, &activated);
            output = value("product");
            self.network.add("", "Mul", &[&activated, &other], &output);
        } else {
            self.activation(&value("up"), &activated);
        }
        let down = value("down");
        self.linear(&spec.down, &output, &[hidden], inner, &down);
        down
    }

    fn activation(&mut self, input: &str, output: &str) {
        match self.spec.activation {
            Activation::Gelu => {
                self.network.add("", "Gelu", &[input], output);
            }
            Activation::GeluTanh => {
                let node = self.network.add("", "Gelu", &[input], output);
                node.with("approximate", AttributeValue::Text("tanh".into()));
            }
            Activation::Relu => {
                self.network.add("", "Relu", &[input], output);
            }
            Activation::Silu => {
                // x * sigmoid(x)
                let node = self.network.add("com.microsoft", "QuickGelu", &[input], output);
                node.with("alpha", AttributeValue::Float(1.0));
            }
        }
    }

    /// The product with stacked weights of so many `rows` each and `n_inputs` columns.
    pub(super) fn linear(&mut self, linear: &Linear, input: &str, rows: &[usize], n_inputs: usize, output: &str) {
        self.linear_in(self.options.weights, linear, input, rows, n_inputs, output);
    }

    /// The same with weights in `format`.
    pub(super) fn linear_in(
        &mut self,
        format: WeightFormat,
        linear: &Linear,
        input: &str,
        rows: &[usize],
        n_inputs: usize,
        output: &str,
    ) {
        let weights =
            linear.weights.iter().zip(rows).map(|(name, &rows)| Part { name: name.clone(), shape: vec![rows, n_inputs] });
        let biases = linear.biases.iter().zip(rows).map(|(name, &rows)| Part { name: name.clone(), shape: vec![rows] });
        let biases: Vec<Part> = biases.collect();
        let matrix = Matrix { weights: weights.collect(), bias: Some(biases).filter(|biases| !biases.is_empty()), format };
        self.network.product(input, &format!("{output}_proj.weight"), matrix, output);
    }
}
