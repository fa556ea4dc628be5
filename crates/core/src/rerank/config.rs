//! How a reranker's scores are made, from all the files that say something of it.

use serde_json::Value;

use crate::backend::Purpose;
use crate::config::{Fields, ModelConfig, parse_object};
use crate::embedding::max_tokens;
use crate::error::{Error, Result};
use crate::files::{MAX_JSON_BYTES, ModelFile, ModelFiles};
use crate::primitives::TokenId;
use crate::tokenizer::Tokenizer;

/// What becomes of a logit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScoreActivation {
    /// Nothing.
    Identity,
    /// `1 / (1 + exp(-x))`
    Sigmoid,
}

/// The tokens by which a language model answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answers {
    pub(super) yes: TokenId,
    pub(super) no: TokenId,
}

/// The prompt of the cards of `Qwen/Qwen3-Reranker-*`, as a template with the roles that sentence-transformers has for a pair. Jinja drops
/// one line break at the end.
const QWEN3_RERANKER: &str = concat!(
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct provided. ",
    "Note that the answer can only be \"yes\" or \"no\".<|im_end|>\n<|im_start|>user\n",
    "<Instruct>: {{ messages | selectattr('role', 'eq', 'system') | map(attribute='content') | first | ",
    "default('Given a web search query, retrieve relevant passages that answer the query') }}\n",
    "<Query>: {{ messages | selectattr('role', 'eq', 'query') | map(attribute='content') | first }}\n",
    "<Document>: {{ messages | selectattr('role', 'eq', 'document') | map(attribute='content') | first }}<|im_end|>\n",
    "<|im_start|>assistant\n<think>\n\n</think>\n\n\n",
);

/// How a reranker's scores are made.
#[derive(Clone, Debug, PartialEq)]
pub struct RerankConfig {
    /// What becomes of a logit.
    pub activation: ScoreActivation,
    /// The most tokens of a pair.
    pub max_tokens: usize,
    /// For language models.
    pub(super) answers: Option<Answers>,
    /// A pair goes through a chat template, which has roles for its two texts.
    pub(super) has_pair_template: bool,
    /// That template, where it is not the one of the files.
    own_template: Option<&'static str>,
    /// What was not in the files and follows a rule, one line each.
    pub remarks: Vec<String>,
}

impl ScoreActivation {
    /// Its value at `x`.
    pub fn of(self, x: f64) -> f64 {
        match self {
            Self::Identity => x,
            Self::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        }
    }

    /// Its name in a report.
    pub fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Sigmoid => "sigmoid",
        }
    }
}

impl RerankConfig {
    /// Reads what `files` say, beside the model's own `config`; `template` is the source of their chat template.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a model that scores no pairs; [`Error::BadFile`] and [`Error::BadField`] for damaged files.
    pub fn read(files: &ModelFiles, config: &ModelConfig, tokenizer: &Tokenizer, template: Option<&str>) -> Result<Self> {
        let mut remarks = Vec::new();
        let has_roles = template.is_some_and(|source| ["query", "document"].iter().all(|role| names_role(source, role)));
        let own_template = (!has_roles && is_qwen3_reranker(files)).then_some(QWEN3_RERANKER);
        if own_template.is_some() {
            remarks.push("the prompt is that of the model's card, since its files have none for a query and a document".into());
        }
        let answers = match answers(files)? {
            None if is_qwen3_reranker(files) && class(config).ends_with("ForCausalLM") => Some(card_answers(tokenizer)?),
            found => found,
        };
        if answers.is_none() {
            check_is_classifier(files, config)?;
        }
        let activation = match activation(files, config)? {
            Some(activation) => activation,
            None => {
                remarks
                    .push("scores go through a sigmoid: the files name no activation, and that is the rule for one label".into());
                ScoreActivation::Sigmoid
            }
        };
        let has_pair_template = has_roles || own_template.is_some();
        let max_tokens = max_tokens(files, "")?.map_or(config.max_context, |length| length.min(config.max_context));
        Ok(Self { activation, max_tokens, answers, has_pair_template, own_template, remarks })
    }

    /// The source of the template that pairs go through, where it is not the one of the files.
    pub fn own_template(&self) -> Option<&'static str> {
        self.own_template
    }

    /// Whether `files` are of a language model that scores pairs by its answers. Files that are damaged say nothing.
    pub fn is_language_model(files: &ModelFiles) -> bool {
        is_qwen3_reranker(files) || matches!(answers(files), Ok(Some(_)))
    }

    /// What its model is to be loaded for.
    pub fn purpose(&self) -> Purpose {
        if self.answers.is_some() { Purpose::Generate } else { Purpose::Encode }
    }
}

/// The models of this name were published before there were files for what their card says.
fn is_qwen3_reranker(files: &ModelFiles) -> bool {
    let name = files.name.trim_end_matches('/').rsplit(['/', '\\']).next().unwrap_or_default();
    name.to_lowercase().starts_with("qwen3-reranker")
}

fn card_answers(tokenizer: &Tokenizer) -> Result<Answers> {
    let id = |token: &str| {
        let missing =
            || Error::bad_field(tokenizer.file(), "model.vocab", format!("has no token `{token}`, by which the model answers"));
        tokenizer.id(token).ok_or_else(missing)
    };
    Ok(Answers { yes: id("yes")?, no: id("no")? })
}

fn class(config: &ModelConfig) -> &str {
    config.raw().get("architectures").and_then(|classes| classes.get(0)).and_then(Value::as_str).unwrap_or_default()
}

fn names_role(template: &str, role: &str) -> bool {
    template.contains(&format!("\"{role}\"")) || template.contains(&format!("'{role}'"))
}

/// The tokens of a `LogitScore` module.
fn answers(files: &ModelFiles) -> Result<Option<Answers>> {
    let Some(modules) = files.beside("modules.json") else { return Ok(None) };
    let name = modules.name().into_owned();
    let list: Value = serde_json::from_slice(&modules.read(MAX_JSON_BYTES)?)
        .map_err(|error| Error::bad_file(&name, "is not valid JSON", error))?;
    let is_score = |module: &&Value| module.get("type").and_then(Value::as_str).is_some_and(|kind| kind.ends_with(".LogitScore"));
    let Some(module) = list.as_array().and_then(|list| list.iter().find(is_score)) else { return Ok(None) };
    let path = module.get("path").and_then(Value::as_str).unwrap_or_default();
    let is_plain = !path.is_empty() && path.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c));
    if !is_plain {
        return Err(Error::bad_field(name, "path", "is not a folder below the model's directory"));
    }
    let place = format!("{path}/config.json");
    let file = files.beside(&place).ok_or_else(|| {
        Error::missing_file(
            files.directory().map_or_else(|| place.clone().into(), |dir| dir.join(&place)),
            "the scores of this model",
        )
    })?;
    let object = parse_object(&file.name(), &file.read(MAX_JSON_BYTES)?)?;
    let name = file.name();
    let fields = Fields::root(&name, &object);
    let token = |field: &str| fields.token(field)?.ok_or_else(|| fields.missing(field));
    Ok(Some(Answers { yes: token("true_token_id")?, no: token("false_token_id")? }))
}

/// A cross-encoder has one label, and a class of transformers that has a head.
fn check_is_classifier(files: &ModelFiles, config: &ModelConfig) -> Result<()> {
    let (raw, class) = (config.raw(), class(config));
    if !class.is_empty() && !class.ends_with("ForSequenceClassification") {
        return Err(Error::Unsupported {
            what: format!("reranking with `{}`", files.name),
            reason: format!("it is a `{class}`, which has no head that scores pairs of texts"),
            hint: Some(
                "use a cross-encoder, such as one of the `bge-reranker` or `ms-marco` families, or embed texts with this one"
                    .into(),
            ),
        });
    }
    let n_labels = raw.get("id2label").and_then(Value::as_object).map(serde_json::Map::len);
    match n_labels.or_else(|| raw.get("num_labels").and_then(Value::as_u64).map(|n| n as usize)) {
        None | Some(1) => Ok(()),
        Some(n) => Err(Error::Unsupported {
            what: format!("reranking with `{}`", files.name),
            reason: format!("it tells {n} labels apart (`id2label`), and a reranker has one"),
            hint: None,
        }),
    }
}

/// In the order of sentence-transformers: its own file, then two places in `config.json`.
fn activation(files: &ModelFiles, config: &ModelConfig) -> Result<Option<ScoreActivation>> {
    let own = match files.beside("config_sentence_transformers.json") {
        Some(file) => own_activation(&file)?,
        None => None,
    };
    let raw = config.raw();
    let in_config = || {
        let place = raw.get("sentence_transformers").and_then(|own| own.get("activation_fn"));
        place.or_else(|| raw.get("sbert_ce_default_activation_function")).and_then(Value::as_str).map(str::to_owned)
    };
    let Some(name) = own.or_else(in_config) else { return Ok(None) };
    match name.rsplit('.').next() {
        Some("Identity") => Ok(Some(ScoreActivation::Identity)),
        Some("Sigmoid") => Ok(Some(ScoreActivation::Sigmoid)),
        _ => Err(Error::Unsupported {
            what: format!("the activation `{name}` of `{}`", files.name),
            reason: "scores are known with `Identity` and `Sigmoid`".into(),
            hint: None,
        }),
    }
}

fn own_activation(file: &ModelFile) -> Result<Option<String>> {
    let name = file.name();
    let object = parse_object(&name, &file.read(MAX_JSON_BYTES)?)?;
    let fields = Fields::root(&name, &object);
    if let Some(kind @ ("SentenceTransformer" | "SparseEncoder" | "MultiVectorEncoder")) = fields.string("model_type")? {
        return Err(Error::Unsupported {
            what: format!("reranking with a `{kind}` (`model_type` of `{name}`)"),
            reason: "it makes vectors of texts and scores no pairs".into(),
            hint: Some(crate::Remedy::Embed.into()),
        });
    }
    Ok(fields.string("activation_fn")?.map(str::to_owned))
}
