//! Any bytes are a safetensors file or an error, never a panic, and a weight that is described lies within them:
//! `cargo +nightly fuzz run safetensors`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tandem_core::DType;
use tandem_core::checkpoint::Checkpoint;

fuzz_target!(|bytes: &[u8]| {
    let Ok(checkpoint) = Checkpoint::parse(bytes.to_vec().into(), "fuzzed.safetensors") else { return };
    let mut sum = 0;
    for name in checkpoint.names() {
        let Ok(tensor) = checkpoint.tensor(name) else { continue };
        let width = if tensor.dtype == DType::F32 { 4 } else { 2 };
        assert_eq!(tensor.bytes.len(), tensor.shape.iter().product::<usize>() * width);
        sum += tensor.bytes.len() as u64;
    }
    assert!(sum <= checkpoint.n_bytes() && checkpoint.n_bytes() <= bytes.len() as u64);
});
