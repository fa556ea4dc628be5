//! An embedding model: texts in, vectors out.

use std::fmt;
use std::sync::Arc;

use super::tokens::TextTokens;
use super::{EmbeddingConfig, Normalize, Prompt, Step, TokenizedText, Truncate, normalize};
use crate::backend::{HiddenStates, TokenBatch};
use crate::cancel::CancelToken;
use crate::error::{Error, Result};
use crate::files::ModelFiles;
use crate::primitives::TokenId;
use crate::setters::setters;
use crate::tokenizer::Tokenizer;
use crate::{Capability, Model, ModelInfo};

/// Tokens that are given to the engine at once: enough for it to group texts by length, few enough that their hidden states, 8 MB a
/// thousand for a width of 2,048, do not count.
const TOKENS_TOGETHER: usize = 8192;

/// Texts for which a thread of its own pays.
const MIN_SHARE: usize = 32;

/// How texts become vectors, where it is not as the model's files say.
#[derive(Clone, Debug, Default)]
pub struct EmbedOptions {
    /// What is put before each text.
    pub prompt: Prompt,
    /// How many dimensions are kept, the first ones; `None` keeps those that the model's files say, which is all for most.
    pub dimensions: Option<usize>,
    /// Whether vectors are divided by their length.
    pub normalize: Normalize,
    /// What is done with a text that is too long.
    pub truncate: Truncate,
    /// Stops the work.
    pub cancel: CancelToken,
}

setters!(EmbedOptions {
    with_prompt: prompt: Prompt,
    with_dimensions: dimensions: Option<usize>,
    with_normalize: normalize: Normalize,
    with_truncate: truncate: Truncate,
    with_cancel: cancel: CancelToken,
});

/// The vectors of texts, in their order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Embeddings {
    /// `[texts, dimensions]`, row-major.
    pub values: Vec<f32>,
    /// The width of a vector.
    pub dimensions: usize,
    /// Tokens of each text that the model saw, its prompt and special tokens included.
    pub n_tokens: Vec<usize>,
    /// Tokens of each text that were cut.
    pub n_cut: Vec<usize>,
}

/// A model that makes vectors of texts.
#[derive(Clone)]
pub struct Embedder {
    model: Arc<dyn Model>,
    config: EmbeddingConfig,
    tokens: TextTokens,
}

impl Embeddings {
    /// Each vector in turn.
    pub fn vectors(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.values.chunks_exact(self.dimensions.max(1))
    }

    /// How many of the texts were cut.
    pub fn n_truncated(&self) -> usize {
        self.n_cut.iter().filter(|n| **n > 0).count()
    }
}

impl Embedder {
    /// Of a loaded `model` of `files`, which `config` is of.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when the model gives neither hidden states nor a vector for each text
    /// ([`EmbeddingConfig::pool_by_graph`]); [`Error::BadFile`] and [`Error::BadField`] when its files do not belong together.
    pub fn new(model: Arc<dyn Model>, tokenizer: Tokenizer, files: &ModelFiles, mut config: EmbeddingConfig) -> Result<Self> {
        let info = model.info();
        match &info.pooled_output {
            _ if info.capabilities.has(Capability::HiddenStates) => {}
            Some(output) if output.name != "logits" => config.pool_by_graph(files, output, info.hidden_size)?,
            _ => return Err(info.unsupported(Capability::HiddenStates.description())),
        }
        config.check_widths(files, info.hidden_size)?;
        config.max_tokens = config.max_tokens.min(info.max_context);
        let tokens = TextTokens::new(tokenizer, &mut config)?;
        Ok(Self { model, config, tokens })
    }

    /// What was loaded and where it runs.
    pub fn info(&self) -> &ModelInfo {
        self.model.info()
    }

    /// How its vectors are made.
    pub fn config(&self) -> &EmbeddingConfig {
        &self.config
    }

    /// What makes its tokens.
    pub(super) fn tokens(&self) -> &TextTokens {
        &self.tokens
    }

    /// The model beneath, for work on tokens.
    pub fn model(&self) -> &Arc<dyn Model> {
        &self.model
    }

    /// Its tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        self.tokens.tokenizer()
    }

    /// The width of its vectors under `options`.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for more dimensions than there are.
    pub fn dimensions(&self, options: &EmbedOptions) -> Result<usize> {
        let width = self.config.width(self.info().hidden_size);
        match options.dimensions.or(self.config.dimensions) {
            Some(0) => Err(Error::invalid_option("dimensions", 0, "keeps nothing")),
            Some(n) if n > width && options.dimensions.is_some() => {
                Err(Error::invalid_option("dimensions", n, format!("is more than the {width} that `{}` has", self.info().name)))
            }
            Some(n) => Ok(n.min(width)),
            None => Ok(width),
        }
    }

    /// The tokens that the model sees of `text` under `options`.
    ///
    /// # Errors
    /// [`Error::LongText`] for a text that is too long, where that is asked for; [`Error::EmptyText`] for one without any token;
    /// [`Error::InvalidOption`] for a prompt that the model does not have.
    pub fn tokenize(&self, text: &str, options: &EmbedOptions) -> Result<TokenizedText> {
        self.tokens.of(self.config.prompts.text(&options.prompt)?, text, options.truncate)
    }

    /// The vectors of `texts`. Each gets what it would get alone.
    ///
    /// # Errors
    /// [`Error::BadText`] names a text that cannot be used: as [`tokenize`](Self::tokenize), and [`Error::BadEmbedding`] for a vector that is
    /// not finite. As [`Model::encode`].
    pub fn embed(&self, texts: &[impl AsRef<str>], options: &EmbedOptions) -> Result<Embeddings> {
        self.embed_tokens(&self.tokenize_all(texts, options)?, options)
    }

    /// The tokens of `texts`.
    fn tokenize_all(&self, texts: &[impl AsRef<str>], options: &EmbedOptions) -> Result<Vec<TokenizedText>> {
        let prompt = self.config.prompts.text(&options.prompt)?;
        self.of_each(texts, |text| self.tokens.of(prompt, text, options.truncate))
    }

    /// What `work` makes of each of `texts`, on as many threads as the model has.
    pub(super) fn of_each<T: Send>(&self, texts: &[impl AsRef<str>], work: impl Fn(&str) -> Result<T> + Sync) -> Result<Vec<T>> {
        let texts: Vec<(usize, &str)> = texts.iter().map(AsRef::as_ref).enumerate().collect();
        let share = texts.len().div_ceil(self.info().threads.max(1)).max(MIN_SHARE);
        let of_some = |texts: &[(usize, &str)]| {
            texts.iter().map(|&(index, text)| work(text).map_err(|error| error.of_text(index))).collect::<Result<Vec<_>>>()
        };
        if texts.len() <= share {
            return of_some(&texts);
        }
        let parts = std::thread::scope(|scope| {
            let threads: Vec<_> = texts.chunks(share).map(|texts| scope.spawn(|| of_some(texts))).collect();
            let join = |thread: std::thread::ScopedJoinHandle<'_, _>| {
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            threads.into_iter().map(join).collect::<Result<Vec<_>>>()
        })?;
        Ok(parts.into_iter().flatten().collect())
    }

    /// The vectors of texts whose tokens are known.
    ///
    /// # Errors
    /// As [`embed`](Self::embed).
    pub fn embed_tokens(&self, texts: &[TokenizedText], options: &EmbedOptions) -> Result<Embeddings> {
        let dimensions = self.dimensions(options)?;
        // Texts of one length stand together, which engines use; each vector has its own place.
        let mut order: Vec<usize> = (0..texts.len()).collect();
        order.sort_by_key(|&i| texts[i].ids.len());
        let mut values = vec![0.0; texts.len() * dimensions];
        let mut rest = order.as_slice();
        while !rest.is_empty() {
            let (together, later) = rest.split_at(n_together(texts, rest));
            let ids: Vec<&[TokenId]> = together.iter().map(|&i| texts[i].ids.as_slice()).collect();
            let batch = TokenBatch::new(&ids)?;
            let vectors = match self.config.graph_output {
                Some(_) => self.model.encode_pooled(&batch, &options.cancel)?.rows().map(<[f32]>::to_vec).collect(),
                None => self.pooled(&self.model.encode(&batch, &options.cancel)?, texts, together),
            };
            for (&index, vector) in together.iter().zip(vectors) {
                let vector = self.finished(vector, options, dimensions);
                if let Some(dimension) = vector.iter().position(|value| !value.is_finite()) {
                    return Err(Error::BadEmbedding { dimension, value: vector[dimension] }.of_text(index));
                }
                values[index * dimensions..(index + 1) * dimensions].copy_from_slice(&vector);
            }
            rest = later;
        }
        Ok(Embeddings {
            values,
            dimensions,
            n_tokens: texts.iter().map(|text| text.ids.len()).collect(),
            n_cut: texts.iter().map(|text| text.n_cut).collect(),
        })
    }

    /// The pooled vectors of the texts numbered `which`, whose hidden states are `states`.
    fn pooled(&self, states: &HiddenStates, texts: &[TokenizedText], which: &[usize]) -> Vec<Vec<f32>> {
        let (mut rows, width) = (states.values.as_slice(), states.hidden_size);
        let pool = |(&n, &index): (&usize, &usize)| {
            let (own, rest) = rows.split_at(n * width);
            rows = rest;
            let mut vector = Vec::with_capacity(self.config.pooling.width(width));
            self.config.pooling.pool(own, width, texts[index].n_prompt, &mut vector);
            vector
        };
        states.lengths.iter().zip(which).map(pool).collect()
    }

    /// In the order of sentence-transformers after pooling: the layers and the norm that the files say, cut, and normalise if that was asked
    /// for.
    fn finished(&self, mut vector: Vec<f32>, options: &EmbedOptions, dimensions: usize) -> Vec<f32> {
        for step in &self.config.steps {
            match step {
                Step::Dense(dense) => vector = dense.forward(&vector),
                Step::Normalize if options.normalize == Normalize::No => {}
                Step::Normalize => normalize(&mut vector),
            }
        }
        vector.truncate(dimensions);
        if options.normalize == Normalize::Yes {
            normalize(&mut vector);
        }
        vector
    }
}

/// How many of the first of `which` are encoded at once: one at least.
fn n_together(texts: &[TokenizedText], which: &[usize]) -> usize {
    let ends = which.iter().scan(0, |n_tokens: &mut usize, &i| {
        *n_tokens += texts[i].ids.len();
        Some(*n_tokens)
    });
    ends.take_while(|n_tokens| *n_tokens <= TOKENS_TOGETHER).count().max(1)
}

impl fmt::Debug for Embedder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedder").field("model", &self.info().name).field("config", &self.config).finish_non_exhaustive()
    }
}
