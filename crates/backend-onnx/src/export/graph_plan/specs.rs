//! A model's configuration, as the graph builder describes decoders and encoders.

use tandem_core::checkpoint::Checkpoint;
use tandem_core::config::{Activation, EncoderConfig, GemmaConfig, MAX_RELATIVE_DISTANCE, ModelConfig, RopeConfig, RopeScaling};
use tandem_onnx_graph::{
    Activation as GraphActivation, DecoderSpec, EmbeddingSpec, EncoderLayer, EncoderSpec, Linear, Norm, NormKind, Norms,
    RelativeBias, RopeTable, Table,
};

/// A decoder over a KV cache; `name` is the model's.
pub(super) fn decoder(name: &str, config: &ModelConfig, checkpoint: &Checkpoint) -> DecoderSpec {
    DecoderSpec {
        name: name.into(),
        prefix: decoder_prefix(checkpoint).into(),
        n_layers: config.n_layers,
        vocab_size: config.vocab_size,
        hidden_size: config.hidden_size,
        intermediate_size: config.intermediate_size,
        n_heads: config.n_heads,
        n_kv_heads: config.n_kv_heads,
        head_dim: config.head_dim(),
        rms_norm_eps: config.norm_eps as f32,
        qkv_bias: config.qkv_bias,
        qk_norm: config.qk_norm,
        attention_output_bias: config.attention_output_bias,
        mlp_bias: config.mlp_bias,
        tie_word_embeddings: config.tie_word_embeddings,
        rope: rope_table(config, &config.rope),
        layer_windows: config.layer_windows.clone(),
    }
}

/// BERT and its descendants, of the form `encoder`; `has_mask` is for programs that pad.
pub(super) fn encoder(
    name: &str,
    config: &ModelConfig,
    encoder: &EncoderConfig,
    checkpoint: &Checkpoint,
    has_mask: bool,
) -> EncoderSpec {
    let names = config.encoder_names(|name| checkpoint.contains(name));
    let norm = |name: &String| Norm {
        kind: NormKind::Layer,
        weight: format!("{name}.{}", names.norm_suffixes[0]),
        bias: encoder.norm_bias.then(|| format!("{name}.{}", names.norm_suffixes[1])),
        epsilon: config.norm_eps as f32,
    };
    let around = |name: Option<&String>| match (encoder.norm_first, name.map(norm)) {
        (true, before) => Norms { before, ..Norms::default() },
        (false, of_sum) => Norms { of_sum, ..Norms::default() },
    };
    let table = |name: &String, rows: usize| Table { weight: format!("{name}.weight"), rows };
    let layers = names.layers.iter().zip(&config.layer_windows).map(|(layer, &window)| EncoderLayer {
        qkv: linear(&layer.qkv, config.qkv_bias),
        query_norm: None,
        key_norm: None,
        rope: encoder.window_rope_theta.map(|_| usize::from(window.is_some())),
        window,
        attention_out: linear([&layer.attention_out], config.attention_output_bias),
        attention_norms: around(layer.attention_norm.as_ref()),
        up: linear([&layer.up], config.mlp_bias),
        down: linear([&layer.down], config.mlp_bias),
        mlp_norms: around(Some(&layer.mlp_norm)),
    });
    let window_rope = encoder.window_rope_theta.map(of_theta);
    EncoderSpec {
        activation: activation(encoder.activation),
        is_gated: encoder.is_gated,
        embedding: EmbeddingSpec {
            words: table(&names.words, config.vocab_size),
            scale: None,
            token_types: names.token_types.as_ref().map(|name| table(name, encoder.n_token_types)),
            positions: names.positions.as_ref().zip(encoder.first_position).map(|(name, first)| {
                let rows = first + config.max_context;
                (table(name, rows), first)
            }),
            norm: Some(norm(&names.embedding_norm)),
        },
        relative_bias: names.relative_bias.as_ref().zip(encoder.relative_buckets).map(|(name, n_buckets)| RelativeBias {
            weight: format!("{name}.weight"),
            n_buckets,
            max_distance: MAX_RELATIVE_DISTANCE,
        }),
        ropes: window_rope.iter().flat_map(|window| [rope_table(config, &config.rope), rope_table(config, window)]).collect(),
        layers: layers.collect(),
        final_norm: names.final_norm.as_ref().map(norm),
        has_mask,
        ..sizes(name, config, (config.head_dim() as f64).powf(-0.5))
    }
}

/// A decoder of Llama's form, or Gemma 3, that encodes whole sequences: its tokens see those behind them too, or have no KV cache.
pub(super) fn without_cache(name: &str, config: &ModelConfig, checkpoint: &Checkpoint, has_mask: bool) -> EncoderSpec {
    let prefix = decoder_prefix(checkpoint);
    let gemma = config.gemma.as_ref();
    let norm = |name: String| Norm {
        kind: if gemma.is_some() { NormKind::RmsOfOnePlus } else { NormKind::Rms },
        weight: format!("{name}.weight"),
        bias: None,
        epsilon: config.norm_eps as f32,
    };
    let window_theta = gemma.and_then(|gemma: &GemmaConfig| gemma.window_rope_theta);
    let window_rope = window_theta.map(of_theta);
    let layers = config.layer_windows.iter().enumerate().map(|(layer, &window)| {
        let named = |part: &str| format!("{prefix}layers.{layer}.{part}");
        let head_norm = |part: &str| config.qk_norm.then(|| norm(named(part)));
        let around = |before: &str, after: Option<&str>| Norms {
            before: Some(norm(named(before))),
            after: after.map(|after| norm(named(after))),
            of_sum: None,
        };
        let [attention_norms, mlp_norms] = match gemma {
            Some(_) => [
                around("input_layernorm", Some("post_attention_layernorm")),
                around("pre_feedforward_layernorm", Some("post_feedforward_layernorm")),
            ],
            None => [around("input_layernorm", None), around("post_attention_layernorm", None)],
        };
        EncoderLayer {
            qkv: linear(&["q_proj", "k_proj", "v_proj"].map(|part| named(&format!("self_attn.{part}"))), config.qkv_bias),
            query_norm: head_norm("self_attn.q_norm"),
            key_norm: head_norm("self_attn.k_norm"),
            rope: Some(usize::from(window.is_some() && window_rope.is_some())),
            window,
            attention_out: linear(&[named("self_attn.o_proj")], config.attention_output_bias),
            attention_norms,
            up: linear(&["gate_proj", "up_proj"].map(|part| named(&format!("mlp.{part}"))), config.mlp_bias),
            down: linear(&[named("mlp.down_proj")], config.mlp_bias),
            mlp_norms,
        }
    });
    let score_scale = gemma.map_or(config.head_dim() as f64, |gemma| gemma.query_scale).powf(-0.5);
    EncoderSpec {
        activation: if gemma.is_some() { GraphActivation::GeluTanh } else { GraphActivation::Silu },
        is_gated: true,
        embedding: EmbeddingSpec {
            words: Table { weight: format!("{prefix}embed_tokens.weight"), rows: config.vocab_size },
            scale: gemma.map(|_| (config.hidden_size as f64).sqrt() as f32),
            token_types: None,
            positions: None,
            norm: None,
        },
        ropes: std::iter::once(&config.rope).chain(&window_rope).map(|rope| rope_table(config, rope)).collect(),
        layers: layers.collect(),
        final_norm: Some(norm(format!("{prefix}norm"))),
        is_causal: config.is_causal,
        has_mask,
        ..sizes(name, config, score_scale)
    }
}

/// What every encoder has.
fn sizes(name: &str, config: &ModelConfig, score_scale: f64) -> EncoderSpec {
    EncoderSpec {
        name: name.into(),
        hidden_size: config.hidden_size,
        intermediate_size: config.intermediate_size,
        n_heads: config.n_heads,
        n_kv_heads: config.n_kv_heads,
        head_dim: config.head_dim(),
        score_scale: score_scale as f32,
        activation: GraphActivation::Gelu,
        is_gated: false,
        embedding: EmbeddingSpec {
            words: Table { weight: String::new(), rows: config.vocab_size },
            scale: None,
            token_types: None,
            positions: None,
            norm: None,
        },
        relative_bias: None,
        ropes: Vec::new(),
        layers: Vec::new(),
        final_norm: None,
        is_causal: false,
        has_mask: false,
    }
}

/// Checkpoints of embedding models are published without it.
fn decoder_prefix(checkpoint: &Checkpoint) -> &'static str {
    if checkpoint.contains("model.embed_tokens.weight") { "model." } else { "" }
}

fn of_theta(theta: f64) -> RopeConfig {
    RopeConfig { theta, scaling: RopeScaling::Default }
}

fn rope_table(config: &ModelConfig, rope: &RopeConfig) -> RopeTable {
    RopeTable {
        inverse_frequencies: rope.inv_freq(config.head_dim()),
        attention_scaling: rope.attention_factor(),
        n_positions: config.max_context,
    }
}

fn linear<'n>(names: impl IntoIterator<Item = &'n String>, has_bias: bool) -> Linear {
    let names: Vec<&String> = names.into_iter().collect();
    let all = |kind: &str| names.iter().map(|name| format!("{name}.{kind}")).collect();
    Linear { weights: all("weight"), biases: if has_bias { all("bias") } else { Vec::new() } }
}

fn activation(activation: Activation) -> GraphActivation {
    match activation {
        Activation::Gelu => GraphActivation::Gelu,
        Activation::GeluTanh => GraphActivation::GeluTanh,
        Activation::Relu => GraphActivation::Relu,
        Activation::Silu => GraphActivation::Silu,
    }
}
