//! A conversation that keeps its KV cache: each turn computes only what is new.

use tandem_core::generate::{Event, FinishReason, GenerateOptions, Generation, Timings};
use tandem_core::sequence::Sequence;
use tandem_core::speculation::Drafter;
use tandem_core::template::ChatMessage;
use tandem_core::{CancelToken, Result, SessionOptions, TokenId};

use crate::model::TextModel;

/// A conversation with a model.
pub struct Chat {
    model: TextModel,
    session: SessionOptions,
    sequence: Sequence,
    messages: Vec<ChatMessage>,
    /// How answers are generated.
    pub options: GenerateOptions,
    /// What drafts their tokens for speculative decoding; the answers are the same without.
    pub drafter: Option<Box<dyn Drafter>>,
}

/// An answer while it comes. What came of it is kept when it is dropped, also when it was cancelled.
pub struct Reply<'c> {
    generation: Generation<'c>,
    messages: &'c mut Vec<ChatMessage>,
    n_prompt: usize,
    text: String,
    reason: Option<FinishReason>,
}

impl TextModel {
    /// A conversation.
    ///
    /// # Errors
    /// As [`new_sequence`](Self::new_sequence).
    pub fn chat(&self) -> Result<Chat> {
        Chat::with_session(self, &SessionOptions::default())
    }
}

impl Chat {
    /// A conversation whose context and cancellation are given.
    ///
    /// # Errors
    /// As [`TextModel::new_sequence`].
    pub fn with_session(model: &TextModel, options: &SessionOptions) -> Result<Self> {
        Ok(Self {
            model: model.clone(),
            session: options.clone(),
            sequence: model.new_sequence(options)?,
            messages: Vec::new(),
            options: model.default_options(),
            drafter: None,
        })
    }

    /// The model that answers.
    pub fn model(&self) -> &TextModel {
        &self.model
    }

    /// Has `model` answer from here on, such as the same with another adapter: it reads the conversation so far before its next answer.
    ///
    /// # Errors
    /// As [`TextModel::new_sequence`]; the conversation stays with its model then.
    pub fn set_model(&mut self, model: &TextModel) -> Result<()> {
        self.sequence = model.new_sequence(&self.session)?;
        self.model = model.clone();
        Ok(())
    }

    /// The messages so far.
    pub fn messages(&self) -> &[ChatMessage] {
        &self.messages
    }

    /// Puts other messages in the place of those so far; what they have in common stays in the cache.
    pub fn set_messages(&mut self, messages: Vec<ChatMessage>) {
        self.messages = messages;
    }

    pub(crate) fn sequence(&self) -> &Sequence {
        &self.sequence
    }

    pub(crate) fn sequence_mut(&mut self) -> &mut Sequence {
        &mut self.sequence
    }

    /// Tokens in the KV cache.
    pub fn n_cached(&self) -> usize {
        self.sequence.tokens().len()
    }

    /// The most tokens that the conversation can hold.
    pub fn context_length(&self) -> usize {
        self.sequence.context_length()
    }

    /// What ends an answer from another thread.
    pub fn cancel_token(&self) -> CancelToken {
        self.sequence.cancel_token().clone()
    }

    /// Says `text` and returns the answer as it comes.
    ///
    /// # Errors
    /// [`Error::Template`](crate::Error::Template) and [`Error::ContextFull`](crate::Error::ContextFull) leave the conversation as it was.
    pub fn say(&mut self, text: &str) -> Result<Reply<'_>> {
        self.messages.push(ChatMessage::user(text));
        let prompt = match self.prompt() {
            Ok(prompt) => prompt,
            Err(error) => {
                self.messages.pop();
                return Err(error);
            }
        };
        let generation = self.model.generate(&mut self.sequence, &prompt, self.options.clone());
        let generation = generation.and_then(|generation| match self.drafter.as_deref_mut() {
            Some(drafter) => generation.with_drafter(drafter),
            None => Ok(generation),
        });
        match generation {
            Ok(generation) => {
                Ok(Reply { generation, messages: &mut self.messages, n_prompt: prompt.len(), text: String::new(), reason: None })
            }
            Err(error) => {
                self.messages.pop();
                Err(error)
            }
        }
    }

    fn prompt(&self) -> Result<Vec<TokenId>> {
        let prompt = self.model.chat_prompt(&self.messages)?;
        if prompt.len() >= self.sequence.context_length() {
            return Err(tandem_core::Error::ContextFull { held: 0, asked: prompt.len(), max: self.sequence.context_length() });
        }
        Ok(prompt)
    }
}

impl Reply<'_> {
    /// Where the time went so far.
    pub fn timings(&self) -> Timings {
        self.generation.timings()
    }

    /// Tokens of the whole conversation up to the answer.
    pub fn n_prompt(&self) -> usize {
        self.n_prompt
    }

    /// Tokens of the answer so far.
    pub fn tokens(&self) -> &[TokenId] {
        self.generation.tokens()
    }

    /// Why it ended, once it has.
    pub fn reason(&self) -> Option<FinishReason> {
        self.reason
    }
}

impl Iterator for Reply<'_> {
    type Item = Result<Event>;

    fn next(&mut self) -> Option<Self::Item> {
        let event = self.generation.next()?;
        match &event {
            Ok(Event::Token { text, .. }) => self.text += text,
            Ok(Event::Finished { text, reason }) => {
                self.text += text;
                self.reason = Some(*reason);
            }
            _ => {}
        }
        Some(event)
    }
}

impl Drop for Reply<'_> {
    fn drop(&mut self) {
        if self.text.is_empty() {
            // Nothing was answered: the question is taken back, so that the next one is not the second in a row.
            self.messages.pop();
        } else {
            self.messages.push(ChatMessage::assistant(std::mem::take(&mut self.text)));
        }
    }
}
