//! The weights of a GGUF file, without a second rounding where our kernels can represent them.
//!
//! Types of 4 bits become 4-bit blocks, and types of 5 or 8 bits become 8-bit blocks, with the integers and scales of the file. Types with
//! a minimum keep it as an offset of each block: a small matrix that is multiplied with the sums of inputs. Only Q6_K is quantised again,
//! to 8 bits, since its scales cover 16 values. Projections that share a matrix take the widest form among them.

mod blocks;

use std::collections::BTreeMap;

use rayon::prelude::*;
use tandem_core::arena::Arena;
use tandem_core::backend::{LoadOptions, Numerics, WeightType};
use tandem_core::config::ModelConfig;
use tandem_core::gguf::{Gguf, GgufTensor, TensorType};
use tandem_core::{DType, Error, Remedy, Result};
use tandem_kernels::matrix::{Matrix, Stored};
use tandem_kernels::quantize::{BLOCK, Bits};

use self::blocks::{Target, has_offsets};
use crate::weights::{self, LoadedDecoder, WeightSource, copy_halves};

/// Reads the weights of `gguf`, whose configuration is `config`, at the requested dtype, or as they are stored if none is requested.
///
/// # Errors
/// Those of [`Gguf::check_weights`]; [`Error::Unsupported`] for a dtype that would quantise weights a second time.
pub(crate) fn load(gguf: &Gguf, config: &ModelConfig, options: &LoadOptions) -> Result<LoadedDecoder> {
    gguf.check_weights(config)?;
    let stored = stored_dtype(gguf)?;
    let floats = match options.dtype {
        None => Floats::AsStored,
        Some(dtype) if dtype == stored => Floats::AsStored,
        Some(DType::F32) => Floats::All,
        Some(DType::Int8) if stored == DType::F32 => Floats::Quantized(Bits::Eight),
        Some(DType::Int4) if stored == DType::F32 => Floats::Quantized(Bits::Four),
        Some(dtype) => {
            return Err(Error::Unsupported {
                what: format!("dtype `{dtype}` for the GGUF file `{}`", gguf.file()),
                reason: format!("its weights are `{stored}`, and would be quantised a second time"),
                hint: Some([Remedy::Text(format!("omit the dtype for `{stored}`")), Remedy::UseDType(vec![DType::F32])].into()),
            });
        }
    };
    let interleaved = gguf.has_interleaved_heads()?.then_some(config.head_dim());
    let weights = GgufSource { gguf, floats, numerics: options.numerics, arena: Arena::default(), interleaved };
    let decoder = weights::decoder(&weights, config)?;
    Ok(LoadedDecoder { decoder, dtype: options.dtype.unwrap_or(stored), weight_types: weights.types() })
}

/// The dtype of most weights in matrices. f16 and bf16 count as f32.
pub(crate) fn stored_dtype(gguf: &Gguf) -> Result<DType> {
    let mut n_values: BTreeMap<&str, (usize, DType)> = BTreeMap::new();
    for (name, kind) in gguf.tensors() {
        let tensor = gguf.tensor(name)?;
        if tensor.shape.len() > 1 {
            let dtype = match kind.dtype() {
                DType::F16 | DType::Bf16 => DType::F32,
                dtype => dtype,
            };
            let key = if dtype == DType::F32 {
                "f32"
            } else if dtype == DType::Int8 {
                "int8"
            } else {
                "int4"
            };
            n_values.entry(key).or_insert((0, dtype)).0 += tensor.shape.iter().product::<usize>();
        }
    }
    Ok(n_values.into_values().max_by_key(|(n, _)| *n).map_or(DType::F32, |(_, dtype)| dtype))
}

/// How weights are converted.
#[derive(Clone, Copy, PartialEq)]
enum Floats {
    /// Floats and blocks stay what they are.
    AsStored,
    /// Everything becomes floats.
    All,
    /// Floats are quantised.
    Quantized(Bits),
}

/// The file as a source of weights.
struct GgufSource<'g> {
    gguf: &'g Gguf,
    floats: Floats,
    numerics: Numerics,
    arena: Arena,
    /// The width of a head, if the rows of queries and keys are interleaved as llama.cpp writes them.
    interleaved: Option<usize>,
}

/// A tensor and the order of its rows.
struct Part<'g> {
    tensor: GgufTensor<'g>,
    /// The width of a head, if its rows are interleaved.
    interleaved: Option<usize>,
}

impl Part<'_> {
    /// The row of the file that is row `row` of the published weight: the two halves of a head follow each other there, and alternate in
    /// the file.
    fn row(&self, row: usize) -> usize {
        let Some(head_dim) = self.interleaved else { return row };
        let (head, within) = (row / head_dim, row % head_dim);
        let (half, pair) = (within / (head_dim / 2), within % (head_dim / 2));
        head * head_dim + 2 * pair + half
    }

    fn row_bytes(&self, row: usize, columns: usize) -> &[u8] {
        let size = columns / self.tensor.kind.block_values() * self.tensor.kind.block_bytes();
        &self.tensor.bytes[self.row(row) * size..][..size]
    }
}

impl WeightSource for GgufSource<'_> {
    fn contains(&self, name: &str) -> bool {
        Gguf::name_of(name).is_some_and(|name| self.gguf.contains(&name))
    }

    fn matrix(&self, parts: &[(String, usize)], columns: usize) -> Result<Matrix> {
        let parts = self.parts(parts, &[columns])?;
        let rows = parts.iter().map(|part| part.tensor.shape[0]).sum();
        let Some(bits) = self.bits(&parts) else {
            let first = parts[0].tensor.kind;
            let alike = parts.iter().all(|part| part.tensor.kind == first);
            let dtype = if alike { first.dtype() } else { DType::F32 };
            let halves = |out: &mut [u16]| {
                self.each_row(&parts, columns, out.par_chunks_mut(columns), |_, bytes, out| copy_halves(bytes, out));
            };
            let floats = |out: &mut [f32]| self.each_row(&parts, columns, out.par_chunks_mut(columns), blocks::floats);
            let stored = Stored::floats(dtype, &self.arena, rows * columns, halves, floats);
            self.gguf.release();
            return Ok(Matrix::new(stored, rows, columns, self.numerics));
        };
        if !columns.is_multiple_of(BLOCK) {
            return Err(Error::Unsupported {
                what: format!("quantising `{}`", self.gguf.file()),
                reason: format!("a matrix has rows of {columns} weights, which is not a multiple of {BLOCK}"),
                hint: Some(Remedy::UseDType(vec![DType::F32]).into()),
            });
        }
        let (row_blocks, row_bytes) = (columns / BLOCK, columns / BLOCK * bits.block_bytes());
        let (mut codes, mut scales) = (self.arena.zeros(rows * row_bytes), self.arena.zeros(rows * row_blocks));
        let mut offsets =
            self.arena.zeros(if parts.iter().any(|part| has_offsets(part.tensor.kind)) { rows * row_blocks } else { 0 });
        // Rows of a matrix without offsets get empty slices.
        let row_offsets = if offsets.is_empty() { 0 } else { row_blocks };
        let mut targets: Vec<Target<'_>> = Vec::with_capacity(rows);
        let mut offsets_left = &mut *offsets;
        for (codes, scales) in codes.chunks_mut(row_bytes).zip(scales.chunks_mut(row_blocks)) {
            let own;
            (own, offsets_left) = offsets_left.split_at_mut(row_offsets);
            targets.push(Target { bits, codes, scales, offsets: own });
        }
        self.each_row(&parts, columns, targets.into_par_iter(), blocks::quantized);
        self.gguf.release();
        let matrix = Matrix::new(Stored::Blocks { bits, codes, scales }, rows, columns, self.numerics);
        Ok(if offsets.is_empty() { matrix } else { matrix.with_offsets(offsets) })
    }

    fn vector(&self, parts: &[(String, usize)]) -> Result<Vec<f32>> {
        let mut values = Vec::new();
        for part in self.parts(parts, &[])? {
            let mut stored = vec![0.0; part.tensor.shape[0]];
            blocks::floats(part.tensor.kind, part.tensor.bytes, &mut stored);
            values.extend((0..stored.len()).map(|row| stored[part.row(row)]));
        }
        Ok(values)
    }
}

impl GgufSource<'_> {
    /// The tensors of the published names, checked to have the shapes `[rows, inner...]`.
    fn parts(&self, parts: &[(String, usize)], inner: &[usize]) -> Result<Vec<Part<'_>>> {
        let part = |(published, rows): &(String, usize)| {
            let name = Gguf::name_of(published).unwrap_or_else(|| published.clone());
            let tensor = self.gguf.tensor(&name)?;
            let shape = [&[*rows], inner].concat();
            if tensor.shape != shape {
                let problem = format!("the tensor is {:?}, but the metadata makes it {shape:?}, rows first", tensor.shape);
                return Err(Error::bad_field(self.gguf.file(), name, problem));
            }
            let rotated = [".q_proj.", ".k_proj."].iter().any(|projection| published.contains(projection));
            Ok(Part { tensor, interleaved: self.interleaved.filter(|_| rotated) })
        };
        parts.iter().map(part).collect()
    }

    /// The bits of a matrix of `parts`; `None` for floats.
    fn bits(&self, parts: &[Part<'_>]) -> Option<Bits> {
        let mut widest = Bits::Four;
        for part in parts {
            let bits = match (bits_of(part.tensor.kind), self.floats) {
                (Some(bits), Floats::AsStored | Floats::Quantized(_)) => bits,
                (None, Floats::Quantized(bits)) => bits,
                (None, Floats::AsStored) | (_, Floats::All) => return None,
            };
            if bits == Bits::Eight {
                widest = Bits::Eight;
            }
        }
        Some(widest)
    }

    /// Calls `read` with each row of the file and its target.
    fn each_row<T: Send>(
        &self,
        parts: &[Part<'_>],
        columns: usize,
        targets: impl IndexedParallelIterator<Item = T>,
        read: impl Fn(TensorType, &[u8], T) + Sync,
    ) {
        let firsts: Vec<usize> = parts
            .iter()
            .scan(0, |next, part| {
                *next += part.tensor.shape[0];
                Some(*next)
            })
            .collect();
        targets.enumerate().for_each(|(row, target)| {
            let index = firsts.partition_point(|end| *end <= row);
            let part = &parts[index];
            let own = row - (firsts[index] - part.tensor.shape[0]);
            read(part.tensor.kind, part.row_bytes(own, columns), target);
        });
    }

    /// The stored types with their number of tensors, and what they run as.
    fn types(&self) -> Vec<WeightType> {
        let mut counts: BTreeMap<TensorType, usize> = BTreeMap::new();
        for (_, kind) in self.gguf.tensors() {
            *counts.entry(kind).or_default() += 1;
        }
        let runs_as = |kind| match (self.floats, bits_of(kind)) {
            (Floats::All, _) | (Floats::AsStored, None) => "f32".to_owned(),
            (Floats::Quantized(Bits::Eight), None) => "int8, vectors f32".to_owned(),
            (Floats::Quantized(Bits::Four), None) => "int4, vectors f32".to_owned(),
            (_, Some(bits)) => {
                let bits = if bits == Bits::Eight { "int8" } else { "int4" };
                let offsets = if has_offsets(kind) { " with offsets" } else { "" };
                let again = if kind == TensorType::Q6K { ", quantised again" } else { "" };
                format!("{bits}{offsets}{again}")
            }
        };
        let of =
            |(kind, n_tensors): (TensorType, usize)| WeightType { stored: kind.to_string(), runs_as: runs_as(kind), n_tensors };
        counts.into_iter().map(of).collect()
    }
}

/// The bits that the integers of a type need; `None` for floats.
fn bits_of(kind: TensorType) -> Option<Bits> {
    match kind.dtype() {
        DType::Int4 => Some(Bits::Four),
        DType::Int8 => Some(Bits::Eight),
        _ => None,
    }
}
