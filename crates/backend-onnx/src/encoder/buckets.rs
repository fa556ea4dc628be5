//! Padding of texts to few lengths, for engines that compile a model for each shape. Such runs have one text each.

use tandem_core::backend::LoadOptions;
use tandem_core::config::ModelConfig;
use tandem_core::{Error, Result};

use crate::graph::{EncoderGraph, Encoding};

/// The lengths to which texts are padded.
#[derive(Debug)]
pub(crate) struct Buckets {
    /// Ascending; one at least.
    lengths: Vec<usize>,
    max_tokens: usize,
    /// What the mask says of padding. Causal models see nothing behind a token, and count the ones.
    pub(super) mask_of_padding: i64,
}

impl Buckets {
    /// Those that `options` request for `graph`; `None` where they were not asked for and the graph does not tell padding from
    /// text.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for a list without a length or with 0, [`Error::Unsupported`] where padding would be seen.
    pub(crate) fn of(options: &LoadOptions, graph: &EncoderGraph, config: &ModelConfig) -> Result<Option<Self>> {
        let Some(lengths) = options.onnx.buckets_on(options.device) else { return Ok(None) };
        if lengths.is_empty() || lengths.contains(&0) {
            return Err(Error::invalid_option("buckets", format!("{lengths:?}"), "is not a list of lengths of a token or more"));
        }
        let is_unseen = config.is_causal && matches!(graph.encoding, Encoding::HiddenStates(_));
        if !is_unseen && (graph.mask.is_none() || config.is_causal) {
            return match options.onnx.buckets {
                None => Ok(None),
                Some(_) => Err(Error::Unsupported {
                    what: format!("padding texts for the graph `{}`", graph.file),
                    reason: "it does not tell padding from text".into(),
                    hint: Some("use a graph with the input `attention_mask`, or the model's checkpoint".into()),
                }),
            };
        }
        let mut lengths = lengths.to_vec();
        lengths.sort_unstable();
        Ok(Some(Self { lengths, max_tokens: config.max_context, mask_of_padding: i64::from(is_unseen) }))
    }

    /// The length to which a text of `n_tokens` is padded: no more than the model takes.
    pub(super) fn length(&self, n_tokens: usize) -> usize {
        let bucket = self.lengths.iter().copied().find(|&length| length >= n_tokens);
        let multiple = || self.lengths.last().map_or(n_tokens, |&largest| n_tokens.next_multiple_of(largest));
        bucket.unwrap_or_else(multiple).min(self.max_tokens).max(n_tokens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_padded_to_the_next_length() {
        let buckets = Buckets { lengths: vec![16, 64], max_tokens: 150, mask_of_padding: 0 };
        let padded = [1, 16, 17, 64, 65, 128, 129, 150].map(|n_tokens| buckets.length(n_tokens));
        assert_eq!(padded, [16, 16, 64, 64, 128, 128, 150, 150]);
    }
}
