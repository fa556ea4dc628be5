//! Models that fit the memory, that are tight, and that are refused; and what measured runs teach.

use tandem::machine::{ControlGroup, Memory};
use tandem::{DType, Error, Settings};

use crate::support::{engines, resolver};

const MB: u64 = 1_000_000;

fn memory(available: u64) -> Memory {
    Memory { total: 64_000 * MB, available, control_group: None, address_space: None }
}

#[test]
fn a_model_that_fits_is_loaded_without_advice() {
    for settings in engines() {
        let model = resolver().load(&"demo".into(), &settings).unwrap();
        let admission = model.admission().unwrap();
        assert_eq!(admission.advice, None);
        assert!(admission.plan.peak() < admission.usable);
    }
}

#[test]
fn more_than_is_free_is_loaded_with_advice() {
    for settings in engines() {
        let model = resolver().with_memory(memory(MB)).load(&"demo".into(), &settings).unwrap();
        let admission = model.admission().unwrap();
        assert_eq!(admission.usable, MB);
        assert_eq!(
            admission.advice.as_ref().map(ToString::to_string).as_deref(),
            Some("no model of the catalog fits, and none is smaller than `demo`")
        );
    }
}

#[test]
fn more_than_a_hard_limit_is_refused_with_the_sum() {
    let group = ControlGroup { file: "/sys/fs/cgroup/memory.max".into(), limit: 10 * MB, used: 0 };
    let resolver = resolver().with_memory(Memory { control_group: Some(group), ..memory(64_000 * MB) });
    for settings in engines() {
        let error = resolver.load(&"demo".into(), &settings).err().unwrap();
        assert!(matches!(&error, Error::OutOfMemory { model, .. } if model == "demo"), "{error}");
        assert!(error.to_string().contains("(`/sys/fs/cgroup/memory.max`) leaves 10 MB"), "{error}");
        assert!(error.hint().unwrap().to_string().starts_with("the sum: engine "), "{:?}", error.hint());
        let unchecked = resolver.load(&"demo".into(), &Settings { no_memory_check: true, ..settings }).unwrap();
        assert!(unchecked.admission().is_none());
    }
}

#[test]
fn measured_peaks_move_the_next_plan() {
    let dir = tempfile::tempdir().unwrap();
    let resolver = resolver().with_measurements(Some(dir.path().join("state/memory.json")));
    for settings in engines() {
        let settings = Settings { load: settings.load.clone().with_dtype(DType::Int4), ..settings };
        let plan = |n| resolver.estimate(resolver.catalog().find("qwen3:1.7b").unwrap(), &settings, n).unwrap().plan;
        let before = plan(512);
        resolver.learn(&before, before.peak() + before.peak() / 100).unwrap();
        assert_eq!(plan(512), before, "a plan that is right stays");
        resolver.learn(&before, before.peak() + 100 * MB).unwrap();
        assert_eq!(plan(512).peak(), before.peak() + 100 * MB);
        assert!(plan(512).to_string().ends_with("100 MB more as measured"));
    }
}

#[test]
fn learn_ignores_small_models() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("memory.json");
    for settings in engines() {
        let resolver = resolver().with_measurements(Some(file.clone()));
        let model = resolver.load(&"demo".into(), &settings).unwrap();
        let plan = resolver.plan(model.planner(), 64).unwrap();
        resolver.learn(&plan, 3 * plan.peak()).unwrap();
        assert!(!file.exists());
    }
}
