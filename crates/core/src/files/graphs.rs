//! ONNX graphs: what their names declare, and which one a dtype stands for.
//!
//! The suffixes are those of transformers.js (`dtypes.js`), which the onnx-community repositories follow, and the names of
//! Tandem's own dtypes.

use super::{GraphFile, ModelFile, ModelFiles, SkippedFile};
use crate::error::{Error, Result};
use crate::primitives::DType;

/// `model<suffix>.onnx` and the dtype of its weights. Among graphs of one dtype the first in this list is taken: for int4 those
/// with f32 activations, since f16 activations are slow on the CPU.
const SUFFIXES: [(&str, Option<DType>); 18] = [
    ("", None),
    ("_f32", Some(DType::F32)),
    ("_fp32", Some(DType::F32)),
    ("_f16", Some(DType::F16)),
    ("_fp16", Some(DType::F16)),
    ("_bf16", Some(DType::Bf16)),
    ("_int8", Some(DType::Int8)),
    ("_q8", Some(DType::Int8)),
    ("_quantized", Some(DType::Int8)),
    ("_uint8", Some(DType::Int8)),
    ("_int4", Some(DType::Int4)),
    ("_q4", Some(DType::Int4)),
    ("_uint4", Some(DType::Int4)),
    ("_bnb4", Some(DType::Int4)),
    ("_q4f16", Some(DType::Int4)),
    ("_int4f16", Some(DType::Int4)),
    ("_bnb4f16", Some(DType::Int4)),
    // fastembed's, of any dtype.
    ("_optimized", None),
];

const TWO_FILES: &str = "it is half of an older export in two files, which keeps no KV cache of its own";
const MERGED: &str = "it is an older export that merges two graphs behind an `If`";
const FEW_BITS: &str = "weights of fewer than 4 bits are not supported";
const UNKNOWN: &str = "its name declares neither a decoder nor a dtype that is known";

impl ModelFiles {
    /// The graph whose weights are of `dtype`, as its name declares; with `None` the most precise there is.
    ///
    /// A bare `model.onnx` counts as f32, but beside a `genai_config.json`, where its name says nothing.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when there is none of that dtype, with those there are.
    pub fn graph_for(&self, dtype: Option<DType>) -> Result<&GraphFile> {
        let fits = |graph: &&GraphFile| dtype.is_none() || self.dtype_of(graph) == dtype;
        self.graphs.iter().filter(fits).min_by_key(|graph| rank(graph)).ok_or_else(|| self.no_graph(dtype))
    }

    /// The dtype that a graph's name stands for among these files; `None` when it takes a look inside to tell.
    pub fn dtype_of(&self, graph: &GraphFile) -> Option<DType> {
        let is_plain = self.genai_config.is_none() && graph.file.file_name() == "model.onnx";
        graph.dtype.or(is_plain.then_some(DType::F32))
    }

    pub(super) fn no_graph(&self, dtype: Option<DType>) -> Error {
        let names = self.graphs.iter().map(|graph| match self.dtype_of(graph) {
            Some(dtype) => format!("`{}` ({dtype})", graph.file.file_name()),
            None => format!("`{}` (dtype not declared)", graph.file.file_name()),
        });
        let names: Vec<String> = names.collect();
        let skipped: Vec<String> =
            self.skipped.iter().map(|file| format!("`{}`: {}", file.file.file_name(), file.reason)).collect();
        let wanted = dtype.map_or_else(|| "an ONNX graph".into(), |dtype| format!("dtype `{dtype}`"));
        Error::Unsupported {
            what: format!("{wanted} of `{}`", self.name),
            reason: match (names.is_empty(), skipped.is_empty()) {
                (false, _) => format!("the graphs there are: {}", names.join(", ")),
                (true, false) => format!("no graph can be used; {}", skipped.join("; ")),
                (true, true) => "it has no ONNX graph".into(),
            },
            hint: match (names.is_empty(), self.weights.is_empty()) {
                (false, true) => Some("choose one of these dtypes, or leave the dtype out".into()),
                (false, false) => Some("choose one of these dtypes, or export the checkpoint at this dtype".into()),
                (true, false) => Some("export the checkpoint to ONNX first".into()),
                (true, true) => Some("obtain the checkpoint with its safetensors, or a newer export".into()),
            },
        }
    }
}

/// Divides ONNX files into graphs, the most precise first, and those that are not used.
pub(super) fn sort_out(files: impl IntoIterator<Item = ModelFile>) -> (Vec<GraphFile>, Vec<SkippedFile>) {
    let (mut graphs, mut skipped) = (Vec::new(), Vec::new());
    for file in files {
        match declared(file.file_name()) {
            Ok(dtype) => graphs.push(GraphFile { file, dtype }),
            Err(reason) => skipped.push(SkippedFile { file, reason: reason.into() }),
        }
    }
    graphs.sort_by_key(rank);
    (graphs, skipped)
}

/// The dtype that a graph's name declares, or why the file cannot be used.
pub(super) fn declared(file_name: &str) -> Result<Option<DType>, &'static str> {
    let stem = file_name.strip_suffix(".onnx").unwrap_or(file_name);
    if let Some((_, dtype)) = suffix(stem) {
        return Ok(dtype);
    }
    Err(match stem {
        _ if stem.starts_with("decoder_model_merged") => MERGED,
        _ if stem.starts_with("decoder_with_past_model") || stem.starts_with("decoder_model") => TWO_FILES,
        "model_q1" | "model_q1f16" | "model_q2" | "model_q2f16" => FEW_BITS,
        _ => UNKNOWN,
    })
}

/// Whether the file is one of the layouts that cannot be loaded, however it was asked for.
pub(super) fn refused(file_name: &str) -> Option<&'static str> {
    declared(file_name).err().filter(|reason| *reason != UNKNOWN)
}

/// Where a graph stands in the order of preference; names that declare nothing come last.
fn rank(graph: &GraphFile) -> usize {
    let stem = graph.file.file_name().strip_suffix(".onnx").unwrap_or_default();
    suffix(stem).map_or(SUFFIXES.len(), |(rank, _)| rank)
}

fn suffix(stem: &str) -> Option<(usize, Option<DType>)> {
    let suffix = stem.strip_prefix("model")?;
    let rank = SUFFIXES.iter().position(|(known, _)| *known == suffix)?;
    Some((rank, SUFFIXES[rank].1))
}
