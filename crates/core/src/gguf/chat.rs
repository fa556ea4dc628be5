//! What the metadata says of chat: the template, the names of special tokens, and which tokens end a text.

use serde_json::{Map, Value as Json, json};

use super::Gguf;
use super::tokenizer::{Token, TokenKind};
use crate::error::Result;

/// Fields of `tokenizer_config.json`, and the keys of the ids of these tokens. The spelling of the fourth is llama.cpp's.
const SPECIAL: [(&str, &str); 6] = [
    ("bos_token", "tokenizer.ggml.bos_token_id"),
    ("eos_token", "tokenizer.ggml.eos_token_id"),
    ("unk_token", "tokenizer.ggml.unknown_token_id"),
    ("sep_token", "tokenizer.ggml.seperator_token_id"),
    ("pad_token", "tokenizer.ggml.padding_token_id"),
    ("mask_token", "tokenizer.ggml.mask_token_id"),
];

/// Keys of tokens that end a text.
const END_KEYS: [&str; 3] = ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"];

/// Tokens that end a turn or a text whatever the keys say, as in llama.cpp: a file has one id for what `generation_config.json` lists.
const END_NAMES: [&str; 5] = ["<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>"];

impl Gguf {
    /// The `tokenizer_config.json` that says the same.
    pub(super) fn tokenizer_config_json(&self) -> Result<Json> {
        let mut config = Map::new();
        config.insert("chat_template".into(), self.json_string("tokenizer.chat_template")?);
        config.insert("add_bos_token".into(), json!(self.boolean("tokenizer.ggml.add_bos_token")?));
        let tokens = self.tokens()?;
        for (field, key) in SPECIAL {
            let (Some(id), Some(tokens)) = (self.integer(key)?, &tokens) else { continue };
            let token = usize::try_from(id).ok().and_then(|id| tokens.get(id));
            let token = token.ok_or_else(|| self.bad(key, format!("is {id}, and there are {} tokens", tokens.len())))?;
            config.insert(field.into(), token.text.into());
        }
        Ok(config.into())
    }

    /// The ids of the tokens that end a text.
    pub(super) fn end_tokens(&self) -> Result<Vec<u64>> {
        let mut ids = Vec::new();
        for key in END_KEYS {
            ids.extend(self.integer(key)?);
        }
        let tokens = self.tokens()?.unwrap_or_default();
        let ends = |token: &&Token<'_>| token.kind == TokenKind::Control && END_NAMES.contains(&token.text);
        ids.extend(tokens.iter().filter(ends).map(|token| u64::from(token.id)));
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }
}
