//! Lets the caller say how many logits it wants, so that a prompt costs one product with the vocabulary and not one a token.

use super::{Edit, children, head, text};
use crate::encode::{self, Data};
use crate::error::{Error, Result};
use crate::graph::{DataType, Dim, Node, ValueInfo};
use crate::schema::{graph, node, types, value_info};
use crate::wire::Slice;

/// The input's name and meaning in graphs of transformers.js: a scalar, 0 for the logits of all tokens, `n` for those of the
/// last `n`.
const KEEP: &str = "num_logits_to_keep";
/// The number of logits, as a dim. It needs a name of its own: ONNX Runtime shares buffers between values whose dims have
/// the same names.
const KEPT: &str = "num_logits";

/// How a graph is told which logits to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogitsControl {
    /// By the input `num_logits_to_keep`, an int64 scalar: 0 for all tokens, `n` for the last `n`.
    Input,
    /// Not at all: it gives those of the last token.
    LastOnly,
}

impl Edit<'_> {
    /// Gives the graph an input `num_logits_to_keep`, unless it has one or gives the logits of the last token only.
    ///
    /// Between the hidden states and the head, `Slice` takes the tokens from `-num_logits_to_keep` on; as `-0` is the first
    /// token, 0 takes all.
    ///
    /// # Errors
    /// When there is no output of the name `logits`, or what computes it is no head that this understands.
    pub fn control_logits(&mut self, logits: &str) -> Result<LogitsControl> {
        let main = self.graph.main();
        if main.inputs.iter().any(|input| input.name == KEEP) {
            return Ok(LogitsControl::Input);
        }
        let Some(output) = main.outputs.iter().find(|output| output.name == logits) else {
            return Err(Error::bad_field(self.graph.file(), "graph.output", format!("there is no output `{logits}`")));
        };
        let dims = output.dims.as_deref();
        match dims {
            Some([_, Dim::Fixed(1), _]) => return Ok(LogitsControl::LastOnly),
            Some([_, _, _]) | None => {}
            Some(dims) => {
                let problem = format!("`{logits}` has {} dims, not batch, tokens and vocabulary", dims.len());
                return Err(Error::bad_field(self.graph.file(), "graph.output", problem));
            }
        }
        let has_dims = dims.is_some();
        let head = head::find(self.graph, &output.name)?;
        self.slice_input(head.node);
        self.forget_shapes(&head.values);
        if has_dims {
            self.rename_kept_dim(logits);
        }
        Ok(LogitsControl::Input)
    }

    /// Puts the slice before the node's first input.
    fn slice_input(&mut self, head: &Node) {
        let name = |part: &str| format!("{KEEP}/{part}");
        let hidden = head.inputs[0].as_str();
        let make = |op_type: &str, inputs: &[&str], output: &str| Node {
            name: name(op_type),
            op_type: op_type.into(),
            inputs: inputs.iter().map(|&input| input.into()).collect(),
            outputs: vec![name(output)],
            ..Node::default()
        };
        let nodes = [
            make("Neg", &[KEEP], "negative"),
            make("Reshape", &[&name("negative"), &name("one")], "start"),
            make("Slice", &[hidden, &name("start"), &name("end"), &name("one")], "hidden"),
        ];
        for added in &nodes {
            self.patches.insert_before(head.range.start, graph::NODE, &encode::node(added));
        }
        for (part, value) in [("one", 1), ("end", i64::MAX)] {
            let tensor = encode::tensor(&name(part), DataType::INT64, &[1], Data::Raw(&value.to_le_bytes()));
            self.append_to_main(graph::INITIALIZER, &tensor);
        }
        let input = ValueInfo { name: KEEP.into(), data_type: Some(DataType::INT64), dims: Some(vec![]) };
        self.append_to_main(graph::INPUT, &encode::value_info(&input));
        let first = children(self.message(&head.range), node::INPUT).next();
        if let Some(first) = first {
            self.patches.replace(first.start, name("hidden").into_bytes());
        }
    }

    /// Takes away the shapes that the file gives to values after the head: they count all tokens.
    fn forget_shapes(&mut self, values: &[&str]) {
        let main = self.message(&self.graph.main().range);
        for info in children(main, graph::VALUE_INFO) {
            if text(info, value_info::NAME).is_some_and(|name| values.iter().any(|value| value.as_bytes() == name)) {
                self.patches.remove(info.start);
            }
        }
    }

    fn rename_kept_dim(&mut self, logits: &str) {
        let main = self.message(&self.graph.main().range);
        let output = children(main, graph::OUTPUT).find(|output| text(*output, value_info::NAME) == Some(logits.as_bytes()));
        let tensor_type = child(child(output, value_info::TYPE, 0), types::TENSOR, 0);
        let tokens = child(child(tensor_type, types::TENSOR_SHAPE, 0), types::SHAPE_DIM, 1);
        if let Some(tokens) = tokens {
            self.patches.replace(tokens.start, encode::dim(&Dim::Symbolic(KEPT.into())));
        }
    }
}

fn child(message: Option<Slice<'_>>, number: u32, index: usize) -> Option<Slice<'_>> {
    children(message?, number).nth(index)
}
