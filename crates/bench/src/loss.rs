//! What an entry loses against f32: how far its distributions of next tokens are from those of the same checkpoint in full
//! precision, over one text.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use tandem_core::backend::{Capability, LogitsRequest};
use tandem_core::divergence::kl_divergence;
use tandem_core::{Error, Logits, Model, Result, SessionOptions, TokenId};

/// The text that losses are measured on; the first [`MOST_TOKENS`] tokens of it.
pub const TEXT: &str = "Once upon a time there was a little fox who lived at the edge of a wood. One day the fox found a lantern in the grass. \
    \"Who lost this lantern?\" asked the fox. A bird came down from the tree and said, \"I saw an old man with a lantern last night. He \
    went over the hill.\" So the fox took the lantern and walked over the hill until she saw a small house. The old man was sad, because it \
    was dark and he could not find his way to the river. When he saw the light he smiled. \"Thank you,\" he said, \"now we can both go \
    home.\" They counted the steps to the river together, one, two, three, and sat down to share some bread";

/// How many tokens of it: their logits are written to a file, a row of the vocabulary each.
pub const MOST_TOKENS: usize = 96;

/// How far an entry is from the reference.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Loss {
    /// The entry that is taken to be right.
    pub reference: String,
    /// Distributions that were compared.
    pub n_positions: usize,
    /// The mean Kullback-Leibler divergence from the reference, in nats.
    pub mean_kl: f64,
    /// The largest.
    pub most_kl: f64,
    /// The share of positions, 0 to 1, where both find the same token the most probable.
    pub same_top: f64,
    /// The perplexity of the text.
    pub perplexity: f64,
    /// The reference's.
    pub reference_perplexity: f64,
}

/// Logits of every one of `tokens`: `[tokens, vocab_size]`.
///
/// # Errors
/// [`Error::Unsupported`] when the model gives the last ones only, and as a session's.
pub fn logits(model: &dyn Model, tokens: &[TokenId]) -> Result<Logits> {
    if !model.info().capabilities.has(Capability::AllLogits) {
        return Err(Error::Unsupported {
            what: "the loss".into(),
            reason: "the graph gives the logits of the last token only".into(),
            hint: None,
        });
    }
    model.new_session(&SessionOptions::new().with_context_length(tokens.len()))?.append(tokens, LogitsRequest::All)
}

/// Writes rows of `values` for another process: 32-bit floats, little-endian, row by row.
///
/// # Errors
/// [`Error::BadFile`] when the file cannot be written.
pub fn write_rows(values: &[f32], path: &Path) -> Result<()> {
    let write = || -> std::io::Result<()> {
        let mut file = BufWriter::new(File::create(path)?);
        values.iter().try_for_each(|value| file.write_all(&value.to_le_bytes()))?;
        file.flush()
    };
    write().map_err(|error| Error::bad_file(path.display().to_string(), "cannot be written", error))
}

/// Reads what [`write_rows`] wrote: values, and the width of a row.
///
/// # Errors
/// [`Error::BadFile`] when it cannot be read, or has no whole rows.
pub fn read_rows(path: &Path, n_rows: usize) -> Result<(Vec<f32>, usize)> {
    let bad = |error: std::io::Error| Error::bad_file(path.display().to_string(), "cannot be read", error);
    let mut bytes = Vec::new();
    File::open(path).and_then(|mut file| file.read_to_end(&mut bytes)).map_err(bad)?;
    let (values, rest) = bytes.as_chunks::<4>();
    if n_rows == 0 || values.is_empty() || !rest.is_empty() || !values.len().is_multiple_of(n_rows) {
        return Err(bad(std::io::Error::new(std::io::ErrorKind::InvalidData, format!("has no {n_rows} whole rows"))));
    }
    Ok((values.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect(), values.len() / n_rows))
}

/// How far `candidate` is from `reference`, which is called `name`, over the text `tokens`.
///
/// # Errors
/// [`Error::Unsupported`] when they are not logits of the same vocabulary.
pub fn loss(candidate: &Logits, reference: &Logits, name: &str, tokens: &[TokenId]) -> Result<Loss> {
    let n_positions = reference.n_rows();
    if candidate.n_rows() != n_positions || candidate.values().len() != reference.values().len() || n_positions != tokens.len() {
        return Err(Error::Unsupported {
            what: "the loss".into(),
            reason: "the vocabulary is not the reference's".into(),
            hint: None,
        });
    }
    let kl: Vec<f64> = (0..n_positions).map(|i| kl_divergence(reference.row(i), candidate.row(i))).collect();
    let same = (0..n_positions).filter(|&i| top(reference.row(i)) == top(candidate.row(i))).count();
    Ok(Loss {
        reference: name.into(),
        n_positions,
        mean_kl: kl.iter().sum::<f64>() / n_positions as f64,
        most_kl: kl.iter().copied().fold(0.0, f64::max),
        same_top: same as f64 / n_positions as f64,
        perplexity: perplexity(candidate, tokens),
        reference_perplexity: perplexity(reference, tokens),
    })
}

/// The exponential of the mean negative log-probability of every token after the first.
fn perplexity(logits: &Logits, tokens: &[TokenId]) -> f64 {
    let scores = tokens.iter().skip(1).enumerate().map(|(i, &token)| log_probability(logits.row(i), token));
    let n = tokens.len().saturating_sub(1);
    (-scores.sum::<f64>() / n as f64).exp()
}

fn log_probability(logits: &[f32], token: TokenId) -> f64 {
    let most = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - most).exp()).sum();
    logits.get(token as usize).map_or(f64::NAN, |&logit| f64::from(logit) - most - sum.ln())
}

fn top(logits: &[f32]) -> usize {
    (0..logits.len()).fold(0, |best, id| if logits[id] > logits[best] { id } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loss_is_zero_against_itself_and_matches_its_definition() {
        let reference = Logits::new(vec![0.0, 0.0, 1.0, 0.0], 2);
        let itself = loss(&reference, &reference, "f32", &[0, 1]).unwrap();
        assert_eq!((itself.mean_kl, itself.same_top, itself.n_positions), (0.0, 1.0, 2));
        assert!((itself.perplexity - 2.0).abs() < 1e-9);
        let other = Logits::new(vec![0.0, 3_f32.ln(), 1.0, 0.0], 2);
        let loss = loss(&other, &reference, "f32", &[0, 1]).unwrap();
        assert!((loss.perplexity - 4.0 / 3.0).abs() < 1e-6 && (loss.most_kl / 2.0 - loss.mean_kl).abs() < 1e-9, "{loss:?}");
        assert_eq!(loss.same_top, 0.5);
    }

    #[test]
    fn logits_of_another_vocabulary_are_refused() {
        let logits = |vocab_size: usize| Logits::new(vec![0.0; 2 * vocab_size], vocab_size);
        assert!(loss(&logits(3), &logits(2), "f32", &[0, 1]).is_err());
    }

    #[test]
    fn rows_survive_a_file_round_trip() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows");
        let values = vec![1.5, -2.0, f32::MIN, 0.1];
        write_rows(&values, &path).unwrap();
        assert_eq!(read_rows(&path, 2).unwrap(), (values, 2));
        assert!(read_rows(&path, 3).is_err() && read_rows(&path, 0).is_err());
    }
}
