//! A rendered prompt that knows which of its special tokens the template wrote.
//!
//! Before rendering, a noncharacter is put behind the first character of everything in the messages that spells a special
//! token, or that could become one together with what follows. It goes through a template like any letter. Wherever it is found
//! inside a special token of the rendered text, that token came from a message, and is encoded as text.

use std::borrow::Cow;

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::primitives::TokenId;
use crate::tokenizer::{SpecialTokens, Tokenizer};

/// Noncharacters that Unicode reserves for use inside a program.
const MARKERS: std::ops::RangeInclusive<char> = '\u{FDD0}'..='\u{FDEF}';

/// A part of a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromptPiece {
    /// The text.
    pub text: String,
    /// Whether special tokens in it are ordinary text, because a message and not the template has written them.
    pub literal: bool,
}

/// The text that a template made of messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prompt {
    pieces: Vec<PromptPiece>,
}

impl Prompt {
    /// Its parts in order; only those that spell a special token in a message are literal.
    pub fn pieces(&self) -> &[PromptPiece] {
        &self.pieces
    }

    /// The whole text, as transformers renders it.
    pub fn text(&self) -> String {
        self.pieces.iter().map(|piece| piece.text.as_str()).collect()
    }

    /// The tokens. Without literal parts they are those of [`text`](Self::text).
    ///
    /// # Errors
    /// [`Error::EmptyPrompt`] when there are none, otherwise as [`Tokenizer::encode`].
    pub fn encode(&self, tokenizer: &Tokenizer) -> Result<Vec<TokenId>> {
        let mut ids = Vec::new();
        for PromptPiece { text, literal } in &self.pieces {
            let special = if *literal { SpecialTokens::AsText } else { SpecialTokens::Parse };
            ids.extend(tokenizer.encode(text, special)?);
        }
        if ids.is_empty() { Err(Error::EmptyPrompt) } else { Ok(ids) }
    }
}

/// Marks special tokens in messages, and finds them again.
pub(super) struct Guard<'a> {
    special: Vec<&'a str>,
    marker: char,
    /// Whether a special token starts with this byte, in either case.
    starts: [bool; 256],
}

impl<'a> Guard<'a> {
    /// `None` when `variables` hold every character that could be the marker.
    pub(super) fn new(special: &'a [String], variables: &Map<String, Value>) -> Option<Self> {
        let special: Vec<&str> = special.iter().map(String::as_str).filter(|token| !token.is_empty()).collect();
        let mut used = [false; 32];
        variables.values().for_each(|value| find_markers(value, &mut used));
        let marker = MARKERS.zip(used).find_map(|(c, used)| (!used).then_some(c))?;
        let mut starts = [false; 256];
        for token in &special {
            let first = token.as_bytes()[0];
            starts[usize::from(first.to_ascii_lowercase())] = true;
            starts[usize::from(first.to_ascii_uppercase())] = true;
        }
        Some(Self { special, marker, starts })
    }

    pub(super) fn marker(&self) -> char {
        self.marker
    }

    /// Puts markers into every string and every key of `value`.
    pub(super) fn mark(&self, value: &mut Value) {
        match value {
            Value::String(text) => {
                if let Cow::Owned(marked) = self.marked(text) {
                    *text = marked;
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.mark(item)),
            Value::Object(fields) => {
                fields.values_mut().for_each(|field| self.mark(field));
                if fields.keys().any(|key| matches!(self.marked(key), Cow::Owned(_))) {
                    *fields =
                        std::mem::take(fields).into_iter().map(|(key, field)| (self.marked(&key).into_owned(), field)).collect();
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    /// Takes the markers out of `text`, and makes a literal piece of every special token that one was in.
    pub(super) fn cut(&self, text: &str) -> Prompt {
        let mut clean = String::with_capacity(text.len());
        let mut marked = Vec::new();
        for (i, part) in text.split(self.marker).enumerate() {
            if i > 0 {
                marked.push(clean.len());
            }
            clean.push_str(part);
        }
        let mut pieces: Vec<PromptPiece> = Vec::new();
        let mut done = 0;
        for at in marked {
            let Some((start, end)) = self.token_around(&clean, at) else { continue };
            let start = start.max(done);
            if start >= end {
                continue;
            }
            push_piece(&mut pieces, &clean[done..start], false);
            push_piece(&mut pieces, &clean[start..end], true);
            done = end;
        }
        push_piece(&mut pieces, &clean[done..], false);
        Prompt { pieces }
    }

    fn marked<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let bytes = text.as_bytes();
        let mut marked = String::new();
        let mut done = 0;
        for (i, c) in text.char_indices() {
            if self.starts[usize::from(bytes[i])] && self.may_become_special(&bytes[i..]) {
                let end = i + c.len_utf8();
                marked.push_str(&text[done..end]);
                marked.push(self.marker);
                done = end;
            }
        }
        if done == 0 {
            return text.into();
        }
        marked.push_str(&text[done..]);
        marked.into()
    }

    /// Whether `text` starts with a special token, or is the start of one. Case does not count: a template may change it.
    fn may_become_special(&self, text: &[u8]) -> bool {
        self.special.iter().any(|token| {
            let n = token.len().min(text.len());
            text[..n].eq_ignore_ascii_case(&token.as_bytes()[..n])
        })
    }

    /// The longest special token whose first character ends at `at`.
    fn token_around(&self, text: &str, at: usize) -> Option<(usize, usize)> {
        let start = at - text[..at].chars().next_back()?.len_utf8();
        let longest = self.special.iter().filter(|token| text[start..].starts_with(**token)).map(|token| token.len()).max()?;
        Some((start, start + longest))
    }
}

/// Literal pieces that touch are one.
fn push_piece(pieces: &mut Vec<PromptPiece>, text: &str, literal: bool) {
    match pieces.last_mut() {
        _ if text.is_empty() => {}
        Some(last) if last.literal == literal => last.text.push_str(text),
        _ => pieces.push(PromptPiece { text: text.to_owned(), literal }),
    }
}

fn find_markers(value: &Value, used: &mut [bool; 32]) {
    let mut look = |text: &str| {
        for c in text.chars().filter(|c| MARKERS.contains(c)) {
            used[c as usize - *MARKERS.start() as usize] = true;
        }
    };
    match value {
        Value::String(text) => look(text),
        Value::Array(items) => items.iter().for_each(|item| find_markers(item, used)),
        Value::Object(fields) => {
            fields.keys().for_each(|key| look(key));
            fields.values().for_each(|field| find_markers(field, used));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
