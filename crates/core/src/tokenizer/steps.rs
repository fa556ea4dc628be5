//! The decoders of a tokenizer, each followed token by token.
//!
//! A decoder of `tokenizers` maps all tokens of a sequence at once. Each step here gives the same tokens as early as they are
//! certain: bytes of one character wait for each other, a run of byte tokens for its end (one bad byte changes how the whole
//! run is shown), and a decoder that is not known waits for the end of the sequence.

use std::sync::Arc;

use tokenizers::Decoder;
use tokenizers::Result;
use tokenizers::decoders::DecoderWrapper;

use super::bytes::{push_bytes, take_text};

/// One decoder with what it holds back.
pub(super) trait Step: Send {
    /// Takes a token and appends the tokens that are now certain.
    fn push(&mut self, token: String, next: &mut Vec<String>) -> Result<()>;

    /// Appends what was held back: no token will follow.
    fn finish(&mut self, _next: &mut Vec<String>) -> Result<()> {
        Ok(())
    }
}

/// A decoder's parts in order.
pub(super) fn flatten(decoder: &DecoderWrapper) -> Vec<Arc<DecoderWrapper>> {
    match decoder {
        DecoderWrapper::Sequence(sequence) => sequence.get_decoders().iter().flat_map(flatten).collect(),
        part => vec![Arc::new(part.clone())],
    }
}

/// Fresh steps for one sequence; `None` is a tokenizer without a decoder.
pub(super) fn steps(decoders: Option<&[Arc<DecoderWrapper>]>) -> Vec<Box<dyn Step>> {
    let Some(decoders) = decoders else { return vec![Box::new(Spaced { first: true })] };
    let mut steps: Vec<Box<dyn Step>> = Vec::new();
    // Whether all that flows is parts of one token.
    let mut joined = false;
    for (i, decoder) in decoders.iter().enumerate() {
        let step: Box<dyn Step> = match (&**decoder, joined) {
            (DecoderWrapper::Fuse(_), _) => {
                joined = true;
                continue;
            }
            (DecoderWrapper::ByteLevel(_), false) => {
                joined = true;
                Box::new(Bytes { held: Vec::new() })
            }
            (DecoderWrapper::Strip(s), true) => Box::new(Ends { content: s.content, start: s.start, stop: s.stop, held: 0 }),
            (DecoderWrapper::Strip(s), false) => Box::new(Strip { content: s.content, start: s.start, stop: s.stop }),
            (DecoderWrapper::Replace(_), false) => Box::new(Each(decoder.clone())),
            (DecoderWrapper::Metaspace(_) | DecoderWrapper::WordPiece(_), false) => {
                Box::new(FirstDiffers { decoder: decoder.clone(), first: true })
            }
            (DecoderWrapper::BPE(_), false) => Box::new(LastDiffers { decoder: decoder.clone(), held: None }),
            (DecoderWrapper::ByteFallback(_), false) => Box::new(ByteRuns { decoder: decoder.clone(), run: Vec::new() }),
            _ => {
                steps.push(Box::new(Whole { rest: decoders[i..].to_vec(), joined, held: Vec::new() }));
                break;
            }
        };
        steps.push(step);
    }
    steps
}

/// No decoder: tokens with a space between them.
struct Spaced {
    first: bool,
}

impl Step for Spaced {
    fn push(&mut self, token: String, next: &mut Vec<String>) -> Result<()> {
        next.push(if self.first { token } else { format!(" {token}") });
        self.first = false;
        Ok(())
    }
}

/// A decoder that maps each token for itself.
struct Each(Arc<DecoderWrapper>);

impl Step for Each {
    fn push(&mut self, token: String, next: &mut Vec<String>) -> Result<()> {
        next.extend(self.0.decode_chain(vec![token])?);
        Ok(())
    }
}

/// A decoder that maps each token for itself, but the first one in its own way.
struct FirstDiffers {
    decoder: Arc<DecoderWrapper>,
    first: bool,
}

impl Step for FirstDiffers {
    fn push(&mut self, token: String, next: &mut Vec<String>) -> Result<()> {
        if self.first {
            self.first = false;
            next.extend(self.decoder.decode_chain(vec![token])?);
        } else {
            next.extend(self.decoder.decode_chain(vec![String::new(), token])?.into_iter().skip(1));
        }
        Ok(())
    }
}

/// A decoder that maps each token for itself, but the last one in its own way.
struct LastDiffers {
    decoder: Arc<DecoderWrapper>,
    held: Option<String>,
}

impl Step for LastDiffers {
    fn push(&mut self, token: String, next: &mut Vec<String>) -> Result<()> {
        if let Some(held) = self.held.replace(token) {
            next.extend(self.decoder.decode_chain(vec![held, String::new()])?.into_iter().take(1));
        }
        Ok(())
    }

    fn finish(&mut self, next: &mut Vec<String>) -> Result<()> {
        if let Some(held) = self.held.take() {
            next.extend(self.decoder.decode_chain(vec![held])?);
        }
        Ok(())
    }
}

/// Byte fallback: a run of tokens `<0x..>` is text when it is UTF-8 as a whole, otherwise as many U+FFFD as it has bytes.
struct ByteRuns {
    decoder: Arc<DecoderWrapper>,
    run: Vec<String>,
}

impl Step for ByteRuns {
    fn push(&mut self, token: String, next: &mut Vec<String>) -> Result<()> {
        if is_byte_token(&token) {
            self.run.push(token);
        } else {
            self.finish(next)?;
            next.push(token);
        }
        Ok(())
    }

    fn finish(&mut self, next: &mut Vec<String>) -> Result<()> {
        if !self.run.is_empty() {
            next.extend(self.decoder.decode_chain(std::mem::take(&mut self.run))?);
        }
        Ok(())
    }
}

/// The test of `tokenizers`' own `ByteFallback`, which also takes `<0x+F>`.
fn is_byte_token(token: &str) -> bool {
    let digits = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|digits| digits.len() == 2 && u8::from_str_radix(digits, 16).is_ok())
}

/// GPT-2's byte alphabet.
struct Bytes {
    held: Vec<u8>,
}

impl Step for Bytes {
    fn push(&mut self, token: String, next: &mut Vec<String>) -> Result<()> {
        push_bytes(&token, &mut self.held);
        next.push(take_text(&mut self.held));
        Ok(())
    }

    fn finish(&mut self, next: &mut Vec<String>) -> Result<()> {
        next.push(String::from_utf8_lossy(&self.held).into_owned());
        self.held.clear();
        Ok(())
    }
}

/// Removes up to `start` and `stop` characters `content` from the ends of each token.
struct Strip {
    content: char,
    start: usize,
    stop: usize,
}

impl Step for Strip {
    fn push(&mut self, token: String, next: &mut Vec<String>) -> Result<()> {
        let mut parts = Vec::new();
        Ends { content: self.content, start: self.start, stop: self.stop, held: 0 }.push(token, &mut parts)?;
        next.push(parts.concat());
        Ok(())
    }
}

/// The same for the ends of one token that arrives in parts.
struct Ends {
    content: char,
    /// How many may still be removed at the start; 0 once another character was seen.
    start: usize,
    stop: usize,
    /// How many are held back because they may be the end.
    held: usize,
}

impl Step for Ends {
    fn push(&mut self, part: String, next: &mut Vec<String>) -> Result<()> {
        let mut part = part.as_str();
        while self.start > 0 && !part.is_empty() {
            match part.strip_prefix(self.content) {
                Some(rest) => (part, self.start) = (rest, self.start - 1),
                None => self.start = 0,
            }
        }
        if part.is_empty() {
            return Ok(());
        }
        let mut text = self.content.to_string().repeat(self.held);
        text.push_str(part);
        self.held = text.chars().rev().take_while(|&c| c == self.content).count().min(self.stop);
        text.truncate(text.len() - self.held * self.content.len_utf8());
        next.push(text);
        Ok(())
    }
}

/// Decoders of which nothing is known before the end.
struct Whole {
    rest: Vec<Arc<DecoderWrapper>>,
    joined: bool,
    held: Vec<String>,
}

impl Step for Whole {
    fn push(&mut self, token: String, _next: &mut Vec<String>) -> Result<()> {
        self.held.push(token);
        Ok(())
    }

    fn finish(&mut self, next: &mut Vec<String>) -> Result<()> {
        let mut tokens = std::mem::take(&mut self.held);
        if self.joined {
            tokens = vec![tokens.concat()];
        }
        for decoder in &self.rest {
            // Some decoders take it for granted that there is a token.
            if tokens.is_empty() {
                break;
            }
            tokens = decoder.decode_chain(tokens)?;
        }
        next.extend(tokens);
        Ok(())
    }
}
