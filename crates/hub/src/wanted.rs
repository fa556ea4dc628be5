//! Which files of a repository a backend needs at a dtype: a download of gigabytes that nothing reads helps nobody.

mod gguf;

use std::collections::BTreeSet;

use serde_json::Value;
use tandem_core::files::ModelFiles;
use tandem_core::{BackendKind, DType, Error, Remedy, Result};

use crate::repository::HubReference;

/// What a model has beside its weights; none of them is large. The last four say how an embedding is made of hidden states.
const SMALL: [&str; 9] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "modules.json",
    "1_Pooling/config.json",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
];

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const GENAI_CONFIG: &str = "genai_config.json";

/// What the files are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The engine that is to load them.
    pub backend: BackendKind,
    /// The dtype that it is to have; `None` is the most precise there is.
    pub dtype: Option<DType>,
}

/// Reads a small file of the repository, which is brought here for that.
pub(crate) type Read<'r> = &'r dyn Fn(&str) -> Result<Vec<u8>>;

impl Wanted {
    /// Which of `names`, the files of the repository of `reference`, are needed: the small ones first. `read` is asked for the files that
    /// name others.
    ///
    /// The choice between graphs and checkpoint is that of the backends themselves when they load a directory with all of `names`. A GGUF
    /// file is a model by itself, and is taken where there is nothing else or where the reference names it.
    ///
    /// # Errors
    /// [`Error::ModelNotFound`] and [`Error::Unsupported`] when the repository has nothing for the backend, [`Error::BadField`] when one
    /// of its files names what it has not, and the errors of `read`.
    pub(crate) fn select(&self, reference: &HubReference, names: &[&str], read: Read<'_>) -> Result<Vec<String>> {
        let model = reference.repository.id();
        let has = |name: &str| names.contains(&name);
        let has_others = names.iter().any(|name| name.ends_with(".safetensors") || name.ends_with(".onnx"));
        if names.iter().any(|name| gguf::is_gguf(name)) && (reference.variant.is_some() || !has_others) {
            let beside = gguf::BESIDE.into_iter().filter(|name| has(name)).map(str::to_owned);
            return Ok(beside.chain([gguf::choose(*self, reference, names)?]).collect());
        }
        if let Some(variant) = &reference.variant {
            return Err(no_variants(model, variant.as_str()));
        }
        let files = ModelFiles::listed(model, names)?;
        let mut selected: Vec<String> = SMALL.into_iter().filter(|name| has(name)).map(str::to_owned).collect();
        let has_weights = has(SINGLE) || has(INDEX);
        if self.backend != BackendKind::Candle {
            if has(GENAI_CONFIG) {
                selected.push(GENAI_CONFIG.into());
                selected.extend(with_data(&genai_graph(model, names, read)?, names));
                return Ok(selected);
            }
            match files.graph_for(self.dtype) {
                Ok(graph) => {
                    selected.extend(with_data(&graph.file.name(), names));
                    return Ok(selected);
                }
                Err(none) if !has_weights || !(files.graphs.is_empty() || self.dtype.is_some()) => {
                    return Err(if files.graphs.is_empty() { nothing_usable(model, names) } else { none });
                }
                Err(_) => {}
            }
        }
        if !has_weights {
            return Err(match files.graphs.is_empty() {
                true => nothing_usable(model, names),
                false => no_checkpoint(model),
            });
        }
        if has(SINGLE) {
            selected.push(SINGLE.into());
        } else {
            selected.push(INDEX.into());
            selected.extend(shards(model, names, read)?);
        }
        Ok(selected)
    }
}

/// A graph and the files beside it that its weights are in, as exporters call them: `model.onnx_data`, `model.onnx_data_1`,
/// `model.onnx.data`.
fn with_data(graph: &str, names: &[&str]) -> Vec<String> {
    let is_data = |name: &str| {
        let rest = name.strip_prefix(graph).filter(|rest| !rest.contains('/'));
        rest.is_some_and(|rest| rest.starts_with("_data") || rest.starts_with(".data"))
    };
    let data = names.iter().filter(|name| is_data(name)).map(|name| (*name).to_owned());
    std::iter::once(graph.to_owned()).chain(data).collect()
}

/// The decoder that `genai_config.json` names.
fn genai_graph(model: &str, names: &[&str], read: Read<'_>) -> Result<String> {
    let file = format!("{model}/{GENAI_CONFIG}");
    let config = json(&file, &read(GENAI_CONFIG)?)?;
    let named = config.pointer("/model/decoder/filename").and_then(Value::as_str).unwrap_or_default();
    match names.contains(&named) && named.ends_with(".onnx") {
        true => Ok(named.into()),
        false => {
            let problem = format!("names `{}`, which the repository does not hold", named.escape_debug());
            Err(Error::bad_field(file, "model.decoder.filename", problem))
        }
    }
}

/// The shards that the index names, by name.
fn shards(model: &str, names: &[&str], read: Read<'_>) -> Result<BTreeSet<String>> {
    let file = format!("{model}/{INDEX}");
    let index = json(&file, &read(INDEX)?)?;
    let bad = |problem: String| Error::bad_field(&file, "weight_map", problem);
    let map = index.get("weight_map").and_then(Value::as_object).ok_or_else(|| bad("is no object".into()))?;
    let mut shards = BTreeSet::new();
    for shard in map.values() {
        let shard = shard.as_str().unwrap_or_default();
        if !shard.ends_with(".safetensors") || !names.contains(&shard) {
            return Err(bad(format!("names `{}`, which the repository does not hold", shard.escape_debug())));
        }
        shards.insert(shard.to_owned());
    }
    if shards.is_empty() { Err(bad("names no file".into())) } else { Ok(shards) }
}

fn json(file: &str, bytes: &[u8]) -> Result<Value> {
    serde_json::from_slice(bytes).map_err(|error| Error::bad_file(file, "is no JSON", error))
}

fn no_checkpoint(model: &str) -> Error {
    Error::Unsupported {
        what: format!("the backend `candle` with `{model}`"),
        reason: "candle reads checkpoints, and this repository has ONNX graphs and no safetensors".into(),
        hint: Some(
            [Remedy::UseBackend(BackendKind::Onnx), "use the repository of the checkpoint that they were made from".into()]
                .into(),
        ),
    }
}

fn no_variants(model: &str, variant: &str) -> Error {
    Error::Unsupported {
        what: format!("`{variant}` of the repository `{model}`"),
        reason: "what stands behind `:` names a GGUF file, and this repository has none".into(),
        hint: Some("leave it out: the dtype says what the weights are to be".into()),
    }
}

fn nothing_usable(model: &str, names: &[&str]) -> Error {
    let ends = |extensions: &[&str]| names.iter().find(|name| extensions.iter().any(|extension| name.ends_with(extension)));
    let (reason, hint) = if let Some(file) = ends(&[".bin", ".pt", ".pth", ".ckpt"]) {
        let reason = format!("it has its weights in `{file}` only, and pickle files are never opened: they can run code");
        (reason, "look for a copy of the model with `model.safetensors`")
    } else {
        ("it has neither safetensors nor ONNX graphs".into(), "name a repository with a checkpoint, or with ONNX graphs of one")
    };
    Error::Unsupported { what: format!("the repository `{model}`"), reason, hint: Some(hint.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALWAYS: [&str; 3] = ["config.json", "tokenizer.json", "tokenizer_config.json"];
    const GRAPHS: [&str; 6] = [
        "onnx/model.onnx",
        "onnx/model.onnx_data",
        "onnx/model.onnx_data_1",
        "onnx/model_q4.onnx",
        "onnx/model_q4.onnx_data",
        "onnx/model_q4f16.onnx",
    ];

    fn read(name: &str) -> Result<Vec<u8>> {
        Ok(match name {
            INDEX => br#"{"weight_map": {"a": "model-2.safetensors", "b": "model-1.safetensors", "c": "model-2.safetensors"}}"#
                .to_vec(),
            GENAI_CONFIG => br#"{"model": {"decoder": {"filename": "model.onnx"}}}"#.to_vec(),
            other => panic!("{other} is read"),
        })
    }

    #[track_caller]
    fn check(more: &[&str], backend: BackendKind, dtype: Option<DType>, expected: &[&str]) {
        let names = [&ALWAYS[..], &["README.md"], more].concat();
        let selected = Wanted { backend, dtype }.select(&"owner/name".parse().unwrap(), &names, &read);
        let selected = selected.map(|names| names[ALWAYS.len()..].to_vec()).map_err(|error| error.to_string());
        match expected {
            [error] if error.contains(' ') => assert!(selected.as_ref().unwrap_err().contains(error), "{selected:?}"),
            files => assert_eq!(selected.unwrap(), files),
        }
    }

    #[test]
    fn only_what_the_backend_needs_at_the_dtype_is_wanted() {
        use BackendKind::{Candle, Onnx};
        check(&["model.safetensors", "pytorch_model.bin"], Onnx, None, &["model.safetensors"]);
        check(&["model.safetensors"], Candle, Some(DType::Int4), &["model.safetensors"]);
        let sharded = [INDEX, "model-1.safetensors", "model-2.safetensors", "model-3.safetensors"];
        check(&sharded, Candle, None, &[INDEX, "model-1.safetensors", "model-2.safetensors"]);
        check(&GRAPHS, Onnx, Some(DType::Int4), &["onnx/model_q4.onnx", "onnx/model_q4.onnx_data"]);
        check(&GRAPHS, Onnx, None, &["onnx/model.onnx", "onnx/model.onnx_data", "onnx/model.onnx_data_1"]);
        let both = [&GRAPHS[..], &["model.safetensors"]].concat();
        check(&both, Candle, None, &["model.safetensors"]);
        check(&both, Onnx, Some(DType::Int8), &["model.safetensors"]);
        check(&both, Onnx, None, &["onnx/model.onnx", "onnx/model.onnx_data", "onnx/model.onnx_data_1"]);
        let genai = [GENAI_CONFIG, "model.onnx", "model.onnx.data", "other.onnx"];
        check(&genai, Onnx, Some(DType::Int4), &[GENAI_CONFIG, "model.onnx", "model.onnx.data"]);
    }

    #[test]
    fn what_is_missing_is_said() {
        use BackendKind::{Candle, Onnx};
        check(&GRAPHS, Candle, None, &["backend `candle`"]);
        check(&GRAPHS, Onnx, Some(DType::Int8), &["`int8` of `owner/name`"]);
        check(&["model.q4.gguf"], Onnx, None, &["has GGUF files"]);
        check(&["model.safetensors", "model.q4.gguf"], Candle, None, &["model.safetensors"]);
        let gguf = Wanted { backend: Candle, dtype: None }.select(
            &"owner/name:q4".parse().unwrap(),
            &["config.json", "tokenizer.json", "model.safetensors", "model.q4.gguf", "model.q8.gguf"],
            &read,
        );
        assert_eq!(gguf.unwrap(), ["tokenizer.json", "model.q4.gguf"]);
        check(&["pytorch_model.bin"], Candle, None, &["pickle files are never opened"]);
        check(&[], Onnx, None, &["neither safetensors nor ONNX graphs"]);
        check(
            &[INDEX, "model-1.safetensors"],
            Candle,
            None,
            &["names `model-2.safetensors`, which the repository does not hold"],
        );
        check(&[GENAI_CONFIG], Onnx, None, &["names `model.onnx`, which"]);
    }
}
