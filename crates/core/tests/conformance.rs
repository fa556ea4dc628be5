//! The reference backend passes the suite, with every capability and with none.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "a failed test is a panic")]

use std::path::Path;

use tandem_core::conformance;
use tandem_core::conformance::{FakeBackend, Fixture};
use tandem_core::files::ModelFiles;
use tandem_core::{Capabilities, LoadOptions};

conformance!(everything, || fixture(Capabilities {
    all_logits: true,
    rewind: true,
    hidden_states: true,
    adapters: false,
    probe: true
}));
conformance!(nothing, || fixture(Capabilities::default()));

fn fixture(capabilities: Capabilities) -> Result<Fixture, String> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens/qwen2-tied");
    Ok(Fixture {
        backend: Box::new(FakeBackend { capabilities }),
        files: ModelFiles::discover(&directory, "qwen2-tied").unwrap(),
        options: LoadOptions::default(),
        tolerance: 0.0,
        golden: None,
    })
}
