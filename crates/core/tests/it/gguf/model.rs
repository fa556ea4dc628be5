//! A GGUF file that was made of a golden checkpoint says what the checkpoint says: configuration, tokenizer, chat.

use std::path::{Path, PathBuf};

use tandem_core::config::{ModelConfig, RopeScaling};
use tandem_core::conformance::{GgufWriter, Golden, describe};
use tandem_core::files::{ModelFile, ModelFiles};
use tandem_core::gguf::{GgufPart, TensorType};
use tandem_core::template::TokenizerConfig;
use tandem_core::tokenizer::{SpecialTokens, Tokenizer};
use tempfile::TempDir;

use super::parse;

/// Goldens whose tokenizer merges bytes: the one of Mistral does not.
const MERGING: [&str; 6] = ["qwen2-tied", "qwen2-untied", "qwen3", "llama3-rope", "llama-yarn", "llama-linear"];

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens").join(name)
}

fn f32s(_: &str, _: &[usize], values: &[f32]) -> (TensorType, Vec<u8>) {
    (TensorType::F32, values.iter().flat_map(|value| value.to_le_bytes()).collect())
}

fn writer(name: &str) -> GgufWriter {
    GgufWriter::of_checkpoint(&golden(name), &f32s)
}

/// The file on disk, with what discovery makes of it.
fn on_disk(writer: &GgufWriter) -> (TempDir, ModelFiles) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("x.gguf"), writer.to_bytes()).unwrap();
    let files = ModelFiles::discover(&dir.path().join("x.gguf"), "x").unwrap();
    (dir, files)
}

fn tokenizer(files: &ModelFiles) -> tandem_core::Result<Tokenizer> {
    let file = files.tokenizer.as_ref().unwrap();
    Tokenizer::from_json(&file.read(64 << 20)?, &file.name())
}

#[test]
fn the_form_is_that_of_the_checkpoint() {
    for name in MERGING.into_iter().chain(["mistral"]) {
        let published = ModelConfig::from_json("config.json", &std::fs::read(golden(name).join("config.json")).unwrap()).unwrap();
        let (_dir, files) = on_disk(&writer(name));
        let config = files.model_config().unwrap();
        let shape = |config: &ModelConfig| {
            let sizes = [config.vocab_size, config.hidden_size, config.intermediate_size, config.n_layers, config.max_context];
            let heads = [config.n_heads, config.n_kv_heads, config.head_dim()];
            let biases =
                [config.qkv_bias, config.attention_output_bias, config.mlp_bias, config.qk_norm, config.tie_word_embeddings];
            (sizes, heads, biases, config.norm_eps as f32, config.rope.theta, config.layer_windows.clone())
        };
        assert_eq!(shape(&config), shape(&published), "{name}");
        assert_eq!(config.architecture.model_type(), published.architecture.model_type().replace("mistral", "llama"), "{name}");
        let (ours, theirs) = (config.rope.inv_freq(config.head_dim()), published.rope.inv_freq(config.head_dim()));
        for (ours, theirs) in ours.iter().zip(&theirs) {
            assert!((ours - theirs).abs() <= 3e-7 * theirs, "{name}: {ours} {theirs}");
        }
        assert_eq!(config.rope.attention_factor(), published.rope.attention_factor(), "{name}");
        assert_eq!(matches!(config.rope.scaling, RopeScaling::Factors(_)), name == "llama3-rope", "{name}");
    }
}

#[test]
fn the_tokenizer_is_that_of_the_checkpoint() {
    for name in MERGING {
        let (_dir, files) = on_disk(&writer(name));
        let made = tokenizer(&files).unwrap_or_else(|error| panic!("{name}: {}", describe(&error)));
        let bytes = std::fs::read(golden(name).join("tokenizer.json")).unwrap();
        let published = Tokenizer::from_json(&bytes, "tokenizer.json").unwrap();
        assert_eq!(made.n_tokens(), published.n_tokens(), "{name}");
        assert_eq!(made.special_tokens(), published.special_tokens(), "{name}");
        for id in 0..made.n_tokens() as u32 {
            assert_eq!(made.token(id), published.token(id), "{name}");
        }
        let golden = Golden::read(&golden(name), Golden::MADE);
        let spelled = "<|im_start|>user\nA<|eot_id|> 1234567 I'LL  \n\n x\u{e9} e\u{301}<|endoftext|>";
        for text in golden.prompts.iter().map(|prompt| prompt.text.as_str()).chain([spelled]) {
            for special in [SpecialTokens::Parse, SpecialTokens::AsText] {
                assert_eq!(made.encode(text, special).unwrap(), published.encode(text, special).unwrap(), "{name} `{text}`");
            }
            let ids = published.encode_with_template(text).unwrap();
            assert_eq!(made.encode_with_template(text).unwrap(), ids, "{name} `{text}`");
            assert_eq!(made.decode(&ids, true).unwrap(), published.decode(&ids, true).unwrap(), "{name} `{text}`");
        }
        for prompt in &golden.prompts {
            assert_eq!(made.encode(&prompt.text, SpecialTokens::Parse).unwrap(), prompt.ids, "{name}");
        }
    }
}

#[test]
fn chat_is_that_of_the_checkpoint() {
    for name in MERGING {
        let (_dir, files) = on_disk(&writer(name));
        let read = |file: &ModelFile| TokenizerConfig::parse(&file.read(1 << 20).unwrap(), &file.name()).unwrap();
        let made = read(files.tokenizer_config.as_ref().unwrap());
        let published = read(&ModelFile::Path(golden(name).join("tokenizer_config.json")));
        assert_eq!(made.chat_template(), published.chat_template(), "{name}");
        for field in ["bos_token", "eos_token"] {
            assert_eq!(made.tokens.get(field), published.tokens.get(field), "{name}");
        }
        let config = files.model_config().unwrap();
        let eos = tokenizer(&files).unwrap().id(published.eos_token().unwrap()).unwrap();
        assert!(config.eos_token_ids.contains(&eos), "{name}: {:?}", config.eos_token_ids);
    }
}

#[test]
fn every_token_that_ends_a_turn_ends_a_text() {
    let mut writer = writer("qwen2-tied");
    writer.u32("tokenizer.ggml.eot_token_id", 7);
    let (_dir, files) = on_disk(&writer);
    let (config, tokenizer) = (files.model_config().unwrap(), tokenizer(&files).unwrap());
    let mut expected: Vec<u32> = ["<|im_end|>", "<|endoftext|>"].iter().filter_map(|token| tokenizer.id(token)).collect();
    expected.push(7);
    expected.sort_unstable();
    assert_eq!(config.eos_token_ids, expected);
}

#[test]
fn tokens_are_put_around_a_text_where_the_file_says_so() {
    let mut writer = writer("qwen2-tied");
    writer.bool("tokenizer.ggml.add_bos_token", true);
    writer.bool("tokenizer.ggml.add_eos_token", true);
    writer.remove("tokenizer.ggml.bos_token_id");
    writer.u32("tokenizer.ggml.bos_token_id", 317);
    let (_dir, files) = on_disk(&writer);
    let tokenizer = tokenizer(&files).unwrap();
    let ids = tokenizer.encode_with_template("a").unwrap();
    assert_eq!((ids.first(), ids.len()), (Some(&317), 3), "{ids:?}");
    assert!(tokenizer.is_special(ids[2]));
    assert_eq!(tokenizer.encode("a", SpecialTokens::Parse).unwrap().len(), 1);
}

#[test]
fn a_tokenizer_that_cannot_be_made_is_refused_with_the_remedy() {
    let check = |change: &dyn Fn(&mut GgufWriter), parts: &[&str]| {
        let mut writer = writer("qwen2-tied");
        change(&mut writer);
        let (_dir, files) = on_disk(&writer);
        let text = describe(&tokenizer(&files).unwrap_err());
        for part in parts.iter().chain(&["x.gguf`"]) {
            assert!(text.contains(part), "no `{part}` in {text}");
        }
    };
    let replaced = |writer: &mut GgufWriter, key: &str, value: &str| {
        writer.remove(key);
        writer.string(key, value);
    };
    const BESIDE: &str = "put the `tokenizer.json`";
    check(&|writer| writer.remove("tokenizer.ggml.tokens"), &["holds none", BESIDE]);
    check(&|writer| replaced(writer, "tokenizer.ggml.model", "llama"), &["the kind `llama`", BESIDE]);
    check(&|writer| replaced(writer, "tokenizer.ggml.pre", "a\x1b[2J"), &["is `a\\u{1b}[2J`", "`llama-bpe`", BESIDE]);
    check(&|writer| writer.remove("tokenizer.ggml.pre"), &["how text is cut", BESIDE]);
    check(&|writer| writer.remove("tokenizer.ggml.model"), &["`tokenizer.ggml.model`", "missing"]);
    check(&|writer| writer.remove("tokenizer.ggml.merges"), &["`tokenizer.ggml.merges`", "missing"]);
    check(
        &|writer| {
            writer.remove("tokenizer.ggml.merges");
            writer.strings("tokenizer.ggml.merges", &["a b", "ab"]);
        },
        &["`tokenizer.ggml.merges[1]`", "not two tokens"],
    );
    check(
        &|writer| {
            writer.remove("tokenizer.ggml.merges");
            writer.strings("tokenizer.ggml.merges", &["nowhere to-be-found"]);
        },
        &["not a tokenizer", "nowhere"],
    );
    check(
        &|writer| {
            writer.remove("tokenizer.ggml.token_type");
            writer.i32s("tokenizer.ggml.token_type", &[1, 1]);
        },
        &["`tokenizer.ggml.token_type`", "2 entries for 320 tokens"],
    );
    check(
        &|writer| {
            writer.remove("tokenizer.ggml.tokens");
            writer.remove("tokenizer.ggml.token_type");
            writer.strings("tokenizer.ggml.tokens", &["a", "b", "a"]);
        },
        &["`tokenizer.ggml.tokens`", "`a` twice, as 0 and as 2"],
    );
    check(
        &|writer| {
            writer.bool("tokenizer.ggml.add_bos_token", true);
            writer.remove("tokenizer.ggml.bos_token_id");
            writer.u32("tokenizer.ggml.bos_token_id", 9999);
        },
        &["`tokenizer.ggml.bos_token_id`", "9999"],
    );
}

/// The form of the golden `name` without `key` and with `change` is an error that has all of `parts`.
#[track_caller]
fn check_form(name: &str, key: &str, change: &dyn Fn(&mut GgufWriter), parts: &[&str]) {
    let mut writer = writer(name);
    writer.remove(key);
    change(&mut writer);
    let text = describe(&parse(writer.to_bytes()).unwrap().config().unwrap_err());
    for part in parts.iter().chain(&["`x.gguf`"]) {
        assert!(text.contains(part), "{key}: no `{part}` in {text}");
    }
}

#[test]
fn a_form_that_cannot_be_is_named_by_its_key() {
    let number = |key: &'static str, value: u32| move |writer: &mut GgufWriter| writer.u32(key, value);
    for (name, key) in [
        ("qwen2-tied", "general.architecture"),
        ("qwen2-tied", "qwen2.embedding_length"),
        ("qwen2-tied", "qwen2.block_count"),
        ("qwen2-tied", "qwen2.feed_forward_length"),
        ("qwen2-tied", "qwen2.attention.head_count"),
        ("qwen2-tied", "qwen2.context_length"),
        ("qwen2-tied", "qwen2.attention.layer_norm_rms_epsilon"),
    ] {
        check_form(name, key, &|_| {}, &[&format!("field `{key}`"), "is missing"]);
    }
    for (key, value) in [
        ("qwen3.embedding_length", 0),
        ("qwen3.embedding_length", u32::MAX),
        ("qwen3.block_count", 0),
        ("qwen3.block_count", 1 << 20),
        ("qwen3.feed_forward_length", 0),
        ("qwen3.attention.head_count", 0),
        ("qwen3.attention.head_count_kv", 0),
        ("qwen3.attention.head_count_kv", 4),
        ("qwen3.context_length", 0),
        ("qwen3.rope.freq_base", 0),
    ] {
        check_form("qwen3", key, &number(key, value), &[&format!("field `{key}`")]);
    }
    check_form(
        "qwen3",
        "qwen3.block_count",
        &|writer| writer.string("qwen3.block_count", "2"),
        &["`qwen3.block_count`", "a string"],
    );
    check_form("qwen3", "qwen3.block_count", &|writer| writer.raw("qwen3.block_count", 5, vec![0xFF; 4]), &["negative"]);
    check_form(
        "qwen3",
        "qwen3.rope.freq_base",
        &|writer| writer.f32("qwen3.rope.freq_base", f32::NAN),
        &["`qwen3.rope.freq_base`", "NaN"],
    );
    check_form(
        "qwen3",
        "qwen3.attention.value_length",
        &number("qwen3.attention.value_length", 8),
        &["`qwen3.attention.value_length`"],
    );
    check_form("qwen3", "x", &number("qwen3.rope.dimension_count", 8), &["`qwen3.rope.dimension_count`", "two widths"]);
    check_form("qwen3", "x", &number("qwen3.expert_count", 8), &["mixture of experts"]);
    check_form("qwen3", "x", &|writer| writer.bool("qwen3.attention.causal", false), &["the encoder"]);
    check_form("qwen3", "token_embd.weight", &|_| {}, &["`token_embd.weight`", "no such tensor"]);
    let gemma = |writer: &mut GgufWriter| writer.string("general.architecture", "gemma3");
    check_form("qwen3", "general.architecture", &gemma, &["`gemma3`", "`qwen2`, `qwen3`, `llama`"]);
}

#[test]
fn a_rotation_that_cannot_be_is_named_by_its_key() {
    check_form(
        "llama-yarn",
        "llama.rope.scaling.type",
        &|writer| writer.string("llama.rope.scaling.type", "longrope"),
        &["`longrope`"],
    );
    check_form("llama-yarn", "x", &|writer| writer.f32("llama.rope.scaling.yarn_ext_factor", 0.5), &["yarn_ext_factor"]);
    check_form("llama-yarn", "llama.rope.scaling.factor", &|_| {}, &["`llama.rope.scaling.factor`"]);
    let factors = |n: usize, value: f32| {
        move |writer: &mut GgufWriter| {
            let bytes = vec![value; n].into_iter().flat_map(f32::to_le_bytes).collect();
            writer.tensor("rope_freqs.weight", &[n], TensorType::F32, bytes);
        }
    };
    check_form("llama3-rope", "rope_freqs.weight", &factors(4, 1.0), &["`rope_freqs.weight`", "[4]"]);
    check_form("llama3-rope", "rope_freqs.weight", &factors(8, 0.0), &["`rope_freqs.weight`"]);
    check_form("llama3-rope", "rope_freqs.weight", &factors(8, f32::NAN), &["`rope_freqs.weight`"]);
}

#[test]
fn a_window_is_one_where_the_file_has_it() {
    let mut writer = writer("mistral");
    writer.u32("llama.attention.sliding_window", 7);
    let config = parse(writer.to_bytes()).unwrap().config().unwrap();
    assert_eq!(config.layer_windows, vec![Some(7); config.n_layers]);
}

#[test]
fn weights_that_are_missing_or_have_no_place_are_named() {
    let config = |writer: &GgufWriter| parse(writer.to_bytes()).unwrap().config().unwrap();
    let check = |change: &dyn Fn(&mut GgufWriter), parts: &[&str]| {
        let mut writer = writer("qwen2-untied");
        let config = config(&writer);
        change(&mut writer);
        let text = describe(&parse(writer.to_bytes()).unwrap().check_weights(&config).unwrap_err());
        for part in parts {
            assert!(text.contains(part), "no `{part}` in {text}");
        }
    };
    check(&|writer| writer.remove("blk.1.attn_k.bias"), &["`blk.1.attn_k.bias`", "no such tensor"]);
    check(&|writer| writer.remove("output.weight"), &["`output.weight`", "no such tensor"]);
    check(
        &|writer| writer.tensor("blk.0.attn_q_norm.weight", &[16], TensorType::F32, vec![0; 64]),
        &["`blk.0.attn_q_norm.weight`", "no place"],
    );
    let whole = writer("qwen2-untied");
    assert!(parse(whole.to_bytes()).unwrap().check_weights(&config(&whole)).is_ok());
}

#[test]
fn parts_are_read_as_the_files_they_stand_for() {
    let (dir, files) = on_disk(&writer("qwen3"));
    let ModelFile::Gguf { path, part, .. } = &files.config else { panic!("{:?}", files.config) };
    assert_eq!((path, *part), (&dir.path().join("x.gguf"), GgufPart::Config));
    let json: serde_json::Value = serde_json::from_slice(&files.config.read(1 << 20).unwrap()).unwrap();
    assert_eq!(json["num_hidden_layers"], 2);
    assert_eq!(files.config.len().unwrap(), path.metadata().unwrap().len(), "nothing is made to measure it");
    assert!(files.config.read(10).unwrap_err().to_string().contains("larger than the 10 bytes"));
    assert_eq!(&*files.config.map().unwrap(), &*files.config.read(1 << 20).unwrap());
}
