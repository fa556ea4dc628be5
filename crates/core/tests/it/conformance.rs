//! The reference backend passes the suite, with every capability and with none.

use std::path::Path;

use tandem_core::conformance;
use tandem_core::conformance::{FakeBackend, Fixture};
use tandem_core::files::ModelFiles;
use tandem_core::named::Named;
use tandem_core::{Capabilities, Capability, LoadOptions};

conformance!(everything, || fixture(Capabilities::of(Capability::ALL), true));
conformance!(encoder, || fixture(Capabilities::of(&[Capability::HiddenStates]), false));
conformance!(pooled, || fixture(Capabilities::of(&[Capability::PooledOutput]), false));
conformance!(generation_alone, || fixture(Capabilities::of(&[Capability::Generation]), false));

fn fixture(capabilities: Capabilities, shows_stages: bool) -> Result<Fixture, String> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens/qwen2-tied");
    Ok(Fixture {
        backend: Box::new(FakeBackend { capabilities, shows_stages }),
        files: ModelFiles::discover(&directory, "qwen2-tied").unwrap(),
        options: LoadOptions::default(),
        tolerance: 0.0,
        golden: None,
    })
}
