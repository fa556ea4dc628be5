//! The only place that writes: results to standard output, all else to standard error.
//!
//! What a model or a file says never reaches a terminal as it is: control characters are shown, not obeyed.

mod columns;
mod printable;
mod progress;

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};
use anyhow::{Context, Result};
use serde::Serialize;

pub(crate) use self::columns::{WIDTH, wrap, wrap_all};
use self::printable::{escape_json, printable};
pub(crate) use self::progress::Progress;
use crate::args::OutputArgs;
use crate::failure::{Failure, StdoutClosed};

pub(crate) const BOLD: Style = Style::new().bold();
pub(crate) const DIM: Style = Style::new().dimmed();
pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
pub(crate) const BAD: Style = AnsiColor::Red.on_default();
pub(crate) const PROMPT: Style = AnsiColor::Cyan.on_default().bold();
const ERROR: Style = AnsiColor::Red.on_default().bold();
const HINT: Style = AnsiColor::Cyan.on_default();

/// Where results and remarks go, and how they look there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    args: OutputArgs,
    stdout_is_terminal: bool,
    stderr_is_terminal: bool,
    stdout_has_colour: bool,
    stderr_has_colour: bool,
}

impl Output {
    pub(crate) fn new(args: OutputArgs) -> Self {
        Self {
            args,
            stdout_is_terminal: io::stdout().is_terminal(),
            stderr_is_terminal: io::stderr().is_terminal(),
            stdout_has_colour: AutoStream::choice(&io::stdout()) != ColorChoice::Never,
            stderr_has_colour: AutoStream::choice(&io::stderr()) != ColorChoice::Never,
        }
    }

    /// Whether results are one JSON document.
    pub(crate) fn is_json(&self) -> bool {
        self.args.json
    }

    pub(crate) fn stdout_is_terminal(&self) -> bool {
        self.stdout_is_terminal
    }

    pub(crate) fn stderr_is_terminal(&self) -> bool {
        self.stderr_is_terminal
    }

    pub(crate) fn stdout_has_colour(&self) -> bool {
        self.stdout_has_colour
    }

    /// A piece of a model's text, at once. On a terminal its control characters are shown; elsewhere it is written as it is.
    pub(crate) fn model_text(&self, piece: &str) -> Result<()> {
        self.write(&self.for_stdout(piece))
    }

    /// A line of results.
    pub(crate) fn line(&self, text: &str) -> Result<()> {
        self.write(&format!("{text}\n"))
    }

    /// The one document of `--json`.
    pub(crate) fn document(&self, document: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string(document).context("the result cannot be written as JSON")?;
        self.line(&escape_json(&text))
    }

    /// `text` in `style`, when standard output takes colours. Its control characters are shown on a terminal.
    pub(crate) fn paint(&self, style: Style, text: &str) -> String {
        paint(self.stdout_has_colour, style, &self.for_stdout(text))
    }

    /// `text` with its control characters shown when standard output is a terminal.
    pub(crate) fn for_stdout<'t>(&self, text: &'t str) -> Cow<'t, str> {
        if self.stdout_is_terminal { printable(text) } else { Cow::Borrowed(text) }
    }

    /// A remark, unless `--quiet`.
    pub(crate) fn note(&self, text: &str) {
        if !self.args.quiet {
            self.remark(&paint(self.stderr_has_colour, DIM, &self.for_stderr(text)));
        }
    }

    /// A remark for those who asked for `--verbose`.
    pub(crate) fn detail(&self, text: &str) {
        if self.args.verbose {
            self.remark(&paint(self.stderr_has_colour, DIM, &self.for_stderr(text)));
        }
    }

    /// An error on standard error; what is to be done about it comes last.
    pub(crate) fn error(&self, error: &anyhow::Error) {
        let Failure { message, causes, hint } = Failure::new(error);
        let colour = self.stderr_has_colour;
        self.remark(&format!("{} {}", paint(colour, ERROR, "error:"), self.for_stderr(&message)));
        for cause in causes {
            self.remark(&format!("  {} {}", paint(colour, DIM, "caused by:"), self.for_stderr(&cause)));
        }
        if let Some(hint) = hint {
            self.remark(&format!("{} {}", paint(colour, HINT, "hint:"), self.for_stderr(&hint)));
        }
    }

    /// The document that stands for a failure under `--json`.
    pub(crate) fn failure(&self, failure: &Failure) -> Result<()> {
        self.document(&serde_json::json!({ "error": failure }))
    }

    /// Shows that something goes on, when it takes long enough and someone looks.
    pub(crate) fn progress(&self, message: impl Into<String>) -> Progress {
        Progress::start(message.into(), self.stderr_is_terminal && !self.args.quiet)
    }

    fn for_stderr<'t>(&self, text: &'t str) -> Cow<'t, str> {
        if self.stderr_is_terminal { printable(text) } else { Cow::Borrowed(text) }
    }

    fn write(&self, text: &str) -> Result<()> {
        let mut stdout = io::stdout().lock();
        match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(StdoutClosed.into()),
            other => other.context("standard output cannot be written"),
        }
    }

    /// Nothing can be done when standard error cannot be written.
    fn remark(&self, text: &str) {
        let _ = writeln!(io::stderr(), "{text}");
    }
}

fn paint(colour: bool, style: Style, text: &str) -> String {
    if colour { format!("{style}{text}{style:#}") } else { text.to_owned() }
}
