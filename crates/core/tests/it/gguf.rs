//! GGUF headers: what is read of a good one, and every way in which one can lie.

mod header;
mod model;
mod vocabularies;

use tandem_core::Error;
use tandem_core::conformance::GgufWriter;
use tandem_core::gguf::{Gguf, TensorType};

/// A file with a few keys and two tensors, from which others are made.
fn small() -> GgufWriter {
    let mut writer = GgufWriter::default();
    writer.string("general.architecture", "qwen2");
    writer.u32("qwen2.block_count", 1);
    writer.tensor("token_embd.weight", &[4, 8], TensorType::F32, vec![0; 4 * 8 * 4]);
    writer.tensor("output_norm.weight", &[8], TensorType::F32, vec![0; 8 * 4]);
    writer
}

fn parse(bytes: Vec<u8>) -> Result<Gguf, Error> {
    Gguf::parse(bytes.into(), "x.gguf")
}
