//! Checks that every backend makes before its engine is asked, written once.

use super::{LoadOptions, LogitsRequest, ModelInfo, SessionOptions, TokenId};
use crate::error::{Error, Result};

impl LoadOptions {
    /// # Errors
    /// [`Error::InvalidOption`] for a value that cannot be.
    pub fn validate(&self) -> Result<()> {
        match self.require_device {
            Some(share) if !(0.0..=1.0).contains(&share) => {
                Err(Error::invalid_option("require-device", share, "is no share from 0 to 1"))
            }
            _ => Ok(()),
        }
    }
}

impl SessionOptions {
    /// The most tokens that a session of `model` is to hold.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] when it is none, or more than the model holds.
    pub fn context_length(&self, model: &ModelInfo) -> Result<usize> {
        let limit = model.max_context;
        match self.context_length.unwrap_or(limit) {
            0 => Err(Error::invalid_option("context", 0, "holds no token")),
            n if n > limit => Err(Error::invalid_option(
                "context",
                n,
                format!("is more than the {limit} tokens that `{}` holds on backend `{}`", model.name, model.backend),
            )),
            n => Ok(n),
        }
    }
}

impl ModelInfo {
    /// Whether `tokens` can be appended to the `held` of at most `context_length`.
    ///
    /// # Errors
    /// As [`Session::append`](super::Session::append), but for those of the engine.
    pub fn check_append(&self, held: usize, context_length: usize, tokens: &[TokenId], wanted: LogitsRequest) -> Result<()> {
        if tokens.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        if wanted == LogitsRequest::All && !self.capabilities.all_logits {
            return Err(self.unsupported("the logits of every position", "it gives those of the last one only"));
        }
        let vocab_size = self.vocab_size;
        if let Some(&token) = tokens.iter().find(|&&id| id as usize >= vocab_size) {
            return Err(Error::InvalidToken { token, vocab_size });
        }
        if tokens.len() > context_length.saturating_sub(held) {
            return Err(Error::ContextFull { held, asked: tokens.len(), max: context_length });
        }
        Ok(())
    }

    /// Whether a session that holds `held` tokens can be rewound to `n_tokens`.
    ///
    /// # Errors
    /// As [`Session::rewind`](super::Session::rewind).
    pub fn check_rewind(&self, held: usize, n_tokens: usize) -> Result<()> {
        if n_tokens > held {
            return Err(Error::invalid_option("rewind", n_tokens, format!("is more than the {held} tokens held")));
        }
        if n_tokens > 0 && n_tokens < held && !self.capabilities.rewind {
            return Err(self.unsupported("rewinding to a part of the cache", "it can only be emptied"));
        }
        Ok(())
    }

    /// Whether enough of the model runs on its device.
    ///
    /// # Errors
    /// [`Error::DeviceUnavailable`] with the share that was reached and the operators that run elsewhere.
    pub fn check_device_share(&self, required: Option<f64>) -> Result<()> {
        let Some(required) = required.filter(|&required| self.device_share < required) else { return Ok(()) };
        let placed: Vec<String> = self.placement.iter().map(|p| format!("{} nodes on {}", p.n_nodes, p.provider)).collect();
        Err(Error::DeviceUnavailable {
            backend: self.backend,
            device: self.device,
            reason: format!("{:.3} of the nodes run on it and {required} are required: {}", self.device_share, placed.join(", ")),
            hint: "`tandem show --json` lists the operators by provider; lower `--require-device`, or use `--device cpu`".into(),
        })
    }

    /// The error for something that this model cannot do.
    pub fn unsupported(&self, what: &str, reason: &str) -> Error {
        Error::Unsupported {
            what: what.into(),
            reason: format!("{reason} (model `{}`, backend `{}`)", self.name, self.backend),
            hint: None,
        }
    }
}
