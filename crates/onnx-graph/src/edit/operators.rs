//! Gives products and attention to Tandem's own operators, which take the inputs and attributes of those that they stand in for.
//!
//! A node alone changes its domain and nothing else. Nodes that follow each other and treat each row alone become one node, a block, so that
//! nothing between them waits for the engine. Weights stay where they are and as they are, and what is not known to the last attribute stays
//! with the engine.

pub(super) mod block;
mod floats;
mod group;
mod packed;
mod rows;

use std::collections::HashMap;
use std::ops::Range;

use self::block::{BLOCK_OPERATOR, OUTPUTS_ATTRIBUTE, STEPS_ATTRIBUTE, WIDTHS_ATTRIBUTE, product_attribute};
use self::floats::{FloatProduct, needless_casts};
use self::group::{Group, groups, readers};

use super::product::Product;
use super::{Edit, children, message, text};
use crate::encode::{self, Data};
use crate::graph::{Attribute, AttributeValue, DataType, Graph, Node, Tensor, ValueInfo};
use crate::schema::{graph as main_graph, model, node, opset, types, value_info};
use crate::wire::{Fields, Slice, put_bytes, put_int};

/// The domain of Tandem's own operators.
pub const OPERATOR_DOMAIN: &str = "tandem";

/// The input that says which adapters a run is with, by a number that the operators know: an integer of 64 bits, and 0 for none.
pub const ADAPTER_INPUT: &str = "tandem.adapter";

/// The attribute of a product that names it for adapters.
pub const MODULE_ATTRIBUTE: &str = "module";

/// The place of [`ADAPTER_INPUT`] among the inputs of a product, behind those of the operator that it stands in for.
pub const ADAPTER_PLACE: usize = 6;

/// The domain of the operators that they stand in for.
const CONTRIB: &str = "com.microsoft";

/// Attributes of attention that ask for nothing when they are 0.
const ABSENT_AS_ZERO: [&str; 4] = ["rotary_interleaved", "qk_output", "kv_cache_bit_width", "sliding_window_cache"];

/// Attention of Tandem's own whose keys and values are held in f16.
pub const F16_ATTENTION: &str = "GroupQueryAttentionF16";

/// The places of the pasts among the inputs of attention, and of the presents among its outputs.
const PASTS: Range<usize> = 3..5;
const PRESENTS: Range<usize> = 1..3;

/// Inputs that share a scale come in multiples of this.
const BLOCK: i64 = 32;

/// What [`Edit::use_custom_operators`] has changed.
#[derive(Clone, Debug, Default)]
pub struct CustomOperators {
    /// The number of nodes that Tandem's operators compute; a block is one.
    pub n_nodes: usize,
    /// Those products among them that adapters may change.
    pub products: Vec<CustomProduct>,
}

/// What one of Tandem's operators multiplies, for adapters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CustomProduct {
    /// As [`Product::name`].
    pub name: String,
    /// As [`Product::modules`].
    pub modules: Vec<(String, Range<usize>)>,
    /// The width of what is multiplied.
    pub n_inputs: usize,
    /// The width of the result.
    pub n_outputs: usize,
    /// Bits of a weight: 4 or 8 of blocks, 16 or 32 of floats.
    pub bits: i64,
}

impl Graph {
    /// Whether [`Edit::use_custom_operators`] can hold keys and values in f16: all attention that has a cache is one of Tandem's operators, and
    /// nothing else takes a past or a present.
    pub fn can_hold_f16(&self) -> bool {
        let main = self.main();
        let own: Vec<&Node> = self.nodes().iter().filter(|node| is_attention(self, node)).collect();
        let is_past = |name: &str| own.iter().any(|node| node.inputs[PASTS].iter().any(|past| past == name));
        let is_cache =
            |name: &str| is_past(name) || own.iter().any(|node| node.outputs[PRESENTS].iter().any(|present| present == name));
        let mut stray = false;
        self.for_each_node(&mut |node| {
            for (place, input) in node.inputs.iter().enumerate() {
                stray |= is_cache(input) && !(PASTS.contains(&place) && own.iter().any(|own| own.range == node.range));
            }
        });
        let is_output = |name: &String| main.outputs.iter().any(|output| output.name == *name);
        !own.is_empty()
            && !stray
            && own.iter().all(|node| node.outputs[PRESENTS].iter().all(is_output))
            && self.inputs().filter(|input| input.name.starts_with("past")).all(|input| is_past(&input.name))
    }

    /// The constant floats, `[outputs, inputs]`, that one of Tandem's operators multiplies by in the place of `node`, in the type in which they are
    /// stored.
    pub fn float_rows(&self, node: &Node) -> Option<&Tensor> {
        FloatProduct::of(self, node).map(|product| product.weight)
    }

    /// Whether [`Edit::use_custom_operators`] gives `node` to one of Tandem's operators.
    pub fn has_custom_operator(&self, node: &Node) -> bool {
        is_product(self, node) || is_attention(self, node) || FloatProduct::of(self, node).is_some()
    }
}

impl Edit<'_> {
    /// Gives the nodes of the main graph that Tandem's operators compute to these. The operators:
    ///
    /// - `MatMulNBits` with floats of 32 bits, constant weights of 4 or 8 bits and blocks of a multiple of 32 inputs, of which a row has whole
    ///   ones; zero points are bytes.
    /// - `GroupQueryAttention` with floats of 32 bits, causal, with or without a window, a limit of scores, and rotation of halves.
    ///
    /// - `FusedMatMul` with constant floats of 32 bits in rows, `[outputs, inputs]`, or with such of 16 bits that a `Cast` widens.
    ///
    /// Products that follow each other become one `RowBlock` with the norms, sums and activations of floats between them, and what divides
    /// rows into queries, keys and values and normalises their heads. Those of floats are always in one, which reads what was cast.
    ///
    /// Products of modules get an input and an attribute for adapters ([`ADAPTER_INPUT`]).
    ///
    /// With `cache` [`DataType::FLOAT16`] attention becomes [`F16_ATTENTION`], whose pasts and presents are of that type, and so are the graph's.
    /// [`Graph::can_hold_f16`] says whether that is possible; otherwise they stay floats of 32 bits.
    ///
    /// It is the last edit of a graph: other edits do not know the domain.
    pub fn use_custom_operators(&mut self, cache: DataType) -> CustomOperators {
        let graph = self.graph;
        let readers = readers(graph);
        let groups = groups(graph, &readers);
        let in_blocks: HashMap<usize, usize> =
            groups.iter().enumerate().flat_map(|(i, group)| group.nodes().map(move |node| (node.range.start, i))).collect();
        let own = graph.products();
        let own: Vec<_> =
            own.iter().filter(|product| product.has_custom_operator() && product.node.inputs.len() <= ADAPTER_PLACE).collect();
        let names: HashMap<usize, &str> = own.iter().map(|product| (product.node.range.start, product.name())).collect();
        let products: Vec<CustomProduct> = own.iter().map(|product| CustomProduct::of(product)).collect();
        own.iter()
            .filter(|product| !in_blocks.contains_key(&product.node.range.start))
            .for_each(|product| self.name_product(product));
        for group in &groups {
            self.replace_group(group, &readers, &names);
        }
        // The engine would compute them at each load.
        needless_casts(graph, &readers).iter().for_each(|cast| self.patches.remove(message(graph, &cast.range).start));
        let mut n_changed = groups.len();
        if !products.is_empty() {
            let none = encode::tensor(ADAPTER_INPUT, DataType::INT64, &[], Data::Raw(&0_i64.to_le_bytes()));
            self.append_to_main(main_graph::INITIALIZER, &none);
            let input = ValueInfo { name: ADAPTER_INPUT.into(), data_type: Some(DataType::INT64), dims: Some(vec![]) };
            self.append_to_main(main_graph::INPUT, &encode::value_info(&input));
        }
        let narrows = cache == DataType::FLOAT16 && graph.can_hold_f16();
        let is_alone = |node: &&Node| !in_blocks.contains_key(&node.range.start);
        for known in graph.nodes().iter().filter(is_alone).filter(|node| graph.has_custom_operator(node)) {
            let fields = message(graph, &known.range);
            if narrows && is_attention(graph, known) {
                self.narrow_cache(known);
            }
            for domain in children(fields, node::DOMAIN) {
                self.patches.replace(domain.start, OPERATOR_DOMAIN.into());
            }
            n_changed += 1;
        }
        if n_changed > 0 && !graph.opset_imports().iter().any(|import| import.domain == OPERATOR_DOMAIN) {
            let mut import = Vec::new();
            put_bytes(&mut import, opset::DOMAIN, OPERATOR_DOMAIN);
            put_int(&mut import, opset::VERSION, 1);
            self.patches.append(0, model::OPSET_IMPORT, &import);
        }
        CustomOperators { n_nodes: n_changed, products }
    }

    /// Makes `attention` that of a cache in f16.
    fn narrow_cache(&mut self, attention: &Node) {
        for kind in children(message(self.graph, &attention.range), node::OP_TYPE) {
            self.patches.replace(kind.start, F16_ATTENTION.into());
        }
        let main = message(self.graph, &self.graph.main().range);
        for (number, names) in [(main_graph::INPUT, &attention.inputs[PASTS]), (main_graph::OUTPUT, &attention.outputs[PRESENTS])]
        {
            for info in children(main, number) {
                let is_named = |name: &String| text(info, value_info::NAME) == Some(name.as_bytes());
                let kind = children(info, value_info::TYPE).next().filter(|_| names.iter().any(is_named));
                if let Some(tensor) = kind.and_then(|kind| children(kind, types::TENSOR).next()) {
                    self.patches.replace(tensor.start, of_type(tensor, DataType::FLOAT16));
                }
            }
        }
    }

    /// Gives `product` its name and the input for adapters.
    fn name_product(&mut self, product: &Product<'_>) {
        let node = product.node;
        let own = message(self.graph, &node.range).start;
        for place in node.inputs.len()..=ADAPTER_PLACE {
            let input = if place == ADAPTER_PLACE { ADAPTER_INPUT } else { "" };
            self.patches.append(own, node::INPUT, input.as_bytes());
        }
        let name = AttributeValue::Text(product.name().into());
        self.set_attribute(node, Attribute { name: MODULE_ATTRIBUTE.into(), value: name });
    }

    /// Puts one node in the place of those of `group`; `names` are those of products for adapters.
    fn replace_group(&mut self, group: &Group<'_>, readers: &HashMap<&str, usize>, names: &HashMap<usize, &str>) {
        let built = group.build(self.graph, readers);
        let ints = |values: &[usize]| AttributeValue::Ints(values.iter().map(|&value| value as i64).collect());
        let named = built.products.iter().enumerate().filter_map(|(number, node)| Some((number, *names.get(&node.range.start)?)));
        let mut attributes: Vec<_> =
            named.map(|(number, name)| (product_attribute(number), AttributeValue::Text(name.into()))).collect();
        // Behind those of the block.
        let adapter = (!attributes.is_empty()).then(|| ADAPTER_INPUT.into());
        attributes.extend([
            (STEPS_ATTRIBUTE.into(), AttributeValue::Ints(built.block.steps_to_ints())),
            (WIDTHS_ATTRIBUTE.into(), ints(&built.block.widths)),
            (OUTPUTS_ATTRIBUTE.into(), ints(&built.block.outputs)),
        ]);
        let nodes: Vec<&Node> = group.nodes().collect();
        let Some((last, others)) = nodes.split_last() else { return };
        others.iter().for_each(|node| self.patches.remove(message(self.graph, &node.range).start));
        let name = format!("tandem.{}.block", last.outputs[0]);
        let attributes = attributes.into_iter().map(|(name, value)| Attribute { name, value }).collect();
        let (op_type, domain) = (BLOCK_OPERATOR.into(), OPERATOR_DOMAIN.into());
        let inputs = built.inputs.into_iter().chain(adapter).collect();
        let node = Node { name, op_type, domain, inputs, outputs: built.outputs, attributes, range: 0..0 };
        self.patches.replace(message(self.graph, &last.range).start, encode::node(&node));
    }
}

impl CustomProduct {
    fn of(product: &Product<'_>) -> Self {
        Self {
            name: product.name().into(),
            modules: product.modules().to_vec(),
            n_inputs: product.n_inputs,
            n_outputs: product.n_outputs,
            bits: match FloatProduct::of(product.graph, product.node) {
                Some(floats) => floats.weight.data_type.bits().unwrap_or(32).cast_signed(),
                None => product.node.int("bits").unwrap_or(4),
            },
        }
    }
}

/// `tensor`, a `TypeProto.Tensor`, with elements of another type.
fn of_type(tensor: Slice<'_>, data_type: DataType) -> Vec<u8> {
    let mut out = Vec::new();
    put_int(&mut out, types::TENSOR_ELEM_TYPE, data_type.0.into());
    let mut fields = Fields::new(tensor);
    while let Ok(Some(field)) = fields.next() {
        if field.number != types::TENSOR_ELEM_TYPE {
            out.extend_from_slice(&tensor.bytes[field.range.start - tensor.start..field.range.end - tensor.start]);
        }
    }
    out
}

/// The value that `node` is given as input number `index`.
fn given(node: &Node, index: usize) -> Option<&str> {
    node.inputs.get(index).map(String::as_str).filter(|input| !input.is_empty())
}

/// Whether each attribute of `node` is one of `integers`, or otherwise known by `is_known`.
fn has_only(node: &Node, integers: &[&str], is_known: impl Fn(&str, &AttributeValue) -> bool) -> bool {
    node.attributes.iter().all(|attribute| match &attribute.value {
        AttributeValue::Int(_) if integers.contains(&attribute.name.as_str()) => true,
        value => is_known(&attribute.name, value),
    })
}

fn is_product(graph: &Graph, node: &Node) -> bool {
    if (node.domain.as_str(), node.op_type.as_str()) != (CONTRIB, "MatMulNBits") || node.outputs.len() != 1 {
        return false;
    }
    let main = graph.main();
    // An input that stands in for a constant may be another one in each run.
    let constant = |index: usize| {
        let name = given(node, index)?;
        main.initializer(name).filter(|_| !main.inputs.iter().any(|input| input.name == name))
    };
    let (Some(codes), Some(scales), Some(n_inputs), Some(n_outputs), Some(block)) =
        (constant(1), constant(2), node.int("K"), node.int("N"), node.int("block_size"))
    else {
        return false;
    };
    let bits = node.int("bits").unwrap_or(4);
    let is_whole = n_inputs > 0 && n_outputs > 0 && block > 0 && block % BLOCK == 0 && n_inputs % block == 0;
    if !is_whole || ![4, 8].contains(&bits) || given(node, 4).is_some() || node.inputs.len() > 6 {
        return false;
    }
    let blocks = n_inputs / block;
    let elements = |of: [i64; 3]| of.iter().try_fold(1_u64, |all, &size| all.checked_mul(size.try_into().ok()?));
    let has_codes = codes.data_type == DataType::UINT8 && codes.n_elements() == elements([n_outputs, n_inputs / 8, bits]);
    let has_scales = scales.data_type == DataType::FLOAT && scales.n_elements() == elements([n_outputs, blocks, 1]);
    let zeros = elements([n_outputs, (blocks * bits + 7) / 8, 1]);
    let has_zeros = given(node, 3).is_none()
        || constant(3).is_some_and(|given| given.data_type == DataType::UINT8 && given.n_elements() == zeros);
    let is_known = |name: &str, value: &AttributeValue| name == "weight_prepacked" && matches!(value, AttributeValue::Int(0));
    has_codes && has_scales && has_zeros && has_only(node, &["K", "N", "bits", "block_size", "accuracy_level"], is_known)
}

fn is_attention(graph: &Graph, node: &Node) -> bool {
    if (node.domain.as_str(), node.op_type.as_str()) != (CONTRIB, "GroupQueryAttention") {
        return false;
    }
    let is_cache = |index: usize| {
        let past = given(node, index).and_then(|name| graph.inputs().find(|input| input.name == name));
        past.is_some_and(|past| past.data_type == Some(DataType::FLOAT))
    };
    let has_parts = given(node, 1).is_some() == given(node, 2).is_some();
    let rotates = node.int("do_rotary").unwrap_or(0) != 0;
    let has_tables = given(node, 7).is_some() && given(node, 8).is_some();
    let has_lengths = given(node, 5).is_some() && given(node, 6).is_some();
    // Positions, a bias, sinks and the scales of a quantised cache.
    let is_plain = has_lengths && node.inputs.len() <= 14 && (9..14).all(|index| given(node, index).is_none());
    // A fourth would be scores.
    let has_outputs = node.outputs.len() == 3 && node.outputs.iter().all(|output| !output.is_empty());
    if !is_cache(3) || !is_cache(4) || !has_parts || rotates && !has_tables || !is_plain || !has_outputs {
        return false;
    }
    let is_known = |name: &str, value: &AttributeValue| match (name, value) {
        ("scale" | "softcap", AttributeValue::Float(_)) => true,
        ("smooth_softmax", AttributeValue::Int(smooth)) => *smooth <= 0,
        ("k_quant_type" | "v_quant_type", AttributeValue::Text(kind)) => kind == b"NONE",
        (name, AttributeValue::Int(0)) => ABSENT_AS_ZERO.contains(&name),
        _ => false,
    };
    let sees_itself = node.int("local_window_size") != Some(0);
    sees_itself && has_only(node, &["num_heads", "kv_num_heads", "do_rotary", "local_window_size"], is_known)
}

#[cfg(test)]
mod tests;
