//! Every form of an adapter is the same adapter, and is written as it was read.

use tandem_core::DType;
use tandem_core::adapter::{Adapter, AdapterFiles, LowRankFactors, ReplacedTensor, write_mlx, write_onnx_adapter, write_peft};

use super::{Golden, difference, product, read};

#[test]
fn factors_are_those_that_peft_lists() {
    for golden in Golden::all() {
        let (adapter, name) = (golden.adapter(), golden.name());
        let modules = golden.record["modules"].as_object().unwrap();
        let found: Vec<&str> = adapter.factors().iter().map(|factors| factors.module.as_str()).collect();
        assert_eq!(found, modules.keys().collect::<Vec<_>>(), "{name}");
        for factors in adapter.factors() {
            let expected = &modules[&factors.module];
            let numbers = |field: &str| -> Vec<f32> { serde_json::from_value(expected[field].clone()).unwrap() };
            let size = |field: &str| expected[field].as_u64().unwrap() as usize;
            assert_eq!([factors.rank, factors.inputs(), factors.outputs()], ["rank", "inputs", "outputs"].map(size), "{name}");
            assert_eq!(factors.scale, expected["scale"].as_f64().unwrap() as f32, "{name}: {}", factors.module);
            assert_eq!(factors.a[..3], numbers("a_first"), "{name}: {}", factors.module);
            assert_eq!(factors.b[factors.b.len() - 3..], numbers("b_last"), "{name}: {}", factors.module);
            assert_eq!(factors.magnitude.is_some(), expected["magnitude"].as_bool().unwrap(), "{name}");
        }
        let base = format!("goldens/{}", golden.record["base"].as_str().unwrap());
        let origin = adapter.origin();
        assert_eq!((origin.format, origin.base_model.as_deref()), (Some("peft"), Some(base.as_str())));
        assert_eq!(origin.sha256.as_ref().map(String::len), Some(64));
    }
}

#[test]
fn other_forms_are_the_same_adapter() {
    let mut n = 0;
    for golden in Golden::all() {
        for form in ["mlx", "onnx", "gguf"] {
            let Some(other) = golden.form(form) else { continue };
            n += 1;
            assert_same(&golden.adapter(), &other, 2e-7, &format!("{} as {form}", golden.name()));
        }
    }
    assert_eq!(n, 8);
}

/// `gguf-q8_0/decoded` is what llama.cpp's own Python makes of the blocks.
#[test]
fn blocks_of_eight_bits_are_decoded_as_llama_cpp_does() {
    let mut n = 0;
    for golden in Golden::all() {
        let Some(form) = golden.form("gguf-q8_0") else { continue };
        n += 1;
        let decoded = read(&golden.directory.join("gguf-q8_0/decoded"), None);
        assert_eq!(form.factors(), decoded.factors(), "{}", golden.name());
        assert_ne!(form.factors(), golden.adapter().factors());
        assert_same(&golden.adapter(), &form, 0.02, golden.name());
    }
    assert_eq!(n, 2);
}

#[test]
fn peft_form_comes_back_to_the_bit() {
    let place = tempfile::tempdir().unwrap();
    for golden in Golden::all() {
        let (adapter, target) = (golden.adapter(), place.path().join(golden.name()));
        write_peft(&adapter, &target).unwrap();
        let back = read(&target, None);
        assert_eq!(back.factors(), adapter.factors(), "{}", golden.name());
        let sorted = |adapter: &Adapter| {
            let mut all = adapter.replaced().to_vec();
            all.sort_by(|a, b| a.name.cmp(&b.name));
            all
        };
        assert_eq!(sorted(&back), sorted(&adapter), "{}", golden.name());
        assert_eq!(back.origin().base_model, adapter.origin().base_model);
    }
}

#[test]
fn mlx_form_comes_back_to_the_bit_where_one_scale_is_for_all() {
    let place = tempfile::tempdir().unwrap();
    for golden in Golden::all() {
        let (adapter, target, name) = (golden.adapter(), place.path().join(golden.name()), golden.name());
        let written = write_mlx(&adapter, &target, Some(golden.config().n_layers));
        if name == "qwen2-saved" || name == "mistral-head" {
            let error = written.unwrap_err().to_string();
            assert!(error.contains("mlx-lm") && !target.exists(), "{error}");
            continue;
        }
        written.unwrap();
        let back = read(&target, None);
        match name {
            "llama3-patterns" => assert_same(&adapter, &back, 2e-7, name),
            _ => assert_eq!(back.factors(), adapter.factors(), "{name}"),
        }
    }
}

#[test]
fn scales_that_are_powers_of_two_survive_every_form() {
    let factors = |module: &str, rank: usize, scale: f32| {
        let values = |n: usize| (0..n).map(|i| ((i * 31 + rank * 17) % 101) as f32 / 7.0 - 5.0).collect();
        LowRankFactors { module: module.into(), a: values(rank * 6), b: values(rank * 4), rank, scale, magnitude: None }
    };
    let q = |layer: usize| format!("model.layers.{layer}.self_attn.q_proj");
    let all = vec![factors(&q(0), 2, 2.0), factors(&q(1), 3, 0.5), factors("model.layers.2.mlp.up_proj", 1, 2.0)];
    let adapter = Adapter::new("mine", all).unwrap();
    let place = tempfile::tempdir().unwrap();
    let (mlx, onnx, peft) = (place.path().join("mlx"), place.path().join("a.onnx_adapter"), place.path().join("peft"));
    write_mlx(&adapter, &mlx, None).unwrap();
    write_onnx_adapter(&read(&mlx, None), &onnx, DType::F32).unwrap();
    write_peft(&read(&onnx, None), &peft).unwrap();
    for path in [mlx, onnx, peft] {
        let back = read(&path, None);
        let products = |adapter: &Adapter| -> Vec<Vec<f32>> {
            let mut all: Vec<_> = adapter.factors().iter().collect();
            all.sort_by(|a, b| a.module.cmp(&b.module));
            all.into_iter().map(product).collect()
        };
        assert_eq!(products(&back), products(&adapter), "{}", path.display());
    }
}

#[test]
fn onnx_form_is_written_as_onnx_runtime_writes_it() {
    let place = tempfile::tempdir().unwrap();
    for name in ["qwen2-all-linear", "mistral-regex"] {
        let golden = Golden::named(name);
        let target = place.path().join(format!("{name}.onnx_adapter"));
        write_onnx_adapter(&golden.adapter(), &target, DType::F32).unwrap();
        assert_eq!(read(&target, None).factors(), golden.form("onnx").unwrap().factors(), "{name}");
        let target = place.path().join(format!("{name}-f16.onnx_adapter"));
        write_onnx_adapter(&golden.adapter(), &target, DType::F16).unwrap();
        assert_same(&golden.adapter(), &read(&target, None), 2e-3, name);
    }
}

#[test]
fn forms_without_a_place_for_a_part_refuse_it_and_write_nothing() {
    let place = tempfile::tempdir().unwrap();
    let target = place.path().join("target");
    let check = |result: Result<(), tandem_core::Error>, expected: &str| {
        let error = result.unwrap_err();
        assert!(error.to_string().contains(expected) && error.hint().is_some() && !target.exists(), "{error}");
    };
    let (dora, saved) = (Golden::named("qwen3-dora").adapter(), Golden::named("qwen2-saved").adapter());
    check(write_onnx_adapter(&dora, &target, DType::F32), "magnitudes (DoRA)");
    check(write_onnx_adapter(&saved, &target, DType::F32), "replaces whole tensors");
    check(write_onnx_adapter(&Golden::named("qwen3-layers").adapter(), &target, DType::Int8), "f32 and f16 are written");
    let other = LowRankFactors { module: "model.layers.0.mlp.gate_proj".into(), ..saved.factors()[0].clone() };
    let mixed = Adapter::new("mixed", dora.factors().iter().cloned().chain([other]).collect()).unwrap();
    check(write_peft(&mixed, &target), "12 of its 13 modules");
    check(write_mlx(&mixed, &target, None), "12 of its 13 modules");
    let weight = ReplacedTensor { name: format!("{}.weight", saved.factors()[0].module), shape: vec![1], values: vec![1.0] };
    let both = Adapter::new("both", saved.factors().to_vec()).unwrap().with_replaced(vec![weight]).unwrap();
    check(write_peft(&both, &target), "has factors for the same weight");
    write_peft(&dora, &target).unwrap();
    let error = write_peft(&dora, &target).unwrap_err().to_string();
    assert!(error.contains("exists already"), "{error}");
}

#[test]
fn llama_rows_need_the_base() {
    let golden = Golden::named("llama3-all-linear");
    let files = AdapterFiles::discover(&golden.directory.join("gguf/adapter.gguf"), "mine").unwrap();
    let error = files.read(None).unwrap_err();
    assert!(error.to_string().contains("without its base") && error.hint().is_some(), "{error}");
    let other = Golden::named("gemma2-all-linear");
    assert!(AdapterFiles::discover(&other.directory.join("gguf"), "mine").unwrap().read(None).is_ok());
}

/// That both change the same modules by the same products, with the same magnitudes.
fn assert_same(expected: &Adapter, got: &Adapter, tolerance: f32, what: &str) {
    let modules = |adapter: &Adapter| adapter.factors().iter().map(|factors| factors.module.clone()).collect::<Vec<_>>();
    assert_eq!(modules(got), modules(expected), "{what}");
    for (got, expected) in got.factors().iter().zip(expected.factors()) {
        let far = difference(&product(got), &product(expected));
        assert!(far <= tolerance, "{what}: {} is off by {far}", got.module);
        assert_eq!(got.magnitude, expected.magnitude, "{what}: {}", got.module);
    }
}
