//! One model of the catalog: where it is published, how large it is, what it is for.

use std::collections::BTreeMap;
use std::fmt;
use std::num::Saturating;

use serde::{Deserialize, Serialize};
use tandem_core::config::Architecture;
use tandem_core::footprint::ModelShape;
use tandem_core::{BackendKind, DType, Error, Result};

/// A model that is known by name. Every number is from its published `config.json`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CatalogEntry {
    /// `family:size`, in lower case; what users type.
    pub name: String,
    /// The repository of the original checkpoint, `owner/name`.
    pub checkpoint: String,
    /// The repository of its ONNX graphs, where there is one.
    #[serde(default)]
    pub graphs: Option<String>,
    /// What it gives.
    pub kind: Kind,
    /// The `model_type` of its configuration.
    pub architecture: String,
    /// Weights and biases, a tied head counted once.
    pub parameters: u64,
    /// Decoder or encoder layers.
    pub layers: usize,
    /// Width of the hidden states.
    pub hidden_size: usize,
    /// Width inside the feed-forward block.
    pub intermediate_size: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Rows of the embedding.
    pub vocabulary: usize,
    /// The head is the embedding.
    pub tied_head: bool,
    /// The most tokens that it was made for.
    pub context: usize,
    /// As the model's card names it.
    pub licence: String,
    /// The licence allows research only.
    #[serde(default)]
    pub research_only: bool,
    /// The repository gives its files only to those who accepted the licence.
    #[serde(default)]
    pub needs_token: bool,
    /// What it is good at, in a few words.
    pub good_at: String,
    /// What a dtype costs, where it was measured: the mean KL divergence from the published weights, in nats, by the dtype's name.
    #[serde(default)]
    pub kl_nats: BTreeMap<String, f64>,
}

/// What a model gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Text, in conversation.
    Text,
    /// Code.
    Code,
    /// Embeddings of texts.
    Embedding,
    /// Scores of pairs of texts.
    Reranking,
}

/// The most that a number of an entry may be: sums of products of them stay far from overflow.
const MAX_SIZE: usize = 1 << 22;

impl CatalogEntry {
    /// The repository whose files serve `backend`: graphs for ONNX Runtime where there are any, else the checkpoint, of which one
    /// is made.
    pub fn repository(&self, backend: BackendKind) -> &str {
        match (&self.graphs, backend) {
            (Some(graphs), BackendKind::Onnx) => graphs,
            _ => &self.checkpoint,
        }
    }

    /// What `dtype` costs, where it was measured: the mean KL divergence from the published weights, in nats.
    pub fn kl_nats(&self, dtype: DType) -> Option<f64> {
        self.kl_nats.get(&dtype.to_string()).copied()
    }

    /// The sizes of its checkpoint, published in 16-bit floats.
    pub fn shape(&self) -> ModelShape {
        ModelShape {
            vocab_size: Saturating(self.vocabulary as u64),
            hidden_size: Saturating(self.hidden_size as u64),
            intermediate_size: Saturating(self.intermediate_size as u64),
            n_mlp_matrices: Saturating(if self.has_gate() { 3 } else { 2 }),
            n_layers: Saturating(self.layers as u64),
            n_heads: Saturating(self.heads as u64),
            n_kv_heads: Saturating(self.kv_heads as u64),
            head_dim: Saturating(self.head_dim as u64),
            tied: self.tied_head,
            generates: self.encoder().is_none(),
            max_context: Saturating(self.context as u64),
            stored_bytes: Saturating(self.parameters) * Saturating(2),
            tokenizer_bytes: ModelShape::usual_tokenizer_bytes(Saturating(self.vocabulary as u64)),
        }
    }

    /// Its architecture, for an encoder.
    fn encoder(&self) -> Option<Architecture> {
        Architecture::ENCODERS.into_iter().find(|known| known.model_type() == self.architecture)
    }

    /// Whether its feed-forward block has a gate, as those of all decoders have.
    fn has_gate(&self) -> bool {
        self.encoder().is_none_or(|encoder| encoder == Architecture::ModernBert)
    }

    /// Whether anyone may download it and use it for anything: what `auto` chooses among.
    pub fn is_open(&self) -> bool {
        !self.needs_token && !self.research_only
    }

    /// Checks what a person may have written.
    pub(super) fn check(&self, file: &str) -> Result<()> {
        let refuse = |field: &str, problem: String| Err(Error::bad_field(file, format!("model.{field}"), problem));
        if self.name != self.name.to_lowercase() || self.name.contains(['/', '\\']) || !self.name.contains(':') {
            return refuse("name", format!("`{}` is not `family:size` in lower case", self.name));
        }
        for repository in [Some(&self.checkpoint), self.graphs.as_ref()].into_iter().flatten() {
            if !is_repository(repository) {
                return refuse("checkpoint", format!("`{repository}` of `{}` is not of the form `owner/name`", self.name));
            }
        }
        for (field, value) in [
            ("layers", self.layers),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("heads", self.heads),
            ("kv_heads", self.kv_heads),
            ("head_dim", self.head_dim),
            ("vocabulary", self.vocabulary),
            ("context", self.context),
        ] {
            if !(1..=MAX_SIZE).contains(&value) {
                return refuse(field, format!("`{value}` of `{}` is not within 1 and {MAX_SIZE}", self.name));
            }
        }
        Ok(())
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Code => "code",
            Self::Embedding => "embedding",
            Self::Reranking => "reranking",
        })
    }
}

/// `owner/name` of plain characters, as the hub allows them.
fn is_repository(text: &str) -> bool {
    let plain = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    text.split_once('/').is_some_and(|(owner, name)| plain(owner) && plain(name))
}
