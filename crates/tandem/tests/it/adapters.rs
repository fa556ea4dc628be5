//! Adapters found, applied, switched and trained by way of the library.

use std::fs;
use std::path::{Path, PathBuf};

use tandem::adapters::{AdapterRef, AdapterSet, Conversation, TrainData, TrainEvent, TrainOptions, TrainPlan, train, write_mlx};
use tandem::files::ModelFile;
use tandem::{
    BackendKind, CancelToken, ChatMessage, Error, ModelFiles, ModelRef, SamplingOptions, SessionOptions, Settings, StopOptions,
    TextModel,
};

use crate::support::{engines, golden, hub_cache, on, resolver};

const BASE: &str = "qwen2-tied";

fn adapter() -> PathBuf {
    golden("adapters/qwen2-all-linear")
}

fn load(settings: &Settings) -> tandem::Result<TextModel> {
    resolver().load(&ModelRef::from(golden(BASE).as_path()), settings)
}

fn with(settings: &Settings, adapters: &[AdapterRef]) -> Settings {
    Settings { adapters: adapters.to_vec(), ..settings.clone() }
}

fn reference(path: &Path) -> AdapterRef {
    AdapterRef::new(path.display().to_string(), 1.0)
}

/// Twelve greedy tokens.
fn answer(model: &TextModel) -> Vec<u32> {
    let mut sequence = model.new_sequence(&SessionOptions::default()).unwrap();
    let options = tandem::GenerateOptions::new(Some(12), SamplingOptions::greedy(), StopOptions::default());
    let mut generation = model.generate(&mut sequence, &[3, 14, 15, 9, 2, 6], options).unwrap();
    generation.by_ref().for_each(|event| drop(event.unwrap()));
    generation.tokens().to_vec()
}

#[test]
fn adapter_by_its_path_answers_alike_on_both_engines_and_is_taken_off_again() {
    let mut answers = Vec::new();
    for settings in engines() {
        let plain = answer(&load(&settings).unwrap());
        let model = load(&with(&settings, &[reference(&adapter())])).unwrap();
        let applied = &model.info().adapters;
        assert_eq!((applied.len(), applied[0].scale), (1, 1.0));
        assert_eq!(applied[0].sha256.as_ref().map(String::len), Some(64));
        let adapted = answer(&model);
        assert_ne!(adapted, plain);
        let without = model.with_adapters(&[]).unwrap();
        assert_eq!((answer(&without), without.info().adapters.len()), (plain, 0));
        assert_eq!(answer(&model), adapted, "the other model stays as it is");
        answers.push(adapted);
    }
    assert!(answers.windows(2).all(|pair| pair[0] == pair[1]), "{answers:?}");
}

/// An adapter whose factors are blocks of 8 bits does what llama.cpp's own Python reads in them does, to the token, on both engines.
#[test]
fn gguf_adapter_in_eight_bits_answers_as_its_decoded_form() {
    for (base, name) in [("qwen2-tied", "qwen2-all-linear"), ("llama3-rope", "llama3-all-linear")] {
        let place = golden(&format!("adapters/{name}/gguf-q8_0"));
        let mut answers = Vec::new();
        for settings in engines() {
            let base = resolver().load(&ModelRef::from(golden(base).as_path()), &settings).unwrap();
            let set = |path: &Path| {
                let mut set = AdapterSet::new(base.clone());
                set.add("mine", &[reference(path)]).unwrap();
                answer(set.get("mine").unwrap())
            };
            let (blocks, decoded) = (set(&place.join("adapter.gguf")), set(&place.join("decoded")));
            assert_eq!(blocks, decoded, "{name}");
            assert_ne!(blocks, answer(&base), "{name}");
            answers.push(blocks);
        }
        assert!(answers.windows(2).all(|pair| pair[0] == pair[1]), "{name}: {answers:?}");
    }
}

#[test]
fn set_switches_by_name_and_is_unchanged_by_an_error() {
    let Some(settings) = engines().into_iter().next() else { return };
    let mut set = AdapterSet::new(load(&settings).unwrap());
    set.add("whole", &[reference(&adapter())]).unwrap();
    let half = AdapterRef::new(adapter().display().to_string(), 0.5);
    set.add("two halves", &[half.clone(), half]).unwrap();
    assert_eq!(set.names().collect::<Vec<_>>(), ["two halves", "whole"]);
    assert_eq!(answer(set.get("whole").unwrap()), answer(set.get("two halves").unwrap()));
    assert_ne!(answer(set.base()), answer(set.get("whole").unwrap()));
    let error = set.add("whole", &[reference(&golden("adapters/llama3-all-linear"))]).unwrap_err();
    assert!(matches!(error, Error::BadField { .. }), "{error}");
    assert_ne!(answer(set.base()), answer(set.get("whole").unwrap()));
    assert!(set.get("none").is_none());
}

#[test]
fn adapter_of_the_hub_is_found_in_the_cache() {
    let Some(settings) = engines().into_iter().next() else { return };
    let (cache, hub) = hub_cache();
    let repository = cache.path().join("models--owner--style");
    let commit = "0123456789012345678901234567890123456789";
    let snapshot = repository.join("snapshots").join(commit);
    fs::create_dir_all(&snapshot).unwrap();
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        fs::copy(adapter().join(name), snapshot.join(name)).unwrap();
    }
    fs::create_dir_all(repository.join("refs")).unwrap();
    fs::write(repository.join("refs/main"), commit).unwrap();
    let settings = with(&settings, &["owner/style".parse().unwrap()]);
    let model = resolver().with_hub(hub.clone()).load(&"owner/name".into(), &settings).unwrap();
    assert_eq!(model.info().adapters[0].name, "owner/style");
    let missing = with(&settings, &["owner/none".parse().unwrap()]);
    assert!(resolver().with_hub(hub).load(&"owner/name".into(), &missing).is_err());
}

#[test]
fn adapters_that_cannot_be_are_errors_before_any_weight_is_read() {
    let Some(settings) = engines().into_iter().next() else { return };
    let problem = |adapter: AdapterRef| load(&with(&settings, &[adapter])).err().unwrap().to_string();
    assert!(problem(AdapterRef::new("./no-such-adapter", 1.0)).contains("no adapter is at this path"));
    assert!(problem(AdapterRef::new(adapter().display().to_string(), f32::NAN)).contains("not finite"));
    let dir = tempfile::tempdir().unwrap();
    let copy = |name: &str| fs::copy(adapter().join(name), dir.path().join(name)).unwrap();
    copy("adapter_config.json");
    let whole = copy("adapter_model.safetensors");
    let file = fs::File::options().write(true).open(dir.path().join("adapter_model.safetensors")).unwrap();
    file.set_len(whole / 2).unwrap();
    assert!(problem(reference(dir.path())).contains("adapter_model.safetensors"));
}

#[test]
fn adapter_that_is_replaced_on_the_disk_stays_what_was_read() {
    let Some(settings) = engines().into_iter().next() else { return };
    let dir = tempfile::tempdir().unwrap();
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        fs::copy(adapter().join(name), dir.path().join(name)).unwrap();
    }
    let model = load(&with(&settings, &[reference(dir.path())])).unwrap();
    let before = answer(&model);
    fs::write(dir.path().join("adapter_model.safetensors"), vec![0; 5000]).unwrap();
    assert_eq!(answer(&model), before);
}

#[test]
fn form_of_mlx_answers_the_same() {
    let Some(settings) = engines().into_iter().next() else { return };
    let dir = tempfile::tempdir().unwrap();
    let files = ModelFiles::discover(&golden(BASE), BASE).unwrap();
    let read = reference(&adapter()).read(Some(&files.model_config().unwrap())).unwrap();
    let target = dir.path().join("mlx");
    write_mlx(&read.adapter, &target, None).unwrap();
    let of = |adapter: AdapterRef| answer(&load(&with(&settings, &[adapter])).unwrap());
    assert_eq!(of(reference(&target)), of(reference(&adapter())));
}

fn conversations() -> Vec<Conversation> {
    let of = |i: usize| {
        let question = ChatMessage::user(["The fox", "The rain", "The hill", "A boat"][i % 4]);
        let answer = ChatMessage::assistant(["river and the wood", "fell on the hill"][i % 2]);
        Conversation { line: i + 1, messages: vec![question, answer] }
    };
    (0..20).map(of).collect()
}

fn plan(directory: &Path, steps: usize) -> TrainPlan {
    TrainPlan {
        options: TrainOptions { steps, rank: 4, alpha: 8.0, learning_rate: 0.01, warmup: 2, ..TrainOptions::default() },
        directory: directory.to_owned(),
        evaluate_every: 0,
        save_every: 3,
        resume: false,
        no_memory_check: false,
        cancel: CancelToken::new(),
    }
}

#[test]
fn training_that_was_stopped_goes_on_to_the_same_adapter() {
    if !tandem::backends::compiled().contains(&BackendKind::Candle) {
        return eprintln!("skipped: this build has no backend `candle`");
    }
    let files = ModelFiles::discover(&golden(BASE), BASE).unwrap();
    let load_options = on(BackendKind::Candle).load;
    let data = TrainData { conversations: conversations(), held_out: None, max_tokens: 64 };
    let dir = tempfile::tempdir().unwrap();
    let (whole, parts) = (dir.path().join("whole"), dir.path().join("parts"));
    let trained = train(&files, &load_options, &data, &plan(&whole, 12), &mut |_| ()).unwrap();
    let (before, after) = trained.held_out.unwrap();
    assert!(after < 0.8 * before, "{before} {after}");

    let first = plan(&parts, 12);
    let cancel = first.cancel.clone();
    let stopped = train(&files, &load_options, &data, &first, &mut |event| {
        if matches!(event, TrainEvent::Updated(report, _) if report.step == 5) {
            cancel.cancel();
        }
    });
    assert!(matches!(stopped, Err(Error::Cancelled)));
    assert!(!parts.exists(), "what is not complete is not there");
    let mut begun_at = None;
    let second = TrainPlan { resume: true, ..plan(&parts, 12) };
    let resumed = train(&files, &load_options, &data, &second, &mut |event| {
        if let TrainEvent::Ready { step, .. } = event {
            begun_at = Some(step);
        }
    });
    assert_eq!(begun_at, Some(5));
    assert_eq!(resumed.unwrap().held_out, Some((before, after)));
    let weights = |directory: &Path| fs::read(directory.join("adapter_model.safetensors")).unwrap();
    assert!(weights(&whole) == weights(&parts), "the same to the bit");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "no state is left behind");
    for settings in engines() {
        let model = load(&with(&settings, &[reference(&whole)])).unwrap();
        assert_eq!(model.info().adapters[0].base_model.as_deref(), Some(BASE));
    }
    let again = train(&files, &load_options, &data, &plan(&whole, 12), &mut |_| ()).unwrap_err();
    assert!(again.to_string().contains("there is something at this path"), "{again}");
}

#[test]
fn training_needs_answers_and_a_template() {
    if !tandem::backends::compiled().contains(&BackendKind::Candle) {
        return eprintln!("skipped: this build has no backend `candle`");
    }
    let mut files = ModelFiles::discover(&golden(BASE), BASE).unwrap();
    let load_options = on(BackendKind::Candle).load;
    let dir = tempfile::tempdir().unwrap();
    let problem = |data: &TrainData, files: &ModelFiles| {
        train(files, &load_options, data, &plan(&dir.path().join("none"), 2), &mut |_| ()).unwrap_err().to_string()
    };
    let short = TrainData { conversations: conversations(), held_out: None, max_tokens: 2 };
    assert!(problem(&short, &files).contains("leaves no answer to learn"));
    let data = TrainData { max_tokens: 64, ..short };
    let config = serde_json::json!({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"});
    let place = dir.path().join("tokenizer_config.json");
    fs::write(&place, config.to_string()).unwrap();
    (files.tokenizer_config, files.chat_template) = (Some(ModelFile::Path(place)), None);
    assert!(problem(&data, &files).contains("template"));
}
