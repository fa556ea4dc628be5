//! Sums of plans, and that they move as the model, its dtype and its context do.

use tandem_core::{BackendKind, DType};

use super::*;
use crate::catalog::Catalog;
use crate::machine::{AddressSpace, ControlGroup, Memory};

const GB: u64 = 1_000_000_000;

fn workload(backend: BackendKind, dtype: DType, n_tokens: usize) -> Workload {
    Workload { backend, dtype, n_tokens, context_length: n_tokens, threads: 2 }
}

fn planned(name: &str, backend: BackendKind, dtype: DType, n_tokens: usize) -> Plan {
    let catalog = Catalog::builtin();
    let subject = Subject::of_entry(catalog.find(name).unwrap());
    Plan::new(&subject, &workload(backend, dtype, n_tokens), &Measurements::default())
}

/// Peaks in MB of `tandem run … --json` (`peak_rss_bytes`), each in a process of its own, with the graph in the cache: tokens held, and
/// `--context`. Two threads, Linux; the tokenizers of the checkpoints of random weights have 2.7 MB.
const MEASURED: [(&str, BackendKind, DType, usize, usize, u64); 36] = [
    ("demo", BackendKind::Candle, DType::F32, 499, 512, 27),
    ("demo", BackendKind::Candle, DType::F32, 999, 1024, 30),
    ("demo", BackendKind::Candle, DType::Int8, 499, 512, 25),
    ("demo", BackendKind::Candle, DType::Int8, 999, 1024, 28),
    ("demo", BackendKind::Candle, DType::Int4, 499, 512, 25),
    ("demo", BackendKind::Candle, DType::Int4, 999, 1024, 28),
    ("demo", BackendKind::Onnx, DType::F32, 499, 512, 63),
    ("demo", BackendKind::Onnx, DType::F32, 1008, 1024, 63),
    ("demo", BackendKind::Onnx, DType::Int8, 499, 512, 56),
    ("demo", BackendKind::Onnx, DType::Int8, 1008, 1024, 59),
    ("demo", BackendKind::Onnx, DType::Int4, 499, 512, 54),
    ("demo", BackendKind::Onnx, DType::Int4, 1008, 1024, 56),
    ("qwen2.5-0.5b", BackendKind::Candle, DType::F32, 499, 512, 1077),
    ("qwen2.5-0.5b", BackendKind::Candle, DType::F32, 7992, 8192, 1287),
    ("qwen2.5-0.5b", BackendKind::Candle, DType::Int8, 499, 512, 640),
    ("qwen2.5-0.5b", BackendKind::Candle, DType::Int8, 7992, 8192, 859),
    ("qwen2.5-0.5b", BackendKind::Candle, DType::Int4, 499, 512, 390),
    ("qwen2.5-0.5b", BackendKind::Candle, DType::Int4, 7992, 8192, 586),
    ("qwen2.5-0.5b", BackendKind::Onnx, DType::F32, 499, 512, 2644),
    ("qwen2.5-0.5b", BackendKind::Onnx, DType::F32, 7992, 8192, 2837),
    ("qwen2.5-0.5b", BackendKind::Onnx, DType::Int8, 499, 512, 906),
    ("qwen2.5-0.5b", BackendKind::Onnx, DType::Int8, 7992, 8192, 1005),
    ("qwen2.5-0.5b", BackendKind::Onnx, DType::Int4, 499, 512, 590),
    ("qwen2.5-0.5b", BackendKind::Onnx, DType::Int4, 7992, 8192, 770),
    ("qwen3-0.6b", BackendKind::Candle, DType::F32, 499, 512, 1382),
    ("qwen3-0.6b", BackendKind::Candle, DType::F32, 7992, 8192, 3322),
    ("qwen3-0.6b", BackendKind::Candle, DType::Int8, 499, 512, 868),
    ("qwen3-0.6b", BackendKind::Candle, DType::Int8, 7992, 8192, 2664),
    ("qwen3-0.6b", BackendKind::Candle, DType::Int4, 499, 512, 570),
    ("qwen3-0.6b", BackendKind::Candle, DType::Int4, 7992, 8192, 2488),
    ("qwen3-0.6b", BackendKind::Onnx, DType::F32, 499, 512, 3295),
    ("qwen3-0.6b", BackendKind::Onnx, DType::F32, 7992, 8192, 5147),
    ("qwen3-0.6b", BackendKind::Onnx, DType::Int8, 499, 512, 1124),
    ("qwen3-0.6b", BackendKind::Onnx, DType::Int8, 7992, 8192, 2941),
    ("qwen3-0.6b", BackendKind::Onnx, DType::Int4, 499, 512, 818),
    ("qwen3-0.6b", BackendKind::Onnx, DType::Int4, 7992, 8192, 2739),
];

/// The models of [`MEASURED`].
fn measured_subject(name: &str) -> Subject {
    let catalog = Catalog::builtin();
    let shapes = |name: &str| Subject { tokenizer_bytes: 2_712_316, ..Subject::of_entry(catalog.find(name).unwrap()) };
    match name {
        "qwen2.5-0.5b" => shapes("qwen2.5:0.5b"),
        "qwen3-0.6b" => shapes("qwen3:0.6b"),
        _ => Subject {
            shape: Shape {
                vocab_size: 1024,
                hidden_size: 128,
                intermediate_size: 384,
                n_layers: 6,
                n_heads: 4,
                n_kv_heads: 2,
                head_dim: 32,
                tied: true,
                max_context: 1024,
            },
            weights: Weights::Checkpoint { bytes: 2_628_000 },
            tokenizer_bytes: 54_791,
        },
    }
}

#[test]
fn plans_are_near_what_was_measured() {
    for (name, backend, dtype, n_tokens, context_length, peak) in MEASURED {
        let work = Workload { context_length, ..workload(backend, dtype, n_tokens) };
        let planned = Plan::new(&measured_subject(name), &work, &Measurements::default()).peak() as f64 / 1e6;
        let off = planned / peak as f64 - 1.0;
        assert!(off.abs() < 0.10, "{name} {backend} {dtype} {n_tokens}: {planned:.0} for {peak} MB, {:+.1} %", 100.0 * off);
    }
}

fn memory(available: u64) -> Memory {
    Memory { total: 64 * GB, available, control_group: None, address_space: None }
}

#[test]
fn the_parts_add_up() {
    for backend in [BackendKind::Onnx, BackendKind::Candle] {
        for dtype in [DType::F32, DType::Int8, DType::Int4] {
            let plan = planned("qwen2.5:0.5b", backend, dtype, 512);
            assert_eq!(plan.parts().map(|part| part.bytes).sum::<u64>(), plan.peak(), "{backend} {dtype}");
            assert!(plan.unreclaimable() <= plan.peak() && plan.peak() < plan.address_space(2), "{backend} {dtype}");
        }
    }
}

#[test]
fn more_of_anything_takes_more() {
    for backend in [BackendKind::Onnx, BackendKind::Candle] {
        let peak = |name, dtype, n| planned(name, backend, dtype, n).peak();
        assert!(peak("qwen3:0.6b", DType::F32, 512) > peak("qwen3:0.6b", DType::Int8, 512), "{backend}");
        assert!(peak("qwen3:0.6b", DType::Int8, 512) > peak("qwen3:0.6b", DType::Int4, 512), "{backend}");
        assert!(peak("qwen3:4b", DType::Int4, 512) > 2 * peak("qwen3:1.7b", DType::Int4, 512), "{backend}");
        let running = |n| planned("qwen3:0.6b", backend, DType::Int4, n).running.iter().map(|part| part.bytes).sum::<u64>();
        // 28 layers of 8 heads of 128, keys and values, in f32.
        assert!(running(8192) - running(512) >= (8192 - 512) * 28 * 8 * 128 * 2 * 4, "{backend}");
    }
}

#[test]
fn a_limit_that_is_too_small_is_refused_with_the_sum() {
    let plan = planned("qwen2.5:0.5b", BackendKind::Onnx, DType::F32, 512);
    let work = workload(BackendKind::Onnx, DType::F32, 512);
    assert_eq!(judge(&plan, &work, &memory(16 * GB)), Verdict::Fits);
    assert_eq!(judge(&plan, &work, &memory(GB)), Verdict::Tight { usable: GB });

    let group = ControlGroup { file: "/sys/fs/cgroup/memory.max".into(), limit: GB, used: 0 };
    let grouped = Memory { control_group: Some(group.clone()), ..memory(16 * GB) };
    let Verdict::Refused(limit) = judge(&plan, &work, &grouped) else { panic!("it would be killed") };
    assert_eq!((limit.left, limit.needed), (GB, plan.unreclaimable()));
    assert!(limit.name.contains("memory.max"), "{}", limit.name);
    // The embedding's pages can be taken back: what is above the limit with them is slow, and not killed.
    let narrow = ControlGroup { limit: plan.unreclaimable(), ..group };
    assert!(matches!(judge(&plan, &work, &Memory { control_group: Some(narrow), ..memory(16 * GB) }), Verdict::Tight { .. }));

    let space = AddressSpace { limit: plan.peak(), used: 0 };
    let limited = Memory { address_space: Some(space), ..memory(16 * GB) };
    let Verdict::Refused(limit) = judge(&plan, &work, &limited) else { panic!("it would fail") };
    assert_eq!(limit.needed, plan.address_space(2));
}

#[test]
fn the_known_rule_of_the_field_holds() {
    let choice = |gibibytes: u64, backend, dtype| {
        let memory = Memory::of_machine_with(gibibytes << 30);
        let choice = choose(&Catalog::builtin(), &memory, (backend, dtype), None, 4, &Measurements::default());
        choice.taken().map(|candidate| candidate.entry.name.clone()).unwrap_or_default()
    };
    for backend in [BackendKind::Onnx, BackendKind::Candle] {
        // candle packs nothing beside the weights, and keeps those of 16 bits.
        let least = if backend == BackendKind::Onnx { "qwen2.5:0.5b" } else { "qwen2.5:1.5b" };
        assert_eq!(choice(4, backend, DType::F32), least, "{backend}");
        let parameters = Catalog::builtin().find(&choice(16, backend, DType::F32)).unwrap().parameters;
        assert!(parameters >= 1_500_000_000, "{backend}: {parameters}");
        assert_eq!(choice(64, backend, DType::Int4), "qwen3:8b", "{backend}");
        assert_eq!(choice(1, backend, DType::F32), "", "{backend}");
    }
}

#[test]
fn a_choice_shows_what_else_there_was() {
    let memory = Memory::of_machine_with(16 << 30);
    let choice = choose(&Catalog::builtin(), &memory, (BackendKind::Candle, DType::F32), Some(512), 4, &Measurements::default());
    assert_eq!(choice.usable, memory.usable());
    let sizes: Vec<u64> = choice.candidates.iter().map(|candidate| candidate.entry.parameters).collect();
    assert!(sizes.is_sorted_by(|a, b| a >= b), "{sizes:?}");
    let taken = choice.taken.unwrap();
    assert!(choice.candidates[..taken].iter().all(|candidate| !candidate.fits) && choice.candidates[taken].fits);
    let open = choice.candidates.iter().all(|candidate| candidate.entry.licence == "apache-2.0");
    assert!(open, "what needs a token or is for research alone is named by its name only");
    assert_eq!(choice.smallest().unwrap().entry.name, "qwen2.5:0.5b");
}

#[test]
fn what_was_measured_moves_the_plan() {
    let before = planned("qwen2.5:0.5b", BackendKind::Onnx, DType::Int4, 512);
    let work = workload(BackendKind::Onnx, DType::Int4, 512);
    let mut measured = Measurements::default();
    measured.add(&work, before.sum(), before.sum() + 50_000_000);
    let subject = Subject::of_entry(Catalog::builtin().find("qwen2.5:0.5b").unwrap());
    let after = Plan::new(&subject, &work, &measured);
    assert_eq!(after.peak(), before.peak() + 50_000_000);
    assert_eq!(after.sum(), before.sum());
    assert_eq!(after.correction, Some(50_000_000));
    assert_eq!(after.unreclaimable(), before.unreclaimable() + 50_000_000);

    let mut less = Measurements::default();
    less.add(&work, before.sum(), before.sum() - 50_000_000);
    let after = Plan::new(&subject, &work, &less);
    assert_eq!(after.peak(), before.peak() - 50_000_000);
    assert_eq!(after.unreclaimable(), before.unreclaimable(), "what a group kills for is not less because files were");
}
