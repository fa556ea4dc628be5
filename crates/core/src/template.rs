//! Chat messages to a prompt, with the semantics of Hugging Face's `apply_chat_template`.
//!
//! A template is a program from an untrusted file: it reads no file, and its steps, its recursion, and what it makes and looks at are
//! bounded.
//! Special tokens that users, tools or documents write stay text, see [`Prompt`].

use std::collections::BTreeMap;
use std::sync::Arc;

use minijinja::ErrorKind;
use serde::{Deserialize, Serialize};
use serde_json::Map;

use crate::error::{Error, Result};
use crate::remedy::{Remedies, Remedy};
use crate::tokenizer::Tokenizer;

mod budget;
mod config;
mod cost;
mod environment;
mod json;
mod metered;
mod operation;
mod prompt;
mod python;
mod syntax;

pub use config::TokenizerConfig;
pub use prompt::{Prompt, PromptPiece};

/// The largest source of a template; the largest published ones have some 20 KiB.
const MAX_SOURCE_BYTES: usize = 128 << 10;

/// The stack of the thread that compiles and renders. A template can nest a list in a list once in some five steps, and a list is printed and
/// freed by recursion: the steps that a template has must not overflow it. Only what is used costs memory.
pub const STACK_BYTES: usize = 256 << 20;

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChatMessage {
    /// Who speaks: `system`, `user`, `assistant`, `tool`, or another that the template knows.
    pub role: String,
    /// What is said.
    #[serde(default)]
    pub content: String,
    /// Other fields that the template knows, such as `tool_calls` or `reasoning_content`.
    #[serde(flatten)]
    pub extra: Map<String, serde_json::Value>,
}

impl ChatMessage {
    /// A message of any role.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into(), extra: Map::new() }
    }

    /// Instructions for the conversation.
    pub fn system(content: impl Into<String>) -> Self {
        Self::new("system", content)
    }

    /// What a person says.
    pub fn user(content: impl Into<String>) -> Self {
        Self::new("user", content)
    }

    /// What the model said.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self::new("assistant", content)
    }
}

/// The tokens that a template and its prompt know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TemplateTokens {
    /// Variables of the template: `bos_token`, `eos_token`, …
    pub named: BTreeMap<String, String>,
    /// Every token that must stay text where messages spell it.
    pub special: Vec<String>,
}

impl TemplateTokens {
    /// The variables of `config`, and the special tokens of `tokenizer`.
    pub fn new(config: Option<&TokenizerConfig>, tokenizer: &Tokenizer) -> Self {
        Self {
            named: config.map(|config| config.tokens.clone()).unwrap_or_default(),
            special: tokenizer.special_tokens().iter().map(|(token, _)| token.clone()).collect(),
        }
    }
}

/// What a template is given beside the messages.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RenderOptions {
    /// End with the header of the assistant's answer.
    pub add_generation_prompt: bool,
    /// `enable_thinking`, for templates that know it; `None` leaves it undefined.
    pub enable_thinking: Option<bool>,
    /// Tools as JSON schemas; empty is Python's `None`.
    pub tools: Vec<serde_json::Value>,
    /// Documents to answer from; empty is Python's `None`.
    pub documents: Vec<serde_json::Value>,
    /// Further variables, in preference to those above.
    pub extra: Map<String, serde_json::Value>,
    /// What `strftime_now` shows: seconds since the Unix epoch, in UTC; `None` is the present, in local time.
    pub now: Option<i64>,
}

/// A chat template that was found valid. It is compiled for each rendering.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    source: Arc<str>,
    tokens: TemplateTokens,
    file: String,
}

impl ChatTemplate {
    /// Compiles `source`; `file` says in messages where it stands.
    ///
    /// # Errors
    /// [`Error::Template`] when it is too large or no template.
    pub fn new(source: &str, tokens: TemplateTokens, file: &str) -> Result<Self> {
        if source.len() > MAX_SOURCE_BYTES {
            let problem = format!("{} bytes are more than the {MAX_SOURCE_BYTES} that it may have", source.len());
            return Err(Error::Template { file: file.into(), problem, hint: None, source: None });
        }
        let template = Self { source: syntax::translated(source).into(), tokens, file: file.to_owned() };
        let compiled = template.on_large_stack(|| environment::compile(&template.source).map(drop))?;
        compiled.map_err(|e| failed(file, "is not a valid template", e)).map(|()| template)
    }

    /// The template of a model: `chat_template.jinja` (its content and its name) before that of `tokenizer_config.json`.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn choose(
        jinja: Option<(&[u8], &str)>,
        config: Option<&TokenizerConfig>,
        tokens: TemplateTokens,
    ) -> Result<Option<Self>> {
        if let Some((bytes, file)) = jinja {
            let source = std::str::from_utf8(bytes).map_err(|e| Error::bad_file(file, "the file is not UTF-8", e))?;
            return Self::new(source, tokens, file).map(Some);
        }
        let Some(config) = config else { return Ok(None) };
        config.chat_template().map(|source| Self::new(source, tokens, &config.file)).transpose()
    }

    /// Where it stands.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Its source, as it is compiled.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The error for chat with a model that has no template.
    pub fn missing(model: &str) -> Error {
        Error::Template {
            file: model.into(),
            problem: "the model has none".into(),
            hint: Some(Remedy::SkipTemplate.into()),
            source: None,
        }
    }

    /// The prompt for `messages`.
    ///
    /// # Errors
    /// [`Error::Template`]: the template refuses the messages (its own words are the problem), fails, does not end, or makes
    /// too much.
    pub fn render(&self, messages: &[ChatMessage], options: &RenderOptions) -> Result<Prompt> {
        let messages: Vec<serde_json::Value> = messages.iter().map(message_value).collect();
        self.render_values(&messages, options)
    }

    /// The same for messages of any form, such as content in parts.
    ///
    /// # Errors
    /// As [`render`](Self::render).
    pub fn render_values(&self, messages: &[serde_json::Value], options: &RenderOptions) -> Result<Prompt> {
        let mut variables = self.variables(messages, options);
        let guard = prompt::Guard::new(&self.tokens.special, &variables).ok_or_else(|| Error::Template {
            file: self.file.clone(),
            problem: "the messages hold every noncharacter from U+FDD0 to U+FDEF".into(),
            hint: None,
            source: None,
        })?;
        for (name, value) in &mut variables {
            if !name.ends_with("_token") {
                guard.mark(value);
            }
        }
        let text = self.run(&variables, options.now, guard.marker())?;
        Ok(guard.cut(&text))
    }

    fn variables(&self, messages: &[serde_json::Value], options: &RenderOptions) -> Map<String, serde_json::Value> {
        let mut variables = Map::new();
        for (name, token) in &self.tokens.named {
            variables.insert(name.clone(), token.as_str().into());
        }
        variables.insert("messages".into(), messages.into());
        for (name, list) in [("tools", &options.tools), ("documents", &options.documents)] {
            let list = if list.is_empty() { serde_json::Value::Null } else { list.as_slice().into() };
            variables.insert(name.into(), list);
        }
        variables.insert("add_generation_prompt".into(), options.add_generation_prompt.into());
        if let Some(enable_thinking) = options.enable_thinking {
            variables.insert("enable_thinking".into(), enable_thinking.into());
        }
        variables.extend(options.extra.clone());
        variables
    }

    fn run(&self, variables: &Map<String, serde_json::Value>, now: Option<i64>, marker: char) -> Result<String> {
        let render = || environment::run(&environment::compile(&self.source)?, variables, now, marker);
        self.on_large_stack(render)?.map_err(|e| self.render_error(e))
    }

    /// Works on a thread of its own, since a template can nest what is compiled and freed by recursion.
    fn on_large_stack<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let done = std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("chat template".into()).stack_size(STACK_BYTES);
            thread.spawn_scoped(scope, work).map(std::thread::ScopedJoinHandle::join)
        });
        match done {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(_)) => Err(self.plain_error("its engine gave up", None)),
            Err(e) => Err(Error::Template {
                file: self.file.clone(),
                problem: "no thread could be started to render it".into(),
                hint: None,
                source: Some(e.into()),
            }),
        }
    }

    fn render_error(&self, error: minijinja::Error) -> Error {
        if let Some(message) = environment::raised(&error) {
            return self.plain_error(
                message,
                Some(["change the messages, which the template refuses".into(), Remedy::SkipTemplate].into()),
            );
        }
        if let Some(exceeded) = environment::exceeded(&error) {
            return self.plain_error(&exceeded.to_string(), None);
        }
        match error.kind() {
            ErrorKind::OutOfFuel => self.plain_error(&format!("it did not end within {} steps", environment::FUEL), None),
            _ => failed(&self.file, "cannot be rendered", error),
        }
    }

    fn plain_error(&self, problem: &str, hint: Option<Remedies>) -> Error {
        Error::Template { file: self.file.clone(), problem: problem.into(), hint, source: None }
    }
}

fn message_value(message: &ChatMessage) -> serde_json::Value {
    let mut value = Map::new();
    value.insert("role".into(), message.role.as_str().into());
    value.insert("content".into(), message.content.as_str().into());
    value.extend(message.extra.clone());
    value.into()
}

fn failed(file: &str, problem: &str, error: minijinja::Error) -> Error {
    let problem = error.line().map_or_else(|| problem.to_owned(), |line| format!("{problem}: line {line}"));
    Error::Template { file: file.into(), problem, hint: Some(Remedy::SkipTemplate.into()), source: Some(error.into()) }
}
