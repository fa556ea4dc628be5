//! Low-rank adapters (LoRA) as backends take them: factors, read and checked once, whatever file they came from.
//!
//! A module's weight `W [outputs, inputs]` becomes `W' = W + scale * B A`, with `A [rank, inputs]` and `B [outputs, rank]`: Hu et al.,
//! "LoRA: Low-Rank Adaptation of Large Language Models", 2021, equation 3. With a magnitude for each output, each row of that `W'` is
//! scaled to that length: Liu et al., "DoRA: Weight-Decomposed Low-Rank Adaptation", 2024, equation 5.
//!
//! [`AdapterSum`] is what backends work with: several adapters become one update for each module. [`AdapterFiles`] reads one from its
//! files, [`write_peft`], [`write_mlx`] and [`write_onnx_adapter`] write it, and [`write_merged`] makes a checkpoint of it.

mod files;
mod found;
mod gguf;
mod merge;
mod mlx;
mod onnx;
mod peft;
mod read;
mod sum;
mod write;

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

pub use self::files::{AdapterFiles, AdapterFormat};
pub use self::merge::{MergeOptions, Merged, write_merged};
pub use self::mlx::write_mlx;
pub use self::onnx::write_onnx_adapter;
pub use self::peft::write_peft;
pub use self::sum::{AdapterSum, BaseRows, ModuleParts, ModuleUpdate, canonical_module};

/// One adapter.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter {
    name: String,
    factors: Vec<LowRankFactors>,
    replaced: Vec<ReplacedTensor>,
    origin: AdapterOrigin,
}

/// Where an adapter came from.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct AdapterOrigin {
    /// The format of its files, such as `peft`; `None` for one made in memory.
    pub format: Option<&'static str>,
    /// The model that it was trained on, as its files name it.
    pub base_model: Option<String>,
    /// The SHA-256 of its weights' file, in hexadecimal.
    pub sha256: Option<String>,
}

/// A tensor of the base that an adapter brings whole: a bias, a norm, an embedding. It can be merged into a checkpoint, and not be added
/// while running.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplacedTensor {
    /// Its name in the checkpoint: `model.norm.weight`.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its values, row-major.
    pub values: Vec<f32>,
}

/// An adapter, and how much of it is applied.
#[derive(Clone, Debug)]
pub struct ScaledAdapter {
    /// The adapter.
    pub adapter: Arc<Adapter>,
    /// A factor beside its own scales; 1 applies it as it was trained.
    pub scale: f32,
}

/// What an adapter adds to the weight of one module.
#[derive(Clone, Debug, PartialEq)]
pub struct LowRankFactors {
    /// The module by its name in the checkpoint, without `.weight`: `model.layers.0.self_attn.q_proj`.
    pub module: String,
    /// `A`, row-major: `[rank, inputs]`.
    pub a: Vec<f32>,
    /// `B`, row-major: `[outputs, rank]`.
    pub b: Vec<f32>,
    /// The rank, at least 1.
    pub rank: usize,
    /// What the product is multiplied by: `alpha / rank`, or `alpha / sqrt(rank)` with rank stabilisation.
    pub scale: f32,
    /// The length of each row of the adapted weight, `[outputs]`: DoRA's.
    pub magnitude: Option<Vec<f32>>,
}

/// A module that adapters change: what an engine must know before it sees their factors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdaptedModule {
    /// The module, in the form of [`canonical_module`].
    pub module: String,
    /// The rows of its weight are scaled too (DoRA).
    pub has_magnitude: bool,
}

impl Adapter {
    /// An adapter called `name`, for messages.
    ///
    /// # Errors
    /// [`Error::BadField`] for a module that is named twice, a factor that is not `rank` rows or columns, and a value that is not finite.
    pub fn new(name: impl Into<String>, factors: Vec<LowRankFactors>) -> Result<Self> {
        let name = name.into();
        let bad = |module: &str, problem: String| Err(Error::bad_field(&name, module, problem));
        let mut modules: Vec<&str> = factors.iter().map(|factor| factor.module.as_str()).collect();
        modules.sort_unstable();
        if let Some(pair) = modules.windows(2).find(|pair| pair[0] == pair[1]) {
            return bad(pair[0], "the adapter has factors for it twice".into());
        }
        for factor in &factors {
            let LowRankFactors { module, a, b, rank, scale, magnitude } = factor;
            for (which, values) in [("A", a), ("B", b)] {
                if *rank == 0 || values.is_empty() || !values.len().is_multiple_of(*rank) {
                    return bad(
                        module,
                        format!("factor {which} has {} values, which do not divide by rank {rank}", values.len()),
                    );
                }
            }
            let magnitudes = magnitude.as_deref().unwrap_or_default();
            if magnitude.is_some() && magnitudes.len() != factor.outputs() {
                let problem = format!("has {} magnitudes for {} outputs", magnitudes.len(), factor.outputs());
                return bad(module, problem);
            }
            if !scale.is_finite() || a.iter().chain(b).chain(magnitudes).any(|value| !value.is_finite()) {
                return bad(module, "a factor or its scale is not finite".into());
            }
        }
        Ok(Self { name, factors, replaced: Vec::new(), origin: AdapterOrigin::default() })
    }

    /// The same with tensors that it brings whole.
    ///
    /// # Errors
    /// [`Error::BadField`] for a tensor that is named twice, has another number of values than its shape, or values that are not finite.
    pub fn with_replaced(self, replaced: Vec<ReplacedTensor>) -> Result<Self> {
        let mut names = HashSet::new();
        for tensor in &replaced {
            let bad = |problem: &str| Err(Error::bad_field(&self.name, &tensor.name, problem));
            if !names.insert(&tensor.name) {
                return bad("the adapter has it twice");
            }
            let n = tensor.shape.iter().try_fold(1_usize, |n, &size| n.checked_mul(size));
            if n != Some(tensor.values.len()) {
                return bad("has another number of values than its shape");
            }
            if tensor.values.iter().any(|value| !value.is_finite()) {
                return bad("a value is not finite");
            }
        }
        Ok(Self { replaced, ..self })
    }

    /// The same with what is known of where it came from.
    pub fn with_origin(self, origin: AdapterOrigin) -> Self {
        Self { origin, ..self }
    }

    /// Its name in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The factors, one entry a module.
    pub fn factors(&self) -> &[LowRankFactors] {
        &self.factors
    }

    /// The tensors that it brings whole.
    pub fn replaced(&self) -> &[ReplacedTensor] {
        &self.replaced
    }

    /// Where it came from.
    pub fn origin(&self) -> &AdapterOrigin {
        &self.origin
    }

    /// The memory of its factors, in bytes.
    pub fn bytes(&self) -> usize {
        let values = |factor: &LowRankFactors| factor.a.len() + factor.b.len() + factor.magnitude.as_ref().map_or(0, Vec::len);
        size_of::<f32>() * self.factors.iter().map(values).sum::<usize>()
    }
}

impl AdapterOrigin {
    /// Of an adapter that was trained on `base_model` just now.
    pub fn trained_on(base_model: impl Into<String>) -> Self {
        Self { base_model: Some(base_model.into()), ..Self::default() }
    }
}

impl ScaledAdapter {
    /// `adapter` as it was trained.
    pub fn new(adapter: Arc<Adapter>) -> Self {
        Self { adapter, scale: 1.0 }
    }
}

impl LowRankFactors {
    /// The width of what the module reads.
    pub fn inputs(&self) -> usize {
        self.a.len() / self.rank
    }

    /// The width of what the module gives.
    pub fn outputs(&self) -> usize {
        self.b.len() / self.rank
    }
}

/// Whether the modules of `adapter` have magnitudes, for a `form` in which all have them or none.
fn has_magnitudes(adapter: &Adapter, form: &str) -> Result<bool> {
    let n = adapter.factors.iter().filter(|factors| factors.magnitude.is_some()).count();
    match n {
        0 => Ok(false),
        n if n == adapter.factors.len() => Ok(true),
        n => Err(Error::Unsupported {
            what: format!("the adapter `{}` in the form of {form}", adapter.name),
            reason: format!(
                "{n} of its {} modules have magnitudes (DoRA), and there all have them or none",
                adapter.factors.len()
            ),
            hint: Some("merge it into a checkpoint".into()),
        }),
    }
}

/// For a `form` that has no place for whole tensors.
fn refuse_replaced(adapter: &Adapter, form: &str) -> Result<()> {
    let Some(replaced) = adapter.replaced.first() else { return Ok(()) };
    Err(Error::Unsupported {
        what: format!("the adapter `{}` in the form of {form}", adapter.name),
        reason: format!("it replaces whole tensors of its base, such as `{}`", replaced.name),
        hint: Some("merge it into a checkpoint, or write it in the form of PEFT".into()),
    })
}

/// The value that comes most often, the first of several.
fn most_frequent<T: Copy + Eq + Hash>(values: impl Iterator<Item = T>) -> Option<T> {
    let mut counts: HashMap<T, (usize, usize)> = HashMap::new();
    for (i, value) in values.enumerate() {
        counts.entry(value).or_insert((0, usize::MAX - i)).0 += 1;
    }
    counts.into_iter().max_by_key(|(_, count)| *count).map(|(value, _)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn factors(module: &str, rank: usize) -> LowRankFactors {
        LowRankFactors {
            module: module.into(),
            a: vec![1.0; 2 * rank],
            b: vec![1.0; 3 * rank],
            rank,
            scale: 2.0,
            magnitude: None,
        }
    }

    #[test]
    fn factors_know_their_widths() {
        let adapter = Adapter::new("mine", vec![factors("q", 4), factors("k", 1)]).unwrap();
        assert_eq!((adapter.factors()[0].inputs(), adapter.factors()[0].outputs()), (2, 3));
    }

    #[test]
    fn contradicting_factors_name_the_module() {
        let check = |factors: Vec<LowRankFactors>, expected: &str| {
            let error = Adapter::new("mine", factors).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains("`mine`") && error.contains("`q`"), "{error}");
        };
        check(vec![factors("q", 4), factors("q", 4)], "twice");
        check(vec![LowRankFactors { rank: 0, ..factors("q", 4) }], "rank 0");
        check(vec![LowRankFactors { b: vec![0.0; 7], ..factors("q", 4) }], "factor B has 7 values");
        check(vec![LowRankFactors { a: Vec::new(), ..factors("q", 4) }], "factor A has 0 values");
        check(vec![LowRankFactors { scale: f32::NAN, ..factors("q", 4) }], "not finite");
        check(vec![LowRankFactors { magnitude: Some(vec![1.0; 2]), ..factors("q", 4) }], "2 magnitudes for 3 outputs");
        check(vec![LowRankFactors { magnitude: Some(vec![f32::NAN; 3]), ..factors("q", 4) }], "not finite");
        check(vec![LowRankFactors { a: vec![f32::INFINITY; 4], ..factors("q", 4) }], "not finite");
    }
}
