//! What is learned: the answers of conversations, as tokens that are to follow what stands before them.

use std::io::{BufRead, Read};

use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::primitives::TokenId;
use crate::template::{ChatMessage, ChatTemplate, RenderOptions};
use crate::tokenizer::Tokenizer;

/// The longest line of a file of conversations.
const MAX_LINE_BYTES: u64 = 16 << 20;

/// What to do about a line that is something else.
const FORM: &str =
    "write one conversation a line: `{\"messages\": [{\"role\": \"user\", \"content\": \"…\"}, {\"role\": \"assistant\", …}]}`";

/// Tokens, some of which are to be predicted from those before them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrainingText {
    /// The tokens.
    pub ids: Vec<TokenId>,
    /// Whether each is a target; the first never is.
    pub is_target: Vec<bool>,
}

/// A conversation to learn the answers of.
#[derive(Clone, Debug, PartialEq)]
pub struct Conversation {
    /// The line of the file, from 1 on.
    pub line: usize,
    /// Its messages.
    pub messages: Vec<ChatMessage>,
}

/// A line: messages, or one question and its answer.
#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Messages { messages: Vec<ChatMessage> },
    Pair { prompt: String, completion: String },
}

/// Turns conversations into tokens.
#[derive(Clone, Copy, Debug)]
pub struct Encoder<'m> {
    /// The model's tokenizer.
    pub tokenizer: &'m Tokenizer,
    /// The model's chat template.
    pub template: &'m ChatTemplate,
    /// The tokens that end an answer.
    pub end_tokens: &'m [TokenId],
    /// The most tokens of a text; what exceeds them is cut from its end.
    pub max_tokens: usize,
}

/// Reads conversations, one a line: `{"messages": [{"role": "user", "content": "…"}, …]}` or `{"prompt": "…", "completion": "…"}`. Empty
/// lines are passed over. `file` is the name in messages.
///
/// # Errors
/// [`Error::BadFile`] with the number of a line that is too long, not UTF-8 or not a conversation, has no answer, or when there are none.
pub fn read_conversations(mut reader: impl BufRead, file: &str) -> Result<Vec<Conversation>> {
    let mut conversations = Vec::new();
    let mut bytes = Vec::new();
    for line in 1.. {
        bytes.clear();
        let n = reader.by_ref().take(MAX_LINE_BYTES + 1).read_until(b'\n', &mut bytes);
        if n.map_err(|error| Error::bad_file(file, "cannot be read", error))? == 0 {
            break;
        }
        let bad = |problem: String| Error::BadFile {
            file: file.to_owned(),
            problem: format!("line {line}: {problem}"),
            hint: Some(FORM.into()),
            source: None,
        };
        if bytes.len() as u64 > MAX_LINE_BYTES {
            return Err(bad(format!("is longer than {} MB", MAX_LINE_BYTES >> 20)));
        }
        if bytes.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let parsed = serde_json::from_slice(&bytes).map_err(|error| bad(format!("is not a conversation: {error}")))?;
        let messages = match parsed {
            Line::Messages { messages } => messages,
            Line::Pair { prompt, completion } => vec![ChatMessage::user(prompt), ChatMessage::assistant(completion)],
        };
        if !messages.iter().any(|message| message.role == ASSISTANT) {
            return Err(bad("has no message of the `assistant`, whose answers are what is learned".into()));
        }
        conversations.push(Conversation { line, messages });
    }
    match conversations.is_empty() {
        true => Err(Error::BadFile {
            file: file.to_owned(),
            problem: "has no conversations".into(),
            hint: Some(FORM.into()),
            source: None,
        }),
        false => Ok(conversations),
    }
}

/// The SHA-256 of `texts`, in hexadecimal: a run goes on with the same ones.
pub fn hash_of(texts: &[TrainingText]) -> String {
    let mut hash = Sha256::new();
    for text in texts {
        hash.update((text.ids.len() as u64).to_le_bytes());
        text.ids.iter().for_each(|id| hash.update(id.to_le_bytes()));
        text.is_target.iter().for_each(|is| hash.update([u8::from(*is)]));
    }
    format!("{:x}", hash.finalize())
}

const ASSISTANT: &str = "assistant";

impl TrainingText {
    /// How many tokens are targets.
    pub fn n_targets(&self) -> usize {
        self.is_target.iter().filter(|is| **is).count()
    }

    /// Keeps the first `n` tokens.
    fn truncate(&mut self, n: usize) {
        self.ids.truncate(n);
        self.is_target.truncate(n);
    }
}

impl Encoder<'_> {
    /// The texts of `conversation`: one, with all answers as targets, where the template writes a turn the same whatever follows it; else one
    /// for each answer. Those without a target within [`max_tokens`](Self::max_tokens) are left out; the number of cut texts is the second
    /// result.
    ///
    /// # Errors
    /// [`Error::Template`] when the template refuses the messages, or writes something else before an answer than before the cursor.
    pub fn texts(&self, conversation: &Conversation) -> Result<(Vec<TrainingText>, usize)> {
        let messages = &conversation.messages;
        let mut texts: Vec<TrainingText> = Vec::new();
        for i in (0..messages.len()).filter(|&i| messages[i].role == ASSISTANT) {
            let mut text = self.answer(&messages[..=i], conversation.line)?;
            match texts.last_mut() {
                Some(before) if text.ids.starts_with(&before.ids) => {
                    text.is_target.iter_mut().zip(&before.is_target).for_each(|(is, was)| *is |= was);
                    *before = text;
                }
                _ => texts.push(text),
            }
        }
        let n_cut = texts.iter().filter(|text| text.ids.len() > self.max_tokens).count();
        texts.iter_mut().for_each(|text| text.truncate(self.max_tokens));
        texts.retain(|text| text.n_targets() > 0);
        Ok((texts, n_cut))
    }

    /// The text of `messages`, of which the last is the target, up to the token that ends it.
    fn answer(&self, messages: &[ChatMessage], line: usize) -> Result<TrainingText> {
        let render = |messages: &[ChatMessage], add_generation_prompt| {
            let options = RenderOptions { add_generation_prompt, ..RenderOptions::default() };
            self.template.render(messages, &options)
        };
        let question = render(&messages[..messages.len() - 1], true)?.encode(self.tokenizer)?;
        let whole = render(messages, false)?.encode(self.tokenizer)?;
        if !whole.starts_with(&question) {
            return Err(Error::Template {
                file: self.template.file().to_owned(),
                problem: format!(
                    "line {line} of the conversations: what it writes before an answer is not what it writes before the cursor"
                ),
                hint: Some("use a template that only appends".into()),
                source: None,
            });
        }
        let answer = &whole[question.len()..];
        let n = answer.iter().position(|id| self.end_tokens.contains(id)).map_or(answer.len(), |end| end + 1);
        let is_target = (0..whole.len()).map(|i| i > 0 && (question.len()..question.len() + n).contains(&i)).collect();
        Ok(TrainingText { ids: whole, is_target })
    }
}
