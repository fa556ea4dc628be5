//! Embedding models: the tokens of the same texts, each side against itself, and the vectors of both.

use std::num::NonZeroUsize;

use serde::Serialize;
use tandem_core::embedding::{EmbedOptions, Embedder, Embeddings, Similarity, TokenizedText};
use tandem_core::{CancelToken, Error, Result, TokenId};

use super::consistency::{ConsistencyMeasures, Way, WayMeasures};
use super::row::Row;
use super::text::{TextDifference, TextMeasures};
use super::{Corpus, Problem, Side};

/// How many of the texts nearest to each are looked at.
const N_NEAREST: usize = 10;

/// An embedding model that is compared.
#[derive(Clone, Copy)]
pub struct EmbedderSide<'m> {
    /// The model.
    pub embedder: &'m Embedder,
    /// Loads the same model anew, with so many threads.
    pub load: Option<&'m dyn Fn(NonZeroUsize) -> Result<Embedder>>,
}

/// The vectors of both sides.
#[derive(Clone, Debug, Default, Serialize)]
pub struct VectorMeasures {
    /// Texts.
    pub n_texts: usize,
    /// The width of a vector.
    pub dimensions: usize,
    /// The least cosine of a text's two vectors.
    pub cosine_min: f64,
    /// The mean of all.
    pub cosine_mean: f64,
    /// The text with the least.
    pub cosine_min_at: String,
    /// The largest difference of a value.
    pub max_abs: f64,
    /// How many of the texts nearest to each are looked at.
    pub n_nearest: usize,
    /// The share of them, 0 to 1, that both sides find.
    pub nearest: f64,
}

/// A text of both sides.
pub(super) struct Text {
    name: String,
    tokens: TokenizedText,
}

impl Text {
    /// Its name, and its tokens for the reference.
    pub(super) fn named_tokens(&self) -> (&str, &[TokenId]) {
        (&self.name, &self.tokens.ids)
    }
}

/// The tokens of every text for both sides: those of the reference are what the vectors are made of.
pub(super) fn texts(
    corpus: &Corpus,
    (reference, candidate): (&Embedder, &Embedder),
    problems: &mut Vec<Problem>,
) -> (TextMeasures, Vec<Text>) {
    let options = EmbedOptions::new();
    let (mut measures, mut texts) = (TextMeasures::default(), Vec::new());
    for (name, text) in corpus.texts() {
        let both = reference.tokenize(&text, &options).and_then(|ours| Ok((ours, candidate.tokenize(&text, &options)?)));
        match both {
            Ok((tokens, theirs)) => {
                if tokens.ids != theirs.ids {
                    let common = tokens.ids.iter().zip(&theirs.ids).take_while(|(ours, theirs)| ours == theirs).count();
                    measures.differences.push(TextDifference { prompt: name.into(), what: "tokens", at: common });
                }
                measures.n_prompts += 1;
                measures.n_tokens += tokens.ids.len();
                measures.n_cut += usize::from(tokens.n_cut > 0);
                texts.push(Text { name: name.into(), tokens });
            }
            Err(error) => problems.push(Problem::of_prompt(name, &error)),
        }
    }
    (measures, texts)
}

/// Measures how far `side` is from itself: texts again, each alone, in the opposite order, by a model loaded anew, and with another number
/// of threads.
///
/// # Errors
/// As [`Embedder::embed_tokens`], and as the load's.
pub(super) fn consistency(side: EmbedderSide<'_>, texts: &[Text], cancel: &CancelToken) -> Result<ConsistencyMeasures> {
    let tokens: Vec<TokenizedText> = texts.iter().map(|text| text.tokens.clone()).collect();
    let options = EmbedOptions::new().with_cancel(cancel.clone());
    let all = side.embedder.embed_tokens(&tokens, &options)?;
    let threads = NonZeroUsize::new(side.embedder.info().threads).unwrap_or(NonZeroUsize::MIN);
    let other = if threads == NonZeroUsize::MIN { NonZeroUsize::MIN.saturating_add(1) } else { NonZeroUsize::MIN };
    let mut measures = ConsistencyMeasures::default();
    let mut ways = vec![Way::Again, Way::Alone, Way::Reversed];
    if side.load.is_some() {
        ways.extend([Way::Anew, Way::OtherThreads]);
    }
    for way in ways {
        let anew = match (way, side.load) {
            (Way::Anew, Some(load)) => Some(load(threads)?),
            (Way::OtherThreads, Some(load)) => Some(load(other)?),
            _ => None,
        };
        let embedder = anew.as_ref().unwrap_or(side.embedder);
        let mut measured = WayMeasures::new(way);
        measured.add(&rows(&all), &rows(&computed(embedder, way, &tokens, &options)?));
        measures.add(measured);
    }
    Ok(measures)
}

/// The vectors of `texts`, in their order, whatever the way.
fn computed(embedder: &Embedder, way: Way, texts: &[TokenizedText], options: &EmbedOptions) -> Result<Embeddings> {
    match way {
        Way::Alone => {
            let mut all = Embeddings::default();
            for text in texts {
                let one = embedder.embed_tokens(std::slice::from_ref(text), options)?;
                all.dimensions = one.dimensions;
                all.values.extend(one.values);
            }
            Ok(all)
        }
        Way::Reversed => {
            let reversed: Vec<TokenizedText> = texts.iter().rev().cloned().collect();
            let found = embedder.embed_tokens(&reversed, options)?;
            let values = found.values.chunks_exact(found.dimensions.max(1)).rev().flatten().copied().collect();
            Ok(Embeddings { values, ..found })
        }
        _ => embedder.embed_tokens(texts, options),
    }
}

/// Vectors as rows that consistency is measured on.
fn rows(found: &Embeddings) -> tandem_core::Logits {
    tandem_core::Logits::new(found.values.clone(), found.dimensions)
}

/// Compares the vectors of both sides.
///
/// # Errors
/// [`Error::Unsupported`] for vectors of other widths or no texts, and as [`Embedder::embed_tokens`].
pub(super) fn compare(
    (reference, candidate): (&Embedder, &Embedder),
    texts: &[Text],
    cancel: &CancelToken,
) -> Result<VectorMeasures> {
    let tokens: Vec<TokenizedText> = texts.iter().map(|text| text.tokens.clone()).collect();
    let options = EmbedOptions::new().with_cancel(cancel.clone());
    let (ours, theirs) = (reference.embed_tokens(&tokens, &options)?, candidate.embed_tokens(&tokens, &options)?);
    if ours.dimensions != theirs.dimensions || texts.is_empty() {
        return Err(Error::Unsupported {
            what: "comparing the vectors".into(),
            reason: format!(
                "those of the reference have {} dimensions, and those of the candidate {}",
                ours.dimensions, theirs.dimensions
            ),
            hint: None,
        });
    }
    let names: Vec<&str> = texts.iter().map(|text| text.name.as_str()).collect();
    Ok(measured(&ours, &theirs, &names))
}

fn measured(ours: &Embeddings, theirs: &Embeddings, names: &[&str]) -> VectorMeasures {
    let mut measures = VectorMeasures { n_texts: names.len(), dimensions: ours.dimensions, ..VectorMeasures::default() };
    let mut cosines = Vec::new();
    for (ours, theirs) in ours.vectors().zip(theirs.vectors()) {
        measures.max_abs = measures.max_abs.max(Row::new(ours, theirs).max_abs);
        cosines.push(Similarity::Cosine.of(ours, theirs));
    }
    let least = cosines.iter().enumerate().min_by(|a, b| a.1.total_cmp(b.1));
    if let Some((place, &cosine)) = least {
        (measures.cosine_min, measures.cosine_min_at) = (cosine, names[place].to_owned());
    }
    measures.cosine_mean = cosines.iter().sum::<f64>() / cosines.len() as f64;
    measures.n_nearest = N_NEAREST.min(names.len().saturating_sub(1) / 2);
    let (near, far) = (nearest(ours, measures.n_nearest), nearest(theirs, measures.n_nearest));
    let kept = near.iter().zip(&far).map(|(near, far)| near.iter().filter(|text| far.contains(text)).count());
    let all = names.len() * measures.n_nearest;
    measures.nearest = if all == 0 { 1.0 } else { kept.sum::<usize>() as f64 / all as f64 };
    measures
}

/// For each vector the numbers of the `n` others that are nearest to it.
fn nearest(found: &Embeddings, n: usize) -> Vec<Vec<usize>> {
    let vectors: Vec<&[f32]> = found.vectors().collect();
    let of = |i: usize| {
        let mut others: Vec<(f64, usize)> = (0..vectors.len())
            .filter(|&other| other != i)
            .map(|other| (Similarity::Cosine.of(vectors[i], vectors[other]), other))
            .collect();
        others.sort_by(|a, b| b.0.total_cmp(&a.0));
        others.into_iter().take(n).map(|(_, other)| other).collect()
    };
    (0..vectors.len()).map(of).collect()
}

/// Both sides as embedding models; `None` where neither is one.
///
/// # Errors
/// [`Error::Unsupported`] where one is and the other is not.
pub(super) fn embedders<'s>(reference: &Side<'s>, candidate: &Side<'s>) -> Result<Option<[EmbedderSide<'s>; 2]>> {
    match (reference.embedder, candidate.embedder) {
        (Some(ours), Some(theirs)) => Ok(Some([ours, theirs])),
        (None, None) => Ok(None),
        _ => Err(Error::Unsupported {
            what: "the comparison".into(),
            reason: "one side makes vectors of texts and the other generates text".into(),
            hint: None,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Vectors at these angles, in degrees.
    fn at(angles: &[f64]) -> Embeddings {
        let vector = |angle: &f64| [angle.to_radians().cos() as f32, angle.to_radians().sin() as f32];
        Embeddings { values: angles.iter().flat_map(vector).collect(), dimensions: 2, ..Embeddings::default() }
    }

    #[test]
    fn measures_are_the_cosines_of_pairs_and_the_share_of_neighbours_kept() {
        let names = ["a", "b", "c", "d", "e"];
        let ours = at(&[0.0, 10.0, 25.0, 80.0, 88.0]);
        let same = measured(&ours, &ours, &names);
        assert!((same.cosine_min - 1.0).abs() < 1e-7 && same.max_abs == 0.0 && same.nearest == 1.0);
        assert_eq!((same.n_nearest, same.n_texts), (2, 5));
        // `c` moves by 60 degrees to the others: the nearest of all change.
        let moved = measured(&ours, &at(&[0.0, 10.0, 85.0, 80.0, 88.0]), &names);
        assert!((moved.cosine_min - 0.5).abs() < 1e-6 && (moved.cosine_mean - 0.9).abs() < 1e-6, "{moved:?}");
        assert_eq!(moved.cosine_min_at, "c");
        assert!(moved.nearest < 0.8, "{}", moved.nearest);
    }
}
