//! Whether a run of a graph can be given the tokens of several sequences: when nothing but attention reads more than one token at a time. Where all
//! attention is Tandem's own, which knows of which sequence each token is, they can be packed: one row, as if they were one sequence. Where all
//! of it is the engine's, they can be stacked: a row with one token for each sequence.
//!
//! Values are followed from the inputs on, by what they depend on. Only operators that are known to compute each token alone may read what
//! depends on tokens, and quantisation by the largest of all tokens does not. The mask counts the tokens of a row, which is not what a run with
//! packed sequences is given: it may say how long a row is to attention and nothing else.

mod lengths;

use std::collections::HashMap;

use super::{CONTRIB, given, is_attention};
use crate::edit::logits::KEEP;
use crate::edit::shapes::ELEMENTWISE;
use crate::graph::{AttributeValue, DataType, Dim, Graph, Node, Tensor, TensorData};

/// What a value depends on; what it depends on most is the largest. One that is not listed is the same in every run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Depends {
    /// On how many tokens there are, or how many of the last are kept.
    Sizes,
    /// On the mask.
    Mask,
    /// On tokens: a row, or several whole rows, for each.
    Tokens,
}

impl Graph {
    /// Whether a run of the edited graph may be given the tokens of several sequences one after the other, `[1, tokens]`, where its attention is told
    /// which are of which: everything else computes each token alone, from itself and its position. Positions are an input, or those of
    /// attention. Of `attention_mask` only attention may know anything.
    pub fn can_pack_sequences(&self) -> bool {
        // All caches are those of Tandem's attention.
        self.can_hold_f16() && Packing::new(self, Sequences::Packed).visit_all()
    }

    /// Whether a run may be given one token of each of several sequences of any lengths, `[sequences, 1]`: the graph leaves open how many rows
    /// there are, everything but `GroupQueryAttention` computes each token alone, and that is told the length of each row by the mask, whose row has
    /// as many ones first.
    pub fn can_stack_sequences(&self) -> bool {
        let is_of_rows = |name: &str| name.starts_with("past") || ["input_ids", "attention_mask", "position_ids"].contains(&name);
        let mut of_rows = self.inputs().filter(|input| is_of_rows(&input.name));
        of_rows.all(|input| !matches!(input.dims.as_deref(), Some([Dim::Fixed(_), ..])))
            && Packing::new(self, Sequences::Stacked).visit_all()
    }
}

/// How a run is given several sequences.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sequences {
    Packed,
    Stacked,
}

struct Packing<'g> {
    graph: &'g Graph,
    sequences: Sequences,
    constants: HashMap<&'g str, &'g Tensor>,
    known: HashMap<&'g str, Depends>,
}

impl<'g> Packing<'g> {
    fn new(graph: &'g Graph, sequences: Sequences) -> Self {
        let main = graph.main();
        let mut constants: HashMap<_, _> = main.initializers.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
        let mut known = HashMap::new();
        for input in &main.inputs {
            // One that stands in for a constant may be another one in each run.
            constants.remove(input.name.as_str());
            let depends = match input.name.as_str() {
                "input_ids" | "position_ids" => Depends::Tokens,
                "attention_mask" => Depends::Mask,
                KEEP => Depends::Sizes,
                // Pasts are read by attention alone, and factors of adapters are the same for all tokens.
                _ => continue,
            };
            known.insert(input.name.as_str(), depends);
        }
        Self { graph, sequences, constants, known }
    }

    /// Whether all nodes may read what they read, and logits are of tokens.
    fn visit_all(mut self) -> bool {
        let is_known = self.graph.nodes().iter().all(|node| self.visit(node));
        is_known && self.known.get("logits") == Some(&Depends::Tokens)
    }

    /// Notes the constant that `node` is.
    fn learn(&mut self, node: &'g Node) {
        let tensor = node.attributes.first().and_then(|attribute| match &attribute.value {
            AttributeValue::Tensors(tensors) if is_onnx(node) && node.op_type == "Constant" => tensors.first(),
            _ => None,
        });
        self.constants.extend(node.outputs.first().map(String::as_str).zip(tensor));
    }

    fn depends(&self, value: &str) -> Option<Depends> {
        self.known.get(value).copied()
    }

    /// Notes what the outputs of `node` depend on; `false` where it may not read what it reads.
    fn visit(&mut self, node: &'g Node) -> bool {
        // A graph within a node reads values that the node does not name.
        if node.attributes.iter().any(|attribute| matches!(attribute.value, AttributeValue::Graphs(_))) {
            return false;
        }
        let most = node.inputs.iter().filter_map(|input| self.depends(input)).max();
        let made = match most {
            None => {
                self.learn(node);
                return true;
            }
            Some(_) if self.attends(node) => {
                let mut tables = node.inputs.iter().skip(7);
                let has_lengths = self.sequences == Sequences::Packed || self.is_told_lengths(node);
                if !has_lengths || tables.any(|table| self.depends(table).is_some()) {
                    return false;
                }
                Depends::Tokens
            }
            Some(Depends::Tokens) if is_onnx(node) && node.op_type == "Shape" => Depends::Sizes,
            Some(Depends::Tokens) => match self.computes_each_alone(node) {
                true => Depends::Tokens,
                false => return false,
            },
            Some(other) => other,
        };
        self.known.extend(node.outputs.iter().filter(|output| !output.is_empty()).map(|output| (output.as_str(), made)));
        true
    }

    /// Whether `node` is attention that knows which tokens are whose.
    fn attends(&self, node: &Node) -> bool {
        match self.sequences {
            Sequences::Packed => is_attention(self.graph, node),
            Sequences::Stacked => node.op_type == "GroupQueryAttention" && node.domain == CONTRIB,
        }
    }

    /// Whether `node`, which reads tokens, computes each of them alone.
    fn computes_each_alone(&self, node: &Node) -> bool {
        let is_constant = |index: usize| given(node, index).is_none_or(|input| self.depends(input).is_none());
        let all_but_first = |n: usize| (n..node.inputs.len()).all(is_constant);
        let has_no_mask = node.inputs.iter().all(|input| self.depends(input) != Some(Depends::Mask));
        let operator = node.op_type.as_str();
        let is_contrib = node.domain == CONTRIB;
        if !is_onnx(node) && !is_contrib || !has_no_mask {
            return false;
        }
        match operator {
            "MatMul" | "FusedMatMul" => {
                let turned = ["transA", "transBatchA", "transBatchB"].iter().any(|name| node.int(name).unwrap_or(0) != 0);
                let is_matrix =
                    given(node, 1).and_then(|matrix| self.constants.get(matrix)).is_none_or(|matrix| matrix.dims.len() == 2);
                !turned && is_matrix && all_but_first(1)
            }
            "MatMulNBits" if is_contrib => all_but_first(1),
            "SimplifiedLayerNormalization" | "RMSNormalization" | "LayerNormalization" => {
                node.int("axis").is_none_or(|axis| axis == -1) && all_but_first(1)
            }
            "SkipSimplifiedLayerNormalization" | "SkipLayerNormalization" if is_contrib => all_but_first(2),
            // Of a table, the rows that tokens or positions name.
            "Gather" => node.int("axis").unwrap_or(0) == 0 && is_constant(0),
            "GatherBlockQuantized" if is_contrib => node.int("gather_axis").unwrap_or(0) == 0 && is_constant(0),
            "RotaryEmbedding" if is_contrib => {
                let positions = given(node, 1).and_then(|positions| self.depends(positions));
                positions == Some(Depends::Tokens) && all_but_first(2)
            }
            "Reshape" => self.keeps_rows(node),
            "Split" => is_last(node.int("axis")) && all_but_first(1),
            "Concat" => is_last(node.int("axis")),
            "Slice" => self.slices_rows(node) || self.keeps_last(node),
            "Pad" => self.pads_rows(node),
            _ => ELEMENTWISE.contains(&operator) && node.inputs.iter().all(|input| self.is_tokens_or_row(input)),
        }
    }

    /// Whether `value` depends on tokens, or is a constant that is the same for all of them.
    fn is_tokens_or_row(&self, value: &str) -> bool {
        let is_row = |constant: &&Tensor| constant.dims.iter().rev().skip(1).all(|dim| *dim == 1);
        match self.depends(value) {
            Some(depends) => depends == Depends::Tokens,
            None => value.is_empty() || self.constants.get(value).is_some_and(is_row),
        }
    }

    /// The integers of a constant input.
    fn integers(&self, node: &Node, index: usize) -> Option<Vec<i64>> {
        let tensor = self.constants.get(given(node, index)?).filter(|tensor| tensor.data_type == DataType::INT64)?;
        let TensorData::Inline(range) = &tensor.data else { return None };
        Some(self.graph.slice(range).as_chunks().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect())
    }

    /// Whether a `Reshape` leaves whole tokens behind each other: the first two dims stay, or the last one is a part of what a token has, and no
    /// tokens are in it. Of several rows, the first dim stays.
    fn keeps_rows(&self, node: &Node) -> bool {
        match self.integers(node, 1).as_deref() {
            Some([0, 0, ..]) => true,
            Some([first, .., last]) => *last > 0 && (*first == 0 || self.sequences == Sequences::Packed),
            Some([last]) => *last > 0 && self.sequences == Sequences::Packed,
            _ => false,
        }
    }

    /// Whether a `Slice` takes a part of each token, by constants.
    fn slices_rows(&self, node: &Node) -> bool {
        let constant = (1..node.inputs.len()).all(|index| given(node, index).is_none_or(|input| self.depends(input).is_none()));
        let axes = self.integers(node, 3);
        constant && axes.is_some_and(|axes| axes.iter().all(|axis| *axis == -1 || *axis >= 2))
    }

    /// Whether a `Slice` takes so many of the last tokens as the run is asked for.
    fn keeps_last(&self, node: &Node) -> bool {
        let of_sizes = given(node, 1).and_then(|start| self.depends(start)) == Some(Depends::Sizes);
        of_sizes
            && self.integers(node, 3).as_deref() == Some(&[1])
            && given(node, 2).is_some_and(|end| self.depends(end).is_none())
    }

    /// Whether a `Pad` adds to each token, and none before, behind or between them.
    fn pads_rows(&self, node: &Node) -> bool {
        let Some(pads) = self.integers(node, 1).filter(|_| given(node, 3).is_none()) else { return false };
        let (before, after) = pads.split_at(pads.len() / 2);
        [before, after].iter().all(|pads| pads.iter().take(2).all(|pad| *pad == 0))
    }
}

fn is_onnx(node: &Node) -> bool {
    node.domain.is_empty() || node.domain == "ai.onnx"
}

/// Whether an axis is that of what a token has, where tokens are the second.
fn is_last(axis: Option<i64>) -> bool {
    axis.is_some_and(|axis| axis == -1 || axis >= 2)
}

#[cfg(test)]
mod tests {
    use super::super::super::tests::{graph_of, node};
    use super::*;
    use crate::encode::{self, Data};
    use crate::graph::{Attribute, ValueInfo};
    use crate::schema::graph as fields;
    use crate::wire::put_bytes;

    fn contrib(op_type: &str, inputs: &[&str], outputs: &[&str], ints: &[(&str, i64)]) -> Node {
        let attributes = ints.iter().map(|(name, value)| Attribute { name: (*name).into(), value: AttributeValue::Int(*value) });
        Node { domain: CONTRIB.into(), attributes: attributes.collect(), ..node(op_type, inputs, outputs) }
    }

    fn with_int(node: Node, name: &str, value: i64) -> Node {
        Node { attributes: vec![Attribute { name: name.into(), value: AttributeValue::Int(value) }], ..node }
    }

    /// A decoder whose queries are computed of `normed` by `queries`, and whose logits of `context` by `head`.
    fn decoder(queries: Vec<Node>, head: Vec<Node>) -> Graph {
        decoder_of(&Dim::Unknown, queries, head, ["", ""])
    }

    /// The same for so many rows, with another operator in the place of one.
    fn decoder_of(rows: &Dim, queries: Vec<Node>, head: Vec<Node>, [from, to]: [&str; 2]) -> Graph {
        let attention = ["queries", "", "", "past_key_values.0.key", "past_key_values.0.value", "last", "total"];
        let mut nodes = vec![
            node("Gather", &["table", "input_ids"], &["embedded"]),
            node("SimplifiedLayerNormalization", &["embedded", "row"], &["normed"]),
            with_int(node("ReduceSum", &["attention_mask", "one"], &["n_tokens"]), "keepdims", 0),
            node("Sub", &["n_tokens", "one"], &["last_wide"]),
            with_int(node("Cast", &["last_wide"], &["last"]), "to", DataType::INT32.0.into()),
            node("Shape", &["attention_mask"], &["mask_shape"]),
            node("Gather", &["mask_shape", "one"], &["total_wide"]),
            with_int(node("Cast", &["total_wide"], &["total"]), "to", DataType::INT32.0.into()),
        ];
        nodes.extend(queries);
        let presents = ["context", "present.0.key", "present.0.value"];
        nodes.push(contrib("GroupQueryAttention", &attention, &presents, &[("num_heads", 2), ("kv_num_heads", 1)]));
        nodes.extend(head);
        nodes.iter_mut().filter(|node| node.op_type == from).for_each(|node| node.op_type = to.into());
        let mut body = Vec::new();
        let mut constant = |name: &str, dims: &[i64], values: &[i64]| {
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            put_bytes(&mut body, fields::INITIALIZER, encode::tensor(name, DataType::INT64, dims, Data::Raw(&bytes)));
        };
        constant("one", &[1], &[1]);
        constant("end", &[1], &[i64::MAX]);
        constant("last_axis", &[1], &[-1]);
        constant("heads", &[4], &[0, 0, 2, 4]);
        constant("flat", &[3], &[0, 0, 8]);
        constant("turned", &[3], &[1, 8, -1]);
        constant("gathered", &[3], &[1, -1, 8]);
        for (name, dims) in [("table", &[9, 8][..]), ("row", &[8]), ("matrix", &[8, 8]), ("of_tokens", &[1, 5, 8])] {
            let bytes = vec![0; 4 * dims.iter().product::<i64>() as usize];
            put_bytes(&mut body, fields::INITIALIZER, encode::tensor(name, DataType::FLOAT, dims, Data::Raw(&bytes)));
        }
        let value = |name: &str, data_type| {
            encode::value_info(&ValueInfo { name: name.into(), data_type: Some(data_type), dims: Some(vec![rows.clone()]) })
        };
        for name in ["input_ids", "attention_mask", "position_ids", KEEP] {
            put_bytes(&mut body, fields::INPUT, value(name, DataType::INT64));
        }
        for (past, present) in [("past_key_values.0.key", "present.0.key"), ("past_key_values.0.value", "present.0.value")] {
            put_bytes(&mut body, fields::INPUT, value(past, DataType::FLOAT));
            put_bytes(&mut body, fields::OUTPUT, value(present, DataType::FLOAT));
        }
        put_bytes(&mut body, fields::OUTPUT, value("logits", DataType::FLOAT));
        graph_of(&nodes, &body)
    }

    fn check(what: &str, queries: Vec<Node>, head: Vec<Node>, expected: bool) {
        assert_eq!(decoder(queries, head).can_pack_sequences(), expected, "{what}");
    }

    fn product(input: &str, output: &str) -> Node {
        node("MatMul", &[input, "matrix"], &[output])
    }

    fn head(before: Vec<Node>, last: &str) -> Vec<Node> {
        [before, vec![product(last, "logits")]].concat()
    }

    #[test]
    fn a_graph_that_computes_each_token_alone_takes_several_sequences() {
        let plain = || vec![product("normed", "queries")];
        check("products", plain(), head(vec![], "context"), true);
        let negative = node("Neg", &[KEEP], &["negative"]);
        let start = node("Reshape", &["negative", "one"], &["start"]);
        let slice = node("Slice", &["context", "start", "end", "one"], &["kept"]);
        check("the last are kept", plain(), head(vec![negative, start, slice], "kept"), true);
        let split = node("Reshape", &["projected", "heads"], &["split"]);
        let norm = node("SimplifiedLayerNormalization", &["split", "row"], &["normed_heads"]);
        let flat = node("Reshape", &["normed_heads", "flat"], &["queries"]);
        check("norms of heads", vec![product("normed", "projected"), split, norm, flat], head(vec![], "context"), true);
        let rotary = contrib("RotaryEmbedding", &["projected", "position_ids", "table", "table"], &["queries"], &[]);
        check("positions given", vec![product("normed", "projected"), rotary], head(vec![], "context"), true);
        let sum = node("Add", &["projected", "row"], &["queries"]);
        check("a bias", vec![product("normed", "projected"), sum], head(vec![], "context"), true);
    }

    #[test]
    fn a_graph_in_which_tokens_meet_outside_attention_does_not() {
        let plain = || vec![product("normed", "queries")];
        let of_mask = node("Mul", &["normed", "last_wide"], &["masked"]);
        check("the mask is read", vec![of_mask, product("masked", "queries")], head(vec![], "context"), false);
        let rotary = contrib("RotaryEmbedding", &["projected", "last_wide", "table", "table"], &["queries"], &[]);
        check("positions of the mask", vec![product("normed", "projected"), rotary], head(vec![], "context"), false);
        let both = node("MatMul", &["context", "context"], &["logits"]);
        check("a product of tokens", plain(), vec![both], false);
        let sum = with_int(node("ReduceSum", &["context", "one"], &["mean"]), "keepdims", 1);
        check("a sum over tokens", plain(), head(vec![sum], "mean"), false);
        let unknown = node("CumSum", &["context", "one"], &["sums"]);
        check("an operator that is not known", plain(), head(vec![unknown], "sums"), false);
        let turned = node("Reshape", &["context", "turned"], &["turned_context"]);
        check("tokens in the last dim", plain(), head(vec![turned], "turned_context"), false);
        let shifted = node("Slice", &["context", "one", "end", "one"], &["shifted"]);
        check("tokens that are cut off", plain(), head(vec![shifted], "shifted"), false);
        let sum = node("Add", &["context", "of_tokens"], &["sum"]);
        check("a constant for each position", plain(), head(vec![sum], "sum"), false);
        let turned = with_int(node("LayerNormalization", &["context", "row"], &["norm"]), "axis", 1);
        check("a norm over tokens", plain(), head(vec![turned], "norm"), false);
        let other = node("Shape", &["past_key_values.0.key"], &["n_past"]);
        check("the past is read", [plain(), vec![other]].concat(), head(vec![], "context"), false);
        check("no logits of tokens", plain(), vec![], false);
    }

    #[test]
    fn a_graph_that_computes_each_row_alone_takes_a_row_for_each_sequence() {
        let check = |what: &str, queries: Vec<Node>, head: Vec<Node>, expected: bool| {
            assert_eq!(decoder(queries, head).can_stack_sequences(), expected, "{what}");
        };
        let plain = || vec![product("normed", "queries")];
        check("products", plain(), head(vec![], "context"), true);
        let heads = |shapes: [&str; 2]| {
            let split = node("Reshape", &["projected", shapes[0]], &["split"]);
            let norm = node("SimplifiedLayerNormalization", &["split", "row"], &["normed_heads"]);
            vec![product("normed", "projected"), split, norm, node("Reshape", &["normed_heads", shapes[1]], &["queries"])]
        };
        check("norms of heads", heads(["heads", "flat"]), head(vec![], "context"), true);
        check("rows that are gathered in one", heads(["heads", "gathered"]), head(vec![], "context"), false);
        let scaled = node("DynamicQuantizeLinear", &["normed"], &["codes", "scale", "zero"]);
        check("one scale for all tokens", vec![scaled, product("codes", "queries")], head(vec![], "context"), false);
        let of_mask = node("Mul", &["normed", "last_wide"], &["masked"]);
        check("the mask is read", vec![of_mask, product("masked", "queries")], head(vec![], "context"), false);
    }

    #[test]
    fn a_graph_takes_a_row_for_each_sequence_where_attention_counts_the_ones_of_the_mask() {
        let of = |rows: &Dim, renamed: [&str; 2]| {
            decoder_of(rows, vec![product("normed", "queries")], head(vec![], "context"), renamed).can_stack_sequences()
        };
        assert!(of(&Dim::Unknown, ["", ""]) && of(&Dim::Symbolic("batch_size".into()), ["", ""]));
        assert!(!of(&Dim::Fixed(1), ["", ""]), "the graph has one row");
        for (what, renamed) in [
            ("the largest is not a count", ["ReduceSum", "ReduceMax"]),
            ("not one less", ["Sub", "Add"]),
            ("the longest row is not the width", ["Shape", "Size"]),
            ("attention that is not known", ["GroupQueryAttention", "MultiHeadAttention"]),
        ] {
            assert!(!of(&Dim::Unknown, renamed), "{what}");
        }
    }
}
