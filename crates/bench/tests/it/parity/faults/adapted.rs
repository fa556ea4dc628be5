//! Adapters on both sides: a sound one has no fault, and one factor that is changed on one side is found by its module.

use std::sync::Arc;

use tandem_bench::parity::{Finding, Method, PairReport, Verdict, WhichSide};
use tandem_core::adapter::{Adapter, AdapterFiles, LowRankFactors, ScaledAdapter};
use tandem_core::backend::Numerics;
use tandem_core::{BackendKind, DType};

use super::ENGINES;
use crate::support::{Loaded, compare, for_faults, golden, shown, skips};

/// Adapters of `goldens/adapters` and the checkpoints that they are for.
const ADAPTERS: [(&str, &str); 7] = [
    ("qwen2-tied", "qwen2-all-linear"),
    ("qwen2-tied", "qwen2-rslora"),
    ("qwen3", "qwen3-dora"),
    ("qwen3", "qwen3-layers"),
    ("llama3-rope", "llama3-patterns"),
    ("mistral", "mistral-regex"),
    ("mistral", "mistral-head"),
];

fn adapter(name: &str) -> Adapter {
    AdapterFiles::discover(&golden("adapters").join(name), name).unwrap().read(None).unwrap()
}

fn scaled(adapter: Adapter) -> Vec<ScaledAdapter> {
    vec![ScaledAdapter::new(Arc::new(adapter))]
}

fn load(base: &str, engine: BackendKind, dtype: DType) -> Loaded {
    Loaded::new(base, engine, dtype, Numerics::Fast)
}

fn other(engine: BackendKind) -> BackendKind {
    ENGINES.into_iter().find(|&other| other != engine).unwrap()
}

/// `adapter` with the factors of `module` changed.
fn changed(adapter: &Adapter, module: &str, change: impl Fn(&mut LowRankFactors)) -> Adapter {
    let mut factors = adapter.factors().to_vec();
    let own = factors.iter_mut().find(|factors| factors.module.ends_with(module)).unwrap();
    let before = own.clone();
    change(own);
    assert_ne!(*own, before);
    Adapter::new("changed", factors).unwrap()
}

/// Changes one value of one factor.
fn one_value(factors: &mut LowRankFactors) {
    factors.b[1] += 1.0;
}

#[track_caller]
fn assert_module(reference: &Loaded, pair: &PairReport, stage: &str, module: &str, side: WhichSide) {
    let all = shown(reference, pair);
    assert_eq!(pair.verdict, Verdict::Different, "{all}");
    let bisect = pair.bisect.as_ref().unwrap_or_else(|| panic!("{all}"));
    let Finding::Stage { stage: found, module: found_module, side: found_side, .. } = &bisect.finding else {
        panic!("{:?}\n{all}", bisect.finding)
    };
    assert_eq!((*found, found_module.as_deref(), *found_side), (stage, Some(module), side), "{all}");
    assert!(all.contains(&format!("the module `{module}`, which an adapter changes")), "{all}");
}

#[test]
fn sound_adapters_have_no_fault() {
    if skips() {
        return;
    }
    for (base, name) in ADAPTERS {
        let adapters = scaled(adapter(name));
        let reference = load(base, BackendKind::Candle, DType::F32).adapted(&adapters);
        for (engine, dtype) in
            [(BackendKind::Onnx, DType::F32), (BackendKind::Onnx, DType::Int8), (BackendKind::Candle, DType::Int4)]
        {
            let pair = compare(&reference, &load(base, engine, dtype).adapted(&adapters), for_faults());
            let (all, found) = (shown(&reference, &pair), pair.bisect.as_ref().unwrap());
            assert_eq!((&found.finding, found.method), (&Finding::Nothing, Method::Replay), "{name} {engine} {dtype}\n{all}");
        }
    }
}

#[test]
fn sums_of_adapters_have_no_fault() {
    if skips() {
        return;
    }
    let adapters: Vec<ScaledAdapter> = [("qwen2-all-linear", 0.5), ("qwen2-rslora", -1.5)]
        .map(|(name, scale)| ScaledAdapter { adapter: Arc::new(adapter(name)), scale })
        .into();
    for engine in ENGINES {
        let reference = load("qwen2-tied", other(engine), DType::F32).adapted(&adapters);
        let pair = compare(&reference, &load("qwen2-tied", engine, DType::F32).adapted(&adapters), for_faults());
        assert_eq!(pair.bisect.as_ref().unwrap().finding, Finding::Nothing, "{}", shown(&reference, &pair));
    }
}

/// Changes the factors of `module` of the adapter `name` for each engine in turn, and expects `module` to be named, at `stage`.
fn check(base: &str, name: &str, stage: &str, module: &str, change: impl Fn(&mut LowRankFactors)) {
    let sound = adapter(name);
    let broken = scaled(changed(&sound, module, change));
    for engine in ENGINES {
        let reference = load(base, other(engine), DType::F32).adapted(&scaled(sound.clone()));
        let pair = compare(&reference, &load(base, engine, DType::F32).adapted(&broken), for_faults());
        assert_module(&reference, &pair, stage, module, WhichSide::Candidate);
    }
}

#[test]
fn one_value_of_a_factor_names_its_module() {
    if skips() {
        return;
    }
    check("qwen2-tied", "qwen2-all-linear", "query", "layers.1.self_attn.q_proj", one_value);
    check("qwen2-tied", "qwen2-all-linear", "key", "layers.0.self_attn.k_proj", one_value);
    check("qwen2-tied", "qwen2-rslora", "value", "layers.1.self_attn.v_proj", one_value);
    check("mistral", "mistral-head", "attention_output", "layers.0.self_attn.o_proj", one_value);
    check("mistral", "mistral-head", "logits", "lm_head", one_value);
    check("llama3-rope", "llama3-patterns", "gate", "layers.0.mlp.gate_proj", one_value);
    check("llama3-rope", "llama3-patterns", "up", "layers.1.mlp.up_proj", one_value);
    check("qwen3", "qwen3-dora", "down", "layers.1.mlp.down_proj", one_value);
}

#[test]
fn other_faults_of_an_adapter_name_its_module() {
    if skips() {
        return;
    }
    check("qwen2-tied", "qwen2-all-linear", "up", "layers.1.mlp.up_proj", |factors| factors.scale /= 2.0);
    check("mistral", "mistral-regex", "key", "layers.0.self_attn.k_proj", |factors| factors.a.rotate_left(1));
    check("qwen3", "qwen3-dora", "query", "layers.0.self_attn.q_proj", |factors| factors.magnitude = None);
    check("qwen3", "qwen3-layers", "attention_output", "layers.1.self_attn.o_proj", |factors| factors.b.fill(0.0));
}

#[test]
fn an_engine_that_leaves_its_adapters_out_is_named() {
    if skips() {
        return;
    }
    let adapters = scaled(adapter("qwen3-layers"));
    for engine in ENGINES {
        let reference = load("qwen3", other(engine), DType::F32).adapted(&adapters);
        let mut candidate = load("qwen3", engine, DType::F32);
        candidate.adapters.clone_from(&adapters);
        let pair = compare(&reference, &candidate, for_faults());
        assert_module(&reference, &pair, "query", "layers.1.self_attn.q_proj", WhichSide::Candidate);
        // The other way round it is the reference that does not compute what its adapters say.
        let pair = compare(&candidate, &reference, for_faults());
        assert_module(&candidate, &pair, "query", "layers.1.self_attn.q_proj", WhichSide::Reference);
    }
}

/// Of these two families no graph is made.
#[test]
fn without_a_replay_the_module_is_named_by_growth() {
    for (base, name, stage, module) in [
        ("gemma2", "gemma2-all-linear", "gate", "layers.1.mlp.gate_proj"),
        ("phi3", "phi3-packed", "attention_output", "layers.1.self_attn.o_proj"),
    ] {
        let sound = adapter(name);
        let broken = scaled(changed(&sound, module, one_value));
        let load = || load(base, BackendKind::Candle, DType::F32);
        let reference = load().adapted(&scaled(sound));
        let pair = compare(&reference, &load().adapted(&broken), for_faults());
        assert_eq!(pair.bisect.as_ref().unwrap().method, Method::Growth);
        assert_module(&reference, &pair, stage, module, WhichSide::Candidate);
    }
}

#[test]
fn a_head_that_is_the_embedding_is_adapted_alone() {
    if skips() {
        return;
    }
    let config = load("qwen2-tied", BackendKind::Candle, DType::F32).files.model_config().unwrap();
    let factors = |size: f32| {
        let values = |n: usize, size: f32| (0..n).map(|i| ((i * i + 7 * i) % 97) as f32 / 97.0 * size - size / 2.0).collect();
        let (a, b) = (values(config.hidden_size * 2, 0.5), values(config.vocab_size * 2, size));
        LowRankFactors { module: "lm_head".into(), a, b, rank: 2, scale: 1.0, magnitude: None }
    };
    let [sound, broken] = [1.0, 1.5].map(|size| scaled(Adapter::new("head", vec![factors(size)]).unwrap()));
    for engine in ENGINES {
        let reference = load("qwen2-tied", other(engine), DType::F32).adapted(&sound);
        let pair = compare(&reference, &load("qwen2-tied", engine, DType::F32).adapted(&sound), for_faults());
        assert_eq!(pair.bisect.as_ref().unwrap().finding, Finding::Nothing, "{}", shown(&reference, &pair));
        let pair = compare(&reference, &load("qwen2-tied", engine, DType::F32).adapted(&broken), for_faults());
        assert_module(&reference, &pair, "logits", "lm_head", WhichSide::Candidate);
    }
}
