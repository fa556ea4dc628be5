//! Methods of Python's types that templates call, beyond those of `minijinja-contrib`.

use minijinja::value::{Tuple, from_args};
use minijinja::{Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat::unknown_method_callback;

/// The engine's callback for a method that a value does not have.
pub(super) fn method(state: &mut State<'_, '_>, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    match value.as_str() {
        Some(text) => match string_method(text, method, args)? {
            Some(result) => Ok(result),
            None => unknown_method_callback(state, value, method, args),
        },
        None => unknown_method_callback(state, value, method, args),
    }
}

fn string_method(text: &str, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    Ok(Some(match method {
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Value::from(text.strip_prefix(prefix).unwrap_or(text))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Value::from(text.strip_suffix(suffix).unwrap_or(text))
        }
        "partition" => {
            let (separator,): (&str,) = from_args(args)?;
            let (before, after) = text.split_once(not_empty(separator)?).unwrap_or((text, ""));
            three(before, if before.len() == text.len() { "" } else { separator }, after)
        }
        "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            match text.rsplit_once(not_empty(separator)?) {
                Some((before, after)) => three(before, separator, after),
                None => three("", "", text),
            }
        }
        "rsplit" => {
            let (separator, n): (Option<&str>, Option<i64>) = from_args(args)?;
            let n = n.and_then(|n| usize::try_from(n).ok());
            Value::from(rsplit(text, separator, n)?)
        }
        "index" | "rindex" => {
            let (what,): (&str,) = from_args(args)?;
            let at = if method == "index" { text.find(what) } else { text.rfind(what) };
            let at = at.ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "substring not found"))?;
            Value::from(text[..at].chars().count())
        }
        _ => return Ok(None),
    }))
}

/// Parts of `text`, split at most `n` times from its end.
fn rsplit(text: &str, separator: Option<&str>, n: Option<usize>) -> Result<Vec<Value>, Error> {
    let mut parts = Vec::new();
    let mut rest = text;
    if separator.is_none() {
        rest = rest.trim_end();
    }
    while n.is_none_or(|n| parts.len() < n) {
        let split = match separator {
            Some(separator) => rest.rsplit_once(not_empty(separator)?),
            None => rest.rsplit_once(char::is_whitespace),
        };
        let Some((before, part)) = split else { break };
        parts.push(Value::from(part));
        rest = if separator.is_none() { before.trim_end() } else { before };
    }
    if separator.is_some() || !rest.trim().is_empty() {
        parts.push(Value::from(rest));
    }
    parts.reverse();
    Ok(parts)
}

fn not_empty(separator: &str) -> Result<&str, Error> {
    if separator.is_empty() { Err(Error::new(ErrorKind::InvalidOperation, "empty separator")) } else { Ok(separator) }
}

fn three(before: &str, separator: &str, after: &str) -> Value {
    Value::from(Tuple::from([Value::from(before), Value::from(separator), Value::from(after)]))
}
