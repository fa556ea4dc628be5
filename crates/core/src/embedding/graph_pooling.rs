//! Graphs that give a vector for each text and no hidden states: pooling is part of them.

use super::config::MEAN_BY_RULE;
use super::{EmbeddingConfig, Step};
use crate::backend::PooledOutput;
use crate::error::{Error, Result};
use crate::files::ModelFiles;

/// What exporters call the vector of a text: optimum and sentence-transformers the first, others the second. BERT's `pooler_output` is
/// another one, made for the next sentence.
const VECTORS: [&str; 2] = ["sentence_embedding", "embeddings"];

/// Where the pooling of a model was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PoolingSource {
    /// In the model's files.
    Files,
    /// The caller named it.
    Asked,
    /// Nowhere: a rule says it.
    Rule,
}

impl EmbeddingConfig {
    /// Takes `output` of a graph of `files` as the pooled vector of a text: what the files say of pooling is what the graph did, which its
    /// width is held against. A norm that follows changes nothing where the graph has one already.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for an output that is not known to be a vector of a text, where another pooling was asked for, and for what the
    /// graph may or may not have done: dense layers, prompts that are not pooled. [`Error::BadFile`] for another width.
    pub fn pool_by_graph(&mut self, files: &ModelFiles, output: &PooledOutput, hidden_size: usize) -> Result<()> {
        let refuse = |reason: String| {
            Err(Error::Unsupported {
                what: format!("embedding with `{}`, whose graph gives `{}` and no hidden states,", files.name, output.name),
                reason,
                hint: Some("use a graph with the output `last_hidden_state`, or the model's checkpoint".into()),
            })
        };
        if !VECTORS.contains(&output.name.as_str()) {
            return refuse(format!("the vector of a text is called `{}`", VECTORS.join("` or `")));
        }
        if self.pooling_source == PoolingSource::Asked {
            return refuse(format!("it has pooled already, and the pooling `{}` was asked for", self.pooling.name()));
        }
        if self.steps.iter().any(|step| matches!(step, Step::Dense(_))) {
            return refuse("`modules.json` has a `Dense`, and whether the graph contains it cannot be told".into());
        }
        if !self.pooling.include_prompt {
            return refuse("the pooling is to leave the prompt out, and a graph does not know where it ends".into());
        }
        let width = self.pooling.width(hidden_size);
        if output.width != width {
            return Err(Error::BadFile {
                file: files.name.clone(),
                problem: format!("`{}` of the graph has {} dimensions, and its files say {width}", output.name, output.width),
                hint: Some("the graph and the model's files do not belong together".into()),
                source: None,
            });
        }
        if self.pooling_source == PoolingSource::Rule {
            self.remarks.retain(|remark| *remark != MEAN_BY_RULE);
        }
        let pooling = match self.pooling_source {
            PoolingSource::Rule => String::new(),
            _ => format!(", which is `{}` by the model's files", self.pooling.name()),
        };
        self.remarks.push(format!(
            "the graph pools by itself (`{}`){pooling}: a norm within it stays, whatever is asked of normalisation",
            output.name
        ));
        self.graph_output = Some(output.name.clone());
        Ok(())
    }

    /// The name of the pooling for people: `mean`, `cls+mean`, or `graph` where only the graph knows.
    pub fn pooling_name(&self) -> String {
        match (&self.graph_output, self.pooling_source) {
            (Some(_), PoolingSource::Rule) => "graph".into(),
            _ => self.pooling.name(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::embedding::{Pool, Pooling};

    /// What is said of a graph of the golden `name` with `output` of `width`.
    fn check(name: &str, asked: Option<Pool>, output: &str, width: usize) -> Result<EmbeddingConfig> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens/embedders").join(name);
        let files = ModelFiles::discover(&directory, name).unwrap();
        let model = files.model_config().unwrap();
        let mut config = EmbeddingConfig::read(&files, &model, asked.map(Pooling::of)).unwrap();
        let output = PooledOutput { name: output.into(), width };
        config.pool_by_graph(&files, &output, model.hidden_size).map(|()| config)
    }

    #[test]
    fn what_the_graph_may_not_have_done_is_refused_by_name() {
        let refused = |name: &str, asked, output: &str, width, expected: &str| {
            let error = check(name, asked, output, width).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        refused("bert-mean", None, "pooler_output", 32, "gives `pooler_output` and no hidden states");
        refused("bert-mean", Some(Pool::Cls), "sentence_embedding", 32, "`cls` was asked for");
        refused("bert-mean", None, "sentence_embedding", 16, "has 16 dimensions, and its files say 32");
        refused("bert-dense", None, "sentence_embedding", 32, "`Dense`");
        refused("bert-poolings", None, "embeddings", 192, "leave the prompt out");
    }

    #[test]
    fn a_graph_alone_knows_its_pooling() {
        let published = check("bert-mean", None, "sentence_embedding", 32).unwrap();
        assert_eq!((published.pooling_name().as_str(), published.remarks.len()), ("mean", 1));
        let plain = check("bert-plain", None, "embeddings", 32).unwrap();
        assert_eq!((plain.pooling_name().as_str(), plain.remarks.len()), ("graph", 1), "{:?}", plain.remarks);
    }
}
