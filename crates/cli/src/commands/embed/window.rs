//! A window of texts at a time: enough that the engine can group them, few enough that memory does not grow with the input.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Result;
use tandem::embedding::{Chunk, Chunking, EmbedOptions, Embeddings};
use tandem::{EmbeddingModel, Error};

use super::input::{Place, Texts, placed};
use super::rows::{Part, Row};

/// The most texts of a window.
const MAX_TEXTS: usize = 4096;

/// The most bytes of its texts, unless one alone has more.
const MAX_BYTES: usize = 8 << 20;

/// Values of vectors that are kept for texts that come again: 64 MB.
const MAX_KEPT: usize = 16 << 20;

/// The windows of an input.
pub(super) struct Windows<'m> {
    texts: Texts,
    model: &'m EmbeddingModel,
    options: &'m EmbedOptions,
    chunking: Option<Chunking>,
    /// What was read and has no vector yet.
    pieces: VecDeque<Piece>,
    n_read: usize,
    /// The vectors of texts that were seen, when texts may come again.
    seen: Option<HashMap<String, Known>>,
    n_kept: usize,
    /// Bytes of the input that an earlier run did.
    skipped: u64,
}

/// What has a row of its own: a text, or a chunk of one.
struct Piece {
    source: Rc<Source>,
    range: Range<usize>,
    part: Option<Part>,
}

struct Source {
    text: String,
    place: Place,
}

#[derive(Clone)]
struct Known {
    vector: Vec<f32>,
    n_tokens: usize,
    n_cut: usize,
}

/// Some texts with their vectors.
pub(super) struct Window {
    pieces: Vec<Piece>,
    /// Which vector each has.
    places: Vec<usize>,
    embeddings: Embeddings,
}

impl<'m> Windows<'m> {
    pub(super) fn new(
        texts: Texts,
        model: &'m EmbeddingModel,
        options: &'m EmbedOptions,
        chunking: Option<Chunking>,
        dedupe: bool,
    ) -> Self {
        let seen = dedupe.then(HashMap::new);
        Self { texts, model, options, chunking, pieces: VecDeque::new(), n_read: 0, seen, n_kept: 0, skipped: 0 }
    }

    /// Leaves out what the first `n` rows are of, and says how many texts that are.
    pub(super) fn skip(&mut self, n: usize) -> Result<usize> {
        let mut n_texts = 0;
        for _ in 0..n {
            let Some(piece) = self.piece()? else { break };
            n_texts = piece.source.place.index + 1;
        }
        self.skipped = self.texts.n_bytes();
        Ok(n_texts)
    }

    /// The next window; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Window>> {
        let (mut pieces, mut n_bytes) = (Vec::new(), 0);
        while pieces.len() < MAX_TEXTS && n_bytes < MAX_BYTES {
            let Some(piece) = self.piece()? else { break };
            n_bytes += piece.text().len();
            pieces.push(piece);
        }
        if pieces.is_empty() {
            return Ok(None);
        }
        Ok(Some(match &self.seen {
            None => {
                let texts: Vec<&str> = pieces.iter().map(Piece::text).collect();
                let embeddings = self.model.embed(&texts, self.options).map_err(|error| placed(error, |i| pieces[i].name()))?;
                Window { places: (0..pieces.len()).collect(), pieces, embeddings }
            }
            Some(_) => self.deduplicated(pieces)?,
        }))
    }

    /// As many seconds as the rest of the input takes, where its size is known.
    pub(super) fn time_left(&self, started: Instant) -> Option<Duration> {
        let (size, read) = (self.texts.size?, self.texts.n_bytes());
        let done = read.saturating_sub(self.skipped);
        let share = size.saturating_sub(read) as f64 / done.max(1) as f64;
        Some(started.elapsed().mul_f64(share.min(1e6)))
    }

    fn piece(&mut self) -> Result<Option<Piece>> {
        if self.pieces.is_empty() {
            self.read()?;
        }
        Ok(self.pieces.pop_front())
    }

    /// Reads some texts and divides them.
    fn read(&mut self) -> Result<()> {
        let (mut sources, mut n_bytes) = (Vec::new(), 0);
        while sources.len() < MAX_TEXTS && n_bytes < MAX_BYTES {
            let Some(text) = self.texts.next() else { break };
            let (text, place) = (text?, self.texts.place(self.n_read));
            self.n_read += 1;
            n_bytes += text.len();
            sources.push(Rc::new(Source { text, place }));
        }
        let Some(chunking) = self.chunking else {
            let whole = |source: Rc<Source>| Piece { range: 0..source.text.len(), source, part: None };
            self.pieces = sources.into_iter().map(whole).collect();
            return Ok(());
        };
        let texts: Vec<&str> = sources.iter().map(|source| source.text.as_str()).collect();
        let chunks = self.model.embedder().chunks(&texts, chunking, self.options);
        let chunks = chunks.map_err(|error| placed(error, |i| sources[i].place.to_string()))?;
        for own in chunks.chunk_by(|one, other| one.text == other.text) {
            self.pieces.extend(pieces(&sources[own[0].text], own));
        }
        Ok(())
    }

    fn deduplicated(&mut self, pieces: Vec<Piece>) -> Result<Window> {
        let seen = self.seen.get_or_insert_default();
        let mut numbers: HashMap<&str, usize> = HashMap::new();
        let mut unique: Vec<&str> = Vec::new();
        let places: Vec<usize> = pieces
            .iter()
            .map(|piece| {
                *numbers.entry(piece.text()).or_insert_with(|| {
                    unique.push(piece.text());
                    unique.len() - 1
                })
            })
            .collect();
        let new: Vec<&str> = unique.iter().copied().filter(|text| !seen.contains_key(*text)).collect();
        let computed = self.model.embed(&new, self.options).map_err(|error: Error| {
            let first = |i: usize| pieces.iter().find(|piece| piece.text() == new[i]).map_or_else(String::new, Piece::name);
            placed(error, first)
        })?;
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
        Ok(Window { pieces, places, embeddings })
    }
}

/// The chunks of one text, with their characters counted.
fn pieces<'c>(source: &'c Rc<Source>, chunks: &'c [Chunk]) -> impl Iterator<Item = Piece> + 'c {
    let (mut byte, mut start) = (0, 0);
    chunks.iter().enumerate().map(move |(chunk, Chunk { range, .. })| {
        start += source.text[byte..range.start].chars().count();
        byte = range.start;
        let end = start + source.text[range.clone()].chars().count();
        Piece { source: source.clone(), range: range.clone(), part: Some(Part { chunk, start, end }) }
    })
}

impl Piece {
    fn text(&self) -> &str {
        &self.source.text[self.range.clone()]
    }

    /// For messages: which it is.
    fn name(&self) -> String {
        match self.part {
            Some(Part { chunk, .. }) => format!("chunk {} of {}", chunk + 1, self.source.place),
            None => self.source.place.to_string(),
        }
    }
}

impl Window {
    /// Its rows.
    pub(super) fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        let width = self.embeddings.dimensions;
        self.pieces.iter().zip(&self.places).map(move |(piece, &place)| Row {
            index: piece.source.place.index,
            part: piece.part,
            text: Some(piece.text()),
            n_tokens: self.embeddings.n_tokens[place],
            n_cut: self.embeddings.n_cut[place],
            vector: &self.embeddings.values[place * width..(place + 1) * width],
        })
    }
}
