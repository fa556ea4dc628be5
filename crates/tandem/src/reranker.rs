//! A reranker with its tokenizer and what its publisher says of pairs and scores: a query and documents in, scores out.

use std::time::{Duration, Instant};

use tandem_core::files::ModelFiles;
use tandem_core::rerank::{DocumentScore, RerankConfig, RerankOptions, Reranker};
use tandem_core::template::{ChatTemplate, TemplateTokens};
use tandem_core::tokenizer::Tokenizer;
use tandem_core::{ModelInfo, Result};

use crate::model::{read_template, read_tokenizer, read_tokenizer_config};
use crate::opened::{OpenedModel, adapted};
use crate::reference::ModelRef;
use crate::resolver::Resolver;
use crate::settings::Settings;

/// A loaded model that scores how well documents answer a query.
pub struct RerankerModel {
    reranker: Reranker,
    files: ModelFiles,
    load_time: Duration,
}

/// Finds the reranker that `reference` names, downloads it if need be, and loads it. A dtype that `settings` leave open is the published
/// one.
///
/// ```no_run
/// use tandem::Settings;
///
/// # fn main() -> tandem::Result<()> {
/// let model = tandem::load_reranker("BAAI/bge-reranker-v2-m3", &Settings::default())?;
/// let documents = ["Foxes eat mice.", "Rain fell on the hill."];
/// for score in model.rerank("What do foxes eat?", &documents)? {
///     println!("{:.3} {}", score.score, documents[score.index]);
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// As [`load`](crate::load), and for a model that scores no pairs.
pub fn load_reranker(reference: impl Into<ModelRef>, settings: &Settings) -> Result<RerankerModel> {
    Resolver::from_env()?.load_reranker(&reference.into(), settings)
}

/// What a reranker's files say, before its weights are read.
struct Described {
    config: RerankConfig,
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
}

impl Resolver {
    /// Finds the reranker that `reference` names, downloads it if need be, and loads it, unless it exceeds a limit of memory.
    ///
    /// # Errors
    /// As [`load`](Self::load), and for a model that scores no pairs.
    pub fn load_reranker(&self, reference: &ModelRef, settings: &Settings) -> Result<RerankerModel> {
        let settings = settings.for_embeddings();
        let files = self.find(&self.resolve(reference, &settings)?, &settings)?;
        let settings = settings.for_reranking(&files)?;
        let opened = self.open(files, &settings)?;
        self.admit(&opened, settings.planned_tokens())?;
        opened.load_reranker()
    }
}

impl Settings {
    /// These for the reranker of `files`: some are language models, others encode.
    ///
    /// # Errors
    /// As [`load_reranker`], for what the files say.
    pub fn for_reranking(&self, files: &ModelFiles) -> Result<Self> {
        let purpose = Described::read(files)?.config.purpose();
        let load = self.load.clone().with_purpose(purpose);
        Ok(Self { load, as_published: true, ..self.clone() })
    }
}

impl Described {
    fn read(files: &ModelFiles) -> Result<Self> {
        let tokenizer = read_tokenizer(files)?;
        let tokenizer_config = read_tokenizer_config(files)?;
        let published = read_template(files, tokenizer_config.as_ref(), &tokenizer)?;
        let source = published.as_ref().map(ChatTemplate::source);
        let config = RerankConfig::read(files, &files.model_config()?, &tokenizer, source)?;
        let template = match config.own_template() {
            Some(source) => {
                let tokens = TemplateTokens::new(tokenizer_config.as_ref(), &tokenizer);
                Some(ChatTemplate::new(source, tokens, &files.name)?)
            }
            None => published,
        };
        Ok(Self { config, tokenizer, template })
    }
}

impl OpenedModel {
    /// Loads its weights, its tokenizer and what its files say of pairs and scores.
    ///
    /// # Errors
    /// As [`load_reranker`].
    pub fn load_reranker(self) -> Result<RerankerModel> {
        let Self { files, opened, open_time, adapters, .. } = self;
        let started = Instant::now();
        // What the files say is small, and refuses many a model before its weights are read.
        let Described { config, tokenizer, template } = Described::read(&files)?;
        tokenizer.check_vocabulary(opened.config().vocab_size, &files.config.name())?;
        let reranker = Reranker::new(adapted(opened.load()?, &adapters)?, tokenizer, template, &files, config)?;
        Ok(RerankerModel { reranker, files, load_time: open_time + started.elapsed() })
    }
}

impl RerankerModel {
    /// What was loaded and where it runs.
    pub fn info(&self) -> &ModelInfo {
        self.reranker.info()
    }

    /// How its scores are made.
    pub fn config(&self) -> &RerankConfig {
        self.reranker.config()
    }

    /// The files it was loaded from.
    pub fn files(&self) -> &ModelFiles {
        &self.files
    }

    /// How long loading took.
    pub fn load_time(&self) -> Duration {
        self.load_time
    }

    /// The scores of `documents` for `query`, the best first.
    ///
    /// # Errors
    /// As [`Reranker::rerank`].
    pub fn rerank(&self, query: &str, documents: &[impl AsRef<str>]) -> Result<Vec<DocumentScore>> {
        let mut scores = self.scores(query, documents, &RerankOptions::default())?;
        scores.sort_by(|one, other| other.logit.total_cmp(&one.logit).then(one.index.cmp(&other.index)));
        Ok(scores)
    }

    /// The scores of `documents` for `query` under `options`, in the order of the documents.
    ///
    /// # Errors
    /// As [`Reranker::rerank`].
    pub fn scores(&self, query: &str, documents: &[impl AsRef<str>], options: &RerankOptions) -> Result<Vec<DocumentScore>> {
        self.reranker.rerank(query, documents, options)
    }
}
