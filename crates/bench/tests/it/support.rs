//! Models of both engines, and comparisons of them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tandem_backend_candle::CandleBackend;
use tandem_backend_onnx::{OnnxBackend, library};
use tandem_bench::parity::{
    Corpus, EmbedderSide, PairReport, Parity, ParityOptions, ParityReport, Problem, Side, Verdict, lines,
};
use tandem_core::adapter::ScaledAdapter;
use tandem_core::backend::{Numerics, Purpose};
use tandem_core::embedding::{Embedder, EmbeddingConfig};
use tandem_core::files::{MAX_JSON_BYTES, ModelFiles};
use tandem_core::template::{ChatTemplate, TemplateTokens, TokenizerConfig};
use tandem_core::tokenizer::Tokenizer;
use tandem_core::{Backend, BackendKind, DType, LoadOptions, Model, OnnxOptions, TokenId};

/// A model with what turns text into its tokens.
pub(crate) struct Loaded {
    name: String,
    pub(crate) files: ModelFiles,
    pub(crate) model: Arc<dyn Model>,
    pub(crate) adapters: Vec<ScaledAdapter>,
    pub(crate) tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    end_tokens: Vec<TokenId>,
    numerics: Numerics,
    embedder: Option<Embedder>,
}

impl Loaded {
    /// `reference` is `demo`, the name of a golden, or a directory.
    pub(crate) fn new(reference: &str, backend: BackendKind, dtype: DType, numerics: Numerics) -> Self {
        let options = LoadOptions::new().with_dtype(dtype).with_numerics(numerics);
        Self::load(reference, backend, format!("{backend}:{dtype}"), options)
    }

    /// A graph that is part of a golden.
    pub(crate) fn published(name: &str, graph: &str) -> Self {
        let options = LoadOptions::new().with_onnx(OnnxOptions::new().with_graph(golden(name).join("onnx").join(graph)));
        Self::load(name, BackendKind::Onnx, format!("onnx={graph}"), options)
    }

    /// An embedding model, loaded to encode.
    pub(crate) fn embedder(reference: &str, backend: BackendKind, dtype: DType) -> Self {
        let options = LoadOptions::new().with_dtype(dtype).with_purpose(Purpose::Encode);
        let mut loaded = Self::load(reference, backend, format!("{backend}:{dtype}"), options);
        let config = EmbeddingConfig::read(&loaded.files, &loaded.files.model_config().unwrap(), None).unwrap();
        let (model, tokenizer) = (Arc::clone(&loaded.model), loaded.tokenizer.clone());
        loaded.embedder = Some(Embedder::new(model, tokenizer, &loaded.files, config).unwrap());
        loaded
    }

    /// The same with adapters.
    pub(crate) fn adapted(self, adapters: &[ScaledAdapter]) -> Self {
        Self { model: self.model.with_adapters(adapters).unwrap(), adapters: adapters.to_vec(), ..self }
    }

    fn load(reference: &str, backend: BackendKind, name: String, options: LoadOptions) -> Self {
        let files = files(reference);
        let engine: Box<dyn Backend> = match backend {
            BackendKind::Onnx => Box::new(OnnxBackend::new(None)),
            _ => Box::new(CandleBackend::new()),
        };
        let model = engine.load(&files, &options).unwrap();
        let tokenizer = files.tokenizer.as_ref().unwrap();
        let tokenizer = Tokenizer::from_json(&tokenizer.read(64 << 20).unwrap(), &tokenizer.name()).unwrap();
        let config = files
            .tokenizer_config
            .as_ref()
            .map(|file| TokenizerConfig::parse(&file.read(MAX_JSON_BYTES).unwrap(), &file.name()).unwrap());
        let tokens = TemplateTokens::new(config.as_ref(), &tokenizer);
        let template = ChatTemplate::choose(None, config.as_ref(), tokens).unwrap();
        let end_tokens = files.model_config().unwrap().eos_token_ids;
        let (adapters, numerics) = (Vec::new(), options.numerics);
        Self { name, files, model, adapters, tokenizer, template, end_tokens, numerics, embedder: None }
    }

    pub(crate) fn side(&self) -> Side<'_> {
        Side {
            name: self.name.clone(),
            model: &*self.model,
            files: &self.files,
            adapters: &self.adapters,
            tokenizer: &self.tokenizer,
            template: self.template.as_ref(),
            end_tokens: &self.end_tokens,
            numerics: self.numerics,
            // The goldens' weights are random, the demo's are trained.
            is_random: self.files.name != "demo",
            embedder: self.embedder.as_ref().map(|embedder| EmbedderSide { embedder, load: None }),
            other_threads: None,
        }
    }
}

/// Why ONNX Runtime cannot be used here, if it cannot; that fails where engines are required.
pub(crate) fn skips() -> bool {
    match library::find(None) {
        Ok(_) => false,
        Err(error) => {
            let reason = Problem::of("ONNX Runtime", &error).message;
            assert!(std::env::var_os("TANDEM_REQUIRE_ENGINES").is_none(), "{reason}");
            eprintln!("skipped: {reason}");
            true
        }
    }
}

pub(crate) fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens").join(name)
}

/// Files without graphs, so that ONNX Runtime has one made of the checkpoint.
fn files(reference: &str) -> ModelFiles {
    let mut files = match reference {
        "demo" => tandem::find("demo").unwrap(),
        _ if Path::new(reference).is_absolute() => ModelFiles::discover(Path::new(reference), reference).unwrap(),
        _ => ModelFiles::discover(&golden(reference), reference).unwrap(),
    };
    files.graphs.clear();
    files
}

/// Options that take seconds.
pub(crate) fn quick() -> ParityOptions {
    ParityOptions { most_tokens: 64, n_generated: 24, n_generation_prompts: 6, ..ParityOptions::default() }
}

/// Options for a pair that is known to differ, on a few prompts.
pub(crate) fn for_faults() -> ParityOptions {
    let mut corpus = Corpus::embedded();
    corpus.prompts.retain(|prompt| prompt.name.contains("plain text") || prompt.name.contains("at random"));
    assert_eq!(corpus.prompts.len(), 2);
    ParityOptions { corpus, most_tokens: 40, n_generated: 0, bisect: true, ..ParityOptions::default() }
}

pub(crate) fn compare(reference: &Loaded, candidate: &Loaded, options: ParityOptions) -> PairReport {
    Parity::new(reference.side(), options).unwrap().compare(&candidate.side(), &mut |_| {})
}

/// The report as text, for the message of a failed test.
pub(crate) fn shown(reference: &Loaded, pair: &PairReport) -> String {
    let mut report = ParityReport::new(&reference.files.name, "embedded", &reference.side());
    report.pairs.push(pair.clone());
    lines(&report).iter().map(|line| format!("{}\n", line.text)).collect()
}

#[track_caller]
pub(crate) fn assert_passes(reference: &Loaded, candidate: &Loaded, options: ParityOptions) -> PairReport {
    let pair = compare(reference, candidate, options);
    assert!(pair.verdict < Verdict::Incomplete, "{}", shown(reference, &pair));
    pair
}
