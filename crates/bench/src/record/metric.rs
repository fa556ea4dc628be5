//! The figures of an entry: which there are, and their values round by round.

use std::fmt;

use super::{BenchEntry, Record};
use crate::measure::{EmbedWorkload, Sample, TextBatch, Together};
use crate::statistics::{Comparison, compare_apart, compare_in_turns, quantile};

/// One figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Metric {
    /// Tokens per second of a prompt of this length.
    Prefill(usize),
    /// From a prompt of this length to the first token.
    FirstToken(usize),
    /// Tokens per second after this many tokens.
    Decode(usize),
    /// Tokens per second of all of so many sequences that are decoded together.
    DecodeTogether(Together),
    /// Tokens per second of these texts at once.
    EmbedTokens(TextBatch),
    /// Texts per second of these texts at once.
    EmbedTexts(TextBatch),
    /// Half of all queries took no longer.
    QueryP50,
    /// 99 of 100 queries took no longer.
    QueryP99,
    /// Queries per second, one after the other.
    Queries,
    /// To load, files in the system's cache.
    LoadWarm,
    /// To load, files on the disk.
    LoadCold,
    /// From the start of the process to the first token, files in the system's cache.
    StartToFirstToken,
    /// From the start of the process to the first vector, files in the system's cache.
    StartToFirstVector,
    /// The most memory.
    PeakMemory,
}

/// What a figure is measured in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// More is better.
    TokensPerSecond,
    /// More is better.
    TextsPerSecond,
    /// Less is better.
    Milliseconds,
    /// Less is better.
    Bytes,
}

impl Unit {
    /// Whether more is better.
    pub fn is_speed(self) -> bool {
        matches!(self, Self::TokensPerSecond | Self::TextsPerSecond)
    }
}

impl Metric {
    /// In what it is measured.
    pub fn unit(self) -> Unit {
        match self {
            Self::Prefill(_) | Self::Decode(_) | Self::DecodeTogether(_) | Self::EmbedTokens(_) => Unit::TokensPerSecond,
            Self::EmbedTexts(_) | Self::Queries => Unit::TextsPerSecond,
            Self::FirstToken(_) | Self::LoadWarm | Self::LoadCold | Self::StartToFirstToken => Unit::Milliseconds,
            Self::QueryP50 | Self::QueryP99 | Self::StartToFirstVector => Unit::Milliseconds,
            Self::PeakMemory => Unit::Bytes,
        }
    }

    /// Its value in one round.
    fn of(self, sample: &Sample) -> Option<f64> {
        let speed = |n: usize, ms: f64| (n > 0 && ms > 0.0).then(|| n as f64 / ms * 1e3);
        let embedded = |batch: TextBatch| sample.embedded.iter().find(|embedded| embedded.batch == batch);
        let query = |share: f64| (!sample.query_ms.is_empty()).then(|| quantile(&sample.query_ms, share));
        match self {
            Self::Prefill(n) => {
                sample.prefill.iter().find(|prefill| prefill.n_tokens == n).and_then(|prefill| speed(n, prefill.ms))
            }
            Self::FirstToken(n) => sample.prefill.iter().find(|prefill| prefill.n_tokens == n)?.first_token_ms,
            Self::Decode(depth) => {
                sample.decode.iter().find(|decode| decode.depth == depth).and_then(|decode| speed(decode.n_tokens, decode.ms))
            }
            Self::DecodeTogether(together) => {
                let found = sample.together.iter().find(|decode| decode.together == together)?;
                speed(together.n * found.n_tokens, found.ms)
            }
            Self::EmbedTokens(batch) => embedded(batch).and_then(|found| speed(found.n_tokens, found.ms)),
            Self::EmbedTexts(batch) => embedded(batch).and_then(|found| speed(found.batch.n_texts, found.ms)),
            Self::QueryP50 => query(0.5),
            Self::QueryP99 => query(0.99),
            Self::Queries => speed(sample.query_ms.len(), sample.query_ms.iter().sum()),
            Self::LoadWarm => sample.load_ms.filter(|_| !sample.is_cold),
            Self::LoadCold => sample.load_ms.filter(|_| sample.is_cold),
            Self::StartToFirstToken => sample.start_to_first_token_ms.filter(|_| !sample.is_cold),
            Self::StartToFirstVector => sample.start_to_first_vector_ms.filter(|_| !sample.is_cold),
            Self::PeakMemory => sample.peak_rss_bytes.map(|bytes| bytes as f64),
        }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prefill(n) => write!(f, "prefill of {n}"),
            Self::FirstToken(n) => write!(f, "first token of {n}"),
            Self::Decode(depth) => write!(f, "decode at depth {depth}"),
            Self::DecodeTogether(together) => write!(f, "decode of {together}"),
            Self::EmbedTokens(batch) => write!(f, "tokens/s of {batch}"),
            Self::EmbedTexts(batch) => write!(f, "texts/s of {batch}"),
            Self::QueryP50 => f.write_str("query, p50"),
            Self::QueryP99 => f.write_str("query, p99"),
            Self::Queries => f.write_str("queries"),
            Self::LoadWarm => f.write_str("load, warm"),
            Self::LoadCold => f.write_str("load, cold"),
            Self::StartToFirstToken => f.write_str("start to first token"),
            Self::StartToFirstVector => f.write_str("start to first vector"),
            Self::PeakMemory => f.write_str("peak memory"),
        }
    }
}

impl BenchEntry {
    /// The values of `metric`, one for each round that has it.
    pub fn values(&self, metric: Metric) -> Vec<f64> {
        self.samples.iter().filter_map(|sample| metric.of(sample)).collect()
    }

    /// Every step's milliseconds at `depth`, of all rounds together.
    pub fn steps(&self, depth: usize) -> Vec<f64> {
        let decoded = self.samples.iter().flat_map(|sample| &sample.decode).filter(|decode| decode.depth == depth);
        decoded.flat_map(|decode| decode.step_ms.iter().copied()).collect()
    }

    /// Steps' 50th, 90th and 99th percentiles in milliseconds at `depth`; `None` where single steps are not known.
    pub fn step_percentiles(&self, depth: usize) -> Option<[f64; 3]> {
        let steps = self.steps(depth);
        (!steps.is_empty()).then(|| [0.5, 0.9, 0.99].map(|share| quantile(&steps, share)))
    }

    /// Half of the steps of sequences that are decoded together took no longer, in milliseconds.
    pub fn step_together(&self, together: Together) -> Option<f64> {
        let decoded = self.samples.iter().flat_map(|sample| &sample.together).filter(|decode| decode.together == together);
        let steps: Vec<f64> = decoded.flat_map(|decode| decode.step_ms.iter().copied()).collect();
        (!steps.is_empty()).then(|| quantile(&steps, 0.5))
    }

    /// How many times the tokens per second of one sequence `together` has, on ratios of the same rounds.
    pub fn speed_up(&self, together: Together) -> Option<Comparison> {
        let alone = Metric::DecodeTogether(Together { n: 1, ..together });
        let values = |metric: Metric| self.samples.iter().filter_map(|sample| metric.of(sample)).collect::<Vec<f64>>();
        let (many, one) = (values(Metric::DecodeTogether(together)), values(alone));
        (!many.is_empty() && many.len() == one.len()).then(|| compare_in_turns(&many, &one))
    }

    /// The share of what the memory allows that decoding at `depth` reaches: bytes that a step must read, weights and KV cache, times
    /// steps per second, over the best bandwidth of all rounds. None of a model so small that caches hold it.
    pub fn share_of_bandwidth(&self, depth: usize) -> Option<f64> {
        let loaded = self.loaded.as_ref()?;
        let bandwidth = self.samples.iter().filter_map(|sample| sample.bandwidth).fold(f64::NAN, f64::max);
        let speeds = self.values(Metric::Decode(depth));
        let speed = (!speeds.is_empty()).then(|| quantile(&speeds, 0.5))?;
        let held = depth + self.samples.iter().flat_map(|sample| &sample.decode).map(|decode| decode.n_tokens).max()? / 2;
        let kv = loaded.kv_bytes_per_token.unwrap_or(0) * held as u64;
        let share = (loaded.step_bytes? + kv) as f64 * speed / bandwidth;
        // What exceeds it comes from the processor's caches.
        (share.is_finite() && share <= 1.05).then_some(share)
    }

    /// This entry against `reference` in the rounds that both have.
    pub fn against(&self, reference: &Self, metric: Metric) -> Option<Comparison> {
        let pairs: Vec<(f64, f64)> = self
            .samples
            .iter()
            .filter_map(|ours| {
                let theirs = reference.samples.iter().find(|theirs| theirs.round == ours.round)?;
                Some((metric.of(ours)?, metric.of(theirs)?))
            })
            .collect();
        let (ours, theirs): (Vec<f64>, Vec<f64>) = pairs.into_iter().unzip();
        (!ours.is_empty()).then(|| compare_in_turns(&ours, &theirs))
    }

    /// This entry against itself in an earlier run.
    pub fn against_earlier(&self, earlier: &Self, metric: Metric) -> Option<Comparison> {
        let (ours, theirs) = (self.values(metric), earlier.values(metric));
        (!ours.is_empty() && !theirs.is_empty()).then(|| compare_apart(&ours, &theirs))
    }
}

impl Record {
    /// Every figure that someone has.
    pub fn metrics(&self) -> Vec<Metric> {
        let Self { workload, .. } = self;
        let prompts = workload.prompts.iter().copied();
        let all = prompts.clone().map(Metric::Prefill).chain(prompts.map(Metric::FirstToken));
        let all = all.chain(workload.depths.iter().copied().map(Metric::Decode));
        let all = all.chain(workload.together().map(Metric::DecodeTogether));
        let batches = workload.embedding.as_ref().map(EmbedWorkload::all).unwrap_or_default();
        let all = all.chain(batches.into_iter().flat_map(|batch| [Metric::EmbedTokens(batch), Metric::EmbedTexts(batch)]));
        let all = all.chain([Metric::QueryP50, Metric::QueryP99, Metric::Queries]);
        let all = all.chain([Metric::LoadWarm, Metric::LoadCold, Metric::StartToFirstToken, Metric::StartToFirstVector]);
        let all = all.chain([Metric::PeakMemory]);
        all.filter(|&metric| self.entries.iter().any(|entry| !entry.values(metric).is_empty())).collect()
    }
}
