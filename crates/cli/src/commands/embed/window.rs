//! A window of texts at a time: enough that the engine can group them, few enough that memory does not grow with the input.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::Result;
use tandem::EmbeddingModel;
use tandem::embedding::{EmbedOptions, Embeddings};

use super::input::Texts;
use super::rows::Row;

/// The most texts of a window.
const MAX_TEXTS: usize = 4096;

/// The most bytes of its texts, unless one alone has more.
const MAX_BYTES: usize = 8 << 20;

/// Values of vectors that are kept for texts that come again: 64 MB.
const MAX_KEPT: usize = 16 << 20;

/// The windows of an input.
pub(super) struct Windows {
    texts: Texts,
    /// The vectors of texts that were seen, when texts may come again.
    seen: Option<HashMap<String, Known>>,
    n_kept: usize,
    /// Bytes of the input that an earlier run did.
    skipped: u64,
}

#[derive(Clone)]
struct Known {
    vector: Vec<f32>,
    n_tokens: usize,
    n_cut: usize,
}

/// Some texts with their vectors.
pub(super) struct Window {
    texts: Vec<String>,
    /// Which vector each text has.
    places: Vec<usize>,
    embeddings: Embeddings,
}

impl Windows {
    pub(super) fn new(texts: Texts, dedupe: bool) -> Self {
        Self { texts, seen: dedupe.then(HashMap::new), n_kept: 0, skipped: 0 }
    }

    /// Leaves out the first `n` texts.
    pub(super) fn skip(&mut self, n: usize) -> Result<()> {
        for _ in 0..n {
            let Some(text) = self.texts.next() else { break };
            text?;
        }
        self.skipped = self.texts.n_bytes();
        Ok(())
    }

    /// The next window; `None` at the end.
    pub(super) fn next(&mut self, model: &EmbeddingModel, options: &EmbedOptions) -> Result<Option<Window>> {
        let (mut texts, mut n_bytes) = (Vec::new(), 0);
        while texts.len() < MAX_TEXTS && n_bytes < MAX_BYTES {
            let Some(text) = self.texts.next() else { break };
            let text = text?;
            n_bytes += text.len();
            texts.push(text);
        }
        if texts.is_empty() {
            return Ok(None);
        }
        let window = match &self.seen {
            None => {
                let embeddings = model.embed(&texts, options)?;
                Window { places: (0..texts.len()).collect(), texts, embeddings }
            }
            Some(_) => self.deduplicated(texts, model, options)?,
        };
        Ok(Some(window))
    }

    /// As many seconds as the rest of the input takes, where its size is known.
    pub(super) fn time_left(&self, started: Instant) -> Option<Duration> {
        let (size, read) = (self.texts.size?, self.texts.n_bytes());
        let done = read.saturating_sub(self.skipped);
        let share = size.saturating_sub(read) as f64 / done.max(1) as f64;
        Some(started.elapsed().mul_f64(share.min(1e6)))
    }

    fn deduplicated(&mut self, texts: Vec<String>, model: &EmbeddingModel, options: &EmbedOptions) -> Result<Window> {
        let seen = self.seen.get_or_insert_default();
        let mut numbers: HashMap<&str, usize> = HashMap::new();
        let mut unique: Vec<&str> = Vec::new();
        let places: Vec<usize> = texts
            .iter()
            .map(|text| {
                *numbers.entry(text).or_insert_with(|| {
                    unique.push(text);
                    unique.len() - 1
                })
            })
            .collect();
        let new: Vec<&str> = unique.iter().copied().filter(|text| !seen.contains_key(*text)).collect();
        let computed = model.embed(&new, options)?;
        let dimensions = computed.dimensions;
        let mut embeddings = Embeddings { dimensions, ..Embeddings::default() };
        let mut rows = computed.vectors().zip(computed.n_tokens.iter().zip(&computed.n_cut));
        for text in unique {
            let known = match seen.get(text) {
                Some(known) => known.clone(),
                None => {
                    let Some((vector, (&n_tokens, &n_cut))) = rows.next() else { break };
                    let known = Known { vector: vector.to_vec(), n_tokens, n_cut };
                    if self.n_kept + dimensions <= MAX_KEPT {
                        self.n_kept += dimensions;
                        seen.insert(text.to_owned(), known.clone());
                    }
                    known
                }
            };
            embeddings.values.extend(known.vector);
            embeddings.n_tokens.push(known.n_tokens);
            embeddings.n_cut.push(known.n_cut);
        }
        Ok(Window { texts, places, embeddings })
    }
}

impl Window {
    pub(super) fn len(&self) -> usize {
        self.texts.len()
    }

    /// Its rows, numbered from `first` on.
    pub(super) fn rows(&self, first: usize) -> impl Iterator<Item = Row<'_>> {
        let width = self.embeddings.dimensions;
        self.texts.iter().zip(&self.places).enumerate().map(move |(i, (text, &place))| Row {
            index: first + i,
            text: Some(text),
            n_tokens: self.embeddings.n_tokens[place],
            n_cut: self.embeddings.n_cut[place],
            vector: &self.embeddings.values[place * width..(place + 1) * width],
        })
    }
}
