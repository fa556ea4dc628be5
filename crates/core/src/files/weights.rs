//! Safetensors: one file, or shards that an index lists.

use std::path::Path;

use super::{MAX_JSON_BYTES, ModelFile};
use crate::config::{Fields, parse_object};
use crate::error::{Error, Result};

pub(super) const SINGLE: &str = "model.safetensors";
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// The weights of a checkpoint in `dir`; empty when it has none. A single file wins over an index, as it does in transformers.
pub(super) fn find(dir: &Path) -> Result<Vec<ModelFile>> {
    let single = dir.join(SINGLE);
    if single.is_file() {
        return Ok(vec![ModelFile::Path(single)]);
    }
    let index = dir.join(INDEX);
    if index.is_file() { shards(dir, &ModelFile::Path(index)) } else { Ok(Vec::new()) }
}

/// The shards that `index` names.
fn shards(dir: &Path, index: &ModelFile) -> Result<Vec<ModelFile>> {
    let file = index.name();
    let names = shard_names(&file, &index.read(MAX_JSON_BYTES)?)?;
    names.iter().map(|shard| present(dir, shard, &file)).collect()
}

/// The shards that the index with `content` names, each once, in its order; `file` is its name in messages.
///
/// The format: <https://huggingface.co/docs/safetensors/index>, `{"weight_map": {tensor: file}}`.
pub(super) fn shard_names(file: &str, content: &[u8]) -> Result<Vec<String>> {
    let object = parse_object(file, content)?;
    let root = Fields::root(file, &object);
    let map = root.object("weight_map")?.ok_or_else(|| root.missing("weight_map"))?;
    let (mut seen, mut shards) = (std::collections::HashSet::new(), Vec::new());
    for (tensor, shard) in map.entries() {
        let shard = shard.as_str().ok_or_else(|| map.wrong_type(tensor, "a file name"))?;
        if !is_plain_name(shard) {
            return Err(map.error(tensor, format!("names `{shard}`, which is not a plain name of a safetensors file")));
        }
        if seen.insert(shard) {
            shards.push(shard.to_owned());
        }
    }
    if shards.is_empty() { Err(root.error("weight_map", "names no file")) } else { Ok(shards) }
}

fn present(dir: &Path, shard: &str, index: &str) -> Result<ModelFile> {
    let path = dir.join(shard);
    if path.is_file() {
        return Ok(ModelFile::Path(path));
    }
    Err(Error::BadFile {
        file: path.display().to_string(),
        problem: match path.is_symlink() {
            true => format!("this shard, named by `{index}`, is a link to a file that is not there"),
            false => format!("this shard, named by `{index}`, is not there"),
        },
        hint: Some("the checkpoint is incomplete: download the missing shard".into()),
        source: None,
    })
}

/// A file directly in the directory: no path, no drive, nothing hidden.
fn is_plain_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+' | ' ');
    name.ends_with(".safetensors") && !name.starts_with('.') && name.chars().all(allowed)
}
