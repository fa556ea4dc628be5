//! Any bytes are a GGUF file or an error, never a panic, and a tensor that is described lies within them: `cargo +nightly fuzz run gguf`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tandem_core::gguf::{Gguf, GgufPart};

fuzz_target!(|bytes: &[u8]| {
    let Ok(gguf) = Gguf::parse(bytes.to_vec().into(), "fuzzed.gguf") else { return };
    for (name, kind) in gguf.tensors() {
        let tensor = gguf.tensor(name).expect("every tensor that is listed is there");
        let values: usize = tensor.shape.iter().product();
        assert_eq!(tensor.bytes.len(), values / kind.block_values() * kind.block_bytes());
    }
    for part in [GgufPart::Config, GgufPart::Tokenizer, GgufPart::TokenizerConfig] {
        let _ = gguf.part(part);
    }
    if let Ok(config) = gguf.config() {
        let _ = gguf.check_weights(&config);
        assert_eq!(config.rope.inv_freq(config.head_dim()).len(), config.head_dim() / 2);
    }
});
