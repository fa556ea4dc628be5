//! Long texts in pieces that overlap, each short enough to be embedded whole.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use super::tokens::{Cut, TextTokens};
use super::{EmbedOptions, Embedder, Embeddings};
use crate::error::{Error, Result};
use crate::named::ParseNameError;

/// How long texts are divided: into chunks of at most [`tokens`](Self::tokens), each of which repeats the last [`overlap`](Self::overlap) of
/// the one before. It is written as `TOKENS:OVERLAP`.
///
/// Only a text's own tokens count. Those of a prompt and those that the tokenizer adds come on top of them for every chunk, and all together
/// have to be within what the model takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Chunking {
    tokens: usize,
    overlap: usize,
}

/// A part of a text that is embedded by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// The text, counted from 0.
    pub text: usize,
    /// Its bytes in that text, between characters.
    pub range: Range<usize>,
}

/// The vectors of the chunks of texts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChunkEmbeddings {
    /// Each chunk, text by text and from the beginning of a text to its end.
    pub chunks: Vec<Chunk>,
    /// A vector for each.
    pub embeddings: Embeddings,
}

impl Chunking {
    /// Chunks of at most `tokens` that overlap by `overlap`.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for chunks of nothing, and for chunks that overlap wholly.
    pub fn new(tokens: usize, overlap: usize) -> Result<Self> {
        let chunking = Self { tokens, overlap };
        match chunking.problem() {
            Some(problem) => Err(Error::invalid_option("chunk", chunking, problem)),
            None => Ok(chunking),
        }
    }

    /// The most tokens of a chunk, without those of a prompt and those that the tokenizer adds.
    pub fn tokens(self) -> usize {
        self.tokens
    }

    /// How many tokens of a chunk the next one begins with.
    pub fn overlap(self) -> usize {
        self.overlap
    }

    fn problem(self) -> Option<&'static str> {
        match self {
            Self { tokens: 0, .. } => Some("has chunks without tokens"),
            Self { tokens, overlap } if overlap >= tokens => Some("has an overlap that is not less than a chunk"),
            _ => None,
        }
    }
}

impl fmt::Display for Chunking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.tokens, self.overlap)
    }
}

impl FromStr for Chunking {
    type Err = ParseNameError;

    fn from_str(text: &str) -> Result<Self, ParseNameError> {
        let wrong = |problem: &str| ParseNameError { option: "chunk", value: text.into(), problem: problem.into() };
        let numbers = text.split_once(':').and_then(|(tokens, overlap)| Some((tokens.parse().ok()?, overlap.parse().ok()?)));
        let (tokens, overlap) = numbers.ok_or_else(|| wrong("is not two numbers such as `256:32`"))?;
        let chunking = Self { tokens, overlap };
        chunking.problem().map_or(Ok(chunking), |problem| Err(wrong(problem)))
    }
}

impl Embedder {
    /// The chunks of `texts`. A text that is no longer than a chunk is one, whole.
    ///
    /// A chunk is cut where the tokens of the whole text meet, and never within a character. By itself a part of a text may have other
    /// tokens than within the whole: it is what a chunk has by itself that is at most [`Chunking::tokens`], so that embedding its text gives
    /// its vector. A single character of more tokens than that is a chunk nonetheless. Overlaps are counted in tokens of the whole text.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for chunks that the model does not take together with the prompt of `options`; as
    /// [`tokenize`](Self::tokenize).
    pub fn chunks(&self, texts: &[impl AsRef<str>], chunking: Chunking, options: &EmbedOptions) -> Result<Vec<Chunk>> {
        let prompt = self.config().prompts.text(&options.prompt)?;
        let divider = Divider::new(self.tokens(), prompt, chunking)?;
        let ranges = self.of_each(texts, |text| divider.ranges(text))?;
        let of_text = |(text, ranges): (usize, Vec<Range<usize>>)| ranges.into_iter().map(move |range| Chunk { text, range });
        Ok(ranges.into_iter().enumerate().flat_map(of_text).collect())
    }

    /// The vectors of the [`chunks`](Self::chunks) of `texts`: what [`embed`](Self::embed) gives for the text of each.
    ///
    /// # Errors
    /// As [`chunks`](Self::chunks) and [`embed`](Self::embed).
    pub fn embed_chunks(&self, texts: &[impl AsRef<str>], chunking: Chunking, options: &EmbedOptions) -> Result<ChunkEmbeddings> {
        let chunks = self.chunks(texts, chunking, options)?;
        let parts: Vec<&str> = chunks.iter().map(|chunk| &texts[chunk.text].as_ref()[chunk.range.clone()]).collect();
        let embeddings = self.embed(&parts, options).map_err(|error| match error {
            Error::BadText { index, source } => Error::BadText { index: chunks[index].text, source },
            other => other,
        })?;
        Ok(ChunkEmbeddings { chunks, embeddings })
    }
}

/// Divides texts that all have one prompt.
struct Divider<'t> {
    tokens: &'t TextTokens,
    prompt: &'t str,
    chunking: Chunking,
}

impl<'t> Divider<'t> {
    fn new(tokens: &'t TextTokens, prompt: &'t str, chunking: Chunking) -> Result<Self> {
        let room = tokens.room(prompt)?;
        if chunking.tokens > room {
            let problem =
                format!("has chunks of more than the {room} tokens that the model takes of a text beside those that are added");
            return Err(Error::invalid_option("chunk", chunking, problem));
        }
        Ok(Self { tokens, prompt, chunking })
    }

    fn ranges(&self, text: &str) -> Result<Vec<Range<usize>>> {
        let cuts = self.tokens.cuts(text)?;
        let (mut ranges, mut first, mut last) = (Vec::new(), 0, self.last(text, &cuts, 0)?);
        ranges.push(0..cuts[last].byte);
        while last + 1 < cuts.len() {
            let (start, end) = (first, last);
            let overlap = cuts[end].n_tokens.saturating_sub(self.chunking.overlap);
            first = cuts.partition_point(|cut| cut.n_tokens < overlap).max(start + 1);
            last = self.last(text, &cuts, first)?;
            // A chunk that has more tokens by itself may end early, and the next one has to end further on: it overlaps by less.
            while first < end && last <= end {
                first += 1;
                last = self.last(text, &cuts, first)?;
            }
            ranges.push(cuts[first].byte..cuts[last].byte);
        }
        Ok(ranges)
    }

    /// The cut that ends the chunk that begins at the one numbered `first`: the next one, or the last that leaves the chunk short enough.
    fn last(&self, text: &str, cuts: &[Cut], first: usize) -> Result<usize> {
        let least = (first + 1).min(cuts.len() - 1);
        let within = |n_tokens: usize| cuts.partition_point(|cut| cut.n_tokens <= n_tokens).saturating_sub(1).max(least);
        let mut last = within(cuts[first].n_tokens + self.chunking.tokens);
        while last > least {
            let part = &text[cuts[first].byte..cuts[last].byte];
            match self.tokens.excess(self.prompt, part, self.chunking.tokens)? {
                0 => break,
                excess => last = within(cuts[last].n_tokens.saturating_sub(excess)).min(last - 1),
            }
        }
        Ok(last)
    }
}
