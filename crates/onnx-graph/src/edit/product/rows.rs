//! Reads the weight of a product as floats, row by row: a row holds the weights of one output.

use std::borrow::Cow;
use std::fs::File;
use std::ops::Range;
use std::path::Path;

use half::{bf16, f16};

use super::super::{children, message};
use super::Product;
use super::weight::Weight;
use crate::check::resolve;
use crate::error::{At, Error, Result};
use crate::graph::{DataType, Graph, Tensor, TensorData, map};
use crate::schema::tensor;
use crate::wire::{Fields, Payload, varint};

/// Outputs that are read together where the weight is stored `[inputs, outputs]`: a cache line of floats.
const TILE: usize = 16;

/// The constants of a weight, as bytes.
enum Read<'g> {
    Floats { values: Numbers<'g>, has_rows: bool },
    Blocks { codes: Cow<'g, [u8]>, scales: Numbers<'g>, zeros: Option<Cow<'g, [u8]>>, bits: usize, block_size: usize },
    Integers { codes: Numbers<'g>, zeros: Option<Numbers<'g>>, scales: Numbers<'g>, has_rows: bool },
}

/// Elements of a tensor.
struct Numbers<'g> {
    bytes: Cow<'g, [u8]>,
    data_type: DataType,
}

impl Product<'_> {
    /// Calls `each` with the weights of one output after the other, `[n_inputs]`, for the `columns` of the result. External data is read
    /// from `directory`.
    ///
    /// # Errors
    /// When the weight is in a form that is only multiplied by, such as one with scales of blocks behind a `DequantizeLinear`, or does not have the size of its shape.
    pub fn for_each_row(&self, columns: Range<usize>, directory: Option<&Path>, each: &mut dyn FnMut(&[f32])) -> Result<()> {
        let read = self.read(directory)?;
        let mut tile = vec![0.0; TILE * self.n_inputs];
        for first in columns.clone().step_by(TILE) {
            let rows = first..columns.end.min(first + TILE);
            let tile = &mut tile[..rows.len() * self.n_inputs];
            read.fill(rows, self.n_outputs, tile);
            tile.chunks_exact(self.n_inputs).for_each(&mut *each);
        }
        Ok(())
    }

    fn read(&self, directory: Option<&Path>) -> Result<Read<'_>> {
        let (graph, size) = (self.graph, self.n_inputs.saturating_mul(self.n_outputs));
        let bytes = |tensor: &Tensor, size: usize| bytes(graph, tensor, size, directory);
        let numbers = |tensor: &Tensor, n: usize| {
            let width = tensor.data_type.bits().map_or(0, |bits| bits as usize / 8);
            Ok(Numbers { bytes: bytes(tensor, n.saturating_mul(width))?, data_type: tensor.data_type })
        };
        let each_or_one = |tensor: &Tensor| match tensor.n_elements() {
            Some(1) => numbers(tensor, 1),
            _ => numbers(tensor, self.n_outputs),
        };
        let refusal = |problem: &str| Error::bad_field(graph.file(), &self.name, problem);
        match &self.weight {
            Weight::Floats { tensor, has_rows } => Ok(Read::Floats { values: numbers(tensor, size)?, has_rows: *has_rows }),
            Weight::Blocks { codes, scales, zeros, bits, block_size } => {
                let n_blocks = self.n_inputs.div_ceil(*block_size);
                let zeros = zeros.map(|zeros| match zeros.data_type {
                    DataType::UINT8 => bytes(zeros, self.n_outputs * (n_blocks * bits).div_ceil(8)),
                    other => Err(refusal(&format!("its zero points are of type {other}, which is not read"))),
                });
                Ok(Read::Blocks {
                    codes: bytes(codes, self.n_outputs * n_blocks * (block_size * bits / 8))?,
                    scales: numbers(scales, self.n_outputs * n_blocks)?,
                    zeros: zeros.transpose()?,
                    bits: *bits,
                    block_size: *block_size,
                })
            }
            Weight::Integers { codes, zeros, scales: Some(scales), has_rows } => Ok(Read::Integers {
                codes: numbers(codes, size)?,
                zeros: zeros.map(each_or_one).transpose()?,
                scales: each_or_one(scales)?,
                has_rows: *has_rows,
            }),
            Weight::Integers { .. } | Weight::Other => Err(refusal("its weight is in a form that is not read")),
        }
    }
}

impl Read<'_> {
    /// Writes the weights of `outputs`, one row for each.
    fn fill(&self, outputs: Range<usize>, n_outputs: usize, rows: &mut [f32]) {
        let n_inputs = rows.len() / outputs.len();
        match self {
            Self::Floats { values, has_rows: true } => {
                let first = outputs.start * n_inputs;
                rows.iter_mut().enumerate().for_each(|(index, value)| *value = values.get(first + index));
            }
            Self::Floats { values, has_rows: false } => {
                for input in 0..n_inputs {
                    for (row, output) in outputs.clone().enumerate() {
                        rows[row * n_inputs + input] = values.get(input * n_outputs + output);
                    }
                }
            }
            Self::Integers { codes, zeros, scales, has_rows } => {
                for input in 0..n_inputs {
                    for (row, output) in outputs.clone().enumerate() {
                        let zero = zeros.as_ref().map_or(0.0, |zeros| zeros.of(output));
                        let index = if *has_rows { output * n_inputs + input } else { input * n_outputs + output };
                        rows[row * n_inputs + input] = (codes.get(index) - zero) * scales.of(output);
                    }
                }
            }
            Self::Blocks { codes, scales, zeros, bits, block_size } => {
                let n_blocks = n_inputs.div_ceil(*block_size);
                let (block_bytes, zero_bytes) = (block_size * bits / 8, (n_blocks * bits).div_ceil(8));
                for (row, output) in rows.chunks_exact_mut(n_inputs).zip(outputs) {
                    for (block, values) in row.chunks_mut(*block_size).enumerate() {
                        let codes = &codes[(output * n_blocks + block) * block_bytes..][..block_bytes];
                        let zero = match zeros {
                            Some(zeros) => code(&zeros[output * zero_bytes..][..zero_bytes], block, *bits),
                            None => (1 << (bits - 1)) as f32,
                        };
                        let scale = scales.get(output * n_blocks + block);
                        for (index, value) in values.iter_mut().enumerate() {
                            *value = (code(codes, index, *bits) - zero) * scale;
                        }
                    }
                }
            }
        }
    }
}

impl Numbers<'_> {
    fn get(&self, index: usize) -> f32 {
        let bytes = &self.bytes;
        let two = || [bytes[2 * index], bytes[2 * index + 1]];
        match self.data_type {
            DataType::UINT8 => f32::from(bytes[index]),
            DataType::INT8 => f32::from(bytes[index].cast_signed()),
            DataType::FLOAT16 => f16::from_le_bytes(two()).to_f32(),
            DataType::BFLOAT16 => bf16::from_le_bytes(two()).to_f32(),
            _ => bytes[4 * index..].first_chunk().map_or(f32::NAN, |bytes| f32::from_le_bytes(*bytes)),
        }
    }

    /// The element of an output, of one for each or one for all.
    fn of(&self, output: usize) -> f32 {
        let width = self.data_type.bits().map_or(1, |bits| bits as usize / 8);
        self.get(if self.bytes.len() == width { 0 } else { output })
    }
}

/// The code at `index` of packed ones, the lower half of a byte first.
fn code(codes: &[u8], index: usize, bits: usize) -> f32 {
    match bits {
        4 => f32::from(codes[index / 2] >> (4 * (index % 2)) & 15),
        _ => f32::from(codes[index]),
    }
}

/// The elements of a tensor in a typed list: floats in `float_data`, anything smaller in `int32_data`, a number for each.
fn listed(graph: &Graph, tensor: &Tensor) -> Vec<u8> {
    let width = tensor.data_type.bits().map_or(0, |bits| bits as usize / 8);
    let mut out = Vec::new();
    let mut integer = |value: u64| out.extend_from_slice(&value.to_le_bytes()[..width.min(8)]);
    if tensor.data_type == DataType::FLOAT {
        let floats = children(message(graph, &tensor.range), tensor::FLOAT_DATA);
        return floats.flat_map(|packed| packed.bytes.to_vec()).collect();
    }
    let mut fields = Fields::new(message(graph, &tensor.range));
    while let Ok(Some(field)) = fields.next() {
        match field.payload {
            Payload::Varint(value) if field.number == tensor::INT32_DATA => integer(value),
            Payload::Bytes(packed) if field.number == tensor::INT32_DATA => {
                let mut rest = packed.bytes;
                while let Ok((value, length)) = varint(rest) {
                    integer(value);
                    rest = &rest[length..];
                }
            }
            _ => {}
        }
    }
    out
}

/// The elements of a tensor, which must have `n_bytes`.
fn bytes<'g>(graph: &'g Graph, tensor: &Tensor, n_bytes: usize, directory: Option<&Path>) -> Result<Cow<'g, [u8]>> {
    let refuse = |problem: String| Err(Error::bad_field(graph.file(), &tensor.name, problem));
    let is_read = [DataType::FLOAT, DataType::FLOAT16, DataType::BFLOAT16, DataType::UINT8, DataType::INT8];
    if !is_read.contains(&tensor.data_type) {
        return refuse(format!("a weight of type {} is not read", tensor.data_type));
    }
    let bytes = match (&tensor.data, directory) {
        (TensorData::Inline(range), _) => Cow::Borrowed(graph.slice(range)),
        (TensorData::External(external), Some(directory)) => {
            let at: At<'_> = At::ROOT.field("external_data");
            let (path, _) = resolve(directory, &external.location)
                .map_err(|refusal| refusal.into_error(graph.file(), &at.field("location"), &external.location))?;
            let name = path.display().to_string();
            let file = File::open(&path).map_err(|source| Error::io(&name, "opened", source))?;
            let whole = map(&file).map_err(|source| Error::io(&name, "mapped", source))?;
            let from = usize::try_from(external.offset).unwrap_or(usize::MAX);
            let part = from.checked_add(n_bytes).and_then(|to| whole.get(from..to));
            Cow::Owned(part.unwrap_or_default().to_vec())
        }
        (TensorData::External(_), None) => return refuse("a weight is in another file, and there is none".into()),
        (TensorData::List { .. }, _) => Cow::Owned(listed(graph, tensor)),
    };
    match bytes.len() == n_bytes {
        true => Ok(bytes),
        false => refuse(format!("has {} bytes and not {n_bytes}", bytes.len())),
    }
}
