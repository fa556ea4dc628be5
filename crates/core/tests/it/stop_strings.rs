//! Stop strings in streamed text: cases, and the naive search of the whole text as the definition.

use proptest::prelude::*;
use tandem_core::stop::{StopMatcher, StopOptions, StopStep};

fn matcher(stop_strings: &[&str]) -> StopMatcher {
    let stop_strings = stop_strings.iter().map(|&text| text.to_owned()).collect();
    StopMatcher::new(&StopOptions { stop_strings, end_tokens: vec![7, 9] }).unwrap()
}

/// `expected` is what each piece emits, then what `finish` does; then the index of the match.
fn check(stop_strings: &[&str], pieces: &[&str], expected: &[&str], matched: Option<usize>) {
    let mut matcher = matcher(stop_strings);
    let mut steps: Vec<StopStep> = pieces.iter().map(|piece| matcher.push(piece)).collect();
    steps.push(matcher.finish());
    let emits: Vec<&str> = steps.iter().map(|step| step.emit.as_str()).collect();
    assert_eq!(emits, expected, "{stop_strings:?} in {pieces:?}");
    assert_eq!(steps.last().unwrap().matched, matched, "{stop_strings:?} in {pieces:?}");
}

#[test]
fn holds_back_only_a_beginning() {
    check(&["</end>"], &["a < b", "c <", "/e", "x"], &["a < b", "c ", "", "</ex", ""], None);
    check(&["</end>"], &["a</e", "nd>tail"], &["a", "", ""], Some(0));
    check(&["</end>"], &["a</en"], &["a", "</en"], None);
    check(&["aab"], &["aaa", "ab"], &["a", "a", ""], Some(0));
    check(&[], &["all", " of it"], &["all", " of it", ""], None);
    check(&["x"], &[], &[""], None);
}

#[test]
fn the_first_in_the_text_wins() {
    check(&["bc", "abcd"], &["abc", "d"], &["", "", ""], Some(1));
    check(&["bc", "abcd"], &["abc", "x"], &["", "a", ""], Some(0));
    check(&["bc", "abcd"], &["abc"], &["", "a"], Some(0));
    check(&["late", "early"], &["early late"], &["", ""], Some(1));
}

#[test]
fn of_one_start_the_longest_wins() {
    check(&["\n", "\n\n"], &["a\n", "\nb"], &["a", "", ""], Some(1));
    check(&["\n", "\n\n"], &["a\n", "b"], &["a", "", ""], Some(0));
    check(&["\n", "\n\n"], &["a\n"], &["a", ""], Some(0));
    check(&["end", "end"], &["the end"], &["the ", ""], Some(0));
}

#[test]
fn characters_stay_whole() {
    check(&["é!"], &["caf", "é", "?"], &["caf", "", "é?", ""], None);
    check(&["ü"], &["é", "ü"], &["é", "", ""], Some(0));
    check(&["😀😁"], &["😀", "😀", "😁"], &["", "😀", "", ""], Some(0));
}

#[test]
fn after_a_match_there_is_no_text() {
    let mut matcher = matcher(&["stop"]);
    let found = StopStep { emit: "go ".into(), matched: Some(0) };
    assert_eq!(matcher.push("go stop and more"), found);
    let again = StopStep { emit: String::new(), matched: Some(0) };
    assert_eq!(matcher.push("even more"), again);
    assert_eq!(matcher.finish(), again);
}

#[test]
fn knows_end_tokens() {
    let matcher = matcher(&[]);
    assert!(matcher.is_end(7) && matcher.is_end(9) && !matcher.is_end(8));
}

#[test]
fn an_empty_stop_string_is_an_error() {
    let options = StopOptions { stop_strings: vec!["a".into(), String::new()], ..StopOptions::default() };
    let error = StopMatcher::new(&options).unwrap_err();
    assert_eq!(error.to_string(), "option `stop`: `` is empty: a stop string has at least one character");
}

/// Large enough that a quadratic search would take minutes.
#[test]
fn a_long_repetitive_text_holds_back_one_pattern() {
    let pattern = format!("{}b", "a".repeat(10_000));
    let mut matcher = matcher(&[&pattern]);
    let mut n_emitted = 0;
    for _ in 0..20_000 {
        n_emitted += matcher.push(&"a".repeat(100)).emit.len();
    }
    assert_eq!(n_emitted, 2_000_000 - 10_000);
}

/// What is shown, and which stop string ends it.
fn naive(text: &str, stop_strings: &[String]) -> (String, Option<usize>) {
    for start in text.char_indices().map(|(start, _)| start) {
        let here = |&index: &usize| text[start..].starts_with(&stop_strings[index]);
        let longest = (0..stop_strings.len()).rev().filter(here).max_by_key(|&index| stop_strings[index].len());
        if longest.is_some() {
            return (text[..start].to_owned(), longest);
        }
    }
    (text.to_owned(), None)
}

/// Few characters, so that beginnings, overlaps and repeats of stop strings are frequent; of one, two and four bytes,
/// two of which share their first bytes.
fn texts(n: std::ops::Range<usize>) -> impl Strategy<Value = String> {
    let character = prop::sample::select(vec!['a', 'a', 'b', 'é', 'è', '😀']);
    prop::collection::vec(character, n).prop_map(|characters| characters.into_iter().collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn any_cut_gives_the_naive_result(
        pieces in prop::collection::vec(texts(0..6), 0..12),
        stop_strings in prop::collection::vec(texts(1..6), 0..5),
    ) {
        let mut matcher = StopMatcher::new(&StopOptions { stop_strings: stop_strings.clone(), end_tokens: vec![] }).unwrap();
        let (mut shown, mut text, mut matched) = (String::new(), String::new(), None);
        for piece in &pieces {
            let step = matcher.push(piece);
            text.push_str(piece);
            shown.push_str(&step.emit);
            matched = step.matched;
            if matched.is_none() {
                // What is held back begins like a stop string: nothing is held that is ruled out.
                let held = &text[shown.len()..];
                prop_assert!(text.starts_with(&shown));
                let may_match = |stop: &String| stop.starts_with(held) || held.starts_with(stop.as_str());
                prop_assert!(held.is_empty() || stop_strings.iter().any(may_match), "{held:?} is held for nothing");
            }
        }
        let last = matcher.finish();
        shown.push_str(&last.emit);
        prop_assert!(matched.is_none() || matched == last.matched);
        prop_assert_eq!((shown, last.matched), naive(&pieces.concat(), &stop_strings));
    }
}
