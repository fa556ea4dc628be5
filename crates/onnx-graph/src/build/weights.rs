//! Weights as a checkpoint stores them, and their conversion to the types and layouts of a graph.

use std::borrow::Cow;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::WeightSource;
use crate::error::{Error, Result};
use crate::graph::DataType;

/// One weight of a checkpoint.
#[derive(Clone, Debug)]
pub struct Weight<'w> {
    /// The elements' type.
    pub kind: WeightType,
    /// `[outputs, inputs]`, or `[size]` for a bias or a norm.
    pub shape: Vec<usize>,
    /// The elements, row-major and little-endian, in any alignment.
    pub bytes: Cow<'w, [u8]>,
}

/// The element types of checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightType {
    /// 32-bit float.
    F32,
    /// 16-bit float of IEEE 754.
    F16,
    /// 16-bit float with the exponent of a 32-bit one.
    Bf16,
}

/// Called before each part of long work; an error ends it.
pub(super) type GoOn<'g> = dyn Fn() -> Result<()> + Sync + 'g;

/// The type of the floats that a graph computes with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FloatType {
    F32,
    F16,
}

impl WeightType {
    pub(super) fn data_type(self) -> DataType {
        match self {
            Self::F32 => DataType::FLOAT,
            Self::F16 => DataType::FLOAT16,
            Self::Bf16 => DataType::BFLOAT16,
        }
    }

    fn n_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
}

impl Weight<'_> {
    /// The elements from `start` on, as many as `out` holds, as 32-bit floats; widening is exact.
    pub(super) fn widen(&self, start: usize, out: &mut [f32]) {
        let width = self.kind.n_bytes();
        let bytes = &self.bytes[start * width..(start + out.len()) * width];
        match self.kind {
            WeightType::F32 => {
                for (value, bytes) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                    *value = f32::from_le_bytes(*bytes);
                }
            }
            WeightType::Bf16 => {
                for (value, bytes) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    *value = bf16::from_le_bytes(*bytes).to_f32();
                }
            }
            WeightType::F16 => {
                let halves: Vec<f16> = bytes.as_chunks::<2>().0.iter().map(|bytes| f16::from_le_bytes(*bytes)).collect();
                halves.convert_to_f32_slice(out);
            }
        }
    }
}

/// Reads a weight and checks that it has the shape of the specification.
pub(super) fn read<'w>(model: &str, source: &mut WeightSource<'_, 'w>, name: &str, shape: &[usize]) -> Result<Weight<'w>> {
    let weight = source(name).map_err(|source| Error::Weight { model: model.into(), name: name.into(), source })?;
    if weight.shape != shape {
        let problem = format!("has the shape {:?} and not {shape:?}", weight.shape);
        return Err(Error::bad_field(model, name, problem).with_hint("do config.json and the weights match?"));
    }
    let n_bytes = shape.iter().product::<usize>() * weight.kind.n_bytes();
    if weight.bytes.len() != n_bytes {
        return Err(Error::bad_field(model, name, format!("has {} bytes and not {n_bytes}", weight.bytes.len())));
    }
    Ok(weight)
}

/// Stacked `[outputs, inputs]` weights as one `[inputs, outputs of all]` matrix of floats, which `MatMul` multiplies by.
pub(super) fn transpose(weights: &[Weight<'_>], n_inputs: usize, float: FloatType, go_on: &GoOn<'_>) -> Result<Vec<u8>> {
    /// Rows that are read before their columns are written: one cache line of the output.
    const TILE: usize = 16;
    let width = float.n_bytes();
    let n_outputs: usize = weights.iter().map(|weight| weight.shape[0]).sum();
    let mut out = vec![0; n_inputs * n_outputs * width];
    let mut rows = vec![0.0; TILE * n_inputs];
    let mut column = 0;
    for weight in weights {
        for first in (0..weight.shape[0]).step_by(TILE) {
            go_on()?;
            let n_rows = TILE.min(weight.shape[0] - first);
            let rows = &mut rows[..n_rows * n_inputs];
            weight.widen(first * n_inputs, rows);
            for (input, line) in out.chunks_exact_mut(n_outputs * width).enumerate() {
                let columns = line[column * width..(column + n_rows) * width].chunks_exact_mut(width);
                columns.enumerate().for_each(|(row, bytes)| float.write(rows[row * n_inputs + input], bytes));
            }
            column += n_rows;
        }
    }
    Ok(out)
}

/// Weights one above the other: as they are where all are of the type `kind`, otherwise as floats of 32 bits.
pub(super) fn stack(weights: &[Weight<'_>], kind: WeightType, go_on: &GoOn<'_>) -> Result<Vec<u8>> {
    if weights.iter().any(|weight| weight.kind != kind) {
        return concatenate(weights, FloatType::F32, go_on);
    }
    let mut out = Vec::with_capacity(weights.iter().map(|weight| weight.bytes.len()).sum());
    for weight in weights {
        go_on()?;
        out.extend_from_slice(&weight.bytes);
    }
    Ok(out)
}

/// All elements of the weights, concatenated.
pub(super) fn concatenate(weights: &[Weight<'_>], float: FloatType, go_on: &GoOn<'_>) -> Result<Vec<u8>> {
    /// Elements that are widened at a time.
    const PART: usize = 4096;
    let n_elements = |weight: &Weight<'_>| weight.shape.iter().product::<usize>();
    let mut out = Vec::with_capacity(weights.iter().map(n_elements).sum::<usize>() * float.n_bytes());
    let mut part = [0.0; PART];
    for weight in weights {
        let n_elements = n_elements(weight);
        for first in (0..n_elements).step_by(PART) {
            go_on()?;
            let part = &mut part[..PART.min(n_elements - first)];
            weight.widen(first, part);
            out.extend_from_slice(&float.to_bytes(part));
        }
    }
    Ok(out)
}

impl FloatType {
    pub(super) fn data_type(self) -> DataType {
        match self {
            Self::F32 => DataType::FLOAT,
            Self::F16 => DataType::FLOAT16,
        }
    }

    /// Little-endian bytes.
    pub(super) fn to_bytes(self, values: &[f32]) -> Vec<u8> {
        let mut out = vec![0; values.len() * self.n_bytes()];
        out.chunks_exact_mut(self.n_bytes()).zip(values).for_each(|(bytes, value)| self.write(*value, bytes));
        out
    }

    fn n_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
        }
    }

    fn write(self, value: f32, bytes: &mut [u8]) {
        match self {
            Self::F32 => bytes.copy_from_slice(&value.to_le_bytes()),
            Self::F16 => bytes.copy_from_slice(&f16::from_f32(value).to_le_bytes()),
        }
    }
}
