//! A model's files: their sizes, dtypes, hashes, and what they say of chat and licence.

use std::path::Path;

use anyhow::Result;
use serde::Serialize;
use serde_json::Value;
use tandem::ModelFiles;
use tandem::files::ModelFile;

use crate::figures::bytes;
use crate::output::Output;

/// The most that is read of a file with a licence in it, in bytes.
const MAX_TEXT: u64 = 4 << 20;

#[derive(Serialize)]
pub(super) struct FileRow {
    pub(super) name: String,
    pub(super) bytes: u64,
    /// With `--hashes` only.
    pub(super) sha256: Option<String>,
}

#[derive(Serialize)]
pub(super) struct GraphRow {
    pub(super) name: String,
    /// Null when the name says nothing: it takes a look inside to tell.
    pub(super) dtype: Option<String>,
    /// With its external data.
    pub(super) bytes: u64,
}

#[derive(Serialize)]
pub(super) struct SkippedRow {
    pub(super) name: String,
    pub(super) reason: String,
}

/// Every file that belongs to the model.
pub(super) fn all(files: &ModelFiles, with_hashes: bool, output: &Output) -> Result<Vec<FileRow>> {
    let small = [&files.generation_config, &files.tokenizer, &files.tokenizer_config, &files.chat_template, &files.genai_config];
    let graphs = files.graphs.iter().flat_map(|graph| [vec![graph.file.clone()], external_data(&graph.file)].concat());
    let all = [files.config.clone()].into_iter().chain(small.into_iter().flatten().cloned());
    let progress = output.progress("reading files");
    let mut rows = Vec::new();
    // Parts of a GGUF are not files: it stands among the weights.
    let all = all.filter(|file| !matches!(file, ModelFile::Gguf { .. }));
    for file in all.chain(files.weights.iter().cloned()).chain(graphs) {
        let (name, size) = (file.name().into_owned(), file.len()?);
        let mut hash = || file.sha256(&mut |n| progress.say(format!("hashing {name}: {} of {}", bytes(n), bytes(size))));
        let sha256 = with_hashes.then(&mut hash).transpose()?;
        rows.push(FileRow { name, bytes: size, sha256 });
    }
    Ok(rows)
}

pub(super) fn graphs(files: &ModelFiles) -> tandem::Result<Vec<GraphRow>> {
    let size = |graph: &ModelFile| -> tandem::Result<u64> {
        external_data(graph).iter().try_fold(graph.len()?, |sum, file| Ok(sum + file.len()?))
    };
    let row = |graph: &tandem::files::GraphFile| {
        let dtype = files.dtype_of(graph).map(|dtype| dtype.to_string());
        Ok(GraphRow { name: graph.file.name().into_owned(), dtype, bytes: size(&graph.file)? })
    };
    files.graphs.iter().map(row).collect()
}

pub(super) fn skipped(files: &ModelFiles) -> Vec<SkippedRow> {
    files.skipped.iter().map(|file| SkippedRow { name: file.file.name().into_owned(), reason: file.reason.clone() }).collect()
}

pub(super) fn has_chat_template(files: &ModelFiles) -> tandem::Result<bool> {
    let Some(config) = &files.tokenizer_config else { return Ok(files.chat_template.is_some()) };
    let json: Value = serde_json::from_slice(&config.read(MAX_TEXT)?)
        .map_err(|error| tandem::Error::bad_file(config.name(), "is not valid JSON", error))?;
    Ok(files.chat_template.is_some() || json.get("chat_template").is_some_and(|template| !template.is_null()))
}

/// The licence that the model's card (`README.md`) names in its front matter, else the first line of a licence file; that of the program
/// for a model that is part of it.
pub(super) fn licence(files: &ModelFiles) -> Option<String> {
    if matches!(files.config, ModelFile::Embedded { .. }) {
        return Some(env!("CARGO_PKG_LICENSE").into());
    }
    let dir = files.config.path()?.parent()?;
    let text = |name: &str| ModelFile::Path(dir.join(name)).read_text(MAX_TEXT).ok().map(|text| text.into_owned());
    let of_card = text("README.md").and_then(|card| licence_of_card(&card));
    of_card.or_else(|| {
        let file = ["LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE"].into_iter().find_map(text)?;
        file.lines().map(str::trim).find(|line| !line.is_empty()).map(ToOwned::to_owned)
    })
}

/// Hugging Face's model cards begin with YAML between two lines of `---`: <https://huggingface.co/docs/hub/model-cards>.
fn licence_of_card(card: &str) -> Option<String> {
    let (front, _) = card.strip_prefix("---")?.split_once("\n---")?;
    let value = |key: &str| front.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).map(str::trim);
    let name = value("license_name").or_else(|| value("license"))?;
    Some(name.trim_matches(['"', '\'']).to_owned()).filter(|name| !name.is_empty())
}

/// Files beside a graph that are called as it is and go on: `model.onnx.data`, `model.onnx_data`, `model.onnx_data_1`.
fn external_data(graph: &ModelFile) -> Vec<ModelFile> {
    let Some(path) = graph.path() else { return Vec::new() };
    let entries = path.parent().map(|dir| if dir.as_os_str().is_empty() { Path::new(".") } else { dir }).map(std::fs::read_dir);
    let name = graph.file_name();
    let is_data =
        |other: &str| other.strip_prefix(name).is_some_and(|rest| rest.starts_with("_data") || rest.starts_with(".data"));
    let mut found: Vec<_> = entries
        .into_iter()
        .flatten()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(is_data))
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found.into_iter().map(ModelFile::Path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_name_licences() {
        let check = |card: &str, expected: Option<&str>| assert_eq!(licence_of_card(card).as_deref(), expected, "{card}");
        check("---\nlicense: apache-2.0\ntags:\n- x\n---\n# Model", Some("apache-2.0"));
        check("---\nlicense: other\nlicense_name: \"own-terms\"\n---\n", Some("own-terms"));
        check("---\ntags: x\n---\nlicense: mit", None);
        check("# no front matter\nlicense: mit", None);
    }

    #[test]
    fn external_data_is_found_beside_its_graph() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["model.onnx", "model.onnx.data", "model.onnx_data_1", "model_q4.onnx_data", "model.onnx.bak"] {
            std::fs::write(dir.path().join(name), "x").unwrap();
        }
        let found = external_data(&ModelFile::Path(dir.path().join("model.onnx")));
        assert_eq!(found.iter().map(ModelFile::file_name).collect::<Vec<_>>(), ["model.onnx.data", "model.onnx_data_1"]);
    }
}
