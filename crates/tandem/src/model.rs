//! A model with its tokenizer and chat template: text in, text out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tandem_core::adapter::ScaledAdapter;
use tandem_core::config::{GenerationConfig, ModelConfig};
use tandem_core::files::{MAX_JSON_BYTES, ModelFile, ModelFiles};
use tandem_core::generate::{GenerateOptions, Generation};
use tandem_core::sampler::SamplingOptions;
use tandem_core::scheduler::{Scheduler, SchedulerOptions};
use tandem_core::sequence::Sequence;
use tandem_core::speculation::DraftModel;
use tandem_core::stop::StopOptions;
use tandem_core::template::{ChatMessage, ChatTemplate, RenderOptions, TemplateTokens, TokenizerConfig};
use tandem_core::tokenizer::Tokenizer;
use tandem_core::{Error, Model, ModelInfo, Remedy, Result, SessionOptions, TokenId};

use crate::opened::{OpenedModel, adapted};
use crate::plan::{DTypeChoice, Planner};
use crate::reference::ModelRef;
use crate::resolver::{Admission, Resolver};
use crate::settings::Settings;

/// The largest published tokenizers have some 30 MB.
const MAX_TOKENIZER_BYTES: u64 = 64 << 20;

/// A loaded model that speaks text. Copies share it.
#[derive(Clone)]
pub struct TextModel {
    model: Arc<dyn Model>,
    files: ModelFiles,
    tokenizer: Arc<Tokenizer>,
    template: Option<ChatTemplate>,
    generation_config: GenerationConfig,
    end_tokens: Vec<TokenId>,
    load_time: Duration,
    planner: Planner,
    dtype_choice: Option<DTypeChoice>,
    admission: Option<Admission>,
}

/// Finds the model that `reference` names, downloads it if need be, and loads it: see [`ModelRef`] for what it may be, and
/// [`Resolver::from_env`] for where it is looked for.
///
/// ```no_run
/// use tandem::{DType, LoadOptions, Settings};
///
/// # fn main() -> tandem::Result<()> {
/// let demo = tandem::load("demo", &Settings::default())?;
/// let load = LoadOptions::new().with_dtype(DType::Int4);
/// let model = tandem::load("auto", &Settings { load, ..Settings::default() })?;
/// println!("{} on {}", model.info().name, model.info().device);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// An error says what is at fault (the reference, a file, a field, the device, the memory) and what to do; nothing is tried in its
/// place.
pub fn load(reference: impl Into<ModelRef>, settings: &Settings) -> Result<TextModel> {
    Resolver::from_env()?.load(&reference.into(), settings)
}

impl Resolver {
    /// Finds the model that `reference` names, downloads it if need be, and loads it, unless it exceeds a limit of memory. What is more
    /// than is free is loaded, and [`TextModel::admission`] says what would fit.
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve), [`find`](Self::find), [`open`](Self::open), [`admit`](Self::admit) and [`OpenedModel::load`].
    pub fn load(&self, reference: &ModelRef, settings: &Settings) -> Result<TextModel> {
        let settings = &self.find_adapters(settings)?;
        let files = self.find(&self.resolve(reference, settings)?, settings)?;
        let opened = self.open(files, settings)?;
        let admission = self.admit(&opened, settings.planned_tokens())?;
        Ok(TextModel { admission, ..opened.load()? })
    }
}

impl OpenedModel {
    /// Loads its weights, its tokenizer and its chat template.
    ///
    /// # Errors
    /// As [`load`].
    pub fn load(self) -> Result<TextModel> {
        let Self { files, opened, open_time, planner, dtype_choice, adapters, .. } = self;
        let (started, config) = (Instant::now(), opened.config().clone());
        if !config.is_causal {
            return Err(Error::Unsupported {
                what: format!("text generation with `{}`", files.name),
                reason: format!("it is a model that embeds texts (`{}`) and generates none", config.architecture),
                hint: Some(Remedy::Embed.into()),
            });
        }
        // A published tokenizer takes as long as a small model's weights: they are read side by side. It is hundreds of thousands of small
        // allocations, for which the heap of a program's first thread grows in larger steps than those of others (GNU C library).
        let (text, model) = std::thread::scope(|scope| {
            let model = scope.spawn(|| opened.load().and_then(|model| adapted(model, &adapters)));
            let text = Text::read(&files, &config);
            (text, model.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        let Text { tokenizer, template, generation_config, end_tokens } = text?;
        let (model, load_time) = (model?, open_time + started.elapsed());
        Ok(TextModel {
            model,
            files,
            planner,
            dtype_choice,
            tokenizer: Arc::new(tokenizer),
            template,
            generation_config,
            end_tokens,
            load_time,
            admission: None,
        })
    }
}

impl TextModel {
    /// Loads the model of `files`, whatever memory there is.
    ///
    /// # Errors
    /// As [`load`].
    pub fn load(files: ModelFiles, settings: &Settings) -> Result<Self> {
        OpenedModel::open(files, settings)?.load()
    }

    /// What was loaded and where it runs.
    pub fn info(&self) -> &ModelInfo {
        self.model.info()
    }

    /// The model beneath, for work on tokens.
    pub fn model(&self) -> &Arc<dyn Model> {
        &self.model
    }

    /// The same model with the sum of `adapters` in the place of those that it has; with none it is the model as published. Weights are
    /// shared, and `self` stays as it is.
    ///
    /// # Errors
    /// As [`Model::with_adapters`].
    pub fn with_adapters(&self, adapters: &[ScaledAdapter]) -> Result<Self> {
        Ok(Self { model: self.model.with_adapters(adapters)?, ..self.clone() })
    }

    /// The files it was loaded from.
    pub fn files(&self) -> &ModelFiles {
        &self.files
    }

    /// Plans the memory that it takes.
    pub fn planner(&self) -> &Planner {
        &self.planner
    }

    /// The dtypes that its own was chosen from, where there was a choice.
    pub fn dtype_choice(&self) -> Option<&DTypeChoice> {
        self.dtype_choice.as_ref()
    }

    /// What it was expected to take when it was loaded; `None` where that was not asked or cannot be planned.
    pub fn admission(&self) -> Option<&Admission> {
        self.admission.as_ref()
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The chat template, if the model has one.
    pub fn template(&self) -> Option<&ChatTemplate> {
        self.template.as_ref()
    }

    /// The tokens that end a text: those of `generation_config.json`, `config.json` and `tokenizer_config.json` together.
    pub fn end_tokens(&self) -> &[TokenId] {
        &self.end_tokens
    }

    /// How long loading took.
    pub fn load_time(&self) -> Duration {
        self.load_time
    }

    /// A drafter for this model: `draft`, a smaller one of the same tokenizer.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for another tokenizer; as [`new_sequence`](Self::new_sequence).
    pub fn draft_model(&self, draft: &Self, options: &SessionOptions) -> Result<DraftModel> {
        /// Ids that are compared: each so many-th.
        const STRIDE: usize = 97;
        let n = self.tokenizer.n_tokens().min(draft.tokenizer.n_tokens());
        let differs = |id: &TokenId| self.tokenizer.token(*id) != draft.tokenizer.token(*id);
        if let Some(id) = (0..n as TokenId).step_by(STRIDE).find(differs) {
            return Err(Error::Unsupported {
                what: format!("drafting for `{}` with `{}`", self.info().name, draft.info().name),
                reason: format!("their tokenizers differ, at token {id}"),
                hint: Some("use a smaller model of the same family".into()),
            });
        }
        // The longer context of the two is of no use.
        let mut options = options.clone();
        options.context_length = options.context_length.map(|n| n.min(draft.info().max_context));
        DraftModel::new(&*draft.model, self.info().vocab_size, &options)
    }

    /// The tokens of `text` as it is, with the special tokens that the tokenizer puts around a text (Llama's begins with one).
    ///
    /// # Errors
    /// [`Error::EmptyPrompt`], and the tokenizer's own.
    pub fn raw_prompt(&self, text: &str) -> Result<Vec<TokenId>> {
        let ids = self.tokenizer.encode_with_template(text)?;
        if ids.is_empty() { Err(Error::EmptyPrompt) } else { Ok(ids) }
    }

    /// The tokens of a conversation, up to where the model is to answer. Special tokens within messages stand for their text only.
    ///
    /// # Errors
    /// [`Error::Template`] when the model has no template or it refuses the messages.
    pub fn chat_prompt(&self, messages: &[ChatMessage]) -> Result<Vec<TokenId>> {
        let template = self.template.as_ref().ok_or_else(|| ChatTemplate::missing(&self.files.name))?;
        let options = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
        template.render(messages, &options)?.encode(&self.tokenizer)
    }

    /// An empty sequence.
    ///
    /// # Errors
    /// As [`Model::new_session`].
    pub fn new_sequence(&self, options: &SessionOptions) -> Result<Sequence> {
        Sequence::new(&*self.model, options)
    }

    /// Serves many requests at once.
    ///
    /// # Errors
    /// As [`Scheduler::new`].
    pub fn scheduler(&self, options: SchedulerOptions) -> Result<Scheduler> {
        Scheduler::new(Arc::clone(&self.model), Tokenizer::clone(&self.tokenizer), options)
    }

    /// How the model's publisher would have it generate: `generation_config.json`, greedy where it does not say to sample.
    pub fn default_sampling(&self) -> SamplingOptions {
        let published = &self.generation_config;
        let greedy = SamplingOptions::greedy();
        if published.do_sample != Some(true) {
            return SamplingOptions { repetition_penalty: number(published.repetition_penalty, 1.0), ..greedy };
        }
        SamplingOptions {
            temperature: number(published.temperature, 1.0),
            top_k: published.top_k.unwrap_or(0),
            top_p: number(published.top_p, 1.0),
            min_p: number(published.min_p, 0.0),
            typical_p: number(published.typical_p, 1.0),
            repetition_penalty: number(published.repetition_penalty, 1.0),
            ..greedy
        }
    }

    /// Options that end at the model's end tokens and sample as published.
    pub fn default_options(&self) -> GenerateOptions {
        let stop = StopOptions { end_tokens: self.end_tokens.clone(), stop_strings: Vec::new() };
        GenerateOptions::new(None, self.default_sampling(), stop)
    }

    /// Continues `prompt` in `sequence`.
    ///
    /// # Errors
    /// As [`Generation::new`].
    pub fn generate<'a>(
        &self,
        sequence: &'a mut Sequence,
        prompt: &[TokenId],
        options: GenerateOptions,
    ) -> Result<Generation<'a>> {
        Generation::new(sequence, &self.tokenizer, prompt, options)
    }
}

/// What a model has beside its weights.
pub(crate) struct Text {
    pub(crate) tokenizer: Tokenizer,
    pub(crate) template: Option<ChatTemplate>,
    generation_config: GenerationConfig,
    pub(crate) end_tokens: Vec<TokenId>,
}

impl Text {
    pub(crate) fn read(files: &ModelFiles, config: &ModelConfig) -> Result<Self> {
        let tokenizer = read_tokenizer(files)?;
        tokenizer.check_vocabulary(config.vocab_size, &files.config.name())?;
        let tokenizer_config = read_tokenizer_config(files)?;
        let template = read_template(files, tokenizer_config.as_ref(), &tokenizer)?;
        let generation_config =
            files.generation_config.as_ref().map(GenerationConfig::from_file).transpose()?.unwrap_or_default();
        let end_tokens = end_tokens(config, &generation_config, tokenizer_config.as_ref(), &tokenizer);
        Ok(Self { tokenizer, template, generation_config, end_tokens })
    }
}

fn number(published: Option<f64>, otherwise: f32) -> f32 {
    published.map_or(otherwise, |value| value as f32)
}

pub(crate) fn read_tokenizer(files: &ModelFiles) -> Result<Tokenizer> {
    let file = files.tokenizer.as_ref().ok_or_else(|| Error::BadFile {
        file: files.name.clone(),
        problem: "there is no `tokenizer.json` among the model's files".into(),
        hint: Some("download it from where the model was published".into()),
        source: None,
    })?;
    Tokenizer::from_json(&file.read(MAX_TOKENIZER_BYTES)?, &file.name())
}

pub(crate) fn read_tokenizer_config(files: &ModelFiles) -> Result<Option<TokenizerConfig>> {
    let read = |file: &ModelFile| TokenizerConfig::parse(&file.read(MAX_JSON_BYTES)?, &file.name());
    files.tokenizer_config.as_ref().map(read).transpose()
}

pub(crate) fn read_template(
    files: &ModelFiles,
    config: Option<&TokenizerConfig>,
    tokenizer: &Tokenizer,
) -> Result<Option<ChatTemplate>> {
    let tokens = TemplateTokens::new(config, tokenizer);
    let jinja = files.chat_template.as_ref().map(|file| Ok::<_, Error>((file.read(MAX_JSON_BYTES)?, file.name()))).transpose()?;
    ChatTemplate::choose(jinja.as_ref().map(|(bytes, name)| (&**bytes, &**name)), config, tokens)
}

/// The union of what the three files name: published models are known to leave one or the other out.
fn end_tokens(
    config: &ModelConfig,
    generation: &GenerationConfig,
    tokenizer_config: Option<&TokenizerConfig>,
    tokenizer: &Tokenizer,
) -> Vec<TokenId> {
    let named = tokenizer_config.and_then(TokenizerConfig::eos_token).and_then(|token| tokenizer.id(token));
    let mut tokens: Vec<TokenId> = config.eos_token_ids.iter().chain(&generation.eos_token_ids).copied().chain(named).collect();
    tokens.sort_unstable();
    tokens.dedup();
    tokens
}
