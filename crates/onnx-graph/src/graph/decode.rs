//! Decodes bytes to messages. Every length, nesting depth and count of a hostile file is bounded here.

mod reader;
mod tensor;

use std::ops::ControlFlow;

use self::reader::Reader;
use super::node::{Attribute, AttributeValue, Dim, Function, Node, Subgraph, ValueInfo};
use super::tensor::DataType;
use super::{Contents, OpsetImport};
use crate::error::{At, Error, Result};
use crate::schema::{attribute, entry, function, graph, model, node, opset, training, types, value_info};
use crate::wire::Slice;

pub(crate) use self::reader::Limits;

/// Reads a `ModelProto`.
pub(crate) fn model(limits: &Limits<'_>, bytes: &[u8]) -> Result<Contents> {
    let mut contents = Contents::default();
    let mut has_graph = false;
    let at = At::ROOT;
    let mut reader = Reader::new(limits, &at, Slice::whole(bytes));
    while let Some(field) = reader.next()? {
        match field.number {
            model::IR_VERSION => contents.ir_version = reader.once_int(&field, "ir_version")?,
            model::PRODUCER_NAME => contents.producer_name = reader.once_text(&field, "producer_name")?,
            model::PRODUCER_VERSION => contents.producer_version = reader.once_text(&field, "producer_version")?,
            model::GRAPH => {
                let message = reader.once_message(&field, "graph")?;
                contents.main = subgraph(limits, &at.field("graph"), message)?;
                has_graph = true;
            }
            model::OPSET_IMPORT => {
                let at = at.item("opset_import", contents.opset_imports.len());
                contents.opset_imports.push(opset_import(limits, &at, reader.message(&field, &at)?)?);
            }
            model::METADATA_PROPS => {
                let at = at.item("metadata_props", contents.metadata.len());
                contents.metadata.push(string_entry(limits, &at, reader.message(&field, &at)?)?);
            }
            model::FUNCTIONS => {
                let at = at.item("functions", contents.functions.len());
                contents.functions.push(self::function(limits, &at, reader.message(&field, &at)?)?);
            }
            model::TRAINING_INFO => {
                let at = at.item("training_info", contents.n_training_infos);
                contents.n_training_infos += 1;
                contents.training.extend(training_info(limits, &at, reader.message(&field, &at)?)?);
            }
            _ => {}
        }
    }
    if !has_graph {
        return Err(Error::bad_file(limits.file, "it does not contain a graph").with_hint("is it an ONNX file?"));
    }
    Ok(contents)
}

pub(super) fn subgraph(limits: &Limits<'_>, at: &At<'_>, message: Slice<'_>) -> Result<Subgraph> {
    let _depth = limits.enter(at)?;
    let mut subgraph = Subgraph { range: message.range(), ..Subgraph::default() };
    let mut reader = Reader::new(limits, at, message);
    while let Some(field) = reader.next()? {
        match field.number {
            graph::NAME => subgraph.name = reader.once_text(&field, "name")?,
            graph::NODE => {
                let at = at.item("node", subgraph.nodes.len());
                subgraph.nodes.push(self::node(limits, &at, reader.message(&field, &at)?)?);
            }
            graph::INITIALIZER => {
                let at = at.item("initializer", subgraph.initializers.len());
                subgraph.initializers.push(tensor::tensor(limits, &at, reader.message(&field, &at)?)?);
            }
            graph::SPARSE_INITIALIZER => {
                let at = at.item("sparse_initializer", subgraph.sparse_initializers.len());
                subgraph.sparse_initializers.push(tensor::sparse(limits, &at, reader.message(&field, &at)?)?);
            }
            graph::INPUT => {
                let at = at.item("input", subgraph.inputs.len());
                subgraph.inputs.push(self::value_info(limits, &at, reader.message(&field, &at)?)?);
            }
            graph::OUTPUT => {
                let at = at.item("output", subgraph.outputs.len());
                subgraph.outputs.push(self::value_info(limits, &at, reader.message(&field, &at)?)?);
            }
            graph::VALUE_INFO => {
                let at = at.item("value_info", subgraph.values.len());
                subgraph.values.push(self::value_info(limits, &at, reader.message(&field, &at)?)?);
            }
            _ => {}
        }
    }
    Ok(subgraph)
}

fn node(limits: &Limits<'_>, at: &At<'_>, message: Slice<'_>) -> Result<Node> {
    let mut node = Node { range: message.range(), ..Node::default() };
    let mut reader = Reader::new(limits, at, message);
    while let Some(field) = reader.next()? {
        match field.number {
            node::NAME => node.name = reader.once_text(&field, "name")?,
            node::OP_TYPE => node.op_type = reader.once_text(&field, "op_type")?,
            node::DOMAIN => node.domain = reader.once_text(&field, "domain")?,
            node::INPUT => node.inputs.push(reader.text(&field, &at.item("input", node.inputs.len()))?),
            node::OUTPUT => node.outputs.push(reader.text(&field, &at.item("output", node.outputs.len()))?),
            node::ATTRIBUTE => {
                let at = at.item("attribute", node.attributes.len());
                node.attributes.push(self::attribute(limits, &at, reader.message(&field, &at)?)?);
            }
            _ => {}
        }
    }
    Ok(node)
}

/// The value of an attribute is the one field that is set; if none is (a zero in proto3), its type tells which zero.
fn attribute(limits: &Limits<'_>, at: &At<'_>, message: Slice<'_>) -> Result<Attribute> {
    let (mut name, mut kind, mut value) = (String::new(), 0, None);
    let mut reader = Reader::new(limits, at, message);
    while let Some(field) = reader.next()? {
        match field.number {
            attribute::NAME => name = reader.once_text(&field, "name")?,
            attribute::TYPE => kind = reader.once_int(&field, "type")?,
            attribute::F
            | attribute::I
            | attribute::S
            | attribute::T
            | attribute::G
            | attribute::TP
            | attribute::SPARSE_TENSOR
            | attribute::REF_ATTR_NAME
                if value.is_some() =>
            {
                return Err(Error::bad_field(limits.file, at, "an attribute holds more than one value"));
            }
            _ => {
                if let ControlFlow::Break(()) = attribute_value(limits, at, &reader, &field, &mut value)? {
                    return Err(Error::bad_field(limits.file, at, "an attribute holds values of more than one type"));
                }
            }
        }
    }
    let value = value.unwrap_or_else(|| match kind {
        attribute::TYPE_FLOAT => AttributeValue::Float(0.0),
        attribute::TYPE_INT => AttributeValue::Int(0),
        attribute::TYPE_STRING => AttributeValue::Text(Vec::new()),
        attribute::TYPE_FLOATS => AttributeValue::Floats(Vec::new()),
        attribute::TYPE_INTS => AttributeValue::Ints(Vec::new()),
        attribute::TYPE_STRINGS => AttributeValue::Texts(Vec::new()),
        _ => AttributeValue::Type,
    });
    Ok(Attribute { name, value })
}

/// Adds one field to an attribute's value; breaks if the value has another type already.
fn attribute_value(
    limits: &Limits<'_>,
    at: &At<'_>,
    reader: &Reader<'_, '_>,
    field: &crate::wire::Field<'_>,
    value: &mut Option<AttributeValue>,
) -> Result<ControlFlow<()>> {
    use AttributeValue as Value;
    // `slot!` finds the list that the field belongs to, empty at first.
    macro_rules! slot {
        ($variant:ident) => {
            match value.get_or_insert_with(|| Value::$variant(Vec::new())) {
                Value::$variant(list) => list,
                _ => return Ok(ControlFlow::Break(())),
            }
        };
    }
    match field.number {
        attribute::F => *value = Some(Value::Float(reader.float(field, &at.field("f"))?)),
        attribute::I => *value = Some(Value::Int(reader.int(field, &at.field("i"))?)),
        attribute::S => *value = Some(Value::Text(reader.message(field, &at.field("s"))?.bytes.to_vec())),
        attribute::REF_ATTR_NAME => *value = Some(Value::Reference(reader.text(field, &at.field("ref_attr_name"))?)),
        attribute::FLOATS => reader.floats(field, &at.field("floats"), slot!(Floats))?,
        attribute::INTS => reader.ints(field, &at.field("ints"), slot!(Ints))?,
        attribute::STRINGS => slot!(Texts).push(reader.message(field, &at.field("strings"))?.bytes.to_vec()),
        attribute::T => {
            let at = at.field("t");
            slot!(Tensors).push(tensor::tensor(limits, &at, reader.message(field, &at)?)?);
        }
        attribute::TENSORS => {
            let list = slot!(Tensors);
            let at = at.item("tensors", list.len());
            list.push(tensor::tensor(limits, &at, reader.message(field, &at)?)?);
        }
        attribute::G => {
            let at = at.field("g");
            slot!(Graphs).push(subgraph(limits, &at, reader.message(field, &at)?)?);
        }
        attribute::GRAPHS => {
            let list = slot!(Graphs);
            let at = at.item("graphs", list.len());
            list.push(subgraph(limits, &at, reader.message(field, &at)?)?);
        }
        attribute::SPARSE_TENSOR | attribute::SPARSE_TENSORS => {
            let list = slot!(SparseTensors);
            let at = at.item("sparse_tensors", list.len());
            list.push(tensor::sparse(limits, &at, reader.message(field, &at)?)?);
        }
        attribute::TP | attribute::TYPE_PROTOS => *value = Some(Value::Type),
        _ => {}
    }
    Ok(ControlFlow::Continue(()))
}

fn value_info(limits: &Limits<'_>, at: &At<'_>, message: Slice<'_>) -> Result<ValueInfo> {
    let mut value = ValueInfo { name: String::new(), data_type: None, dims: None };
    let mut reader = Reader::new(limits, at, message);
    while let Some(field) = reader.next()? {
        match field.number {
            value_info::NAME => value.name = reader.once_text(&field, "name")?,
            value_info::TYPE => {
                let at = at.field("type");
                let mut reader = Reader::new(limits, &at, reader.once_message(&field, "type")?);
                while let Some(field) = reader.next()? {
                    if field.number == types::TENSOR {
                        tensor_type(limits, &at.field("tensor_type"), reader.once_message(&field, "tensor_type")?, &mut value)?;
                    }
                }
            }
            _ => {}
        }
    }
    Ok(value)
}

fn tensor_type(limits: &Limits<'_>, at: &At<'_>, message: Slice<'_>, value: &mut ValueInfo) -> Result<()> {
    let mut reader = Reader::new(limits, at, message);
    while let Some(field) = reader.next()? {
        match field.number {
            types::TENSOR_ELEM_TYPE => {
                value.data_type = Some(DataType(reader.once_int(&field, "elem_type")? as i32));
            }
            types::TENSOR_SHAPE => {
                let at = at.field("shape");
                let mut reader = Reader::new(limits, &at, reader.once_message(&field, "shape")?);
                let dims = value.dims.insert(Vec::new());
                while let Some(field) = reader.next()? {
                    if field.number == types::SHAPE_DIM {
                        let at = at.item("dim", dims.len());
                        dims.push(dim(limits, &at, reader.message(&field, &at)?)?);
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn dim(limits: &Limits<'_>, at: &At<'_>, message: Slice<'_>) -> Result<Dim> {
    let mut dim = Dim::Unknown;
    let mut reader = Reader::new(limits, at, message);
    while let Some(field) = reader.next()? {
        match field.number {
            types::DIM_VALUE => dim = Dim::Fixed(reader.once_int(&field, "dim_value")?),
            types::DIM_PARAM => dim = Dim::Symbolic(reader.once_text(&field, "dim_param")?),
            _ => {}
        }
    }
    Ok(dim)
}

fn function(limits: &Limits<'_>, at: &At<'_>, message: Slice<'_>) -> Result<Function> {
    let mut function = Function::default();
    let mut reader = Reader::new(limits, at, message);
    while let Some(field) = reader.next()? {
        match field.number {
            function::NAME => function.name = reader.once_text(&field, "name")?,
            function::DOMAIN => function.domain = reader.once_text(&field, "domain")?,
            function::NODE => {
                let at = at.item("node", function.nodes.len());
                function.nodes.push(self::node(limits, &at, reader.message(&field, &at)?)?);
            }
            function::ATTRIBUTE_PROTO => {
                let at = at.item("attribute_proto", function.attributes.len());
                function.attributes.push(self::attribute(limits, &at, reader.message(&field, &at)?)?);
            }
            _ => {}
        }
    }
    Ok(function)
}

fn training_info(limits: &Limits<'_>, at: &At<'_>, message: Slice<'_>) -> Result<Vec<Subgraph>> {
    let mut graphs = Vec::new();
    let mut reader = Reader::new(limits, at, message);
    while let Some(field) = reader.next()? {
        let name = match field.number {
            training::INITIALIZATION => "initialization",
            training::ALGORITHM => "algorithm",
            _ => continue,
        };
        graphs.push(subgraph(limits, &at.field(name), reader.once_message(&field, name)?)?);
    }
    Ok(graphs)
}

fn opset_import(limits: &Limits<'_>, at: &At<'_>, message: Slice<'_>) -> Result<OpsetImport> {
    let mut import = OpsetImport::default();
    let mut reader = Reader::new(limits, at, message);
    while let Some(field) = reader.next()? {
        match field.number {
            opset::DOMAIN => import.domain = reader.once_text(&field, "domain")?,
            opset::VERSION => import.version = reader.once_int(&field, "version")?,
            _ => {}
        }
    }
    Ok(import)
}

fn string_entry(limits: &Limits<'_>, at: &At<'_>, message: Slice<'_>) -> Result<(String, String)> {
    let (mut key, mut value) = (String::new(), String::new());
    let mut reader = Reader::new(limits, at, message);
    while let Some(field) = reader.next()? {
        match field.number {
            entry::KEY => key = reader.once_text(&field, "key")?,
            entry::VALUE => value = reader.once_text(&field, "value")?,
            _ => {}
        }
    }
    Ok((key, value))
}
