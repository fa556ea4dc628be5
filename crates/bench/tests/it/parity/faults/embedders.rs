//! The same for embedding models: each family on both engines.

use tandem_bench::parity::{Finding, StageVerdict, Verdict, WhichSide};
use tandem_core::{BackendKind, DType};

use super::ENGINES;
use super::edit::Copy;
use crate::support::{Loaded, compare, for_faults, shown, skips};

/// Breaks a copy of the embedder `name` with `edit` for each engine in turn, and expects `stage` of `layer` to be named.
fn check(name: &str, layer: Option<usize>, stage: &str, edit: impl Fn(&mut Copy)) {
    if skips() {
        return;
    }
    let golden = format!("embedders/{name}");
    let mut copy = Copy::new(&golden);
    edit(&mut copy);
    for engine in ENGINES {
        let other = ENGINES.into_iter().find(|&other| other != engine).unwrap();
        let reference = Loaded::embedder(copy.write(), engine, DType::F32);
        let sound = Loaded::embedder(&golden, other, DType::F32);
        let pair = compare(&sound, &reference, for_faults());
        let all = shown(&sound, &pair);
        assert_eq!((pair.verdict, pair.vectors.verdict), (Verdict::Different, StageVerdict::Fail), "{all}");
        match &pair.bisect.as_ref().unwrap_or_else(|| panic!("{all}")).finding {
            Finding::Stage { layer: found_layer, stage: found, side, worst, .. } => {
                assert_eq!((*found_layer, *found, *side), (layer, stage, WhichSide::Candidate), "{all}");
                assert!(!worst.is_empty());
            }
            other => panic!("{other:?}\n{all}"),
        }
    }
}

/// Damages a few values of a weight.
fn damaged(name: &'static str) -> impl Fn(&mut Copy) {
    move |copy| copy.weight(name, |values| values.iter_mut().step_by(3).for_each(|value| *value += 0.5))
}

#[test]
fn attention_of_bert() {
    check("bert-mean", Some(1), "query", damaged("encoder.layer.1.attention.self.query.weight"));
    check("bert-mean", Some(0), "attention_output", damaged("encoder.layer.0.attention.output.dense.weight"));
}

#[test]
fn norm_of_a_sum_in_roberta() {
    check("roberta", Some(1), "attention_residual", damaged("encoder.layer.1.attention.output.LayerNorm.weight"));
    check("xlm-roberta", None, "embedding", damaged("embeddings.position_embeddings.weight"));
}

#[test]
fn distances_of_mpnet() {
    check("mpnet", Some(0), "attention_context", damaged("encoder.relative_attention_bias.weight"));
}

#[test]
fn feed_forward_block_of_distilbert() {
    check("distilbert", Some(0), "up", damaged("transformer.layer.0.ffn.lin1.bias"));
    check("distilbert", Some(1), "down", damaged("transformer.layer.1.ffn.lin2.weight"));
}

#[test]
fn gated_block_and_window_of_modernbert() {
    check("modernbert", Some(3), "gate", damaged("layers.3.mlp.Wi.weight"));
    check("modernbert", None, "final_norm", damaged("final_norm.weight"));
    check("modernbert", Some(1), "attention_context", |copy| copy.config("local_attention", 4));
}

#[test]
fn decoders_that_embed() {
    check("qwen3", Some(1), "key_norm", damaged("layers.1.self_attn.k_norm.weight"));
    check("qwen2-bidirectional", Some(0), "value", damaged("layers.0.self_attn.v_proj.bias"));
    check("gemma3", Some(2), "mlp_residual", damaged("layers.2.post_feedforward_layernorm.weight"));
    check("llama", Some(1), "down", damaged("layers.1.mlp.down_proj.weight"));
}

#[test]
fn sound_embedders_have_no_fault() {
    if skips() {
        return;
    }
    for (name, n_shown) in [
        ("bert-mean", 9),
        ("roberta", 9),
        ("mpnet", 9),
        ("distilbert", 9),
        ("modernbert", 13),
        ("qwen3", 15),
        ("qwen2-bidirectional", 15),
        ("gemma3", 17),
        ("mistral", 13),
    ] {
        let golden = format!("embedders/{name}");
        let reference = Loaded::embedder(&golden, BackendKind::Candle, DType::F32);
        // Rows of 48 weights are not whole blocks.
        for dtype in [DType::F32, DType::Int8].into_iter().take(if name == "modernbert" { 1 } else { 2 }) {
            for engine in ENGINES {
                let pair = compare(&reference, &Loaded::embedder(&golden, engine, dtype), for_faults());
                let (all, found) = (shown(&reference, &pair), pair.bisect.as_ref());
                let found = found.unwrap_or_else(|| panic!("{name} {engine} {dtype}\n{all}"));
                assert_eq!(found.finding, Finding::Nothing, "{name} {engine} {dtype}\n{all}");
                let n = found.stages.iter().filter(|stage| stage.layer == Some(1)).count();
                assert!(n >= n_shown, "{name} {engine} {dtype}: {n}");
            }
        }
    }
}
