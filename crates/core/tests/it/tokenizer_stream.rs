//! Streamed text equals whole text, and whole text equals that of the crate `tokenizers`, for any ids and every decoder.

use proptest::prelude::*;
use serde_json::{Value, json};
use tandem_core::tokenizer::Tokenizer;
use tokenizers::Tokenizer as Reference;

use crate::tokenizer_fixtures as fixtures;

/// The text of the reference, and what the stream gave for each push, with the tail last.
fn both(tokenizer: &Tokenizer, reference: &Reference, ids: &[u32], skip: bool) -> (String, Vec<String>) {
    let mut stream = tokenizer.stream(skip);
    let mut pieces: Vec<String> = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
    pieces.push(stream.finish().unwrap());
    assert_eq!(pieces.concat(), tokenizer.decode(ids, skip).unwrap());
    (reference.decode(ids, skip).unwrap(), pieces)
}

fn load(file: &Value) -> (Tokenizer, Reference) {
    let bytes = serde_json::to_vec(file).unwrap();
    (Tokenizer::from_json(&bytes, "tokenizer.json").unwrap(), Reference::from_bytes(&bytes).unwrap())
}

fn with_decoder(mut file: Value, decoder: Value) -> Value {
    file["decoder"] = decoder;
    file
}

/// Decoders in use and some that nobody should use.
fn decoders() -> Vec<Value> {
    let replace = json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "});
    let strip = |start: usize, stop: usize| json!({"type": "Strip", "content": " ", "start": start, "stop": stop});
    let fuse = json!({"type": "Fuse"});
    let bytes = json!({"type": "ByteFallback"});
    let metaspace = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true});
    vec![
        json!({"type": "Sequence", "decoders": [replace, bytes, fuse]}),
        json!({"type": "Sequence", "decoders": [bytes, fuse, replace, strip(1, 0)]}),
        json!({"type": "Sequence", "decoders": [bytes, metaspace]}),
        json!({"type": "Sequence", "decoders": [replace, strip(2, 0), bytes]}),
        json!({"type": "Sequence", "decoders": [replace, bytes, fuse, strip(2, 0), fuse, strip(1, 0)]}),
        json!({"type": "Sequence", "decoders": [{"type": "BPEDecoder", "suffix": "i"}, bytes]}),
        json!({"type": "Sequence", "decoders": [{"type": "CTC", "pad_token": "<s>", "word_delimiter_token": "▁", "cleanup": true}, fuse]}),
        metaspace,
        json!({"type": "WordPiece", "prefix": "h", "cleanup": true}),
        Value::Null,
    ]
}

#[test]
fn all_tokens_decode_as_the_reference_does() {
    let mut files = vec![fixtures::byte_level(), fixtures::byte_fallback()];
    files.extend(decoders().into_iter().map(|decoder| with_decoder(fixtures::byte_fallback(), decoder)));
    for file in files {
        let (tokenizer, reference) = load(&file);
        let ids: Vec<u32> = (0..280).chain((0..280).rev()).collect();
        for skip in [false, true] {
            let (whole, pieces) = both(&tokenizer, &reference, &ids, skip);
            assert_eq!(pieces.concat(), whole, "{}", file["decoder"]);
        }
    }
}

#[test]
fn trailing_strip_needs_more_than_the_crate_offers() {
    // `tokenizers` panics where a token is shorter than `stop`; the end is stripped all the same.
    let strip = json!({"type": "Strip", "content": " ", "start": 0, "stop": 2});
    let decoder = json!({"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "Fuse"}, strip]});
    let (tokenizer, _) = load(&with_decoder(fixtures::byte_fallback(), decoder));
    let (space, h) = (tokenizer.id("▁").unwrap(), tokenizer.id("h").unwrap());
    for (ids, expected) in [
        (vec![space, h, space], " h"),
        (vec![h, space, space, space], "h "),
        (vec![h, space, space, h], "h  h"),
        (vec![space], ""),
        (vec![], ""),
    ] {
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), expected);
    }
}

#[test]
fn a_character_is_never_parted() {
    let (tokenizer, reference) = load(&fixtures::byte_level());
    let ids: Vec<u32> = "é€😀".bytes().map(|b| tokenizer.id(&fixtures::alphabet(b).to_string()).unwrap()).collect();
    let (whole, pieces) = both(&tokenizer, &reference, &ids, true);
    assert_eq!(whole, "é€😀");
    assert_eq!(pieces, ["", "é", "", "", "€", "", "", "", "😀", ""]);

    let (tokenizer, reference) = load(&fixtures::byte_fallback());
    let byte = |b: u8| tokenizer.id(&format!("<0x{b:02X}>")).unwrap();
    let mut ids: Vec<u32> = "😀".bytes().map(byte).collect();
    ids.push(tokenizer.id("h").unwrap());
    let (whole, pieces) = both(&tokenizer, &reference, &ids, true);
    assert_eq!(whole, "😀h");
    assert_eq!(pieces, ["", "", "", "", "😀h", ""]);
}

#[test]
fn bytes_that_cannot_be_completed_come_at_once() {
    let (tokenizer, reference) = load(&fixtures::byte_level());
    let byte = |b: u8| tokenizer.id(&fixtures::alphabet(b).to_string()).unwrap();
    let (whole, pieces) = both(&tokenizer, &reference, &[byte(0xF0), byte(0x9F), byte(b'a'), byte(0x80), byte(0xE2)], true);
    assert_eq!(whole, "\u{FFFD}a\u{FFFD}\u{FFFD}");
    assert_eq!(pieces, ["", "", "\u{FFFD}a", "\u{FFFD}", "", "\u{FFFD}"]);
}

#[test]
fn only_the_very_first_space_is_stripped() {
    let (tokenizer, reference) = load(&fixtures::byte_fallback());
    let hi = tokenizer.id("▁hi").unwrap();
    let eos = tokenizer.id("</s>").unwrap();
    for (ids, skip, expected) in [
        (vec![hi, hi], true, vec!["hi", " hi", ""]),
        (vec![eos, hi, eos, hi], true, vec!["", "hi", "", " hi", ""]),
        (vec![eos, hi, eos], false, vec!["</s>", " hi", "</s>", ""]),
    ] {
        let (whole, pieces) = both(&tokenizer, &reference, &ids, skip);
        assert_eq!(pieces, expected);
        assert_eq!(pieces.concat(), whole);
    }
}

#[test]
fn a_stream_outlives_its_tokenizer_and_moves_between_threads() {
    let (tokenizer, _) = load(&fixtures::byte_level());
    let ids = tokenizer.encode("hello world", tandem_core::tokenizer::SpecialTokens::Parse).unwrap();
    let mut stream = tokenizer.stream(true);
    drop(tokenizer);
    let text = std::thread::spawn(move || {
        let pieces: Vec<String> = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
        pieces.concat() + &stream.finish().unwrap()
    });
    assert_eq!(text.join().unwrap(), "hello world");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_ids_stream_as_the_reference_decodes_them(ids in prop::collection::vec(0u32..280, 0..40), skip: bool) {
        for file in [fixtures::byte_level(), fixtures::byte_fallback()] {
            let (tokenizer, reference) = load(&file);
            let (whole, pieces) = both(&tokenizer, &reference, &ids, skip);
            prop_assert_eq!(pieces.concat(), whole);
        }
    }

    #[test]
    fn any_decoder_streams_as_the_reference_decodes(
        ids in prop::collection::vec(prop_oneof![0u32..3, 225u32..280], 1..20), skip: bool, which in 0..decoders().len(),
    ) {
        let (tokenizer, reference) = load(&with_decoder(fixtures::byte_fallback(), decoders()[which].clone()));
        // `tokenizers` panics in `BPEDecoder` where no token is left: all are skipped, or unknown.
        prop_assume!(ids.iter().any(|&id| tokenizer.token(id).is_some() && !(skip && tokenizer.is_special(id))));
        let (whole, pieces) = both(&tokenizer, &reference, &ids, skip);
        prop_assert_eq!(pieces.concat(), whole);
    }
}
