//! `generation_config.json`: how the publisher would have the model sampled, and which tokens end a text.

use super::{Fields, genai, parse_object};
use crate::error::Result;
use crate::primitives::TokenId;

/// The fields of `generation_config.json` that matter here; `None` where the file says nothing, other fields are ignored.
///
/// Names and meaning are those of transformers' `GenerationConfig`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationConfig {
    /// The tokens that end a text.
    pub eos_token_ids: Vec<TokenId>,
    /// Whether to sample; greedy otherwise.
    pub do_sample: Option<bool>,
    /// Divides the logits; 0 is greedy.
    pub temperature: Option<f64>,
    /// Keep the most likely tokens, this many; 0 keeps all.
    pub top_k: Option<usize>,
    /// Keep the most likely tokens up to this share of probability.
    pub top_p: Option<f64>,
    /// Keep tokens at least this likely, relative to the most likely.
    pub min_p: Option<f64>,
    /// Keep locally typical tokens up to this share of probability.
    pub typical_p: Option<f64>,
    /// Makes tokens that have occurred less likely; 1 does nothing.
    pub repetition_penalty: Option<f64>,
    /// The most tokens to generate.
    pub max_new_tokens: Option<usize>,
}

impl GenerationConfig {
    /// Checks the content of a `generation_config.json`, or the `search` of a `genai_config.json`; `file` is its name in messages.
    ///
    /// # Errors
    /// [`Error::BadFile`](crate::Error::BadFile) when it is not a JSON object, [`Error::BadField`](crate::Error::BadField) for a value
    /// of the wrong type or out of range.
    pub fn from_json(file: &str, json: &[u8]) -> Result<Self> {
        let object = parse_object(file, json)?;
        match genai::generation_config(&object) {
            Some(fields) => Self::from_fields(&Fields::root(file, &fields)).map_err(genai::restore_field),
            None => Self::from_fields(&Fields::root(file, &object)),
        }
    }

    fn from_fields(fields: &Fields<'_>) -> Result<Self> {
        Ok(Self {
            eos_token_ids: fields.tokens("eos_token_id")?,
            do_sample: fields.boolean("do_sample")?,
            temperature: fields.number("temperature", 0.0..=1e6)?,
            top_k: fields.integer("top_k", 0..=TokenId::MAX as usize)?,
            top_p: fields.number("top_p", 0.0..=1.0)?,
            min_p: fields.number("min_p", 0.0..=1.0)?,
            typical_p: fields.number("typical_p", 0.0..=1.0)?,
            repetition_penalty: fields.number("repetition_penalty", 1e-6..=1e6)?,
            max_new_tokens: fields.integer("max_new_tokens", 0..=TokenId::MAX as usize)?,
        })
    }
}
