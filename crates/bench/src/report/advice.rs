//! Which contender to use.

use crate::record::{Contender, Metric, Record};
use crate::statistics::{Verdict, median};

/// The divergence, in nats, up to which two engines compute the same: what order of summation does to f32.
const NOTHING_LOST: f64 = 1e-5;

/// The divergence up to which hardly anybody tells the texts apart: that of 8-bit weights of a published 8B model, several times over
/// (`llama-perplexity --kl-divergence` has q8_0 at 0.0014).
const LITTLE_LOST: f64 = 0.005;

/// The depth that decides, or the next one that was measured: a question with its answer so far.
const USUAL_DEPTH: usize = 512;

/// Of a model without knowledge every token is as likely: a perplexity above this share of the vocabulary is none.
const CHANCE: f64 = 0.25;

/// What to use.
#[derive(Clone, Debug)]
pub struct Advice<'r> {
    /// The figure that decided.
    pub metric: Metric,
    /// The choices, from the fastest to the most exact; where one is all of them, it stands alone.
    pub choices: Vec<Choice<'r>>,
    /// The most exact one, which the others are held against.
    pub exact: Option<&'r Contender>,
    /// Weights are random, or the model knows as much as chance: losses are not those of a published model.
    pub is_random: bool,
}

/// One choice.
#[derive(Clone, Copy, Debug)]
pub struct Choice<'r> {
    /// Who wants it: `the fastest`.
    pub wish: &'static str,
    /// The contender.
    pub contender: &'r Contender,
}

/// What `record` says to use; no choices when nothing was measured.
pub fn advise(record: &Record) -> Advice<'_> {
    let metric = Metric::Decode(usual(&record.workload.depths));
    let own: Vec<&Contender> = record.measured().filter(|contender| !contender.is_peer && contender.failure.is_none()).collect();
    let within = |most: f64| -> Vec<&Contender> {
        let kl = |contender: &Contender| contender.loss.as_ref().map(|loss| loss.mean_kl);
        own.iter().copied().filter(|contender| kl(contender).is_some_and(|kl| kl <= most)).collect()
    };
    let exact = best(&within(NOTHING_LOST), metric);
    let found = [
        ("the fastest", best(&own, metric)),
        ("fast, and hardly anything lost", best(&within(LITTLE_LOST), metric)),
        ("nothing lost", exact),
    ];
    let mut choices: Vec<Choice<'_>> = Vec::new();
    for (wish, contender) in found {
        let Some(contender) = contender else { continue };
        match choices.iter_mut().find(|choice| choice.contender.name == contender.name) {
            Some(choice) if wish == "nothing lost" => choice.wish = "the fastest, and nothing lost",
            Some(_) => {}
            None => choices.push(Choice { wish, contender }),
        }
    }
    Advice { metric, choices, exact, is_random: record.model.is_random || knows_nothing(record) }
}

/// The fastest of `contenders`; among those that cannot be told from it, the one that loses least, then with the fewest threads, then with
/// the least memory.
fn best<'r>(contenders: &[&'r Contender], metric: Metric) -> Option<&'r Contender> {
    let speed = |contender: &Contender| median(&contender.values(metric));
    let fastest = contenders
        .iter()
        .copied()
        .filter(|contender| speed(contender).is_finite())
        .max_by(|a, b| speed(a).total_cmp(&speed(b)))?;
    let is_as_fast = |contender: &Contender| {
        let compared = contender.against(fastest, metric);
        // Of few rounds nothing can be said; then the figures as they are decide.
        contender.name == fastest.name || compared.is_some_and(|compared| compared.verdict == Verdict::Same)
    };
    contenders
        .iter()
        .copied()
        .filter(|contender| is_as_fast(contender))
        .min_by(|a, b| rank(a).partial_cmp(&rank(b)).unwrap_or(std::cmp::Ordering::Equal))
}

/// Less is better: the loss by its order of magnitude, threads, memory.
fn rank(contender: &Contender) -> (f64, usize, f64) {
    let kl = contender.loss.as_ref().map_or(f64::INFINITY, |loss| loss.mean_kl);
    let threads = contender.loaded.as_ref().map_or(usize::MAX, |loaded| loaded.threads);
    (kl.max(NOTHING_LOST).log10().round(), threads, median(&contender.values(Metric::PeakMemory)))
}

/// The least depth from [`USUAL_DEPTH`] on, or the greatest there is.
pub(super) fn usual(values: &[usize]) -> usize {
    let from = values.iter().copied().filter(|&value| value >= USUAL_DEPTH).min();
    from.or_else(|| values.iter().copied().max()).unwrap_or(0)
}

fn knows_nothing(record: &Record) -> bool {
    let perplexities = record.contenders.iter().filter_map(|contender| Some(contender.loss.as_ref()?.reference_perplexity));
    record.model.vocab_size > 0 && perplexities.fold(0.0, f64::max) > CHANCE * record.model.vocab_size as f64
}
