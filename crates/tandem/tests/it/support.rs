//! Models and engines to try the library on.

use std::fs;
use std::path::{Path, PathBuf};

use tandem::catalog::Catalog;
use tandem::hub::HubSettings;
use tandem::machine::Memory;
use tandem::{BackendKind, LoadOptions, Resolver, Settings};
use tempfile::TempDir;

/// The small files and the weights of a checkpoint.
pub(crate) const CHECKPOINT: [&str; 5] =
    ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"];

pub(crate) fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens").join(name)
}

/// A copy of the golden checkpoint `qwen2-tied` at `directory`.
pub(crate) fn copy_checkpoint(directory: &Path) {
    fs::create_dir_all(directory).unwrap();
    for name in CHECKPOINT {
        fs::copy(golden("qwen2-tied").join(name), directory.join(name)).unwrap();
    }
}

/// A cache of the hub with that checkpoint as `owner/name`.
pub(crate) fn hub_cache() -> (TempDir, HubSettings) {
    let cache = tempfile::tempdir().unwrap();
    let repository = cache.path().join("models--owner--name");
    let commit = "0123456789012345678901234567890123456789";
    copy_checkpoint(&repository.join("snapshots").join(commit));
    fs::create_dir_all(repository.join("refs")).unwrap();
    fs::write(repository.join("refs/main"), commit).unwrap();
    let settings = HubSettings { offline: true, ..HubSettings::new("http://127.0.0.1:9", cache.path()) };
    (cache, settings)
}

/// The program's catalog on a machine with 16 GiB that are read at 40 GB/s, with nothing of the user's.
pub(crate) fn resolver() -> Resolver {
    Resolver::new(Catalog::builtin()).with_measurements(None).with_memory(Memory::of_machine_with(16 << 30)).with_bandwidth(40e9)
}

/// Settings of each engine that can run here. One that cannot says so, and fails where `TANDEM_REQUIRE_ENGINES` is set.
pub(crate) fn engines() -> Vec<Settings> {
    let usable = |kind: &BackendKind| match kind {
        BackendKind::Onnx => tandem::backends::ort_library(None).inspect_err(|error| skipped(&error.to_string())).is_ok(),
        _ => true,
    };
    tandem::backends::compiled().into_iter().filter(usable).map(on).collect()
}

/// Two threads of the backend `kind`.
pub(crate) fn on(kind: BackendKind) -> Settings {
    let load = LoadOptions::new().with_threads(std::num::NonZero::new(2));
    Settings { backend: Some(kind), load, ..Settings::default() }
}

#[expect(clippy::print_stderr, reason = "a test that cannot run says so")]
fn skipped(reason: &str) {
    assert!(std::env::var_os("TANDEM_REQUIRE_ENGINES").is_none(), "{reason}");
    eprintln!("skipped: {reason}");
}
