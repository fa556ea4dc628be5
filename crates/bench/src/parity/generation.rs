//! Generation on both sides at once: the same tokens go into both until the two take different ones.

use serde::Serialize;
use tandem_core::sampler::{Sampler, SamplingOptions};
use tandem_core::{CancelToken, Error, LogitsRequest, Result};

use super::corpus::PromptKind;
use super::logits::{Divergence, Place, Ties, session};
use super::row::{Label, Row};
use super::text::Prompt;
use super::{Problem, Side};

/// How sampled texts are drawn: warm enough that a draw is more than the choice of the best.
const TEMPERATURE: f32 = 0.8;
const TOP_P: f32 = 0.95;

/// What was generated.
#[derive(Clone, Debug, Default, Serialize)]
pub struct GenerationMeasures {
    /// The most tokens of one text.
    pub n_tokens: usize,
    /// The most probable token at each step.
    pub greedy: Runs,
    /// Tokens drawn with the same seed on both sides.
    pub sampled: Runs,
}

/// Texts that were generated in one way.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Runs {
    /// Texts.
    pub n_prompts: usize,
    /// Texts that are the same to the end.
    pub n_identical: usize,
    /// Texts that diverge at a near tie.
    pub n_near_ties: usize,
    /// Texts that diverge, near ties aside.
    pub n_real: usize,
    /// The mean number of tokens that both sides have in common.
    pub mean_common: f64,
    /// Where texts part, every one.
    pub divergences: Vec<Divergence>,
}

/// What is generated.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// The most texts.
    pub(super) n_prompts: usize,
    /// The most tokens of each.
    pub(super) n_tokens: usize,
    /// The seed of the draws.
    pub(super) seed: u64,
}

/// Generates on both sides, greedily and with a seed.
pub(super) fn compare(
    sides: (&Side<'_>, &Side<'_>),
    prompts: &[Prompt],
    plan: Plan,
    ties: Ties,
    cancel: &CancelToken,
    problems: &mut Vec<Problem>,
    listen: &mut dyn FnMut(&str),
) -> GenerationMeasures {
    let most = sides.0.model.info().max_context.min(sides.1.model.info().max_context);
    let fits = |prompt: &&Prompt| prompt.kind != PromptKind::Long && prompt.tokens.len() + plan.n_tokens <= most;
    let prompts: Vec<&Prompt> = prompts.iter().filter(fits).collect();
    // Of every kind some.
    let step = prompts.len().div_ceil(plan.n_prompts.max(1)).max(1);
    let mut measures = GenerationMeasures { n_tokens: plan.n_tokens, ..GenerationMeasures::default() };
    for prompt in prompts.into_iter().step_by(step) {
        listen(&format!("generation: {}", prompt.name));
        let drawn = SamplingOptions { temperature: TEMPERATURE, top_p: TOP_P, seed: plan.seed, ..SamplingOptions::greedy() };
        let ways = [(SamplingOptions::greedy(), &mut measures.greedy), (drawn, &mut measures.sampled)];
        for (options, runs) in ways {
            match run(sides, prompt, plan.n_tokens, options, ties, cancel) {
                Ok((common, divergence)) => runs.add(common, divergence),
                Err(error) => problems.push(Problem::of_prompt(&prompt.name, &error)),
            }
        }
        if cancel.is_cancelled() {
            break;
        }
    }
    measures
}

impl Runs {
    fn add(&mut self, common: usize, divergence: Option<Divergence>) {
        self.mean_common = (self.mean_common * self.n_prompts as f64 + common as f64) / (self.n_prompts + 1) as f64;
        self.n_prompts += 1;
        match divergence.as_ref().map(|divergence| divergence.label) {
            None => self.n_identical += 1,
            Some(Label::NearTie) => self.n_near_ties += 1,
            Some(Label::Real) => self.n_real += 1,
        }
        self.divergences.extend(divergence);
    }

    /// The share of texts that diverge, near ties aside.
    pub fn real_share(&self) -> f64 {
        self.n_real as f64 / self.n_prompts.max(1) as f64
    }
}

/// How many tokens both sides have in common, and where they part.
fn run(
    (reference, candidate): (&Side<'_>, &Side<'_>),
    prompt: &Prompt,
    n_tokens: usize,
    options: SamplingOptions,
    ties: Ties,
    cancel: &CancelToken,
) -> Result<(usize, Option<Divergence>)> {
    let room = prompt.tokens.len() + n_tokens;
    let (mut ours, mut theirs) = (session(reference, room, cancel)?, session(candidate, room, cancel)?);
    let is_greedy = options.temperature <= 0.0;
    let mut sampler = Sampler::new(options, reference.model.info().vocab_size)?;
    let mut history = prompt.tokens.clone();
    let mut given = prompt.tokens.clone();
    for n in 0..n_tokens {
        if cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let (ours, theirs) = (ours.append(&given, LogitsRequest::Last(1))?, theirs.append(&given, LogitsRequest::Last(1))?);
        let (Some(ours), Some(theirs)) = (ours.last(), theirs.last()) else { break };
        let our_token = sampler.sample(ours, &history, n as u64)?.id;
        let their_token = sampler.sample(theirs, &history, n as u64)?.id;
        if our_token != their_token {
            let row = Row::new(ours, theirs);
            let parted = row.parted_at(ours, theirs, our_token, their_token);
            let label = match is_greedy {
                true => parted.label(ties.noise, ties.tie),
                // A draw falls between two tokens: any difference may move the border past it, so the size of the difference counts.
                false if row.finite && row.max_abs <= ties.tie.max(2.0 * ties.noise) => Label::NearTie,
                false => Label::Real,
            };
            let place = Place { prompt: prompt.name.clone(), position: history.len() };
            return Ok((n, Some(Divergence::new(reference, place, label, parted)?)));
        }
        if reference.end_tokens.contains(&our_token) {
            return Ok((n + 1, None));
        }
        history.push(our_token);
        given = vec![our_token];
    }
    Ok((n_tokens, None))
}
