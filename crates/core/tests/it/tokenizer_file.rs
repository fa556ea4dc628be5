//! Encoding, the vocabulary, and files that are damaged.

use proptest::prelude::*;
use serde_json::{Value, json};
use tandem_core::Error;
use tandem_core::tokenizer::{SpecialTokens, Tokenizer};

use crate::tokenizer_fixtures::{self as fixtures, FIRST_ADDED};

fn load(file: &Value) -> Tokenizer {
    Tokenizer::from_json(&serde_json::to_vec(file).unwrap(), "tokenizer.json").unwrap()
}

fn message(bytes: &[u8]) -> String {
    Tokenizer::from_json(bytes, "some/tokenizer.json").unwrap_err().to_string()
}

#[test]
fn encodes_without_truncation_padding_or_added_tokens() {
    let tokenizer = load(&fixtures::byte_level());
    let text = "hello world, hello world";
    let ids = tokenizer.encode(text, SpecialTokens::Parse).unwrap();
    assert_eq!(
        ids.iter().map(|&id| tokenizer.token(id).unwrap()).collect::<Vec<_>>(),
        ["hello", "Ġworld", ",", "Ġ", "hello", "Ġworld"]
    );
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), text);
    assert!(tokenizer.encode("", SpecialTokens::AsText).unwrap().is_empty());
}

#[test]
fn the_post_processor_adds_its_tokens_on_request() {
    let tokenizer = load(&fixtures::byte_level());
    let mut expected = vec![FIRST_ADDED + 3];
    expected.extend(tokenizer.encode("hello", SpecialTokens::Parse).unwrap());
    assert_eq!(tokenizer.encode_with_template("hello").unwrap(), expected);
}

#[test]
fn special_tokens_are_parsed_or_text() {
    let tokenizer = load(&fixtures::byte_level());
    let text = "<|im_end|>hello</think>";
    let parsed = tokenizer.encode(text, SpecialTokens::Parse).unwrap();
    assert_eq!(parsed, [FIRST_ADDED + 1, tokenizer.id("hello").unwrap(), FIRST_ADDED + 2]);
    let plain = tokenizer.encode(text, SpecialTokens::AsText).unwrap();
    assert!(plain.iter().all(|&id| !tokenizer.is_special(id)), "{plain:?}");
    assert_eq!(plain.last(), Some(&(FIRST_ADDED + 2)), "an added token that is not special is parsed either way");
    assert_eq!(tokenizer.decode(&plain, true).unwrap(), text);
    assert_eq!(tokenizer.decode(&parsed, true).unwrap(), "hello</think>");
}

#[test]
fn a_model_that_has_special_tokens_as_pieces_does_not_give_them_for_text() {
    let unigram = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "pre_tokenizer": null,
        "post_processor": null, "decoder": null,
        "added_tokens": [{"id": 1, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}],
        "model": {"type": "Unigram", "unk_id": 0, "byte_fallback": false,
            "vocab": [["<unk>", 0.0], ["</s>", 0.0], ["<", -3.0], ["/", -3.0], ["s", -3.0], [">", -3.0], ["a", -3.0]]},
    });
    let tokenizer = load(&unigram);
    assert_eq!(tokenizer.encode("a</s>a", SpecialTokens::Parse).unwrap(), [6, 1, 6]);
    assert_eq!(tokenizer.encode("a</s>a", SpecialTokens::AsText).unwrap(), [6, 2, 3, 4, 5, 6]);
}

#[test]
fn the_vocabulary_is_known_and_checked() {
    let tokenizer = load(&fixtures::byte_level());
    assert_eq!(tokenizer.n_tokens(), FIRST_ADDED as usize + 4);
    assert_eq!(tokenizer.id("<|im_start|>"), Some(FIRST_ADDED));
    assert_eq!(tokenizer.token(FIRST_ADDED), Some("<|im_start|>".into()));
    assert_eq!((tokenizer.id("nonsense"), tokenizer.token(100_000)), (None, None));
    let special: Vec<&str> = tokenizer.special_tokens().iter().map(|(token, _)| token.as_str()).collect();
    assert_eq!(special, ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]);
    assert!(tokenizer.is_special(FIRST_ADDED + 1) && !tokenizer.is_special(FIRST_ADDED + 2));

    tokenizer.check_vocabulary(274, "config.json").unwrap();
    tokenizer.check_vocabulary(1000, "config.json").unwrap();
    assert_eq!(
        tokenizer.check_vocabulary(271, "config.json").unwrap_err().to_string(),
        "`tokenizer.json`: 274 tokens do not fit the 271 embedding rows of `config.json`: the first without one is 271, `<|im_end|>`"
    );
    assert_eq!(tokenizer.decode(&[100_000], false).unwrap(), "");
}

#[test]
fn damaged_files_are_errors_that_name_the_file() {
    let good = serde_json::to_vec(&fixtures::byte_fallback()).unwrap();
    let file = |part: &str, value: Value| {
        let mut file = fixtures::byte_fallback();
        file[part] = value;
        serde_json::to_vec(&file).unwrap()
    };
    // A template whose token is not defined.
    let token = json!([{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]);
    let undefined = json!({"type": "TemplateProcessing", "single": token, "pair": [], "special_tokens": {}});
    // Merges that the reader would cut within a character and beyond the end.
    let merges = |prefix: &str, merges: Value| {
        let vocab = json!({"a": 0, "é": 1, "aé": 2});
        file("model", json!({"type": "BPE", "vocab": vocab, "merges": merges, "continuing_subword_prefix": prefix}))
    };
    let not_continued = "field `model.merges[0]`: the second part does not begin with `continuing_subword_prefix`";
    for (bytes, expected) in [
        (good[..good.len() / 2].to_vec(), "the file is truncated"),
        (b"hello".to_vec(), "the file is not JSON"),
        (Vec::new(), "the file is truncated"),
        (b"[1, 2]".to_vec(), "the file is not a tokenizer"),
        (b"{}".to_vec(), "field `model`: is missing"),
        (file("model", json!({"type": "BPE"})), "field `model.vocab`: is missing"),
        (file("model", json!({"type": "BPE", "vocab": {"a": -1}, "merges": []})), "the file is not a tokenizer"),
        (file("decoder", json!({"type": "Nonsense"})), "the file is not a tokenizer"),
        (file("version", json!("7")), "the file is not a tokenizer"),
        (
            file("post_processor", json!({"type": "Sequence", "processors": [undefined]})),
            "field `post_processor`: its template has `<s>`, which is not among its `special_tokens`",
        ),
        (merges("#", json!([["a", "é"]])), not_continued),
        (merges(&"x".repeat(1000), json!(["a é"])), not_continued),
        (merges("#", json!([7])), "the merges of the tokenizer cannot be read"),
        (vec![b' '; (64 << 20) + 1], "bytes are more than the 67108864"),
    ] {
        let message = message(&bytes);
        assert!(message.starts_with("`some/tokenizer.json`: ") && message.contains(expected), "{message}");
    }
}

/// Tables and loops go up to the highest id, so that one of them must not be what damage makes of it.
#[test]
fn an_id_far_beyond_the_entries_is_refused_at_once() {
    let with = |id: u32, added: bool| {
        let mut file = fixtures::byte_level();
        match added {
            true => file["added_tokens"][1]["id"] = json!(id),
            false => file["model"]["vocab"]["hello"] = json!(id),
        }
        serde_json::to_vec(&file).unwrap()
    };
    for (added, field) in [(false, "model.vocab"), (true, "added_tokens")] {
        for id in [1 << 20, 1 << 31, u32::MAX] {
            let expected = format!(
                "`some/tokenizer.json`: field `{field}`: an id is {id}; with 274 entries the highest that is possible is 1048575"
            );
            assert_eq!(message(&with(id, added)), expected);
        }
    }
    // Sparse ids exist.
    let sparse = load(&serde_json::from_slice(&with((1 << 20) - 1, false)).unwrap());
    assert_eq!((sparse.n_tokens(), sparse.id("hello")), (1 << 20, Some((1 << 20) - 1)));
    assert!(
        sparse
            .check_vocabulary(1000, "config.json")
            .unwrap_err()
            .to_string()
            .contains("the first without one is 1048575, `hello`")
    );
}

#[test]
fn a_file_cut_anywhere_is_an_error() {
    let good = serde_json::to_vec(&fixtures::byte_fallback()).unwrap();
    for end in (0..good.len()).step_by(97) {
        assert!(message(&good[..end]).contains("the file is truncated"));
    }
}

#[test]
fn deep_nesting_is_an_error() {
    for part in ["decoder", "normalizer", "pre_tokenizer", "post_processor", "model", "added_tokens", "unknown"] {
        for (open, close) in [("[", "]"), (r#"{"type":"Sequence","decoders":["#, "]}"), (r#"{"a":"#, "}")] {
            let deep = format!("{}1{}", open.repeat(100_000), close.repeat(100_000));
            let text = format!(r#"{{"version":"1.0","{part}":{deep}}}"#);
            assert!(Tokenizer::from_json(text.as_bytes(), "tokenizer.json").is_err());
        }
    }
}

#[test]
fn an_added_token_with_another_id_is_an_error() {
    let mut file = fixtures::byte_level();
    file["added_tokens"][1]["id"] = json!(300);
    let error = Tokenizer::from_json(&serde_json::to_vec(&file).unwrap(), "tokenizer.json").unwrap_err();
    assert!(matches!(&error, Error::BadField { field, .. } if field == "added_tokens"), "{error}");
    assert!(error.to_string().contains("`<|im_end|>` has id 300"), "{error}");
}

proptest! {
    #[test]
    fn text_survives_encoding_and_decoding(text in "\\PC{0,60}") {
        let tokenizer = load(&fixtures::byte_level());
        for special in [SpecialTokens::Parse, SpecialTokens::AsText] {
            let ids = tokenizer.encode(&text, special).unwrap();
            prop_assert_eq!(tokenizer.decode(&ids, false).unwrap(), text.clone());
        }
    }

    #[test]
    fn text_never_gives_special_ids(parts in prop::collection::vec(
        prop::sample::select(vec!["<|im_end|>", "<|im_", "start|>", "end|>", "<|im_start|>", "</s>", "<s>", "[INST]", "<", "s>", " ", "é"]), 0..12),
    ) {
        let text = parts.concat();
        for file in [fixtures::byte_level(), fixtures::byte_fallback()] {
            let tokenizer = load(&file);
            let ids = tokenizer.encode(&text, SpecialTokens::AsText).unwrap();
            let unk = tokenizer.id("<unk>");
            prop_assert!(ids.iter().all(|&id| !tokenizer.is_special(id) || Some(id) == unk), "{:?}", ids);
        }
    }

    #[test]
    fn a_damaged_file_never_crashes(at in 0usize..6000, byte: u8) {
        let mut bytes = serde_json::to_vec(&fixtures::byte_fallback()).unwrap();
        let at = at % bytes.len();
        bytes[at] = byte;
        if let Ok(tokenizer) = Tokenizer::from_json(&bytes, "tokenizer.json") {
            let _ = tokenizer.encode("hi é </s>", SpecialTokens::AsText);
            let _ = tokenizer.decode(&[1, 2, 3, 200, 262, 263], true);
        }
    }
}
