//! `modules.json`: the parts of a sentence-transformers model, in order.

use std::path::{Component, Path};

use serde_json::Value;

use super::dense::Dense;
use super::{Pool, Pooling, Step};
use crate::config::{Fields, parse_object};
use crate::error::{Error, Result};
use crate::files::{MAX_JSON_BYTES, ModelFile, ModelFiles};

/// The file's name.
pub(super) const MODULES: &str = "modules.json";

/// What to do about a file that is missing or damaged.
const OBTAIN_AGAIN: &str = "obtain the model's directory again from where it was published, folders such as `1_Pooling` included";

/// What the files say is done with hidden states.
pub(super) struct Modules {
    /// The folder of the model itself, relative to the directory; empty for the directory.
    pub(super) transformer: String,
    pub(super) pooling: Pooling,
    pub(super) steps: Vec<Step>,
}

/// One entry of `modules.json`.
struct Module {
    kind: String,
    path: String,
}

/// The older names of modes, as booleans of `1_Pooling/config.json`; they are concatenated in this order.
const OLD_MODES: [(&str, Pool); 6] = [
    ("pooling_mode_cls_token", Pool::Cls),
    ("pooling_mode_max_tokens", Pool::Max),
    ("pooling_mode_mean_tokens", Pool::Mean),
    ("pooling_mode_mean_sqrt_len_tokens", Pool::MeanSqrtLen),
    ("pooling_mode_weightedmean_tokens", Pool::WeightedMean),
    ("pooling_mode_lasttoken", Pool::LastToken),
];

impl Modules {
    /// Reads `modules.json` and what it names; `None` where a model has none.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a part that is not known, by its name; [`Error::BadFile`] and [`Error::BadField`] for damaged files.
    pub(super) fn read(files: &ModelFiles) -> Result<Option<Self>> {
        let Some(file) = files.beside(MODULES) else { return Ok(None) };
        let name = file.name().into_owned();
        let mut modules = entries(&name, &file.read(MAX_JSON_BYTES)?)?.into_iter();
        let first = modules.next().ok_or_else(|| bad(&name, "it lists no module"))?;
        if first.kind != "Transformer" {
            return Err(unsupported(&name, &first.kind));
        }
        let (mut pooling, mut steps) = (None, Vec::new());
        for module in modules {
            let place = format!("{}/config.json", module.path);
            match (module.kind.as_str(), &pooling) {
                ("Pooling", None) => pooling = Some(read_pooling(&required(files, &place)?)?),
                ("Normalize", Some(_)) => steps.push(Step::Normalize),
                // It does nothing but in training.
                ("Dropout", _) => {}
                ("Dense", Some(_)) => {
                    let config = required(files, &place)?;
                    let object = parse_object(&config.name(), &config.read(MAX_JSON_BYTES)?)?;
                    let find = |file: &str| files.beside(&format!("{}/{file}", module.path));
                    steps.push(Step::Dense(Dense::read(&Fields::root(&config.name(), &object), find)?));
                }
                (other, _) => return Err(unsupported(&name, other)),
            }
        }
        let pooling = pooling.ok_or_else(|| Error::Unsupported {
            what: format!("the model of `{name}` without a module `Pooling`"),
            reason: "it gives no vector for a text".into(),
            hint: None,
        })?;
        Ok(Some(Self { transformer: first.path, pooling, steps }))
    }
}

fn entries(file: &str, json: &[u8]) -> Result<Vec<Module>> {
    let value: Value = serde_json::from_slice(json)
        .map_err(|error| Error::bad_file(file, "is not valid JSON", error).with_hint(OBTAIN_AGAIN))?;
    let list = value.as_array().ok_or_else(|| bad(file, "is not a list of modules"))?;
    let mut modules = Vec::with_capacity(list.len());
    for (i, value) in list.iter().enumerate() {
        let wrong = |field: &str, problem: &str| Error::bad_field(file, format!("[{i}].{field}"), problem);
        let object = value.as_object().ok_or_else(|| Error::bad_field(file, format!("[{i}]"), "is not an object"))?;
        let text = |field: &str| object.get(field).and_then(Value::as_str);
        let kind = text("type").ok_or_else(|| wrong("type", "is not the name of a class"))?;
        let Some((package, class)) = kind.rsplit_once('.').filter(|(package, _)| package.starts_with("sentence_transformers"))
        else {
            return Err(Error::Unsupported {
                what: format!("the module `{kind}` of `{file}`"),
                reason: "it is Python code from the model's repository, which is not run here".into(),
                hint: None,
            });
        };
        debug_assert!(!package.is_empty(), "it begins with a name");
        let path = text("path").ok_or_else(|| wrong("path", "is not a folder"))?.trim_end_matches('/');
        if path.contains(['\\', ':', '\0']) || !Path::new(path).components().all(|part| matches!(part, Component::Normal(_))) {
            return Err(wrong("path", "is not a folder below the model's directory"));
        }
        let index = object.get("idx").and_then(Value::as_u64).unwrap_or(i as u64);
        modules.push((index, Module { kind: class.into(), path: path.into() }));
    }
    modules.sort_by_key(|(index, _)| *index);
    Ok(modules.into_iter().map(|(_, module)| module).collect())
}

fn read_pooling(file: &ModelFile) -> Result<Pooling> {
    let name = file.name();
    let object = parse_object(&name, &file.read(MAX_JSON_BYTES)?)?;
    let fields = Fields::root(&name, &object);
    let mut pools = Vec::new();
    match fields.get("pooling_mode") {
        Some(mode) => {
            let modes = mode.as_array().map_or_else(|| vec![mode], |list| list.iter().collect());
            for mode in modes {
                let mode = mode.as_str().ok_or_else(|| fields.wrong_type("pooling_mode", "the name of a mode"))?;
                // transformers' name is shorter than the one in a list of modes.
                let known = mode.parse().map_err(|error| fields.error("pooling_mode", format!("{error}")))?;
                pools.push(known);
            }
        }
        None => {
            for (field, pool) in OLD_MODES {
                if fields.boolean(field)?.unwrap_or(false) {
                    pools.push(pool);
                }
            }
        }
    }
    if pools.is_empty() {
        pools.push(Pool::Mean);
    }
    Ok(Pooling { pools, include_prompt: fields.boolean("include_prompt")?.unwrap_or(true) })
}

fn required(files: &ModelFiles, place: &str) -> Result<ModelFile> {
    let what_for = "the module that `modules.json` names";
    let path = || files.directory().unwrap_or(Path::new("")).join(place);
    files.beside(place).ok_or_else(|| Error::missing_file(path(), what_for).with_hint(OBTAIN_AGAIN))
}

fn unsupported(file: &str, kind: &str) -> Error {
    let reason = match kind {
        "Router" | "Asym" => "it sends queries and documents through different models",
        "StaticEmbedding" | "WordEmbeddings" | "BoW" => "it has a table of words and no transformer",
        "SpladePooling" | "SparseStaticEmbedding" | "MLMTransformer" => "it gives sparse vectors",
        "LogitScore" => "it is a reranker, which scores pairs of texts",
        "CLIPModel" => "it is a model of text and images",
        _ => "in this place only `Transformer`, `Pooling`, `Dense` and `Normalize` are known, in this order",
    };
    let hint = (kind == "LogitScore").then(|| "rerank with it".into());
    Error::Unsupported { what: format!("the module `{kind}` of `{file}`"), reason: reason.into(), hint }
}

fn bad(file: &str, problem: &str) -> Error {
    Error::BadFile { file: file.into(), problem: problem.into(), hint: None, source: None }
}
