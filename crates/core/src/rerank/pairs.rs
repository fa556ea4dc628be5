//! A query and a document to the tokens of a pair, no more than a model takes.

use super::RerankOptions;
use crate::error::{Error, Result};
use crate::named::named;
use crate::primitives::TokenId;
use crate::template::{ChatMessage, ChatTemplate, RenderOptions};
use crate::tokenizer::{Cut, Tokenizer};

/// What is cut of a pair that is too long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TruncatePair {
    /// The longer of the two, until both are equally long: what sentence-transformers does.
    #[default]
    Longest,
    /// The document.
    Document,
}

named!(TruncatePair, "truncation of pairs", { Longest: "longest", Document: "document" });

/// The tokens of a query and a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TokenizedPair {
    pub(super) ids: Vec<TokenId>,
    /// The type of each.
    pub(super) types: Vec<u32>,
    pub(super) n_cut: usize,
}

/// Makes tokens of pairs as a cross-encoder was trained on them.
pub(super) struct PairTokens {
    tokenizer: Tokenizer,
    /// Puts both texts into one, where the model has such a template.
    template: Option<TemplateTokens>,
    max_tokens: usize,
}

impl PairTokens {
    pub(super) fn new(tokenizer: Tokenizer, template: Option<ChatTemplate>, max_tokens: usize) -> Result<Self> {
        let template = template.map(|template| TemplateTokens::new(&tokenizer, template, max_tokens)).transpose()?;
        Ok(Self { tokenizer, template, max_tokens })
    }

    /// Whether a template puts both texts, and an instruction, into one.
    pub(super) fn has_template(&self) -> bool {
        self.template.is_some()
    }

    pub(super) fn tokenize(&self, query: &str, documents: &[&str], options: &RerankOptions) -> Result<Vec<TokenizedPair>> {
        of_each(documents, |document| match &self.template {
            Some(template) => template.of(&self.tokenizer, query, document, options),
            None => self.of(query, document, options.truncate),
        })
    }

    fn of(&self, query: &str, document: &str, truncate: TruncatePair) -> Result<TokenizedPair> {
        let cut = match truncate {
            TruncatePair::Longest => Cut::Longest,
            TruncatePair::Document => Cut::Second,
        };
        let encoded = self.tokenizer.encode_pair_within(query, document, self.max_tokens, cut);
        let (ids, types, n_cut) = encoded.map_err(|error| match error {
            Error::ContextFull { asked, max, .. } => long_query(asked, max),
            other => other,
        })?;
        if ids.is_empty() { Err(Error::EmptyText) } else { Ok(TokenizedPair { ids, types, n_cut }) }
    }
}

/// Makes tokens of pairs by a chat template with the roles `query` and `document`, whose end is never cut: a model that reads the last
/// position would read something else.
pub(super) struct TemplateTokens {
    template: ChatTemplate,
    /// The tokens that end every pair.
    end: Vec<TokenId>,
    max_tokens: usize,
}

impl TemplateTokens {
    pub(super) fn new(tokenizer: &Tokenizer, template: ChatTemplate, max_tokens: usize) -> Result<Self> {
        let mut tokens = Self { template, end: Vec::new(), max_tokens: usize::MAX };
        let options = RerankOptions::default();
        let of = |document: &str| tokens.of(tokenizer, "a", document, &options).map(|pair| pair.ids);
        let (one, other) = (of("a b")?, of("9 0")?);
        let n = one.iter().rev().zip(other.iter().rev()).take_while(|(one, other)| one == other).count();
        if n == one.len() {
            return Err(Error::Template {
                file: tokenizer.file().into(),
                problem: "it does not show the document of a message with the role `document`".into(),
                hint: None,
                source: None,
            });
        }
        tokens.end = one[one.len() - n..].to_vec();
        tokens.max_tokens = max_tokens;
        if tokens.end.len() >= max_tokens {
            return Err(Error::ContextFull { held: 0, asked: tokens.end.len() + 1, max: max_tokens });
        }
        Ok(tokens)
    }

    /// The tokens of a pair. Its end is what is cut, as sentence-transformers does; the document is the last of the two. Where only the
    /// document may be cut, a query that leaves no token for it is an error.
    pub(super) fn of(
        &self,
        tokenizer: &Tokenizer,
        query: &str,
        document: &str,
        options: &RerankOptions,
    ) -> Result<TokenizedPair> {
        let encode = |document: &str| {
            let instruction = options.instruction.as_ref().map(ChatMessage::system);
            let pair = [ChatMessage::new("query", query), ChatMessage::new("document", document)];
            let messages: Vec<ChatMessage> = instruction.into_iter().chain(pair).collect();
            let render = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
            self.template.render(&messages, &render)?.encode(tokenizer)
        };
        let mut ids = encode(document)?;
        let n_cut = ids.len().saturating_sub(self.max_tokens);
        if n_cut > 0 {
            let n_without = if options.truncate == TruncatePair::Document { encode("")?.len() } else { 0 };
            if n_without >= self.max_tokens {
                return Err(long_query(n_without + 1, self.max_tokens));
            }
            ids.truncate(self.max_tokens - self.end.len());
            ids.extend(&self.end);
        }
        Ok(TokenizedPair { types: vec![0; ids.len()], ids, n_cut })
    }
}

/// What `work` makes of each document.
pub(super) fn of_each(documents: &[&str], work: impl Fn(&str) -> Result<TokenizedPair>) -> Result<Vec<TokenizedPair>> {
    documents.iter().enumerate().map(|(index, document)| work(document).map_err(|error| error.of_text(index))).collect()
}

/// The query has `n_tokens`, those around it and one of a document included.
fn long_query(n_tokens: usize, max: usize) -> Error {
    Error::LongText { what: "query", n_tokens, max }
}
