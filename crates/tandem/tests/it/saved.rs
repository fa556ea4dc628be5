//! Sequences in files: to the bit on one engine, after a check on the other.

use std::path::Path;

use tandem::{
    DType, Error, GenerateOptions, KvDType, Restored, SamplingOptions, Sequence, SessionOptions, Settings, StopOptions,
    TextModel, TokenId,
};
use tempfile::tempdir;

use crate::support::{engines, golden, resolver};

/// Checkpoints of four families, which both engines run.
const GOLDENS: [&str; 4] = ["qwen2-tied", "qwen3", "llama3-rope", "mistral"];

/// The tokens that follow `prompt` when the most probable is taken.
fn continued(model: &TextModel, sequence: &mut Sequence, prompt: &[TokenId]) -> (Vec<TokenId>, usize) {
    let options = GenerateOptions::new(Some(16), SamplingOptions::greedy(), StopOptions::default());
    let mut generation = model.generate(sequence, prompt, options).unwrap();
    generation.by_ref().for_each(|event| drop(event.unwrap()));
    (generation.tokens().to_vec(), generation.timings().n_prefilled)
}

fn prompt(model: &TextModel, n: usize) -> Vec<TokenId> {
    (0..n).map(|i| ((i * 7 + 3) % (model.info().vocab_size - 10)) as TokenId).collect()
}

/// Saves 40 tokens with each of `settings` and restores them with each; `check` sees where they came from, where they went, and how.
fn exchange(name: &str, settings: &[Settings], check: &dyn Fn(&Settings, &Settings, Restored)) {
    let directory = tempdir().unwrap();
    let models: Vec<TextModel> = settings.iter().map(|settings| resolver().load(&name.into(), settings).unwrap()).collect();
    for (from, source) in models.iter().zip(settings) {
        let file = directory.path().join("talk.kv");
        let prompt = prompt(from, 48);
        let mut sequence = from.new_sequence(&SessionOptions::default()).unwrap();
        let (expected, _) = continued(from, &mut sequence, &prompt[..40]);
        sequence.rewind(40).unwrap();
        from.save_sequence(&sequence, &file).unwrap();
        for (to, target) in models.iter().zip(settings) {
            let mut own = to.new_sequence(&SessionOptions::default()).unwrap();
            let restored = to.restore_sequence(&mut own, &file).unwrap();
            check(source, target, restored);
            let (tokens, n_prefilled) = continued(to, &mut own, &prompt[..40]);
            assert_eq!(n_prefilled, 1, "one token is computed for its logits");
            if source.load.dtype == target.load.dtype {
                assert_eq!(tokens, expected, "{name}");
            }
        }
    }
}

#[test]
fn a_conversation_begun_on_one_engine_goes_on_in_the_other() {
    let settings = engines();
    let check = |from: &Settings, to: &Settings, restored: Restored| match restored {
        Restored::Exact => assert_eq!(from.backend, to.backend),
        Restored::Checked { n_tokens: 16, difference } => {
            assert_ne!(from.backend, to.backend);
            assert!(difference > 0.0, "{difference}");
        }
        other => panic!("{other:?}"),
    };
    exchange("demo", &settings, &check);
    for name in GOLDENS {
        exchange(&golden(name).display().to_string(), &settings, &check);
    }
}

#[test]
fn keys_and_values_of_other_dtypes_are_checked() {
    let of = |dtype| {
        move |mut settings: Settings| {
            settings.load.dtype = Some(dtype);
            settings
        }
    };
    let mut all: Vec<Vec<Settings>> =
        [DType::Int8, DType::Int4].map(|dtype| engines().into_iter().map(of(dtype)).collect()).into();
    let held_in = |kv_dtype| {
        move |mut settings: Settings| {
            settings.load.kv_dtype = Some(kv_dtype);
            settings
        }
    };
    all.extend(
        engines().into_iter().map(|engine| [KvDType::F32, KvDType::F16].map(|dtype| held_in(dtype)(engine.clone())).into()),
    );
    for settings in all {
        exchange(&golden("qwen3").display().to_string(), &settings, &|_, _, restored| {
            assert!(matches!(restored, Restored::Exact | Restored::Checked { n_tokens: 16, .. }), "{restored:?}");
        });
    }
}

#[test]
fn another_models_conversation_is_refused() {
    let directory = tempdir().unwrap();
    let file = directory.path().join("talk.kv");
    for settings in engines() {
        let load = |path: &Path| resolver().load(&path.display().to_string().as_str().into(), &settings).unwrap();
        let (one, other) = (load(&golden("qwen2-tied")), load(&golden("qwen3")));
        let mut sequence = one.new_sequence(&SessionOptions::default()).unwrap();
        continued(&one, &mut sequence, &prompt(&one, 20));
        one.save_sequence(&sequence, &file).unwrap();
        let mut others = other.new_sequence(&SessionOptions::default()).unwrap();
        let refused = other.restore_sequence(&mut others, &file);
        assert!(matches!(&refused, Err(Error::BadField { field, .. }) if field == "weights"), "{refused:?}");
        let mut short = one.new_sequence(&SessionOptions::new().with_context_length(8)).unwrap();
        assert!(one.restore_sequence(&mut short, &file).is_err());
    }
}

#[test]
fn a_chat_goes_on_from_its_file() {
    let directory = tempdir().unwrap();
    let file = directory.path().join("talk.kv");
    for settings in engines() {
        let model = resolver().load(&"demo".into(), &settings).unwrap();
        let mut chat = model.chat().unwrap();
        chat.options.max_new_tokens = Some(8);
        chat.say("Tell me a story about a fox.").unwrap().for_each(|event| drop(event.unwrap()));
        chat.save_cache(&file).unwrap();
        let n = chat.n_cached();
        let mut later = model.chat().unwrap();
        later.options = chat.options.clone();
        later.set_messages(chat.messages().to_vec());
        assert_eq!(later.restore_cache(&file).unwrap(), Restored::Exact);
        assert_eq!(later.n_cached(), n);
        let said = |chat: &mut tandem::Chat| {
            let mut reply = chat.say("And then?").unwrap();
            reply.by_ref().for_each(|event| drop(event.unwrap()));
            (reply.tokens().to_vec(), reply.timings().n_reused)
        };
        assert_eq!(said(&mut later), said(&mut chat));
    }
}
