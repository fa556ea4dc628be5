//! Which products of a graph multiply by the weights of which modules, whatever exporter named them.
//!
//! A module is called as in Hugging Face transformers from `layers.` on: `layers.0.self_attn.q_proj`. It is found in the name of the
//! product's node, of its weight, of its result or of its bias; the product with the vocabulary is `lm_head` wherever it stands. What has none of these
//! names belongs to no module: nothing is guessed by its place.

mod rows;
mod weight;

use std::collections::HashMap;
use std::ops::Range;

use self::weight::{Multiplied, Weight};
use super::head;
use crate::graph::{DataType, Graph, Node};

/// The output whose product with a weight is the head.
const LOGITS: &str = "logits";
/// The head's module.
const HEAD: &str = "lm_head";

/// A product of activations with the weight of a module, or of several that the graph packs into one.
#[derive(Debug)]
pub struct Product<'g> {
    pub(super) graph: &'g Graph,
    name: String,
    modules: Vec<(String, Range<usize>)>,
    weight: Weight<'g>,
    /// The bias that is added within the product.
    pub(super) bias: Option<&'g str>,
    /// The node that multiplies.
    pub(super) node: &'g Node,
    /// The floats that are multiplied.
    pub(super) input: &'g str,
    /// The value that holds the product's result.
    pub(super) output: &'g str,
    /// The node that computes it.
    pub(super) last: &'g Node,
    /// The node after that one.
    pub(super) next: Option<&'g Node>,
    pub(super) n_inputs: usize,
    pub(super) n_outputs: usize,
    /// The type of the floats.
    pub(super) data_type: DataType,
}

impl Graph {
    /// The products that belong to modules, in the order of computation. A module that several products claim has none.
    pub fn products(&self) -> Vec<Product<'_>> {
        let finder = Finder::new(self);
        let head = head::find(self, LOGITS).ok().map(|head| head.node);
        let mut found: Vec<_> = (0..self.nodes().len()).filter_map(|index| finder.product(index, head)).collect();
        let mut claims: HashMap<String, usize> = HashMap::new();
        found.iter().for_each(|product| *claims.entry(product.name.clone()).or_default() += 1);
        found.retain(|product| claims[&product.name] == 1);
        found
    }
}

impl Product<'_> {
    /// The module's name, or of the packed ones together: `layers.0.self_attn.qkv_proj`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The modules, each with its columns of the result.
    pub fn modules(&self) -> &[(String, Range<usize>)] {
        &self.modules
    }

    /// Whether one of Tandem's operators may compute it, adapters included.
    pub fn has_custom_operator(&self) -> bool {
        ["MatMulNBits", "FusedMatMul"].contains(&self.node.op_type.as_str()) && self.graph.has_custom_operator(self.node)
    }

    /// The columns of a module; `None` if it is not here.
    pub(super) fn columns(&self, module: &str) -> Option<Range<usize>> {
        self.modules.iter().find(|(name, _)| name == module).map(|(_, columns)| columns.clone())
    }
}

/// The module in the name of a module, a node or a value, from `layers.` on: of `/model/layers.0/attn/qkv_proj/MatMul_Q4` that is
/// `layers.0.self_attn.qkv_proj`. Factors of an adapter within the graph (`lora_A`) do not count.
pub(super) fn module(name: &str) -> Option<String> {
    let mut words = name.split(['/', '.']);
    words.find(|word| *word == "layers")?;
    let layer: usize = words.next()?.parse().ok()?;
    let mut path = format!("layers.{layer}");
    loop {
        let word = words.next()?;
        path += ".";
        path += if word == "attn" { "self_attn" } else { word };
        if word.ends_with("_proj") {
            return words.all(|word| !word.starts_with("lora_")).then_some(path);
        }
    }
}

/// The module that `name` is or belongs to, in the form of [`Product::modules`]: from `layers.` on, or `lm_head`.
pub fn module_name(name: &str) -> Option<String> {
    module(name).or_else(|| (name == HEAD || name.ends_with(".lm_head")).then(|| HEAD.into()))
}

struct Finder<'g> {
    graph: &'g Graph,
    /// The nodes that take a value, by their positions.
    consumers: HashMap<&'g str, Vec<usize>>,
}

impl<'g> Finder<'g> {
    fn new(graph: &'g Graph) -> Self {
        let mut consumers: HashMap<&str, Vec<usize>> = HashMap::new();
        for (index, node) in graph.nodes().iter().enumerate() {
            node.inputs.iter().for_each(|input| consumers.entry(input).or_default().push(index));
        }
        Self { graph, consumers }
    }

    fn product(&self, index: usize, head: Option<&'g Node>) -> Option<Product<'g>> {
        let nodes = self.graph.nodes();
        let node = &nodes[index];
        let multiplied = Multiplied::of(self.graph, node)?;
        let input = node.inputs.first()?;
        let is_integer = node.op_type == "MatMulInteger";
        let (input, last, scales) = if is_integer {
            let last = self.scaled(index)?;
            (self.before_quantising(input)?, last, weight::scales_of(self.graph, &nodes[last]))
        } else {
            (input.as_str(), index, None)
        };
        let output = nodes[last].outputs.first()?;
        let is_head = head.is_some_and(|head| head.range == node.range);
        let name = if is_head { HEAD.into() } else { self.name(node, &multiplied, output)? };
        let n_outputs = multiplied.n_outputs;
        Some(Product {
            modules: self.modules(&name, n_outputs),
            graph: self.graph,
            name,
            weight: multiplied.weight.scaled(scales),
            bias: multiplied.bias,
            node,
            input,
            output,
            last: &nodes[last],
            next: nodes.get(last + 1),
            n_inputs: multiplied.n_inputs,
            n_outputs,
            data_type: multiplied.data_type,
        })
    }

    /// The module by the names around the product.
    fn name(&self, node: &Node, multiplied: &Multiplied<'g>, output: &str) -> Option<String> {
        let bias = || {
            let adds = self.consumers.get(output)?.iter().map(|index| &self.graph.nodes()[*index]);
            let mut added = adds.filter(|node| node.op_type == "Add").flat_map(|add| &add.inputs);
            added.find_map(|input| self.graph.main().initializer(input).and_then(|tensor| module(&tensor.name)))
        };
        let bias_within = multiplied.bias.and_then(module);
        module(&node.name)
            .or_else(|| multiplied.names.iter().find_map(|name| module(name)))
            .or_else(|| module(output))
            .or(bias_within)
            .or_else(bias)
    }

    /// The module called `name`, and those that it packs.
    fn modules(&self, name: &str, n_outputs: usize) -> Vec<(String, Range<usize>)> {
        let mut modules = vec![(name.to_owned(), 0..n_outputs)];
        if let Some(block) = name.strip_suffix("qkv_proj") {
            let packed = self.packing(n_outputs).into_iter().flatten();
            modules.extend(["q", "k", "v"].iter().zip(packed).map(|(part, columns)| (format!("{block}{part}_proj"), columns)));
        }
        modules
    }

    /// The floats that `DynamicQuantizeLinear` quantised to `quantized`.
    fn before_quantising(&self, quantized: &str) -> Option<&'g str> {
        let node = self.graph.main().producer(quantized).filter(|node| node.op_type == "DynamicQuantizeLinear")?;
        node.inputs.first().map(String::as_str)
    }

    /// The `Mul` by the scales that follows a product of integers, after a `Cast`.
    fn scaled(&self, product: usize) -> Option<usize> {
        let cast = self.only_consumer(product, "Cast")?;
        self.only_consumer(cast, "Mul")
    }

    fn only_consumer(&self, index: usize, op_type: &str) -> Option<usize> {
        let nodes = self.graph.nodes();
        match self.consumers.get(nodes[index].outputs.first()?.as_str())?.as_slice() {
            [consumer] if nodes[*consumer].op_type == op_type => Some(*consumer),
            _ => None,
        }
    }

    /// The columns of queries, keys and values, from the head counts of the attention operator.
    fn packing(&self, n_outputs: usize) -> Option<[Range<usize>; 3]> {
        let attention = self.graph.nodes().iter().find(|node| node.op_type == "GroupQueryAttention")?;
        let heads = |name: &str| usize::try_from(attention.int(name)?).ok().filter(|heads| (1..1 << 16).contains(heads));
        let (heads, kv_heads) = (heads("num_heads")?, heads("kv_num_heads")?);
        let head_dim = n_outputs / (heads + 2 * kv_heads);
        let (query, kv) = (heads * head_dim, kv_heads * head_dim);
        (query + 2 * kv == n_outputs).then(|| [0..query, query..query + kv, query + kv..n_outputs])
    }
}

#[cfg(test)]
mod tests;
