//! The main job, on the embedded model.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};

use crate::process::{self, Profile};

const RUN: [&str; 3] = ["run", "demo", "Tell me a story about a fox who finds a lantern."];

/// The story that is checked is the same each time.
const GREEDY: [&str; 2] = ["--temperature", "0"];

/// Words that a story has at least.
const LEAST_WORDS: usize = 20;

/// The largest share of a story's words that one word may be: a model that is broken repeats itself.
const MOST_REPEATED: f64 = 0.2;

/// Lets the model tell its story to the terminal.
pub(crate) fn run(profile: Profile) -> Result<()> {
    process::run(process::tandem(profile, &RUN)?)
}

/// Lets the model tell its story, and checks that it is one and that its speed is reported.
pub(crate) fn check(profile: Profile) -> Result<()> {
    let mut command = process::tandem(profile, &[&RUN[..], &GREEDY].concat())?;
    let output = command.stdin(Stdio::null()).output().context("cannot run `tandem`")?;
    let (story, report) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{story}");
    eprintln!("{report}");
    ensure!(output.status.success(), "`tandem run demo` failed ({})", output.status);
    is_a_story(&story)?;
    let reports_speed = |line: &str| line.contains(" tokens at ") && line.contains("/s");
    ensure!(report.lines().any(reports_speed), "no line reports the speed, such as `118 tokens at 210/s`");
    Ok(())
}

/// Whether the text is one of sentences about what was asked for, and not a word again and again.
fn is_a_story(text: &str) -> Result<()> {
    let words: Vec<String> =
        text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_lowercase).collect();
    ensure!(words.len() >= LEAST_WORDS, "the story has {} words, and at least {LEAST_WORDS} were expected", words.len());
    for expected in ["fox", "lantern"] {
        ensure!(words.iter().any(|word| word == expected), "the story has no {expected}");
    }
    let n_sentences = text.matches(['.', '!', '?']).count();
    ensure!(n_sentences >= 2, "the story has fewer than two sentences");
    for word in &words {
        let n = words.iter().filter(|other| *other == word).count();
        ensure!(n as f64 <= MOST_REPEATED * words.len() as f64, "{n} of {} words are `{word}`", words.len());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_story_is_about_what_was_asked_for_and_does_not_repeat_itself() {
        let story = "Once upon a time, in the museum, there lived a fox called Lars. One evening, Lars found a lantern in the museum. \
                     \"What a lovely lantern!\" said Lars.";
        is_a_story(story).unwrap();
        assert!(is_a_story("A fox found a lantern. It was happy.").is_err(), "too short");
        assert!(is_a_story(&story.replace("fox", "bee")).is_err(), "about something else");
        assert!(is_a_story(&story.replace(['.', '!'], "")).is_err(), "no sentences");
        assert!(is_a_story(&format!("{story} {}", "the ".repeat(30))).is_err(), "repetitions");
    }
}
