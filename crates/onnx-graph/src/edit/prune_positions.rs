//! Which operators need to compute only the positions whose logits are kept.
//!
//! A prompt needs the logits of one position. Its other positions are dropped as early as they can be: not before the head, but behind
//! the last attention, since every operator after it (projection, norms, feed-forward block) computes each position from that
//! position alone. A graph is edited from the head up, through operators that are known to work position by position, to values that are
//! `[batch, tokens, width]` for certain (`shapes.rs`). A value with another consumer, an output above all, keeps all positions. In
//! graphs of genai's builder that ends at `GroupQueryAttention`; where attention consists of single operators (optimum), before the
//! head.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::KEEP;
use super::shapes::Shapes;
use crate::graph::walk::Visit;
use crate::graph::{Graph, Node};

/// The operators that compute only kept positions, and where the others are dropped.
pub(super) struct PrunePlan<'g> {
    head: &'g Node,
    /// Values that are computed for the kept positions only.
    pub(super) values: HashSet<&'g str>,
    slices: BTreeMap<&'g str, SlicePoint<'g>>,
}

/// A value that is computed for all positions, of which some operators read a slice.
pub(super) struct SlicePoint<'g> {
    /// Where the first operator that reads the slice begins.
    pub(super) before: usize,
    /// The operators that read the slice instead of the value.
    pub(super) consumers: Vec<&'g Node>,
}

/// The operators that read each value of the main graph.
struct Consumers<'g> {
    /// The main graph's operators, by their positions.
    nodes: HashMap<&'g str, Vec<usize>>,
    /// Values that are outputs, or are read within nested graphs.
    elsewhere: HashSet<&'g str>,
}

impl<'g> PrunePlan<'g> {
    /// Goes up from the product `head`. A value with another consumer is computed for all positions; so is one whose operator is
    /// not known to work position by position. `outputs` are those that the edit adds to the file.
    pub(super) fn new(graph: &'g Graph, head: &'g Node, outputs: &'g BTreeSet<String>) -> Self {
        let nodes = graph.nodes();
        let shapes = Shapes::read(graph);
        let consumers = Consumers::find(graph, outputs);
        let mut plan = Self { head, values: HashSet::new(), slices: BTreeMap::new() };
        plan.slice(&head.inputs[0], head);
        let mut members = HashSet::new();
        members.extend(nodes.iter().position(|node| node.range == head.range));
        for (index, node) in nodes.iter().enumerate().rev().filter(|(_, node)| node.range.start < head.range.start) {
            let outputs = || node.outputs.iter().map(String::as_str).filter(|output| !output.is_empty());
            let is_sliced = outputs().any(|output| plan.slices.contains_key(output));
            if is_sliced && outputs().all(|output| consumers.are_within(output, &members)) {
                let Some(inputs) = shapes.token_inputs(node) else { continue };
                for output in outputs() {
                    plan.slices.remove(output);
                    plan.values.insert(output);
                }
                members.insert(index);
                inputs.into_iter().for_each(|input| plan.slice(input, node));
            }
        }
        plan
    }

    /// Whether `node` computes `value` for the kept positions only.
    pub(super) fn sees_kept(&self, value: &str, node: &Node) -> bool {
        self.values.contains(value) || node.range == self.head.range
    }

    /// The name of the kept positions of `value` for operators at `before` and after it.
    pub(super) fn name(&mut self, value: &'g str, before: usize) -> String {
        if self.values.contains(value) {
            return value.into();
        }
        let slice = self.slices.entry(value).or_insert(SlicePoint { before, consumers: Vec::new() });
        slice.before = slice.before.min(before);
        slice_name(value)
    }

    /// The values that are sliced, in file order.
    pub(super) fn slices(&self) -> Vec<(&'g str, &SlicePoint<'g>)> {
        let mut slices: Vec<_> = self.slices.iter().map(|(value, slice)| (*value, slice)).collect();
        slices.sort_by_key(|(_, slice)| slice.before);
        slices
    }

    fn slice(&mut self, value: &'g str, consumer: &'g Node) {
        let slice = self.slices.entry(value).or_insert(SlicePoint { before: consumer.range.start, consumers: Vec::new() });
        slice.before = slice.before.min(consumer.range.start);
        slice.consumers.push(consumer);
    }
}

/// The name of the kept positions of `value`.
pub(super) fn slice_name(value: &str) -> String {
    format!("{KEEP}/{value}")
}

impl<'g> Consumers<'g> {
    fn find(graph: &'g Graph, outputs: &'g BTreeSet<String>) -> Self {
        let main = graph.main();
        let mut consumers = Self { nodes: HashMap::new(), elsewhere: outputs.iter().map(String::as_str).collect() };
        for (index, node) in main.nodes.iter().enumerate() {
            node.inputs.iter().for_each(|input| consumers.nodes.entry(input).or_default().push(index));
        }
        let own: HashSet<usize> = main.nodes.iter().map(|node| node.range.start).collect();
        let Ok(()) = graph.walk::<std::convert::Infallible>(&mut |_, visited| {
            match visited {
                Visit::Subgraph(graph) => {
                    consumers.elsewhere.extend(graph.outputs.iter().map(|output| output.name.as_str()));
                }
                Visit::Node(node) if !own.contains(&node.range.start) => {
                    consumers.elsewhere.extend(node.inputs.iter().map(String::as_str));
                }
                _ => {}
            }
            Ok(())
        });
        consumers
    }

    /// Whether only `members` read the value.
    fn are_within(&self, value: &str, members: &HashSet<usize>) -> bool {
        let consumers = self.nodes.get(value).map(Vec::as_slice).unwrap_or_default();
        !self.elsewhere.contains(value) && consumers.iter().all(|consumer| members.contains(consumer))
    }
}

#[cfg(test)]
mod tests;
