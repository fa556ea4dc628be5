//! An embedding model with its tokenizer and what its publisher says of pooling and prompts: text in, vectors out.

use std::time::{Duration, Instant};

use tandem_core::backend::Purpose;
use tandem_core::embedding::{
    ChunkEmbeddings, Chunking, EmbedOptions, Embedder, EmbeddingConfig, Embeddings, Fingerprint, Pooling, Prompt, Role,
    Similarity,
};
use tandem_core::files::ModelFiles;
use tandem_core::{ModelInfo, Result};

use crate::model::read_tokenizer;
use crate::opened::{OpenedModel, adapted};
use crate::plan::Planner;
use crate::reference::ModelRef;
use crate::resolver::Resolver;
use crate::settings::Settings;

/// A loaded model that makes vectors of texts.
pub struct EmbeddingModel {
    embedder: Embedder,
    files: ModelFiles,
    load_time: Duration,
    planner: Planner,
}

/// Finds the embedding model that `reference` names, downloads it if need be, and loads it. A dtype that `settings` leave open is the
/// published one.
///
/// ```no_run
/// use tandem::Settings;
/// use tandem::embedding::Similarity;
///
/// # fn main() -> tandem::Result<()> {
/// let model = tandem::load_embedder("sentence-transformers/all-MiniLM-L6-v2", &Settings::default())?;
/// let query = model.embed_query("What do foxes eat?")?;
/// let documents = model.embed_documents(&["A fox eats mice.", "Rain fell on the hill."])?;
/// for document in documents.vectors() {
///     println!("{:.3}", model.similarity().of(&query, document));
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// As [`load`](crate::load), and for a model that gives no vectors.
pub fn load_embedder(reference: impl Into<ModelRef>, settings: &Settings) -> Result<EmbeddingModel> {
    Resolver::from_env()?.load_embedder(&reference.into(), settings)
}

impl Resolver {
    /// Finds the embedding model that `reference` names, downloads it if need be, and loads it, unless it exceeds a limit of memory.
    ///
    /// # Errors
    /// As [`load`](Self::load), and for a model that gives no vectors.
    pub fn load_embedder(&self, reference: &ModelRef, settings: &Settings) -> Result<EmbeddingModel> {
        let settings = settings.for_embeddings();
        let files = self.find(&self.resolve(reference, &settings)?, &settings)?;
        let opened = self.open(files, &settings)?;
        self.admit(&opened, settings.planned_tokens())?;
        opened.load_embedder(None)
    }
}

impl Settings {
    /// These for an embedding model: loaded to encode, in the dtype that it was published in unless they name another.
    pub fn for_embeddings(&self) -> Self {
        let load = self.load.clone().with_purpose(Purpose::Encode);
        Self { load, as_published: true, ..self.clone() }
    }
}

impl OpenedModel {
    /// Loads its weights, its tokenizer and what its files say of pooling and prompts. `pooling` is used whatever they say.
    ///
    /// # Errors
    /// As [`load_embedder`](crate::load_embedder).
    pub fn load_embedder(self, pooling: Option<Pooling>) -> Result<EmbeddingModel> {
        let Self { files, opened, open_time, planner, adapters, .. } = self;
        let (started, config) = (Instant::now(), opened.config().clone());
        // What the files say is small, and refuses many a model before its weights are read.
        let embedding = EmbeddingConfig::read(&files, &config, pooling)?;
        let (tokenizer, model) = std::thread::scope(|scope| {
            let tokenizer = scope.spawn(|| read_tokenizer(&files));
            let model = opened.load().and_then(|model| adapted(model, &adapters));
            (tokenizer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), model)
        });
        let tokenizer = tokenizer?;
        tokenizer.check_vocabulary(config.vocab_size, &files.config.name())?;
        let embedder = Embedder::new(model?, tokenizer, &files, embedding)?;
        Ok(EmbeddingModel { embedder, files, load_time: open_time + started.elapsed(), planner })
    }
}

impl EmbeddingModel {
    /// What was loaded and where it runs.
    pub fn info(&self) -> &ModelInfo {
        self.embedder.info()
    }

    /// How its vectors are made: pooling, prompts, the most tokens of a text.
    pub fn config(&self) -> &EmbeddingConfig {
        self.embedder.config()
    }

    /// The model beneath, for other options than those of this one's methods.
    pub fn embedder(&self) -> &Embedder {
        &self.embedder
    }

    /// The files it was loaded from.
    pub fn files(&self) -> &ModelFiles {
        &self.files
    }

    /// Plans the memory that it takes.
    pub fn planner(&self) -> &Planner {
        &self.planner
    }

    /// How long loading took.
    pub fn load_time(&self) -> Duration {
        self.load_time
    }

    /// How two of its vectors are compared, as its publisher says.
    pub fn similarity(&self) -> Similarity {
        self.config().similarity
    }

    /// What makes its vectors under `options` what they are.
    ///
    /// # Errors
    /// As [`Fingerprint::of`].
    pub fn fingerprint(&self, options: &EmbedOptions) -> Result<Fingerprint> {
        Fingerprint::of(&self.embedder, &self.files, options)
    }

    /// The vectors of `texts` under `options`.
    ///
    /// # Errors
    /// As [`Embedder::embed`].
    pub fn embed(&self, texts: &[impl AsRef<str>], options: &EmbedOptions) -> Result<Embeddings> {
        self.embedder.embed(texts, options)
    }

    /// The vectors of `texts` in chunks that overlap, for texts that are longer than the model takes or than suits a search.
    ///
    /// ```no_run
    /// use tandem::Settings;
    /// use tandem::embedding::{Chunking, EmbedOptions};
    ///
    /// # fn main() -> tandem::Result<()> {
    /// let model = tandem::load_embedder("sentence-transformers/all-MiniLM-L6-v2", &Settings::default())?;
    /// let documents = [std::fs::read_to_string("README.md").unwrap_or_default()];
    /// let embedded = model.embed_chunks(&documents, Chunking::new(200, 20)?, &EmbedOptions::new())?;
    /// for (chunk, vector) in embedded.chunks.iter().zip(embedded.embeddings.vectors()) {
    ///     println!("{} {:?} {:.3}", chunk.text, &documents[chunk.text][chunk.range.clone()], vector[0]);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Embedder::embed_chunks`].
    pub fn embed_chunks(&self, texts: &[impl AsRef<str>], chunking: Chunking, options: &EmbedOptions) -> Result<ChunkEmbeddings> {
        self.embedder.embed_chunks(texts, chunking, options)
    }

    /// The vector of a text that is looked for, behind the prompt for queries that the model may have.
    ///
    /// # Errors
    /// As [`embed`](Self::embed).
    pub fn embed_query(&self, text: &str) -> Result<Vec<f32>> {
        Ok(self.embed(&[text], &EmbedOptions::new().with_prompt(Prompt::Role(Role::Query)))?.values)
    }

    /// The vectors of texts that are found, behind the prompt for documents that the model may have.
    ///
    /// # Errors
    /// As [`embed`](Self::embed).
    pub fn embed_documents(&self, texts: &[impl AsRef<str>]) -> Result<Embeddings> {
        self.embed(texts, &EmbedOptions::new().with_prompt(Prompt::Role(Role::Document)))
    }
}
