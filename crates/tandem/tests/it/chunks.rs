//! Texts in chunks: what holds of them for every tokenizer among the goldens, and that their vectors are those of their texts.

use proptest::prelude::*;
use tandem::embedding::{Chunk, Chunking, EmbedOptions, Prompt};
use tandem::{EmbeddingModel, Error, ModelRef};

use crate::support::{engines, golden, resolver};

/// WordPiece, byte-level BPE, Unigram, BPE with a fallback to bytes; one turns texts to lower case by itself.
const MODELS: [&str; 6] = ["bert-mean", "roberta", "xlm-roberta", "qwen3", "gemma3", "mpnet"];

fn models(names: &[&str]) -> Vec<EmbeddingModel> {
    let settings = engines().pop();
    let load = |name: &&str| {
        let reference = ModelRef::Local(golden("embedders").join(name));
        resolver().load_embedder(&reference, settings.as_ref()?).ok()
    };
    names.iter().filter_map(load).collect()
}

fn parts<'t>(text: &'t str, chunks: &[Chunk]) -> Vec<&'t str> {
    chunks.iter().map(|chunk| &text[chunk.range.clone()]).collect()
}

/// What has to hold of the chunks of any text.
fn check(model: &EmbeddingModel, text: &str, chunking: Chunking) {
    let chunks = model.embedder().chunks(&[text], chunking, &EmbedOptions::new()).unwrap();
    let parts = parts(text, &chunks);
    let what = format!("{} {chunking} {text:?} {parts:?}", model.info().name);
    assert!(chunks[0].range.start == 0 && chunks[chunks.len() - 1].range.end == text.len(), "{what}");
    let tokenizer = model.embedder().tokenizer();
    let offsets = tokenizer.offsets(text).unwrap();
    for pair in chunks.windows(2) {
        let (one, next) = (&pair[0].range, &pair[1].range);
        assert!(one.start < next.start && next.start <= one.end && one.end < next.end, "nothing is left out: {what}");
        let shared = offsets.iter().filter(|(start, end)| *start >= next.start && *end <= one.end && start < end);
        assert!(shared.count() <= chunking.overlap(), "{what}");
    }
    for (chunk, part) in chunks.iter().zip(parts) {
        let n_tokens = model.embedder().tokenize(part, &EmbedOptions::new()).map_or(0, |tokens| {
            assert_eq!(tokens.n_cut, 0, "{what}");
            tokens.ids.len() - tokenizer.encode_with_template("").unwrap().len()
        });
        // One token of the whole, or all those of one character, are not divided.
        let inner =
            |pair: &&[(usize, usize)]| chunk.range.start < pair[0].1 && pair[0].1 <= pair[1].0 && pair[1].1 <= chunk.range.end;
        let inner = offsets.windows(2).filter(inner).count();
        assert!(n_tokens <= chunking.tokens() || inner == 0, "{n_tokens} tokens: {what}");
    }
}

fn text() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        4 => "[a-z]{1,9}",
        1 => "[A-Z0-9.,!-]{1,5}",
        1 => "[àéßŞİΣσ]{1,4}",
        1 => "[日本語中文字]{1,4}",
        1 => "[👩🚀½ﬁ\u{200d}\u{301}]{1,3}",
        1 => Just("[SEP]".to_owned()),
        1 => Just("</s>".to_owned()),
    ];
    let blank = prop_oneof![6 => Just(" "), 1 => Just("  "), 1 => Just("\n"), 1 => Just("")];
    prop::collection::vec((word, blank), 0..40).prop_map(|words| words.iter().flat_map(|(word, blank)| [word, *blank]).collect())
}

#[test]
fn chunks_cover_a_text_and_are_no_longer_than_asked_for() {
    let models = models(&MODELS);
    proptest!(ProptestConfig::with_cases(200), |(text in text(), tokens in 1_usize..20, overlap in 0_usize..19)| {
        let chunking = Chunking::new(tokens, overlap.min(tokens - 1)).unwrap();
        models.iter().for_each(|model| check(model, &text, chunking));
    });
}

#[test]
fn chunks_are_cut_and_repeated_by_tokens() {
    for model in models(&["bert-mean"]) {
        let text = "The river runs to the sea, and on.  ";
        let chunks = |chunking: &str| {
            let chunks = model.embedder().chunks(&[text], chunking.parse().unwrap(), &EmbedOptions::new()).unwrap();
            parts(text, &chunks).into_iter().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(chunks("4:1"), ["The river runs", "s to the sea", " sea, and o", " on.  "].map(str::to_owned));
        assert_eq!(chunks("60:10"), [text]);
    }
}

#[test]
fn vectors_of_chunks_are_those_of_their_texts() {
    let words: Vec<String> = (0..300).map(|i| format!("word{i} of the river's 日本 course;")).collect();
    let (long, options) = (words.join(" "), EmbedOptions::new().with_prompt(Prompt::Text("query: ".into())));
    let texts = ["short", &long, "", &long[..1000]];
    for settings in engines() {
        for name in ["bert-mean", "qwen3"] {
            let model = resolver().load_embedder(&ModelRef::Local(golden("embedders").join(name)), &settings).unwrap();
            let embedded = model.embed_chunks(&texts, Chunking::new(24, 6).unwrap(), &options).unwrap();
            let numbers: Vec<usize> = embedded.chunks.iter().map(|chunk| chunk.text).collect();
            assert!(numbers.is_sorted() && numbers.len() > 20 && numbers[0] == 0 && numbers[1] == 1);
            assert_eq!(embedded.embeddings.n_truncated(), 0);
            for (chunk, vector) in embedded.chunks.iter().zip(embedded.embeddings.vectors()) {
                let alone = model.embed(&[&texts[chunk.text][chunk.range.clone()]], &options).unwrap();
                assert_eq!(alone.values, vector, "{name}: {chunk:?}");
            }
        }
    }
}

#[test]
fn chunks_that_cannot_be_are_refused() {
    for (wrong, problem) in
        [("0:0", "without tokens"), ("5:5", "overlap"), ("5:9", "overlap"), ("5", "two numbers"), ("a:b", "two")]
    {
        let error = wrong.parse::<Chunking>().unwrap_err().to_string();
        assert!(error.contains(problem) && error.contains(wrong), "{error}");
    }
    assert!(matches!(Chunking::new(5, 5), Err(Error::InvalidOption { .. })));
    for model in models(&["bert-mean"]) {
        let refused = |tokens, prompt: &str| {
            let options = EmbedOptions::new().with_prompt(Prompt::Text(prompt.into()));
            let chunked = model.embed_chunks(&["a b c"], Chunking::new(tokens, 0).unwrap(), &options);
            chunked.err().map(|error| error.to_string())
        };
        // 64 tokens fit, two of which the tokenizer adds.
        assert_eq!(refused(62, ""), None);
        assert!(refused(63, "").is_some_and(|error| error.contains("more than the 62 tokens")));
        assert!(refused(62, "the river").is_some_and(|error| error.contains("more than the 60 tokens")));
    }
}
