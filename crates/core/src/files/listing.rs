//! A model of which only the names of its files are known: what a hub lists before anything is downloaded. Backends choose from it what
//! they need.

mod gguf;

use std::path::PathBuf;

use super::discover::{GENAI_CONFIG, GENAI_DECODER, genai_decoder};
use super::weights::{INDEX, SINGLE, shard_names};
use super::{GraphFile, ModelFile, ModelFiles, embedding, graphs};
use crate::error::{Error, Result};
use crate::primitives::{BackendKind, DType};
use crate::remedy::Remedy;

/// What a model has beside its weights; none of them is large.
const SMALL: [&str; 5] =
    ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"];

/// The files of a repository.
#[derive(Clone, Copy)]
pub struct Listing<'l> {
    /// `owner/name`.
    pub name: &'l str,
    /// The names of its files, relative to its root.
    pub files: &'l [&'l str],
    /// Which of several GGUF files is meant, when the reference says so.
    pub variant: Option<&'l str>,
    /// Reads a small file, which is brought here for that: one that names others.
    pub read: &'l dyn Fn(&str) -> Result<Vec<u8>>,
}

impl Listing<'_> {
    /// The small files that there are.
    ///
    /// # Errors
    /// [`Error::ModelNotFound`] when there is neither `config.json` nor `genai_config.json`.
    pub fn small(&self) -> Result<Vec<String>> {
        if !self.has("config.json") && !self.has(GENAI_CONFIG) {
            return Err(self.without_config());
        }
        Ok([self.those(&SMALL), embedding::places(|name| self.has(name), self.read)?].concat())
    }

    /// What a model is as its weights were published: a GGUF file or a checkpoint, behind the small files.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when the repository has neither, and those of the other choices.
    pub fn weights(&self, dtype: Option<DType>) -> Result<Vec<String>> {
        if self.is_gguf()? {
            return self.gguf(dtype);
        }
        let (small, weights) = (self.small()?, self.checkpoint()?);
        if !weights.is_empty() {
            return Ok([small, weights].concat());
        }
        if !self.files.iter().any(|name| name.ends_with(".onnx")) {
            return Err(self.nothing_usable());
        }
        Err(Error::Unsupported {
            what: format!("the repository `{}`", self.name),
            reason: "it has ONNX graphs and no checkpoint in safetensors, which is what this backend reads".into(),
            hint: Some(
                [Remedy::UseBackend(BackendKind::Onnx), "use the repository of the checkpoint that they were made from".into()]
                    .into(),
            ),
        })
    }

    /// The safetensors files, with their index; none when the repository has no checkpoint.
    ///
    /// # Errors
    /// [`Error::BadField`] when the index names what the repository does not hold, and those of `read`.
    pub fn checkpoint(&self) -> Result<Vec<String>> {
        if self.has(SINGLE) {
            return Ok(vec![SINGLE.into()]);
        }
        if !self.has(INDEX) {
            return Ok(Vec::new());
        }
        let file = format!("{}/{INDEX}", self.name);
        let mut shards = shard_names(&file, &(self.read)(INDEX)?)?;
        if let Some(missing) = shards.iter().find(|shard| !self.has(shard)) {
            return Err(Error::bad_field(file, "weight_map", not_held(missing)));
        }
        shards.sort_unstable();
        shards.insert(0, INDEX.into());
        Ok(shards)
    }

    /// The files of the model, for the choice that a backend makes among those of a directory; an index stands for its shards.
    ///
    /// # Errors
    /// As [`small`](Self::small); [`Error::BadField`] when `genai_config.json` names a graph that the repository does not hold.
    pub fn model(&self) -> Result<ModelFiles> {
        let find = |name: &str| self.has(name).then(|| ModelFile::Path(name.into()));
        let files = ModelFiles::with_small_files(self.name, find).ok_or_else(|| self.without_config())?;
        let (graphs, skipped) = match &files.genai_config {
            Some(_) => (vec![self.genai_graph()?], Vec::new()),
            None => {
                let is_graph = |name: &&str| !name.strip_prefix("onnx/").unwrap_or(name).contains('/') && name.ends_with(".onnx");
                graphs::sort_out(self.files.iter().copied().filter(is_graph).map(|name| ModelFile::Path(PathBuf::from(name))))
            }
        };
        Ok(ModelFiles { weights: find(SINGLE).or_else(|| find(INDEX)).into_iter().collect(), graphs, skipped, ..files })
    }

    /// `graph` and the files beside it that its weights are in, as exporters call them: `model.onnx_data`, `model.onnx_data_1`,
    /// `model.onnx.data`.
    pub fn with_data(&self, graph: &GraphFile) -> Vec<String> {
        let graph = graph.file.name();
        let is_data = |name: &str| {
            let rest = name.strip_prefix(&*graph).filter(|rest| !rest.contains('/'));
            rest.is_some_and(|rest| rest.starts_with("_data") || rest.starts_with(".data"))
        };
        let data = self.files.iter().filter(|name| is_data(name)).map(|name| (*name).to_owned());
        std::iter::once(graph.clone().into_owned()).chain(data).collect()
    }

    /// The error for a repository without anything that an engine reads.
    pub fn nothing_usable(&self) -> Error {
        let pickle = self.files.iter().find(|name| [".bin", ".pt", ".pth", ".ckpt"].iter().any(|end| name.ends_with(end)));
        let (reason, hint) = if let Some(file) = pickle {
            let reason = format!("it has its weights in `{file}` only, and pickle files are never opened: they can run code");
            (reason, "look for a copy of the model with `model.safetensors`")
        } else {
            let hint = "name a repository with a checkpoint, or with ONNX graphs of one";
            ("it has neither safetensors nor ONNX graphs".into(), hint)
        };
        Error::Unsupported { what: format!("the repository `{}`", self.name), reason, hint: Some(hint.into()) }
    }

    fn genai_graph(&self) -> Result<GraphFile> {
        let file = format!("{}/{GENAI_CONFIG}", self.name);
        let named = genai_decoder(&file, &(self.read)(GENAI_CONFIG)?)?;
        if !self.has(&named) {
            return Err(Error::bad_field(file, GENAI_DECODER, not_held(&named)));
        }
        Ok(GraphFile { dtype: graphs::declared(&named).ok().flatten(), file: ModelFile::Path(named.into()) })
    }

    fn has(&self, name: &str) -> bool {
        self.files.contains(&name)
    }

    fn those(&self, names: &[&str]) -> Vec<String> {
        names.iter().filter(|name| self.has(name)).map(|name| (*name).to_owned()).collect()
    }

    fn without_config(&self) -> Error {
        Error::ModelNotFound {
            reference: self.name.into(),
            reason: "the repository holds neither `config.json` nor `genai_config.json`".into(),
            hint: "name a repository with a checkpoint in safetensors, or with ONNX graphs of one".into(),
        }
    }
}

fn not_held(name: &str) -> String {
    format!("names `{}`, which the repository does not hold", name.escape_debug())
}

#[cfg(test)]
mod tests;
