//! Where entries come from: a line editor on a terminal, or lines of standard input.

use std::fs::DirBuilder;
use std::io::{self, BufRead, IsTerminal};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use anyhow::{Context, Result};
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{Config, Editor};

use crate::failure::Usage;
use crate::output::{Output, PROMPT};
use crate::prompt;

/// What stands before and after a message of several lines.
const FENCE: &str = "\"\"\"";

/// The most entries that the history keeps.
const MAX_HISTORY: usize = 1000;

/// The source of entries.
pub(super) enum Input<'o> {
    Terminal(Box<Terminal<'o>>),
    Lines { offset: usize },
}

pub(super) struct Terminal<'o> {
    editor: Editor<(), FileHistory>,
    history: Option<PathBuf>,
    output: &'o Output,
}

/// One line.
enum Line {
    Text(String),
    /// Ctrl-C at the prompt.
    Interrupted,
    End,
}

impl<'o> Input<'o> {
    pub(super) fn open(output: &'o Output, with_history: bool) -> Result<Self> {
        if !io::stdin().is_terminal() || !output.stdout_is_terminal() {
            return Ok(Self::Lines { offset: 0 });
        }
        let config = Config::builder().max_history_size(MAX_HISTORY)?.auto_add_history(false).build();
        let mut editor = Editor::with_config(config).context("the terminal cannot be set up")?;
        // Without a helper the prompt has no colour.
        editor.set_helper(Some(()));
        let history = with_history.then(|| history_file(output)).flatten();
        if let Some(file) = &history {
            // The first time there is none.
            let _ = editor.load_history(file);
        }
        Ok(Self::Terminal(Box::new(Terminal { editor, history, output })))
    }

    pub(super) fn is_terminal(&self) -> bool {
        matches!(self, Self::Terminal(_))
    }

    /// The next entry, of one line or several; `None` at the end.
    ///
    /// # Errors
    /// For input that cannot be read, is not valid UTF-8, or ends within a message of several lines.
    pub(super) fn next_entry(&mut self) -> Result<Option<String>> {
        let mut was_interrupted = false;
        loop {
            match self.entry()? {
                Line::Text(text) => {
                    if let Self::Terminal(terminal) = self {
                        terminal.remember(&text);
                    }
                    return Ok(Some(text));
                }
                Line::End => return Ok(None),
                Line::Interrupted if was_interrupted => return Ok(None),
                Line::Interrupted => {
                    was_interrupted = true;
                    if let Self::Terminal(terminal) = self {
                        terminal.output.note("Ctrl-C again or Ctrl-D leaves");
                    }
                }
            }
        }
    }

    fn entry(&mut self) -> Result<Line> {
        let mut text = match self.line(true)? {
            Line::Text(text) => text,
            other => return Ok(other),
        };
        if text.trim() == FENCE {
            return self.block();
        }
        while let Some(start) = text.strip_suffix('\\') {
            let start = start.to_owned();
            match self.line(false)? {
                Line::Text(next) => text = format!("{start}\n{next}"),
                Line::Interrupted => return Ok(Line::Interrupted),
                Line::End => return Ok(Line::Text(start)),
            }
        }
        Ok(Line::Text(text))
    }

    /// The lines up to the one that ends them.
    fn block(&mut self) -> Result<Line> {
        let mut lines = Vec::new();
        loop {
            match self.line(false)? {
                Line::Text(line) if line.trim() == FENCE => return Ok(Line::Text(lines.join("\n"))),
                Line::Text(line) => lines.push(line),
                Line::Interrupted => return Ok(Line::Interrupted),
                Line::End => {
                    let hint = format!("end the message with a line of `{FENCE}`");
                    return Err(Usage::new(format!("the input ends within a message that began with `{FENCE}`"), hint).into());
                }
            }
        }
    }

    /// One line without its end.
    fn line(&mut self, is_first: bool) -> Result<Line> {
        match self {
            Self::Terminal(terminal) => terminal.line(if is_first { "> " } else { "… " }),
            Self::Lines { offset } => {
                let mut bytes = Vec::new();
                let n = io::stdin().lock().read_until(b'\n', &mut bytes).context("standard input cannot be read")?;
                let start = *offset;
                *offset += n;
                if n == 0 {
                    return Ok(Line::End);
                }
                let text = prompt::text(bytes, start)?;
                let text = text.strip_suffix('\n').unwrap_or(&text);
                Ok(Line::Text(text.strip_suffix('\r').unwrap_or(text).to_owned()))
            }
        }
    }
}

impl Terminal<'_> {
    fn line(&mut self, prompt: &str) -> Result<Line> {
        let styled = if self.output.stdout_has_colour() { format!("{PROMPT}{prompt}{PROMPT:#}") } else { prompt.to_owned() };
        match self.editor.readline(&(prompt, styled.as_str())) {
            Ok(text) => Ok(Line::Text(text)),
            Err(ReadlineError::Interrupted) => Ok(Line::Interrupted),
            Err(ReadlineError::Eof) => Ok(Line::End),
            Err(error) => Err(error).context("the terminal cannot be read"),
        }
    }

    /// A history that cannot be written does not end the chat.
    fn remember(&mut self, text: &str) {
        if text.trim().is_empty() || !self.editor.add_history_entry(text).unwrap_or(false) {
            return;
        }
        if let Some(file) = &self.history
            && let Err(error) = self.editor.append_history(file)
        {
            self.output.detail(&format!("the history `{}` cannot be written: {error}", file.display()));
            self.history = None;
        }
    }
}

/// The history's file, in a directory that is there and only the user's.
fn history_file(output: &Output) -> Option<PathBuf> {
    let dir = tandem::paths::state_dir()?;
    match DirBuilder::new().recursive(true).mode(0o700).create(&dir) {
        Ok(()) => Some(dir.join("chat_history")),
        Err(error) => {
            output.detail(&format!("no history is kept: `{}` cannot be made: {error}", dir.display()));
            None
        }
    }
}
