//! The head of a cross-encoder: from hidden states to one number.
//!
//! As `modeling_{bert,roberta,xlm_roberta,mpnet,distilbert,modernbert}.py` of transformers 5.23 have it in `…ForSequenceClassification`, and
//! `modeling_layers.py` for decoders.

use crate::checkpoint::Checkpoint;
use crate::config::{Activation, Architecture, ModelConfig};
use crate::embedding::{Dense, DenseActivation, Pool, Pooling};
use crate::error::{Error, Result};
use crate::files::ModelFiles;

pub(super) struct Head {
    pooling: Pooling,
    layers: Vec<Layer>,
}

enum Layer {
    Dense(Dense),
    Norm { weight: Vec<f32>, bias: Option<Vec<f32>>, eps: f64 },
}

/// Reads a head's weights.
struct HeadReader<'c> {
    checkpoint: &'c Checkpoint,
    config: &'c ModelConfig,
    file: &'c str,
}

impl Head {
    /// Reads that of the checkpoint among `files`.
    ///
    /// # Errors
    /// [`Error::BadField`] for a weight that is missing or of another shape; [`Error::Unsupported`] for an architecture whose heads are not
    /// known.
    pub(super) fn read(files: &ModelFiles) -> Result<Self> {
        let (config, checkpoint) = (files.model_config()?, Checkpoint::open(files)?);
        let reader = HeadReader { checkpoint: &checkpoint, config: &config, file: &files.name };
        let hidden = config.hidden_size;
        let (pool, layers) = match config.architecture {
            Architecture::Bert => (
                Pool::Cls,
                vec![
                    reader.dense("bert.pooler.dense", hidden, DenseActivation::Tanh, true)?,
                    reader.dense("classifier", 1, DenseActivation::Identity, true)?,
                ],
            ),
            Architecture::Roberta | Architecture::XlmRoberta | Architecture::Camembert | Architecture::Mpnet => (
                Pool::Cls,
                vec![
                    reader.dense("classifier.dense", hidden, DenseActivation::Tanh, true)?,
                    reader.dense("classifier.out_proj", 1, DenseActivation::Identity, true)?,
                ],
            ),
            Architecture::DistilBert => (
                Pool::Cls,
                vec![
                    reader.dense("pre_classifier", hidden, DenseActivation::Relu, true)?,
                    reader.dense("classifier", 1, DenseActivation::Identity, true)?,
                ],
            ),
            Architecture::ModernBert => reader.modernbert()?,
            Architecture::Qwen2 | Architecture::Qwen3 | Architecture::Llama | Architecture::Mistral => {
                (Pool::LastToken, vec![reader.dense("score", 1, DenseActivation::Identity, false)?])
            }
            other => {
                return Err(Error::Unsupported {
                    what: format!("reranking with the architecture `{other}`"),
                    reason: "its head is not known".into(),
                    hint: None,
                });
            }
        };
        Ok(Self { pooling: Pooling::of(pool), layers })
    }

    /// The logit of a text with hidden `states`, `[n, hidden_size]`.
    pub(super) fn logit(&self, states: &[f32], hidden_size: usize) -> f32 {
        let mut x = Vec::with_capacity(hidden_size);
        self.pooling.pool(states, hidden_size, 0, &mut x);
        for layer in &self.layers {
            match layer {
                Layer::Dense(dense) => x = dense.forward(&x),
                Layer::Norm { weight, bias, eps } => norm(&mut x, weight, bias.as_deref(), *eps),
            }
        }
        x.first().copied().unwrap_or(f32::NAN)
    }
}

impl HeadReader<'_> {
    fn modernbert(&self) -> Result<(Pool, Vec<Layer>)> {
        let (raw, hidden) = (self.config.raw(), self.config.hidden_size);
        let pool = match raw.get("classifier_pooling").and_then(|value| value.as_str()) {
            None | Some("cls") => Pool::Cls,
            Some("mean") => Pool::Mean,
            Some(other) => {
                return Err(Error::bad_field(self.file, "classifier_pooling", format!("is `{other}`, neither `cls` nor `mean`")));
            }
        };
        let flag = |field: &str| raw.get(field).and_then(serde_json::Value::as_bool).unwrap_or(false);
        let activation = match raw.get("classifier_activation").and_then(|value| value.as_str()) {
            None => DenseActivation::Gelu,
            Some(name) => match Activation::named(name) {
                Some(Activation::Gelu) => DenseActivation::Gelu,
                Some(Activation::Relu) => DenseActivation::Relu,
                Some(Activation::Silu) => DenseActivation::Silu,
                _ => {
                    return Err(Error::bad_field(self.file, "classifier_activation", format!("is `{name}`, which is not known")));
                }
            },
        };
        let bias = match flag("norm_bias") {
            true => Some(self.values("head.norm.bias", &[hidden])?),
            false => None,
        };
        let norm = Layer::Norm { weight: self.values("head.norm.weight", &[hidden])?, bias, eps: self.config.norm_eps };
        Ok((
            pool,
            vec![
                self.dense("head.dense", hidden, activation, flag("classifier_bias"))?,
                norm,
                self.dense("classifier", 1, DenseActivation::Identity, true)?,
            ],
        ))
    }

    fn dense(&self, name: &str, outputs: usize, activation: DenseActivation, has_bias: bool) -> Result<Layer> {
        let inputs = self.config.hidden_size;
        let weights = self.values(&format!("{name}.weight"), &[outputs, inputs])?;
        let bias = if has_bias { Some(self.values(&format!("{name}.bias"), &[outputs])?) } else { None };
        Ok(Layer::Dense(Dense::new(inputs, activation, weights, bias)))
    }

    fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let stored = self.checkpoint.tensor(name)?;
        if stored.shape == shape {
            return Ok(stored.to_f32());
        }
        let problem = format!("the weight is {:?}, and the head of a reranker makes it {shape:?}", stored.shape);
        Err(Error::bad_field(self.file, name, problem))
    }
}

/// The mean becomes 0 and the variance 1, then weight and bias.
fn norm(x: &mut [f32], weight: &[f32], bias: Option<&[f32]>, eps: f64) {
    let n = x.len() as f64;
    let mean = x.iter().map(|&value| f64::from(value)).sum::<f64>() / n;
    let variance = x.iter().map(|&value| (f64::from(value) - mean).powi(2)).sum::<f64>() / n;
    let scale = 1.0 / (variance + eps).sqrt();
    for (i, value) in x.iter_mut().enumerate() {
        let bias = bias.map_or(0.0, |bias| f64::from(bias[i]));
        *value = ((f64::from(*value) - mean) * scale * f64::from(weight[i]) + bias) as f32;
    }
}
