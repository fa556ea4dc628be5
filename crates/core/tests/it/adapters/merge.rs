//! Weights with adapters in them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use safetensors::SafeTensors;
use tandem_core::adapter::{Adapter, LowRankFactors, MergeOptions, Merged, ReplacedTensor, ScaledAdapter, write_merged};
use tandem_core::checkpoint::Checkpoint;
use tandem_core::files::ModelFiles;
use tandem_core::{CancelToken, DType, Error, Progress};

use super::{Golden, difference};

fn checkpoint(directory: &Path) -> (ModelFiles, Checkpoint) {
    let files = ModelFiles::discover(directory, "base").unwrap();
    let checkpoint = Checkpoint::open(&files).unwrap();
    (files, checkpoint)
}

#[test]
fn merged_weights_are_those_of_peft() {
    for golden in Golden::all() {
        let (_, base) = checkpoint(&golden.base);
        let adapters = [ScaledAdapter::new(golden.adapter())];
        let merged = Merged::new(&base, &adapters).unwrap();
        let tensors = fs::read(golden.directory.join("golden.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&tensors).unwrap();
        let step = golden.record["merged_row_step"].as_u64().unwrap() as usize;
        let expected: BTreeSet<String> =
            tensors.names().iter().filter_map(|name| Some(name.strip_prefix("merged.")?.into())).collect();
        let changed: BTreeSet<String> = base.names().filter(|name| merged.changes(name)).map(Into::into).collect();
        assert_eq!(changed, expected, "{}", golden.name());
        for name in expected {
            let view = tensors.tensor(&format!("merged.{name}")).unwrap();
            let rows: Vec<f32> = view.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
            let shape = base.tensor(&name).unwrap().shape;
            let width = if shape.len() > 1 { shape[1] } else { 1 };
            let values: Vec<f32> = merged.tensor(&name).unwrap().chunks(width).step_by(step).flatten().copied().collect();
            let far = difference(&values, &rows);
            assert!(far <= 1e-6, "{}: `{name}` is off by {far}", golden.name());
        }
    }
}

#[test]
fn scales_add_up_and_zero_is_the_base_to_the_bit() {
    let golden = Golden::named("qwen2-saved");
    let (_, base) = checkpoint(&golden.base);
    let scaled = |scale| ScaledAdapter { adapter: golden.adapter(), scale };
    for name in ["model.norm.weight", "model.layers.0.self_attn.q_proj.weight", "model.layers.1.self_attn.k_proj.bias"] {
        let own = base.tensor(name).unwrap().to_f32();
        let with = |adapters: &[ScaledAdapter]| Merged::new(&base, adapters).unwrap().tensor(name).unwrap();
        assert_eq!(with(&[scaled(0.0)]), own);
        let once = with(&[scaled(1.0)]);
        assert_ne!(once, own);
        let expected: Vec<f32> = own.iter().zip(&once).map(|(own, once)| own + 0.75 * (once - own)).collect();
        assert!(difference(&with(&[scaled(0.5), scaled(0.25)]), &expected) < 1e-6);
        assert!(difference(&with(&[scaled(1.0), scaled(-1.0)]), &own) < 1e-6);
    }
    assert_eq!(
        Merged::new(&base, &[scaled(1.0)]).unwrap().tensor("model.norm.weight").unwrap(),
        golden.adapter().replaced()[4].values
    );
}

#[test]
fn merged_checkpoint_has_the_weights_and_the_other_files() {
    let place = tempfile::tempdir().unwrap();
    for name in ["qwen2-saved", "qwen3-dora", "phi3-packed"] {
        let golden = Golden::named(name);
        let (files, base) = checkpoint(&golden.base);
        let adapters = [ScaledAdapter::new(golden.adapter())];
        let merged = Merged::new(&base, &adapters).unwrap();
        for dtype in [None, Some(DType::F32), Some(DType::F16), Some(DType::Bf16)] {
            let target = place.path().join(format!("{name}-{dtype:?}"));
            write_merged(&files, &adapters, &target, &MergeOptions { dtype, ..Default::default() }).unwrap();
            let (written_files, written) = checkpoint(&target);
            assert_eq!(written.names().collect::<BTreeSet<_>>(), base.names().collect(), "{name}");
            for tensor in base.names() {
                let (own, stored) = (base.tensor(tensor).unwrap(), written.tensor(tensor).unwrap());
                assert_eq!((stored.dtype, stored.shape), (dtype.unwrap_or(own.dtype), own.shape), "{name}: {tensor}");
                let expected: Vec<f32> =
                    merged.tensor(tensor).unwrap().into_iter().map(|value| rounded(value, stored.dtype)).collect();
                assert_eq!(stored.to_f32(), expected, "{name}: {tensor}");
            }
            let config = written_files.model_config().unwrap();
            assert_eq!(config.dtype, dtype.or(files.model_config().unwrap().dtype), "{name}");
            for file in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
                assert_eq!(fs::read(target.join(file)).unwrap(), fs::read(golden.base.join(file)).unwrap());
            }
            let error = write_merged(&files, &adapters, &target, &MergeOptions::default()).unwrap_err().to_string();
            assert!(error.contains("exists already"), "{error}");
        }
    }
}

#[test]
fn shards_stay_shards() {
    let place = tempfile::tempdir().unwrap();
    let (golden, base) = (Golden::named("mistral-regex"), place.path().join("base"));
    fs::create_dir(&base).unwrap();
    fs::copy(golden.base.join("config.json"), base.join("config.json")).unwrap();
    let weights = fs::read(golden.base.join("model.safetensors")).unwrap();
    let weights = SafeTensors::deserialize(&weights).unwrap();
    let mut map = serde_json::Map::new();
    for (number, file) in ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"].iter().enumerate() {
        let own: Vec<_> = weights.tensors().into_iter().filter(|(name, _)| name.contains("layers.1") == (number == 1)).collect();
        map.extend(own.iter().map(|(name, _)| (name.clone(), (*file).into())));
        fs::write(base.join(file), safetensors::serialize(own, None).unwrap()).unwrap();
    }
    fs::write(base.join("model.safetensors.index.json"), serde_json::json!({ "weight_map": map }).to_string()).unwrap();
    let (files, sharded) = checkpoint(&base);
    let adapters = [ScaledAdapter::new(golden.adapter())];
    let target = place.path().join("merged");
    write_merged(&files, &adapters, &target, &MergeOptions::default()).unwrap();
    let (written_files, written) = checkpoint(&target);
    assert_eq!(written_files.weights.len(), 2);
    let merged = Merged::new(&sharded, &adapters).unwrap();
    for name in sharded.names() {
        let short = |file: Option<&str>| file.and_then(|file| Path::new(file).file_name()).map(ToOwned::to_owned);
        assert_eq!(short(written.file_of(name)), short(sharded.file_of(name)));
        let stored = written.tensor(name).unwrap();
        let expected: Vec<f32> = merged.tensor(name).unwrap().into_iter().map(|value| rounded(value, stored.dtype)).collect();
        assert_eq!(stored.to_f32(), expected, "{name}");
    }
}

#[test]
fn what_the_base_lacks_or_cannot_hold_is_named_and_nothing_is_left() {
    let place = tempfile::tempdir().unwrap();
    let golden = Golden::named("qwen2-all-linear");
    let (files, _) = checkpoint(&golden.base);
    let check = |adapter: Adapter, dtype: Option<DType>, expected: &[&str]| {
        let adapters = [ScaledAdapter::new(Arc::new(adapter))];
        let error = write_merged(&files, &adapters, &place.path().join("out"), &MergeOptions { dtype, ..Default::default() });
        let error = error.unwrap_err().to_string();
        assert!(expected.iter().all(|part| error.contains(part)), "{error}");
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
    };
    let own = golden.adapter();
    let q = &own.factors()[3];
    let adapter = |factors: LowRankFactors| Adapter::new("mine", vec![factors]).unwrap();
    check(
        adapter(LowRankFactors { module: "model.layers.7.mlp.up_proj".into(), ..q.clone() }),
        None,
        &["layers.7.mlp.up_proj", "lacks"],
    );
    check(adapter(LowRankFactors { module: "model.norm".into(), ..q.clone() }), None, &["model.norm.weight", "[32]"]);
    check(adapter(LowRankFactors { b: vec![1.0; 4 * 9], ..q.clone() }), None, &[&q.module, "9 x 32"]);
    check(adapter(LowRankFactors { scale: 1e9, ..q.clone() }), Some(DType::F16), &[&q.module, "beyond the range of F16"]);
    check(adapter(q.clone()), Some(DType::Int8), &["int8"]);
    let with = |name: &str, n: usize| {
        let tensor = ReplacedTensor { name: name.into(), shape: vec![n], values: vec![1.0; n] };
        Adapter::new("mine", Vec::new()).unwrap().with_replaced(vec![tensor]).unwrap()
    };
    check(with("model.layers.0.mlp.up_proj.bias", 64), None, &["model.layers.0.mlp.up_proj.bias", "no such tensor"]);
    check(with("model.norm.weight", 31), None, &["model.norm.weight", "[31]", "[32]"]);
}

#[test]
fn cancelled_merge_leaves_nothing() {
    let place = tempfile::tempdir().unwrap();
    let golden = Golden::named("qwen3-layers");
    let (files, _) = checkpoint(&golden.base);
    let cancel = CancelToken::new();
    let (token, seen) = (cancel.clone(), Arc::new(std::sync::Mutex::new(Vec::new())));
    let events = Arc::clone(&seen);
    let progress = Progress::new(move |event| {
        events.lock().unwrap().push(event.bytes().unwrap());
        token.cancel();
    });
    let options = MergeOptions { progress, cancel, ..Default::default() };
    let error = write_merged(&files, &[ScaledAdapter::new(golden.adapter())], &place.path().join("out"), &options).unwrap_err();
    assert!(matches!(error, Error::Cancelled), "{error}");
    assert_eq!((fs::read_dir(place.path()).unwrap().count(), seen.lock().unwrap().len()), (0, 1));
}

fn rounded(value: f32, dtype: DType) -> f32 {
    match dtype {
        DType::F16 => half::f16::from_f32(value).to_f32(),
        DType::Bf16 => half::bf16::from_f32(value).to_f32(),
        _ => value,
    }
}
