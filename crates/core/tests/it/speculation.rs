//! Drafts change nothing but the number of runs.

use std::path::Path;
use std::sync::Arc;

use tandem_core::conformance::FakeBackend;
use tandem_core::files::ModelFiles;
use tandem_core::generate::{Event, FinishReason, GenerateOptions, Generation, Timings};
use tandem_core::sampler::SamplingOptions;
use tandem_core::sequence::Sequence;
use tandem_core::speculation::{DraftModel, Drafter, PromptLookup};
use tandem_core::stop::StopOptions;
use tandem_core::tokenizer::Tokenizer;
use tandem_core::{Backend, Capabilities, Capability, Error, LoadOptions, Model, Result, SessionOptions, TokenId};

const PROMPT: [TokenId; 8] = [40, 41, 42, 43, 40, 41, 42, 43];

struct World {
    model: Arc<dyn Model>,
    tokenizer: Tokenizer,
}

fn world(more: &[Capability]) -> World {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens/qwen2-tied");
    let files = ModelFiles::discover(&directory, "qwen2-tied").unwrap();
    let capabilities = Capabilities::of(&[&[Capability::Generation], more].concat());
    let model = FakeBackend { capabilities, shows_stages: false }.load(&files, &LoadOptions::default()).unwrap();
    let json = std::fs::read(directory.join("tokenizer.json")).unwrap();
    World { model, tokenizer: Tokenizer::from_json(&json, "tokenizer.json").unwrap() }
}

fn capable() -> World {
    world(&[Capability::AllLogits, Capability::Rewind])
}

#[derive(Debug, PartialEq)]
struct Outcome {
    events: Vec<Event>,
    held: Vec<TokenId>,
}

impl World {
    fn sequence(&self, context: usize) -> Sequence {
        Sequence::new(&*self.model, &SessionOptions::new().with_context_length(context)).unwrap()
    }

    fn generate(&self, options: &GenerateOptions, context: usize, drafter: Option<&mut dyn Drafter>) -> (Outcome, Timings) {
        let mut sequence = self.sequence(context);
        let mut generation = Generation::new(&mut sequence, &self.tokenizer, &PROMPT, options.clone()).unwrap();
        if let Some(drafter) = drafter {
            generation = generation.with_drafter(drafter).unwrap();
        }
        let events = generation.by_ref().map(|event| event.unwrap()).collect();
        let timings = generation.timings();
        (Outcome { events, held: sequence.tokens().to_vec() }, timings)
    }
}

fn options(max: usize, temperature: f32, seed: u64) -> GenerateOptions {
    let sampling = SamplingOptions { temperature, seed, ..SamplingOptions::greedy() };
    GenerateOptions::new(Some(max), sampling, StopOptions::default())
}

/// Guesses the right tokens, but for those that `is_wrong` says, by their number.
struct Known {
    tokens: Vec<TokenId>,
    is_wrong: fn(usize) -> bool,
}

impl Drafter for Known {
    fn draft(&mut self, history: &[TokenId], n: usize) -> Result<Vec<TokenId>> {
        let next = history.len() - PROMPT.len();
        let guess = |(i, token): (usize, &TokenId)| if (self.is_wrong)(next + i) { (token + 1) % 50 } else { *token };
        Ok(self.tokens[next..].iter().take(n).enumerate().map(guess).collect())
    }
}

fn drawn(outcome: &Outcome) -> Vec<TokenId> {
    outcome.events.iter().filter_map(|event| if let Event::Token { id, .. } = event { Some(*id) } else { None }).collect()
}

/// Right, half right, wrong and no guesses: the same events, and the same tokens in the cache, at any temperature, in a thousand runs.
#[test]
fn drafts_do_not_change_the_output() {
    let world = capable();
    let wrong: [fn(usize) -> bool; 4] = [|_| false, |i| i % 5 == 3, |i| i % 2 == 0, |_| true];
    let (mut n_runs, mut n_accepted) = (0, [0; 4]);
    for seed in 0..84 {
        for temperature in [0.0, 0.7, 1.2] {
            let options = options(1 + (seed as usize * 7) % 40, temperature, seed);
            let context = PROMPT.len() + 12 + seed as usize % 40;
            let (expected, _) = world.generate(&options, context, None);
            for (kind, is_wrong) in wrong.into_iter().enumerate() {
                let mut drafter = Known { tokens: drawn(&expected), is_wrong };
                let (outcome, timings) = world.generate(&options, context, Some(&mut drafter));
                assert_eq!(outcome, expected, "seed {seed}, temperature {temperature}, guesses {kind}");
                assert_eq!(timings.n_decoded, drawn(&expected).len() - 1);
                n_accepted[kind] += timings.n_accepted;
                n_runs += 1;
            }
        }
    }
    assert!(n_runs >= 1000 && n_accepted[0] > n_accepted[1] && n_accepted[1] > n_accepted[2], "{n_runs} {n_accepted:?}");
    assert_eq!(n_accepted[3], 0);
}

#[test]
fn stops_end_a_generation_within_a_draft() {
    let world = capable();
    let (all, _) = world.generate(&options(30, 0.0, 1), 200, None);
    let tokens = drawn(&all);
    for end in [tokens[4], tokens[11]] {
        let stop = StopOptions { end_tokens: vec![end], stop_strings: Vec::new() };
        let mut options = options(30, 0.0, 1);
        options.stop = stop;
        let (expected, _) = world.generate(&options, 200, None);
        let mut drafter = Known { tokens: tokens.clone(), is_wrong: |_| false };
        let (outcome, _) = world.generate(&options, 200, Some(&mut drafter));
        assert_eq!(outcome, expected);
        assert!(matches!(outcome.events.last(), Some(Event::Finished { reason: FinishReason::Stop, .. })));
    }
}

#[test]
fn prompt_lookup_and_a_draft_model_give_the_same_tokens() {
    let world = capable();
    for temperature in [0.0, 1.2] {
        let options = options(60, temperature, 5);
        let (expected, alone) = world.generate(&options, 200, None);
        let text = drawn(&expected);
        let (outcome, timings) = world.generate(&options, 200, Some(&mut PromptLookup::new(text)));
        assert_eq!(outcome, expected);
        assert!(timings.n_accepted > 30, "{timings:?}");
        assert_eq!((alone.n_drafted, alone.n_accepted), (0, 0));
        // The same model is right whenever the most probable token is drawn; one with a shorter context stops guessing.
        for context in [200, 30] {
            let session = SessionOptions::new().with_context_length(context);
            let mut draft = DraftModel::new(&*world.model, world.model.info().vocab_size, &session).unwrap();
            let (outcome, timings) = world.generate(&options, 200, Some(&mut draft));
            assert_eq!(outcome, expected);
            if temperature == 0.0 {
                assert!(timings.n_accepted == timings.n_drafted && timings.n_accepted > 0, "{timings:?}");
            }
        }
    }
}

#[test]
fn an_invalid_draft_is_an_error_and_leaves_the_sequence() {
    struct Outside;
    impl Drafter for Outside {
        fn draft(&mut self, _: &[TokenId], n: usize) -> Result<Vec<TokenId>> {
            Ok(vec![TokenId::MAX; n])
        }
    }
    let world = capable();
    let mut sequence = world.sequence(100);
    let mut outside = Outside;
    let generation = Generation::new(&mut sequence, &world.tokenizer, &PROMPT, options(9, 0.0, 1)).unwrap();
    let error = generation.with_drafter(&mut outside).unwrap().find_map(std::result::Result::err);
    assert!(matches!(error, Some(Error::InvalidToken { .. })), "{error:?}");
    assert_eq!(sequence.tokens(), PROMPT);
}

#[test]
fn a_model_that_cannot_verify_drafts_says_so() {
    for more in [&[Capability::Rewind], &[Capability::AllLogits]] {
        let world = world(more);
        let mut sequence = world.sequence(100);
        let generation = Generation::new(&mut sequence, &world.tokenizer, &PROMPT, options(9, 0.0, 1)).unwrap();
        assert!(matches!(generation.with_drafter(&mut PromptLookup::default()), Err(Error::Unsupported { .. })));
    }
}
