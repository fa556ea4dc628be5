//! A GGUF file as a model: it is configuration, tokenizer and weights in one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::discover::{self, GENAI_CONFIG};
use super::{ModelFile, ModelFiles, is_gguf};
use crate::error::{Error, Result};
use crate::gguf::{Gguf, GgufPart};

/// The model that is the file at `path`. Of the small files that are published beside checkpoints those that say more than its
/// metadata are taken from beside it, a `tokenizer.json` before its own tokenizer.
///
/// # Errors
/// As [`Gguf::open`].
pub(super) fn one_file(path: &Path, name: &str) -> Result<ModelFiles> {
    let gguf = Arc::new(Gguf::open(path)?);
    let beside = super::discover::parent(path);
    let part = |part: GgufPart| Some(ModelFile::Gguf { path: path.into(), gguf: Arc::clone(&gguf), part });
    let find = |file_name: &str| match file_name {
        "config.json" => part(GgufPart::Config),
        GENAI_CONFIG => None,
        _ => discover::find(std::slice::from_ref(&beside), file_name).or_else(|| match file_name {
            "tokenizer.json" => part(GgufPart::Tokenizer),
            "tokenizer_config.json" => part(GgufPart::TokenizerConfig),
            _ => None,
        }),
    };
    let files = ModelFiles::with_small_files(name, find).expect("a GGUF file is its own configuration");
    Ok(ModelFiles { weights: vec![ModelFile::Path(path.into())], ..files })
}

/// The model of a directory whose only weights are GGUF files: the one that there is.
///
/// # Errors
/// [`Error::ModelNotFound`] when there are several.
pub(super) fn only_one(dir: &Path, names: &[String], name: &str) -> Option<Result<ModelFiles>> {
    // What llama.cpp calls so is the part of a model that sees images.
    let is_model =
        |path: &&PathBuf| is_gguf(path) && !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("mmproj"));
    let paths: Vec<PathBuf> = names.iter().map(|name| dir.join(name)).collect();
    let found: Vec<&PathBuf> = paths.iter().filter(is_model).collect();
    match found.as_slice() {
        [] => None,
        [path] => Some(one_file(path, name)),
        [first, ..] => Some(Err(Error::ModelNotFound {
            reference: name.into(),
            reason: format!("the directory `{}` holds {} GGUF files, and each is a model", dir.display(), found.len()),
            hint: format!("give one of them, such as `{}`", first.display()).into(),
        })),
    }
}
