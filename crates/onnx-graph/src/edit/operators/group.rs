//! Which nodes become a block: those that follow each other and treat each row alone, such as all between the attention of one layer and that
//! of the next.

use std::collections::{HashMap, HashSet};

use super::block::{BlockMatrix, FloatMatrix, RowBlock, RowFunction, RowStep};
use super::floats::FloatProduct;
use super::given;
use super::rows::{KnownRows, RowOperator, split_sizes};
use crate::graph::{AttributeValue, Graph, Node, Tensor};

/// The most nodes of a block, whose steps are compared with each other: between two attentions of a published model there are some 20.
const MOST_NODES: usize = 256;

/// Nodes that become one, in the order of the graph. Between them are only nodes that need none of their results, so that the block may
/// stand where the last of them does.
pub(super) struct Group<'g> {
    /// What the rows of all are like.
    like: usize,
    nodes: Vec<(&'g Node, RowOperator)>,
}

/// A block, and what its node is given and returns.
pub(super) struct Built<'g> {
    pub(super) block: RowBlock,
    pub(super) inputs: Vec<String>,
    pub(super) outputs: Vec<String>,
    /// The nodes of the products, in the order of the block.
    pub(super) products: Vec<&'g Node>,
}

/// The nodes of the main graph that become blocks: products, and what lies between them.
/// `readers` are those of the graph.
pub(super) fn groups<'g>(graph: &'g Graph, readers: &HashMap<&str, usize>) -> Vec<Group<'g>> {
    let mut rows = KnownRows::new(graph);
    let mut groups = Vec::new();
    let mut open: Option<Group<'_>> = None;
    let mut made: HashSet<&str> = HashSet::new();
    for node in graph.nodes() {
        let is_made = |input: &String| made.contains(input.as_str());
        // What is in heads has no rows for a block that is given it.
        let operator = match node.inputs.first() {
            Some(input) if rows.rows(input).head.is_some() && !is_made(input) => None,
            _ => rows.operator(node),
        };
        let like = operator.map(|operator| {
            let vector = matches!(operator, RowOperator::AddVector { vector: 0, .. });
            rows.rows(&node.inputs[usize::from(vector)]).like
        });
        let joins = open.as_ref().is_some_and(|group| like == Some(group.like) && group.nodes.len() < MOST_NODES);
        if !joins && (operator.is_some() || has_subgraph(node) || node.inputs.iter().any(is_made)) {
            groups.extend(open.take().into_iter().flat_map(|group| group.closed(readers)));
            made.clear();
        }
        if let (Some(operator), Some(like)) = (operator, like) {
            open.get_or_insert_with(|| Group { like, nodes: Vec::new() }).nodes.push((node, operator));
            made.extend(node.outputs.iter().filter(|output| !output.is_empty()).map(String::as_str));
        }
        rows.visit(node, operator);
    }
    groups.extend(open.into_iter().flat_map(|group| group.closed(readers)));
    let has = |group: &Group<'_>, is_it: &dyn Fn(&RowOperator) -> bool| group.nodes.iter().any(|(_, operator)| is_it(operator));
    // A product of blocks alone has an operator of its own, one of floats has none.
    groups.retain(|group| {
        group.nodes.len() > 1 && has(group, &|operator| matches!(operator, RowOperator::Product { .. }))
            || has(group, &|operator| matches!(operator, RowOperator::FloatProduct { .. }))
    });
    groups
}

/// Whether a node may read values without naming them among its inputs.
fn has_subgraph(node: &Node) -> bool {
    node.attributes.iter().any(|attribute| matches!(attribute.value, AttributeValue::Graphs(_)))
}

/// How often each value is read: by nodes, as an output of the graph, and anywhere in graphs within nodes.
pub(super) fn readers(graph: &Graph) -> HashMap<&str, usize> {
    let mut readers: HashMap<&str, usize> = HashMap::new();
    let mut read = |name| *readers.entry(name).or_default() += 1;
    graph.main().outputs.iter().for_each(|output| read(&output.name));
    graph.for_each_node(&mut |node| node.inputs.iter().for_each(|input| read(input)));
    for attribute in graph.nodes().iter().flat_map(|node| &node.attributes) {
        if let AttributeValue::Graphs(graphs) = &attribute.value {
            graphs.iter().flat_map(|graph| &graph.outputs).for_each(|output| read(&output.name));
        }
    }
    readers
}

/// A step whose values have names.
struct Named<'g> {
    kind: Kind,
    /// What is read of rows.
    rows: Vec<String>,
    node: &'g Node,
    output: String,
    /// The width of what is read, and of the result.
    widths: [usize; 2],
    /// The constant floats of a product, and a bias that another node adds.
    floats: Option<(&'g Tensor, Option<&'g str>)>,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Product,
    FloatProduct,
    RmsNorm { weight: usize, epsilon: f32 },
    Add,
    Mul,
    AddVector { vector: usize },
    Function(RowFunction),
    Gated(RowFunction),
    Columns { first: usize },
    View,
}

impl<'g> Group<'g> {
    /// The group without the nodes from which on a value in heads would have to be returned, which blocks cannot do. Products of floats
    /// among them are groups of their own.
    fn closed(mut self, readers: &HashMap<&str, usize>) -> Vec<Self> {
        let mut apart = Vec::new();
        while self.returns_heads(readers) {
            let last = self.nodes.pop();
            apart.extend(last.filter(|(_, operator)| matches!(operator, RowOperator::FloatProduct { .. })));
        }
        let like = self.like;
        let apart = apart.into_iter().map(|node| Self { like, nodes: vec![node] });
        std::iter::once(self).chain(apart).collect()
    }

    fn returns_heads(&self, readers: &HashMap<&str, usize>) -> bool {
        let mut in_heads =
            self.nodes.iter().filter(|(_, operator)| operator.in_heads()).map(|(node, _)| node.outputs[0].as_str());
        let reads = |value: &str| self.nodes().flat_map(|node| &node.inputs).filter(|input| *input == value).count();
        in_heads.any(|value| readers.get(value).copied().unwrap_or(0) > reads(value))
    }

    /// The nodes.
    pub(super) fn nodes(&self) -> impl Iterator<Item = &'g Node> {
        self.nodes.iter().map(|(node, _)| *node)
    }

    /// The block; `readers` are those of `graph`.
    pub(super) fn build(&self, graph: &'g Graph, readers: &HashMap<&str, usize>) -> Built<'g> {
        let mut inner: HashMap<&str, usize> = HashMap::new();
        self.nodes().flat_map(|node| &node.inputs).for_each(|input| *inner.entry(input).or_default() += 1);
        let is_read = |value: &str| readers.get(value).copied().unwrap_or(0) > inner.get(value).copied().unwrap_or(0);
        let mut steps: Vec<Named<'g>> = self.nodes.iter().flat_map(|(node, operator)| named(graph, node, *operator)).collect();
        remove_views(&mut steps, &is_read);
        fuse_biases(&mut steps, &is_read);
        fuse_activations(&mut steps, &is_read);
        Numbers::default().build(together(steps), &is_read)
    }
}

/// The steps of one node.
fn named<'g>(graph: &'g Graph, node: &'g Node, operator: RowOperator) -> Vec<Named<'g>> {
    let width = operator.width();
    let first = |n: usize| node.inputs[..n].to_vec();
    let step = |kind, rows, output: &str| Named { kind, rows, node, output: output.into(), widths: [width; 2], floats: None };
    let output = node.outputs[0].as_str();
    vec![match operator {
        RowOperator::Product { columns, rows } => Named { widths: [columns, rows], ..step(Kind::Product, first(1), output) },
        RowOperator::FloatProduct { columns, rows } => {
            let floats = FloatProduct::of(graph, node).map(|product| (product.weight, None));
            Named { widths: [columns, rows], floats, ..step(Kind::FloatProduct, first(1), output) }
        }
        RowOperator::RmsNorm { epsilon, has_sum: false, .. } => step(Kind::RmsNorm { weight: 1, epsilon }, first(1), output),
        RowOperator::RmsNorm { epsilon, has_sum: true, .. } => {
            // A name that the graph does not have.
            let own = || format!("{output}\0sum");
            let sum = node.outputs.get(3).filter(|sum| !sum.is_empty()).cloned().unwrap_or_else(own);
            let norm = step(Kind::RmsNorm { weight: 2, epsilon }, vec![sum.clone()], output);
            return vec![step(Kind::Add, first(2), &sum), norm];
        }
        RowOperator::Add { .. } => step(Kind::Add, first(2), output),
        RowOperator::Mul { .. } => step(Kind::Mul, first(2), output),
        RowOperator::AddVector { vector, .. } => step(Kind::AddVector { vector }, vec![node.inputs[1 - vector].clone()], output),
        RowOperator::Function { function, .. } => step(Kind::Function(function), first(1), output),
        RowOperator::View { .. } => step(Kind::View, first(1), output),
        RowOperator::Split { .. } => {
            let (mut from, sizes) = (0, split_sizes(graph, node).unwrap_or_default());
            let parts = node.outputs.iter().zip(sizes).map(|(output, size)| {
                from += size;
                Named { widths: [width, size], ..step(Kind::Columns { first: from - size }, first(1), output) }
            });
            return parts.collect();
        }
    }]
}

/// Gives what is only seen otherwise one name: that by which it is read outside, if it is.
fn remove_views(steps: &mut Vec<Named<'_>>, is_read: &dyn Fn(&str) -> bool) {
    let mut index = 0;
    while let Some(step) = steps.get(index) {
        if step.kind != Kind::View {
            index += 1;
            continue;
        }
        let (from, to) = (step.rows[0].clone(), step.output.clone());
        let maker = steps.iter().position(|step| step.output == from).filter(|_| !is_read(&from));
        let (old, new) = match maker {
            _ if !is_read(&to) => (to, from),
            Some(maker) => {
                steps[maker].output.clone_from(&to);
                (from, to)
            }
            None => {
                steps[index].kind = Kind::Columns { first: 0 };
                continue;
            }
        };
        steps.remove(index);
        steps.iter_mut().flat_map(|step| &mut step.rows).filter(|row| **row == old).for_each(|row| row.clone_from(&new));
    }
}

/// Has products of floats add the vector that is added to their results, where nothing else reads these.
fn fuse_biases(steps: &mut Vec<Named<'_>>, is_read: &dyn Fn(&str) -> bool) {
    let mut index = 0;
    while let Some(step) = steps.get(index) {
        let product = match step.kind {
            Kind::AddVector { .. } => single_reader(steps, &step.rows[0], is_read),
            _ => None,
        };
        let product = product.filter(|place| matches!(steps[*place].floats, Some((_, None))));
        let Some(place) = product else {
            index += 1;
            continue;
        };
        let added = steps.remove(index);
        if let (Kind::AddVector { vector }, Some((_, bias))) = (added.kind, &mut steps[place].floats) {
            *bias = Some(&added.node.inputs[vector]);
        }
        steps[place].output = added.output;
    }
}

/// The step that makes `value`, if one step alone reads it.
fn single_reader(steps: &[Named<'_>], value: &str, is_read: &dyn Fn(&str) -> bool) -> Option<usize> {
    let is_single = steps.iter().flat_map(|step| &step.rows).filter(|row| *row == value).count() == 1 && !is_read(value);
    steps.iter().position(|step| step.output == value).filter(|_| is_single)
}

/// Makes one step of a sigmoid and the product with its input, and of an activation and the product with what it is a gate of.
fn fuse_activations(steps: &mut Vec<Named<'_>>, is_read: &dyn Fn(&str) -> bool) {
    let mut index = 0;
    while index < steps.len() {
        index += 1;
        let step = &steps[index - 1];
        if step.kind != Kind::Mul {
            continue;
        }
        let function = |value: &String| {
            let place = single_reader(steps, value, is_read)?;
            if let Kind::Function(function) = steps[place].kind { Some((place, function)) } else { None }
        };
        let found = [0, 1].into_iter().find_map(|side| Some((function(&step.rows[side])?, step.rows[1 - side].clone())));
        let Some(((place, function), other)) = found else { continue };
        let gate = steps[place].rows[0].clone();
        let (kind, rows) = match function {
            RowFunction::Sigmoid if gate == other => (Kind::Function(RowFunction::Silu), vec![gate]),
            function => (Kind::Gated(function), vec![gate, other]),
        };
        (steps[index - 1].kind, steps[index - 1].rows) = (kind, rows);
        steps.remove(place);
        index -= 1;
    }
}

/// Puts products of the same values together, where the first of them is.
fn together(steps: Vec<Named<'_>>) -> Vec<Vec<Named<'_>>> {
    let mut joined: Vec<Vec<Named<'_>>> = Vec::new();
    for step in steps {
        let key =
            |step: &Named<'_>| (step.rows.clone(), ["bits", "block_size", "accuracy_level"].map(|name| step.node.int(name)));
        let is_like = |others: &Vec<Named<'_>>| others[0].kind == step.kind && key(&others[0]) == key(&step);
        match joined.iter_mut().find(|others| step.kind.is_product() && is_like(others)) {
            Some(others) => others.push(step),
            None => joined.push(vec![step]),
        }
    }
    joined
}

/// Numbers the values of a block: its inputs first.
#[derive(Default)]
struct Numbers {
    numbers: HashMap<String, usize>,
    inputs: Vec<String>,
    widths: Vec<usize>,
}

impl Numbers {
    fn build<'g>(mut self, steps: Vec<Vec<Named<'g>>>, is_read: &dyn Fn(&str) -> bool) -> Built<'g> {
        let made: HashSet<&str> = steps.iter().flatten().map(|step| step.output.as_str()).collect();
        for step in steps.iter().flatten() {
            for row in step.rows.iter().filter(|row| !made.contains(row.as_str())) {
                self.input(row, step.widths[0]);
            }
            let constants: &[usize] = match step.kind {
                Kind::Product => &[1, 2, 3, 5],
                Kind::RmsNorm { weight, .. } => &[weight],
                Kind::AddVector { vector } => &[vector],
                _ => &[],
            };
            constants.iter().filter_map(|&place| given(step.node, place)).for_each(|constant| self.input(constant, 0));
            if let Some((weight, bias)) = step.floats {
                [Some(weight.name.as_str()), bias].into_iter().flatten().for_each(|constant| self.input(constant, 0));
            }
        }
        let (mut outputs, mut names, mut products) = (Vec::new(), Vec::new(), Vec::new());
        for step in steps.iter().flatten() {
            let number = self.widths.len();
            self.numbers.insert(step.output.clone(), number);
            self.widths.push(step.widths[1]);
            if is_read(&step.output) {
                outputs.push(number);
                names.push(step.output.clone());
            }
            products.extend(step.kind.is_product().then_some(step.node));
        }
        let steps = steps.iter().map(|steps| self.step(steps)).collect();
        Built { block: RowBlock { widths: self.widths, steps, outputs }, inputs: self.inputs, outputs: names, products }
    }

    fn input(&mut self, name: &str, width: usize) {
        if !self.numbers.contains_key(name) {
            self.numbers.insert(name.to_owned(), self.inputs.len());
            self.inputs.push(name.to_owned());
            self.widths.push(width);
        }
    }

    fn floats(&self, step: &Named<'_>) -> Option<FloatMatrix> {
        let (weight, bias) = step.floats?;
        let [columns, rows] = step.widths;
        let bias = bias.map(|bias| self.numbers[bias]);
        Some(FloatMatrix { weights: self.numbers[&weight.name], data_type: weight.data_type, bias, columns, rows })
    }

    fn step(&self, steps: &[Named<'_>]) -> RowStep {
        let first = &steps[0];
        let row = |place: usize| self.numbers[&first.rows[place]];
        let constant = |node: &Node, place: usize| given(node, place).map(|name| self.numbers[name]);
        let vector = |place: usize| self.numbers[&first.node.inputs[place]];
        match first.kind {
            Kind::Product => RowStep::Products {
                input: row(0),
                matrices: steps.iter().map(|step| matrix(step, &|place| constant(step.node, place))).collect(),
            },
            Kind::FloatProduct => {
                RowStep::FloatProducts { input: row(0), matrices: steps.iter().filter_map(|step| self.floats(step)).collect() }
            }
            Kind::RmsNorm { weight, epsilon } => {
                RowStep::RmsNorm { input: row(0), weight: vector(weight), epsilon: epsilon.to_bits() }
            }
            Kind::Add => RowStep::Add([row(0), row(1)]),
            Kind::Mul => RowStep::Mul([row(0), row(1)]),
            Kind::AddVector { vector: place } => RowStep::AddVector([row(0), vector(place)]),
            Kind::Function(function) => RowStep::Activation(function, row(0)),
            Kind::Gated(function) => RowStep::Gated(function, [row(0), row(1)]),
            Kind::Columns { first } => RowStep::Columns { input: row(0), first },
            Kind::View => unreachable!("views are removed before values are numbered"),
        }
    }
}

impl Kind {
    fn is_product(self) -> bool {
        matches!(self, Self::Product | Self::FloatProduct)
    }
}

fn matrix(step: &Named<'_>, constant: &dyn Fn(usize) -> Option<usize>) -> BlockMatrix {
    let size = |name: &str| step.node.int(name).and_then(|size| usize::try_from(size).ok());
    BlockMatrix {
        codes: constant(1).expect("a product has codes"),
        scales: constant(2).expect("a product has scales"),
        zeros: constant(3),
        bias: constant(5),
        columns: step.widths[0],
        rows: step.widths[1],
        bits: size("bits").unwrap_or(4),
        block_size: size("block_size").expect("a product has blocks"),
        is_fast: step.node.int("accuracy_level") == Some(4),
    }
}

#[cfg(test)]
mod tests;
