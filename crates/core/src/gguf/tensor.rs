//! Descriptions of tensors, and where their bytes lie.

use std::collections::HashMap;
use std::ops::Range;

use super::reader::{Reader, shown};
use super::types::TensorType;
use crate::error::{Error, Result};

/// The longest name that llama.cpp writes, in bytes.
const MAX_NAME: usize = 63;

/// GGML's limit.
const MAX_DIMENSIONS: u32 = 4;

/// A tensor as the header describes it.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) kind: TensorType,
    /// The rows first.
    pub(super) shape: Vec<usize>,
    /// Its bytes; until [`place`] has moved it, from the beginning of the data.
    pub(super) range: Range<usize>,
}

impl Entry {
    /// Reads the next description: name, dimensions, type, offset.
    pub(super) fn read(reader: &mut Reader<'_>, alignment: u64) -> Result<(String, Self)> {
        let name = name(reader)?;
        let what = format!("the description of tensor `{name}`");
        let file = reader.file();
        let n_dimensions = reader.u32(&what)?;
        if !(1..=MAX_DIMENSIONS).contains(&n_dimensions) {
            return Err(Error::bad_field(
                file,
                &name,
                format!("the tensor has {n_dimensions} dimensions, not 1 to {MAX_DIMENSIONS}"),
            ));
        }
        let dimensions = (0..n_dimensions).map(|_| reader.u64(&what)).collect::<Result<Vec<_>>>()?;
        let number = reader.u32(&what)?;
        let offset = reader.u64(&what)?;
        let bad = |problem: String| Error::bad_field(file, &name, problem);
        if !offset.is_multiple_of(alignment) {
            return Err(bad(format!("the tensor's offset {offset} is not a multiple of the alignment {alignment}")));
        }
        let kind = TensorType::from_number(number).map_err(|known| match known {
            Some(known) => not_read(file, &name, known),
            None => bad(format!("the tensor is of type {number}, which GGML does not define")),
        })?;
        let n_bytes = n_bytes(kind, &dimensions).map_err(bad)?;
        let end = offset.checked_add(n_bytes).and_then(|end| usize::try_from(end).ok());
        let end = end.ok_or_else(|| bad(format!("the tensor's offset {offset} is beyond any file")))?;
        let shape = dimensions.iter().rev().map(|n| *n as usize).collect();
        Ok((name, Self { kind, shape, range: offset as usize..end }))
    }
}

/// Moves every tensor to where the data begins, `start`, and checks that all lie within the file and apart.
pub(super) fn place(tensors: &mut HashMap<String, Entry>, start: u64, file_bytes: usize, file: &str) -> Result<()> {
    let available = file_bytes.saturating_sub(usize::try_from(start).unwrap_or(usize::MAX));
    let mut in_order: Vec<(&String, &mut Entry)> = tensors.iter_mut().collect();
    in_order.sort_by(|(left, a), (right, b)| (a.range.start, left).cmp(&(b.range.start, right)));
    let mut before: Option<(&String, usize)> = None;
    for (name, entry) in in_order {
        let Range { start: first, end } = entry.range;
        if end > available {
            return Err(Error::BadField {
                file: file.into(),
                field: name.clone(),
                problem: format!("the tensor lies from byte {first} to {end} of the data, of which there are {available}"),
                hint: Some("the file is damaged, or its download was cut short: obtain it again".into()),
            });
        }
        if let Some((other, other_end)) = before
            && other_end > first
        {
            return Err(Error::bad_field(file, name, format!("the tensor lies over `{other}`")));
        }
        before = Some((name, end));
        entry.range = start as usize + first..start as usize + end;
    }
    Ok(())
}

fn name(reader: &mut Reader<'_>) -> Result<String> {
    let range = reader.string("the name of a tensor")?;
    let bytes = reader.bytes(range);
    let problem = match bytes.len() {
        0 => "the name of a tensor is empty",
        n if n > MAX_NAME => "the name of a tensor is longer than 63 bytes",
        _ if !bytes.iter().all(u8::is_ascii_graphic) => "the name of a tensor is not made of printable ASCII",
        _ => return Ok(String::from_utf8_lossy(bytes).into_owned()),
    };
    Err(Error::bad_field(reader.file(), shown(bytes), problem))
}

/// The size of a tensor of `dimensions`, the row's width first, in bytes.
fn n_bytes(kind: TensorType, dimensions: &[u64]) -> Result<u64, String> {
    let values = dimensions.iter().try_fold(1_u64, |product, n| product.checked_mul(*n));
    // GGML counts in numbers with a sign.
    let values = values.filter(|n| i64::try_from(*n).is_ok());
    let Some(values) = values else { return Err(format!("the tensor's dimensions {dimensions:?} multiply beyond 64 bits")) };
    if values == 0 {
        return Err(format!("the tensor has a dimension of 0: {dimensions:?}"));
    }
    let block = kind.block_values() as u64;
    if !dimensions[0].is_multiple_of(block) {
        return Err(format!("the tensor's rows of {} values are not whole blocks of {block}, which {kind} has", dimensions[0]));
    }
    let bytes = (values / block).checked_mul(kind.block_bytes() as u64);
    bytes.ok_or_else(|| format!("the tensor's dimensions {dimensions:?} are beyond any file"))
}

fn not_read(file: &str, name: &str, known: &str) -> Error {
    let read = TensorType::ALL.map(|kind| kind.to_string()).join(", ");
    Error::Unsupported {
        what: format!("the type {known} of tensor `{name}` in `{file}`"),
        reason: format!("tensors of {read} are read"),
        hint: Some("obtain the model as Q4_K_M, Q8_0 or Q4_0, or its safetensors".into()),
    }
}
