//! The engine of templates, set up as transformers sets up Jinja2: an immutable sandbox with `trim_blocks` and `lstrip_blocks`,
//! loop controls, `raise_exception`, `strftime_now`, `tojson` and the `generation` tag.
//!
//! Source: `_compile_jinja_template` in
//! <https://github.com/huggingface/transformers/blob/main/src/transformers/utils/chat_template_utils.py>.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use jiff::Zoned;
use jiff::tz::TimeZone;
use minijinja::machinery::{CodeGenerator, Instructions, eval, make_string_output, parse};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, Value, escape_formatter};
use serde_json::Map;

use super::budget::{Budget, Exceeded};
use super::metered::metered;
use super::operation::{Metered, Operation};
use super::{cost, json, python};

/// The name of the one template.
const NAME: &str = "chat";

/// The most instructions of one rendering. A conversation of 1000 messages takes the largest published templates some 400 000;
/// a loop without end is over within a fraction of a second.
pub(super) const FUEL: u64 = 1_500_000;

/// Depth of macros, loops and blocks, in the engine's own measure (a macro call is 4). It keeps the machine stack small.
const RECURSION_LIMIT: usize = 400;

/// A template as the engine runs it: its instructions, and those of its blocks, of which there are none.
pub(super) type Compiled<'s> = (Instructions<'s>, BTreeMap<&'s str, Instructions<'s>>);

/// Compiles `source`, which [`syntax::translated`] made.
pub(super) fn compile(source: &str) -> Result<Compiled<'_>, Error> {
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).keep_trailing_newline(false).build()?;
    let tree = metered(&parse(source, NAME, syntax)?)?;
    let mut generator = CodeGenerator::new(NAME, source);
    generator.compile_stmt(&tree);
    Ok(generator.finish())
}

/// Runs `template` on `variables`.
pub(super) fn run(
    template: &Compiled<'_>,
    variables: &Map<String, serde_json::Value>,
    now: Option<i64>,
    marker: char,
) -> Result<String, Error> {
    let budget = Arc::new(Budget::new(variables.iter().map(|(name, value)| name.len() + size(value)).sum()));
    let environment = environment(&budget, now, marker);
    let mut text = String::new();
    let mut output = make_string_output(&mut text);
    let (instructions, blocks) = template;
    eval(&environment, instructions, Value::from(Serde(variables)), blocks, &mut output, AutoEscape::None).map(drop)?;
    drop(output);
    Ok(text)
}

fn environment(budget: &Arc<Budget>, now: Option<i64>, marker: char) -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_unknown_method_callback(python::method);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(RECURSION_LIMIT);
    // An error must not hold values: they may be too deep to be freed on the caller's stack.
    environment.set_debug(false);
    environment.remove_global("debug");
    // It takes time in the square of the depth of its value; the others are not Jinja2's, and what they give grows without being made.
    for filter in ["pprint", "chain", "zip"] {
        environment.remove_filter(filter);
    }
    for operation in Operation::ALL {
        environment.add_global(operation.name(), Value::from_object(Metered { operation, budget: Arc::clone(budget) }));
    }
    let printing = Arc::clone(budget);
    environment.set_formatter(move |out, state, value| {
        let n_bytes = printing.print(value)?;
        if !matches!(state.auto_escape(), AutoEscape::None) {
            printing.make(n_bytes.saturating_mul(cost::ESCAPED))?;
        }
        escape_formatter(out, state, value)
    });
    let raising = Arc::clone(budget);
    environment.add_function("raise_exception", move |message: &Value| raise_exception(&raising, message));
    environment.add_filter("wordcount", |text: &str| text.split(|c: char| !is_word(c)).filter(|word| !word.is_empty()).count());
    environment.add_function("strftime_now", move |format: String| strftime_now(&format, now));
    let writing = Arc::clone(budget);
    environment.add_filter("tojson", move |value: &Value, ensure_ascii: Option<bool>, indent: Option<Value>, options: Kwargs| {
        let text = json::tojson(value, ensure_ascii, indent, &options, marker)?;
        writing.make(text.len()).map(|()| text)
    });
    environment
}

/// How much a template is given with `value`, in bytes.
fn size(value: &serde_json::Value) -> usize {
    match value {
        serde_json::Value::String(text) => text.len(),
        serde_json::Value::Array(items) => items.iter().map(|item| 1 + size(item)).sum(),
        serde_json::Value::Object(fields) => fields.iter().map(|(name, field)| 1 + name.len() + size(field)).sum(),
        serde_json::Value::Null | serde_json::Value::Bool(_) | serde_json::Value::Number(_) => 1,
    }
}

/// What the template gave to `raise_exception`, when that is why it failed.
pub(super) fn raised(error: &Error) -> Option<&str> {
    cause(error).map(|Raised(message)| message.as_str())
}

/// What the template used up, when that is why it failed.
pub(super) fn exceeded(error: &Error) -> Option<Exceeded> {
    cause(error).copied()
}

fn cause<T: StdError + 'static>(error: &Error) -> Option<&T> {
    let mut source: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = source {
        if let Some(cause) = error.downcast_ref() {
            return Some(cause);
        }
        source = error.source();
    }
    None
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

fn raise_exception(budget: &Budget, message: &Value) -> Result<Value, Error> {
    budget.print(message)?;
    Err(Error::new(ErrorKind::InvalidOperation, "the template raised an exception").with_source(Raised(message.to_string())))
}

fn strftime_now(format: &str, now: Option<i64>) -> Result<String, Error> {
    cost::of_date(format)?;
    let failed = |e: jiff::Error| Error::new(ErrorKind::InvalidOperation, "cannot show the date").with_source(e);
    let now = match now {
        Some(seconds) => jiff::Timestamp::from_second(seconds).map_err(failed)?.to_zoned(TimeZone::UTC),
        None => Zoned::now(),
    };
    jiff::fmt::strtime::format(format, &now).map_err(failed)
}
