//! Reads a tokenizer with a BPE model straight from its file, with the parts of `tokenizers`.
//!
//! That crate reads a model whose type it does not know yet into a tree of JSON values first, and the tree into another, which takes three
//! times as long as all the rest. A BPE model that says its type is read here; whatever else a file has, and whatever is wrong with it, is left
//! to the crate.

use std::fmt;

use serde::Deserialize;
use serde::de::{Error, SeqAccess, Visitor};
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::tokenizer::Tokenizer as Inner;
use tokenizers::{AddedToken, DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper};

/// The only version that there is.
const VERSION: &str = "1.0";

#[derive(Deserialize)]
struct File {
    version: Option<String>,
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    normalizer: Option<NormalizerWrapper>,
    pre_tokenizer: Option<PreTokenizerWrapper>,
    post_processor: Option<PostProcessorWrapper>,
    decoder: Option<DecoderWrapper>,
    model: Model,
}

/// As [`BPE`] reads it.
#[derive(Deserialize)]
struct Model {
    r#type: Type,
    dropout: Option<f32>,
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    fuse_unk: Option<bool>,
    byte_fallback: Option<bool>,
    ignore_merges: Option<bool>,
    vocab: Vocab,
    merges: Vec<Merge>,
}

#[derive(Deserialize)]
enum Type {
    #[serde(rename = "BPE")]
    Bpe,
}

/// A merge, which files have as two strings or as one with a space in it.
enum Merge {
    Pair(String, String),
    /// The first line of a file of merges, which some have among them.
    Version,
}

/// The tokenizer of `bytes`, if its model says that it is BPE and nothing is wrong with it.
pub(super) fn read(bytes: &[u8]) -> Option<Inner> {
    let File { version, added_tokens, normalizer, pre_tokenizer, post_processor, decoder, model } =
        serde_json::from_slice(bytes).ok()?;
    if version.is_some_and(|version| version != VERSION) {
        return None;
    }
    let mut tokenizer = Inner::new(model.build()?);
    tokenizer.with_normalizer(normalizer).ok()?;
    tokenizer.with_pre_tokenizer(pre_tokenizer).with_post_processor(post_processor).with_decoder(decoder);
    tokenizer.add_tokens(added_tokens).ok()?;
    Some(tokenizer)
}

impl Model {
    fn build(self) -> Option<BPE> {
        let Type::Bpe = self.r#type;
        let pairs = self.merges.into_iter().filter_map(|merge| match merge {
            Merge::Pair(first, second) => Some((first, second)),
            Merge::Version => None,
        });
        let mut builder = BPE::builder().vocab_and_merges(self.vocab, pairs.collect());
        if let Some(dropout) = self.dropout {
            builder = builder.dropout(dropout);
        }
        if let Some(token) = self.unk_token {
            builder = builder.unk_token(token);
        }
        if let Some(prefix) = self.continuing_subword_prefix {
            builder = builder.continuing_subword_prefix(prefix);
        }
        if let Some(suffix) = self.end_of_word_suffix {
            builder = builder.end_of_word_suffix(suffix);
        }
        let [fuse_unk, byte_fallback, ignore_merges] =
            [self.fuse_unk, self.byte_fallback, self.ignore_merges].map(Option::unwrap_or_default);
        builder.fuse_unk(fuse_unk).byte_fallback(byte_fallback).ignore_merges(ignore_merges).build().ok()
    }
}

impl<'de> Deserialize<'de> for Merge {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(MergeVisitor)
    }
}

struct MergeVisitor;

impl<'de> Visitor<'de> for MergeVisitor {
    type Value = Merge;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a merge")
    }

    fn visit_str<E: Error>(self, line: &str) -> Result<Merge, E> {
        if line.starts_with("#version") {
            return Ok(Merge::Version);
        }
        let mut parts = line.split(' ');
        match (parts.next(), parts.next(), parts.next()) {
            (Some(first), Some(second), None) => Ok(Merge::Pair(first.into(), second.into())),
            _ => Err(E::custom("a merge is two parts")),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Merge, A::Error> {
        match (parts.next_element()?, parts.next_element()?, parts.next_element::<String>()?) {
            (Some(first), Some(second), None) => Ok(Merge::Pair(first, second)),
            _ => Err(A::Error::custom("a merge is two parts")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use serde_json::{Value, json};

    use super::*;

    /// All tokenizers among the goldens and the built-in model.
    fn files() -> Vec<PathBuf> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut found = Vec::new();
        let mut directories = vec![root.join("goldens"), root.join("models"), root.join("crates/core/tests/it/data")];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).unwrap().flatten() {
                match entry.path() {
                    path if path.is_dir() => directories.push(path),
                    path if path.extension().is_some_and(|extension| extension == "json") => found.push(path),
                    _ => {}
                }
            }
        }
        found
    }

    fn written(tokenizer: &Inner) -> Value {
        let mut written = serde_json::to_value(tokenizer).unwrap();
        // They are switched off after reading.
        (written["truncation"], written["padding"]) = (Value::Null, Value::Null);
        written
    }

    #[test]
    fn tokenizers_are_those_that_the_crate_reads() {
        let mut n_same = 0;
        for path in files() {
            let bytes = fs::read(&path).unwrap();
            let Some(own) = read(&bytes) else { continue };
            let theirs = Inner::from_bytes(&bytes).unwrap();
            assert_eq!(written(&own), written(&theirs), "{}", path.display());
            for text in ["The quick brown fox", "  ünïcode 漢字 <s>\n\n12345", ""] {
                let [own, theirs] = [&own, &theirs].map(|inner| inner.encode(text, true).unwrap());
                assert_eq!(own, theirs, "{}: {text}", path.display());
            }
            n_same += 1;
        }
        assert!(n_same >= 5, "{n_same} tokenizers are BPE");
    }

    #[test]
    fn merges_of_either_form_are_read() {
        let model = |merges: Value| {
            let model =
                json!({"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "aba": 3}, "merges": merges, "ignore_merges": true});
            json!({"version": "1.0", "added_tokens": [], "model": model})
        };
        let pairs = model(json!([["a", "b"], ["ab", "a"]]));
        let read = |file: &Value| read(file.to_string().as_bytes());
        let theirs = Inner::from_bytes(pairs.to_string()).unwrap();
        assert_eq!(written(&read(&pairs).unwrap()), written(&theirs));
        let lines = model(json!(["#version: 0.2", "a b", "ab a"]));
        assert_eq!(written(&read(&lines).unwrap()), written(&theirs));
        // These have an error of the crate's, or are left to it.
        for merges in [json!(["a"]), json!(["a b a"]), json!([["a"]]), json!([["a", "b", "a"]]), json!([["a", "x"]]), json!({})] {
            assert!(read(&model(merges.clone())).is_none(), "{merges}");
        }
        for (field, value) in [("type", json!("WordLevel")), ("type", Value::Null), ("dropout", json!(7)), ("vocab", json!([]))] {
            let mut changed = pairs.clone();
            changed["model"][field] = value;
            assert!(read(&changed).is_none(), "{changed}");
        }
        let mut newer = pairs;
        newer["version"] = "2.0".into();
        assert!(read(&newer).is_none());
    }
}
