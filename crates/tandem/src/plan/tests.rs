//! What a plan meets, and what moves it.

use std::num::Saturating;

use super::*;
use crate::machine::{AddressSpace, ControlGroup, Memory};

const GB: u64 = 1_000_000_000;

const ENGINE: Engine = Engine { backend: BackendKind::Onnx, dtype: DType::Int4, threads: 2 };

/// 2.1 GB, of which 0.5 GB can be read again.
fn plan(measured: &Measurements) -> MemoryPlan {
    let footprint = Footprint {
        kept: vec![Part::own("weights", Saturating(3 * GB / 2)), Part::file("embedding", Saturating(GB / 2))],
        loading: vec![Part::file("checkpoint", Saturating(GB / 20))],
        running: vec![Part::own("KV cache", Saturating(GB / 10))],
        decoding: Decoding::default(),
    };
    MemoryPlan::new(ENGINE, Workload { n_tokens: 512, context_length: 512 }, footprint, measured)
}

fn memory(available: u64) -> Memory {
    Memory { total: 64 * GB, available, control_group: None, address_space: None }
}

#[test]
fn limit_that_is_too_small_is_refused_with_the_sum() {
    let plan = plan(&Measurements::default());
    assert_eq!((plan.peak(), plan.unreclaimable()), (21 * GB / 10, 16 * GB / 10));
    assert_eq!(plan.judge(&memory(16 * GB)), Verdict::Fits);
    assert_eq!(plan.judge(&memory(GB)), Verdict::Tight);

    let group = ControlGroup { file: "/sys/fs/cgroup/memory.max".into(), limit: GB, used: 0 };
    let grouped = Memory { control_group: Some(group.clone()), ..memory(16 * GB) };
    let Verdict::Refused(limit) = plan.judge(&grouped) else { panic!("it would be killed") };
    assert_eq!((limit.left, limit.needed), (GB, plan.unreclaimable()));
    assert!(limit.name.contains("memory.max"), "{}", limit.name);
    // The embedding's pages can be taken back: what is above the limit with them is slow, and not killed.
    let narrow = ControlGroup { limit: plan.unreclaimable(), ..group };
    assert!(matches!(plan.judge(&Memory { control_group: Some(narrow), ..memory(16 * GB) }), Verdict::Tight));

    let space = AddressSpace { limit: plan.peak(), used: 0 };
    let Verdict::Refused(limit) = plan.judge(&Memory { address_space: Some(space), ..memory(16 * GB) }) else {
        panic!("it would fail")
    };
    assert_eq!(limit.needed, plan.address_space());
}

#[test]
fn measured_peaks_correct_a_plan() {
    let before = plan(&Measurements::default());
    let with = |peak| {
        let mut measured = Measurements::default();
        measured.add(&ENGINE, before.footprint.sum(), peak);
        plan(&measured)
    };
    let more = with(before.peak() + 50_000_000);
    assert_eq!((more.peak(), more.correction), (before.peak() + 50_000_000, Some(50_000_000)));
    assert_eq!(more.unreclaimable(), before.unreclaimable() + 50_000_000);
    assert_eq!(more.to_string(), "weights 1.5 GB + embedding 500 MB + KV cache 100 MB + 50 MB more as measured");
    let less = with(before.peak() - 50_000_000);
    assert_eq!(less.peak(), before.peak() - 50_000_000);
    assert_eq!(less.unreclaimable(), before.unreclaimable(), "what a group kills for is not less because files were");
}

#[test]
fn devices_with_memory_of_their_own_are_not_planned() {
    let footprint: EstimateFootprint = std::sync::Arc::new(|_| Footprint::default());
    let planner = Planner { engine: ENGINE, device: Device::Cuda(0), context_length: 100, footprint };
    assert!(planner.plan(1, &Measurements::default()).unwrap_err().to_string().contains("`cuda:0`"));
    let planner = Planner { device: Device::Cpu, ..planner };
    let plan = planner.plan(1000, &Measurements::default()).unwrap();
    assert_eq!(plan.workload, Workload { n_tokens: 100, context_length: 100 });
}

#[test]
fn the_most_exact_dtype_that_fits_and_is_fast_is_chosen() {
    let estimate = |dtype, tokens_per_second, fits| {
        let plan = plan(&Measurements::default());
        Estimate { plan: MemoryPlan { engine: Engine { dtype, ..ENGINE }, ..plan }, tokens_per_second, fits }
    };
    let check = |speeds: [f64; 3], fits: [bool; 3], expected| {
        let dtypes = [DType::F32, DType::Int8, DType::Int4].into_iter().zip(speeds).zip(fits);
        let choice = DTypeChoice::among(dtypes.map(|((dtype, speed), fits)| estimate(dtype, speed, fits)).collect()).unwrap();
        assert_eq!((choice.chosen().dtype(), choice.most_exact().dtype()), (expected, DType::F32), "{speeds:?} {fits:?}");
    };
    check([15.0, 40.0, 80.0], [true; 3], DType::F32);
    check([14.9, 40.0, 80.0], [true; 3], DType::Int8);
    check([20.0, 40.0, 80.0], [false, true, true], DType::Int8);
    check([20.0, 40.0, 80.0], [false, false, true], DType::Int4);
    check([1.0, 2.0, 4.0], [true; 3], DType::Int4);
    check([20.0, 40.0, 80.0], [false; 3], DType::Int4);
    assert_eq!(DTypeChoice::among(Vec::new()), None);
}

#[test]
fn speed_is_bandwidth_over_bytes() {
    let decoding = Decoding { bytes_per_token: 2 * GB, efficiency: 0.5 };
    assert_eq!(decoding.tokens_per_second(40e9), 10.0);
}
