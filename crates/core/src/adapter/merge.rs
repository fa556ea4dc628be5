//! Adapters merged into the weights of a checkpoint: `W + Σ scale * (W' - W)`, where `W'` is what an adapter makes of a weight.
//!
//! One row is in memory at a time, in f32, beside the factors.

mod write;

use std::collections::HashMap;

pub use self::write::{MergeOptions, write_merged};
use super::{AdapterSum, ModuleUpdate, ReplacedTensor, ScaledAdapter, canonical_module};
use crate::checkpoint::{Checkpoint, StoredTensor};
use crate::error::{Error, Result};

/// A checkpoint with adapters merged into it: its changed weights, one at a time.
pub struct Merged<'a> {
    checkpoint: &'a Checkpoint,
    /// By the names of the checkpoint's tensors.
    changes: HashMap<&'a str, Change<'a>>,
}

/// What is done to one tensor.
#[derive(Default)]
struct Change<'a> {
    update: Option<ModuleUpdate>,
    /// Values of its shape, and how much of each is taken in the place of the tensor's own.
    replaced: Vec<(&'a [f32], f32)>,
}

impl<'a> Merged<'a> {
    /// `checkpoint` with the sum of `adapters`, all of whose modules and tensors it must have.
    ///
    /// # Errors
    /// [`Error::BadField`] for a module or tensor that the checkpoint lacks or has in another shape.
    pub fn new(checkpoint: &'a Checkpoint, adapters: &'a [ScaledAdapter]) -> Result<Self> {
        let mut merged = Self { checkpoint, changes: HashMap::new() };
        let mut sum = AdapterSum::of_factors(adapters);
        let mut names: Vec<&str> = checkpoint.names().collect();
        names.sort_unstable();
        for &name in &names {
            let Some(module) = name.strip_suffix(".weight").filter(|module| sum.changes(module)) else { continue };
            let tensor = checkpoint.tensor(name)?;
            let [outputs, inputs] = *tensor.shape else {
                let problem = format!("an adapter has factors for it, and it is of shape {:?}", tensor.shape);
                return Err(Error::bad_field(checkpoint.file_of(name).unwrap_or_default(), name, problem));
            };
            let update = sum.take(module, [outputs, inputs], &mut |each| {
                rows(&tensor).for_each(|row| each(&row));
                Ok(())
            })?;
            if let Some(update) = update {
                merged.changes.entry(name).or_default().update = Some(update);
            }
            checkpoint.release();
        }
        sum.finish()?;
        let by_canonical: HashMap<String, &str> = names.iter().map(|name| (canonical(name), *name)).collect();
        for ScaledAdapter { adapter, scale } in adapters.iter().filter(|adapter| adapter.scale != 0.0) {
            for replaced in adapter.replaced() {
                let name = merged.place_of(replaced, &by_canonical, adapter.name())?;
                merged.changes.entry(name).or_default().replaced.push((&replaced.values, *scale));
            }
        }
        Ok(merged)
    }

    /// Whether the tensor called `name` is another one than the checkpoint's.
    pub fn changes(&self, name: &str) -> bool {
        self.changes.contains_key(name)
    }

    /// The values of the tensor called `name`, row-major in the checkpoint's shape.
    ///
    /// # Errors
    /// As [`Checkpoint::tensor`].
    pub fn tensor(&self, name: &str) -> Result<Vec<f32>> {
        let mut values = Vec::new();
        self.each_row(name, &mut |row| {
            values.extend_from_slice(row);
            Ok(())
        })?;
        Ok(values)
    }

    /// Calls `each` with the rows of the tensor called `name`, one after the other; one without rows is one.
    fn each_row(&self, name: &str, each: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<()> {
        let tensor = self.checkpoint.tensor(name)?;
        let Some(change) = self.changes.get(name) else { return rows(&tensor).try_for_each(|row| each(&row)) };
        for (number, mut row) in rows(&tensor).enumerate() {
            let taken: f32 = change.replaced.iter().map(|(_, scale)| scale).sum();
            let gain = change.update.as_ref().and_then(|update| update.gain.as_ref()).map_or(1.0, |gain| gain[number]);
            let own = gain - taken;
            if own != 1.0 {
                row.iter_mut().for_each(|value| *value *= own);
            }
            if let Some(ModuleUpdate { rank, a, b, .. }) = &change.update {
                let width = row.len();
                for (factor, a) in b[number * rank..][..*rank].iter().zip(a.chunks_exact(width)) {
                    row.iter_mut().zip(a).for_each(|(value, a)| *value += factor * a);
                }
            }
            for (values, scale) in &change.replaced {
                let values = &values[number * row.len()..][..row.len()];
                row.iter_mut().zip(values).for_each(|(value, other)| *value += scale * other);
            }
            each(&row)?;
        }
        Ok(())
    }

    /// The name of the checkpoint's tensor that `replaced` takes the place of.
    fn place_of(&self, replaced: &ReplacedTensor, by_canonical: &HashMap<String, &'a str>, adapter: &str) -> Result<&'a str> {
        let Some(name) = by_canonical.get(&canonical(&replaced.name)) else {
            let problem = "the adapter replaces it, and the checkpoint has no such tensor";
            return Err(Error::bad_field(adapter, &replaced.name, problem));
        };
        let shape = self.checkpoint.tensor(name)?.shape;
        if shape == replaced.shape {
            return Ok(name);
        }
        let problem = format!("the adapter brings it in the shape {:?}, and the checkpoint's is {shape:?}", replaced.shape);
        Err(Error::bad_field(adapter, &replaced.name, problem))
    }
}

/// A tensor's name without what wrappers put before it.
fn canonical(name: &str) -> String {
    let (module, kind) = name.rsplit_once('.').unwrap_or(("", name));
    format!("{}.{kind}", canonical_module(module))
}

/// The rows of a tensor in f32; one without rows is one.
fn rows<'t>(tensor: &StoredTensor<'t>) -> impl Iterator<Item = Vec<f32>> + use<'t> {
    let (dtype, shape, bytes) = (tensor.dtype, tensor.shape, tensor.bytes);
    let n = if shape.len() > 1 { shape[0] } else { 1 };
    let width = if bytes.is_empty() { 1 } else { bytes.len() / n.max(1) };
    bytes.chunks_exact(width.max(1)).map(move |bytes| StoredTensor { dtype, shape, bytes }.to_f32())
}
