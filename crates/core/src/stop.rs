//! Where a generation ends: end tokens, and stop strings in text that arrives in pieces.
//!
//! Text that may turn out to be the beginning of a stop string is held back, and no more than that, so that streaming
//! stays lively; no part of a stop string is ever shown.

use crate::error::{Error, Result};
use crate::primitives::TokenId;

/// What ends a generation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StopOptions {
    /// Tokens that end it; they are not part of the text.
    pub end_tokens: Vec<TokenId>,
    /// Texts that end it; they and what follows are not shown.
    pub stop_strings: Vec<String>,
}

impl StopOptions {
    /// # Errors
    /// [`Error::InvalidOption`] for an empty stop string, which would end every text before it begins.
    pub fn validate(&self) -> Result<()> {
        if self.stop_strings.iter().any(String::is_empty) {
            return Err(Error::invalid_option("stop", "", "is empty: a stop string has at least one character"));
        }
        Ok(())
    }
}

/// What a piece of text led to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StopStep {
    /// Text that can be shown now.
    pub emit: String,
    /// The index of the stop string that was found, in the order of [`StopOptions::stop_strings`].
    pub matched: Option<usize>,
}

/// Finds the first stop string in a text, however the text is cut into pieces.
///
/// First is the one that starts first; of several that start there, the longest; of equal ones, the lowest index. A
/// find is therefore reported only when no earlier or longer one can follow. Cost is linear in the text for each
/// stop string (the matcher of Knuth, Morris and Pratt, one for each).
///
/// # Examples
/// ```
/// use tandem_core::stop::{StopMatcher, StopOptions};
///
/// let options = StopOptions { stop_strings: vec!["###".into()], ..StopOptions::default() };
/// let mut matcher = StopMatcher::new(&options)?;
/// assert_eq!(matcher.push("one #").emit, "one ");
/// assert_eq!(matcher.push("2, #").emit, "#2, ");
/// assert_eq!(matcher.push("##").matched, Some(0));
/// # Ok::<(), tandem_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct StopMatcher {
    end_tokens: Vec<TokenId>,
    patterns: Vec<Pattern>,
    /// Text that was neither shown nor ruled out.
    held: String,
    /// Bytes of the text before `held`.
    n_shown: usize,
    /// Bytes of the text that the patterns have seen.
    n_seen: usize,
    found: Option<Found>,
    /// A find that nothing can better; the text has ended there.
    matched: Option<usize>,
}

/// A stop string at byte `start` of the text.
#[derive(Clone, Copy, Debug)]
struct Found {
    start: usize,
    length: usize,
    index: usize,
}

impl StopMatcher {
    /// # Errors
    /// As [`StopOptions::validate`].
    pub fn new(options: &StopOptions) -> Result<Self> {
        options.validate()?;
        Ok(Self {
            end_tokens: options.end_tokens.clone(),
            patterns: options.stop_strings.iter().map(|text| Pattern::new(text)).collect(),
            held: String::new(),
            n_shown: 0,
            n_seen: 0,
            found: None,
            matched: None,
        })
    }

    /// Whether `token` ends the generation.
    pub fn is_end(&self, token: TokenId) -> bool {
        self.end_tokens.contains(&token)
    }

    /// Takes the next piece of the text. After a match there is no more text: nothing is emitted, and the match is
    /// reported again.
    pub fn push(&mut self, piece: &str) -> StopStep {
        if self.matched.is_some() {
            return StopStep { emit: String::new(), matched: self.matched };
        }
        self.held.push_str(piece);
        for byte in piece.bytes() {
            self.advance(byte);
            if let Some(found) = self.found.filter(|found| !self.can_better(found)) {
                return self.end_with(found);
            }
        }
        let beginnings = self.patterns.iter().map(|pattern| self.n_seen - pattern.n_matched);
        let undecided = beginnings.chain(self.found.map(|found| found.start)).min().unwrap_or(self.n_seen);
        StopStep { emit: self.show_until(undecided), matched: None }
    }

    /// Ends the text: what was held back is decided. A second call finds nothing more.
    pub fn finish(&mut self) -> StopStep {
        if self.matched.is_some() {
            return StopStep { emit: String::new(), matched: self.matched };
        }
        match self.found {
            Some(found) => self.end_with(found),
            None => StopStep { emit: self.show_until(self.n_shown + self.held.len()), matched: None },
        }
    }

    fn advance(&mut self, byte: u8) {
        self.n_seen += 1;
        for (index, pattern) in self.patterns.iter_mut().enumerate() {
            let length = pattern.bytes.len();
            if pattern.advance(byte) {
                let start = self.n_seen - length;
                let is_better = |found: &Found| start < found.start || (start == found.start && length > found.length);
                if self.found.as_ref().is_none_or(is_better) {
                    self.found = Some(Found { start, length, index });
                }
            }
        }
    }

    /// Whether a pattern that has begun would start before `found`, or there and be longer.
    fn can_better(&self, found: &Found) -> bool {
        self.patterns.iter().any(|pattern| {
            let start = self.n_seen - pattern.n_matched;
            pattern.n_matched > 0 && (start < found.start || (start == found.start && pattern.bytes.len() > found.length))
        })
    }

    fn end_with(&mut self, found: Found) -> StopStep {
        let emit = self.show_until(found.start);
        self.held.clear();
        self.matched = Some(found.index);
        StopStep { emit, matched: self.matched }
    }

    /// Takes the text before byte `end` out of what is held; a stop string begins there or the text ends, so that it is
    /// no place within a character.
    fn show_until(&mut self, end: usize) -> String {
        let shown = self.held.drain(..end - self.n_shown).collect();
        self.n_shown = end;
        shown
    }
}

/// A stop string, and how much of it the text ends with.
#[derive(Clone, Debug)]
struct Pattern {
    bytes: Vec<u8>,
    /// For each length, that of the longest shorter beginning which is also an end of the first `length` bytes.
    borders: Vec<usize>,
    /// The longest beginning that the text ends with, a whole match excepted.
    n_matched: usize,
}

impl Pattern {
    fn new(text: &str) -> Self {
        let bytes = text.as_bytes().to_vec();
        let mut borders = vec![0; bytes.len() + 1];
        let mut border = 0;
        for length in 2..=bytes.len() {
            while border > 0 && bytes[border] != bytes[length - 1] {
                border = borders[border];
            }
            border += usize::from(bytes[border] == bytes[length - 1]);
            borders[length] = border;
        }
        Self { bytes, borders, n_matched: 0 }
    }

    /// Whether the text, with `byte` at its end, ends with the whole pattern.
    fn advance(&mut self, byte: u8) -> bool {
        while self.n_matched > 0 && self.bytes[self.n_matched] != byte {
            self.n_matched = self.borders[self.n_matched];
        }
        self.n_matched += usize::from(self.bytes[self.n_matched] == byte);
        let is_whole = self.n_matched == self.bytes.len();
        if is_whole {
            self.n_matched = self.borders[self.n_matched];
        }
        is_whole
    }
}
