//! Losses and gradients of low-rank factors, by candle's own differentiation, for `tandem_core::training`.
//!
//! The base stays as it is: its products are operations whose gradient by the weights is never computed. On the processor they and the other
//! parts of the decoder run with our kernels (`ops`); on other devices with candle's own operations, which the tests hold the former to.

mod model;
mod ops;

use std::sync::Arc;

use candle_core::{Device, Tensor, Var};
use tandem_core::adapter::LowRankFactors;
use tandem_core::arena::Arena;
use tandem_core::backend::{LoadOptions, Numerics};
use tandem_core::checkpoint::Checkpoint;
use tandem_core::config::{Architecture, ModelConfig};
use tandem_core::files::ModelFiles;
use tandem_core::training::{FactorGradients, TrainableModel, TrainableModule, TrainingText};
use tandem_core::{CancelToken, DType, Error, Remedy, Result};
use tandem_kernels::Threads;

use self::model::{Factors, TrainableDecoder};
use crate::device;
use crate::error::Doing;
use crate::values::Values;
use crate::weights::{self, CheckpointSource};

const DOING: &str = "to compute gradients";

/// Loads the model of `files` to be trained beside: Qwen2, Qwen3, Llama or Mistral from a checkpoint, in f32 or as its 16 bits are.
///
/// # Errors
/// [`Error::Unsupported`] for another architecture, for GGUF files and for other dtypes than f32; as
/// [`Backend::load`](tandem_core::Backend::load).
pub fn trainable(files: &ModelFiles, options: &LoadOptions) -> Result<Box<dyn TrainableModel>> {
    let config = files.model_config()?;
    refuse_untrainable(files, &config, options)?;
    let device = device::open(options.device)?;
    let threads = device::threads(options.threads)?;
    let checkpoint = Checkpoint::open(files)?;
    let arena = Arena::default();
    let source =
        CheckpointSource { checkpoint: &checkpoint, file: &files.name, bits: None, numerics: Numerics::Exact, arena: &arena };
    let decoder = threads.install(|| weights::decoder(&source, &config))?;
    let modules = modules(&config);
    let decoder = TrainableDecoder::new(decoder, &device).doing("to move the weights to the device")?;
    Ok(Box::new(Trainable { decoder, modules, threads, device }))
}

/// A decoder with the layers that can have factors.
struct Trainable {
    decoder: TrainableDecoder,
    modules: Vec<TrainableModule>,
    threads: Arc<Threads>,
    device: Device,
}

impl Trainable {
    /// The factors as variables, in their order and by their modules.
    fn variables(&self, factors: &[LowRankFactors]) -> candle_core::Result<(Vec<(Var, Var)>, Factors)> {
        let mut variables = Vec::with_capacity(factors.len());
        let mut by_module = Factors::new(self.decoder.n_layers());
        for factor in factors {
            let a = Var::from_tensor(&Tensor::from_slice(&factor.a, (factor.rank, factor.inputs()), &self.device)?)?;
            let b = Var::from_tensor(&Tensor::from_slice(&factor.b, (factor.outputs(), factor.rank), &self.device)?)?;
            by_module.insert(&factor.module, (a.as_tensor().clone(), b.as_tensor().clone(), f64::from(factor.scale)));
            variables.push((a, b));
        }
        Ok((variables, by_module))
    }
}

impl TrainableModel for Trainable {
    fn modules(&self) -> &[TrainableModule] {
        &self.modules
    }

    fn loss(&self, factors: &[LowRankFactors], texts: &[&TrainingText], cancel: &CancelToken) -> Result<f64> {
        self.threads.install(|| {
            let detached = self.variables(factors).map(|(_, factors)| factors.detached()).doing(DOING)?;
            let loss = self.decoder.loss(&detached, texts, cancel).doing(DOING)?.ok_or(Error::Cancelled)?;
            Ok(f64::from(loss.to_scalar::<f32>().doing(DOING)?))
        })
    }

    fn add_gradients(
        &self,
        factors: &[LowRankFactors],
        texts: &[&TrainingText],
        cancel: &CancelToken,
        gradients: &mut [FactorGradients],
    ) -> Result<f64> {
        self.threads.install(|| {
            let (variables, by_module) = self.variables(factors).doing(DOING)?;
            let loss = self.decoder.loss(&by_module, texts, cancel).doing(DOING)?.ok_or(Error::Cancelled)?;
            let store = loss.backward().doing(DOING)?;
            let mut computed = Vec::with_capacity(variables.len());
            for (a, b) in &variables {
                let of = |var: &Var| match store.get(var) {
                    Some(gradient) => gradient.to_device(&Device::Cpu)?.contiguous().map(Some),
                    None => Ok(None),
                };
                computed.push((of(a).doing(DOING)?, of(b).doing(DOING)?));
            }
            if cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            for ((a, b), sums) in computed.iter().zip(gradients) {
                for (gradient, sums) in [(a, &mut sums.a), (b, &mut sums.b)] {
                    let Some(gradient) = gradient else { continue };
                    let values = Values::of(gradient).doing(DOING)?;
                    sums.iter_mut().zip(&*values).for_each(|(sum, value)| *sum += value);
                }
            }
            Ok(f64::from(loss.to_scalar::<f32>().doing(DOING)?))
        })
    }
}

/// The linear layers of every layer, as checkpoints name them.
fn modules(config: &ModelConfig) -> Vec<TrainableModule> {
    let (hidden, inner) = (config.hidden_size, config.intermediate_size);
    let (queries, keys) = (config.n_heads * config.head_dim(), config.n_kv_heads * config.head_dim());
    let of_layer = |layer: usize| {
        model::MODULES
            .into_iter()
            .zip([
                [queries, hidden],
                [keys, hidden],
                [keys, hidden],
                [hidden, queries],
                [inner, hidden],
                [inner, hidden],
                [hidden, inner],
            ])
            .map(move |(name, [outputs, inputs])| TrainableModule {
                name: format!("model.layers.{layer}.{name}"),
                outputs,
                inputs,
            })
    };
    (0..config.n_layers).flat_map(of_layer).collect()
}

fn refuse_untrainable(files: &ModelFiles, config: &ModelConfig, options: &LoadOptions) -> Result<()> {
    let refuse = |what: String, reason: &str, hint: Remedy| {
        Err(Error::Unsupported { what, reason: reason.into(), hint: Some(hint.into()) })
    };
    if files.gguf().is_some() {
        let hint = "name the checkpoint (safetensors) that it was converted from".into();
        return refuse(format!("training beside the GGUF file `{}`", files.name), "its weights are rounded", hint);
    }
    let known = [Architecture::Qwen2, Architecture::Qwen3, Architecture::Llama, Architecture::Mistral];
    if !known.contains(&config.architecture) || !config.is_causal {
        let hint =
            "train a model of one of these, or elsewhere: an adapter in the form of PEFT is read for any architecture".into();
        let reason = "adapters are trained for causal models of Qwen2, Qwen3, Llama and Mistral";
        return refuse(format!("training `{}` ({})", files.name, config.architecture), reason, hint);
    }
    match options.dtype {
        None | Some(DType::F32) => Ok(()),
        Some(dtype) => {
            let reason = "gradients go through the weights as they were published";
            refuse(format!("training in `{dtype}`"), reason, Remedy::UseDType(vec![DType::F32]))
        }
    }
}

#[cfg(test)]
mod tests;
