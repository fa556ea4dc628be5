//! In what keys and values are held: in what the graph declares, or in what is requested where all its attention is Tandem's own.

use tandem_core::backend::{Kernels, KvDType, LoadOptions};
use tandem_core::named::Named;
use tandem_core::{BackendKind, DType, Error, Remedy, Result};
use tandem_onnx_graph::{DataType, Graph};

use crate::operators::kernels_for;

/// In what keys and values are held in `graph`, which generates, or in the one that is built of a checkpoint; `dtype` is that of the weights.
///
/// # Errors
/// [`Error::Unsupported`] when `options` request something else.
pub(crate) fn held_dtype(graph: Option<&Graph>, dtype: DType, options: &LoadOptions) -> Result<DType> {
    let is_own = kernels_for(options)? == Kernels::Tandem;
    let held = match graph {
        Some(graph) if is_own => held_by_own(graph, dtype, options),
        Some(graph) => declared(graph).unwrap_or(DType::F32),
        // Graphs that are built attend with the operator that ours stands in for.
        None if dtype == DType::F16 => DType::F16,
        None if is_own => chosen(dtype, options),
        None => DType::F32,
    };
    match options.kv_dtype {
        Some(requested) if requested.dtype() != held => Err(refused(requested, held, is_own)),
        _ => Ok(held),
    }
}

/// In what keys and values of `graph` are held with Tandem's kernels.
pub(crate) fn held_by_own(graph: &Graph, dtype: DType, options: &LoadOptions) -> DType {
    match declared(graph) {
        Some(DType::F32) if graph.can_hold_f16() => chosen(dtype, options),
        Some(declared) => declared,
        None => DType::F32,
    }
}

/// What is requested, or suits weights in `dtype`.
fn chosen(dtype: DType, options: &LoadOptions) -> DType {
    options.kv_dtype.unwrap_or(KvDType::by_default(dtype, options.numerics)).dtype()
}

fn refused(requested: KvDType, held: DType, is_own: bool) -> Error {
    let candle = Remedy::UseBackend(BackendKind::Candle);
    let hint = match KvDType::ALL.iter().find(|own| own.dtype() == held) {
        Some(&own) => [Remedy::UseKvDType(own), candle].into(),
        None => candle.into(),
    };
    let reason = match is_own {
        true => format!("the graph has attention that Tandem's kernels do not know, with keys and values of `{held}`"),
        false => format!("ONNX Runtime's kernels take keys and values as the graph declares them, in `{held}`"),
    };
    Error::Unsupported { what: format!("a KV cache of `{requested}`"), reason, hint: Some(hint) }
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
