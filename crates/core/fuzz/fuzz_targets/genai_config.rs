//! Any bytes are a configuration or an error, never a panic: `cargo +nightly fuzz run genai_config`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tandem_core::config::{GenerationConfig, ModelConfig};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(config) = ModelConfig::from_json("genai_config.json", bytes) {
        assert!(config.n_heads.is_multiple_of(config.n_kv_heads) && config.head_dim().is_multiple_of(2));
    }
    let _ = GenerationConfig::from_json("genai_config.json", bytes);
});
