//! A text and its prompt to tokens, no more than a model takes.

use super::EmbeddingConfig;
use super::Pool;
use crate::error::{Error, Result};
use crate::named::named;
use crate::primitives::TokenId;
use crate::tokenizer::{SpecialTokens, Tokenizer};

/// What is done with a text that has more tokens than the model takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Truncate {
    /// Its end is cut.
    #[default]
    End,
    /// Its start is cut; the prompt stays.
    Start,
    /// It is an error.
    Error,
}

named!(Truncate, "truncate", { End: "end", Start: "start", Error: "error" });

/// The tokens of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenizedText {
    /// All of them: special tokens, prompt and text.
    pub ids: Vec<TokenId>,
    /// How many of the first belong to the prompt.
    pub n_prompt: usize,
    /// How many of the text were cut.
    pub n_cut: usize,
}

/// A place between two tokens of a text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    /// Tokens before it.
    pub(super) n_tokens: usize,
    /// Where it is.
    pub(super) byte: usize,
}

/// Makes tokens of texts as a model was trained on them.
#[derive(Clone, Debug)]
pub(super) struct TextTokens {
    tokenizer: Tokenizer,
    max_tokens: usize,
    lower_case: bool,
    /// Follows what the tokenizer gives: the end of text of models that pool the last token, where the tokenizer's template lacks it.
    appended: Option<TokenId>,
}

impl TextTokens {
    /// For a model of `config`, whose remarks say what is appended.
    pub(super) fn new(tokenizer: Tokenizer, config: &mut EmbeddingConfig) -> Result<Self> {
        let mut appended = None;
        if config.pooling.pools.contains(&Pool::LastToken) {
            let probe = tokenizer.encode_with_template("a")?;
            if !probe.last().is_some_and(|&last| tokenizer.is_special(last)) {
                appended = config.end_tokens.first().copied();
            }
        }
        if let Some(id) = appended {
            let token = tokenizer.token(id).unwrap_or_else(|| id.to_string());
            config
                .remarks
                .push(format!("`{token}` is appended to each text: the last token is pooled, and the tokenizer adds none"));
        }
        let least = tokenizer.n_added() + usize::from(appended.is_some()) + 1;
        if config.max_tokens < least {
            let problem =
                format!("is `{}`, which leaves no token for a text beside those that the tokenizer adds", config.max_tokens);
            return Err(Error::bad_field(tokenizer.file(), "max_seq_length", problem));
        }
        Ok(Self { tokenizer, max_tokens: config.max_tokens, lower_case: config.lower_case, appended })
    }

    pub(super) fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The tokens of `prompt` and `text`, cut to what the model takes.
    ///
    /// # Errors
    /// [`Error::LongText`] for a text that is too long, where that is asked for; [`Error::EmptyText`] for one without any token.
    pub(super) fn of(&self, prompt: &str, text: &str, truncate: Truncate) -> Result<TokenizedText> {
        let (prompt, text) = (self.cased(prompt), self.cased(text));
        let n_prompt = if prompt.is_empty() { 0 } else { self.n_prompt(&prompt)? };
        let max = self.max_tokens - usize::from(self.appended.is_some());
        let (mut ids, mut n_cut) = self.tokenizer.encode_within(&format!("{prompt}{text}"), max)?;
        if n_cut > 0 && truncate == Truncate::Error {
            let n_tokens = ids.len() + n_cut + usize::from(self.appended.is_some());
            return Err(Error::LongText { what: "text", n_tokens, max: self.max_tokens });
        }
        if n_cut > 0 && truncate == Truncate::Start {
            // Those of the prompt stay. Parts of a text may have other tokens than the whole: then a few more are cut at the end.
            let kept = max.saturating_sub(n_prompt.max(self.tokenizer.n_added()));
            let n_all = ids.len() + n_cut;
            let end = self.tokenizer.last_tokens(&text, kept)?;
            ids = self.tokenizer.encode_within(&format!("{prompt}{end}"), max)?.0;
            n_cut = n_all.saturating_sub(ids.len());
        }
        ids.extend(self.appended);
        if ids.is_empty() {
            return Err(Error::EmptyText);
        }
        Ok(TokenizedText { ids, n_prompt, n_cut })
    }

    /// How many tokens of a text fit behind `prompt`.
    pub(super) fn room(&self, prompt: &str) -> Result<usize> {
        let around = match prompt.is_empty() {
            true => self.tokenizer.n_added(),
            false => self.tokenizer.encode_with_template(&self.cased(prompt))?.len(),
        };
        Ok(self.max_tokens.saturating_sub(around + usize::from(self.appended.is_some())))
    }

    /// By how many tokens `text` is longer than `most`, or with `prompt` than the model takes, whichever is more.
    pub(super) fn excess(&self, prompt: &str, text: &str, most: usize) -> Result<usize> {
        let own = self.tokenizer.encode(&self.cased(text), SpecialTokens::Parse)?.len().saturating_sub(most);
        if prompt.is_empty() {
            return Ok(own);
        }
        let max = self.max_tokens - usize::from(self.appended.is_some());
        let (_, n_cut) = self.tokenizer.encode_within(&self.cased(&format!("{prompt}{text}")), max)?;
        Ok(own.max(n_cut))
    }

    /// Where `text` can be cut: at its start, behind tokens that share no character with the next one, and at its end.
    pub(super) fn cuts(&self, text: &str) -> Result<Vec<Cut>> {
        let offsets = match self.lower_case {
            false => self.tokenizer.offsets(text)?,
            true => {
                let original = original_offsets(text);
                let offsets = self.tokenizer.offsets(&text.to_lowercase())?;
                offsets.into_iter().map(|(start, end)| (original(start), original(end))).collect()
            }
        };
        let mut cuts = vec![Cut { n_tokens: 0, byte: 0 }];
        let mut end = 0;
        for (i, pair) in offsets.windows(2).enumerate() {
            end = pair[0].1.max(end);
            let is_between = end > cuts[cuts.len() - 1].byte && end <= pair[1].0;
            if is_between && end < text.len() && text.is_char_boundary(end) {
                cuts.push(Cut { n_tokens: i + 1, byte: end });
            }
        }
        if !text.is_empty() {
            cuts.push(Cut { n_tokens: offsets.len(), byte: text.len() });
        }
        Ok(cuts)
    }

    /// As the model reads it.
    fn cased(&self, text: &str) -> String {
        if self.lower_case { text.to_lowercase() } else { text.to_owned() }
    }

    /// The tokens of a prompt and a text under other rules than the model's.
    pub(super) fn encoded(&self, prompt: &str, text: &str, lower_case: bool, max_tokens: usize) -> Result<Vec<TokenId>> {
        let whole = format!("{prompt}{text}");
        let whole = if lower_case { whole.to_lowercase() } else { whole };
        let max = max_tokens.saturating_sub(usize::from(self.appended.is_some()));
        let (mut ids, _) = self.tokenizer.encode_within(&whole, max)?;
        ids.extend(self.appended);
        Ok(ids)
    }

    /// Whether a token is marked special.
    pub(super) fn is_special(&self, id: TokenId) -> bool {
        self.tokenizer.is_special(id)
    }

    /// As sentence-transformers counts them: those of the prompt alone, without the token that ends it.
    pub(super) fn n_prompt(&self, prompt: &str) -> Result<usize> {
        let ids = self.tokenizer.encode_with_template(prompt)?;
        let ends = ids.last().is_some_and(|&last| self.tokenizer.is_special(last));
        Ok(ids.len() - usize::from(ends))
    }
}

/// Offsets in `text` for offsets in `text` turned to lower case, where a character may have more or fewer bytes.
fn original_offsets(text: &str) -> impl Fn(usize) -> usize {
    let mut lowered = 0;
    let starts: Vec<(usize, usize)> = text
        .char_indices()
        .map(|(start, character)| {
            let at = lowered;
            lowered += character.to_lowercase().map(char::len_utf8).sum::<usize>();
            (at, start)
        })
        .collect();
    let end = text.len();
    move |offset| match starts.partition_point(|&(at, _)| at < offset) {
        place if place < starts.len() => starts[place].1,
        _ => end,
    }
}
