//! Which products of a graph belong to which modules.

use std::collections::HashMap;
use std::ops::Range;

use crate::graph::{DataType, Graph, Node};

/// A product with a weight, whose node is named after a module.
#[derive(Debug)]
pub(super) struct Target<'g> {
    layer: usize,
    /// `q_proj`, or `qkv_proj` for three of them.
    projection: &'g str,
    /// The columns of `q_proj`, `k_proj` and `v_proj` in the product of all three.
    packed: Option<[Range<usize>; 3]>,
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

/// All products that belong to modules.
pub(super) fn find(graph: &Graph) -> Vec<Target<'_>> {
    let finder = Finder::new(graph);
    (0..graph.nodes().len()).filter_map(|index| finder.target(index)).collect()
}

/// The layer and the projection in a module's or a node's name: `model.layers.0.self_attn.q_proj`,
/// `/model/layers.0/attn/qkv_proj/MatMul_Q4`.
pub(super) fn module(name: &str) -> Option<(usize, &str)> {
    let mut words = name.split(['/', '.']);
    words.find(|word| *word == "layers")?;
    let layer = words.next()?.parse().ok()?;
    Some((layer, words.find(|word| word.ends_with("_proj"))?))
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

    fn target(&self, index: usize) -> Option<Target<'g>> {
        let main = self.graph.main();
        let node = &main.nodes[index];
        let (layer, projection) = module(&node.name)?;
        let weight = main.initializer(node.inputs.get(1)?)?;
        let size = |size: i64| usize::try_from(size).ok();
        let (n_inputs, n_outputs, data_type) = match (node.op_type.as_str(), weight.dims.as_slice()) {
            ("MatMul" | "MatMulInteger", &[inputs, outputs]) => (size(inputs)?, size(outputs)?, weight.data_type),
            ("MatMulNBits", &[outputs, ..]) if node.int("N") == Some(outputs) => {
                let scales = main.initializer(node.inputs.get(2)?)?;
                (size(node.int("K")?)?, size(outputs)?, scales.data_type)
            }
            _ => return None,
        };
        let input = node.inputs.first()?;
        let is_dynamic = node.op_type == "MatMulInteger";
        let (input, last) =
            if is_dynamic { (self.before_quantising(input)?, self.scaled(index)?) } else { (input.as_str(), index) };
        let last_node = &main.nodes[last];
        let packed = if projection == "qkv_proj" { Some(self.packing(n_outputs)?) } else { None };
        Some(Target {
            layer,
            projection,
            packed,
            input,
            n_inputs,
            n_outputs,
            output: last_node.outputs.first()?,
            last: last_node,
            next: main.nodes.get(last + 1),
            data_type: if is_dynamic { DataType::FLOAT } else { data_type },
        })
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

impl Target<'_> {
    /// The columns of a module, if it has any here.
    pub(super) fn columns(&self, (layer, projection): &(usize, &str)) -> Option<Range<usize>> {
        if *layer != self.layer {
            return None;
        }
        let Some([query, key, value]) = &self.packed else {
            return (*projection == self.projection).then_some(0..self.n_outputs);
        };
        match *projection {
            "q_proj" => Some(query.clone()),
            "k_proj" => Some(key.clone()),
            "v_proj" => Some(value.clone()),
            _ => None,
        }
    }
}
