//! Text to tokens and back, over the `tokenizer.json` of a checkpoint.
//!
//! The crate `tokenizers` does the encoding, so that ids equal those of Hugging Face. Decoding is followed step by step
//! ([`TokenStream`]), and the same steps decode a whole sequence: streamed and whole text cannot differ.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, OnceLock};

use tokenizers::decoders::DecoderWrapper;
use tokenizers::tokenizer::Tokenizer as Inner;
use tokenizers::{PostProcessor, TruncationDirection, TruncationParams, TruncationStrategy, truncate_encodings};

use crate::error::{Error, Result};
use crate::primitives::TokenId;

mod bpe;
mod bytes;
mod file;
mod steps;
mod stream;

pub use stream::TokenStream;

/// What [`Tokenizer::encode`] does with text that spells a special token, such as `<|im_end|>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpecialTokens {
    /// It becomes that token: for text of the program's own, such as a rendered template.
    Parse,
    /// It is ordinary text: for what users and tools write.
    AsText,
}

/// What is cut of a pair of texts that is too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The longer of the two, until both are equally long.
    Longest,
    /// The second.
    Second,
}

/// A tokenizer, immutable and shared: a clone is a pointer.
#[derive(Clone)]
pub struct Tokenizer {
    shared: Arc<Shared>,
}

struct Shared {
    file: String,
    inner: Inner,
    /// The same, but with special tokens as ordinary text; made when first needed, because it doubles the memory.
    plain: OnceLock<Inner>,
    /// The decoder with its sequences laid flat; `None` where the file has none.
    decoders: Option<Vec<Arc<DecoderWrapper>>>,
    n_tokens: usize,
    special: Vec<(String, TokenId)>,
    special_ids: HashSet<TokenId>,
}

impl Tokenizer {
    /// Reads the content of a `tokenizer.json`; `file` is its name in messages. Truncation and padding of the file are ignored:
    /// neither belongs to text that is generated from.
    ///
    /// # Errors
    /// [`Error::BadFile`] when the file is too large, truncated or no tokenizer, [`Error::BadField`] when an added token does not
    /// get the id that the file gives it.
    pub fn from_json(bytes: &[u8], file: &str) -> Result<Self> {
        let outline = file::Outline::read(bytes, file)?;
        let mut inner = file::load(bytes, file)?;
        outline.check_added_tokens(&inner, file)?;
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| Error::bad_file(file, "its truncation cannot be switched off", e))?;

        let added = inner.get_added_vocabulary().get_added_tokens_decoder();
        let mut special: Vec<(String, TokenId)> =
            added.iter().filter(|(_, token)| token.special).map(|(&id, token)| (token.content.clone(), id)).collect();
        special.sort_by_key(|&(_, id)| id);
        let last_added = added.keys().max().copied();
        let n_tokens = outline.last_id().max(last_added).map_or(0, |id| id as usize + 1);
        let decoders = inner.get_decoder().map(steps::flatten);
        let special_ids = special.iter().map(|&(_, id)| id).collect();
        let shared = Shared { file: file.to_owned(), inner, plain: OnceLock::new(), decoders, n_tokens, special, special_ids };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The ids of `text` and nothing else: no token is put before or after it.
    ///
    /// # Errors
    /// [`Error::BadFile`] when the tokenizer fails, [`Error::Unsupported`] when it cannot tell text from a special token that the
    /// text spells.
    pub fn encode(&self, text: &str, special: SpecialTokens) -> Result<Vec<TokenId>> {
        match special {
            SpecialTokens::Parse => self.run(&self.shared.inner, text, false),
            SpecialTokens::AsText => self.encode_as_text(text),
        }
    }

    /// The ids of `text` with those that the file's post-processor adds, as `tokenizer(text)` gives them in Python: Llama's
    /// begin-of-text, BERT's `[CLS]` and `[SEP]`. Special tokens in `text` are parsed.
    ///
    /// # Errors
    /// [`Error::BadFile`] when the tokenizer fails.
    pub fn encode_with_template(&self, text: &str) -> Result<Vec<TokenId>> {
        self.run(&self.shared.inner, text, true)
    }

    /// As [`encode_with_template`](Self::encode_with_template), of a text whose end is cut so that there are at most `max_tokens`, those of the template
    /// included; and how many tokens were cut.
    ///
    /// # Errors
    /// As [`encode_with_template`](Self::encode_with_template).
    pub fn encode_within(&self, text: &str, max_tokens: usize) -> Result<(Vec<TokenId>, usize)> {
        let inner = &self.shared.inner;
        let mut encoding = inner.encode_fast(text, false).map_err(|e| self.failed("cannot encode the text", e))?;
        let n_tokens = encoding.len();
        encoding.truncate(max_tokens.saturating_sub(self.n_added()), 0, TruncationDirection::Right);
        let n_cut = n_tokens - encoding.len();
        // What was cut is no longer needed, and would get a template of its own.
        encoding.take_overflowing();
        let whole = inner.post_process(encoding, None, true).map_err(|e| self.failed("cannot add its template", e))?;
        Ok((whole.get_ids().to_vec(), n_cut))
    }

    /// The ids and token types of a pair of texts with what the file's post-processor adds, cut to at most `max_tokens`; and how many
    /// tokens were cut.
    ///
    /// # Errors
    /// As [`encode_with_template`](Self::encode_with_template); [`Error::ContextFull`] when only the second may be cut, and the first alone
    /// is too long.
    pub fn encode_pair_within(
        &self,
        first: &str,
        second: &str,
        max_tokens: usize,
        cut: Cut,
    ) -> Result<(Vec<TokenId>, Vec<u32>, usize)> {
        let inner = &self.shared.inner;
        let encode = |text: &str| inner.encode_fast(text, false).map_err(|e| self.failed("cannot encode the text", e));
        let (first, second) = (encode(first)?, encode(second)?);
        let n_added = inner.get_post_processor().map_or(0, |processor| processor.added_tokens(true));
        let (n_tokens, room) = (first.len() + second.len(), max_tokens.saturating_sub(n_added));
        if cut == Cut::Second && first.len() >= room && n_tokens > room {
            return Err(Error::ContextFull { held: 0, asked: first.len() + n_added + 1, max: max_tokens });
        }
        let strategy = if cut == Cut::Second { TruncationStrategy::OnlySecond } else { TruncationStrategy::LongestFirst };
        let params = TruncationParams { max_length: room, strategy, ..TruncationParams::default() };
        let (mut first, second) =
            truncate_encodings(first, Some(second), &params).map_err(|e| self.failed("cannot cut the texts", e))?;
        first.take_overflowing();
        let second = second.map(|mut second| {
            second.take_overflowing();
            second
        });
        let whole = inner.post_process(first, second, true).map_err(|e| self.failed("cannot add its template", e))?;
        let n_cut = n_tokens.saturating_sub(room);
        Ok((whole.get_ids().to_vec(), whole.get_type_ids().to_vec(), n_cut))
    }

    /// The end of `text` that has its last `n` tokens.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn last_tokens<'t>(&self, text: &'t str, n: usize) -> Result<&'t str> {
        let offsets = self.offsets(text)?;
        let start = offsets.get(offsets.len().saturating_sub(n)).map_or(text.len(), |(start, _)| *start);
        Ok(text.get(start..).unwrap_or(text))
    }

    /// The bytes of `text` that each of its tokens stands for, without those of the template. What the tokenizer leaves out is between them;
    /// tokens of one character may all have the whole of it.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn offsets(&self, text: &str) -> Result<Vec<(usize, usize)>> {
        let encoding = self.shared.inner.encode(text, false).map_err(|e| self.failed("cannot encode the text", e))?;
        Ok(encoding.get_offsets().to_vec())
    }

    /// How many tokens the file's post-processor adds to a text.
    pub fn n_added(&self) -> usize {
        self.shared.inner.get_post_processor().map_or(0, |processor| processor.added_tokens(false))
    }

    /// The text of `ids`. An id that has no token, as in the padding of an embedding, stands for no text, as in Python.
    /// Bytes that are not UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// [`Error::BadFile`] when a decoder of the file fails.
    pub fn decode(&self, ids: &[TokenId], skip_special: bool) -> Result<String> {
        let mut stream = self.stream(skip_special);
        let mut text = String::new();
        for &id in ids {
            text.push_str(&stream.push(id)?);
        }
        text.push_str(&stream.finish()?);
        Ok(text)
    }

    /// Decodes one token at a time; the pieces together are what [`decode`](Self::decode) gives.
    pub fn stream(&self, skip_special: bool) -> TokenStream {
        TokenStream::new(self.clone(), skip_special)
    }

    /// The highest id, plus one.
    pub fn n_tokens(&self) -> usize {
        self.shared.n_tokens
    }

    /// The token of `id` as the vocabulary spells it: `Ġthe`, `▁the`, `<|im_end|>`.
    pub fn token(&self, id: TokenId) -> Option<String> {
        self.shared.inner.id_to_token(id)
    }

    /// The id of a token as the vocabulary spells it.
    pub fn id(&self, token: &str) -> Option<TokenId> {
        self.shared.inner.token_to_id(token)
    }

    /// The tokens that are marked special, by id. Added tokens such as `</think>` are not among them unless marked.
    pub fn special_tokens(&self) -> &[(String, TokenId)] {
        &self.shared.special
    }

    /// Whether `id` is among [`special_tokens`](Self::special_tokens).
    pub fn is_special(&self, id: TokenId) -> bool {
        self.shared.special_ids.contains(&id)
    }

    /// The name of the file it was read from, for messages.
    pub fn file(&self) -> &str {
        &self.shared.file
    }

    /// Checks that every id has a row in an embedding of `embedding_rows` rows; more rows than ids are usual. `file` says where
    /// the number of rows comes from.
    ///
    /// # Errors
    /// [`Error::BadFile`] with both numbers and the first token that has no row.
    pub fn check_vocabulary(&self, embedding_rows: usize, file: &str) -> Result<()> {
        let n_tokens = self.n_tokens();
        if n_tokens <= embedding_rows {
            return Ok(());
        }
        let beyond = self.shared.inner.get_vocab(true).into_iter().filter(|(_, id)| *id as usize >= embedding_rows);
        let first = beyond.map(|(token, id)| (id, token)).min();
        let token = first.map_or_else(String::new, |(id, token)| format!(": the first without one is {id}, `{token}`"));
        Err(Error::BadFile {
            file: self.shared.file.clone(),
            problem: format!("{n_tokens} tokens do not fit the {embedding_rows} embedding rows of `{file}`{token}"),
            hint: Some("the tokenizer and the model do not belong together".into()),
            source: None,
        })
    }

    fn encode_as_text(&self, text: &str) -> Result<Vec<TokenId>> {
        let spelled: Vec<&str> =
            self.shared.special.iter().map(|(token, _)| token.as_str()).filter(|&token| text.contains(token)).collect();
        if spelled.is_empty() {
            return self.run(&self.shared.inner, text, false);
        }
        let plain = self.shared.plain.get_or_init(|| {
            let mut plain = self.shared.inner.clone();
            plain.set_encode_special_tokens(true);
            plain
        });
        let ids = self.run(plain, text, false)?;
        if !self.spells(&ids, &spelled) {
            return Ok(ids);
        }
        // The model itself has the token among its pieces, as Unigram models do: part the text inside of it.
        let mut ids = Vec::new();
        for part in parted(text, &spelled) {
            ids.extend(self.run(plain, part, false)?);
        }
        if self.spells(&ids, &spelled) {
            return Err(Error::Unsupported {
                what: "text that spells a special token".into(),
                reason: format!("`{}` has one of `{}` as an ordinary piece", self.shared.file, spelled.join("`, `")),
                hint: None,
            });
        }
        Ok(ids)
    }

    fn spells(&self, ids: &[TokenId], tokens: &[&str]) -> bool {
        ids.iter().any(|&id| self.is_special(id) && self.token(id).is_some_and(|token| tokens.contains(&token.as_str())))
    }

    fn run(&self, inner: &Inner, text: &str, add_special_tokens: bool) -> Result<Vec<TokenId>> {
        let encoding = inner.encode_fast(text, add_special_tokens).map_err(|e| self.failed("cannot encode the text", e))?;
        Ok(encoding.get_ids().to_vec())
    }

    fn failed(&self, problem: &str, source: tokenizers::Error) -> Error {
        Error::bad_file(self.shared.file.clone(), format!("its tokenizer {problem}"), source)
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shared { file, n_tokens, special, .. } = &*self.shared;
        let special: HashMap<_, _> = special.iter().map(|(token, id)| (id, token)).collect();
        f.debug_struct("Tokenizer").field("file", file).field("n_tokens", n_tokens).field("special", &special).finish()
    }
}

/// `text` cut after the first character of every occurrence of every token.
fn parted<'a>(text: &'a str, tokens: &[&str]) -> Vec<&'a str> {
    let mut cuts: Vec<usize> = tokens
        .iter()
        .flat_map(|token| {
            let first = token.chars().next().map_or(0, char::len_utf8);
            text.match_indices(token).map(move |(start, _)| start + first)
        })
        .collect();
    cuts.sort_unstable();
    let mut start = 0;
    let mut parts = Vec::with_capacity(cuts.len() + 1);
    for end in cuts.into_iter().chain([text.len()]) {
        if start < end {
            parts.push(&text[start..end]);
        }
        start = end;
    }
    parts
}
