//! The prompts on which two sides are compared: those of this crate, or those of a file.

use std::path::Path;

use serde::{Deserialize, Serialize};
use tandem_core::backend::TokenId;
use tandem_core::files::ModelFile;
use tandem_core::{Error, Result};

/// The prompts that are part of this crate.
const EMBEDDED: &str = include_str!("corpus.toml");

/// A larger file is not read as prompts.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// Tokens of a prompt that is made of tokens.
const PATTERN_TOKENS: usize = 96;

/// How often a text that is repeated stands in one that is embedded.
const UNITS: usize = 12;

/// Prompts to compare on.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Corpus {
    /// What it is called in reports.
    #[serde(skip)]
    pub name: String,
    /// Prompts that are longer than a model can hold, or than was asked for, are cut; those of a file are not.
    #[serde(skip)]
    pub may_be_cut: bool,
    /// The prompts.
    #[serde(rename = "prompt")]
    pub prompts: Vec<CorpusPrompt>,
}

/// One prompt.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct CorpusPrompt {
    /// What it is called in reports.
    pub name: String,
    /// What it is for.
    pub kind: PromptKind,
    /// What it says.
    #[serde(flatten)]
    pub content: Content,
}

/// What a prompt is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PromptKind {
    /// What a person says to a model.
    Chat,
    /// Source code.
    Code,
    /// Scripts and languages.
    Multilingual,
    /// As long as the model and the caller allow.
    Long,
    /// What strains arithmetic: repetition, tokens that never stand side by side, extremes.
    Awkward,
    /// A prompt of the user's own.
    Given,
}

/// What a prompt says.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Content {
    /// A text as it is, with the special tokens that the tokenizer puts around a text.
    Text(String),
    /// A conversation, through the model's template; where it has none, the messages' texts.
    Messages(Vec<Message>),
    /// A text that is repeated with `{n}` counting up, until the prompt is long enough.
    Unit(String),
    /// Tokens, whatever they stand for.
    Tokens(Pattern),
}

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// What it says.
    pub content: String,
}

/// Prompts that are made of a vocabulary rather than of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pattern {
    /// One token again and again: attention has nothing to tell positions by but their turn.
    Repeated,
    /// Tokens drawn at random, the same ones each time.
    Random,
    /// The first and the last tokens of the vocabulary in turns.
    Extremes,
    /// One token alone.
    Single,
    /// Every token that is marked special, at most as many as the other patterns have.
    Special,
}

impl Corpus {
    /// The prompts that are part of this crate.
    pub fn embedded() -> Self {
        let corpus: Self = toml::from_str(EMBEDDED).expect("the embedded corpus is well formed: a test reads it");
        Self { name: "embedded".into(), may_be_cut: true, ..corpus }
    }

    /// What an embedding model may be given, by name: texts as they are, the messages of a conversation, and a text that is repeated, a
    /// few times over.
    pub fn texts(&self) -> Vec<(&str, String)> {
        let text = |prompt: &CorpusPrompt| match &prompt.content {
            Content::Text(text) => Some(text.clone()),
            Content::Messages(messages) => {
                Some(messages.iter().map(|message| message.content.as_str()).collect::<Vec<_>>().join("\n"))
            }
            Content::Unit(unit) => Some((0..UNITS).map(|n| unit.replace("{n}", &n.to_string())).collect()),
            Content::Tokens(_) => None,
        };
        self.prompts.iter().filter_map(|prompt| Some((prompt.name.as_str(), text(prompt)?))).collect()
    }

    /// Reads prompts from `path`: each line is one, as a text; in a file that ends in `.jsonl` as an object with `text` or `messages`, and
    /// a `name` if it has one.
    ///
    /// # Errors
    /// [`Error::BadFile`] when it cannot be read or has no lines; [`Error::BadField`] names a line that is empty or no prompt.
    pub fn read(path: &Path) -> Result<Self> {
        let file = ModelFile::Path(path.to_owned());
        let text = file.read_text(MAX_FILE_BYTES)?;
        let is_json = path.extension().is_some_and(|extension| extension == "jsonl");
        Self::parse(&file.name(), &text, is_json)
    }

    /// Reads prompts from the text of a file called `name`: see [`read`](Self::read).
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn parse(name: &str, text: &str, is_json: bool) -> Result<Self> {
        let mut prompts = Vec::new();
        for (i, line) in text.lines().enumerate() {
            prompts.push(given(name, i + 1, line, is_json)?);
        }
        if prompts.is_empty() {
            return Err(Error::BadFile {
                file: name.into(),
                problem: "has no prompts".into(),
                hint: Some("write one prompt per line".into()),
                source: None,
            });
        }
        Ok(Self { name: name.into(), may_be_cut: false, prompts })
    }
}

impl Pattern {
    /// Its tokens in a vocabulary of `n_tokens`, of which `special` are special; none where there is nothing to make it of.
    pub(super) fn tokens(self, n_tokens: usize, special: &[TokenId]) -> Vec<TokenId> {
        let n_tokens = n_tokens.max(1) as u64;
        let of = |make: &dyn Fn(u64) -> u64| (0..PATTERN_TOKENS as u64).map(|i| (make(i) % n_tokens) as TokenId).collect();
        match self {
            Self::Repeated => of(&|_| n_tokens / 3),
            // A multiplicative congruential sequence: Lehmer's, with the modulus and multiplier of Park and Miller, 1988.
            Self::Random => {
                let mut state = 20_251_120_u64;
                (0..PATTERN_TOKENS)
                    .map(|_| {
                        state = state * 48_271 % 2_147_483_647;
                        (state % n_tokens) as TokenId
                    })
                    .collect()
            }
            Self::Extremes => of(&|i| if i % 2 == 0 { i / 2 } else { n_tokens - 1 - (i / 2) % n_tokens }),
            Self::Single => vec![(n_tokens / 2) as TokenId],
            Self::Special => special.iter().copied().take(PATTERN_TOKENS).collect(),
        }
    }
}

/// The prompt on line `number` of the file `name`.
fn given(name: &str, number: usize, line: &str, is_json: bool) -> Result<CorpusPrompt> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Line {
        name: Option<String>,
        text: Option<String>,
        messages: Option<Vec<Message>>,
    }
    let field = format!("line {number}");
    let bad = |problem: String, hint: &str| {
        Err(Error::BadField { file: name.into(), field: field.clone(), problem, hint: Some(hint.into()) })
    };
    if line.trim().is_empty() {
        return bad("is empty, and a prompt of no tokens cannot be compared".into(), "remove the line");
    }
    let prompt = |name: Option<String>, content| CorpusPrompt {
        name: name.unwrap_or_else(|| field.clone()),
        kind: PromptKind::Given,
        content,
    };
    if !is_json {
        return Ok(prompt(None, Content::Text(line.to_owned())));
    }
    const FORM: &str = r#"write `{"text": "…"}` or `{"messages": [{"role": "user", "content": "…"}]}` on each line"#;
    match serde_json::from_str(line) {
        Ok(Line { name, text: Some(text), messages: None }) => Ok(prompt(name, Content::Text(text))),
        Ok(Line { name, text: None, messages: Some(messages) }) if !messages.is_empty() => {
            Ok(prompt(name, Content::Messages(messages)))
        }
        Ok(_) => bad("needs either `text` or `messages`".into(), FORM),
        Err(error) => bad(format!("is not a prompt: {error}"), FORM),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_corpus_has_what_it_promises() {
        let corpus = Corpus::embedded();
        assert!(corpus.prompts.len() >= 32);
        for (kind, least) in [
            (PromptKind::Chat, 8),
            (PromptKind::Code, 8),
            (PromptKind::Multilingual, 8),
            (PromptKind::Long, 4),
            (PromptKind::Awkward, 4),
        ] {
            assert!(corpus.prompts.iter().filter(|prompt| prompt.kind == kind).count() >= least, "{kind:?}");
        }
        let mut names: Vec<&str> = corpus.prompts.iter().map(|prompt| prompt.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), corpus.prompts.len(), "names tell prompts apart");
        let texts = corpus.texts();
        assert!(texts.len() >= 30 && texts.iter().all(|(_, text)| !text.contains("{n}")), "{}", texts.len());
    }

    #[test]
    fn corpus_files_have_one_prompt_per_line() {
        let plain = Corpus::parse("prompts.txt", "one\n{\"text\": 1}\n", false).unwrap();
        let texts: Vec<&Content> = plain.prompts.iter().map(|prompt| &prompt.content).collect();
        assert_eq!(texts, [&Content::Text("one".into()), &Content::Text("{\"text\": 1}".into())]);
        assert!(!plain.may_be_cut);
        let json = r#"{"text": "a"}
{"name": "greeting", "messages": [{"role": "user", "content": "hi"}]}"#;
        let json = Corpus::parse("prompts.jsonl", json, true).unwrap();
        assert_eq!((json.prompts[0].name.as_str(), json.prompts[1].name.as_str()), ("line 1", "greeting"));
    }

    #[test]
    fn corpus_errors_name_the_line() {
        let check = |text: &str, is_json, expected: &str| {
            let error = Corpus::parse("c", text, is_json).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
            assert!(error.hint().is_some());
        };
        check("one\n\ntwo", false, "field `line 2`: is empty");
        check("one\n  \t\n", false, "field `line 2`: is empty");
        check("", false, "has no prompts");
        check("{\"text\": \"a\", \"messages\": []}", true, "field `line 1`: needs either");
        check("{\"txt\": \"a\"}", true, "field `line 1`: is not a prompt: unknown field `txt`");
        check("{\"messages\": []}", true, "needs either");
    }

    #[test]
    fn patterns_are_of_the_vocabulary() {
        for n_tokens in [1, 2, 3, 320, 151_936] {
            for pattern in [Pattern::Repeated, Pattern::Random, Pattern::Extremes, Pattern::Single] {
                let tokens = pattern.tokens(n_tokens, &[]);
                assert!(!tokens.is_empty() && tokens.iter().all(|&id| (id as usize) < n_tokens), "{pattern:?} of {n_tokens}");
            }
        }
        assert_eq!(Pattern::Extremes.tokens(320, &[])[..4], [0, 319, 1, 318]);
        assert_eq!(Pattern::Special.tokens(320, &[300, 301]), [300, 301]);
        assert!(Pattern::Special.tokens(320, &[]).is_empty());
    }
}
