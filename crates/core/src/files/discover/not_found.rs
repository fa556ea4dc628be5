//! Why a path is not a model, and what to name instead.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::files::near::{did_you_mean, near_names};

/// References that mean a model without any file.
const KNOWN_REFERENCES: [&str; 1] = ["demo"];

/// The most entries of a directory that are looked at for a hint.
const MAX_ENTRIES: usize = 1000;

const WHAT_TO_GIVE: &str = "give a directory with a `config.json`, an `.onnx` file in one, a `.gguf` file, or `demo`";
const WEIGHTS_HINT: &str = "a checkpoint has `model.safetensors`, or shards with `model.safetensors.index.json`; a repository of \
                            graphs has `model.onnx` or `onnx/model*.onnx`";

/// Nothing is there.
pub(super) fn at_path(path: &Path, name: &str) -> Error {
    let wanted = path.file_name().unwrap_or_default().to_string_lossy();
    let dir = super::parent(path);
    let siblings = names_in(&dir);
    let near = near_names(&wanted, siblings.iter().map(String::as_str).chain(KNOWN_REFERENCES));
    Error::ModelNotFound {
        reference: name.into(),
        reason: match path.is_symlink() {
            true => format!("`{}` is a link to something that is not there", path.display()),
            false => format!("there is no file or directory `{}`", path.display()),
        },
        hint: did_you_mean(&near, WHAT_TO_GIVE).into(),
    }
}

/// A file that is neither a graph nor a directory.
pub(super) fn in_file(path: &Path) -> Error {
    let dir = super::parent(path);
    let is_pickle = pickle(&path.to_string_lossy());
    Error::ModelNotFound {
        reference: path.display().to_string(),
        reason: match is_pickle {
            true => "pickle files are never opened: they can run code".into(),
            false => "a file that is a model ends in `.onnx` or `.gguf`".into(),
        },
        hint: match dir.join("config.json").is_file() && !is_pickle {
            true => format!("give the directory, `{}`", dir.display()).into(),
            false => WHAT_TO_GIVE.into(),
        },
    }
}

/// A package of CoreML's, or a directory with one: what ANEMLL makes.
pub(super) fn core_ml(path: &Path) -> Error {
    Error::Unsupported {
        what: format!("the CoreML package `{}`", path.display()),
        reason: "it is a program that was compiled for one context and one kind of machine, with nothing in it that other engines \
                 could be held to"
            .into(),
        hint: Some(
            "use the checkpoint that it was made from, a directory with `config.json` and safetensors: on a Mac the device `coreml` \
             runs it on the same hardware"
                .into(),
        ),
    }
}

/// Whether a name is that of a CoreML package: the source form, or the compiled one.
pub(super) fn is_core_ml(path: &Path) -> bool {
    path.extension().is_some_and(|found| ["mlpackage", "mlmodelc", "mlmodel"].iter().any(|one| found.eq_ignore_ascii_case(one)))
}

/// A directory without `config.json`.
pub(super) fn without_config(dir: &Path, name: &str) -> Error {
    let names = names_in(dir);
    let has = |wanted: &str| names.iter().any(|name| name == wanted);
    let ends = |extension: &str| names.iter().find(|name| name.ends_with(extension));
    if has("adapter_config.json") {
        return Error::Unsupported {
            what: format!("the LoRA adapter `{}` as a model", dir.display()),
            reason: "an adapter changes a model and is not one itself".into(),
            hint: Some("give the model that it was trained on".into()),
        };
    }
    if let Some(package) = names.iter().find(|name| is_core_ml(Path::new(name))) {
        return core_ml(&dir.join(package));
    }
    if ends(".safetensors").is_some() || ends(".onnx").is_some() || has("tokenizer.json") {
        return Error::missing_file(dir.join("config.json"), "every checkpoint, and every graph without a `genai_config.json`");
    }
    Error::ModelNotFound {
        reference: name.into(),
        reason: match names.is_empty() {
            true => format!("the directory `{}` is empty", dir.display()),
            false => format!("the directory `{}` holds no `config.json`", dir.display()),
        },
        hint: match model_below(dir) {
            Some(below) => format!("a model lies in `{}`", below.display()).into(),
            None => WHAT_TO_GIVE.into(),
        },
    }
}

/// A directory with `config.json` and neither weights nor graphs that can be used.
pub(super) fn without_weights(dir: &Path) -> Error {
    let names = names_in(dir);
    let bad = |problem: String, hint: &str| Error::BadFile {
        file: dir.display().to_string(),
        problem,
        hint: Some(hint.into()),
        source: None,
    };
    if let Some(package) = names.iter().find(|name| is_core_ml(Path::new(name))) {
        return core_ml(&dir.join(package));
    }
    if let Some(other) = names.iter().find(|name| name.ends_with(".safetensors")) {
        let hint = "its `model.safetensors.index.json` is missing: download it as well";
        return bad(format!("has `{other}`, and nothing that says which weights it holds"), hint);
    }
    if let Some(file) = names.iter().find(|name| pickle(name)) {
        let hint = "obtain the model as safetensors: most repositories have `model.safetensors` beside it";
        return bad(format!("has its weights in `{file}` only, and pickle files are never opened: they can run code"), hint);
    }
    bad("has a `config.json`, but neither weights nor graphs".into(), WEIGHTS_HINT)
}

/// Files that Python's pickle writes.
fn pickle(name: &str) -> bool {
    [".bin", ".pt", ".pth", ".ckpt", ".pkl"].iter().any(|extension| name.ends_with(extension))
}

/// A directory with a `config.json`, one or two levels down: a variant, or a snapshot of a hub cache.
fn model_below(dir: &Path) -> Option<PathBuf> {
    let below = |dir: &Path| -> Vec<PathBuf> {
        let paths = names_in(dir).into_iter().map(|name| dir.join(name));
        paths.filter(|path| path.is_dir()).collect()
    };
    let first = below(dir);
    let second = first.iter().take(MAX_ENTRIES / 10).flat_map(|dir| below(dir)).take(MAX_ENTRIES);
    first.iter().cloned().chain(second).find(|dir| dir.join("config.json").is_file())
}

/// The names in a directory, sorted; none when it cannot be listed.
pub(super) fn names_in(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().take(MAX_ENTRIES);
    let mut names: Vec<String> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    names
}
