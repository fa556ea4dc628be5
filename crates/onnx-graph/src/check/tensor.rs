//! Checks that a tensor's data has the size of its shape and type.

use super::external::Files;
use crate::error::{At, Error, Result};
use crate::graph::{DataType, Tensor, TensorData};

/// Checks one tensor; without `files` it may not be external.
pub(super) fn check(file: &str, at: &At<'_>, tensor: &Tensor, files: Option<&mut Files>) -> Result<()> {
    let n_elements = tensor.n_elements().ok_or_else(|| {
        Error::bad_field(
            file,
            at.field("dims"),
            format!("{:?} is not a shape: a dim is negative or the size overflows", tensor.dims),
        )
    })?;
    if tensor.data_type == DataType::STRING {
        return check_strings(file, at, tensor, n_elements);
    }
    let n_bytes = match (tensor.data_type.bits(), tensor.n_bytes()) {
        (None, _) => return Err(Error::bad_field(file, at.field("data_type"), format!("`{}` is unknown", tensor.data_type.0))),
        (_, None) => return Err(Error::bad_field(file, at.field("dims"), format!("{:?} takes too many bytes", tensor.dims))),
        (_, Some(n_bytes)) => n_bytes,
    };
    match &tensor.data {
        TensorData::Inline(range) if range.len() as u64 != n_bytes => {
            let problem = format!("has {} bytes, and {} takes {n_bytes}", range.len(), shape(tensor));
            Err(Error::bad_field(file, at.field("raw_data"), problem))
        }
        TensorData::Inline(_) => Ok(()),
        TensorData::List { field, n_entries } => check_list(file, at, tensor, field, *n_entries as u64),
        TensorData::External(external) => match files {
            Some(files) => files.check(file, at, external, n_bytes, &shape(tensor)),
            None => Err(Error::bad_field(file, at.field("data_location"), "a sparse tensor with external data is not supported")),
        },
    }
}

/// Checks the entries of a typed list: one per element, except that a complex number takes two, and elements smaller than a byte share
/// one.
fn check_list(file: &str, at: &At<'_>, tensor: &Tensor, field: &'static str, n_entries: u64) -> Result<()> {
    let n_elements = tensor.n_elements().unwrap_or(u64::MAX);
    let expected = match tensor.data_type.0 {
        14 | 15 => n_elements.saturating_mul(2),
        _ if tensor.data_type.bits() < Some(8) => tensor.n_bytes().unwrap_or(u64::MAX),
        _ => n_elements,
    };
    if n_entries == expected {
        return Ok(());
    }
    Err(Error::bad_field(file, at.field(field), format!("has {n_entries} entries, and {} takes {expected}", shape(tensor))))
}

fn check_strings(file: &str, at: &At<'_>, tensor: &Tensor, n_elements: u64) -> Result<()> {
    match &tensor.data {
        TensorData::List { field, n_entries }
            if *n_entries as u64 == n_elements && (*field == "string_data" || n_elements == 0) =>
        {
            Ok(())
        }
        _ => Err(Error::bad_field(file, at.field("string_data"), format!("{} takes {n_elements} strings", shape(tensor)))),
    }
}

fn shape(tensor: &Tensor) -> String {
    format!("{} {:?}", tensor.data_type, tensor.dims)
}
