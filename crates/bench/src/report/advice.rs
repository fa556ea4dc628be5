//! Which entry to use.

use crate::record::{BenchEntry, Metric, Record};
use crate::statistics::{Verdict, median};

/// The divergence, in nats, up to which two engines compute the same: what order of summation does to f32.
const NOTHING_LOST: f64 = 1e-5;

/// The divergence up to which hardly anybody tells the texts apart: that of 8-bit weights of a published 8B model, several times over
/// (`llama-perplexity --kl-divergence` has q8_0 at 0.0014).
const LITTLE_LOST: f64 = 0.005;

/// The cosine to the vector of f32 from which on two engines compute the same.
const NOTHING_LOST_COSINE: f64 = 0.999_999;

/// The least and the mean cosine up to which hardly a search finds other texts: of 320 paragraphs embedded by all-MiniLM-L6-v2, those ten
/// that are nearest to each stay the same in 98 of 100 cases.
const LITTLE_LOST_COSINES: (f64, f64) = (0.998, 0.9995);

/// The depth that decides, or the next one that was measured: a question with its answer so far.
const USUAL_DEPTH: usize = 512;

/// Of a model without knowledge every token is as likely: a perplexity above this share of the vocabulary says that there is none.
const CHANCE: f64 = 0.25;

/// What to use.
#[derive(Clone, Debug)]
pub struct Advice<'r> {
    /// The figure that decided.
    pub metric: Metric,
    /// The choices, from the fastest to the most exact; where one is all of them, it stands alone.
    pub choices: Vec<Choice<'r>>,
    /// The most exact one, which the others are held against.
    pub exact: Option<&'r BenchEntry>,
    /// Weights are random, or the model knows as much as chance: losses are not those of a published model.
    pub is_random: bool,
}

/// One choice.
#[derive(Clone, Copy, Debug)]
pub struct Choice<'r> {
    /// Who wants it: `the fastest`.
    pub wish: &'static str,
    /// The entry.
    pub entry: &'r BenchEntry,
}

/// What `record` says to use; no choices when nothing was measured.
pub fn advise(record: &Record) -> Advice<'_> {
    let metric = deciding(record);
    let own: Vec<&BenchEntry> = record.measured().filter(|entry| !entry.is_peer && entry.failure.is_none()).collect();
    let within =
        |lost: fn(&BenchEntry) -> bool| -> Vec<&BenchEntry> { own.iter().copied().filter(|entry| lost(entry)).collect() };
    let exact = best(&within(loses_nothing), metric);
    let found = [
        ("the fastest", best(&own, metric)),
        ("fast, nearly lossless", best(&within(loses_little), metric)),
        ("lossless", exact),
    ];
    let mut choices: Vec<Choice<'_>> = Vec::new();
    for (wish, entry) in found {
        let Some(entry) = entry else { continue };
        match choices.iter_mut().find(|choice| choice.entry.name == entry.name) {
            Some(choice) if wish == "lossless" => choice.wish = "the fastest, lossless",
            Some(_) => {}
            None => choices.push(Choice { wish, entry }),
        }
    }
    Advice { metric, choices, exact, is_random: record.model.is_random || knows_nothing(record) }
}

/// The figure that decides: decoding, or the speed on texts of mixed length.
pub(super) fn deciding(record: &Record) -> Metric {
    match &record.workload.embedding {
        None => Metric::Decode(usual(&record.workload.depths)),
        Some(embedding) => embedding.all().last().map_or(Metric::Queries, |&batch| Metric::EmbedTokens(batch)),
    }
}

fn loses_nothing(entry: &BenchEntry) -> bool {
    let of_vectors = entry.closeness.as_ref().is_some_and(|found| found.cosine_min >= NOTHING_LOST_COSINE);
    of_vectors || entry.loss.as_ref().is_some_and(|loss| loss.mean_kl <= NOTHING_LOST)
}

fn loses_little(entry: &BenchEntry) -> bool {
    let (least, mean) = LITTLE_LOST_COSINES;
    let of_vectors = entry.closeness.as_ref().is_some_and(|found| found.cosine_min >= least && found.cosine_mean >= mean);
    of_vectors || entry.loss.as_ref().is_some_and(|loss| loss.mean_kl <= LITTLE_LOST)
}

/// The fastest of `entries`; among those that cannot be told from it, the one that loses least, then with the fewest threads, then with
/// the least memory.
fn best<'r>(entries: &[&'r BenchEntry], metric: Metric) -> Option<&'r BenchEntry> {
    let speed = |entry: &BenchEntry| median(&entry.values(metric));
    let fastest =
        entries.iter().copied().filter(|entry| speed(entry).is_finite()).max_by(|a, b| speed(a).total_cmp(&speed(b)))?;
    let is_as_fast = |entry: &BenchEntry| {
        let compared = entry.against(fastest, metric);
        // Of few rounds nothing can be said; then the figures as they are decide.
        entry.name == fastest.name || compared.is_some_and(|compared| compared.verdict == Verdict::Same)
    };
    entries
        .iter()
        .copied()
        .filter(|entry| is_as_fast(entry))
        .min_by(|a, b| rank(a).partial_cmp(&rank(b)).unwrap_or(std::cmp::Ordering::Equal))
}

/// Less is better: the loss by its order of magnitude, threads, memory.
fn rank(entry: &BenchEntry) -> (f64, usize, f64) {
    let lost = match (&entry.loss, &entry.closeness) {
        (Some(loss), _) => loss.mean_kl.max(NOTHING_LOST),
        (None, Some(found)) => (1.0 - found.cosine_mean).max(1.0 - NOTHING_LOST_COSINE),
        (None, None) => f64::INFINITY,
    };
    let threads = entry.loaded.as_ref().map_or(usize::MAX, |loaded| loaded.threads);
    (lost.log10().round(), threads, median(&entry.values(Metric::PeakMemory)))
}

/// The least depth from [`USUAL_DEPTH`] on, or the greatest there is.
pub(super) fn usual(values: &[usize]) -> usize {
    let from = values.iter().copied().filter(|&value| value >= USUAL_DEPTH).min();
    from.or_else(|| values.iter().copied().max()).unwrap_or(0)
}

fn knows_nothing(record: &Record) -> bool {
    let perplexities = record.entries.iter().filter_map(|entry| Some(entry.loss.as_ref()?.reference_perplexity));
    record.model.vocab_size > 0 && perplexities.fold(0.0, f64::max) > CHANCE * record.model.vocab_size as f64
}
