//! What GGUF calls the weights of a checkpoint, and which of them a file must and may have.
//!
//! The names: `gguf-py/gguf/tensor_mapping.py` of llama.cpp.

use std::collections::HashSet;

use super::Gguf;
use crate::config::ModelConfig;
use crate::error::{Error, Result};

/// Weights outside the layers: as published, in a GGUF.
const WHOLE: [(&str, &str); 3] =
    [("model.embed_tokens.weight", "token_embd.weight"), ("model.norm.weight", "output_norm.weight"), ("lm_head.weight", HEAD)];

/// Parts of a layer: as published, in a GGUF.
const PARTS: [(&str, &str); 11] = [
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

pub(super) const EMBEDDING: &str = "token_embd.weight";
pub(super) const HEAD: &str = "output.weight";

/// Numbers that rotary frequencies are divided by, `[head_dim / 2]`: how the converter writes Llama 3's scaling.
pub(super) const ROPE_FACTORS: &str = "rope_freqs.weight";

impl Gguf {
    /// What a GGUF calls the weight that a checkpoint calls `published`: `blk.3.attn_q.weight` for
    /// `model.layers.3.self_attn.q_proj.weight`. `None` when no file has such a weight.
    pub fn name_of(published: &str) -> Option<String> {
        if let Some((_, name)) = WHOLE.iter().find(|(known, _)| *known == published) {
            return Some((*name).into());
        }
        let (layer, rest) = published.strip_prefix("model.layers.")?.split_once('.')?;
        let (part, kind) = rest.rsplit_once('.')?;
        let (_, name) = PARTS.iter().find(|(known, _)| *known == part)?;
        Some(format!("blk.{layer}.{name}.{kind}"))
    }

    /// What a checkpoint calls the weight that a GGUF calls `name`: [`name_of`](Self::name_of) turned around.
    pub fn published_name(name: &str) -> Option<String> {
        if let Some((published, _)) = WHOLE.iter().find(|(_, known)| *known == name) {
            return Some((*published).into());
        }
        let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
        let (part, kind) = rest.rsplit_once('.')?;
        let (published, _) = PARTS.iter().find(|(_, known)| *known == part)?;
        Some(format!("model.layers.{layer}.{published}.{kind}"))
    }

    /// Whether rows of the query and key projections are in the order of llama.cpp's own rotation, which turns neighbours, where
    /// published weights have the two halves of a head one after the other. So the converter writes them for `llama`:
    /// `LlamaModel.permute` of its `conversion/llama.py`.
    pub fn has_interleaved_heads(&self) -> Result<bool> {
        Ok(self.architecture()? == "llama")
    }

    /// Checks that the file has the weights of a decoder of the form `config`, and no other: one that is left out would be missed
    /// in silence.
    ///
    /// # Errors
    /// [`Error::BadField`] for a weight that is missing, [`Error::Unsupported`] for one that has no place.
    pub fn check_weights(&self, config: &ModelConfig) -> Result<()> {
        // One that is missing ends this before a configuration that asks for thousands of layers has had memory for their names.
        let mut known = HashSet::new();
        for name in config.expected_weights().filter_map(|weight| Self::name_of(&weight.name)) {
            self.tensor(&name)?;
            known.insert(name);
        }
        let is_strange = |name: &&str| !known.contains(*name) && *name != ROPE_FACTORS;
        let strange: Vec<&str> = self.tensors().map(|(name, _)| name).filter(is_strange).collect();
        let Some(first) = strange.iter().min() else { return Ok(()) };
        Err(Error::Unsupported {
            what: format!("the tensor `{first}` of `{}`", self.file()),
            reason: format!("it has no place in a decoder of the architecture `{}`", config.architecture),
            hint: Some("use the checkpoint that the file was made from, a directory with safetensors".into()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_weights() {
        let check = |published: &str, expected: Option<&str>| {
            assert_eq!(Gguf::name_of(published).as_deref(), expected);
            assert_eq!(expected.and_then(Gguf::published_name).as_deref(), expected.map(|_| published));
        };
        check("model.embed_tokens.weight", Some("token_embd.weight"));
        check("lm_head.weight", Some("output.weight"));
        check("model.layers.0.self_attn.q_proj.bias", Some("blk.0.attn_q.bias"));
        check("model.layers.27.post_attention_layernorm.weight", Some("blk.27.ffn_norm.weight"));
        assert_eq!(Gguf::published_name("blk.0.attn_qkv.weight"), None);
        check("model.layers.3.mlp.experts.weight", None);
        check("visual.patch_embed.weight", None);
    }
}
