//! The engine of templates, set up as transformers sets up Jinja2: an immutable sandbox with `trim_blocks` and `lstrip_blocks`,
//! loop controls, `raise_exception`, `strftime_now`, `tojson` and the `generation` tag.
//!
//! Source: `_compile_jinja_template` in
//! <https://github.com/huggingface/transformers/blob/main/src/transformers/utils/chat_template_utils.py>.

use std::error::Error as StdError;
use std::fmt;
use std::io;

use jiff::Zoned;
use jiff::tz::TimeZone;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Kwargs;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, Value};

use super::{json, python, syntax};

/// The most instructions of one rendering. A conversation of 1000 messages takes the largest published templates some 300 000;
/// a loop without end is over within a tenth of a second.
pub(super) const FUEL: u64 = 1_000_000;

/// The most bytes of a prompt: some two million tokens.
pub(super) const MAX_OUTPUT_BYTES: usize = 8 << 20;

/// Depth of macros, loops and blocks, in the engine's own measure (a macro call is 4). It keeps the machine stack small.
const RECURSION_LIMIT: usize = 400;

/// Compiles `source` under `name`.
pub(super) fn compile(name: &'static str, source: &str) -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).keep_trailing_newline(false).build()?);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_unknown_method_callback(python::method);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(RECURSION_LIMIT);
    // An error must not hold values: they may be too deep to be freed on the caller's stack.
    environment.set_debug(false);
    environment.remove_global("debug");
    // It takes time in the square of the depth of its value.
    environment.remove_filter("pprint");
    environment.add_function("raise_exception", raise_exception);
    environment.add_filter("wordcount", |text: &str| text.split(|c: char| !is_word(c)).filter(|word| !word.is_empty()).count());
    environment.add_template_owned(name, syntax::translated(source))?;
    Ok(environment)
}

/// `environment` with what differs from one rendering to the next.
pub(super) fn with_render_functions(environment: &Environment<'static>, now: Option<i64>, marker: char) -> Environment<'static> {
    let mut environment = environment.clone();
    environment.add_function("strftime_now", move |format: String| strftime_now(&format, now));
    environment.add_filter("tojson", move |value: &Value, ensure_ascii: Option<bool>, indent: Option<Value>, options: Kwargs| {
        json::tojson(value, ensure_ascii, indent, &options, marker)
    });
    environment
}

/// What the template gave to `raise_exception`, when that is why it failed.
pub(super) fn raised(error: &Error) -> Option<&str> {
    let mut source: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = source {
        if let Some(Raised(message)) = error.downcast_ref() {
            return Some(message);
        }
        source = error.source();
    }
    None
}

/// Text up to [`MAX_OUTPUT_BYTES`].
#[derive(Default)]
pub(super) struct CappedOutput {
    bytes: Vec<u8>,
}

impl CappedOutput {
    pub(super) fn into_text(self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

impl io::Write for CappedOutput {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + part.len() > MAX_OUTPUT_BYTES {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(part);
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Python's `\w`.
fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

#[derive(Debug)]
struct Raised(String);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for Raised {}

fn raise_exception(message: &Value) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, "the template raised an exception").with_source(Raised(message.to_string())))
}

fn strftime_now(format: &str, now: Option<i64>) -> Result<String, Error> {
    let failed = |e: jiff::Error| Error::new(ErrorKind::InvalidOperation, "cannot show the date").with_source(e);
    let now = match now {
        Some(seconds) => jiff::Timestamp::from_second(seconds).map_err(failed)?.to_zoned(TimeZone::UTC),
        None => Zoned::now(),
    };
    jiff::fmt::strtime::format(format, &now).map_err(failed)
}
