//! Embedding models and rerankers as sentence-transformers answers for them, on every engine of the build.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;
use tandem::embedding::{EmbedOptions, Normalize, Prompt, Role, Truncate};
use tandem::rerank::{RerankOptions, TruncatePair};
use tandem::{Error, ModelRef, Settings};

use crate::support::{engines, golden, resolver};

fn reference(name: &str) -> ModelRef {
    ModelRef::Local(golden("embedders").join(name))
}

fn expected(name: &str) -> Value {
    serde_json::from_slice(&fs::read(golden("embedders").join(name).join("expected.json")).unwrap()).unwrap()
}

/// The golden directories whose names begin with `cross-`, or the others.
fn names(are_rerankers: bool) -> Vec<String> {
    let entries = fs::read_dir(golden("embedders")).unwrap().map(|entry| entry.unwrap());
    let with_golden = entries.filter(|entry| entry.path().join("expected.json").exists());
    let mut names: Vec<String> = with_golden.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.retain(|name| name.starts_with("cross-") == are_rerankers);
    names.sort();
    assert!(names.len() >= if are_rerankers { 5 } else { 15 }, "{names:?}");
    names
}

fn floats(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
}

fn strings(value: &Value) -> Vec<String> {
    serde_json::from_value(value.clone()).unwrap()
}

#[test]
fn rerankers_score_as_sentence_transformers_does() {
    let mut faults = Vec::new();
    for settings in engines() {
        for name in names(true) {
            let model = resolver().load_reranker(&reference(&name), &settings).unwrap();
            let expected = expected(&name);
            assert_eq!(model.config().max_tokens as u64, expected["max_seq_length"].as_u64().unwrap(), "{name}");
            assert_eq!(model.config().activation.name(), expected["activation"].as_str().unwrap().to_lowercase(), "{name}");
            for (i, case) in expected["cases"].as_array().unwrap().iter().enumerate() {
                let truncate = if case["truncation"] == "only_second" { TruncatePair::Document } else { TruncatePair::Longest };
                let options =
                    RerankOptions::new().with_truncate(truncate).with_instruction(case["prompt"].as_str().map(str::to_owned));
                let documents = strings(&case["documents"]);
                let scores = model.scores(case["query"].as_str().unwrap(), &documents, &options).unwrap();
                let (logits, expected_scores) = (floats(&case["logits"]), floats(&case["scores"]));
                for (d, score) in scores.iter().enumerate() {
                    let n_tokens = case["token_ids"][d].as_array().unwrap().len();
                    let is_cut = case["truncated"][d].as_bool().unwrap();
                    // A difference of two logits has lost digits.
                    let off = (f64::from(score.logit) - logits[d]).abs() / 2.0;
                    let off = off.max((score.score - expected_scores[d]).abs());
                    if off.is_nan() || off > 1e-5 || (score.n_tokens, score.n_cut > 0) != (n_tokens, is_cut) {
                        faults.push(format!("{name} on {:?}, case {i}, document {d}: {score:?}, {off:e}", settings.backend));
                    }
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// As published, without files for what the card says: the same weights and tokenizer as the golden, under the model's name. The prompt is
/// written out here.
#[test]
fn qwen3_rerankers_have_the_prompt_of_their_card() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (golden("embedders/cross-qwen3"), dir.path().join("Qwen3-Reranker-0.1B"));
    fs::create_dir(&to).unwrap();
    for file in ["config.json", "model.safetensors", "tokenizer.json"] {
        fs::copy(from.join(file), to.join(file)).unwrap();
    }
    let prompt = |query: &str, document: &str| {
        format!(
            "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct provided. Note that \
             the answer can only be \"yes\" or \"no\".<|im_end|>\n<|im_start|>user\n<Instruct>: Given a web search query, retrieve relevant \
             passages that answer the query\n<Query>: {query}\n<Document>: {document}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
        )
    };
    for settings in engines() {
        let reference = ModelRef::Local(to.clone());
        let model = resolver().load_reranker(&reference, &settings).unwrap();
        assert!(model.config().remarks.iter().any(|remark| remark.contains("card")), "{:?}", model.config().remarks);
        let generator = resolver().load(&reference, &settings).unwrap();
        let score = model.scores("a b", &["c d"], &RerankOptions::new()).unwrap()[0];
        let tokens = generator.tokenizer().encode(&prompt("a b", "c d"), tandem::SpecialTokens::Parse).unwrap();
        assert_eq!(score.n_tokens, tokens.len());
        let mut session = generator.model().new_session(&tandem::SessionOptions::new()).unwrap();
        let logits = session.append(&tokens, tandem_core::backend::LogitsRequest::Last(1)).unwrap();
        let of = |token: &str| logits.values()[generator.tokenizer().id(token).unwrap() as usize];
        assert!((score.logit - (of("yes") - of("no"))).abs() < 1e-4, "{score:?}");
    }
}

#[test]
fn the_best_document_comes_first() {
    for settings in engines() {
        let model = resolver().load_reranker(&reference("cross-bert"), &settings).unwrap();
        let case = &expected("cross-bert")["cases"][0];
        let best = model.rerank(case["query"].as_str().unwrap(), &strings(&case["documents"])).unwrap();
        assert!(best.is_sorted_by(|one, other| one.logit >= other.logit));
        let logits = floats(&case["logits"]);
        let first = (0..logits.len()).max_by(|&one, &other| logits[one].total_cmp(&logits[other])).unwrap();
        assert_eq!((best.len(), best[0].index), (logits.len(), first));
    }
}

#[test]
fn embeddings_are_those_of_sentence_transformers() {
    for settings in engines() {
        for name in names(false) {
            let model = resolver().load_embedder(&reference(&name), &settings).unwrap();
            let expected = expected(&name);
            let appends = model.config().remarks.iter().any(|remark| remark.contains("is appended"));
            for case in expected["cases"].as_array().unwrap() {
                if appends && case["appended_token"].is_null() {
                    continue;
                }
                let prompt = match (case["prompt"].as_str(), case["prompt_name"].as_str(), case["role"].as_str()) {
                    (Some(text), ..) => Prompt::Text(text.into()),
                    (_, Some(name), _) => Prompt::Named(name.into()),
                    (.., Some("query")) => Prompt::Role(Role::Query),
                    (.., Some(_)) => Prompt::Role(Role::Document),
                    _ => Prompt::Default,
                };
                let normalize = if case["normalize"] == true { Normalize::Yes } else { Normalize::Auto };
                let dimensions = case["dimensions"].as_u64().map(|n| n as usize);
                let options = EmbedOptions::new().with_prompt(prompt).with_normalize(normalize).with_dimensions(dimensions);
                let embeddings = model.embed(&strings(&case["texts"]), &options).unwrap();
                for (i, own) in embeddings.vectors().enumerate() {
                    let what = format!("{name} on {:?}, text {i}", settings.backend);
                    let vector = floats(&case["embeddings"][i]);
                    let largest = vector.iter().fold(0.0_f64, |largest, value| largest.max(value.abs()));
                    let off = own.iter().zip(&vector).map(|(own, value)| (f64::from(*own) - value).abs()).fold(0.0, f64::max);
                    assert!(own.len() == vector.len() && off <= 1e-4 * largest, "{what}: {off:e}");
                    assert_eq!(embeddings.n_tokens[i], case["token_ids"][i].as_array().unwrap().len(), "{what}");
                    assert_eq!(embeddings.n_cut[i] > 0, case["truncated"][i].as_bool().unwrap(), "{what}");
                }
            }
        }
    }
}

#[test]
fn the_start_of_a_long_text_can_be_cut() {
    for settings in engines() {
        let model = resolver().load_embedder(&reference("bert-cls"), &settings).unwrap();
        let words: Vec<String> = (0..200).map(|i| format!("word{i}")).collect();
        let text = words.join(" ");
        let options = EmbedOptions::new().with_truncate(Truncate::Start).with_prompt(Prompt::Text("query: ".into()));
        let cut = model.embedder().tokenize(&text, &options).unwrap();
        let whole = model.embedder().tokenize("query: ", &EmbedOptions::new()).unwrap();
        let short = model.embedder().tokenize("word199", &EmbedOptions::new()).unwrap();
        assert!(cut.n_cut > 0 && cut.ids.len() <= model.config().max_tokens);
        assert_eq!(cut.ids[..whole.ids.len() - 1], whole.ids[..whole.ids.len() - 1], "the prompt stays");
        assert!(cut.ids.ends_with(&short.ids[1..]), "the end of the text stays");
        let refused = model.embed(&[&text], &options.with_truncate(Truncate::Error));
        let Err(Error::BadText { index: 0, source }) = refused else { panic!("{refused:?}") };
        assert!(matches!(*source, Error::LongText { what: "text", .. }), "{source}");
    }
}

#[test]
fn each_kind_of_model_refuses_the_work_of_another() {
    let said = |error: Option<Error>| error.map_or_else(|| "it was loaded".into(), |error| error.to_string());
    for settings in engines() {
        let (resolver, generator) = (resolver(), ModelRef::Local(golden("qwen2-tied")));
        let error = said(resolver.load_embedder(&generator, &settings).err());
        assert!(error.contains("`modules.json`") && error.contains("generates text"), "{error}");
        let error = said(resolver.load(&reference("bert-mean"), &settings).err());
        assert!(error.contains("embeds texts"), "{error}");
        let error = said(resolver.load_reranker(&reference("bert-mean"), &settings).err());
        assert!(error.contains("`BertModel`"), "{error}");
        let error = said(resolver.load_reranker(&generator, &settings).err());
        assert!(error.contains("`Qwen2ForCausalLM`"), "{error}");
        for reranker in names(true) {
            let error = said(resolver.load_embedder(&reference(&reranker), &settings).err());
            let names_it = ["ForSequenceClassification", "LogitScore", "`Pooling`"].iter().any(|name| error.contains(name));
            assert!(names_it, "{reranker}: {error}");
        }
    }
}

#[test]
fn options_that_cannot_be_are_refused() {
    for settings in engines() {
        let model = resolver().load_embedder(&reference("qwen3"), &settings).unwrap();
        let refused = |options: EmbedOptions| match model.embed(&["a"], &options) {
            Err(Error::InvalidOption { problem, .. }) => problem,
            other => panic!("{other:?}"),
        };
        assert!(refused(EmbedOptions::new().with_dimensions(33)).contains("more than the 32"));
        assert!(refused(EmbedOptions::new().with_dimensions(0)).contains("nothing"));
        assert!(refused(EmbedOptions::new().with_prompt(Prompt::Named("web".into()))).contains("`query`"));
    }
}

/// A copy of a golden with one of its files changed.
pub(crate) fn changed(name: &str, file: &str, content: impl AsRef<[u8]>) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join(name);
    let from = golden("embedders").join(name);
    for folder in ["", "1_Pooling", "2_Dense", "3_Dense"] {
        for entry in fs::read_dir(from.join(folder)).into_iter().flatten().map(|entry| entry.unwrap().path()) {
            if entry.is_file() {
                fs::create_dir_all(copy.join(folder)).unwrap();
                fs::copy(&entry, copy.join(folder).join(entry.file_name().unwrap())).unwrap();
            }
        }
    }
    fs::write(copy.join(file), content).unwrap();
    (dir, copy)
}

#[test]
fn damaged_descriptions_are_named() {
    let Some(settings) = engines().pop() else { return };
    let said = |file: &str, content: &str| {
        let (_dir, path) = changed("bert-mean", file, content);
        let error = resolver().load_embedder(&ModelRef::Local(path), &settings).err().expect("it is damaged");
        error.to_string()
    };
    let module = |kind: &str, path: &str| {
        format!(
            r#"[{{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}},
                {{"idx": 1, "name": "1", "path": "{path}", "type": "{kind}"}}]"#
        )
    };
    assert!(said("modules.json", "{").contains("not valid JSON"));
    assert!(said("modules.json", "[]").contains("no module"));
    assert!(said("modules.json", &module("custom_st.Pooling", "1_Pooling")).contains("Python code"));
    assert!(said("modules.json", &module("sentence_transformers.models.Router", "1_Router")).contains("`Router`"));
    assert!(said("modules.json", &module("sentence_transformers.models.Pooling", "../1_Pooling")).contains("below the model"));
    assert!(said("modules.json", &module("sentence_transformers.models.Normalize", "")).contains("`Normalize`"));
    assert!(said("1_Pooling/config.json", r#"{"pooling_mode": "middle"}"#).contains("`middle`"));
    assert!(said("1_Pooling/config.json", r#"{"pooling_mode_cls_token": 1}"#).contains("not a boolean"));
    assert!(said("sentence_bert_config.json", r#"{"max_seq_length": -5}"#).contains("max_seq_length"));
    assert!(said("sentence_bert_config.json", r#"{"max_seq_length": 2}"#).contains("leaves no token"));
    let prompts = r#"{"prompts": {"a": "b"}, "default_prompt_name": "c"}"#;
    assert!(said("config_sentence_transformers.json", prompts).contains("`c`"));
    assert!(said("config_sentence_transformers.json", r#"{"similarity_fn_name": "angle"}"#).contains("`angle`"));
    assert!(said("config_sentence_transformers.json", r#"{"model_type": "SparseEncoder"}"#).contains("sparse"));
}

#[test]
fn weights_that_are_not_numbers_are_found() {
    for settings in engines() {
        let weights = golden("embedders/bert-mean/model.safetensors");
        let mut bytes = fs::read(weights).unwrap();
        let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        bytes[8 + header..].as_chunks_mut::<4>().0.iter_mut().for_each(|value| *value = f32::NAN.to_le_bytes());
        let (_dir, path) = changed("bert-mean", "model.safetensors", bytes);
        let model = resolver().load_embedder(&ModelRef::Local(path), &settings);
        let error = model.and_then(|model| model.embed(&["a"], &EmbedOptions::new()));
        let Err(Error::BadText { index: 0, source }) = error else { panic!("{error:?}") };
        assert!(matches!(*source, Error::BadEmbedding { dimension: 0, .. }), "{source}");
    }
}

#[test]
fn fingerprints_tell_spaces_apart_and_not_engines() {
    let print = |name: &str, settings: &Settings, options: &EmbedOptions| {
        resolver().load_embedder(&reference(name), settings).unwrap().fingerprint(options).unwrap()
    };
    let plain = EmbedOptions::new();
    let prints: Vec<_> = engines().iter().map(|settings| print("bert-mean", settings, &plain)).collect();
    assert!(prints.iter().all(|one| one.space == prints[0].space && one.id() == prints[0].id()));
    let Some(settings) = engines().pop() else { return };
    let own = &prints[0];
    let others = [
        print("bert-cls", &settings, &plain),
        print("bert-mean", &settings, &plain.clone().with_dimensions(8)),
        print("bert-mean", &settings, &plain.clone().with_normalize(Normalize::No)),
        print("bert-mean", &settings, &plain.with_prompt(Prompt::Text("a".into()))),
    ];
    assert!(others.iter().all(|other| other.id() != own.id()));
}
