//! Speculative decoding: drafts by prompt lookup, or by a smaller model.

use std::path::Path;

use anyhow::{Context, Result};
use tandem::catalog::Catalog;
use tandem::files::ModelFile;
use tandem::{Drafter, PromptLookup, SessionOptions, SpecialTokens, TextModel};

use crate::args::{EngineOptions, SpeculationOptions};
use crate::engine::load;
use crate::output::Output;

/// The largest text that is looked into, in bytes.
const MAX_TEXT: u64 = 16 << 20;

impl SpeculationOptions {
    /// The drafter for `model`, whose context has `n_tokens`; a draft model is loaded as `engine` says, without adapters.
    pub(crate) fn drafter(
        &self,
        model: &TextModel,
        (catalog, engine): (&Catalog, &EngineOptions),
        session: &SessionOptions,
        n_tokens: usize,
        output: &Output,
    ) -> Result<Option<Box<dyn Drafter>>> {
        if let Some(file) = &self.lookup {
            let text = file.as_deref().map(|file| text(model, file)).transpose()?;
            return Ok(Some(Box::new(PromptLookup::new(text.unwrap_or_default()))));
        }
        let Some(reference) = &self.draft else { return Ok(None) };
        let engine = EngineOptions { adapter: Vec::new(), ..engine.clone() };
        let draft = load(reference, catalog, &engine, n_tokens, output)?;
        Ok(Some(Box::new(model.draft_model(&draft.model, session)?)))
    }
}

/// The tokens of `file`.
fn text(model: &TextModel, file: &Path) -> Result<Vec<tandem::TokenId>> {
    let file = ModelFile::Path(file.into());
    let text = file.read_text(MAX_TEXT)?;
    model.tokenizer().encode(&text, SpecialTokens::AsText).with_context(|| format!("`{}` has no tokens", file.name()))
}
