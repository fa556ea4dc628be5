//! Any bytes are a saved sequence or an error, never a panic, and it is not larger than its file allows: `cargo +nightly fuzz run saved`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tandem_core::backend::{DType, KvShape, KvState};
use tandem_core::saved::SavedSequence;

fuzz_target!(|bytes: &[u8]| {
    let Ok(saved) = SavedSequence::parse(bytes, "fuzzed.kv") else { return };
    // Two bytes become four.
    assert!(4 * saved.tokens().len() <= bytes.len() && saved.state().data.len() <= bytes.len() / 2);
    let KvShape { n_layers, .. } = saved.state().shape;
    let same = KvState::new(saved.state().shape, 0, saved.tokens().len(), DType::F32, saved.state().data.clone());
    assert!(n_layers > 0 && same.difference(saved.state()).is_none_or(|by| by == 0.0));
});
