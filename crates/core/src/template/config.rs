//! What `tokenizer_config.json` says of chat: the template and the names of special tokens.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// The largest published files have some 2 MiB (thousands of reserved tokens).
const MAX_BYTES: usize = 32 << 20;

/// The fields that transformers passes to a template, `special_tokens_map`.
const TOKEN_FIELDS: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// A `tokenizer_config.json`, as far as it is used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenizerConfig {
    /// The name of the file, for messages.
    pub file: String,
    /// The templates by name; one without a name is called `default`.
    pub chat_templates: Vec<(String, String)>,
    /// The tokens that the file names, by field: `bos_token`, `eos_token`, …
    pub tokens: BTreeMap<String, String>,
    /// Whether raw text starts with `bos_token`, where the file says so.
    pub add_bos_token: Option<bool>,
}

impl TokenizerConfig {
    /// Reads the content of the file; fields that are missing or null become `None`.
    ///
    /// # Errors
    /// [`Error::BadFile`] when it is not a JSON object, [`Error::BadField`] for a field of another type than transformers writes.
    pub fn parse(bytes: &[u8], file: &str) -> Result<Self> {
        if bytes.len() > MAX_BYTES {
            let problem = format!("{} bytes are more than the {MAX_BYTES} that it may have", bytes.len());
            return Err(Error::BadFile { file: file.into(), problem, hint: None, source: None });
        }
        let fields: Map<String, Value> =
            serde_json::from_slice(bytes).map_err(|e| Error::bad_file(file, "the file is not a JSON object", e))?;
        let mut tokens = BTreeMap::new();
        for field in TOKEN_FIELDS {
            if let Some(token) = token(fields.get(field), field, file)? {
                tokens.insert(field.to_owned(), token);
            }
        }
        let add_bos_token = match fields.get("add_bos_token") {
            None | Some(Value::Null) => None,
            Some(Value::Bool(add)) => Some(*add),
            Some(other) => return Err(Error::bad_field(file, "add_bos_token", format!("`{other}` is not true or false"))),
        };
        let chat_templates = chat_templates(fields.get("chat_template"), file)?;
        Ok(Self { file: file.to_owned(), chat_templates, tokens, add_bos_token })
    }

    /// The template for chat: the one called `default`, or the only one.
    pub fn chat_template(&self) -> Option<&str> {
        let default = self.chat_templates.iter().find(|(name, _)| name == "default");
        let only = if self.chat_templates.len() == 1 { self.chat_templates.first() } else { None };
        default.or(only).map(|(_, source)| source.as_str())
    }

    /// The token that ends a sequence.
    pub fn eos_token(&self) -> Option<&str> {
        self.tokens.get("eos_token").map(String::as_str)
    }
}

/// A token is a string, or an object with a string `content`.
fn token(value: Option<&Value>, field: &str, file: &str) -> Result<Option<String>> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(token)) => Ok(Some(token.clone())),
        Some(Value::Object(added)) => match added.get("content") {
            Some(Value::String(token)) => Ok(Some(token.clone())),
            _ => Err(Error::bad_field(file, format!("{field}.content"), "is not a string")),
        },
        Some(_) => Err(Error::bad_field(file, field, "is neither a string nor an added token")),
    }
}

/// A template is a string, or a list of `{"name": …, "template": …}`.
fn chat_templates(value: Option<&Value>, file: &str) -> Result<Vec<(String, String)>> {
    match value {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::String(source)) => Ok(vec![("default".into(), source.clone())]),
        Some(Value::Array(list)) => list
            .iter()
            .enumerate()
            .map(|(i, entry)| match (entry.get("name"), entry.get("template")) {
                (Some(Value::String(name)), Some(Value::String(source))) => Ok((name.clone(), source.clone())),
                _ => Err(Error::bad_field(file, format!("chat_template[{i}]"), "has no string `name` and string `template`")),
            })
            .collect(),
        Some(_) => Err(Error::bad_field(file, "chat_template", "is neither a string nor a list")),
    }
}
