//! Which operators need to see only the tokens whose logits are kept: from the head up, until the values of other tokens matter.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::KEEP;
use super::forms::Forms;
use crate::graph::walk::Visit;
use crate::graph::{Graph, Node};

/// The operators that compute kept tokens alone, and where the others are left out.
pub(super) struct Kept<'g> {
    /// Values that are computed for the kept tokens alone.
    pub(super) values: HashSet<&'g str>,
    cuts: BTreeMap<&'g str, Cut<'g>>,
}

/// A value that is computed for all tokens, whose kept tokens some operators take.
pub(super) struct Cut<'g> {
    /// Where the first operator that takes them begins.
    pub(super) before: usize,
    /// The operators that take them in the value's place.
    pub(super) takers: Vec<&'g Node>,
}

/// Who takes which value of the main graph.
struct Takers<'g> {
    /// The main graph's operators, by their positions.
    nodes: HashMap<&'g str, Vec<usize>>,
    /// Values that are outputs, or are taken within nested graphs.
    elsewhere: HashSet<&'g str>,
}

impl<'g> Kept<'g> {
    /// Goes up from the product `head`. A value that somebody else takes too, an output above all, is computed for all tokens; so is
    /// one whose operator is not known to leave every token on its own. `outputs` are those that the file does not have yet.
    pub(super) fn plan(graph: &'g Graph, head: &'g Node, outputs: &'g BTreeSet<String>) -> Self {
        let nodes = graph.nodes();
        let forms = Forms::read(graph);
        let takers = Takers::find(graph, outputs);
        let mut kept = Self { values: HashSet::new(), cuts: BTreeMap::new() };
        kept.cut(&head.inputs[0], head);
        let mut members = HashSet::new();
        members.extend(nodes.iter().position(|node| node.range == head.range));
        for (index, node) in nodes.iter().enumerate().rev().filter(|(_, node)| node.range.start < head.range.start) {
            let outputs = || node.outputs.iter().map(String::as_str).filter(|output| !output.is_empty());
            let is_wanted = outputs().any(|output| kept.cuts.contains_key(output));
            if is_wanted && outputs().all(|output| takers.are_within(output, &members)) {
                let Some(inputs) = forms.token_inputs(node) else { continue };
                for output in outputs() {
                    kept.cuts.remove(output);
                    kept.values.insert(output);
                }
                members.insert(index);
                inputs.into_iter().for_each(|input| kept.cut(input, node));
            }
        }
        kept
    }

    /// The name of the kept tokens of `value` for operators at `before` and after it.
    pub(super) fn name(&mut self, value: &'g str, before: usize) -> String {
        if self.values.contains(value) {
            return value.into();
        }
        let cut = self.cuts.entry(value).or_insert(Cut { before, takers: Vec::new() });
        cut.before = cut.before.min(before);
        cut_name(value)
    }

    /// The values that are cut, in the order of where.
    pub(super) fn cuts(&self) -> Vec<(&'g str, &Cut<'g>)> {
        let mut cuts: Vec<_> = self.cuts.iter().map(|(value, cut)| (*value, cut)).collect();
        cuts.sort_by_key(|(_, cut)| cut.before);
        cuts
    }

    fn cut(&mut self, value: &'g str, taker: &'g Node) {
        let cut = self.cuts.entry(value).or_insert(Cut { before: taker.range.start, takers: Vec::new() });
        cut.before = cut.before.min(taker.range.start);
        cut.takers.push(taker);
    }
}

/// What the kept tokens of `value` are called.
pub(super) fn cut_name(value: &str) -> String {
    format!("{KEEP}/{value}")
}

impl<'g> Takers<'g> {
    fn find(graph: &'g Graph, outputs: &'g BTreeSet<String>) -> Self {
        let main = graph.main();
        let mut takers = Self { nodes: HashMap::new(), elsewhere: outputs.iter().map(String::as_str).collect() };
        for (index, node) in main.nodes.iter().enumerate() {
            node.inputs.iter().for_each(|input| takers.nodes.entry(input).or_default().push(index));
        }
        let own: HashSet<usize> = main.nodes.iter().map(|node| node.range.start).collect();
        let Ok(()) = graph.walk::<std::convert::Infallible>(&mut |_, visited| {
            match visited {
                Visit::Subgraph(graph) => {
                    takers.elsewhere.extend(graph.outputs.iter().map(|output| output.name.as_str()));
                }
                Visit::Node(node) if !own.contains(&node.range.start) => {
                    takers.elsewhere.extend(node.inputs.iter().map(String::as_str));
                }
                _ => {}
            }
            Ok(())
        });
        takers
    }

    /// Is the value taken by `members` alone?
    fn are_within(&self, value: &str, members: &HashSet<usize>) -> bool {
        let takers = self.nodes.get(value).map(Vec::as_slice).unwrap_or_default();
        !self.elsewhere.contains(value) && takers.iter().all(|taker| members.contains(taker))
    }
}

#[cfg(test)]
mod tests;
