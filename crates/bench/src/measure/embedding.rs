//! What is measured of an embedding model: texts of one length in batches, texts of mixed length, and queries one after the other.
//!
//! Texts are tokens: what a tokenizer takes is the same for every engine, and little. Vectors are pooled and normalised as the model's
//! files say.

use std::fmt;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use tandem_core::embedding::{EmbedOptions, Embedder, TokenizedText};
use tandem_core::{CancelToken, Error, Result};

use self::rules::{LEAST_MS, LEAST_QUERIES, MOST_QUERIES_MS, WARM_TOKENS};
use super::texts::{mixed_lengths, text};
use super::{Sample, milliseconds};

/// How long and how often is measured: peers keep the same rules.
pub(crate) mod rules {
    /// A batch is repeated until it took this long, in milliseconds: a short one says little.
    pub(crate) const LEAST_MS: f64 = 60.0;
    /// Tokens of a batch from which on it has no run that is not counted: what is new in its first one is little beside the work.
    pub(crate) const WARM_TOKENS: usize = 1024;
    /// Queries end after this long, in milliseconds, when there were [`LEAST_QUERIES`].
    pub(crate) const MOST_QUERIES_MS: f64 = 4000.0;
    /// The fewest queries, unless fewer were asked for.
    pub(crate) const LEAST_QUERIES: usize = 20;
}

/// What is measured of an embedding model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmbedWorkload {
    /// Lengths of texts that are as long as each other, in tokens.
    pub lengths: Vec<usize>,
    /// How many of them are embedded at once.
    pub batches: Vec<usize>,
    /// Texts of mixed length, embedded at once; 0 for none.
    pub n_mixed: usize,
    /// The most tokens of one of those.
    pub most_mixed: usize,
    /// Queries, one at a time; 0 for none.
    pub n_queries: usize,
    /// Tokens of a query.
    pub query_tokens: usize,
}

/// Texts that are embedded at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TextBatch {
    /// How many.
    pub n_texts: usize,
    /// Tokens of each; `None` where each has its own length.
    pub length: Option<usize>,
}

/// A batch that was embedded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Embedded {
    /// Which.
    #[serde(flatten)]
    pub batch: TextBatch,
    /// Tokens in it, without padding.
    pub n_tokens: usize,
    /// In milliseconds.
    pub ms: f64,
}

impl EmbedWorkload {
    /// Every batch, the smallest first: those of one length, then the mixed one.
    pub fn all(&self) -> Vec<TextBatch> {
        let equal = |&length: &usize| self.batches.iter().map(move |&n_texts| TextBatch { n_texts, length: Some(length) });
        let mut all: Vec<TextBatch> = self.lengths.iter().flat_map(equal).collect();
        all.sort_by_key(|batch| batch.n_texts * batch.length.unwrap_or(0));
        all.extend(self.mixed());
        all
    }

    /// The batch of texts of mixed length, if there is one.
    pub fn mixed(&self) -> Option<TextBatch> {
        (self.n_mixed > 0).then_some(TextBatch { n_texts: self.n_mixed, length: None })
    }

    /// Lengths of the texts of `batch`, in tokens, in the order of their arrival.
    pub fn lengths_of(&self, batch: TextBatch) -> Vec<usize> {
        match batch.length {
            Some(length) => vec![length; batch.n_texts],
            None => mixed_lengths(batch.n_texts, self.most_mixed),
        }
    }
}

impl fmt::Display for TextBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.length, self.n_texts) {
            (Some(length), 1) => write!(f, "1 text of {length}"),
            (Some(length), n) => write!(f, "{n} texts of {length}"),
            (None, n) => write!(f, "{n} texts of mixed length"),
        }
    }
}

/// Measures `workload` once on `embedder`.
pub(super) fn measure(
    embedder: &Embedder,
    workload: &EmbedWorkload,
    cancel: &CancelToken,
    first_vector: &mut dyn FnMut(),
) -> Result<Sample> {
    let options = EmbedOptions::new().with_cancel(cancel.clone());
    let query = |number: usize| [tokenized(embedder, number, workload.query_tokens.max(1))];
    // The first run allocates, after which the process has shown what a user waits for.
    embedder.embed_tokens(&query(0), &options)?;
    first_vector();
    let mut sample = Sample::default();
    let started = Instant::now();
    for number in 1..=workload.n_queries {
        let query = query(number);
        let begun = Instant::now();
        std::hint::black_box(embedder.embed_tokens(&query, &options)?);
        sample.query_ms.push(milliseconds(begun));
        if number >= LEAST_QUERIES && milliseconds(started) > MOST_QUERIES_MS {
            break;
        }
    }
    for batch in workload.all() {
        let lengths = workload.lengths_of(batch);
        let texts: Vec<TokenizedText> = lengths.iter().enumerate().map(|(number, &n)| tokenized(embedder, number, n)).collect();
        sample.embedded.push(embed(embedder, batch, &texts, &options)?);
    }
    Ok(sample)
}

fn tokenized(embedder: &Embedder, number: usize, n_tokens: usize) -> TokenizedText {
    TokenizedText { ids: text(number, n_tokens, embedder.info().vocab_size), n_prompt: 0, n_cut: 0 }
}

fn embed(embedder: &Embedder, batch: TextBatch, texts: &[TokenizedText], options: &EmbedOptions) -> Result<Embedded> {
    let n_tokens = texts.iter().map(|text| text.ids.len()).sum();
    if n_tokens <= WARM_TOKENS {
        embedder.embed_tokens(texts, options)?;
    }
    let (started, mut runs) = (Instant::now(), 0);
    loop {
        std::hint::black_box(embedder.embed_tokens(texts, options)?);
        runs += 1;
        let ms = milliseconds(started);
        if ms >= LEAST_MS {
            return Ok(Embedded { batch, n_tokens, ms: ms / f64::from(runs) });
        }
        if options.cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_come_from_the_smallest_to_the_mixed_one() {
        let workload =
            EmbedWorkload { lengths: vec![16, 32], batches: vec![1, 8], n_mixed: 3, most_mixed: 64, ..EmbedWorkload::default() };
        let all: Vec<String> = workload.all().iter().map(ToString::to_string).collect();
        assert_eq!(all, ["1 text of 16", "1 text of 32", "8 texts of 16", "8 texts of 32", "3 texts of mixed length"]);
        assert_eq!(workload.lengths_of(workload.all()[2]), vec![16; 8]);
        assert_eq!(workload.lengths_of(workload.all()[4]).len(), 3);
        assert_eq!(EmbedWorkload { n_mixed: 0, ..workload }.mixed(), None);
    }
}
