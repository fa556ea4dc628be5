//! One weight, one value of the configuration, or the positions are broken for one engine at a time: the comparison fails, and the stage
//! that is named is the one that was broken.

mod adapted;
mod broken;
mod edit;
mod embedders;
mod published;

use std::sync::Arc;

use tandem_bench::parity::{Finding, PairReport, StageVerdict, Verdict, WhichSide};
use tandem_core::backend::Numerics;
use tandem_core::{BackendKind, DType, Model};

use self::broken::{LateCache, Shifted};
use self::edit::Copy;
use crate::support::{Loaded, compare, for_faults, shown, skips};

const ENGINES: [BackendKind; 2] = [BackendKind::Onnx, BackendKind::Candle];

/// Breaks a copy of `golden` with `edit` for each engine in turn, and expects `stage` of `layer` to be named.
fn check(golden: &str, layer: Option<usize>, stage: &str, edit: impl Fn(&mut Copy)) {
    if skips() {
        return;
    }
    for engine in ENGINES {
        let other = ENGINES.into_iter().find(|&other| other != engine).unwrap();
        let reference = Loaded::new(golden, other, DType::F32, Numerics::Fast);
        let mut copy = Copy::new(golden);
        edit(&mut copy);
        let candidate = Loaded::new(copy.write(), engine, DType::F32, Numerics::Fast);
        let pair = compare(&reference, &candidate, for_faults());
        assert_found(&reference, &pair, layer, stage);
    }
}

/// Breaks a model with `wrap` for each engine in turn.
fn compare_wrapped(golden: &str, engine: BackendKind, wrap: impl Fn(Arc<dyn Model>) -> Arc<dyn Model>) -> (Loaded, PairReport) {
    let other = ENGINES.into_iter().find(|&other| other != engine).unwrap();
    let reference = Loaded::new(golden, other, DType::F32, Numerics::Fast);
    let mut candidate = Loaded::new(golden, engine, DType::F32, Numerics::Fast);
    candidate.model = wrap(Arc::clone(&candidate.model));
    let pair = compare(&reference, &candidate, for_faults());
    (reference, pair)
}

#[track_caller]
fn assert_found(reference: &Loaded, pair: &PairReport, layer: Option<usize>, stage: &str) {
    let all = shown(reference, pair);
    assert_eq!((pair.verdict, pair.logits.verdict), (Verdict::Different, StageVerdict::Fail), "{all}");
    match &pair.bisect.as_ref().unwrap_or_else(|| panic!("{all}")).finding {
        Finding::Stage { layer: found_layer, stage: found, side, worst, .. } => {
            assert_eq!((*found_layer, *found, *side), (layer, stage, WhichSide::Candidate), "{all}");
            assert!(!worst.is_empty());
        }
        other => panic!("{other:?}\n{all}"),
    }
}

#[test]
fn rope_theta() {
    check("qwen2-tied", Some(0), "key_rope", |copy| copy.config("rope_theta", 10_000.0));
}

#[test]
fn llama3_rope_factor() {
    check("llama3-rope", Some(0), "key_rope", |copy| copy.config_within("rope_parameters", "factor", 2.0));
}

#[test]
fn yarn_factor() {
    check("llama-yarn", Some(0), "key_rope", |copy| copy.config_within("rope_scaling", "factor", 2.0));
}

#[test]
fn linear_rope_left_out() {
    check("llama-linear", Some(0), "key_rope", |copy| copy.config_within("rope_parameters", "factor", 1.0));
}

#[test]
fn epsilon_of_the_norms() {
    check("qwen2-tied", Some(0), "attention_norm", |copy| copy.config("rms_norm_eps", 0.05));
}

#[test]
fn sliding_window() {
    check("mistral", Some(0), "attention_context", |copy| copy.config("sliding_window", 3));
}

#[test]
fn missing_bias_of_the_keys() {
    check("qwen2-tied", Some(0), "key", |copy| copy.weight("model.layers.0.self_attn.k_proj.bias", |values| values.fill(0.0)));
}

#[test]
fn doubled_bias_of_the_queries() {
    check("qwen2-untied", Some(1), "query", |copy| {
        copy.weight("model.layers.1.self_attn.q_proj.bias", |values| values.iter_mut().for_each(|value| *value *= 2.0));
    });
}

#[test]
fn transposed_projection() {
    check("qwen2-tied", Some(0), "attention_output", |copy| copy.transpose("model.layers.0.self_attn.o_proj.weight"));
}

#[test]
fn swapped_norms_of_queries_and_keys() {
    check("qwen3", Some(0), "query_norm", |copy| {
        copy.swap("model.layers.0.self_attn.q_norm.weight", "model.layers.0.self_attn.k_norm.weight");
    });
}

#[test]
fn swapped_gate_and_up() {
    check("llama3-rope", Some(1), "gate", |copy| {
        copy.swap("model.layers.1.mlp.gate_proj.weight", "model.layers.1.mlp.up_proj.weight");
    });
}

#[test]
fn swapped_norms_of_a_layer() {
    check("mistral", Some(1), "attention_norm", |copy| {
        copy.swap("model.layers.1.input_layernorm.weight", "model.layers.1.post_attention_layernorm.weight");
    });
}

#[test]
fn values_of_one_head_negated() {
    check("qwen2-untied", Some(0), "value", |copy| {
        copy.weight("model.layers.0.self_attn.v_proj.weight", |values| {
            let half = values.len() / 2;
            values[..half].iter_mut().for_each(|value| *value = -*value);
        });
    });
}

#[test]
fn one_row_of_the_last_projection() {
    check("qwen3", Some(1), "down", |copy| {
        copy.weight("model.layers.1.mlp.down_proj.weight", |values| values[..32].iter_mut().for_each(|value| *value += 0.5));
    });
}

#[test]
fn up_projection_of_the_second_layer() {
    check("llama-yarn", Some(1), "up", |copy| copy.weight("model.layers.1.mlp.up_proj.weight", |values| values.rotate_left(1)));
}

#[test]
fn norm_of_the_feed_forward_block() {
    check("qwen2-tied", Some(1), "mlp_norm", |copy| {
        copy.weight("model.layers.1.post_attention_layernorm.weight", |values| values[5] += 1.0);
    });
}

#[test]
fn last_norm() {
    check("mistral", None, "final_norm", |copy| copy.weight("model.norm.weight", |values| values.reverse()));
}

#[test]
fn rows_of_the_embedding_off_by_one() {
    check("qwen2-untied", None, "embedding", |copy| copy.weight("model.embed_tokens.weight", |values| values.rotate_left(32)));
}

#[test]
fn head_of_another_model() {
    check("qwen2-untied", None, "logits", |copy| copy.weight("lm_head.weight", |values| values.rotate_left(32)));
}

#[test]
fn positions_off_by_one() {
    if skips() {
        return;
    }
    for engine in ENGINES {
        let (reference, pair) = compare_wrapped("qwen2-tied", engine, |model| Arc::new(Shifted(model)));
        assert_found(&reference, &pair, Some(0), "key_rope");
    }
}

#[test]
fn a_cache_that_repeats_a_token_between_passes() {
    if skips() {
        return;
    }
    for engine in ENGINES {
        let (reference, pair) = compare_wrapped("llama3-rope", engine, |model| Arc::new(LateCache(model)));
        let all = shown(&reference, &pair);
        assert_eq!((pair.verdict, pair.consistency.verdict), (Verdict::Different, StageVerdict::Fail), "{all}");
        assert_eq!(pair.bisect.unwrap().finding, Finding::Cache { side: WhichSide::Candidate }, "{all}");
    }
}

#[test]
fn bisect_finds_nothing_in_sound_models() {
    if skips() {
        return;
    }
    for golden in ["qwen2-tied", "qwen2-untied", "qwen3", "llama3-rope", "llama-yarn", "llama-linear", "mistral", "demo"] {
        let reference = Loaded::new(golden, BackendKind::Candle, DType::F32, Numerics::Fast);
        for (engine, dtype) in
            [(BackendKind::Onnx, DType::F32), (BackendKind::Onnx, DType::Int8), (BackendKind::Candle, DType::Int4)]
        {
            let pair = compare(&reference, &Loaded::new(golden, engine, dtype, Numerics::Fast), for_faults());
            let found = pair.bisect.as_ref().unwrap();
            assert_eq!(found.finding, Finding::Nothing, "{golden} {engine} {dtype}\n{}", shown(&reference, &pair));
            let n_expected = if golden == "qwen3" { 15 } else { 13 };
            assert!(found.stages.iter().filter(|stage| stage.layer == Some(0)).count() >= n_expected, "{golden}");
        }
    }
}
