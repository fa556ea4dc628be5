//! Many requests at once over the reference backend: each gets what it gets alone, whatever the others do.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tandem_core::backend::Append;
use tandem_core::conformance::FakeBackend;
use tandem_core::files::ModelFiles;
use tandem_core::generate::{Event, FinishReason, GenerateOptions, Generation};
use tandem_core::sampler::SamplingOptions;
use tandem_core::scheduler::{Priority, Request, RequestId, Reuse, Scheduler, SchedulerOptions, Update};
use tandem_core::sequence::{LEAST_CHUNK, LEAST_PART, Sequence};
use tandem_core::stop::StopOptions;
use tandem_core::tokenizer::Tokenizer;
use tandem_core::{
    Backend, CancelToken, Capabilities, Capability, Error, LoadOptions, LogitsRequest, Model, ModelInfo, Session, SessionOptions,
    TokenId,
};

const CONTEXT: usize = 120;

struct World {
    model: Arc<dyn Model>,
    tokenizer: Tokenizer,
}

fn world(capabilities: &[Capability]) -> World {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens/qwen2-tied");
    let files = ModelFiles::discover(&directory, "qwen2-tied").unwrap();
    let capabilities = Capabilities::of(capabilities);
    let model = FakeBackend { capabilities, shows_stages: false }.load(&files, &LoadOptions::default()).unwrap();
    let json = std::fs::read(directory.join("tokenizer.json")).unwrap();
    World { model, tokenizer: Tokenizer::from_json(&json, "tokenizer.json").unwrap() }
}

fn forking() -> World {
    world(&[Capability::Generation, Capability::Rewind, Capability::Fork])
}

/// What became of a request.
#[derive(Debug, Default, PartialEq)]
struct Outcome {
    tokens: Vec<TokenId>,
    text: String,
    /// How it ended: the reason or the error.
    end: Option<String>,
}

impl Outcome {
    fn take(&mut self, event: Result<Event, Error>) {
        assert_eq!(self.end, None, "nothing follows the end");
        match event {
            Ok(Event::Token { id, text, .. }) => {
                self.tokens.push(id);
                self.text += &text;
            }
            Ok(Event::Finished { reason, text }) => {
                self.text += &text;
                self.end = Some(reason.to_string());
            }
            Ok(_) => {}
            Err(error) => self.end = Some(error.to_string()),
        }
    }
}

impl World {
    fn scheduler(&self, options: SchedulerOptions) -> Scheduler {
        let options = options.with_context_length(Some(CONTEXT));
        Scheduler::new(Arc::clone(&self.model), self.tokenizer.clone(), options).unwrap()
    }

    fn alone(&self, prompt: &[TokenId], options: &GenerateOptions) -> Outcome {
        let mut sequence = Sequence::new(&*self.model, &SessionOptions::new().with_context_length(CONTEXT)).unwrap();
        let mut outcome = Outcome::default();
        for event in Generation::new(&mut sequence, &self.tokenizer, prompt, options.clone()).unwrap() {
            let failed = event.is_err();
            outcome.take(event);
            if failed {
                break;
            }
        }
        outcome
    }
}

fn options(max_tokens: usize) -> GenerateOptions {
    GenerateOptions::new(Some(max_tokens), SamplingOptions::greedy(), StopOptions { end_tokens: vec![], stop_strings: vec![] })
}

fn prompt(n: usize, first: TokenId) -> Vec<TokenId> {
    (first..).take(n).map(|id| 3 + id % 300).collect()
}

/// Runs everything to its end.
fn finish(scheduler: &mut Scheduler) -> Vec<(RequestId, Outcome)> {
    let mut outcomes: Vec<(RequestId, Outcome)> = Vec::new();
    while !scheduler.is_idle() {
        for Update { id, event, ended } in scheduler.step() {
            let place = outcomes.iter().position(|(own, _)| *own == id).unwrap_or_else(|| {
                outcomes.push((id, Outcome::default()));
                outcomes.len() - 1
            });
            outcomes[place].1.take(event);
            assert_eq!(ended.is_some(), outcomes[place].1.end.is_some());
            if let Some(ended) = ended {
                // Some may have come in steps before.
                assert!(ended.tokens.ends_with(&outcomes[place].1.tokens));
            }
        }
    }
    outcomes
}

/// Numbers below what is asked for, of a linear congruential sequence.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }

    fn request(&mut self) -> (Vec<TokenId>, GenerateOptions) {
        // Few beginnings, so that prompts share them.
        let mut tokens = prompt(1 + self.below(70), self.below(2) as TokenId * 100);
        tokens.extend(prompt(self.below(25), self.below(250) as TokenId));
        tokens.truncate(CONTEXT);
        if self.below(12) == 0 {
            // Outside of the vocabulary: an error.
            let place = self.below(tokens.len());
            tokens[place] = 100_000;
        }
        let temperature = [0.0, 0.7, 1.2][self.below(3)];
        let sampling = SamplingOptions { temperature, seed: self.below(1000) as u64, ..SamplingOptions::greedy() };
        let stop_strings = if self.below(4) == 0 { vec!["e".to_owned()] } else { vec![] };
        let end_tokens = if self.below(3) == 0 { vec![7, 50, 90] } else { vec![] };
        let max_tokens = if self.below(5) == 0 { None } else { Some(self.below(40)) };
        (tokens, GenerateOptions::new(max_tokens, sampling, StopOptions { end_tokens, stop_strings }))
    }
}

struct Expected {
    id: RequestId,
    cancel: CancelToken,
    is_cancelled: bool,
    alone: Outcome,
    outcome: Outcome,
}

/// One random schedule: arrivals, lengths, priorities, cancels and errors, against each request alone.
fn check_schedule(world: &World, seed: u64) {
    let mut random = Random(seed);
    let bytes = world.model.info().kv_bytes_per_token as u64;
    let kv_bytes = (random.below(2) == 0).then(|| bytes * (CONTEXT + random.below(300)) as u64);
    let parked_bytes = [0, 40, 200, 1000][random.below(4)] * bytes;
    let reuse = [Reuse::Nothing, Reuse::Prompts, Reuse::All][random.below(3)];
    let limits = SchedulerOptions::new(1 + random.below(6)).with_kv_bytes(kv_bytes).with_reuse(reuse, parked_bytes);
    let mut scheduler = world.scheduler(limits);
    let (mut requests, mut left): (Vec<Expected>, _) = (Vec::new(), 3 + random.below(15));
    while left > 0 || !scheduler.is_idle() {
        if left > 0 && random.below(3) == 0 {
            left -= 1;
            let (tokens, options) = random.request();
            let alone = world.alone(&tokens, &options);
            let cancel = CancelToken::new();
            let priority = [Priority::Low, Priority::Normal, Priority::High][random.below(3)];
            let request = Request::new(tokens, options).with_priority(priority).with_cancel(cancel.clone());
            let id = scheduler.submit(request).unwrap();
            requests.push(Expected { id, cancel, is_cancelled: false, alone, outcome: Outcome::default() });
        }
        if !requests.is_empty() && random.below(25) == 0 {
            let place = random.below(requests.len());
            requests[place].is_cancelled |= requests[place].outcome.end.is_none();
            requests[place].cancel.cancel();
        }
        for Update { id, event, .. } in scheduler.step() {
            requests.iter_mut().find(|request| request.id == id).unwrap().outcome.take(event);
        }
        let figures = scheduler.figures();
        assert!(figures.parked_bytes <= parked_bytes, "{figures:?}");
        assert!(kv_bytes.is_none_or(|max| figures.reserved_bytes <= max), "{figures:?} of {kv_bytes:?}");
    }
    for Expected { is_cancelled, alone, outcome, .. } in requests {
        if is_cancelled && outcome.end.as_deref() == Some("cancelled") {
            assert!(alone.tokens.starts_with(&outcome.tokens), "seed {seed}: {outcome:?} {alone:?}");
        } else {
            assert_eq!(outcome, alone, "seed {seed}");
        }
    }
}

#[test]
fn memory_bounds_what_runs_and_what_is_kept() {
    let bounds = |options: SchedulerOptions| (options.kv_bytes, options.parked_bytes);
    assert_eq!(bounds(SchedulerOptions::new(8).with_memory(1000)), (Some(750), 125));
    let tight = SchedulerOptions::new(8).with_kv_bytes(Some(10)).with_reuse(Reuse::All, 20);
    assert_eq!(bounds(tight.with_memory(1000)), (Some(10), 20), "a tighter bound stays");
}

#[test]
fn random_schedules_give_each_request_what_it_gets_alone() {
    for capabilities in [
        &[Capability::Generation, Capability::Rewind, Capability::Fork][..],
        &[Capability::Generation, Capability::Rewind],
        &[Capability::Generation, Capability::Fork],
        &[Capability::Generation],
        &[Capability::Generation, Capability::Rewind, Capability::Fork, Capability::PromptParts],
    ] {
        let world = world(capabilities);
        (0..60).for_each(|seed| check_schedule(&world, seed));
    }
}

#[test]
fn a_common_beginning_is_computed_once() {
    let world = forking();
    for reuse in [Reuse::Nothing, Reuse::Prompts, Reuse::All] {
        let mut scheduler = world.scheduler(SchedulerOptions::new(2).with_reuse(reuse, 1 << 20));
        let common = prompt(60, 10);
        let of = |more: usize| [common.clone(), prompt(20, more as TokenId * 7 + 100)].concat();
        for i in 0..3 {
            scheduler.submit(Request::new(of(i), options(5))).unwrap();
            assert_eq!(finish(&mut scheduler)[0].1, world.alone(&of(i), &options(5)));
        }
        let n_reused = if reuse == Reuse::Nothing { 0 } else { 2 * common.len() as u64 };
        assert_eq!(scheduler.figures().n_reused, n_reused, "{reuse:?}");
        assert_eq!(scheduler.figures().n_prefilled + n_reused, 3 * 80);
        // The same prompt once more: something is always computed.
        scheduler.submit(Request::new(of(0), options(5))).unwrap();
        finish(&mut scheduler);
        let again = match reuse {
            Reuse::Nothing => 0,
            Reuse::Prompts => 80 - LEAST_CHUNK,
            Reuse::All => 79,
        };
        assert_eq!(scheduler.figures().n_reused, n_reused + again as u64, "{reuse:?}");
    }
}

#[test]
fn an_answer_goes_on_with_its_tokens() {
    let world = forking();
    let mut scheduler = world.scheduler(SchedulerOptions::new(2).with_reuse(Reuse::All, 1 << 20));
    scheduler.submit(Request::new(prompt(30, 10), options(10))).unwrap();
    let first = finish(&mut scheduler).remove(0).1;
    let next = [prompt(30, 10), first.tokens, prompt(5, 200)].concat();
    scheduler.submit(Request::new(next.clone(), options(4))).unwrap();
    assert_eq!(finish(&mut scheduler)[0].1, world.alone(&next, &options(4)));
    assert_eq!(scheduler.figures().n_reused, 39, "the last token drawn was not computed");
}

#[test]
fn running_requests_share_their_beginning_too() {
    let world = forking();
    let mut scheduler = world.scheduler(SchedulerOptions::new(2).with_reuse(Reuse::Prompts, 0));
    scheduler.submit(Request::new(prompt(60, 10), options(30))).unwrap();
    (0..3).for_each(|_| drop(scheduler.step()));
    let second = [prompt(60, 10), prompt(20, 100)].concat();
    let id = scheduler.submit(Request::new(second.clone(), options(5))).unwrap();
    let outcomes = finish(&mut scheduler);
    assert_eq!(outcomes.iter().find(|outcome| outcome.0 == id).unwrap().1, world.alone(&second, &options(5)));
    assert_eq!(scheduler.figures().n_reused, 60);
}

#[test]
fn requests_that_come_together_share_their_beginning_too() {
    let world = forking();
    for (reuse, n_reused) in [(Reuse::Nothing, 0), (Reuse::Prompts, 120), (Reuse::All, 120)] {
        let mut scheduler = world.scheduler(SchedulerOptions::new(3).with_reuse(reuse, 0));
        let of = |more: TokenId| [prompt(60, 10), prompt(20, more * 7 + 100)].concat();
        let ids = [0, 1, 2].map(|i| scheduler.submit(Request::new(of(i), options(5))).unwrap());
        let outcomes = finish(&mut scheduler);
        for (i, id) in (0..).zip(ids) {
            assert_eq!(outcomes.iter().find(|outcome| outcome.0 == id).unwrap().1, world.alone(&of(i), &options(5)));
        }
        assert_eq!(scheduler.figures().n_reused, n_reused, "{reuse:?}");
    }
}

#[test]
fn the_least_recently_used_are_given_up() {
    let world = forking();
    let (bytes, most) = (world.model.info().kv_bytes_per_token as u64, (40 - LEAST_CHUNK) as u64);
    // Three of forty tokens: of each twelve bytes a token.
    let mut scheduler = world.scheduler(SchedulerOptions::new(1).with_reuse(Reuse::Prompts, 130 * (bytes + 4)));
    let run = |scheduler: &mut Scheduler, first: TokenId| {
        let before = scheduler.figures().n_reused;
        scheduler.submit(Request::new(prompt(40, first), options(1))).unwrap();
        finish(scheduler);
        scheduler.figures().n_reused - before
    };
    assert_eq!([0, 60, 120].map(|first| run(&mut scheduler, first)), [0, 0, 0]);
    assert_eq!((run(&mut scheduler, 0), scheduler.figures().n_evicted), (most, 0));
    assert_eq!((run(&mut scheduler, 180), scheduler.figures().n_evicted), (0, 1));
    assert_eq!((run(&mut scheduler, 0), run(&mut scheduler, 60)), (most, 0), "the second was used the longest ago");
    assert!(scheduler.figures().parked_bytes <= 130 * (bytes + 4));
}

#[test]
fn the_queue_has_limits_and_priorities() {
    let world = forking();
    let mut scheduler = world.scheduler(SchedulerOptions::new(1).with_queue(3, None));
    let submit =
        |scheduler: &mut Scheduler, priority| scheduler.submit(Request::new(prompt(5, 1), options(2)).with_priority(priority));
    let low = submit(&mut scheduler, Priority::Low).unwrap();
    let normal = submit(&mut scheduler, Priority::Normal).unwrap();
    let high = submit(&mut scheduler, Priority::High).unwrap();
    let error = submit(&mut scheduler, Priority::High).unwrap_err();
    assert!(matches!(&error, Error::Busy { .. }) && error.hint().is_some(), "{error}");
    let order: Vec<RequestId> = finish(&mut scheduler).into_iter().map(|outcome| outcome.0).collect();
    assert_eq!(order, [high, normal, low]);

    let mut scheduler = world.scheduler(SchedulerOptions::new(1).with_queue(3, Some(Duration::from_millis(5))));
    scheduler.submit(Request::new(prompt(5, 1), options(50))).unwrap();
    scheduler.step();
    let late = submit(&mut scheduler, Priority::Normal).unwrap();
    std::thread::sleep(Duration::from_millis(10));
    let update = scheduler.step().into_iter().find(|update| update.id == late).unwrap();
    assert!(matches!(update.event, Err(Error::Busy { .. })) && update.ended.is_some());
}

#[test]
fn memory_admits_one_after_the_other() {
    let world = forking();
    let bytes = world.model.info().kv_bytes_per_token as u64;
    let mut scheduler = world.scheduler(SchedulerOptions::new(8).with_kv_bytes(Some(50 * bytes)));
    for i in 0..4 {
        scheduler.submit(Request::new(prompt(10, i), options(10))).unwrap();
    }
    scheduler.step();
    let figures = scheduler.figures();
    assert_eq!((figures.n_running, figures.n_waiting, figures.reserved_bytes), (2, 2, 40 * bytes));
    assert_eq!(finish(&mut scheduler).len(), 4);
    let error = scheduler.submit(Request::new(prompt(10, 0), options(50))).unwrap_err();
    assert!(
        matches!(error, Error::KvLimit { n_tokens: 60, needed, limit } if (needed, limit) == (60 * bytes, 50 * bytes)),
        "{error}"
    );
    assert!(matches!(scheduler.submit(Request::new(prompt(CONTEXT + 1, 0), options(1))), Err(Error::ContextFull { .. })));
    assert!(matches!(scheduler.submit(Request::new(vec![], options(1))), Err(Error::EmptyPrompt)));
}

#[test]
fn a_waiting_request_can_be_cancelled() {
    let world = forking();
    let mut scheduler = world.scheduler(SchedulerOptions::new(1));
    let first = scheduler.submit(Request::new(prompt(5, 1), options(8))).unwrap();
    let cancel = CancelToken::new();
    let second = scheduler.submit(Request::new(prompt(5, 9), options(8)).with_cancel(cancel.clone())).unwrap();
    scheduler.step();
    cancel.cancel();
    let update = scheduler.step().into_iter().find(|update| update.id == second).unwrap();
    assert!(matches!(update.event, Ok(Event::Finished { reason: FinishReason::Cancelled, .. })));
    let rest = finish(&mut scheduler);
    assert_eq!(rest.len(), 1);
    assert_eq!((rest[0].0, rest[0].1.end.as_deref()), (first, Some("length")));
}

#[test]
fn options_that_cannot_be_are_refused() {
    let world = forking();
    for bad in [SchedulerOptions::new(0), SchedulerOptions::new(1).with_slowdown(1.0)] {
        let result = Scheduler::new(Arc::clone(&world.model), world.tokenizer.clone(), bad);
        assert!(matches!(result.err(), Some(Error::InvalidOption { .. })));
    }
}

/// A model that notes what is appended in each step: how many tokens, and whether they are a part of a prompt. A step takes a millisecond, and
/// one more for each token.
struct Noting {
    inner: Arc<dyn Model>,
    steps: Mutex<Vec<Vec<(usize, bool)>>>,
}

impl Model for Noting {
    fn info(&self) -> &ModelInfo {
        self.inner.info()
    }

    fn new_session(&self, options: &SessionOptions) -> Result<Box<dyn Session>, Error> {
        self.inner.new_session(options)
    }

    fn append_batch(&self, appends: &mut [Append<'_>]) -> Vec<Result<(), Error>> {
        let step: Vec<(usize, bool)> = appends.iter().map(|append| (append.tokens.len(), append.is_part)).collect();
        for append in appends.iter() {
            let n = append.tokens.len();
            assert!(!append.is_part || n > append.request.n_rows(n) && append.request != LogitsRequest::All);
        }
        std::thread::sleep(Duration::from_millis(1 + step.iter().map(|(n, _)| *n as u64).sum::<u64>()));
        self.steps.lock().unwrap().push(step);
        self.inner.append_batch(appends)
    }
}

/// What each step appends to a prompt of `n` tokens that comes in beside a sequence that decodes.
fn noted(capabilities: &[Capability], n: usize, prefill_chunk: usize) -> Vec<(usize, bool)> {
    let World { model, tokenizer } = world(capabilities);
    let noting = Arc::new(Noting { inner: model, steps: Mutex::default() });
    let world = World { model: Arc::clone(&noting) as Arc<dyn Model>, tokenizer };
    let mut scheduler = world.scheduler(SchedulerOptions::new(2));
    scheduler.submit(Request::new(prompt(5, 10), options(100))).unwrap();
    (0..3).for_each(|_| drop(scheduler.step()));
    let options = options(4).with_prefill_chunk(prefill_chunk);
    let id = scheduler.submit(Request::new(prompt(n, 100), options.clone())).unwrap();
    let outcomes = finish(&mut scheduler);
    let outcome = &outcomes.iter().find(|outcome| outcome.0 == id).unwrap().1;
    assert_eq!(*outcome, world.alone(&prompt(n, 100), &options));
    let steps = noting.steps.lock().unwrap();
    assert!(steps.iter().all(|step| step.len() <= 2));
    assert_eq!(steps[0], [(5, false)], "a short prompt is not divided");
    // Those of the prompt are the second append; of a step that decodes both are one token.
    let of_prompt = steps.iter().filter_map(|step| step.get(1)).copied();
    of_prompt.take_while(|(n, is_part)| *is_part || *n > 1).collect()
}

#[test]
fn prompts_come_in_small_parts_where_the_engine_keeps_their_bits() {
    let generates = [Capability::Generation, Capability::Fork];
    let in_parts = [Capability::Generation, Capability::Fork, Capability::PromptParts];
    for n in [LEAST_CHUNK, 60] {
        let chunks = noted(&generates, n, 256);
        assert!(chunks.iter().all(|(n, is_part)| *n >= LEAST_CHUNK && !is_part), "{chunks:?}");
        let parts = noted(&in_parts, n, 256);
        assert_eq!([&chunks, &parts].map(|all| all.iter().map(|(n, _)| n).sum::<usize>()), [n, n]);
        assert!(parts.iter().all(|(n, is_part)| *n >= LEAST_PART && *is_part), "{parts:?}");
        assert!(parts.iter().any(|(n, _)| *n < LEAST_CHUNK), "{parts:?}");
    }
    // A short prompt is computed as it is alone, and chunks that were asked for are.
    assert_eq!(noted(&in_parts, LEAST_CHUNK - 1, 256), [(LEAST_CHUNK - 1, false)]);
    assert!(noted(&in_parts, 60, 4).iter().all(|(n, is_part)| *n <= 4 && !is_part));
}
