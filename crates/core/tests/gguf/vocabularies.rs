//! Published vocabularies, as llama.cpp keeps them in `models/ggml-vocab-*.gguf` with texts and the ids that transformers gives.

use std::path::PathBuf;

use tandem_core::gguf::{Gguf, GgufPart};
use tandem_core::tokenizer::{SpecialTokens, Tokenizer};

/// Where a checkout of llama.cpp lies.
const VARIABLE: &str = "TANDEM_LLAMA_CPP";

#[test]
fn published_vocabularies_give_the_ids_of_transformers() {
    let Some(checkout) = std::env::var_os(VARIABLE) else {
        println!("skipped: `{VARIABLE}` does not say where a checkout of llama.cpp lies");
        return;
    };
    for name in ["qwen2", "llama-bpe", "gpt-2"] {
        let path = PathBuf::from(&checkout).join(format!("models/ggml-vocab-{name}.gguf"));
        let beside = |extension: &str| std::fs::read_to_string(path.with_extension(format!("gguf.{extension}"))).unwrap();
        let json = Gguf::open(&path).unwrap().part(GgufPart::Tokenizer).unwrap();
        let tokenizer = Tokenizer::from_json(&json, name).unwrap();
        let (texts, ids) = (beside("inp"), beside("out"));
        let texts: Vec<&str> =
            texts.strip_suffix("\n__ggml_vocab_test__\n").unwrap_or(&texts).split("\n__ggml_vocab_test__\n").collect();
        assert_eq!(texts.len(), ids.lines().count(), "{name}");
        for (text, ids) in texts.into_iter().zip(ids.lines()) {
            let expected: Vec<u32> = ids.split_whitespace().map(|id| id.parse().unwrap()).collect();
            assert_eq!(tokenizer.encode(text, SpecialTokens::Parse).unwrap(), expected, "{name}: {text:?}");
        }
    }
}
