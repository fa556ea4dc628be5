//! `tandem chat`: a conversation at the terminal, or one message a line from standard input.

mod adapters;
mod answer;
mod command;
mod input;
mod options;
mod saved;

use std::process::ExitCode;

use anyhow::{Context, Result};
use tandem::{Chat, ChatMessage, TextModel};

use self::adapters::Adapters;
use self::answer::Turn;
use self::command::{Entry, HELP};
use self::input::Input;
use crate::args::{ChatArgs, GenerationOptions};
use crate::config::Config;
use crate::engine::{load, session_options};
use crate::failure::{FAILED, StdoutClosed, Usage};
use crate::interrupt::Interrupts;
use crate::output::Output;

/// Tokens that any conversation comes to.
const LEAST_TALK: usize = 512;

pub(crate) fn chat(args: ChatArgs, output: &Output) -> Result<ExitCode> {
    if output.is_json() {
        return Err(Usage::new("`chat` has no `--json`", "`tandem run --json` answers one prompt as a JSON document").into());
    }
    if args.generation.raw == Some(true) {
        return Err(Usage::new("`chat` has no `--raw`", "`tandem run --raw` continues a text as it is").into());
    }
    let config = Config::load()?;
    let generation = args.generation.or(config.generation);
    let engine = args.kv.within(args.engine).or(config.engine);
    generation.validate()?;
    let loaded = load(&args.model.reference, &config.catalog, &engine, LEAST_TALK, output)?;
    let model = &loaded.model;
    if model.template().is_none() {
        // It says so, and what to do.
        model.chat_prompt(&[])?;
    }
    let session = session_options(&engine);
    let interrupts = Interrupts::install(session.cancel.clone()).context("Ctrl-C cannot be listened to")?;
    let mut input = Input::open(output, !args.no_history)?;
    let mut talk = Talk {
        chat: Chat::with_session(model, &session)?,
        adapters: Adapters::new(&loaded, &engine)?,
        model,
        generation: GenerationOptions { system: None, ..generation.clone() },
        interrupts,
        is_terminal: input.is_terminal(),
        last: None,
        output,
    };
    talk.chat.drafter = args.speculation.drafter(model, (&config.catalog, &engine), &session, LEAST_TALK, output)?;
    talk.set_system(generation.system.as_deref());
    talk.generation.remark_on(&talk.generation.resolve(model)?, output);
    if let Some(file) = &args.load {
        talk.load(file)?;
    }
    if talk.is_terminal {
        let info = model.info();
        let context = talk.chat.context_length();
        output.note(&format!(
            "{} · {} {} {} · {context} tokens of context · `/help` says what can be done",
            info.name, info.backend, info.device, info.dtype
        ));
    }
    talk.run(&mut input)
}

/// A conversation and what it needs.
struct Talk<'t> {
    model: &'t TextModel,
    chat: Chat,
    adapters: Adapters<'t>,
    generation: GenerationOptions,
    interrupts: Interrupts,
    is_terminal: bool,
    last: Option<Turn>,
    output: &'t Output,
}

impl Talk<'_> {
    /// Goes on until the input ends. An error concerns one entry; where nobody watches, it counts in the exit code.
    fn run(&mut self, input: &mut Input<'_>) -> Result<ExitCode> {
        let mut has_failed = false;
        while let Some(text) = input.next_entry()? {
            match self.take(&text) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) if error.is::<StdoutClosed>() => return Err(error),
                Err(error) => {
                    self.output.error(&error);
                    has_failed = true;
                }
            }
        }
        Ok(if has_failed && !self.is_terminal { ExitCode::from(FAILED) } else { ExitCode::SUCCESS })
    }

    /// Does what `text` says; false when it is to quit.
    fn take(&mut self, text: &str) -> Result<bool> {
        match Entry::parse(text)? {
            Entry::Nothing => {}
            Entry::Message(message) => self.say(&message)?,
            Entry::Help => self.output.line(HELP.trim_end())?,
            Entry::Clear => {
                let system = self.system().map(ToOwned::to_owned);
                self.chat.set_messages(Vec::new());
                self.set_system(system.as_deref());
                self.last = None;
                self.output.note("the conversation begins anew");
            }
            Entry::ListAdapters => self.list_adapters()?,
            Entry::Adapter { name } => self.use_adapter(name)?,
            Entry::Save { file, replace } => self.save(&file, replace)?,
            Entry::Load { file } => self.load(&file)?,
            Entry::Set { name, value } => self.set(name, value)?,
            Entry::ListOptions => self.list_options()?,
            Entry::System { text: Some(text) } => self.set_system((text != "off").then_some(text)),
            Entry::System { text: None } => {
                let system = self.system().unwrap_or("there is no system message").to_owned();
                self.output.line(&self.output.for_stdout(&system))?;
            }
            Entry::Stats => self.stats()?,
            Entry::Quit => return Ok(false),
        }
        Ok(true)
    }

    fn system(&self) -> Option<&str> {
        self.chat.messages().first().filter(|first| first.role == "system").map(|first| first.content.as_str())
    }

    /// Puts `text`, or nothing, in the place of what the model is told before the conversation.
    fn set_system(&mut self, text: Option<&str>) {
        let rest = self.chat.messages().iter().skip(usize::from(self.system().is_some())).cloned();
        let messages = text.map(ChatMessage::system).into_iter().chain(rest).collect();
        self.chat.set_messages(messages);
    }
}
