//! Writes an adapter in the form of ONNX Runtime.

use std::path::Path;

use super::super::found::transposed;
use super::super::{Adapter, refuse_replaced, write};
use super::tables::{FLOAT, FLOAT16, MAX_BYTES, Parameter, Parameters};
use crate::error::{Error, Result};
use crate::primitives::DType;

/// Writes `adapter` to the file `target`, which must not exist, for graphs with inputs of `dtype`: f32 or f16. Parameters are called after
/// modules, as Olive's and our own graphs call their inputs.
///
/// The format has no scales: they are multiplied into `B`, which is exact for powers of two and is rounded to `dtype` elsewhere.
///
/// # Errors
/// [`Error::BadFile`] when it cannot be written, [`Error::Unsupported`] for an adapter that replaces tensors, has magnitudes or is larger
/// than 2 GB, and for another dtype; [`Error::BadField`] with a module whose factors are beyond the range of f16.
pub fn write_onnx_adapter(adapter: &Adapter, target: &Path, dtype: DType) -> Result<()> {
    const FORM: &str = "`.onnx_adapter`";
    refuse_replaced(adapter, FORM)?;
    let refuse = |reason: String| Error::Unsupported {
        what: format!("the adapter `{}` in the form of {FORM}", adapter.name()),
        reason,
        hint: Some("merge it into a checkpoint, or write it in the form of PEFT".into()),
    };
    if let Some(factors) = adapter.factors().iter().find(|factors| factors.magnitude.is_some()) {
        return Err(refuse(format!("`{}` has magnitudes (DoRA), and a graph adds factors only", factors.module)));
    }
    let (data_type, width) = match dtype {
        DType::F32 => (FLOAT, 4),
        DType::F16 => (FLOAT16, 2),
        other => return Err(refuse(format!("f32 and f16 are written, not {other}"))),
    };
    let n_bytes: usize =
        adapter.bytes() / 4 * width + adapter.factors().iter().map(|factors| 2 * factors.module.len() + 256).sum::<usize>();
    if n_bytes > MAX_BYTES {
        return Err(refuse(format!("it would take {n_bytes} bytes, and a file can have {MAX_BYTES}")));
    }
    let mut stored = Vec::new();
    for factors in adapter.factors() {
        let (rank, inputs, outputs) = (factors.rank, factors.inputs(), factors.outputs());
        let scaled: Vec<f32> = factors.b.iter().map(|value| (f64::from(*value) * f64::from(factors.scale)) as f32).collect();
        for (which, rows, columns, values) in [("A", rank, inputs, &factors.a), ("B", outputs, rank, &scaled)] {
            let bytes = bytes(&transposed(values, rows, columns), dtype);
            let bytes = bytes.ok_or_else(|| {
                Error::bad_field(adapter.name(), &factors.module, format!("a value is beyond the range of {dtype}"))
            })?;
            stored.push((format!("{}.lora_{which}.weight", factors.module), vec![columns as i64, rows as i64], bytes));
        }
    }
    let parameters: Vec<Parameter<'_>> =
        stored.iter().map(|(name, dims, bytes)| Parameter { name, dims: dims.clone(), data_type, bytes }).collect();
    write::file(target, &Parameters::to_bytes(&parameters))
}

/// The values as they are stored; `None` where one is beyond the dtype's range.
fn bytes(values: &[f32], dtype: DType) -> Option<Vec<u8>> {
    if dtype == DType::F32 {
        return values
            .iter()
            .all(|value| value.is_finite())
            .then(|| values.iter().flat_map(|value| value.to_le_bytes()).collect());
    }
    let halves: Vec<half::f16> = values.iter().map(|value| half::f16::from_f32(*value)).collect();
    halves.iter().all(|value| value.is_finite()).then(|| halves.iter().flat_map(|value| value.to_le_bytes()).collect())
}
