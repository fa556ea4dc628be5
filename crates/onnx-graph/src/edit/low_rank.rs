//! Low-rank updates (LoRA) of a graph's products, beside the weights and without touching them: quantised ones stay as they are.
//!
//! `y = x W` becomes `y = x W + (x A) B`, where `A` and `B` are constants within the graph. Products are found by the names
//! that exporters give to their nodes, after the modules of Hugging Face transformers.

mod target;

use std::collections::BTreeMap;

use self::target::Target;
use super::patches::Patches;
use super::prune_positions::PrunePlan;
use super::{Edit, children, message};
use crate::encode::{self, Data};
use crate::error::{Error, Result};
use crate::graph::{DataType, Graph, Node};
use crate::schema::{graph, node};

/// An update of one module's weight by `scale * b * a`, as PEFT defines it.
#[derive(Clone, Copy, Debug)]
pub struct LowRank<'a> {
    /// The module, such as `model.layers.0.self_attn.q_proj`; what comes before `layers` does not matter.
    pub module: &'a str,
    /// Rows of `a` and columns of `b`.
    pub rank: usize,
    /// `[rank, inputs]`: `lora_A.weight`
    pub a: &'a [f32],
    /// `[outputs, rank]`: `lora_B.weight`
    pub b: &'a [f32],
    /// `lora_alpha / rank`, or as the adapter's configuration scales it.
    pub scale: f32,
}

/// A product and the update that is added to it.
#[derive(Debug)]
pub(super) struct Update<'g> {
    target: Target<'g>,
    factors: Factors,
}

/// `A` and `B` of one product, for the updates of one module, or of several that the graph packs into one product.
#[derive(Debug)]
struct Factors {
    rank: usize,
    /// `[inputs, rank]`
    a: Vec<f32>,
    /// `[rank, outputs]`
    b: Vec<f32>,
}

impl Edit<'_> {
    /// Adds updates to the products of their modules. One call takes all of them; the updates of several adapters combine into one with
    /// the sum of their ranks.
    ///
    /// # Errors
    /// When a module has no product in the graph, is named twice, or has another shape than its update; at a second call.
    pub fn add_low_rank(&mut self, updates: &[LowRank<'_>]) -> Result<()> {
        if !self.updates.is_empty() {
            return Err(Error::bad_file(self.graph.file(), "low-rank updates have been added already"));
        }
        let targets = target::find(self.graph);
        let mut of_targets: BTreeMap<usize, Vec<(&LowRank<'_>, std::ops::Range<usize>)>> = BTreeMap::new();
        for (index, update) in updates.iter().enumerate() {
            let refuse = |problem: String| Err(Error::bad_field(self.graph.file(), update.module, problem));
            let module = target::module(update.module);
            let found = targets.iter().enumerate().find_map(|(index, target)| Some((index, target.columns(module.as_ref()?)?)));
            let Some((target, columns)) = found else {
                return refuse("no product of the graph belongs to this module".into());
            };
            if updates[..index].iter().any(|other| target::module(other.module) == module) {
                return refuse("is updated twice".into());
            }
            let (n_inputs, n_outputs) = (targets[target].n_inputs, columns.len());
            let fits = |elements: &[f32], size: usize| Some(elements.len()) == size.checked_mul(update.rank);
            if update.rank == 0 || !fits(update.a, n_inputs) || !fits(update.b, n_outputs) {
                return refuse(format!(
                    "the update has {} and {} elements and rank {}, and the graph has {n_inputs} inputs and {n_outputs} outputs",
                    update.a.len(),
                    update.b.len(),
                    update.rank
                ));
            }
            of_targets.entry(target).or_default().push((update, columns));
        }
        let mut targets: Vec<_> = targets.into_iter().map(Some).collect();
        for (index, updates) in of_targets {
            let target = targets[index].take().expect("the map has each target once");
            let factors = Factors::new(&target, &updates);
            self.updates.push(Update { target, factors });
        }
        Ok(())
    }
}

impl Update<'_> {
    /// Renames the product's result and adds the update to it under the old name, for the positions that the product sees.
    pub(super) fn apply<'g>(&'g self, edited: &Graph, plan: Option<&mut PrunePlan<'g>>, patches: &mut Patches) {
        let Self { target, factors } = self;
        let name = |part: &str| format!("low_rank/{}/{part}", target.output);
        let input = match plan.filter(|plan| plan.values.contains(target.output)) {
            Some(plan) => plan.name(target.input, target.last.range.start),
            None => target.input.into(),
        };
        let nodes = [
            binary("MatMul", [&input, &name("a")], name("small")),
            binary("MatMul", [&name("small"), &name("b")], name("update")),
            binary("Add", [&name("base"), &name("update")], target.output.into()),
        ];
        let main = edited.main().range.start;
        for added in &nodes {
            let bytes = encode::node(added);
            match target.next {
                Some(next) => patches.insert_before(next.range.start, graph::NODE, &bytes),
                None => patches.append(main, graph::NODE, &bytes),
            }
        }
        let (rank, n_inputs) = (factors.rank as i64, target.n_inputs as i64);
        for (part, values, dims) in [("a", &factors.a, [n_inputs, rank]), ("b", &factors.b, [rank, target.n_outputs as i64])] {
            let bytes = to_bytes(values, target.data_type);
            let tensor = encode::tensor(&name(part), target.data_type, &dims, Data::Raw(&bytes));
            patches.append(main, graph::INITIALIZER, &tensor);
        }
        let outputs = children(message(edited, &target.last.range), node::OUTPUT);
        for output in outputs.filter(|output| output.bytes == target.output.as_bytes()) {
            patches.replace(output.start, name("base").into_bytes());
        }
    }
}

impl Factors {
    /// The factors of several updates side by side: each has its own part of the rank, and of the outputs.
    fn new(target: &Target<'_>, updates: &[(&LowRank<'_>, std::ops::Range<usize>)]) -> Self {
        let rank = updates.iter().map(|(update, _)| update.rank).sum();
        let mut factors = Self { rank, a: vec![0.0; target.n_inputs * rank], b: vec![0.0; rank * target.n_outputs] };
        let mut first = 0;
        for (update, columns) in updates {
            for part in 0..update.rank {
                for input in 0..target.n_inputs {
                    factors.a[input * rank + first + part] = update.a[part * target.n_inputs + input];
                }
                let row = &mut factors.b[(first + part) * target.n_outputs..][columns.clone()];
                row.iter_mut()
                    .enumerate()
                    .for_each(|(output, value)| *value = update.scale * update.b[output * update.rank + part]);
            }
            first += update.rank;
        }
        factors
    }
}

fn binary(op_type: &str, inputs: [&str; 2], output: String) -> Node {
    Node {
        name: format!("/{output}/{op_type}"),
        op_type: op_type.into(),
        inputs: inputs.map(Into::into).into(),
        outputs: vec![output],
        ..Node::default()
    }
}

fn to_bytes(values: &[f32], data_type: DataType) -> Vec<u8> {
    match data_type {
        DataType::FLOAT16 => values.iter().flat_map(|value| half::f16::from_f32(*value).to_le_bytes()).collect(),
        DataType::BFLOAT16 => values.iter().flat_map(|value| half::bf16::from_f32(*value).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
    }
}

#[cfg(test)]
mod tests;
