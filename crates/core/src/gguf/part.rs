//! What a GGUF says, in the form in which checkpoints say it: the small JSON files, made when they are read.

use super::Gguf;
use crate::error::Result;

/// One of the files of a checkpoint that a GGUF stands in for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GgufPart {
    /// `config.json`
    Config,
    /// `tokenizer.json`
    Tokenizer,
    /// `tokenizer_config.json`, with the chat template
    TokenizerConfig,
}

impl GgufPart {
    /// The name of that file.
    pub fn file_name(self) -> &'static str {
        match self {
            Self::Config => "config.json",
            Self::Tokenizer => "tokenizer.json",
            Self::TokenizerConfig => "tokenizer_config.json",
        }
    }
}

impl Gguf {
    /// The content of the file that the metadata stands in for.
    ///
    /// # Errors
    /// As [`config`](Self::config), and [`Error::Unsupported`](crate::Error::Unsupported) for a tokenizer of a kind that cannot be made.
    pub fn part(&self, part: GgufPart) -> Result<Vec<u8>> {
        Ok(match part {
            GgufPart::Config => self.config_json()?.to_string().into_bytes(),
            GgufPart::Tokenizer => self.tokenizer_json()?,
            GgufPart::TokenizerConfig => self.tokenizer_config_json()?.to_string().into_bytes(),
        })
    }
}
