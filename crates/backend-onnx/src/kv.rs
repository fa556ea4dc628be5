//! In what a graph holds keys and values: its own types decide.

use tandem_core::backend::{KvDType, LoadOptions};
use tandem_core::named::Named;
use tandem_core::{BackendKind, DType, Error, Remedy, Result};
use tandem_onnx_graph::{DataType, Graph};

use crate::source::OpenedSource;

/// In what the graph of `source` holds keys and values; `dtype` is that of its weights.
///
/// # Errors
/// [`Error::Unsupported`] when `options` ask for something else.
pub(crate) fn held_dtype(source: &OpenedSource, dtype: DType, options: &LoadOptions) -> Result<DType> {
    let held = match source {
        OpenedSource::Graph(opened) => declared(&opened.graph).unwrap_or(DType::F32),
        OpenedSource::Export if dtype == DType::F16 => DType::F16,
        OpenedSource::Export => DType::F32,
    };
    match options.kv_dtype {
        Some(requested) if requested.dtype() != held => {
            let candle = Remedy::UseBackend(BackendKind::Candle);
            let hint = match KvDType::ALL.iter().find(|own| own.dtype() == held) {
                Some(&own) => [Remedy::UseKvDType(own), candle].into(),
                None => candle.into(),
            };
            Err(Error::Unsupported {
                what: format!("a KV cache of `{requested}`"),
                reason: format!("the graph computes attention with keys and values of `{held}`"),
                hint: Some(hint),
            })
        }
        _ => Ok(held),
    }
}

/// The type of the pasts among the inputs; `None` where there are none of floats.
fn declared(graph: &Graph) -> Option<DType> {
    match graph.inputs().find(|input| input.name.starts_with("past"))?.data_type? {
        DataType::FLOAT => Some(DType::F32),
        DataType::FLOAT16 => Some(DType::F16),
        DataType::BFLOAT16 => Some(DType::Bf16),
        _ => None,
    }
}
