//! From messages to bytes, for the parts of a graph that are written anew.

use crate::graph::{Attribute, AttributeValue, DataType, Dim, ExternalData, Node, ValueInfo};
use crate::schema::{attribute, entry, node, opset, tensor, types, value_info};
use crate::wire::{put_bytes, put_float, put_int};

/// The data of a tensor that is written.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Data<'a> {
    /// Little-endian elements.
    Raw(&'a [u8]),
    /// A place in another file.
    External(&'a ExternalData),
}

/// A `NodeProto`. Attributes that hold tensors or graphs are not written: what is built here keeps constants as initializers.
pub(crate) fn node(node: &Node) -> Vec<u8> {
    let mut out = Vec::new();
    node.inputs.iter().for_each(|input| put_bytes(&mut out, node::INPUT, input));
    node.outputs.iter().for_each(|output| put_bytes(&mut out, node::OUTPUT, output));
    put_bytes(&mut out, node::NAME, &node.name);
    put_bytes(&mut out, node::OP_TYPE, &node.op_type);
    node.attributes.iter().for_each(|value| put_bytes(&mut out, node::ATTRIBUTE, self::attribute(value)));
    if !node.domain.is_empty() {
        put_bytes(&mut out, node::DOMAIN, &node.domain);
    }
    out
}

/// An `AttributeProto` of a number, a text or a list of numbers.
pub(crate) fn attribute(attribute: &Attribute) -> Vec<u8> {
    let mut out = Vec::new();
    put_bytes(&mut out, attribute::NAME, &attribute.name);
    let kind = match &attribute.value {
        AttributeValue::Float(value) => {
            put_float(&mut out, attribute::F, *value);
            attribute::TYPE_FLOAT
        }
        AttributeValue::Int(value) => {
            put_int(&mut out, attribute::I, *value);
            attribute::TYPE_INT
        }
        AttributeValue::Text(value) => {
            put_bytes(&mut out, attribute::S, value);
            attribute::TYPE_STRING
        }
        AttributeValue::Ints(values) => {
            values.iter().for_each(|value| put_int(&mut out, attribute::INTS, *value));
            attribute::TYPE_INTS
        }
        _ => return out,
    };
    put_int(&mut out, attribute::TYPE, kind);
    out
}

/// A `TensorProto`.
pub(crate) fn tensor(name: &str, data_type: DataType, dims: &[i64], data: Data<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    dims.iter().for_each(|dim| put_int(&mut out, tensor::DIMS, *dim));
    put_int(&mut out, tensor::DATA_TYPE, data_type.0.into());
    put_bytes(&mut out, tensor::NAME, name);
    match data {
        Data::Raw(bytes) => put_bytes(&mut out, tensor::RAW_DATA, bytes),
        Data::External(external) => {
            put_bytes(&mut out, tensor::EXTERNAL_DATA, string_entry("location", &external.location));
            put_bytes(&mut out, tensor::EXTERNAL_DATA, string_entry("offset", &external.offset.to_string()));
            if let Some(length) = external.length {
                put_bytes(&mut out, tensor::EXTERNAL_DATA, string_entry("length", &length.to_string()));
            }
            put_int(&mut out, tensor::DATA_LOCATION, 1);
        }
    }
    out
}

/// A `ValueInfoProto` of a tensor.
pub(crate) fn value_info(value: &ValueInfo) -> Vec<u8> {
    let mut tensor_type = Vec::new();
    if let Some(data_type) = value.data_type {
        put_int(&mut tensor_type, types::TENSOR_ELEM_TYPE, data_type.0.into());
    }
    if let Some(dims) = &value.dims {
        let mut shape = Vec::new();
        dims.iter().for_each(|dim| put_bytes(&mut shape, types::SHAPE_DIM, self::dim(dim)));
        put_bytes(&mut tensor_type, types::TENSOR_SHAPE, shape);
    }
    let mut type_proto = Vec::new();
    put_bytes(&mut type_proto, types::TENSOR, tensor_type);
    let mut out = Vec::new();
    put_bytes(&mut out, value_info::NAME, &value.name);
    put_bytes(&mut out, value_info::TYPE, type_proto);
    out
}

/// A `StringStringEntryProto`.
pub(crate) fn string_entry(key: &str, value: &str) -> Vec<u8> {
    let mut out = Vec::new();
    put_bytes(&mut out, entry::KEY, key);
    put_bytes(&mut out, entry::VALUE, value);
    out
}

/// An `OperatorSetIdProto`.
pub(crate) fn opset_import(domain: &str, version: i64) -> Vec<u8> {
    let mut out = Vec::new();
    put_bytes(&mut out, opset::DOMAIN, domain);
    put_int(&mut out, opset::VERSION, version);
    out
}

/// A `TensorShapeProto.Dimension`.
pub(crate) fn dim(dim: &Dim) -> Vec<u8> {
    let mut out = Vec::new();
    match dim {
        Dim::Fixed(value) => put_int(&mut out, types::DIM_VALUE, *value),
        Dim::Symbolic(name) => put_bytes(&mut out, types::DIM_PARAM, name),
        Dim::Unknown => {}
    }
    out
}
