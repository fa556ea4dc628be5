//! The demo model, which is part of the program: see `models/demo`.

use tandem_core::Result;
use tandem_core::files::ModelFiles;

use crate::reference::DEMO;

macro_rules! embedded {
    ($($file:literal),+ $(,)?) => {
        [$(($file, include_bytes!(concat!("../../../models/demo/", $file)).as_slice())),+]
    };
}

/// Its files, as published.
pub(crate) fn files() -> Result<ModelFiles> {
    ModelFiles::embedded(
        DEMO,
        &embedded!["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"],
    )
}
