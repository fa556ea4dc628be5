//! Edits a graph of any exporter. Everything else stays byte for byte, including fields that are unknown here.

mod cuda;
mod head;
pub(super) mod logits;
mod low_rank;
mod operators;
mod patches;
mod product;
mod prune_positions;
mod shapes;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use self::logits::KEEP;
pub use self::logits::LogitsControl;
use self::low_rank::Update;
pub use self::low_rank::{AdapterInputs, LowRank};
pub use self::operators::block::{
    BLOCK_OPERATOR, BlockMatrix, FloatMatrix, OUTPUTS_ATTRIBUTE, RowBlock, RowFunction, RowStep, STEPS_ATTRIBUTE,
    WIDTHS_ATTRIBUTE, product_attribute,
};
pub use self::operators::{
    ADAPTER_INPUT, ADAPTER_PLACE, CustomOperators, CustomProduct, F16_ATTENTION, MODULE_ATTRIBUTE, OPERATOR_DOMAIN,
};
use self::patches::Patches;
pub use self::product::{Product, module_name};
use self::prune_positions::PrunePlan;
use crate::check::resolve;
use crate::encode;
use crate::error::{At, Error, Result};
use crate::graph::walk::Visit;
use crate::graph::{Attribute, AttributeValue, DataType, Graph, MAX_PROTO_BYTES, Node, TensorData, ValueInfo};
use crate::schema::{attribute, entry, graph, node, tensor};
use crate::wire::{Fields, Payload, Slice};

/// Changes to one graph, applied by [`to_bytes`](Self::to_bytes).
///
/// The engine loads the bytes from memory. Weights in other files stay where they are: [`relocate`](Self::relocate) returns the folder that
/// the engine needs to find them.
#[derive(Debug)]
pub struct Edit<'g> {
    graph: &'g Graph,
    patches: Patches,
    /// The outputs that were added.
    outputs: BTreeSet<String>,
    /// Low-rank updates of products.
    updates: Vec<Update<'g>>,
    /// The product with the vocabulary, of which only the rows of kept positions are computed.
    head: Option<&'g Node>,
}

/// The type in which `MatMulNBits` computes its products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activations {
    /// Activations are quantised to 8 bits, block by block, where the graph leaves it open: several times faster on a CPU, and far more with
    /// 8-bit weights, which ONNX Runtime otherwise widens on each run.
    Int8WhereOpen,
    /// Activations stay floats everywhere, whatever the graph requests.
    Float,
}

impl Graph {
    /// Begins an edit of the graph.
    pub fn edit(&self) -> Edit<'_> {
        Edit { graph: self, patches: Patches::default(), outputs: BTreeSet::new(), updates: Vec::new(), head: None }
    }
}

impl<'g> Edit<'g> {
    /// Sets how `MatMulNBits` computes (its attribute `accuracy_level`: 4 for 8-bit activations, 0 for floats), and returns the number of
    /// changed nodes.
    pub fn set_activations(&mut self, activations: Activations) -> usize {
        let level = match activations {
            Activations::Int8WhereOpen => 4,
            Activations::Float => 0,
        };
        let mut n_changed = 0;
        let graph = self.graph;
        graph.for_each_node(&mut |node| {
            let current = node.int("accuracy_level").unwrap_or(0);
            let is_open = current == 0 || activations == Activations::Float;
            if node.op_type == "MatMulNBits" && is_open && current != level {
                self.set_attribute(node, Attribute { name: "accuracy_level".into(), value: AttributeValue::Int(level) });
                n_changed += 1;
            }
        });
        n_changed
    }

    /// Makes a value of the main graph an output, with all positions whatever the number of logits to keep. An output stays one.
    ///
    /// # Errors
    /// When no node computes the value.
    pub fn add_output(&mut self, value: &str, data_type: DataType) -> Result<()> {
        let main = self.graph.main();
        if main.outputs.iter().any(|output| output.name == value) {
            return Ok(());
        }
        if main.producer(value).is_none() {
            let file = self.graph.file();
            return Err(Error::bad_field(file, "graph.node", format!("no node computes the value `{value}`")));
        }
        let output = ValueInfo { name: value.into(), data_type: Some(data_type), dims: None };
        if self.outputs.insert(value.into()) {
            self.append_to_main(graph::OUTPUT, &encode::value_info(&output));
        }
        Ok(())
    }

    /// Resolves links in the locations of external data, and returns the folder that the new locations are relative to. `directory` is the
    /// graph's own.
    ///
    /// ONNX Runtime refuses links that leave the folder of a graph in memory, and a hub cache consists of such links.
    ///
    /// # Errors
    /// When a file is missing or outside, as for [`Graph::check`].
    pub fn relocate(&mut self, directory: &Path) -> Result<PathBuf> {
        let real = self.real_files(directory)?;
        let mut folders = real.values().filter_map(|path| path.parent());
        let Some(first) = folders.next() else {
            let current = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
            let name = current.display().to_string();
            return current.canonicalize().map_err(|source| Error::io(name, "found", source));
        };
        let folder =
            folders.fold(first, |common, next| common.ancestors().find(|ancestor| next.starts_with(ancestor)).unwrap_or(common));
        let graph = self.graph;
        graph.for_each_tensor(&mut |tensor| {
            let TensorData::External(external) = &tensor.data else { return };
            let new = real.get(external.location.as_str()).and_then(|path| path.strip_prefix(folder).ok()?.to_str());
            if let Some(new) = new.filter(|new| *new != external.location) {
                self.set_location(&tensor.range, new);
            }
        });
        Ok(folder.to_owned())
    }

    /// The changed file.
    ///
    /// # Errors
    /// When it exceeds 2 GiB, the limit of ONNX files.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut patches = self.patches.clone();
        // Which positions a product sees is known only once every output has been requested.
        let mut plan = self.head.map(|head| PrunePlan::new(self.graph, head, &self.outputs));
        for update in &self.updates {
            update.apply(self.graph, plan.as_mut(), &mut patches);
        }
        if let Some(plan) = &plan {
            logits::insert_slices(self.graph, plan, &mut patches);
        }
        let bytes = patches.apply(Slice::whole(self.graph.bytes()));
        if bytes.len() as u64 > MAX_PROTO_BYTES {
            let problem = format!("the changed graph has {} bytes, and ONNX files are limited to 2 GiB", bytes.len());
            return Err(Error::bad_file(self.graph.file(), problem));
        }
        Ok(bytes)
    }

    fn real_files(&self, directory: &Path) -> Result<BTreeMap<&'g str, PathBuf>> {
        let mut files = BTreeMap::new();
        let graph = self.graph;
        graph.walk(&mut |at, visited| {
            let (Visit::Tensor(tensor) | Visit::SparsePart(tensor)) = visited else { return Ok(()) };
            let TensorData::External(external) = &tensor.data else { return Ok(()) };
            if !files.contains_key(external.location.as_str()) {
                let at: At<'_> = at.field("external_data");
                let at = at.field("location");
                let (path, _) = resolve(directory, &external.location)
                    .map_err(|refusal| refusal.into_error(graph.file(), &at, &external.location))?;
                files.insert(external.location.as_str(), path);
            }
            Ok(())
        })?;
        Ok(files)
    }

    fn set_attribute(&mut self, of: &Node, value: Attribute) {
        let message = message(self.graph, &of.range);
        let name = value.name.as_bytes();
        let current = children(message, node::ATTRIBUTE).find(|child| text(*child, attribute::NAME) == Some(name));
        let bytes = encode::attribute(&value);
        match current {
            Some(current) => self.patches.replace(current.start, bytes),
            None => self.patches.append(message.start, node::ATTRIBUTE, &bytes),
        }
    }

    fn set_location(&mut self, tensor: &std::ops::Range<usize>, location: &str) {
        let entries = children(message(self.graph, tensor), tensor::EXTERNAL_DATA);
        for entry in entries.filter(|entry| text(*entry, entry::KEY) == Some(b"location")) {
            self.patches.replace(entry.start, encode::string_entry("location", location));
        }
    }

    fn append_to_main(&mut self, number: u32, message: &[u8]) {
        self.patches.append(self.graph.main().range.start, number, message);
    }
}

fn message<'g>(graph: &'g Graph, range: &std::ops::Range<usize>) -> Slice<'g> {
    Slice { bytes: graph.slice(range), start: range.start }
}

/// The payloads of the fields with this number, in a message that has been decoded before and is therefore valid.
fn children(message: Slice<'_>, number: u32) -> impl Iterator<Item = Slice<'_>> {
    let mut fields = Fields::new(message);
    std::iter::from_fn(move || fields.next().ok().flatten()).filter(move |field| field.number == number).filter_map(|field| {
        match field.payload {
            Payload::Bytes(slice) => Some(slice),
            _ => None,
        }
    })
}

fn text(message: Slice<'_>, number: u32) -> Option<&[u8]> {
    children(message, number).next().map(|slice| slice.bytes)
}

#[cfg(test)]
mod tests;
