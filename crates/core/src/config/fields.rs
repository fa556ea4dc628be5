//! Typed access to the fields of an untrusted JSON object; every error names the file, the field and its value.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::primitives::TokenId;

/// The longest value that a message shows, in characters.
const MAX_SHOWN: usize = 60;

/// An object within a file.
pub(crate) struct Fields<'a> {
    file: &'a str,
    /// Where the object stands, dotted from the root and with a dot at its end; empty for the root.
    prefix: String,
    object: &'a Map<String, Value>,
}

/// Parses `json` as an object; `file` is its name in messages.
pub(crate) fn parse_object(file: &str, json: &[u8]) -> Result<Map<String, Value>> {
    match serde_json::from_slice(json) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(bad_json(file, "is not a JSON object", None)),
        Err(source) if source.is_eof() => Err(bad_json(file, "is truncated JSON", Some(source))),
        Err(source) => Err(bad_json(file, "is not valid JSON", Some(source))),
    }
}

impl<'a> Fields<'a> {
    /// The fields of the root object of `file`.
    pub(crate) fn root(file: &'a str, object: &'a Map<String, Value>) -> Self {
        Self { file, prefix: String::new(), object }
    }

    /// The file's name in messages.
    pub(crate) fn file(&self) -> &'a str {
        self.file
    }

    /// The field's value; `null` counts as absent.
    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    /// Whether the field stands there and says `null`.
    pub(crate) fn is_null(&self, key: &str) -> bool {
        self.object.get(key).is_some_and(Value::is_null)
    }

    /// An object inside this one.
    pub(crate) fn object(&self, key: &str) -> Result<Option<Fields<'a>>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let object = value.as_object().ok_or_else(|| self.wrong_type(key, "an object"))?;
        Ok(Some(Self { file: self.file, prefix: format!("{}{key}.", self.prefix), object }))
    }

    /// Names and values, in the order of the file.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&'a String, &'a Value)> + use<'a> {
        self.object.iter()
    }

    /// A text.
    pub(crate) fn string(&self, key: &str) -> Result<Option<&'a str>> {
        self.get(key).map(|value| value.as_str().ok_or_else(|| self.wrong_type(key, "a string"))).transpose()
    }

    /// `true` or `false`.
    pub(crate) fn boolean(&self, key: &str) -> Result<Option<bool>> {
        self.get(key).map(|value| value.as_bool().ok_or_else(|| self.wrong_type(key, "a boolean"))).transpose()
    }

    /// A whole number within `range`.
    pub(crate) fn integer(&self, key: &str, range: RangeInclusive<usize>) -> Result<Option<usize>> {
        self.get(key).map(|value| self.check_integer(key, value, range)).transpose()
    }

    /// A whole number within `range` that must be there.
    pub(crate) fn required(&self, key: &str, range: RangeInclusive<usize>) -> Result<usize> {
        self.integer(key, range)?.ok_or_else(|| self.missing(key))
    }

    /// A number within `range`.
    pub(crate) fn number(&self, key: &str, range: RangeInclusive<f64>) -> Result<Option<f64>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = value.as_f64().ok_or_else(|| self.wrong_type(key, "a number"))?;
        if range.contains(&number) {
            return Ok(Some(number));
        }
        Err(self.error(key, format!("is `{}`, outside {:?} to {:?}", shown(value), range.start(), range.end())))
    }

    /// One token id.
    pub(crate) fn token(&self, key: &str) -> Result<Option<TokenId>> {
        self.get(key).map(|value| self.check_token(key, value)).transpose()
    }

    /// A token id or a list of them; none when absent.
    pub(crate) fn tokens(&self, key: &str) -> Result<Vec<TokenId>> {
        match self.get(key) {
            None => Ok(Vec::new()),
            Some(Value::Array(list)) => list.iter().map(|value| self.check_token(key, value)).collect(),
            Some(value) => Ok(vec![self.check_token(key, value)?]),
        }
    }

    /// An error about the field.
    pub(crate) fn error(&self, key: &str, problem: impl Into<String>) -> Error {
        Error::bad_field(self.file, self.name(key), problem)
    }

    /// The error for a field that must be there.
    pub(crate) fn missing(&self, key: &str) -> Error {
        self.error(key, if self.is_null(key) { "is `null`, and must have a value" } else { "is missing" })
    }

    /// The error for a value of another type.
    pub(crate) fn wrong_type(&self, key: &str, wanted: &str) -> Error {
        let value = self.object.get(key).map_or_else(|| "absent".into(), shown);
        self.error(key, format!("is `{value}`, not {wanted}"))
    }

    /// The field's name, dotted from the root.
    pub(crate) fn name(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    fn check_integer(&self, key: &str, value: &Value, range: RangeInclusive<usize>) -> Result<usize> {
        if !value.is_u64() && !value.is_i64() {
            return Err(self.error(key, format!("is `{}`, not a whole number", shown(value))));
        }
        let number = value.as_u64().and_then(|number| usize::try_from(number).ok());
        number
            .filter(|number| range.contains(number))
            .ok_or_else(|| self.error(key, format!("is `{}`, outside {} to {}", shown(value), range.start(), range.end())))
    }

    fn check_token(&self, key: &str, value: &Value) -> Result<TokenId> {
        let id = value.as_u64().and_then(|id| TokenId::try_from(id).ok());
        id.ok_or_else(|| self.error(key, format!("has `{}`, which is not a token id", shown(value))))
    }
}

/// A value as a message shows it: shortened, on one line.
pub(crate) fn shown(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= MAX_SHOWN {
        return text;
    }
    text.chars().take(MAX_SHOWN).chain("...".chars()).collect()
}

fn bad_json(file: &str, problem: &str, source: Option<serde_json::Error>) -> Error {
    Error::BadFile {
        file: file.into(),
        problem: problem.into(),
        hint: Some("the file is damaged, or its download was cut short: obtain it again".into()),
        source: source.map(Into::into),
    }
}
