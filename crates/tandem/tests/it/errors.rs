//! What goes wrong names what is at fault and what to do.

use std::fs;
use std::path::Path;

use tandem::{DType, Error, LoadOptions};

use crate::support::{copy_checkpoint, engines, on, resolver};

/// The error of loading a checkpoint after `spoil`, on every engine: `parts` are in it, and a hint is there.
fn check(spoil: impl Fn(&Path), change: impl Fn(&mut LoadOptions), parts: &[&str]) {
    for mut settings in engines() {
        let dir = tempfile::tempdir().unwrap();
        copy_checkpoint(dir.path());
        spoil(dir.path());
        change(&mut settings.load);
        let error = resolver().load(&dir.path().into(), &settings).err().unwrap();
        let text = format!("{error}; {}", error.hint().map(|hint| hint.to_string()).unwrap_or_default());
        for part in parts {
            assert!(text.contains(part), "no `{part}` in {text}");
        }
        assert!(error.hint().is_some(), "{error}");
    }
}

#[test]
fn missing_and_damaged_files_are_named() {
    let nothing = |_: &mut LoadOptions| ();
    let remove = |name: &'static str| move |dir: &Path| fs::remove_file(dir.join(name)).unwrap();
    check(remove("tokenizer.json"), nothing, &["there is no `tokenizer.json`", "download it"]);
    check(remove("config.json"), nothing, &["config.json"]);
    let cut = |dir: &Path| {
        let path = dir.join("model.safetensors");
        let bytes = fs::read(&path).unwrap();
        fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
    };
    check(cut, nothing, &["model.safetensors", "obtain the file again"]);
}

#[test]
fn unsupported_dtypes_say_what_to_use() {
    check(|_| (), |load| load.dtype = Some(DType::Bf16), &["dtype `bf16`", "f32"]);
}

#[test]
fn unavailable_devices_are_not_replaced() {
    for mut settings in engines() {
        settings.load.device = tandem::Device::Cuda(7);
        let error = resolver().load(&"demo".into(), &settings).err().unwrap();
        assert!(matches!(error, Error::DeviceUnavailable { device: tandem::Device::Cuda(7), .. }), "{error}");
        assert!(error.hint().is_some());
    }
}

#[test]
fn a_backend_that_is_not_compiled_in_names_its_feature() {
    for kind in tandem::backends::KNOWN_BACKENDS.into_iter().filter(|kind| !tandem::backends::compiled().contains(kind)) {
        let error = resolver().load(&"demo".into(), &on(kind)).err().unwrap();
        assert!(matches!(error, Error::BackendNotCompiled { backend, .. } if backend == kind), "{error}");
        assert!(error.hint().unwrap().to_string().contains(&format!("the feature `{kind}`")));
    }
}
