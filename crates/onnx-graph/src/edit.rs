//! Changes to a graph that somebody else wrote. What is not touched stays as it is, byte for byte, known here or not.

mod forms;
mod head;
mod kept;
mod logits;
mod low_rank;
mod patches;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use self::kept::Kept;
use self::logits::KEEP;
pub use self::logits::LogitsControl;
pub use self::low_rank::LowRank;
use self::low_rank::Update;
use self::patches::Patches;
use crate::check::resolve;
use crate::encode;
use crate::error::{At, Error, Result};
use crate::graph::walk::Visit;
use crate::graph::{Attribute, AttributeValue, DataType, Graph, MAX_PROTO_BYTES, Node, TensorData, ValueInfo};
use crate::schema::{attribute, entry, graph, node, tensor};
use crate::wire::{Fields, Payload, Slice};

/// Changes to one graph, applied by [`to_bytes`](Self::to_bytes).
///
/// The bytes are given to the engine from memory. Weights outside of the file stay where they are: the engine is told their
/// folder, which [`relocate`](Self::relocate) gives.
#[derive(Debug)]
pub struct Edit<'g> {
    graph: &'g Graph,
    patches: Patches,
    /// The outputs that were added.
    outputs: BTreeSet<String>,
    /// Low-rank updates of products.
    updates: Vec<Update<'g>>,
    /// The product of which only the rows of kept tokens are wanted.
    head: Option<&'g Node>,
}

/// In what the products of `MatMulNBits` are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activations {
    /// Activations are rounded to 8 bits, block by block, where the graph leaves it open: several times faster on a CPU, a
    /// hundred times for 8-bit weights.
    Int8WhereOpen,
    /// Activations stay floats everywhere, whatever the graph says.
    Float,
}

impl Graph {
    /// Begins to change the graph.
    pub fn edit(&self) -> Edit<'_> {
        Edit { graph: self, patches: Patches::default(), outputs: BTreeSet::new(), updates: Vec::new(), head: None }
    }
}

impl<'g> Edit<'g> {
    /// Sets how `MatMulNBits` computes (its attribute `accuracy_level`: 4 for 8-bit activations, 0 for floats), and says how
    /// many nodes were changed.
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

    /// Makes an output of a value within the main graph. It has all tokens, whatever number of logits is asked for.
    ///
    /// # Errors
    /// When there is no such value. One that is an output already stays one.
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

    /// Names the files of external data by where they really are, once links are followed, and gives the folder to which
    /// the names are relative. `directory` is the graph's own.
    ///
    /// ONNX Runtime refuses links that leave the folder when a graph comes from memory, and the hub's cache consists of
    /// such links.
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
    /// When it has more than 2 GiB, which no ONNX file can have.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut patches = self.patches.clone();
        // Which tokens a product sees is known only when all is said that the graph is to compute.
        let mut kept = self.head.map(|head| Kept::plan(self.graph, head, &self.outputs));
        for update in &self.updates {
            update.apply(self.graph, kept.as_mut(), &mut patches);
        }
        if let Some(kept) = &kept {
            logits::cut(self.graph, kept, &mut patches);
        }
        let bytes = patches.apply(Slice::whole(self.graph.bytes()));
        if bytes.len() as u64 > MAX_PROTO_BYTES {
            let problem = format!("the changed graph has {} bytes, more than the 2 GiB that an ONNX file can have", bytes.len());
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

/// The payloads of the fields with this number; the message has been read before, so that its form is known to be good.
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
