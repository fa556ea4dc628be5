//! Walks over everything in a file that may hold a tensor, with its position.

use super::{Attribute, AttributeValue, Graph, Node, Subgraph, Tensor};
use crate::error::At;

/// An item of a walk.
pub(crate) enum Visit<'g> {
    Subgraph(&'g Subgraph),
    Node(&'g Node),
    Tensor(&'g Tensor),
    /// The values or the indices of a sparse tensor.
    SparsePart(&'g Tensor),
}

type Visitor<'v, 'g, E> = &'v mut dyn FnMut(&At<'_>, Visit<'g>) -> Result<(), E>;

impl Graph {
    /// Visits the main graph, the graphs of functions, attributes and training, and everything in them.
    pub(crate) fn walk<'g, E>(&'g self, visit: Visitor<'_, 'g, E>) -> Result<(), E> {
        let root = At::ROOT;
        let contents = self.contents();
        subgraph(&root.field("graph"), &contents.main, visit)?;
        for (index, function) in contents.functions.iter().enumerate() {
            let at = root.item("functions", index);
            nodes(&at, &function.nodes, visit)?;
            for (index, value) in function.attributes.iter().enumerate() {
                attribute(&at.item("attribute_proto", index), value, visit)?;
            }
        }
        for (index, graph) in contents.training.iter().enumerate() {
            subgraph(&root.item("training_info", index), graph, visit)?;
        }
        Ok(())
    }

    pub(crate) fn for_each_node<'g>(&'g self, visit: &mut dyn FnMut(&'g Node)) {
        let Ok(()) = self.walk::<std::convert::Infallible>(&mut |_, visited| {
            if let Visit::Node(node) = visited {
                visit(node);
            }
            Ok(())
        });
    }

    pub(crate) fn for_each_tensor<'g>(&'g self, visit: &mut dyn FnMut(&'g Tensor)) {
        let Ok(()) = self.walk::<std::convert::Infallible>(&mut |_, visited| {
            if let Visit::Tensor(tensor) | Visit::SparsePart(tensor) = visited {
                visit(tensor);
            }
            Ok(())
        });
    }
}

impl Node {
    /// The operator with its domain: `com.microsoft.MatMulNBits`, and `MatMul` for ONNX's own.
    pub fn operator(&self) -> String {
        match self.domain.as_str() {
            "" | "ai.onnx" => self.op_type.clone(),
            domain => format!("{domain}.{}", self.op_type),
        }
    }
}

fn subgraph<'g, E>(at: &At<'_>, graph: &'g Subgraph, visit: Visitor<'_, 'g, E>) -> Result<(), E> {
    visit(at, Visit::Subgraph(graph))?;
    for (index, tensor) in graph.initializers.iter().enumerate() {
        visit(&at.item("initializer", index), Visit::Tensor(tensor))?;
    }
    for (index, sparse) in graph.sparse_initializers.iter().enumerate() {
        sparse_parts(&at.item("sparse_initializer", index), sparse, visit)?;
    }
    nodes(at, &graph.nodes, visit)
}

fn nodes<'g, E>(at: &At<'_>, nodes: &'g [Node], visit: Visitor<'_, 'g, E>) -> Result<(), E> {
    for (index, node) in nodes.iter().enumerate() {
        let at = at.item("node", index);
        visit(&at, Visit::Node(node))?;
        for (index, value) in node.attributes.iter().enumerate() {
            attribute(&at.item("attribute", index), value, visit)?;
        }
    }
    Ok(())
}

fn attribute<'g, E>(at: &At<'_>, attribute: &'g Attribute, visit: Visitor<'_, 'g, E>) -> Result<(), E> {
    match &attribute.value {
        AttributeValue::Tensors(tensors) => {
            tensors.iter().enumerate().try_for_each(|(index, tensor)| visit(&at.item("tensors", index), Visit::Tensor(tensor)))
        }
        AttributeValue::Graphs(graphs) => {
            graphs.iter().enumerate().try_for_each(|(index, graph)| subgraph(&at.item("graphs", index), graph, visit))
        }
        AttributeValue::SparseTensors(tensors) => {
            let mut tensors = tensors.iter().enumerate();
            tensors.try_for_each(|(index, sparse)| sparse_parts(&at.item("sparse_tensors", index), sparse, visit))
        }
        _ => Ok(()),
    }
}

fn sparse_parts<'g, E>(at: &At<'_>, sparse: &'g super::SparseTensor, visit: Visitor<'_, 'g, E>) -> Result<(), E> {
    if let Some(values) = &sparse.values {
        visit(&at.field("values"), Visit::SparsePart(values))?;
    }
    if let Some(indices) = &sparse.indices {
        visit(&at.field("indices"), Visit::SparsePart(indices))?;
    }
    Ok(())
}
