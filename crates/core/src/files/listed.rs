//! A model of which only the names of its files are known: what a hub lists before anything is downloaded.

use std::path::PathBuf;

use super::{ModelFile, ModelFiles, graphs};
use crate::error::{Error, Result};

impl ModelFiles {
    /// The files of a model that a repository with `names` holds, each name relative to its root. Nothing is read: shards that an
    /// index names are not among the weights, and graphs that a `genai_config.json` names are not told from others.
    ///
    /// # Errors
    /// [`Error::ModelNotFound`] when there is no `config.json`.
    pub fn listed<S: AsRef<str>>(name: &str, names: &[S]) -> Result<Self> {
        let find = |wanted: &str| {
            let found = names.iter().any(|name| name.as_ref() == wanted);
            found.then(|| ModelFile::Path(PathBuf::from(wanted)))
        };
        let config = find("config.json").ok_or_else(|| Error::ModelNotFound {
            reference: name.into(),
            reason: "the repository holds no `config.json`".into(),
            hint: "name a repository with a checkpoint in safetensors, or with ONNX graphs of one".into(),
        })?;
        let is_graph =
            |name: &&str| name.strip_prefix("onnx/").unwrap_or(name).split('/').count() == 1 && name.ends_with(".onnx");
        let onnx = names.iter().map(AsRef::as_ref).filter(is_graph).map(|name| ModelFile::Path(PathBuf::from(name)));
        let (graphs, skipped) = graphs::sort_out(onnx);
        Ok(Self {
            name: name.into(),
            config,
            generation_config: find("generation_config.json"),
            tokenizer: find("tokenizer.json"),
            tokenizer_config: find("tokenizer_config.json"),
            chat_template: find("chat_template.jinja"),
            genai_config: find("genai_config.json"),
            weights: find("model.safetensors").into_iter().collect(),
            graphs,
            skipped,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::primitives::DType;

    #[test]
    fn names_are_enough_to_choose_a_graph() {
        let names = ["config.json", "onnx/model_q4.onnx", "onnx/model.onnx", "onnx/old/model_int8.onnx", "model.safetensors"];
        let files = ModelFiles::listed("owner/name", &names).unwrap();
        let chosen = |dtype| files.graph_for(dtype).map(|graph| graph.file.name().into_owned()).ok();
        assert_eq!(chosen(Some(DType::Int4)).as_deref(), Some("onnx/model_q4.onnx"));
        assert_eq!(chosen(None).as_deref(), Some("onnx/model.onnx"));
        assert_eq!(chosen(Some(DType::Int8)), None);
        assert_eq!((files.weights.len(), files.tokenizer), (1, None));
        assert!(ModelFiles::listed("owner/name", &["model.onnx"]).is_err());
    }
}
