//! What loading does.

use super::{Fixture, cases};
use crate::backend::{Append, Capability, DType, KvDType, LoadOptions, Logits, LogitsRequest, SessionOptions, TokenBatch};
use crate::cancel::CancelToken;
use crate::error::{Error, Result};
use crate::files::{ModelFile, ModelFiles};
use crate::footprint::Workload;
use crate::named::Named;

/// The model says of itself what was asked for and what it is.
pub fn loaded_as_asked(fixture: &Fixture) {
    let model = fixture.load();
    let info = model.info();
    assert_eq!(info.backend, fixture.backend.kind());
    assert_eq!(info.device, fixture.options.device);
    assert_eq!(info.name, fixture.files.name);
    if let Some(dtype) = fixture.options.dtype {
        assert_eq!(info.dtype, dtype);
    }
    for (what, value) in [
        ("n_layers", info.n_layers),
        ("hidden_size", info.hidden_size),
        ("vocab_size", info.vocab_size),
        ("max_context", info.max_context),
        ("threads", info.threads),
    ] {
        assert!(value > 0, "{what} is known");
    }
    assert_eq!(
        info.kv_bytes_per_token > 0,
        info.capabilities.has(Capability::Generation),
        "a model that generates keeps keys and values"
    );
    assert!(!info.engine_version.is_empty());
}

/// Keys and values are held in the dtype that was asked for, and what cannot be had is refused with what can.
pub fn kv_dtype_is_as_asked(fixture: &Fixture) {
    let opened = |kv_dtype| {
        let options = LoadOptions { kv_dtype, ..fixture.options.clone() };
        fixture.backend.open(&fixture.files, &options)
    };
    let of = |kv_dtype| -> Result<_> {
        let opened = opened(kv_dtype)?;
        let workload = Workload { n_tokens: 64, context_length: opened.config().max_context.max(64) };
        let estimate: u64 = opened.footprint()?(&workload).running.iter().map(|part| part.bytes).sum();
        Ok((opened.load()?, estimate))
    };
    let (model, estimate) = of(None).unwrap();
    let info = model.info();
    let generates = info.capabilities.has(Capability::Generation);
    assert_eq!(info.kv_dtype.is_some(), generates, "a model that generates keeps keys and values");
    let mut n_granted = 0;
    for dtype in KvDType::ALL {
        match of(Some(*dtype)) {
            Ok((other, other_estimate)) => {
                n_granted += 1;
                let other = other.info();
                let expected = generates.then_some(dtype.dtype());
                assert_eq!(other.kv_dtype, expected);
                let is_narrower = |a: Option<DType>, b: Option<DType>| a == Some(DType::F16) && b == Some(DType::F32);
                assert_eq!(other.kv_bytes_per_token < info.kv_bytes_per_token, is_narrower(expected, info.kv_dtype));
                assert_eq!(other_estimate < estimate, is_narrower(expected, info.kv_dtype), "{other_estimate} {estimate}");
            }
            Err(error) => {
                assert!(matches!(error, Error::Unsupported { .. }), "{error}");
                assert!(error.hint().is_some(), "the error says what to do: {error}");
            }
        }
    }
    // What is held by default can be asked for, where it has a name.
    let has_name = KvDType::ALL.iter().any(|dtype| info.kv_dtype.is_none_or(|held| held == dtype.dtype()));
    assert!(n_granted > 0 || !has_name, "{:?} cannot be asked for", info.kv_dtype);
}

/// What is said before weights are read is true of the loaded model, and more work takes more memory.
pub fn opened_as_loaded(fixture: &Fixture) {
    let opened = fixture.backend.open(&fixture.files, &fixture.options).unwrap();
    let (dtype, estimate, config) = (opened.dtype(), opened.footprint().unwrap(), opened.config().clone());
    let of = |n| estimate(&Workload { n_tokens: n, context_length: config.max_context }).sum();
    assert!(of(1) > 0 && of(config.max_context) > of(1));
    let model = opened.load().unwrap();
    assert_eq!((model.info().dtype, model.info().vocab_size), (dtype, config.vocab_size));
}

/// A configuration that is not there is an error that says where it was looked for.
pub fn missing_config_names_the_path(fixture: &Fixture) {
    let files = ModelFiles { config: ModelFile::Path("no-such-directory/config.json".into()), ..fixture.files.clone() };
    let Err(error) = fixture.backend.load(&files, &fixture.options) else { panic!("a missing configuration is an error") };
    assert!(error.to_string().contains("no-such-directory/config.json"), "{error}");
}

/// A device that is reported as unusable cannot be loaded onto, and nothing else is taken in its place.
pub fn unusable_device_is_an_error(fixture: &Fixture) {
    for report in fixture.backend.devices() {
        let options = LoadOptions { device: report.device, ..fixture.options.clone() };
        if report.unusable.is_some() {
            let Err(error) = fixture.backend.load(&fixture.files, &options) else { panic!("`{}` is unusable", report.device) };
            assert!(matches!(error, Error::DeviceUnavailable { device, .. } if device == report.device), "{error}");
            assert!(error.hint().is_some(), "the error says what to do");
        }
    }
}

/// A share of the device that no model reaches is an error that names the share there is.
pub fn unreachable_device_share_is_an_error(fixture: &Fixture) {
    let mut options = fixture.options.clone();
    options.onnx.require_device = Some(1.0);
    let reached = fixture.backend.load(&fixture.files, &options).is_ok();
    let whole = fixture.load().info().device_share >= 1.0;
    assert_eq!(reached, whole, "all nodes on the device, and only then");
    for bad in [-0.5, 1.5, f64::NAN] {
        options.onnx.require_device = Some(bad);
        assert!(
            matches!(fixture.backend.load(&fixture.files, &options), Err(Error::InvalidOption { .. })),
            "{bad} is not a share"
        );
    }
}

/// What a model does not declare it refuses, with an error that says so; and it declares one of generating and encoding.
pub fn undeclared_capability_is_refused(fixture: &Fixture) {
    let model = fixture.load();
    let capabilities = model.info().capabilities;
    let encodes = [Capability::HiddenStates, Capability::PooledOutput];
    assert!(capabilities.has(Capability::Generation) || encodes.iter().any(|encodes| capabilities.has(*encodes)));
    assert_eq!(model.info().pooled_output.is_some(), capabilities.has(Capability::PooledOutput));
    let batch = || TokenBatch::new(&[cases::tokens(&*model, 4)]).unwrap();
    let tokens = cases::tokens(&*model, 4);
    let session = || cases::session(&*model);
    for capability in Capability::ALL.iter().copied().filter(|capability| !capabilities.has(*capability)) {
        let needs_no_session = encodes.contains(&capability) || capability == Capability::Adapters;
        if !capabilities.has(Capability::Generation) && !needs_no_session {
            assert!(matches!(model.new_session(&SessionOptions::default()), Err(Error::Unsupported { .. })));
            continue;
        }
        let refused = match capability {
            Capability::Generation => continue,
            Capability::HiddenStates => model.encode(&batch(), &CancelToken::new()).err(),
            Capability::PooledOutput => model.encode_pooled(&batch(), &CancelToken::new()).err(),
            Capability::Adapters => model.with_adapters(&[]).err(),
            Capability::PromptParts => {
                let (mut session, mut logits) = (session(), Logits::default());
                let part = Append::new(&mut *session, &tokens, LogitsRequest::Last(1), &mut logits).with_part(true);
                model.append_batch(&mut [part]).remove(0).err()
            }
            Capability::AllLogits => session().append(&tokens, LogitsRequest::Last(2)).err(),
            Capability::Rewind | Capability::Fork | Capability::KvTransfer => {
                let mut held = session();
                held.append(&tokens, LogitsRequest::None).unwrap();
                match capability {
                    Capability::Rewind => held.rewind(2).err(),
                    Capability::Fork => held.fork(2, &SessionOptions::default()).err(),
                    _ => held.export_kv(0..2).err(),
                }
            }
        };
        assert!(matches!(refused, Some(Error::Unsupported { .. })), "`{capability}` is not declared: {refused:?}");
    }
}
