//! What is measured of a model, in one process and one round.

mod embedding;
mod parallel;
mod texts;

use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use tandem_core::backend::{Logits, LogitsRequest};
use tandem_core::embedding::Embedder;
use tandem_core::sampler::{Sampler, SamplingOptions};
use tandem_core::{CancelToken, Model, ModelInfo, Result, Session, SessionOptions, TokenId};

pub(crate) use self::embedding::rules;
pub use self::embedding::{EmbedWorkload, Embedded, TextBatch};
pub use self::parallel::{BatchDecode, Together};
pub use self::texts::text;
use crate::machine::Conditions;

/// A loaded model, as what it is measured.
#[derive(Clone)]
pub enum Subject {
    /// It generates text.
    Generator(Arc<dyn Model>),
    /// It makes vectors of texts.
    Embedder(Box<Embedder>),
}

/// What is to be measured: of an embedding model what `embedding` says, and of any other the rest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workload {
    /// Lengths of prompts, in tokens.
    pub prompts: Vec<usize>,
    /// Tokens held before decoding begins.
    pub depths: Vec<usize>,
    /// Tokens that are decoded at each depth.
    pub n_generated: usize,
    /// Sequences that are decoded together at each depth; 1 is measured among them, so that there is something to compare with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parallel: Vec<usize>,
    /// How often each entry's turn comes.
    pub rounds: usize,
    /// What is measured of an embedding model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embedding: Option<EmbedWorkload>,
}

/// What one process measured in one round, nothing summed up.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Which round, from 0.
    pub round: usize,
    /// To load the model, in milliseconds.
    pub load_ms: Option<f64>,
    /// Its files were put out of the system's cache before.
    pub is_cold: bool,
    /// From the start of the process to the first token of the shortest prompt, in milliseconds.
    pub start_to_first_token_ms: Option<f64>,
    /// One entry for each length of prompt.
    pub prefill: Vec<Prefill>,
    /// One entry for each depth.
    pub decode: Vec<Decode>,
    /// One entry for each number of sequences at each depth.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub together: Vec<BatchDecode>,
    /// From the start of the process to the vector of the first text, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_to_first_vector_ms: Option<f64>,
    /// One entry for each batch of texts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub embedded: Vec<Embedded>,
    /// Each query, in milliseconds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub query_ms: Vec<f64>,
    /// The most memory that the process held, in bytes.
    pub peak_rss_bytes: Option<u64>,
    /// What the memory could do just before, in bytes per second, with as many threads.
    pub bandwidth: Option<f64>,
    /// What the machine did meanwhile.
    pub conditions: Conditions,
}

/// A prompt that was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Prefill {
    /// Its length.
    pub n_tokens: usize,
    /// Until the logits of its last token were there, in milliseconds.
    pub ms: f64,
    /// Until the first token was chosen from them, in milliseconds; absent where it cannot be told apart.
    pub first_token_ms: Option<f64>,
}

/// Tokens that were decoded, one at a time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Decode {
    /// Tokens held before.
    pub depth: usize,
    /// How many were decoded.
    pub n_tokens: usize,
    /// All of them, in milliseconds.
    pub ms: f64,
    /// Each of them, in milliseconds; empty where a peer does not tell.
    pub step_ms: Vec<f64>,
}

impl Workload {
    /// Each number of sequences that are decoded together, at each depth.
    pub fn together(&self) -> impl Iterator<Item = Together> {
        let at = |depth: usize| self.parallel.iter().map(move |&n| Together { n, depth });
        self.depths.iter().copied().flat_map(at)
    }
}

/// Token `i` of every prompt: the same for every entry, spread over the lower vocabulary, where no special tokens are.
pub fn prompt_token(i: usize, vocab_size: usize) -> TokenId {
    let most = vocab_size.clamp(2, 1000);
    ((i * 7919 + 13) % most) as TokenId
}

/// The longest context that `workload` needs.
pub fn longest(workload: &Workload) -> usize {
    let decoding = workload.depths.iter().map(|depth| depth.max(&1) + workload.n_generated);
    decoding.chain(workload.prompts.iter().copied()).max().unwrap_or(1)
}

impl Subject {
    /// What was loaded and where it runs.
    pub fn info(&self) -> &ModelInfo {
        match self {
            Self::Generator(model) => model.info(),
            Self::Embedder(embedder) => embedder.info(),
        }
    }
}

/// Measures `workload` once on `subject`; times of the process itself are left to the caller, who is told when the first token or the
/// first vector is there. Lengths that the model was not made for are left out.
///
/// # Errors
/// As the model's, and [`Error::Cancelled`](tandem_core::Error::Cancelled).
pub fn measure(subject: &Subject, workload: &Workload, cancel: &CancelToken, first: &mut dyn FnMut()) -> Result<Sample> {
    match subject {
        Subject::Generator(model) => generation(&**model, workload, cancel, first),
        Subject::Embedder(embedder) => {
            let nothing = EmbedWorkload::default();
            embedding::measure(embedder, workload.embedding.as_ref().unwrap_or(&nothing), cancel, first)
        }
    }
}

fn generation(model: &dyn Model, workload: &Workload, cancel: &CancelToken, first_token: &mut dyn FnMut()) -> Result<Sample> {
    let most = model.info().max_context;
    let context_length = longest(workload).min(most);
    let mut session =
        model.new_session(&SessionOptions::new().with_context_length(context_length).with_cancel(cancel.clone()))?;
    let prompt: Vec<TokenId> = (0..context_length).map(|i| prompt_token(i, model.info().vocab_size)).collect();
    let mut sample = Sample::default();

    let mut prompts: Vec<usize> = workload.prompts.iter().copied().filter(|&n| (1..=context_length).contains(&n)).collect();
    prompts.sort_unstable();
    // The first run allocates: a short one that nobody counts, after which the process has shown what a user waits for.
    session.append(&prompt[..prompts.first().copied().unwrap_or(1)], LogitsRequest::Last(1))?;
    first_token();
    let mut choice = Greedy::new(model)?;
    let room = context_length - session.n_tokens();
    decode(&mut *session, room.min(2), &mut choice)?;
    for n_tokens in prompts {
        sample.prefill.push(prefill(&mut *session, &prompt[..n_tokens], &mut choice)?);
    }
    for &depth in workload.depths.iter().filter(|&depth| depth.max(&1) + workload.n_generated <= context_length) {
        session.rewind(0)?;
        // At depth 0 there is one token, since there is nothing to continue without.
        session.append(&prompt[..depth.max(1)], LogitsRequest::None)?;
        let step_ms = decode(&mut *session, workload.n_generated, &mut choice)?;
        sample.decode.push(Decode { depth, n_tokens: step_ms.len(), ms: step_ms.iter().sum(), step_ms });
        for &n in &workload.parallel {
            sample.together.push(parallel::decode(model, &*session, Together { n, depth }, workload.n_generated, cancel)?);
        }
    }
    Ok(sample)
}

fn prefill(session: &mut dyn Session, prompt: &[TokenId], choice: &mut Greedy) -> Result<Prefill> {
    session.rewind(0)?;
    let started = Instant::now();
    let logits = session.append(prompt, LogitsRequest::Last(1))?;
    let ms = milliseconds(started);
    choice.of(&logits)?;
    Ok(Prefill { n_tokens: prompt.len(), ms, first_token_ms: Some(milliseconds(started)) })
}

/// Milliseconds of each step: one token in, the next one chosen from its logits.
fn decode(session: &mut dyn Session, n: usize, choice: &mut Greedy) -> Result<Vec<f64>> {
    let (mut token, mut logits) = (5, Logits::default());
    let mut steps = Vec::with_capacity(n);
    for _ in 0..n {
        let started = Instant::now();
        session.append_into(&[token], LogitsRequest::Last(1), &mut logits)?;
        token = choice.of(&logits)?;
        steps.push(milliseconds(started));
    }
    Ok(steps)
}

/// The choice of the most probable token, as programs make it.
struct Greedy(Sampler);

impl Greedy {
    fn new(model: &dyn Model) -> Result<Self> {
        Sampler::new(SamplingOptions::greedy(), model.info().vocab_size).map(Self)
    }

    /// From the last row of `logits`.
    fn of(&mut self, logits: &Logits) -> Result<TokenId> {
        Ok(self.0.sample(logits.last().unwrap_or_default(), &[], 0)?.id)
    }
}

/// Since `started`, to a tenth of a microsecond.
pub(crate) fn milliseconds(started: Instant) -> f64 {
    (started.elapsed().as_secs_f64() * 1e7).round() / 1e4
}
