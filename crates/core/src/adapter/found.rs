//! The factors that a file holds, collected module by module and checked when all are there: what every format does alike.

use std::collections::BTreeMap;

use super::LowRankFactors;
use crate::checkpoint::StoredTensor;
use crate::error::{Error, Result};
use crate::primitives::DType;

/// The highest rank that is read. Ranks beyond the width of the weight that they change are a full update at a higher price.
pub(super) const MAX_RANK: usize = 1 << 14;

/// The most modules that an adapter is read with; the largest published models have some thousands.
pub(super) const MAX_MODULES: usize = 1 << 16;

/// How many names a message lists.
const MAX_LISTED: usize = 5;

/// Factors by module.
pub(super) struct Found<'f> {
    file: &'f str,
    modules: BTreeMap<String, Parts>,
    unknown: Vec<String>,
}

/// A matrix of values, row-major.
pub(super) struct Matrix {
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) values: Vec<f32>,
}

/// What a tensor is to its module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// `[rank, inputs]`
    A,
    /// `[outputs, rank]`
    B,
}

#[derive(Default)]
struct Parts {
    a: Option<Matrix>,
    b: Option<Matrix>,
    magnitude: Option<Vec<f32>>,
}

impl Matrix {
    /// The values of `tensor`, called `name` in `file`.
    ///
    /// # Errors
    /// [`Error::BadField`] for another number of dimensions, an empty one, and a value that is not finite.
    pub(super) fn read(file: &str, name: &str, tensor: &StoredTensor<'_>) -> Result<Self> {
        Self::of(file, name, tensor.shape, || values(file, name, tensor))
    }

    /// A matrix of `shape` with the values that `read` gives, as many as that has.
    ///
    /// # Errors
    /// As [`read`](Self::read), and those of `read`.
    pub(super) fn of(file: &str, name: &str, shape: &[usize], read: impl FnOnce() -> Result<Vec<f32>>) -> Result<Self> {
        let [rows, columns] = *shape else {
            return Err(Error::bad_field(file, name, format!("is of shape {shape:?}, and a factor has two dimensions")));
        };
        if rows == 0 || columns == 0 {
            let hint = "it was saved from a part of a distributed model: gather its parameters, and save it again";
            return Err(Error::bad_field(file, name, format!("is {rows} x {columns}, and so empty")).with_hint(hint));
        }
        Ok(Self { rows, columns, values: read()? })
    }

    /// Rows and columns exchanged.
    pub(super) fn transposed(self) -> Self {
        let Self { rows, columns, values } = self;
        Self { rows: columns, columns: rows, values: transposed(&values, rows, columns) }
    }
}

impl<'f> Found<'f> {
    pub(super) fn new(file: &'f str) -> Self {
        Self { file, modules: BTreeMap::new(), unknown: Vec::new() }
    }

    /// Adds a factor, `[rank, inputs]` or `[outputs, rank]`, from the tensor called `name`.
    pub(super) fn add(&mut self, module: &str, role: Role, name: &str, matrix: Matrix) -> Result<()> {
        let parts = self.module(module, name)?;
        let place = if role == Role::A { &mut parts.a } else { &mut parts.b };
        match place.replace(matrix) {
            None => Ok(()),
            Some(_) => Err(Error::bad_field(self.file, name, "the adapter has this factor twice, under two names")),
        }
    }

    /// Adds the lengths of the rows of an adapted weight, from the tensor called `name`.
    pub(super) fn add_magnitude(&mut self, module: &str, name: &str, tensor: &StoredTensor<'_>) -> Result<()> {
        let [_] = tensor.shape else {
            return Err(Error::bad_field(self.file, name, format!("is of shape {:?}, and magnitudes are a list", tensor.shape)));
        };
        let values = values(self.file, name, tensor)?;
        match self.module(module, name)?.magnitude.replace(values) {
            None => Ok(()),
            Some(_) => Err(Error::bad_field(self.file, name, "the adapter has these magnitudes twice, under two names")),
        }
    }

    /// Remembers a tensor that is not known.
    pub(super) fn add_unknown(&mut self, name: &str) {
        self.unknown.push(name.into());
    }

    /// The modules' names, in their order.
    pub(super) fn modules(&self) -> impl Iterator<Item = &str> {
        self.modules.keys().map(String::as_str)
    }

    /// All factors, with the scale that `scale` gives for a module and its rank; modules in the order of their names.
    ///
    /// # Errors
    /// [`Error::Unsupported`] with unknown tensors, [`Error::BadField`] for a factor without the other and for two that do not have one
    /// rank; those of `scale`.
    pub(super) fn finish(self, mut scale: impl FnMut(&str, usize) -> Result<f64>) -> Result<Vec<LowRankFactors>> {
        refuse_unknown(self.file, self.unknown)?;
        let file = self.file;
        let factors = self.modules.into_iter().map(|(module, Parts { a, b, magnitude })| {
            let bad = |problem: String| Error::bad_field(file, &module, problem);
            let lacks = |which: &str| bad(format!("factor {which} of this module is missing, and the other is there"));
            let (a, b) = match (a, b) {
                (Some(a), Some(b)) => (a, b),
                (None, Some(_)) => return Err(lacks("A")),
                (Some(_), None) => return Err(lacks("B")),
                (None, None) => return Err(bad("has magnitudes and no factors".into())),
            };
            let rank = a.rows;
            if rank != b.columns {
                let sizes =
                    format!("A is {rank} x {} (rank x inputs) and B {} x {} (outputs x rank)", a.columns, b.rows, b.columns);
                return Err(bad(format!("the factors do not have one rank: {sizes}")));
            }
            if rank > MAX_RANK {
                return Err(bad(format!("the factors have rank {rank}, beyond the {MAX_RANK} that are read")));
            }
            let scale = scale(&module, rank)? as f32;
            if !scale.is_finite() {
                return Err(bad(format!("the scale of its factors is {scale}")));
            }
            Ok(LowRankFactors { module, a: a.values, b: b.values, rank, scale, magnitude })
        });
        factors.collect()
    }

    fn module(&mut self, module: &str, name: &str) -> Result<&mut Parts> {
        if module.is_empty() {
            return Err(Error::bad_field(self.file, name, "belongs to no module"));
        }
        if self.modules.len() >= MAX_MODULES && !self.modules.contains_key(module) {
            return Err(Error::bad_field(self.file, name, format!("the adapter changes more than {MAX_MODULES} modules")));
        }
        Ok(self.modules.entry(module.into()).or_default())
    }
}

/// The error for tensors that are neither factors nor anything else that is known.
fn refuse_unknown(file: &str, mut unknown: Vec<String>) -> Result<()> {
    if unknown.is_empty() {
        return Ok(());
    }
    unknown.sort_unstable();
    let listed: Vec<String> = unknown.iter().take(MAX_LISTED).map(|name| format!("`{name}`")).collect();
    let others = match unknown.len().saturating_sub(MAX_LISTED) {
        0 => String::new(),
        n => format!(" and {n} others"),
    };
    Err(Error::Unsupported {
        what: format!("the tensors {}{others} of `{file}`", listed.join(", ")),
        reason: "they are not factors of a low-rank adapter, and without them it would be another one".into(),
        hint: Some("merge the adapter with the tool that trained it, and use the merged checkpoint".into()),
    })
}

/// `[rows, columns]` as `[columns, rows]`.
pub(super) fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let mut turned = Vec::with_capacity(values.len());
    for column in 0..columns {
        turned.extend((0..rows).map(|row| values[row * columns + column]));
    }
    turned
}

/// The values of a tensor, all finite.
pub(super) fn values(file: &str, name: &str, tensor: &StoredTensor<'_>) -> Result<Vec<f32>> {
    if !matches!(tensor.dtype, DType::F32 | DType::F16 | DType::Bf16) {
        return Err(Error::bad_field(file, name, format!("is {}; f32, f16 or bf16 is what it can be", tensor.dtype)));
    }
    finite(file, name, tensor.to_f32())
}

/// `values` of the tensor called `name`, none of which is infinite or NaN.
pub(super) fn finite(file: &str, name: &str, values: Vec<f32>) -> Result<Vec<f32>> {
    match values.iter().position(|value| !value.is_finite()) {
        None => Ok(values),
        Some(i) => Err(Error::bad_field(file, name, format!("value {i} is {}", values[i]))),
    }
}
