//! Low-rank adapters (LoRA) as backends take them: factors, read and checked once, whatever file they came from.
//!
//! A module's weight `W [outputs, inputs]` becomes `W + scale * B A`, with `A [rank, inputs]` and `B [outputs, rank]`: Hu et al., "LoRA:
//! Low-Rank Adaptation of Large Language Models", 2021, equation 3.

use std::sync::Arc;

use crate::error::{Error, Result};

/// The factors of one adapter.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter {
    name: String,
    factors: Vec<LowRankFactors>,
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
            let LowRankFactors { module, a, b, rank, scale } = factor;
            for (which, values) in [("A", a), ("B", b)] {
                if *rank == 0 || values.is_empty() || !values.len().is_multiple_of(*rank) {
                    return bad(
                        module,
                        format!("factor {which} has {} values, which do not divide by rank {rank}", values.len()),
                    );
                }
            }
            if !scale.is_finite() || a.iter().chain(b).any(|value| !value.is_finite()) {
                return bad(module, "a factor or its scale is not finite".into());
            }
        }
        Ok(Self { name, factors })
    }

    /// Its name in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The factors, one entry a module.
    pub fn factors(&self) -> &[LowRankFactors] {
        &self.factors
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

#[cfg(test)]
mod tests {
    use super::*;

    fn factors(module: &str, rank: usize) -> LowRankFactors {
        LowRankFactors { module: module.into(), a: vec![1.0; 2 * rank], b: vec![1.0; 3 * rank], rank, scale: 2.0 }
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
        check(vec![LowRankFactors { a: vec![f32::INFINITY; 4], ..factors("q", 4) }], "not finite");
    }
}
