//! What a GGUF says, in the form in which checkpoints say it: the small JSON files, made when they are read.

use std::path::Path;

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

    /// Its content, made of the metadata of the GGUF at `path`.
    ///
    /// # Errors
    /// As [`Gguf::open`] and [`Gguf::config`], and for a tokenizer of a kind that cannot be made.
    pub(crate) fn read(self, path: &Path) -> Result<Vec<u8>> {
        let gguf = Gguf::open(path)?;
        Ok(match self {
            Self::Config => gguf.config_json()?.to_string().into_bytes(),
            Self::Tokenizer => gguf.tokenizer_json()?,
            Self::TokenizerConfig => gguf.tokenizer_config_json()?.to_string().into_bytes(),
        })
    }
}
