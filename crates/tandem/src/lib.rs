//! Local text generation and text embeddings on two engines that are held to the same answer.
//!
//! # Load
//!
//! [`load`] takes a model reference ([`ModelRef`]: `demo`, a path, a repository on the Hugging Face hub, a name of the catalog, or `auto`)
//! and loads it onto exactly the backend, device and dtype that [`Settings`] name, or says why not. What does not fit the memory is
//! refused.
//!
//! ```no_run
//! use tandem::{DType, LoadOptions, Settings};
//!
//! # fn main() -> tandem::Result<()> {
//! let demo = tandem::load("demo", &Settings::default())?;
//! let load = LoadOptions::new().with_dtype(DType::Int4);
//! let model = tandem::load("qwen2.5:0.5b", &Settings { load, ..Settings::default() })?;
//! println!("{} on {}", model.info().name, model.info().device);
//! # Ok(())
//! # }
//! ```
//!
//! # Chat
//!
//! A [`Chat`] keeps a conversation and its KV cache: each turn computes only what is new.
//!
//! ```no_run
//! use std::io::Write;
//! use tandem::{Event, Settings};
//!
//! fn main() -> tandem::Result<()> {
//!     let model = tandem::load("demo", &Settings::default())?;
//!     let mut chat = model.chat()?;
//!     for event in chat.say("Tell me a story about a fox who finds a lantern.")? {
//!         if let Event::Token { text, .. } | Event::Finished { text, .. } = event? {
//!             print!("{text}");
//!             std::io::stdout().flush().ok();
//!         }
//!     }
//!     Ok(())
//! }
//! ```
//!
//! # Generate
//!
//! Below it, a [`TextModel`] turns text into tokens and a [`Sequence`] of them into a [`Generation`], with [`SamplingOptions`] and
//! [`StopOptions`] of your own.
//!
//! ```no_run
//! use tandem::{GenerateOptions, SamplingOptions, SessionOptions, Settings, StopOptions};
//!
//! # fn main() -> tandem::Result<()> {
//! let model = tandem::load("demo", &Settings::default())?;
//! let mut sequence = model.new_sequence(&SessionOptions::default())?;
//! let stop = StopOptions { stop_strings: vec!["\n\n".into()], end_tokens: model.end_tokens().to_vec() };
//! let options = GenerateOptions::new(Some(64), SamplingOptions::greedy(), stop);
//! let events = model.generate(&mut sequence, &model.raw_prompt("Once upon a time")?, options)?;
//! println!("{} events", events.collect::<tandem::Result<Vec<_>>>()?.len());
//! # Ok(())
//! # }
//! ```
//!
//! # Save
//!
//! What a [`Sequence`] or a [`Chat`] holds can be kept in a file: a later process goes on without computing it, on the engine that did to the
//! bit, on the other one after a check.
//!
//! ```no_run
//! # fn main() -> tandem::Result<()> {
//! let model = tandem::load("demo", &tandem::Settings::default())?;
//! let mut chat = model.chat()?;
//! chat.say("Tell me a story.")?.for_each(drop);
//! chat.save_cache("story.kv".as_ref())?;
//! let mut later = model.chat()?;
//! later.set_messages(chat.messages().to_vec());
//! println!("{:?}", later.restore_cache("story.kv".as_ref())?);
//! # Ok(())
//! # }
//! ```
//!
//! # Score
//!
//! [`score`](score()) gives the log-probability of every token of a text, [`perplexity`] sums them up.
//!
//! ```no_run
//! # fn main() -> tandem::Result<()> {
//! let model = tandem::load("demo", &tandem::Settings::default())?;
//! let mut sequence = model.new_sequence(&tandem::SessionOptions::default())?;
//! let scores = tandem::score(&mut sequence, &model.raw_prompt("The fox found a lantern.")?, 0, &mut |_| ())?;
//! println!("perplexity {:.2}", tandem::perplexity(&scores).unwrap_or(f64::NAN));
//! # Ok(())
//! # }
//! ```
//!
//! # Embed
//!
//! [`load_embedder`] loads a model that makes vectors of texts, with the pooling, prompts and length that its publisher says
//! ([`embedding`]).
//!
//! ```no_run
//! # fn main() -> tandem::Result<()> {
//! let model = tandem::load_embedder("Qwen/Qwen3-Embedding-0.6B", &tandem::Settings::default())?;
//! let query = model.embed_query("What do foxes eat?")?;
//! let documents = model.embed_documents(&["A fox eats mice.", "Rain fell on the hill."])?;
//! let scores = documents.vectors().map(|document| model.similarity().of(&query, document));
//! println!("{:?}", scores.collect::<Vec<_>>());
//! # Ok(())
//! # }
//! ```
//!
//! # Rerank
//!
//! [`load_reranker`] loads a model that scores how well documents answer a query.
//!
//! ```no_run
//! # fn main() -> tandem::Result<()> {
//! let model = tandem::load_reranker("cross-encoder/ms-marco-MiniLM-L6-v2", &tandem::Settings::default())?;
//! let best = model.rerank("What do foxes eat?", &["Rain fell on the hill.", "A fox eats mice."])?[0];
//! println!("document {} with {:.2}", best.index, best.score);
//! # Ok(())
//! # }
//! ```
//!
//! # Adapt
//!
//! A low-rank adapter (LoRA) of PEFT, mlx-lm, ONNX Runtime or llama.cpp is applied as it is, to any base on any engine, and switched while
//! the model stays loaded ([`adapters`]).
//!
//! ```no_run
//! use tandem::Settings;
//! use tandem::adapters::AdapterRef;
//!
//! # fn main() -> tandem::Result<()> {
//! let settings = Settings { adapters: vec![AdapterRef::new("./pirate", 1.0)], ..Settings::default() };
//! let pirate = tandem::load("./qwen3-0.6b", &settings)?;
//! let plain = pirate.with_adapters(&[])?;
//! # Ok(())
//! # }
//! ```
//!
//! # Export
//!
//! [`export`](export()) makes a directory with an ONNX graph of a checkpoint, which [`load`] and onnxruntime-genai take as it is.
//!
//! ```no_run
//! use tandem::{DType, ExportOptions};
//!
//! # fn main() -> tandem::Result<()> {
//! let files = tandem::find("./qwen3-0.6b")?;
//! tandem::export(&files, &ExportOptions::new("./qwen3-0.6b-int4", DType::Int4))?;
//! # Ok(())
//! # }
//! ```
//!
//! # Plan
//!
//! A [`Resolver`] takes the same steps as [`load`], one at a time: from a reference to files, to an [`OpenedModel`] of which no weight was
//! read, to the memory that it will take ([`plan`]), to a loaded model. Its [`catalog`], hub ([`hub`]) and [`machine`] may be others than
//! the user's.
//!
//! ```no_run
//! use tandem::{ModelRef, OpenedModel, Resolver, Settings};
//!
//! # fn main() -> tandem::Result<()> {
//! let (resolver, settings) = (Resolver::from_env()?, Settings::default());
//! let resolved = resolver.resolve(&ModelRef::from("auto"), &settings)?;
//! let opened = OpenedModel::open(resolver.find(&resolved, &settings)?, &settings)?;
//! if let Some(admission) = resolver.admit(&opened, 4096)? {
//!     println!("{}: {}", resolved.model, admission.plan);
//! }
//! let model = opened.load()?;
//! # Ok(())
//! # }
//! ```
//!
//! # Errors
//!
//! An [`Error`] says what is at fault, and [`Error::hint`] what to do. Nothing is tried in the place of what was asked for.
//!
//! ```
//! use tandem::{Error, Settings};
//!
//! let error = tandem::load("qwen2.5:0.6b", &Settings::default()).err().expect("the catalog has no such name");
//! assert!(matches!(error, Error::ModelNotFound { .. }));
//! assert!(error.hint().is_some_and(|hint| hint.to_string().contains("qwen2.5:0.5b")));
//! ```

pub mod adapters;
pub mod backends;
pub mod catalog;
mod chat;
mod demo;
mod embedder;
pub mod machine;
mod model;
pub mod numerics;
mod opened;
pub mod plan;
mod reference;
mod reranker;
mod resolver;
mod saved;
mod settings;

pub use backends::export;
pub use chat::{Chat, Reply};
pub use embedder::{EmbeddingModel, load_embedder};
pub use model::{TextModel, load};
pub use opened::{OpenedModel, Work};
pub use reference::ModelRef;
pub use reranker::{RerankerModel, load_reranker};
pub use resolver::{Admission, Resolved, Resolver, find};
pub use settings::Settings;

pub use tandem_core::backend::{Kernels, KvDType, Numerics, OnnxOptions};
pub use tandem_core::config::ModelConfig;
pub use tandem_core::files::ModelFiles;
pub use tandem_core::generate::{Event, FinishReason, GenerateOptions, Generation, Timings};
pub use tandem_core::sampler::SamplingOptions;
pub use tandem_core::saved::{Restored, SavedSequence, SequenceOrigin};
pub use tandem_core::score::{TokenScore, perplexity, score};
pub use tandem_core::sequence::Sequence;
pub use tandem_core::speculation::{DraftModel, Drafter, PromptLookup};
pub use tandem_core::stop::StopOptions;
pub use tandem_core::template::{ChatMessage, ChatTemplate, RenderOptions};
pub use tandem_core::tokenizer::{SpecialTokens, Tokenizer};
pub use tandem_core::{
    Backend, BackendKind, CancelToken, Capabilities, Capability, DType, Device, Error, ExportOptions, LoadOptions, Model,
    ModelInfo, Progress, ProgressEvent, Result, SessionOptions, TokenId,
};
pub use tandem_core::{named, paths, remedy};
pub use tandem_hub as hub;

/// How embeddings are made: pooling, prompts, options, similarity.
pub mod embedding {
    pub use tandem_core::embedding::{
        Arithmetic, Chunk, ChunkEmbeddings, Chunking, Dense, DenseActivation, Difference, EmbedOptions, Embedder,
        EmbeddingConfig, Embeddings, Fingerprint, IndexRow, Normalize, PROBES, Pool, Pooling, Prompt, Prompts, Role, Similarity,
        Space, Step, TokenizedText, Truncate, Verdict, Verification, is_embedder, normalize, verify,
    };
}

/// How documents are scored: options, scores.
pub mod rerank {
    pub use tandem_core::rerank::{DocumentScore, RerankConfig, RerankOptions, Reranker, ScoreActivation, TruncatePair};
}

/// Many sequences at once: requests, limits, what came of them.
pub mod scheduler {
    pub use tandem_core::scheduler::{
        Ended, Priority, Request, RequestId, Reuse, Scheduler, SchedulerFigures, SchedulerOptions, Update,
    };
}

/// The files of a model, and what they say of it.
pub mod files {
    pub use tandem_core::config::GenerationConfig;
    pub use tandem_core::files::{GraphFile, ModelFile};
}
