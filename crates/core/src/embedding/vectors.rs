//! Vectors: their length, and how alike two of them are.

use crate::named::named;

/// Below it a length counts as this, as in PyTorch's `normalize`.
const LEAST_LENGTH: f64 = 1e-12;

/// Whether vectors are divided by their length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Normalize {
    /// As the model's files say. Vectors that were cut to fewer dimensions stay as they are, as in sentence-transformers.
    #[default]
    Auto,
    /// At the end, whatever the files say.
    Yes,
    /// Nowhere.
    No,
}

named!(Normalize, "normalize", { Auto: "auto", Yes: "yes", No: "no" });

/// How alike two vectors are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Similarity {
    /// The cosine of their angle.
    #[default]
    Cosine,
    /// The sum of their products.
    Dot,
    /// The negative of the Euclidean distance.
    Euclidean,
    /// The negative of the sum of distances by dimension.
    Manhattan,
}

named!(Similarity, "similarity", { Cosine: "cosine", Dot: "dot", Euclidean: "euclidean", Manhattan: "manhattan" });

impl Similarity {
    /// How alike `a` and `b` are; more is more alike. Vectors of different widths are compared in the dimensions that both have.
    pub fn of(self, a: &[f32], b: &[f32]) -> f64 {
        let sum = |term: fn(f64, f64) -> f64| a.iter().zip(b).map(|(&a, &b)| term(a.into(), b.into())).sum::<f64>();
        match self {
            Self::Cosine => sum(|a, b| a * b) / (length(a).max(LEAST_LENGTH) * length(b).max(LEAST_LENGTH)),
            Self::Dot => sum(|a, b| a * b),
            Self::Euclidean => -sum(|a, b| (a - b) * (a - b)).sqrt(),
            Self::Manhattan => -sum(|a, b| (a - b).abs()),
        }
    }
}

/// Divides a vector by its length.
pub fn normalize(vector: &mut [f32]) {
    let length = length(vector).max(LEAST_LENGTH);
    vector.iter_mut().for_each(|value| *value = (f64::from(*value) / length) as f32);
}

fn length(vector: &[f32]) -> f64 {
    vector.iter().map(|&value| f64::from(value) * f64::from(value)).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn similarities_are_their_formulas() {
        let (a, b) = ([3.0, 4.0], [4.0, 3.0]);
        assert!((Similarity::Cosine.of(&a, &b) - 0.96).abs() < 1e-12);
        assert_eq!(Similarity::Dot.of(&a, &b), 24.0);
        assert!((Similarity::Euclidean.of(&a, &b) + 2f64.sqrt()).abs() < 1e-12);
        assert_eq!(Similarity::Manhattan.of(&a, &b), -2.0);
        assert_eq!(Similarity::Cosine.of(&a, &[0.0, 0.0]), 0.0);
    }

    #[test]
    fn normalized_vectors_have_length_one_unless_they_are_zero() {
        let mut vector = [3.0, 4.0];
        normalize(&mut vector);
        assert_eq!(vector, [0.6, 0.8]);
        let mut zero = [0.0; 3];
        normalize(&mut zero);
        assert_eq!(zero, [0.0; 3]);
    }
}
