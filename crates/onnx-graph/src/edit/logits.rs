//! Adds an input for the number of logits, so that a prompt costs one product with the vocabulary instead of one per token.

use super::patches::Patches;
use super::prune_positions::{PrunePlan, slice_name};
use super::{Edit, children, head, message, text};
use crate::encode::{self, Data};
use crate::error::{Error, Result};
use crate::graph::{DataType, Dim, Graph, Node, ValueInfo};
use crate::schema::{graph, node, types, value_info};
use crate::wire::Slice;

/// The input's name and meaning in graphs of transformers.js: a scalar, 0 for the logits of all tokens, `n` for those of the
/// last `n`.
pub(super) const KEEP: &str = "num_logits_to_keep";
/// The number of logits, as a dim. Its name must differ from the others: ONNX Runtime shares buffers between values whose dims have the
/// same names.
const KEPT: &str = "num_logits";

/// How many logits a graph computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogitsControl {
    /// As the input `num_logits_to_keep` says, an int64 scalar: 0 for all tokens, `n` for the last `n`.
    Input,
    /// Those of the last token only.
    LastOnly,
}

impl Edit<'_> {
    /// Adds the input `num_logits_to_keep`, unless the graph has it or returns the logits of the last token only.
    ///
    /// A `Slice` from `-num_logits_to_keep` on keeps the last tokens; as `-0` is the first token, 0 keeps all. It is inserted as early as
    /// possible (`prune_positions.rs`).
    ///
    /// # Errors
    /// When there is no output `logits`, or its head is not recognised.
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
        self.head = Some(head.node);
        forget_shapes(self.graph, &mut self.patches, |value| head.values.contains(&value));
        if has_dims {
            self.rename_kept_dim(logits);
        }
        for (part, value) in [("one", 1), ("end", i64::MAX)] {
            let tensor = encode::tensor(&name(part), DataType::INT64, &[1], Data::Raw(&value.to_le_bytes()));
            self.append_to_main(graph::INITIALIZER, &tensor);
        }
        let input = ValueInfo { name: KEEP.into(), data_type: Some(DataType::INT64), dims: Some(vec![]) };
        self.append_to_main(graph::INPUT, &encode::value_info(&input));
        Ok(LogitsControl::Input)
    }

    fn rename_kept_dim(&mut self, logits: &str) {
        let main = message(self.graph, &self.graph.main().range);
        let output = children(main, graph::OUTPUT).find(|output| text(*output, value_info::NAME) == Some(logits.as_bytes()));
        let tensor_type = child(child(output, value_info::TYPE, 0), types::TENSOR, 0);
        let tokens = child(child(tensor_type, types::TENSOR_SHAPE, 0), types::SHAPE_DIM, 1);
        if let Some(tokens) = tokens {
            self.patches.replace(tokens.start, encode::dim(&Dim::Symbolic(KEPT.into())));
        }
    }
}

/// Inserts the slices that `plan` lists.
pub(super) fn insert_slices(edited: &Graph, plan: &PrunePlan<'_>, patches: &mut Patches) {
    let make = |op_type: &str, inputs: &[&str], output: String| {
        let inputs = inputs.iter().map(|&input| input.into()).collect();
        Node { name: output.clone(), op_type: op_type.into(), inputs, outputs: vec![output], ..Node::default() }
    };
    let slices = plan.slices();
    if let Some((_, first)) = slices.first() {
        for added in [make("Neg", &[KEEP], name("negative")), make("Reshape", &[&name("negative"), &name("one")], name("start"))]
        {
            patches.insert_before(first.before, graph::NODE, &encode::node(&added));
        }
    }
    for (value, point) in slices {
        let slice = make("Slice", &[value, &name("start"), &name("end"), &name("one")], slice_name(value));
        patches.insert_before(point.before, graph::NODE, &encode::node(&slice));
        for consumer in &point.consumers {
            let inputs = children(message(edited, &consumer.range), node::INPUT);
            for input in inputs.filter(|input| input.bytes == value.as_bytes()) {
                patches.replace(input.start, slice_name(value).into_bytes());
            }
        }
    }
    forget_shapes(edited, patches, |value| plan.values.contains(value));
}

/// The name of an added node or constant.
fn name(part: &str) -> String {
    format!("{KEEP}.{part}")
}

/// Removes the shapes that the file declares for `values`, since they count all tokens.
fn forget_shapes(edited: &Graph, patches: &mut Patches, values: impl Fn(&str) -> bool) {
    for info in children(message(edited, &edited.main().range), graph::VALUE_INFO) {
        let name = text(info, value_info::NAME).and_then(|name| std::str::from_utf8(name).ok());
        if name.is_some_and(&values) {
            patches.remove(info.start);
        }
    }
}

fn child(message: Option<Slice<'_>>, number: u32, index: usize) -> Option<Slice<'_>> {
    children(message?, number).nth(index)
}
