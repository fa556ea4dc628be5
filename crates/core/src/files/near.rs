//! Names that someone may have meant.

use crate::remedy::alternatives;

/// Longer names are not compared: the cost grows with the product of the lengths.
const MAX_LENGTH: usize = 256;
/// The most names offered.
const MAX_OFFERED: usize = 3;

/// The `candidates` that differ from `wanted` by a slip or two, the nearest first, three at most. Case does not count.
pub fn near_names<S: AsRef<str>>(wanted: &str, candidates: impl IntoIterator<Item = S>) -> Vec<String> {
    if wanted.len() > MAX_LENGTH {
        return Vec::new();
    }
    let lower = wanted.to_lowercase();
    let tolerated = (lower.chars().count() / 3).clamp(1, 4);
    let mut near: Vec<(usize, String)> = candidates
        .into_iter()
        .filter(|candidate| candidate.as_ref().len() <= MAX_LENGTH)
        .map(|candidate| {
            let distance = strsim::damerau_levenshtein(&lower, &candidate.as_ref().to_lowercase());
            (distance, candidate.as_ref().to_owned())
        })
        .filter(|(distance, _)| *distance <= tolerated)
        .collect();
    near.sort();
    near.dedup();
    near.into_iter().take(MAX_OFFERED).map(|(_, name)| name).collect()
}

/// A hint that offers what is [near](near_names); `otherwise` where nothing is.
pub fn did_you_mean(near: &[String], otherwise: &str) -> String {
    match near {
        [] => otherwise.into(),
        names => format!("did you mean {}?", alternatives(names)),
    }
}

#[cfg(test)]
mod tests {
    use super::near_names;

    #[track_caller]
    fn check(wanted: &str, candidates: &[&str], expected: &[&str]) {
        assert_eq!(near_names(wanted, candidates), expected);
    }

    #[test]
    fn slips_are_found_and_strangers_are_not() {
        check("dmeo", &["demo", "memo", "qwen"], &["demo"]);
        check("demo2", &["demo"], &["demo"]);
        check("Demo", &["demo"], &["demo"]);
        check("qwen2.5-0.5", &["qwen2.5-0.5b", "qwen2.5-7b", "llama"], &["qwen2.5-0.5b", "qwen2.5-7b"]);
        check("x", &["demo"], &[]);
        check("", &["demo", ""], &[""]);
        check("ab", &["abc", "abd", "abe", "abf"], &["abc", "abd", "abe"]);
        check("demo", &["demi", "demo"], &["demo", "demi"]);
        check("modèle", &["modele"], &["modele"]);
    }

    #[test]
    fn long_names_are_left_alone() {
        let long = "a".repeat(10_000);
        assert!(near_names(&long, [&long]).is_empty());
        assert!(near_names("a", [&long]).is_empty());
    }
}
