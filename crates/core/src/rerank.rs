//! Rerankers: how well a document answers a query, as a number.
//!
//! Two forms are published. A cross-encoder reads both texts as a pair and has a small head ([`head`](self)); its files are those of
//! transformers' `…ForSequenceClassification`. A language model reads a prompt with both, and its logits for "yes" and "no" are compared:
//! sentence-transformers' `LogitScore`. Formats and defaults follow `sentence_transformers/cross_encoder/` of 6.2.

mod config;
mod head;
mod pairs;
mod prompted;

use std::fmt;
use std::sync::Arc;

pub use self::config::{RerankConfig, ScoreActivation};
use self::head::Head;
pub use self::pairs::TruncatePair;
use self::pairs::{PairTokens, TokenizedPair};
use self::prompted::PromptedPairs;
use crate::backend::TokenBatch;
use crate::cancel::CancelToken;
use crate::error::{Error, Result};
use crate::files::ModelFiles;
use crate::primitives::TokenId;
use crate::setters::setters;
use crate::template::ChatTemplate;
use crate::tokenizer::Tokenizer;
use crate::{Capability, Model, ModelInfo};

/// Tokens that are given to the engine at once.
const TOKENS_TOGETHER: usize = 8192;

/// How documents are scored.
#[derive(Clone, Debug, Default)]
pub struct RerankOptions {
    /// What is cut of a pair that is too long.
    pub truncate: TruncatePair,
    /// What the task is, for models that read a prompt; `None` is what their template says.
    pub instruction: Option<String>,
    /// Stops the work.
    pub cancel: CancelToken,
}

setters!(RerankOptions {
    with_truncate: truncate: TruncatePair,
    with_instruction: instruction: Option<String>,
    with_cancel: cancel: CancelToken,
});

/// How well one document answers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DocumentScore {
    /// The document, counted from 0.
    pub index: usize,
    /// What the model gives.
    pub logit: f32,
    /// The same as the model's publisher would have it: through a sigmoid, or as it is.
    pub score: f64,
    /// Tokens that the model saw.
    pub n_tokens: usize,
    /// Tokens that were cut.
    pub n_cut: usize,
}

/// A model that scores documents.
#[derive(Clone)]
pub struct Reranker {
    model: Arc<dyn Model>,
    config: RerankConfig,
    form: Arc<Form>,
}

enum Form {
    /// Hidden states, and a head on them; without one the engine has the head itself.
    Pairs(PairTokens, Option<Head>),
    /// A language model.
    Prompted(PromptedPairs),
}

impl Form {
    fn reads_instructions(&self) -> bool {
        match self {
            Self::Pairs(tokens, _) => tokens.has_template(),
            Self::Prompted(_) => true,
        }
    }
}

impl Reranker {
    /// Of a loaded `model` of `files`, which `config` is of; `template` is the files' chat template.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when the model cannot do it; [`Error::BadFile`] and [`Error::BadField`] when its files do not belong together.
    pub fn new(
        model: Arc<dyn Model>,
        tokenizer: Tokenizer,
        template: Option<ChatTemplate>,
        files: &ModelFiles,
        mut config: RerankConfig,
    ) -> Result<Self> {
        let info = model.info();
        config.max_tokens = config.max_tokens.min(info.max_context);
        let form = match config.answers {
            Some(answers) => {
                let template = template.ok_or_else(|| ChatTemplate::missing(&files.name))?;
                Form::Prompted(PromptedPairs::new(tokenizer, template, answers, config.max_tokens)?)
            }
            None => {
                let has_logits = info.pooled_output.as_ref().is_some_and(|output| output.name == "logits");
                let head = match has_logits {
                    true => None,
                    false if info.capabilities.has(Capability::HiddenStates) => Some(Head::read(files)?),
                    false => return Err(info.unsupported(Capability::HiddenStates.description())),
                };
                let template = template.filter(|_| config.has_pair_template);
                Form::Pairs(PairTokens::new(tokenizer, template, config.max_tokens)?, head)
            }
        };
        Ok(Self { model, config, form: Arc::new(form) })
    }

    /// What was loaded and where it runs.
    pub fn info(&self) -> &ModelInfo {
        self.model.info()
    }

    /// How its scores are made.
    pub fn config(&self) -> &RerankConfig {
        &self.config
    }

    /// The scores of `documents` for `query`, in the order of the documents. Each gets what it would get alone.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for an instruction to a model that reads none; [`Error::LongText`] when the query leaves no token for a document and may not be cut; [`Error::BadText`] names a document whose pair
    /// cannot be used, and has an [`Error::BadEmbedding`] for a score that is not finite; as [`Model::encode`] and [`Session::append`](crate::Session::append).
    pub fn rerank(&self, query: &str, documents: &[impl AsRef<str>], options: &RerankOptions) -> Result<Vec<DocumentScore>> {
        let documents: Vec<&str> = documents.iter().map(AsRef::as_ref).collect();
        if let Some(instruction) = options.instruction.as_ref().filter(|_| !self.form.reads_instructions()) {
            let problem = format!("is not read by `{}`, which takes a query and a document alone", self.info().name);
            return Err(Error::invalid_option("instruction", instruction, problem));
        }
        let (pairs, logits) = match &*self.form {
            Form::Prompted(prompted) => {
                let pairs = prompted.tokenize(query, &documents, options)?;
                let logits = prompted.logits(&*self.model, &pairs, options)?;
                (pairs, logits)
            }
            Form::Pairs(tokens, head) => {
                let pairs = tokens.tokenize(query, &documents, options)?;
                let logits = self.encoded(&pairs, head.as_ref(), &options.cancel)?;
                (pairs, logits)
            }
        };
        if let Some(index) = logits.iter().position(|logit| !logit.is_finite()) {
            return Err(Error::BadEmbedding { dimension: 0, value: logits[index] }.of_text(index));
        }
        let scored = |(index, (pair, logit)): (usize, (TokenizedPair, f32))| DocumentScore {
            index,
            logit,
            score: self.config.activation.of(logit.into()),
            n_tokens: pair.ids.len(),
            n_cut: pair.n_cut,
        };
        Ok(pairs.into_iter().zip(logits).enumerate().map(scored).collect())
    }

    /// The logit of each pair; pairs of one length stand together.
    fn encoded(&self, pairs: &[TokenizedPair], head: Option<&Head>, cancel: &CancelToken) -> Result<Vec<f32>> {
        let mut order: Vec<usize> = (0..pairs.len()).collect();
        order.sort_by_key(|&i| pairs[i].ids.len());
        let mut logits = vec![0.0; pairs.len()];
        let mut rest = order.as_slice();
        while !rest.is_empty() {
            let mut n_tokens = 0;
            let fits = |&&i: &&usize| {
                n_tokens += pairs[i].ids.len();
                n_tokens <= TOKENS_TOGETHER
            };
            let n = rest.iter().take_while(fits).count().max(1);
            let (together, later) = rest.split_at(n);
            let batch = batch(pairs, together)?;
            match head {
                None => {
                    let rows = self.model.encode_pooled(&batch, cancel)?;
                    let firsts = rows.values.iter().step_by(rows.width.max(1));
                    together.iter().zip(firsts).for_each(|(&i, logit)| logits[i] = *logit);
                }
                Some(head) => {
                    let states = self.model.encode(&batch, cancel)?;
                    let mut values = states.values.as_slice();
                    for (&i, n) in together.iter().zip(&states.lengths) {
                        let (own, others) = values.split_at(n * states.hidden_size);
                        values = others;
                        logits[i] = head.logit(own, states.hidden_size);
                    }
                }
            }
            rest = later;
        }
        Ok(logits)
    }
}

/// The pairs numbered `which`, with their token types where any differs from 0.
fn batch(pairs: &[TokenizedPair], which: &[usize]) -> Result<TokenBatch> {
    let ids: Vec<&[TokenId]> = which.iter().map(|&i| pairs[i].ids.as_slice()).collect();
    let batch = TokenBatch::new(&ids)?;
    let types: Vec<u32> = which.iter().flat_map(|&i| &pairs[i].types).copied().collect();
    Ok(if types.iter().any(|kind| *kind > 0) { batch.with_types(types) } else { batch })
}

impl fmt::Debug for Reranker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reranker").field("model", &self.info().name).field("config", &self.config).finish_non_exhaustive()
    }
}
