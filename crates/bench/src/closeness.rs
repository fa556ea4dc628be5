//! How close an entry's vectors are to those of the same checkpoint in f32.

use serde::{Deserialize, Serialize};
use tandem_core::embedding::Similarity;
use tandem_core::{Error, Result};

/// How close an entry's vectors are to the reference's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Closeness {
    /// The entry that is taken to be right.
    pub reference: String,
    /// Texts that were compared.
    pub n_texts: usize,
    /// The least cosine of a vector with the reference's.
    pub cosine_min: f64,
    /// The mean of all.
    pub cosine_mean: f64,
}

/// How close the vectors `candidate` are to `reference`, which is called `name`. Each is values, row by row, and the width of a row.
///
/// # Errors
/// [`Error::Unsupported`] when they are not as many vectors of the same width.
pub fn closeness(candidate: (&[f32], usize), reference: (&[f32], usize), name: &str) -> Result<Closeness> {
    let ((ours, width), (theirs, of_reference)) = (candidate, reference);
    if width == 0 || width != of_reference || ours.len() != theirs.len() || ours.is_empty() {
        return Err(Error::Unsupported {
            what: "the cosine".into(),
            reason: format!("its vectors have {width} dimensions, and those of the reference {of_reference}"),
            hint: None,
        });
    }
    let cosines: Vec<f64> =
        ours.chunks_exact(width).zip(theirs.chunks_exact(width)).map(|(a, b)| Similarity::Cosine.of(a, b)).collect();
    Ok(Closeness {
        reference: name.into(),
        n_texts: cosines.len(),
        // `min` passes over NaN.
        cosine_min: if cosines.iter().any(|cosine| cosine.is_nan()) {
            f64::NAN
        } else {
            cosines.iter().copied().fold(1.0, f64::min)
        },
        cosine_mean: cosines.iter().sum::<f64>() / cosines.len() as f64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closeness_is_the_cosine_of_each_pair_of_rows() {
        let reference = [3.0, 4.0, 1.0, 0.0];
        let itself = closeness((&reference, 2), (&reference, 2), "f32").unwrap();
        assert_eq!((itself.n_texts, itself.reference.as_str()), (2, "f32"));
        assert!((itself.cosine_min - 1.0).abs() < 1e-12);
        let other = closeness((&[4.0, 3.0, 2.0, 0.0], 2), (&reference, 2), "f32").unwrap();
        assert!((other.cosine_min - 0.96).abs() < 1e-12 && (other.cosine_mean - 0.98).abs() < 1e-12, "{other:?}");
        assert!(closeness((&[f32::NAN, 0.0], 2), (&[1.0, 0.0], 2), "f32").unwrap().cosine_min.is_nan());
    }

    #[test]
    fn vectors_of_another_width_are_refused() {
        let error = closeness((&[1.0; 4], 4), (&[1.0; 4], 2), "f32").unwrap_err().to_string();
        assert!(error.contains("4 dimensions") && error.contains('2'), "{error}");
    }
}
