//! Any bytes are an adapter or an error, never a panic, and an adapter is not larger than its file allows:
//! `cargo +nightly fuzz run adapter`. The first byte chooses the format, and a line break ends the settings.
//! The goldens are seeds: `(printf '\3\n'; cat goldens/adapters/llama3-all-linear/gguf-q8_0/adapter.gguf) > crates/core/fuzz/corpus/adapter/q8_0`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tandem_core::adapter::{AdapterFiles, AdapterFormat};
use tandem_core::files::ModelFile;

const FORMATS: [AdapterFormat; 4] = [AdapterFormat::Peft, AdapterFormat::Mlx, AdapterFormat::OnnxAdapter, AdapterFormat::Gguf];

fuzz_target!(|bytes: &[u8]| {
    let Some((&format, rest)) = bytes.split_first() else { return };
    let format = FORMATS[usize::from(format) % FORMATS.len()];
    let end = rest.iter().position(|byte| *byte == b'\n').unwrap_or(0);
    let (config, weights) = rest.split_at(end);
    let weights = weights.strip_prefix(b"\n").unwrap_or(weights);
    let file = |name| ModelFile::Embedded { name, bytes: &[] };
    let files = AdapterFiles { name: "fuzzed".into(), format, weights: file("weights"), config: Some(file("config")) };
    let Ok(adapter) = files.parse(weights.to_vec().into(), config, None) else { return };
    for factors in adapter.factors() {
        assert_eq!((factors.a.len(), factors.b.len()), (factors.rank * factors.inputs(), factors.rank * factors.outputs()));
    }
    // Two bytes become four, in blocks of 8 bits 34 bytes 128, and nothing is counted twice but what overlaps in a flatbuffer, which its verifier bounds.
    assert!(adapter.bytes() <= 4 * weights.len() + (1 << 17));
});
