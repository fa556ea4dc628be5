//! Low-rank updates (LoRA) of a graph's products, beside the weights and without touching them: quantised ones stay as they are.
//!
//! `y = x W` becomes `y = gain * (x W) + (x A) B`, before the bias. `A` and `B` are constants within the graph, or inputs that default to
//! rank 0 and so may have another rank in each run.

use std::collections::BTreeMap;

use super::patches::Patches;
use super::product::{Product, module_name};
use super::prune_positions::PrunePlan;
use super::{Edit, children, message};
use crate::encode::{self, Data};
use crate::error::{Error, Result};
use crate::graph::{DataType, Dim, Graph, Node, ValueInfo};
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

/// Inputs for the adapter of one product.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterInputs {
    /// The product, by [`Product::name`].
    pub product: String,
    /// There is an input for the gains of the outputs too.
    pub has_gain: bool,
}

/// A product and the update that is added to it.
#[derive(Debug)]
pub(super) struct Update<'g> {
    product: Product<'g>,
    factors: Factors,
}

/// `A` and `B` of one product.
#[derive(Debug)]
enum Factors {
    /// Of the updates of one module, or of several that the graph packs into one product: `[inputs, rank]` and `[rank, outputs]`.
    Constant { rank: usize, a: Vec<f32>, b: Vec<f32> },
    /// What each run gives.
    Inputs(AdapterInputs),
}

impl<'g> Edit<'g> {
    /// Adds updates to the products of their modules. One call takes all of them; the updates of several adapters combine into one with
    /// the sum of their ranks.
    ///
    /// # Errors
    /// When a module has no product in the graph, is named twice, or has another shape than its update; at a second call.
    pub fn add_low_rank(&mut self, updates: &[LowRank<'_>]) -> Result<()> {
        self.refuse_second_updates()?;
        let products = self.graph.products();
        let mut of_products: BTreeMap<usize, Vec<(&LowRank<'_>, std::ops::Range<usize>)>> = BTreeMap::new();
        for (index, update) in updates.iter().enumerate() {
            let refuse = |problem: String| Err(Error::bad_field(self.graph.file(), update.module, problem));
            let module = module_name(update.module);
            let found = products.iter().enumerate().find_map(|(index, found)| Some((index, found.columns(module.as_deref()?)?)));
            let Some((product, columns)) = found else {
                return refuse("no product of the graph belongs to this module".into());
            };
            if updates[..index].iter().any(|other| module_name(other.module) == module) {
                return refuse("is updated twice".into());
            }
            let (n_inputs, n_outputs) = (products[product].n_inputs, columns.len());
            let fits = |elements: &[f32], size: usize| Some(elements.len()) == size.checked_mul(update.rank);
            if update.rank == 0 || !fits(update.a, n_inputs) || !fits(update.b, n_outputs) {
                return refuse(format!(
                    "the update has {} and {} elements and rank {}, and the graph has {n_inputs} inputs and {n_outputs} outputs",
                    update.a.len(),
                    update.b.len(),
                    update.rank
                ));
            }
            of_products.entry(product).or_default().push((update, columns));
        }
        for (index, product) in products.into_iter().enumerate() {
            if let Some(updates) = of_products.get(&index) {
                let factors = Factors::of(&product, updates);
                self.updates.push(Update { product, factors });
            }
        }
        Ok(())
    }

    /// Gives products inputs for an adapter, which are named after the product, `NAME`, and have defaults that change nothing:
    ///
    /// | input | type and shape |
    /// |---|---|
    /// | `NAME.lora_A.weight` | floats of the product's type, `[inputs, rank]` |
    /// | `NAME.lora_B.weight` | likewise, `[rank, outputs]` |
    /// | `NAME.lora_gain` | likewise, `[outputs]`: by how much more than 1 the product is multiplied, without its bias; where requested |
    ///
    /// # Errors
    /// When a product is not in the graph, or the graph has inputs of these names; at a second call.
    pub fn add_adapter_inputs(&mut self, requested: &[AdapterInputs]) -> Result<()> {
        self.refuse_second_updates()?;
        let mut products: BTreeMap<String, Product<'g>> =
            self.graph.products().into_iter().map(|product| (product.name().to_owned(), product)).collect();
        for inputs in requested {
            let refuse = |problem: &str| Err(Error::bad_field(self.graph.file(), &inputs.product, problem));
            let Some(product) = products.remove(&inputs.product) else {
                return refuse("no product of the graph belongs to this module");
            };
            if self.graph.main().inputs.iter().any(|input| input.name == input_name(&inputs.product, "lora_A.weight")) {
                return refuse("the graph has inputs for its adapter already");
            }
            self.updates.push(Update { product, factors: Factors::Inputs(inputs.clone()) });
        }
        Ok(())
    }

    fn refuse_second_updates(&self) -> Result<()> {
        match self.updates.is_empty() {
            true => Ok(()),
            false => Err(Error::bad_file(self.graph.file(), "low-rank updates have been added already")),
        }
    }
}

impl Update<'_> {
    /// Renames the product's result and adds the update to it under the old name, for the positions that the product sees.
    pub(super) fn apply<'g>(&'g self, edited: &Graph, plan: Option<&mut PrunePlan<'g>>, patches: &mut Patches) {
        let Self { product, factors } = self;
        let name = |part: &str| format!("low_rank/{}/{part}", product.output);
        let input = match plan.filter(|plan| plan.sees_kept(product.output, product.node)) {
            Some(plan) => plan.name(product.input, product.last.range.start),
            None => product.input.into(),
        };
        let main = edited.main().range.start;
        let [a, b] = factors.declare(product, main, patches);
        let mut nodes =
            vec![binary("MatMul", [&input, &a], name("small")), binary("MatMul", [&name("small"), &b], name("update"))];
        let mut base = name("base");
        if let Factors::Inputs(AdapterInputs { product: module, has_gain: true }) = factors {
            // With a gain of 1 this adds zeros, and the result is the same to the bit.
            let unbiased = product.bias.map(|bias| binary("Sub", [&base, bias], name("unbiased")));
            let scaled = unbiased.as_ref().map_or(base.clone(), |node| node.outputs[0].clone());
            nodes.extend(unbiased);
            nodes.push(binary("Mul", [&scaled, &input_name(module, "lora_gain")], name("gained")));
            nodes.push(binary("Add", [&base, &name("gained")], name("scaled")));
            base = name("scaled");
        }
        nodes.push(binary("Add", [&base, &name("update")], product.output.into()));
        for added in &nodes {
            let bytes = encode::node(added);
            match product.next {
                Some(next) => patches.insert_before(next.range.start, graph::NODE, &bytes),
                None => patches.append(main, graph::NODE, &bytes),
            }
        }
        let outputs = children(message(edited, &product.last.range), node::OUTPUT);
        for output in outputs.filter(|output| output.bytes == product.output.as_bytes()) {
            patches.replace(output.start, name("base").into_bytes());
        }
    }
}

impl Factors {
    /// The factors of several updates side by side: each has its own part of the rank, and of the outputs.
    fn of(product: &Product<'_>, updates: &[(&LowRank<'_>, std::ops::Range<usize>)]) -> Self {
        let (n_inputs, n_outputs) = (product.n_inputs, product.n_outputs);
        let rank = updates.iter().map(|(update, _)| update.rank).sum();
        let (mut a, mut b) = (vec![0.0; n_inputs * rank], vec![0.0; rank * n_outputs]);
        let mut first = 0;
        for (update, columns) in updates {
            for part in 0..update.rank {
                for input in 0..n_inputs {
                    a[input * rank + first + part] = update.a[part * n_inputs + input];
                }
                let row = &mut b[(first + part) * n_outputs..][columns.clone()];
                row.iter_mut()
                    .enumerate()
                    .for_each(|(output, value)| *value = update.scale * update.b[output * update.rank + part]);
            }
            first += update.rank;
        }
        Self::Constant { rank, a, b }
    }

    /// Declares the factors in the main graph, which begins at `main`, and returns the names of `A` and `B`.
    fn declare(&self, product: &Product<'_>, main: usize, patches: &mut Patches) -> [String; 2] {
        let (data_type, n_inputs, n_outputs) = (product.data_type, product.n_inputs as i64, product.n_outputs as i64);
        let mut constant = |name: &str, dims: &[i64], values: &[f32]| {
            let bytes = to_bytes(values, data_type);
            patches.append(main, graph::INITIALIZER, &encode::tensor(name, data_type, dims, Data::Raw(&bytes)));
        };
        match self {
            Self::Constant { rank, a, b } => {
                let names = ["a", "b"].map(|part| format!("low_rank/{}/{part}", product.output));
                constant(&names[0], &[n_inputs, *rank as i64], a);
                constant(&names[1], &[*rank as i64, n_outputs], b);
                names
            }
            Self::Inputs(inputs) => {
                let name = |part: &str| input_name(&inputs.product, part);
                let names = ["lora_A.weight", "lora_B.weight"].map(name);
                let rank = Dim::Symbolic(format!("{}.rank", inputs.product));
                constant(&names[0], &[n_inputs, 0], &[]);
                constant(&names[1], &[0, n_outputs], &[]);
                let [wide, tall] = [Dim::Fixed(n_inputs), Dim::Fixed(n_outputs)];
                let mut declared =
                    vec![(names[0].clone(), vec![wide, rank.clone()]), (names[1].clone(), vec![rank, tall.clone()])];
                if inputs.has_gain {
                    constant(&name("lora_gain"), &[n_outputs], &vec![0.0; product.n_outputs]);
                    declared.push((name("lora_gain"), vec![tall]));
                }
                for (name, dims) in declared {
                    let info = ValueInfo { name, data_type: Some(data_type), dims: Some(dims) };
                    patches.append(main, graph::INPUT, &encode::value_info(&info));
                }
                names
            }
        }
    }
}

fn input_name(product: &str, part: &str) -> String {
    format!("{product}.{part}")
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
