//! Decodes tensors: names, shapes and locations, never the data.

use super::super::tensor::{DataType, ExternalData, SparseTensor, Tensor, TensorData};
use super::reader::{Limits, Reader};
use super::string_entry;
use crate::error::{At, Error, Result};
use crate::schema::{sparse, tensor};
use crate::wire::{Field, Slice};

/// The fields of a `TensorProto` that hold or locate the data.
#[derive(Default)]
struct DataFields {
    raw: Option<std::ops::Range<usize>>,
    list: Option<(&'static str, usize)>,
    external: Vec<(String, String)>,
    is_external: bool,
}

pub(super) fn tensor(limits: &Limits<'_>, at: &At<'_>, message: Slice<'_>) -> Result<Tensor> {
    let (mut name, mut dims, mut data_type, mut data) = (String::new(), Vec::new(), DataType(0), DataFields::default());
    let mut reader = Reader::new(limits, at, message);
    while let Some(field) = reader.next()? {
        match field.number {
            tensor::NAME => name = reader.once_text(&field, "name")?,
            tensor::DIMS => reader.ints(&field, &at.field("dims"), &mut dims)?,
            tensor::DATA_TYPE => data_type = DataType(reader.once_int(&field, "data_type")? as i32),
            tensor::RAW_DATA => data.raw = Some(reader.once_message(&field, "raw_data")?.range()),
            tensor::DATA_LOCATION => {
                let location = reader.once_int(&field, "data_location")?;
                if !(0..=1).contains(&location) {
                    return Err(Error::bad_field(limits.file, at.field("data_location"), format!("`{location}` is unknown")));
                }
                data.is_external = location == 1;
            }
            tensor::EXTERNAL_DATA => {
                let at = at.item("external_data", data.external.len());
                data.external.push(string_entry(limits, &at, reader.message(&field, &at)?)?);
            }
            tensor::SEGMENT => {
                return Err(Error::bad_field(limits.file, at.field("segment"), "a tensor in segments is not supported"));
            }
            _ => data_list(limits, at, &reader, &field, &mut data)?,
        }
    }
    let data = data.resolve(limits, at)?;
    Ok(Tensor { name, dims, data_type, data, range: message.range() })
}

pub(super) fn sparse(limits: &Limits<'_>, at: &At<'_>, message: Slice<'_>) -> Result<SparseTensor> {
    let mut sparse = SparseTensor { values: None, indices: None };
    let mut reader = Reader::new(limits, at, message);
    while let Some(field) = reader.next()? {
        let (name, part) = match field.number {
            sparse::VALUES => ("values", &mut sparse.values),
            sparse::INDICES => ("indices", &mut sparse.indices),
            _ => continue,
        };
        *part = Some(tensor(limits, &at.field(name), reader.once_message(&field, name)?)?);
    }
    Ok(sparse)
}

fn data_list(limits: &Limits<'_>, at: &At<'_>, reader: &Reader<'_, '_>, field: &Field<'_>, data: &mut DataFields) -> Result<()> {
    let (name, width) = match field.number {
        tensor::FLOAT_DATA => ("float_data", Some(4)),
        tensor::DOUBLE_DATA => ("double_data", Some(8)),
        tensor::INT32_DATA => ("int32_data", None),
        tensor::INT64_DATA => ("int64_data", None),
        tensor::UINT64_DATA => ("uint64_data", None),
        tensor::STRING_DATA => ("string_data", None),
        _ => return Ok(()),
    };
    let at = at.field(name);
    let n_entries = match field.number {
        tensor::STRING_DATA => reader.message(field, &at).map(|_| 1)?,
        _ => reader.count_entries(field, &at, width)?,
    };
    let (listed, total) = data.list.get_or_insert((name, 0));
    if *listed != name {
        return Err(Error::bad_field(limits.file, at, format!("the tensor also has data in `{listed}`")));
    }
    *total += n_entries;
    Ok(())
}

impl DataFields {
    /// The location of the data. A tensor with two is refused, since readers differ in which one they use.
    fn resolve(self, limits: &Limits<'_>, at: &At<'_>) -> Result<TensorData> {
        let refuse = |field: &'static str, problem: &str| Err(Error::bad_field(limits.file, at.field(field), problem));
        match (self.is_external, self.raw, self.list) {
            (true, None, None) => Ok(TensorData::External(external(limits, at, self.external)?)),
            (true, ..) => refuse("data_location", "the data is both external and in the file"),
            (false, ..) if !self.external.is_empty() => {
                refuse("external_data", "the data is external, but `data_location` says that it is in the file")
            }
            (false, Some(_), Some(_)) => refuse("raw_data", "the tensor also has data in a typed list"),
            (false, Some(range), None) => Ok(TensorData::Inline(range)),
            (false, None, Some((field, n_entries))) => Ok(TensorData::List { field, n_entries }),
            (false, None, None) => Ok(TensorData::List { field: "raw_data", n_entries: 0 }),
        }
    }
}

/// The entries with known keys. A key that appears twice is refused; unknown keys are ignored.
fn external(limits: &Limits<'_>, at: &At<'_>, entries: Vec<(String, String)>) -> Result<ExternalData> {
    let at = at.field("external_data");
    let (mut location, mut offset, mut length) = (None, None, None);
    for (key, value) in entries {
        let slot = match key.as_str() {
            "location" => &mut location,
            "offset" => &mut offset,
            "length" => &mut length,
            _ => continue,
        };
        if slot.replace(value).is_some() {
            return Err(Error::bad_field(limits.file, at, format!("the key `{key}` appears twice")));
        }
    }
    let number = |name, value: Option<String>| {
        let parsed = value.as_deref().map(str::parse::<u64>).transpose();
        let value = value.unwrap_or_default();
        parsed.map_err(|_| Error::bad_field(limits.file, at.field(name), format!("`{value}` is not a number of bytes")))
    };
    let location = location.ok_or_else(|| Error::bad_field(limits.file, at.field("location"), "is missing"))?;
    Ok(ExternalData { location, offset: number("offset", offset)?.unwrap_or(0), length: number("length", length)? })
}
