//! Linear layers that follow pooling.

use crate::checkpoint::Checkpoint;
use crate::config::Fields;
use crate::error::{Error, Result};
use crate::files::ModelFile;

/// A linear layer with an activation: `activation(W x + b)`, plus `R x` (or `x` where the widths are equal) where it has a residual.
#[derive(Clone, Debug, PartialEq)]
pub struct Dense {
    /// Width of its input.
    pub inputs: usize,
    /// Width of its output.
    pub outputs: usize,
    /// The activation.
    pub activation: DenseActivation,
    /// `[outputs, inputs]`
    pub(super) weights: Vec<f32>,
    /// `[outputs]`
    pub(super) bias: Option<Vec<f32>>,
    /// Of the residual, `[outputs, inputs]`; an empty one is the identity.
    pub(super) residual: Option<Vec<f32>>,
}

/// The activation of a [`Dense`], by the last part of its name in PyTorch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DenseActivation {
    /// None: `Identity`.
    Identity,
    /// `Tanh`.
    Tanh,
    /// `ReLU`.
    Relu,
    /// `GELU`, by the error function.
    Gelu,
    /// `SiLU`.
    Silu,
    /// `Sigmoid`.
    Sigmoid,
}

/// The widest layer that is read: EmbeddingGemma's have 768 and 3072.
const MAX_WIDTH: usize = 1 << 16;

impl DenseActivation {
    fn named(path: &str) -> Option<Self> {
        match path.rsplit('.').next()? {
            "Identity" => Some(Self::Identity),
            "Tanh" => Some(Self::Tanh),
            "ReLU" => Some(Self::Relu),
            "GELU" | "GELUActivation" => Some(Self::Gelu),
            "SiLU" => Some(Self::Silu),
            "Sigmoid" => Some(Self::Sigmoid),
            _ => None,
        }
    }

    /// Its value at `x`.
    pub fn of(self, x: f64) -> f64 {
        match self {
            Self::Identity => x,
            Self::Tanh => x.tanh(),
            Self::Relu => x.max(0.0),
            Self::Gelu => 0.5 * x * (1.0 + libm::erf(x / std::f64::consts::SQRT_2)),
            Self::Silu => x / (1.0 + (-x).exp()),
            Self::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        }
    }
}

impl Dense {
    /// A layer of `weights`, `[outputs, inputs]`.
    pub(crate) fn new(inputs: usize, activation: DenseActivation, weights: Vec<f32>, bias: Option<Vec<f32>>) -> Self {
        Self { inputs, outputs: weights.len() / inputs, activation, weights, bias, residual: None }
    }

    /// Reads the layer whose `config.json` has `fields` and whose weights `find` finds by their names.
    pub(super) fn read(fields: &Fields<'_>, find: impl Fn(&str) -> Option<ModelFile>) -> Result<Self> {
        let (inputs, outputs) = (fields.required("in_features", 1..=MAX_WIDTH)?, fields.required("out_features", 1..=MAX_WIDTH)?);
        let name = fields.string("activation_function")?.unwrap_or("torch.nn.modules.activation.Tanh");
        let activation = DenseActivation::named(name).ok_or_else(|| Error::Unsupported {
            what: format!("the activation `{name}` of `{}`", fields.file()),
            reason: "a dense layer is known with `Identity`, `Tanh`, `ReLU`, `GELU`, `SiLU` and `Sigmoid`".into(),
            hint: None,
        })?;
        for field in ["module_input_name", "module_output_name"] {
            if let Some(other) = fields.string(field)?.filter(|name| *name != "sentence_embedding") {
                return Err(Error::Unsupported {
                    what: format!("a dense layer of `{other}` (`{field}` of `{}`)", fields.file()),
                    reason: "only layers that follow pooling are known".into(),
                    hint: None,
                });
            }
        }
        let Some(file) = find("model.safetensors") else {
            return Err(missing_weights(fields.file(), find("pytorch_model.bin").is_some()));
        };
        let name = file.name().into_owned();
        let checkpoint = Checkpoint::parse(file.map()?, &name)?;
        let matrix = |tensor: &str, rows: usize, columns: Option<usize>| {
            let shape: Vec<usize> = std::iter::once(rows).chain(columns).collect();
            let stored = checkpoint.tensor(tensor)?;
            if stored.shape != shape {
                let problem = format!("the weight is {:?}, but the layer's `config.json` makes it {shape:?}", stored.shape);
                return Err(Error::bad_field(&name, tensor, problem));
            }
            Ok(stored.to_f32())
        };
        let has_residual = fields.boolean("use_residual")?.unwrap_or(false);
        Ok(Self {
            inputs,
            outputs,
            activation,
            weights: matrix("linear.weight", outputs, Some(inputs))?,
            bias: match fields.boolean("bias")?.unwrap_or(true) {
                true => Some(matrix("linear.bias", outputs, None)?),
                false => None,
            },
            residual: match has_residual {
                true if checkpoint.contains("residual.weight") => Some(matrix("residual.weight", outputs, Some(inputs))?),
                true if inputs == outputs => Some(Vec::new()),
                true => Some(matrix("residual.weight", outputs, Some(inputs))?),
                false => None,
            },
        })
    }

    /// Its output for `x`, `[inputs]`: `[outputs]`.
    pub fn forward(&self, x: &[f32]) -> Vec<f32> {
        let product = |weights: &[f32], row: usize| -> f64 {
            let weights = &weights[row * self.inputs..(row + 1) * self.inputs];
            weights.iter().zip(x).map(|(weight, x)| f64::from(*weight) * f64::from(*x)).sum()
        };
        let bias = |row: usize| self.bias.as_ref().map_or(0.0, |bias| f64::from(bias[row]));
        let residual = |row: usize| match &self.residual {
            None => 0.0,
            Some(weights) if weights.is_empty() => f64::from(x[row]),
            Some(weights) => product(weights, row),
        };
        (0..self.outputs)
            .map(|row| (self.activation.of(product(&self.weights, row) + bias(row)) + residual(row)) as f32)
            .collect()
    }
}

fn missing_weights(config: &str, has_pickle: bool) -> Error {
    let hint = match has_pickle {
        true => {
            "its weights are in `pytorch_model.bin`, a pickle, which can run code and is never opened: look for a copy with safetensors"
        }
        false => "obtain the file from where the model was published",
    };
    Error::BadFile {
        file: config.replace("config.json", "model.safetensors"),
        problem: "there is no such file, and the dense layer's weights would be in it".into(),
        hint: Some(hint.into()),
        source: None,
    }
}
