//! Which value of a graph holds what, by the names that exporters give them: Tandem's own builder, onnxruntime-genai's
//! (`builders/base.py`), whose graphs onnx-community publishes as well, and optimum's export through torch.

use tandem_core::TokenId;
use tandem_core::backend::{Probe, ProbePoint, Stage};
use tandem_core::config::ModelConfig;
use tandem_onnx_graph::Graph;

/// What a value holds, as `[1, n, width]` except for cached keys.
#[derive(Clone, Copy)]
pub(crate) enum Layout {
    One(ProbePoint),
    /// Queries, keys and values of a layer side by side, with the widths of the first two.
    Projected {
        layer: usize,
        queries: usize,
        keys: usize,
    },
    /// Keys as the cache holds them, `[1, kv_heads, n, width]`, whose heads may be padded beyond `head_dim`.
    Cached {
        point: ProbePoint,
        head_dim: usize,
    },
}

/// Whether the values of `graph` have known names: looks for the first norm, which graphs of every exporter have.
pub(crate) fn can_probe(graph: &Graph) -> bool {
    has(graph, "layers.0.attention_input") || has(graph, OF_ENCODERS) || FIRST_NORMS.iter().any(|name| has(graph, name))
}

/// The first norm in graphs of genai's builder, and of optimum.
const FIRST_NORMS: [&str; 2] = ["/model/layers.0/input_layernorm/output_0", "/model/layers.0/input_layernorm/Mul_1_output_0"];

/// The known values of `graph`, in the order of computation. A graph need not have all of them.
pub(crate) fn known_values(graph: &Graph, config: &ModelConfig) -> Vec<(String, Layout)> {
    let found = Known { graph, config };
    let mut values = found.first(&EMBEDDINGS.map(str::to_owned), outside(Stage::Embedding));
    let is_encoder = has(graph, OF_ENCODERS);
    for layer in 0..config.n_layers {
        values.extend(found.attention(layer));
        values.extend(if is_encoder { found.encoder_mlp(layer) } else { found.mlp(layer) });
    }
    if is_encoder {
        values.extend(found.first(&ENCODED.map(str::to_owned), outside(Stage::FinalNorm)));
        return values;
    }
    let norm = format!("/model/layers.{}/final_norm_layernorm/output_0", config.n_layers);
    // In a graph of f16 the second name is the value before it is widened.
    let ours = ["hidden_states", "hidden_states.f16"].map(str::to_owned);
    let exported = [norm, "/model/norm/Mul_1_output_0".into(), "last_hidden_state".into()];
    values.extend(found.first(&[&ours[..], &exported].concat(), outside(Stage::FinalNorm)));
    values.extend(found.first(&["logits".into()], outside(Stage::Logits)));
    values
}

/// A value that graphs of encoders have and those of decoders have not, of Tandem's own builder.
const OF_ENCODERS: &str = "layers.0.activated";

/// What encoders give, before it is widened where it was f16: normed last, or the result of the last layer.
const ENCODED: [&str; 2] = ["last_hidden_state.f16", "last_hidden_state"];

const EMBEDDINGS: [&str; 8] = [
    "embed",
    "placed_words",
    "typed_words",
    "scaled_words",
    "words",
    "/model/embed_tokens/Gather/output_0",
    "/model/embed_tokens/GatherBlockQuantized/output_0",
    "/model/embed_tokens/Gather_output_0",
];

struct Known<'g> {
    graph: &'g Graph,
    config: &'g ModelConfig,
}

type Found = Vec<(String, Layout)>;

impl Known<'_> {
    /// The first of `names` that exists. With a bias the product alone has a name too, so callers list the sum before it.
    fn first(&self, names: &[String], holds: Layout) -> Found {
        names.iter().find(|name| has(self.graph, name)).map(|name| (name.clone(), holds)).into_iter().collect()
    }

    /// Queries and keys of an encoder as they were rotated; those of decoders are rotated by the operator of attention.
    fn rotated(&self, layer: usize) -> Found {
        let of = |heads: &str, stage| {
            let names = [format!("layers.{layer}.{heads}.normed.rotated"), format!("layers.{layer}.{heads}.rotated")];
            self.first(&names, Layout::One(ProbePoint { layer: Some(layer), stage }))
        };
        [of("query", Stage::QueryRope), of("key", Stage::KeyRope)].concat()
    }

    fn attention(&self, layer: usize) -> Found {
        let head_dim = self.config.head_dim();
        let (queries, keys) = (self.config.n_heads * head_dim, self.config.n_kv_heads * head_dim);
        let ours = |name: &str| format!("layers.{layer}.{name}");
        let genai = |name: &str| format!("/model/layers.{layer}/{name}/output_0");
        let optimum = |name: &str| format!("/model/layers.{layer}/{name}_output_0");
        let one = |stage| Layout::One(ProbePoint { layer: Some(layer), stage });
        let projected = |name: &str| {
            let of = |part: &str| [genai(&format!("attn/{name}/{part}")), optimum(&format!("self_attn/{name}/{part}"))];
            [of("Add"), of("MatMul")].concat()
        };
        let normed = |name: &str| [genai(&format!("attn/{name}/Reshape_2")), optimum(&format!("self_attn/{name}/Mul_1"))];
        let with = |ours: String, others: &[String]| [&[ours][..], others].concat();
        let mut found = self.first(
            &[ours("attention_input"), genai("input_layernorm"), optimum("input_layernorm/Mul_1")],
            one(Stage::AttentionNorm),
        );
        let together = [ours("qkv"), genai("attn/qkv_proj/Add"), genai("attn/qkv_proj/MatMul")];
        found.extend(self.first(&together, Layout::Projected { layer, queries, keys }));
        for (name, stage) in [("q_proj", Stage::Query), ("k_proj", Stage::Key), ("v_proj", Stage::Value)] {
            found.extend(self.first(&projected(name), one(stage)));
        }
        found.extend(self.first(&with(ours("query.normed"), &normed("q_norm")), one(Stage::QueryNorm)));
        found.extend(self.first(&with(ours("key.normed"), &normed("k_norm")), one(Stage::KeyNorm)));
        if has(self.graph, OF_ENCODERS) {
            found.extend(self.rotated(layer));
        }
        let cached = Layout::Cached { point: ProbePoint { layer: Some(layer), stage: Stage::KeyRope }, head_dim };
        found.extend(self.first(&[format!("present.{layer}.key")], cached));
        let projection = optimum("self_attn/o_proj/MatMul");
        let contexts = [vec![ours("context"), genai("attn/GroupQueryAttention")], self.input_of_product(&projection)].concat();
        found.extend(self.first(&contexts, one(Stage::AttentionContext)));
        let out = [vec![ours("attention")], projected("o_proj")].concat();
        found.extend(self.first(&out, one(Stage::AttentionOutput)));
        found
    }

    /// From the sum behind attention to the layer's result, in a graph of an encoder; a sum that is normed is its norm.
    fn encoder_mlp(&self, layer: usize) -> Found {
        let ours = |name: &str| format!("layers.{layer}.{name}");
        let is_gated = has(self.graph, &ours("gate"));
        let values = [
            (vec!["attention_output", "attention_sum"], Stage::AttentionResidual),
            (vec!["mlp_input"], Stage::MlpNorm),
            (vec!["gate"], Stage::Gate),
            (vec![if is_gated { "gated" } else { "up" }], Stage::Up),
            (vec!["product", "activated"], Stage::Activation),
            (vec!["down"], Stage::Down),
            (vec!["mlp_output", "mlp_sum"], Stage::MlpResidual),
        ];
        let names = |names: Vec<&str>| names.into_iter().map(ours).collect::<Vec<_>>();
        let of = |stage| Layout::One(ProbePoint { layer: Some(layer), stage });
        values.into_iter().flat_map(|(those, stage)| self.first(&names(those), of(stage))).collect()
    }

    fn mlp(&self, layer: usize) -> Found {
        let ours = |name: &str| format!("layers.{layer}.{name}");
        let genai = |name: &str| format!("/model/layers.{layer}/{name}");
        let optimum = |name: &str| format!("/model/layers.{layer}/{name}_output_0");
        let of_next = format!("layers.{}.attention_input.sum", layer + 1);
        let next_norm = format!("/model/layers.{}/input_layernorm/output_3", layer + 1);
        let product = |name: &str| {
            let of = |part: &str| [genai(&format!("mlp/{name}/{part}/output_0")), optimum(&format!("mlp/{name}/{part}"))];
            [of("Add"), of("MatMul")].concat()
        };
        let with = |ours: String, others: Vec<String>| [vec![ours], others].concat();
        let values = [
            (vec![ours("mlp_input.sum"), genai("post_attention_layernorm/output_3"), optimum("Add")], Stage::AttentionResidual),
            (
                vec![ours("mlp_input"), genai("post_attention_layernorm/output_0"), optimum("post_attention_layernorm/Mul_1")],
                Stage::MlpNorm,
            ),
            (with(ours("gate"), product("gate_proj")), Stage::Gate),
            (with(ours("up"), product("up_proj")), Stage::Up),
            (vec![ours("gated"), genai("mlp/Mul/output_0"), optimum("mlp/Mul")], Stage::Activation),
            (with(ours("down"), product("down_proj")), Stage::Down),
            (vec![of_next, next_norm, optimum("Add_1")], Stage::MlpResidual),
        ];
        let one = |stage| Layout::One(ProbePoint { layer: Some(layer), stage });
        values.into_iter().flat_map(|(names, stage)| self.first(&names, one(stage))).collect()
    }

    /// The activations of the product `product`, before they are quantised to 8 bits if they are. torch gives such values numbers, not names.
    fn input_of_product(&self, product: &str) -> Vec<String> {
        let rounded = format!("{product}_output_quantized");
        let is_product = |outputs: &[String]| outputs.iter().any(|output| output == product || *output == rounded);
        let nodes = self.graph.nodes().iter().filter(|node| node.op_type.starts_with("MatMul"));
        let inputs = nodes.filter(|node| is_product(&node.outputs)).filter_map(|node| node.inputs.first());
        inputs.map(|input| input.strip_suffix("_quantized").unwrap_or(input).to_owned()).collect()
    }
}

fn outside(stage: Stage) -> Layout {
    Layout::One(ProbePoint { layer: None, stage })
}

fn has(graph: &Graph, name: &str) -> bool {
    graph.main().producer(name).is_some()
}

impl Layout {
    /// Whether the value shows any of `points`.
    pub(crate) fn shows(self, points: &[ProbePoint]) -> bool {
        match self {
            Self::One(point) | Self::Cached { point, .. } => points.contains(&point),
            Self::Projected { layer, .. } => [Stage::Query, Stage::Key, Stage::Value]
                .into_iter()
                .any(|stage| points.contains(&ProbePoint { layer: Some(layer), stage })),
        }
    }

    /// Whether a value of `shape` from a run over `n` tokens can be read.
    pub(crate) fn fits(self, shape: &[i64], n: usize) -> bool {
        let is = |dim: i64, size: usize| usize::try_from(dim) == Ok(size);
        match (self, shape) {
            (Self::One(_), &[1, rows, ..]) => is(rows, n),
            (Self::Projected { queries, keys, .. }, &[1, rows, width]) => is(rows, n) && is(width, queries + 2 * keys),
            (Self::Cached { head_dim, .. }, &[1, _, rows, width]) => {
                is(rows, n) && usize::try_from(width).is_ok_and(|width| width >= head_dim)
            }
            _ => false,
        }
    }

    /// Adds what `values` of a `shape` that [fits](Self::fits) hold of `tokens` to `probes`.
    pub(crate) fn read(self, tokens: &[TokenId], shape: &[i64], values: &[f32], probes: &mut Vec<Probe>) {
        let n = tokens.len();
        let width = values.len() / n;
        match self {
            Self::One(point) => probes.push(Probe::new(point, values.to_vec(), tokens)),
            Self::Projected { layer, queries, keys } => {
                for (stage, from, to) in
                    [(Stage::Query, 0, queries), (Stage::Key, queries, queries + keys), (Stage::Value, queries + keys, width)]
                {
                    let part = values.chunks_exact(width).flat_map(|row| &row[from..to]).copied().collect();
                    probes.push(Probe::new(ProbePoint { layer: Some(layer), stage }, part, tokens));
                }
            }
            Self::Cached { point, head_dim } => {
                let padded = shape.last().map_or(head_dim, |&width| width as usize);
                let heads = values.len() / (n * padded);
                let row = |token: usize| (0..heads).flat_map(move |head| &values[(head * n + token) * padded..][..head_dim]);
                probes.push(Probe::new(point, (0..n).flat_map(row).copied().collect(), tokens));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_unexpected_shapes_are_not_read() {
        let point = ProbePoint { layer: Some(0), stage: Stage::Key };
        let one = Layout::One(point);
        assert!(one.fits(&[1, 5, 8], 5) && one.fits(&[1, 5, 2, 4], 5));
        assert!(!one.fits(&[1, 4, 8], 5) && !one.fits(&[2, 5, 8], 5) && !one.fits(&[5], 5) && !one.fits(&[1, -1, 8], 5));
        let projected = Layout::Projected { layer: 0, queries: 8, keys: 4 };
        assert!(projected.fits(&[1, 5, 16], 5) && !projected.fits(&[1, 5, 12], 5));
        let cached = Layout::Cached { point, head_dim: 4 };
        assert!(cached.fits(&[1, 2, 5, 4], 5) && cached.fits(&[1, 2, 5, 8], 5));
        assert!(!cached.fits(&[1, 2, 5, 2], 5) && !cached.fits(&[1, 2, 4, 4], 5));
    }
}
