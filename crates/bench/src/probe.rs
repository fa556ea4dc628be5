//! What every entry answers before the rounds, so that its answers can be held against those of f32.

use std::path::Path;

use serde::{Deserialize, Serialize};
use tandem_core::embedding::{EmbedOptions, TokenizedText};
use tandem_core::{Error, Logits, Result, TokenId};

use crate::closeness::closeness;
use crate::loss::{self, read_rows, write_rows};
use crate::measure::Subject;
use crate::record::BenchEntry;

/// What is asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Probe {
    /// The logits of this text, at each of its positions.
    Logits(Vec<TokenId>),
    /// The vectors of these texts.
    Vectors(Vec<Vec<TokenId>>),
}

/// An answer: values, row by row, and the width of a row.
pub(crate) type Rows = (Vec<f32>, usize);

impl Probe {
    /// Writes the answer of `subject` to a file at `path`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when it cannot answer, [`Error::BadFile`] when the file cannot be written, and as the model's.
    pub fn answer(&self, subject: &Subject, path: &Path) -> Result<()> {
        match (self, subject) {
            (Self::Logits(tokens), Subject::Generator(model)) => {
                let most = tokens.len().min(model.info().max_context);
                write_rows(loss::logits(&**model, &tokens[..most])?.values(), path)
            }
            (Self::Vectors(texts), Subject::Embedder(embedder)) => {
                let tokenized = |ids: &Vec<TokenId>| TokenizedText { ids: ids.clone(), n_prompt: 0, n_cut: 0 };
                let texts: Vec<TokenizedText> = texts.iter().map(tokenized).collect();
                write_rows(&embedder.embed_tokens(&texts, &EmbedOptions::new())?.values, path)
            }
            _ => Err(Error::Unsupported {
                what: "the comparison with f32".into(),
                reason: "the model was loaded for other work".into(),
                hint: None,
            }),
        }
    }

    /// Reads the answer of a model that holds `max_context` tokens.
    ///
    /// # Errors
    /// As [`read_rows`].
    pub(crate) fn read(&self, path: &Path, max_context: Option<usize>) -> Result<Rows> {
        let n_rows = match self {
            Self::Logits(tokens) => tokens.len().min(max_context.unwrap_or(usize::MAX)),
            Self::Vectors(texts) => texts.len(),
        };
        read_rows(path, n_rows)
    }

    /// Records how far `answer` is from that of the reference, or why it is not known.
    pub(crate) fn judge(&self, entry: &mut BenchEntry, answer: Result<Rows, String>, reference: Option<&(String, Rows)>) {
        let judged = match (answer, reference) {
            (Err(reason), _) => Err(reason),
            (_, None) => Err("there is no f32 of this model to compare with".into()),
            (Ok(answer), Some((name, of_reference))) => self.compare(entry, answer, of_reference, name),
        };
        entry.no_loss = judged.err();
    }

    fn compare(&self, entry: &mut BenchEntry, answer: Rows, reference: &Rows, name: &str) -> Result<(), String> {
        match self {
            Self::Logits(tokens) => {
                let logits = |(values, width): Rows| Logits::new(values, width);
                let (answer, reference) = (logits(answer), logits(reference.clone()));
                let n = answer.n_rows().min(tokens.len());
                let loss = loss::loss(&answer, &reference, name, &tokens[..n]).map_err(|error| error.to_string())?;
                // JSON has no word for it, and neither has a reader.
                if !loss.mean_kl.is_finite() || !loss.perplexity.is_finite() {
                    return Err("it is undefined: some logits are not finite".into());
                }
                entry.loss = Some(loss);
            }
            Self::Vectors(_) => {
                let ((ours, width), (theirs, of_reference)) = (&answer, reference);
                let found = closeness((ours, *width), (theirs, *of_reference), name).map_err(|error| error.to_string())?;
                if !found.cosine_min.is_finite() {
                    return Err("it is undefined: some values are not finite".into());
                }
                entry.closeness = Some(found);
            }
        }
        Ok(())
    }
}
