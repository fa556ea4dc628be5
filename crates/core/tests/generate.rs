//! Generation over the reference backend: what ends it, what it reports, and what stays in the cache.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "a failed test is a panic")]

use std::path::Path;
use std::sync::Arc;

use tandem_core::conformance::FakeBackend;
use tandem_core::files::ModelFiles;
use tandem_core::generate::{Event, FinishReason, GenerateOptions, Generation};
use tandem_core::sampler::SamplingOptions;
use tandem_core::score::{perplexity, score};
use tandem_core::sequence::Sequence;
use tandem_core::stop::StopOptions;
use tandem_core::tokenizer::Tokenizer;
use tandem_core::{Backend, Capabilities, Capability, Error, LoadOptions, Model, SessionOptions, TokenId};

const PROMPT: [TokenId; 6] = [40, 41, 42, 43, 44, 45];

struct World {
    model: Arc<dyn Model>,
    tokenizer: Tokenizer,
}

#[derive(Debug, Default)]
struct Outcome {
    tokens: Vec<TokenId>,
    text: String,
    prefilled: Vec<usize>,
    reason: Option<FinishReason>,
}

fn world(capabilities: Capabilities) -> World {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens/qwen2-tied");
    let files = ModelFiles::discover(&directory, "qwen2-tied").unwrap();
    let model = FakeBackend { capabilities, shows_stages: false }.load(&files, &LoadOptions::default()).unwrap();
    let json = std::fs::read(directory.join("tokenizer.json")).unwrap();
    World { model, tokenizer: Tokenizer::from_json(&json, "tokenizer.json").unwrap() }
}

fn rewinding() -> World {
    world(Capabilities::of(&[Capability::Generation, Capability::AllLogits, Capability::Rewind]))
}

impl World {
    fn sequence(&self, max_tokens: usize) -> Sequence {
        Sequence::new(&*self.model, &SessionOptions::new().with_context_length(max_tokens)).unwrap()
    }

    fn generate(&self, sequence: &mut Sequence, prompt: &[TokenId], options: GenerateOptions) -> Outcome {
        let mut generation = Generation::new(sequence, &self.tokenizer, prompt, options).unwrap();
        let mut outcome = Outcome::default();
        for event in &mut generation {
            match event.unwrap() {
                Event::Prefilled { n_tokens, n_prompt } => {
                    assert_eq!(n_prompt, prompt.len());
                    outcome.prefilled.push(n_tokens);
                }
                Event::Token { id, text, .. } => {
                    outcome.tokens.push(id);
                    outcome.text += &text;
                }
                Event::Finished { reason, text } => {
                    assert!(outcome.reason.is_none(), "one end");
                    outcome.reason = Some(reason);
                    outcome.text += &text;
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(generation.tokens(), outcome.tokens);
        outcome
    }
}

fn options(max_tokens: usize) -> GenerateOptions {
    GenerateOptions::new(Some(max_tokens), SamplingOptions::greedy(), StopOptions { end_tokens: vec![], stop_strings: vec![] })
}

#[test]
fn the_text_is_that_of_all_tokens() {
    let world = rewinding();
    let outcome = world.generate(&mut world.sequence(100), &PROMPT, options(60));
    assert_eq!(outcome.tokens.len(), 60);
    assert_eq!(outcome.reason, Some(FinishReason::Length));
    assert_eq!(outcome.text, world.tokenizer.decode(&outcome.tokens, true).unwrap());
}

#[test]
fn chunks_do_not_change_what_is_generated() {
    let world = rewinding();
    let whole = world.generate(&mut world.sequence(100), &PROMPT, options(20));
    for chunk in [0, 1, 4, 5] {
        let chunked = options(20).with_prefill_chunk(chunk);
        let outcome = world.generate(&mut world.sequence(100), &PROMPT, chunked);
        assert_eq!(outcome.tokens, whole.tokens);
        assert_eq!(outcome.prefilled.last(), Some(&PROMPT.len()));
        assert_eq!(outcome.prefilled.len(), PROMPT.len().div_ceil(chunk.max(1)));
    }
}

#[test]
fn an_end_token_is_reported_and_has_no_text() {
    let world = rewinding();
    let free = world.generate(&mut world.sequence(100), &PROMPT, options(30));
    let end = free.tokens[17];
    let first = free.tokens.iter().position(|&token| token == end).unwrap();
    let mut stopped = options(30);
    stopped.stop.end_tokens = vec![end];
    let outcome = world.generate(&mut world.sequence(100), &PROMPT, stopped);
    assert_eq!(outcome.tokens, free.tokens[..=first]);
    assert_eq!(outcome.text, world.tokenizer.decode(&free.tokens[..first], true).unwrap());
    assert_eq!(outcome.reason, Some(FinishReason::Stop));
}

#[test]
fn a_stop_string_ends_the_text_before_it() {
    let world = rewinding();
    let free = world.generate(&mut world.sequence(100), &PROMPT, options(30));
    // Three characters from the middle, which lie across tokens.
    let characters: Vec<(usize, char)> = free.text.char_indices().collect();
    let middle = characters.len() / 2;
    let wanted: String = characters[middle..middle + 3].iter().map(|(_, c)| *c).collect();
    let mut stopped = options(30);
    stopped.stop.stop_strings = vec![wanted.clone()];
    let outcome = world.generate(&mut world.sequence(100), &PROMPT, stopped);
    assert_eq!(outcome.text, free.text[..free.text.find(&wanted).unwrap()]);
    assert_eq!(outcome.reason, Some(FinishReason::Stop));
}

#[test]
fn a_full_context_ends_it_and_a_longer_prompt_is_refused() {
    let world = rewinding();
    let mut sequence = world.sequence(PROMPT.len() + 4);
    let outcome = world.generate(&mut sequence, &PROMPT, options(50));
    assert_eq!(outcome.reason, Some(FinishReason::Length));
    assert_eq!(outcome.tokens.len(), 5, "four that fit and the one after them");

    let long: Vec<TokenId> = (0..11).collect();
    let error = Generation::new(&mut sequence, &world.tokenizer, &long, options(5)).unwrap().next().unwrap().unwrap_err();
    assert!(matches!(error, Error::ContextFull { asked: 11, max: 10, .. }), "{error}");
    assert_eq!(world.generate(&mut sequence, &PROMPT, options(3)).tokens, outcome.tokens[..3], "the sequence stays usable");
}

#[test]
fn a_cancel_ends_it_between_tokens_and_the_sequence_stays_usable() {
    let world = rewinding();
    let free = world.generate(&mut world.sequence(100), &PROMPT, options(30));
    let mut sequence = world.sequence(100);
    let cancel = sequence.cancel_token().clone();
    let mut events = Vec::new();
    for event in Generation::new(&mut sequence, &world.tokenizer, &PROMPT, options(30)).unwrap() {
        events.push(event.unwrap());
        if events.len() == 5 {
            cancel.cancel();
        }
    }
    assert_eq!(events.len(), 6, "the event after the cancel is the last");
    assert!(matches!(events.last(), Some(Event::Finished { reason: FinishReason::Cancelled, .. })));
    cancel.reset();
    assert_eq!(world.generate(&mut sequence, &PROMPT, options(30)).tokens, free.tokens);
}

#[test]
fn what_is_in_the_cache_is_not_computed_again() {
    let world = rewinding();
    let mut sequence = world.sequence(100);
    let first = world.generate(&mut sequence, &PROMPT, options(8));
    let longer: Vec<TokenId> = PROMPT.iter().chain(&first.tokens).copied().chain([50, 51]).collect();
    let mut generation = Generation::new(&mut sequence, &world.tokenizer, &longer, options(4)).unwrap();
    let again: Vec<Event> = generation.by_ref().map(Result::unwrap).collect();
    // The last token drawn was never computed.
    assert_eq!(generation.timings().n_reused, PROMPT.len() + first.tokens.len() - 1);
    assert_eq!(generation.timings().n_prefilled, 3);
    let fresh: Vec<Event> =
        Generation::new(&mut world.sequence(100), &world.tokenizer, &longer, options(4)).unwrap().map(Result::unwrap).collect();
    assert_eq!(again[1..], fresh[1..]);

    let other = [PROMPT.as_slice(), &[99]].concat();
    let mut generation = Generation::new(&mut sequence, &world.tokenizer, &other, options(1)).unwrap();
    assert_eq!(generation.by_ref().count(), 3);
    assert_eq!(generation.timings().n_reused, PROMPT.len());
}

#[test]
fn a_cache_that_cannot_be_rewound_is_emptied() {
    let world = world(Capabilities::of(&[Capability::Generation]));
    let mut sequence = world.sequence(100);
    let first = world.generate(&mut sequence, &PROMPT, options(8));
    let other = [&PROMPT[..4], &[99, 98, 97]].concat();
    let outcome = world.generate(&mut sequence, &other, options(8));
    assert_eq!(outcome.tokens, world.generate(&mut world.sequence(100), &other, options(8)).tokens);
    assert_ne!(outcome.tokens, first.tokens);
}

#[test]
fn seeds_decide_and_nothing_else_does() {
    let world = rewinding();
    let drawn = |seed| {
        let sampling = SamplingOptions { temperature: 1.0, seed, ..SamplingOptions::greedy() };
        let options = options(40).with_sampling(sampling);
        world.generate(&mut world.sequence(100), &PROMPT, options).tokens
    };
    assert_eq!(drawn(7), drawn(7));
    assert_ne!(drawn(7), drawn(8));
}

#[test]
fn no_prompt_and_no_tokens() {
    let world = rewinding();
    let mut sequence = world.sequence(10);
    assert!(matches!(Generation::new(&mut sequence, &world.tokenizer, &[], options(1)), Err(Error::EmptyPrompt)));
    let outcome = world.generate(&mut sequence, &PROMPT, options(0));
    assert_eq!((outcome.tokens.len(), outcome.reason), (0, Some(FinishReason::Length)));
    assert_eq!(sequence.tokens(), PROMPT);
}

#[test]
fn scores_do_not_depend_on_how_logits_come() {
    let text: Vec<TokenId> = (0..70).map(|i| i * 3 % 300).collect();
    let with = rewinding();
    let without = world(Capabilities::of(&[Capability::Generation]));
    let all = score(&mut with.sequence(100), &text, 3, &mut |_| {}).unwrap();
    let mut done = Vec::new();
    let stepped = score(&mut without.sequence(100), &text, 3, &mut |n| done.push(n)).unwrap();
    assert_eq!(all, stepped);
    assert_eq!(all.len(), text.len());
    assert_eq!(all[0].logprob, None);
    assert_eq!(done.last(), Some(&70));
    assert!(perplexity(&all).unwrap() > 1.0);
    assert!(matches!(score(&mut with.sequence(10), &text, 0, &mut |_| {}), Err(Error::ContextFull { .. })));
}
