//! Rules about sentences: constructions that no engineer would say.

use super::{Files, check};

/// Where they are still to be replaced: beginnings of paths.
const NOT_YET_WORDED: [&str; 0] = [];

/// What quotes the phrases that it looks for, and data.
const EXEMPT: [&str; 3] = ["xtask/src/tidy/wording.rs", "training/demo/", "crates/bench/src/parity/corpus.toml"];

/// What may stand before "is no" and "are no", and after it.
const BEFORE_NO: [&str; 2] = ["there", "There"];
const AFTER_NO: [&str; 12] =
    ["longer", "more", "fewer", "less", "later", "larger", "smaller", "faster", "slower", "better", "worse", "different"];

/// Words after which "who" has no antecedent.
const BEFORE_WHO: [&str; 19] = [
    "and", "or", "for", "by", "to", "on", "of", "from", "with", "at", "than", "as", "whether", "which", "know", "doing", "that",
    "but", "is",
];

#[test]
fn sentences_avoid_the_listed_constructions() {
    check(
        ill_worded,
        [
            Files::from([("a.md", "The file is no JSON.")]),
            Files::from([("a.rs", "/// Values that are no numbers.")]),
            Files::from([("a.rs", "/// A name that is none.")]),
            Files::from([("a.md", "It is for who looks on.")]),
        ],
    );
    let fine = Files::from([
        (
            "a.md",
            "There is no graph. It is no longer there, and is no larger than it was. Users who ask get one. None of them is.",
        ),
        ("b.rs", "let there = value.is_none(); // there are no locks"),
    ]);
    assert_eq!(ill_worded(&fine), Vec::<String>::new());
}

fn ill_worded(files: &Files) -> Vec<String> {
    let mut problems = Vec::new();
    let texts = [".rs", ".md", ".toml"].into_iter().flat_map(|ending| files.texts_named(ending));
    let skipped = |path: &str| EXEMPT.iter().chain(&NOT_YET_WORDED).any(|beginning| path.starts_with(beginning));
    for (path, text) in texts.filter(|(path, _)| !skipped(path)) {
        for (n, line) in text.lines().enumerate() {
            if let Some(phrase) = phrase(line) {
                problems.push(format!("{path}:{}: says \"{phrase}\"; say what it is instead", n + 1));
            }
        }
    }
    problems
}

/// The first construction that is avoided.
fn phrase(line: &str) -> Option<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let bare = |n: usize| words.get(n).map_or("", |word| word.trim_matches(|c: char| !c.is_ascii_alphanumeric()));
    (0..words.len()).find_map(|n| {
        // Of `format!("there` the last part.
        let before =
            n.checked_sub(1).map_or("", |n| bare(n).rsplit(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default());
        // At the beginning of a line nobody knows what was before it.
        let has_subject = !before.is_empty() && !BEFORE_NO.contains(&before);
        let is_negated = matches!(words[n], "is" | "are" | "was" | "were") && has_subject;
        let bad = match bare(n + 1) {
            "no" => is_negated && !AFTER_NO.contains(&bare(n + 2)),
            // In a template, `is none` is a test of Jinja.
            "none" => is_negated && bare(n + 2) != "of" && !words.get(n + 2).is_some_and(|word| word.contains('}')),
            "who" => BEFORE_WHO.contains(&words[n]),
            _ => false,
        };
        bad.then(|| format!("{} {}", words[n], bare(n + 1)))
    })
}
