//! The peer of benchmarks: candle-transformers' models give the logits of our decoder, or are refused.

use tandem_backend_candle::load_transformers;
use tandem_core::conformance::describe;
use tandem_core::files::ModelFiles;
use tandem_core::{DType, Device, Error, LoadOptions, LogitsRequest, Model, SessionOptions};

use crate::{golden, load};

#[test]
fn peer_matches_our_decoder_and_rewinds_to_nothing() {
    for name in ["qwen2-tied", "qwen3"] {
        let files = ModelFiles::discover(&golden(name), name).unwrap();
        let peer = load_transformers(&files, &LoadOptions::default()).unwrap();
        let ours = load(&golden(name), &LoadOptions::default()).unwrap();
        assert!(peer.info().engine_version.starts_with("candle-transformers"));
        let logits = |model: &dyn Model| {
            let mut session = model.new_session(&SessionOptions::default()).unwrap();
            session.append(&[1, 2, 3], LogitsRequest::Last(1)).unwrap();
            session.rewind(0).unwrap();
            session.append(&[5, 6, 7, 8], LogitsRequest::None).unwrap();
            session.append(&[9], LogitsRequest::Last(1)).unwrap()
        };
        let (theirs, ours) = (logits(&*peer), logits(&*ours));
        let scale = ours.values().iter().fold(0.0_f32, |max, value| max.max(value.abs()));
        for (theirs, ours) in theirs.values().iter().zip(ours.values()) {
            assert!((theirs - ours).abs() <= 2e-5 * scale, "{name}: {theirs} {ours}");
        }
    }
}

#[test]
fn peer_refuses_other_families_devices_and_dtypes() {
    for (name, options, expected) in [
        ("gemma3", LoadOptions::default(), "gemma3"),
        ("qwen3", LoadOptions::new().with_dtype(DType::Int8), "f32"),
        ("qwen3", LoadOptions::new().with_device(Device::Cuda(0)), "processor"),
    ] {
        let files = ModelFiles::discover(&golden(name), name).unwrap();
        let Err(error) = load_transformers(&files, &options) else { panic!("{name} is refused") };
        assert!(matches!(error, Error::Unsupported { .. }) && describe(&error).contains(expected), "{}", describe(&error));
    }
}
