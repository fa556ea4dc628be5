//! `tojson` as transformers defines it: Python's `json.dumps` without HTML escapes.

use std::fmt::Write as _;

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Value};

/// The longest text that is written.
const MAX_BYTES: usize = 8 << 20;

/// The longest indentation, and separator.
const MAX_BETWEEN: usize = 64;

/// The deepest value that is written; JSON that was read is at most 128 deep.
const MAX_DEPTH: usize = 200;

/// `tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`. `marker` is written as it is.
pub(super) fn tojson(
    value: &Value,
    ensure_ascii: Option<bool>,
    indent: Option<Value>,
    options: &Kwargs,
    marker: char,
) -> Result<String, Error> {
    let indent = match indent {
        Some(indent) => Some(indent),
        None => options.get::<Option<Value>>("indent")?,
    };
    let indent = match indent {
        None => None,
        Some(value) if value.is_none() => None,
        Some(value) => Some(match value.as_str() {
            Some(indent) => indent.to_owned(),
            None => " ".repeat(i64::try_from(value)?.clamp(0, MAX_BETWEEN as i64) as usize),
        }),
    };
    let ensure_ascii = match ensure_ascii {
        Some(ensure_ascii) => ensure_ascii,
        None => options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
    };
    let separators = options.get::<Option<Vec<String>>>("separators")?;
    let (item, key) = match separators.as_deref() {
        None if indent.is_some() => (",".to_owned(), ": ".to_owned()),
        None => (", ".to_owned(), ": ".to_owned()),
        Some([item, key]) => (item.clone(), key.clone()),
        Some(_) => return Err(invalid("`separators` is not a pair")),
    };
    if [&item, &key].into_iter().chain(&indent).any(|between| between.len() > MAX_BETWEEN) {
        return Err(invalid("the indentation or a separator is too long"));
    }
    let sort_keys = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    options.assert_all_used()?;
    let mut writer = Writer { text: String::new(), depth: 0, ensure_ascii, indent, item, key, sort_keys, marker };
    writer.value(value)?;
    Ok(writer.text)
}

struct Writer {
    text: String,
    depth: usize,
    ensure_ascii: bool,
    indent: Option<String>,
    item: String,
    key: String,
    sort_keys: bool,
    marker: char,
}

impl Writer {
    fn value(&mut self, value: &Value) -> Result<(), Error> {
        if self.text.len() > MAX_BYTES || self.depth > MAX_DEPTH {
            return Err(invalid("the value is too large for JSON"));
        }
        match value.kind() {
            ValueKind::None | ValueKind::Bool | ValueKind::Number => self.text.push_str(&scalar(value)?),
            ValueKind::String => self.string(value.as_str().unwrap_or_default())?,
            ValueKind::Seq | ValueKind::Iterable => self.list(value)?,
            ValueKind::Map => self.map(value)?,
            kind => return Err(invalid(format!("a value of type {kind} is not JSON serializable"))),
        }
        Ok(())
    }

    fn list(&mut self, value: &Value) -> Result<(), Error> {
        self.text.push('[');
        self.depth += 1;
        let mut empty = true;
        for item in value.try_iter()? {
            self.separate(empty);
            empty = false;
            self.value(&item)?;
        }
        self.close(empty, ']');
        Ok(())
    }

    fn map(&mut self, value: &Value) -> Result<(), Error> {
        let mut keys: Vec<Value> = value.try_iter()?.collect();
        if self.sort_keys {
            keys.sort();
        }
        self.text.push('{');
        self.depth += 1;
        let mut empty = true;
        for key in keys {
            self.separate(empty);
            empty = false;
            match key.as_str() {
                Some(key) => self.string(key)?,
                None => self.string(&scalar(&key)?)?,
            }
            self.text.push_str(&self.key);
            self.value(&value.get_item(&key)?)?;
        }
        self.close(empty, '}');
        Ok(())
    }

    fn separate(&mut self, first: bool) {
        if !first {
            self.text.push_str(&self.item);
        }
        self.new_line();
    }

    fn close(&mut self, empty: bool, bracket: char) {
        self.depth -= 1;
        if !empty {
            self.new_line();
        }
        self.text.push(bracket);
    }

    fn new_line(&mut self) {
        if let Some(indent) = &self.indent {
            self.text.push('\n');
            for _ in 0..self.depth {
                self.text.push_str(indent);
            }
        }
    }

    fn string(&mut self, value: &str) -> Result<(), Error> {
        self.text.push('"');
        for c in value.chars() {
            // An escape is up to twelve times as long as its character.
            if self.text.len() > MAX_BYTES {
                return Err(invalid("the value is too large for JSON"));
            }
            match c {
                '"' => self.text.push_str("\\\""),
                '\\' => self.text.push_str("\\\\"),
                '\n' => self.text.push_str("\\n"),
                '\r' => self.text.push_str("\\r"),
                '\t' => self.text.push_str("\\t"),
                '\u{8}' => self.text.push_str("\\b"),
                '\u{c}' => self.text.push_str("\\f"),
                c if c < ' ' || (self.ensure_ascii && c >= '\u{7f}' && c != self.marker) => self.escape(c),
                c => self.text.push(c),
            }
        }
        self.text.push('"');
        Ok(())
    }

    fn escape(&mut self, c: char) {
        // Python leaves U+007F as it is.
        if c == '\u{7f}' {
            self.text.push(c);
            return;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            // Writing to a string does not fail.
            let _ = write!(self.text, "\\u{unit:04x}");
        }
    }
}

/// None, a truth value or a number, as a value or as a key.
fn scalar(value: &Value) -> Result<String, Error> {
    match value.kind() {
        ValueKind::None => Ok("null".into()),
        ValueKind::Bool => Ok(if value.is_true() { "true" } else { "false" }.into()),
        ValueKind::Number if value.is_integer() => Ok(value.to_string()),
        ValueKind::Number => Ok(float(f64::try_from(value.clone())?)),
        kind => Err(invalid(format!("keys must be str, int, float, bool or None, not {kind}"))),
    }
}

/// Python's `float.__repr__`, and its names of what JSON does not have.
fn float(value: f64) -> String {
    if value.is_nan() {
        return "NaN".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity" } else { "-Infinity" }.into();
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        return format!("{value:?}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

fn invalid(problem: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, problem)
}
