//! How text is generated. The same fields are the keys of a configuration file, and the names that `/set` takes in a chat.

use std::fmt;
use std::str::FromStr;

use clap::Args;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tandem::TokenId;

/// Every field is `None` or empty when it was not given: the model's own setting counts, from its `generation_config.json`.
#[derive(Args, Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
#[command(next_help_heading = "Generation (omitted options default to generation_config.json)")]
pub(crate) struct GenerationOptions {
    /// Maximum number of tokens to generate [default: 512]
    #[arg(long, value_name = "N")]
    pub(crate) max_tokens: Option<usize>,
    /// Sampling temperature; 0 always takes the most probable token, ties to the lowest id
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    pub(crate) temperature: Option<f32>,
    /// Sample from the K most probable tokens; 0 considers all
    #[arg(long, value_name = "K")]
    pub(crate) top_k: Option<usize>,
    /// Sample from the most probable tokens whose probabilities add up to P; 1 considers all
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub(crate) top_p: Option<f32>,
    /// Sample from tokens that are at least P times as probable as the most probable one; 0 considers all
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub(crate) min_p: Option<f32>,
    /// Sample from the locally typical tokens whose probabilities add up to P; 1 considers all
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub(crate) typical_p: Option<f32>,
    /// Penalty for tokens that have occurred; above 1 makes them less probable, 1 has no effect
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) repetition_penalty: Option<f32>,
    /// Subtract X from the logit of each token that has occurred; 0 has no effect
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) presence_penalty: Option<f32>,
    /// Subtract X from the logit of a token for each time it has occurred; 0 has no effect
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) frequency_penalty: Option<f32>,
    /// Add BIAS to the logit of token ID; `-inf` bans it (repeatable)
    #[arg(long, value_name = "ID=BIAS")]
    pub(crate) logit_bias: Vec<Bias>,
    /// Random seed; the same seed gives the same text [default: random, and reported]
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// Stop before this text (repeatable)
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) stop: Vec<String>,
    /// System message
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    /// Continue the prompt as plain text, without the chat template
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true)]
    pub(crate) raw: Option<bool>,
}

/// `ID=BIAS`: what is added to the logit of a token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Bias(pub(crate) TokenId, pub(crate) f32);

impl GenerationOptions {
    /// What `self` gives, and `other` where it gives nothing.
    pub(crate) fn or(self, other: Self) -> Self {
        let first = |own: Vec<_>, other| if own.is_empty() { other } else { own };
        Self {
            max_tokens: self.max_tokens.or(other.max_tokens),
            temperature: self.temperature.or(other.temperature),
            top_k: self.top_k.or(other.top_k),
            top_p: self.top_p.or(other.top_p),
            min_p: self.min_p.or(other.min_p),
            typical_p: self.typical_p.or(other.typical_p),
            repetition_penalty: self.repetition_penalty.or(other.repetition_penalty),
            presence_penalty: self.presence_penalty.or(other.presence_penalty),
            frequency_penalty: self.frequency_penalty.or(other.frequency_penalty),
            logit_bias: if self.logit_bias.is_empty() { other.logit_bias } else { self.logit_bias },
            seed: self.seed.or(other.seed),
            stop: first(self.stop, other.stop),
            system: self.system.or(other.system),
            raw: self.raw.or(other.raw),
        }
    }
}

impl FromStr for Bias {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a bias: write a token's id and a number, such as `42=-5` or `42=-inf`");
        let (id, bias) = text.split_once('=').ok_or_else(wrong)?;
        Ok(Self(id.trim().parse().map_err(|_| wrong())?, bias.trim().parse().map_err(|_| wrong())?))
    }
}

impl fmt::Display for Bias {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.0, self.1)
    }
}

impl<'de> Deserialize<'de> for Bias {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for Bias {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Reads a value that is written as text in a configuration file.
pub(super) fn from_text<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr,
    T::Err: fmt::Display,
{
    String::deserialize(deserializer)?.parse().map(Some).map_err(serde::de::Error::custom)
}
