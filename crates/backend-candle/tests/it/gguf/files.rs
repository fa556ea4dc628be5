//! Checkpoints and GGUF files to load.

use std::path::Path;

use candle_core::quantized::QTensor;
use candle_core::{Device, Tensor};
use half::{bf16, f16};
use tandem_core::conformance::GgufWriter;
use tandem_core::files::ModelFiles;
use tandem_core::gguf::TensorType;

use super::of_candle;
use crate::golden;

/// The golden checkpoint `name` with matrices of `kind`; vectors stay F32, as in llama.cpp's files.
pub(crate) fn golden_in(name: &str, kind: TensorType) -> GgufWriter {
    GgufWriter::of_checkpoint(&golden(name), &|_, shape, values| {
        let kind = if shape.len() > 1 { kind } else { TensorType::F32 };
        (kind, stored(kind, shape, values))
    })
}

/// Writes the file to Cargo's directory for tests and discovers it. Tests run in parallel, so each `name` has a file of its own, which is
/// replaced atomically.
pub(crate) fn model_files(writer: &GgufWriter, name: &str) -> ModelFiles {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("candle-gguf");
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join(format!("{name}.gguf"));
    let new = tempfile::NamedTempFile::new_in(&directory).unwrap();
    std::fs::write(new.path(), writer.to_bytes()).unwrap();
    new.persist(&path).unwrap();
    ModelFiles::discover(&path, name).unwrap()
}

/// `values` of `shape`, rows first, as bytes of `kind`: quantised by candle.
pub(crate) fn stored(kind: TensorType, shape: &[usize], values: &[f32]) -> Vec<u8> {
    match kind {
        TensorType::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        TensorType::F16 => values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect(),
        TensorType::Bf16 => values.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect(),
        _ => quantised(kind, shape, values).data().unwrap().into_owned(),
    }
}

/// The values after candle has quantised and dequantised them.
pub(crate) fn restored(kind: TensorType, shape: &[usize], values: &[f32]) -> Vec<f32> {
    if of_candle(kind).is_none() {
        return values.to_vec();
    }
    quantised(kind, shape, values).dequantize(&Device::Cpu).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn quantised(kind: TensorType, shape: &[usize], values: &[f32]) -> QTensor {
    let tensor = Tensor::from_slice(values, shape, &Device::Cpu).unwrap();
    QTensor::quantize(&tensor, of_candle(kind).unwrap()).unwrap()
}
