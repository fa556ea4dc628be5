//! One decoder layer: attention and feed-forward block, each after a norm and added to the residual.

use super::super::network::Matrix;
use super::super::spec::Outputs;
use super::{Decoder, Stream};
use crate::graph::AttributeValue;

impl Decoder<'_> {
    pub(super) fn layer(&mut self, layer: usize, stream: Stream) -> Stream {
        let hidden = self.spec.hidden_size;
        let prefix = format!("layers.{layer}");
        let weight = self.norm_weight(&format!("{prefix}.input_layernorm.weight"), hidden);
        let normed = format!("{prefix}.attention_input");
        let mut residual = self.add_norm(stream, &weight, &normed);
        let mut context = self.attention(layer, &normed);
        // This was the last attention: positions whose logits were not requested are dropped.
        if layer + 1 == self.spec.n_layers && self.options.outputs == Outputs::Logits {
            [context, residual] = self.keep([context, residual]);
        }
        let update = self.attention_output(layer, &context);
        let weight = self.norm_weight(&format!("{prefix}.post_attention_layernorm.weight"), hidden);
        let normed = format!("{prefix}.mlp_input");
        let residual = self.add_norm(Stream { residual, update: Some(update) }, &weight, &normed);
        let update = self.mlp(&prefix, &normed);
        Stream { residual, update: Some(update) }
    }

    /// Adds the update to the residual and writes the norm of the sum to `output`, in one node; returns the name of the sum.
    pub(super) fn add_norm(&mut self, stream: Stream, weight: &str, output: &str) -> String {
        let Some(update) = stream.update else {
            self.norm(&stream.residual, weight, output);
            return stream.residual;
        };
        let epsilon = self.spec.rms_norm_eps;
        let sum = format!("{output}.sum");
        let inputs = [stream.residual.as_str(), &update, weight];
        let node = self.network.add("com.microsoft", "SkipSimplifiedLayerNormalization", &inputs, output);
        node.with("epsilon", AttributeValue::Float(epsilon));
        node.outputs.extend([String::new(), String::new(), sum.clone()]);
        sum
    }

    /// `down(silu(gate(x)) * up(x))`
    fn mlp(&mut self, prefix: &str, input: &str) -> String {
        let (hidden, inner) = (self.spec.hidden_size, self.spec.intermediate_size);
        let value = |name: &str| format!("{prefix}.{name}");
        self.linear(input, prefix, "gate", [inner, hidden]);
        self.linear(input, prefix, "up", [inner, hidden]);
        // x * sigmoid(x)
        let node = self.network.add("com.microsoft", "QuickGelu", &[&value("gate")], &value("silu"));
        node.with("alpha", AttributeValue::Float(1.0));
        self.network.add("", "Mul", &[&value("silu"), &value("up")], &value("gated"));
        self.linear(&value("gated"), prefix, "down", [hidden, inner]);
        value("down")
    }

    fn linear(&mut self, input: &str, prefix: &str, name: &str, shape: [usize; 2]) {
        let module = format!("{prefix}.mlp.{name}_proj");
        let weight = self.part(&format!("{module}.weight"), &shape);
        let bias = self.spec.mlp_bias.then(|| vec![self.part(&format!("{module}.bias"), &shape[..1])]);
        let constant = weight.name.clone();
        let matrix = Matrix { weights: vec![weight], bias, format: self.options.weights };
        self.network.projection(input, &constant, matrix, &format!("{prefix}.{name}"));
    }
}
