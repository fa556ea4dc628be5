//! How a model's hidden states become an embedding, from all the files that say something of it.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::graph_pooling::PoolingSource;
use super::modules::{MODULES, Modules};
use super::{Pool, Pooling, Prompts, Similarity, Step};
use crate::config::{Fields, ModelConfig, parse_object};
use crate::error::{Error, Result};
use crate::files::{MAX_JSON_BYTES, ModelFiles, SETTINGS};
use crate::primitives::TokenId;

/// What is done to make an embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct EmbeddingConfig {
    /// From tokens to one vector.
    pub pooling: Pooling,
    /// What follows, in order.
    pub steps: Vec<Step>,
    /// The prompts.
    pub prompts: Prompts,
    /// How two vectors are compared.
    pub similarity: Similarity,
    /// Dimensions that are kept, unless others are asked for.
    pub dimensions: Option<usize>,
    /// The most tokens of a text, those that the tokenizer adds included.
    pub max_tokens: usize,
    /// Texts are turned to lower case before the tokenizer sees them.
    pub lower_case: bool,
    /// The tokens that end a text, for models whose tokenizer forgets them.
    pub(super) end_tokens: Vec<TokenId>,
    pub(super) pooling_source: PoolingSource,
    /// The output of a graph that pools by itself.
    pub(super) graph_output: Option<String>,
    /// What was not in the files and follows a rule, one line each.
    pub remarks: Vec<String>,
}

/// Lengths from here on stand for "none": transformers writes 1e30.
const NO_LENGTH: f64 = 1e9;

/// Said of a model whose files do not say how hidden states become a vector.
pub(super) const MEAN_BY_RULE: &str =
    "the pooling is `mean`, without normalisation: there is no `modules.json`, and that is the rule for such a model";

impl EmbeddingConfig {
    /// Reads what `files` say, beside the model's own `config`. `pooling` is used whatever they say.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a model that gives no vectors or needs code of its own, with its name; [`Error::BadFile`] and
    /// [`Error::BadField`] for damaged files.
    pub fn read(files: &ModelFiles, config: &ModelConfig, pooling: Option<Pooling>) -> Result<Self> {
        let mut remarks = Vec::new();
        let of_gguf = gguf_pooling(files)?;
        let (folder, (published, steps)) = match (Modules::read(files)?, of_gguf) {
            (Some(modules), _) => (modules.transformer, (Some(modules.pooling), modules.steps)),
            (None, Some(pooling)) => {
                remarks.push("vectors are normalised, as llama.cpp does: a GGUF file does not say".into());
                (String::new(), (Some(pooling), vec![Step::Normalize]))
            }
            (None, None) => (String::new(), (None, Vec::new())),
        };
        let (pooling, pooling_source) = match (pooling, published) {
            (Some(asked), _) => (asked, PoolingSource::Asked),
            (None, Some(published)) => (published, PoolingSource::Files),
            (None, None) => (unpublished_pooling(files, config, &mut remarks)?, PoolingSource::Rule),
        };
        let own = OwnSettings::read(files)?;
        let (length, lower_case) = (max_tokens(files, &folder)?, read_settings(files, &folder)?.1);
        let mut prompts = own.prompts;
        if prompts.by_name.values().all(String::is_empty)
            && let Some(known) = Prompts::known(&files.name)
        {
            remarks.push("the prompts are those of the model's card, since its files have none".into());
            prompts = known;
        }
        Ok(Self {
            pooling,
            steps,
            prompts,
            similarity: own.similarity,
            dimensions: own.dimensions,
            max_tokens: length.map_or(config.max_context, |length| length.min(config.max_context)),
            lower_case,
            end_tokens: config.eos_token_ids.clone(),
            pooling_source,
            graph_output: None,
            remarks,
        })
    }

    /// Whether vectors have length 1 when the model's files are followed.
    pub fn is_normalized(&self) -> bool {
        self.steps.last() == Some(&Step::Normalize)
    }

    /// The width of a vector of a model of `hidden_size`, before dimensions are cut.
    pub fn width(&self, hidden_size: usize) -> usize {
        let dense = self.steps.iter().rev().find_map(|step| match step {
            Step::Dense(dense) => Some(dense.outputs),
            Step::Normalize => None,
        });
        dense.unwrap_or_else(|| self.pooling.width(hidden_size))
    }

    /// Checks that each layer takes what the one before gives.
    ///
    /// # Errors
    /// [`Error::BadFile`] with both widths.
    pub(super) fn check_widths(&self, files: &ModelFiles, hidden_size: usize) -> Result<()> {
        let mut width = self.pooling.width(hidden_size);
        for step in &self.steps {
            let Step::Dense(dense) = step else { continue };
            if dense.inputs != width {
                return Err(Error::BadFile {
                    file: files.name.clone(),
                    problem: format!("a dense layer takes vectors of {}, and it would get vectors of {width}", dense.inputs),
                    hint: Some("the model's files do not belong together, or another pooling was asked for".into()),
                    source: None,
                });
            }
            width = dense.outputs;
        }
        Ok(())
    }
}

/// Whether the model of `files` was made to embed: an encoder was, and so was whatever has the files of sentence-transformers, or is a GGUF
/// file that says how it pools.
pub fn is_embedder(files: &ModelFiles, config: &ModelConfig) -> bool {
    !config.is_causal || files.beside(MODULES).is_some() || matches!(gguf_pooling(files), Ok(Some(_)))
}

/// The pooling that the metadata of a GGUF file names.
fn gguf_pooling(files: &ModelFiles) -> Result<Option<Pooling>> {
    let Some(gguf) = files.gguf() else { return Ok(None) };
    let of_name = |name: &str| name.parse().map(Pooling::of);
    let pooling = gguf.pooling()?.map(of_name).transpose();
    pooling.map_err(|error| Error::bad_field(gguf.file(), gguf.pooling_key(), error.to_string()))
}

/// The rule of sentence-transformers for a model of transformers alone is the mean. For a decoder it would take the last token since 5.4 and
/// the mean before, and whether such a model was ever trained to embed nobody said: that is asked.
fn unpublished_pooling(files: &ModelFiles, config: &ModelConfig, remarks: &mut Vec<String>) -> Result<Pooling> {
    let classes = config.raw().get("architectures");
    let class = classes.and_then(|classes| classes.get(0)).and_then(Value::as_str).unwrap_or_default();
    if class.ends_with("ForSequenceClassification") {
        return Err(Error::Unsupported {
            what: format!("embedding with `{}`", files.name),
            reason: format!("it is a `{class}`, whose head scores or labels texts, and was not trained to make vectors"),
            hint: Some("rerank with it, or use an embedding model".into()),
        });
    }
    if config.is_causal {
        return Err(Error::Unsupported {
            what: format!("embedding with `{}`", files.name),
            reason: format!(
                "it has no `{}`, which says how hidden states become a vector, and its architecture generates text",
                files.gguf().map_or(MODULES.into(), |gguf| gguf.pooling_key())
            ),
            hint: Some("use an embedding model, or name the pooling that this one was trained with, such as `lasttoken`".into()),
        });
    }
    remarks.push(MEAN_BY_RULE.into());
    Ok(Pooling::of(Pool::Mean))
}

/// `config_sentence_transformers.json`.
#[derive(Default)]
struct OwnSettings {
    prompts: Prompts,
    similarity: Similarity,
    dimensions: Option<usize>,
}

impl OwnSettings {
    fn read(files: &ModelFiles) -> Result<Self> {
        let Some(file) = files.beside("config_sentence_transformers.json") else { return Ok(Self::default()) };
        let name = file.name();
        let object = parse_object(&name, &file.read(MAX_JSON_BYTES)?)?;
        let fields = Fields::root(&name, &object);
        refuse_other_models(&fields)?;
        let mut by_name = BTreeMap::new();
        for (key, value) in fields.object("prompts")?.iter().flat_map(Fields::entries) {
            let text = value.as_str().ok_or_else(|| fields.error(&format!("prompts.{key}"), "is not a text"))?;
            by_name.insert(key.clone(), text.to_owned());
        }
        let default_name = fields.string("default_prompt_name")?.map(str::to_owned);
        if let Some(missing) = default_name.as_ref().filter(|name| !by_name.contains_key(*name)) {
            return Err(fields.error("default_prompt_name", format!("names `{missing}`, which is not among the prompts")));
        }
        let similarity = match fields.string("similarity_fn_name")? {
            Some(name) => name.parse().map_err(|error| fields.error("similarity_fn_name", format!("{error}")))?,
            None => Similarity::default(),
        };
        let dimensions = fields.integer("truncate_dim", 1..=1 << 20)?;
        Ok(Self { prompts: Prompts { by_name, default_name }, similarity, dimensions })
    }
}

fn refuse_other_models(fields: &Fields<'_>) -> Result<()> {
    let (reason, hint) = match fields.string("model_type")? {
        None | Some("SentenceTransformer") => return Ok(()),
        Some("CrossEncoder") => ("it scores pairs of texts and gives no vectors", Some("rerank with it".into())),
        Some("SparseEncoder") => ("it gives sparse vectors", None),
        Some("MultiVectorEncoder") => ("it gives a vector for each token", None),
        Some(_) => ("it is not known", None),
    };
    let kind = fields.string("model_type")?.unwrap_or_default();
    Err(Error::Unsupported {
        what: format!("embedding with a `{kind}` (`model_type` of `{}`)", fields.file()),
        reason: reason.into(),
        hint,
    })
}

/// The most tokens of a text, from wherever `files` say it; `folder` is that of the model itself.
pub(crate) fn max_tokens(files: &ModelFiles, folder: &str) -> Result<Option<usize>> {
    match read_settings(files, folder)?.0 {
        Some(length) => Ok(Some(length)),
        None => tokenizer_length(files),
    }
}

/// `max_seq_length` and `do_lower_case`.
fn read_settings(files: &ModelFiles, folder: &str) -> Result<(Option<usize>, bool)> {
    let place = |name: &str| if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
    let Some(file) = SETTINGS.iter().find_map(|name| files.beside(&place(name))) else { return Ok((None, false)) };
    let name = file.name();
    let object = parse_object(&name, &file.read(MAX_JSON_BYTES)?)?;
    let fields = Fields::root(&name, &object);
    let length = fields.integer("max_seq_length", 1..=NO_LENGTH as usize)?;
    Ok((length, fields.boolean("do_lower_case")?.unwrap_or(false)))
}

/// `model_max_length` of `tokenizer_config.json`, where a model since 5.4 has its length.
fn tokenizer_length(files: &ModelFiles) -> Result<Option<usize>> {
    let Some(file) = &files.tokenizer_config else { return Ok(None) };
    let object: Map<String, Value> = parse_object(&file.name(), &file.read(MAX_JSON_BYTES)?)?;
    let Some(value) = object.get("model_max_length").filter(|value| !value.is_null()) else { return Ok(None) };
    match value.as_f64() {
        Some(length) if length >= NO_LENGTH => Ok(None),
        Some(length) if length >= 1.0 => Ok(Some(length as usize)),
        _ => Err(Error::bad_field(file.name(), "model_max_length", format!("is `{value}`, which is not a number of tokens"))),
    }
}
