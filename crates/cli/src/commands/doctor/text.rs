//! The report for people.

use anyhow::Result;

use super::{Report, State};
use crate::output::{BAD, BOLD, DIM, GOOD, Output};

/// Columns that a line may take.
const WIDTH: usize = 80;

/// Columns before a finding: the state and the name.
const INDENT: usize = 30;

pub(super) fn show(report: &Report, output: &Output) -> Result<()> {
    let mut area = "";
    for check in &report.checks {
        if check.area != area {
            let gap = if area.is_empty() { "" } else { "\n" };
            area = check.area;
            output.line(&format!("{gap}{}", output.paint(BOLD, area)))?;
        }
        let state = match check.state {
            State::Good => output.paint(GOOD, "good   "),
            State::Warning => output.paint(BOLD, "note   "),
            State::Bad => output.paint(BAD, "bad    "),
            State::Absent => output.paint(DIM, "absent "),
        };
        for (i, line) in wrap(&check.finding, WIDTH - INDENT).iter().enumerate() {
            match i {
                0 => output.line(&format!("  {state} {:<20}{}", check.name, output.for_stdout(line)))?,
                _ => output.line(&format!("{:INDENT$}{}", "", output.for_stdout(line)))?,
            }
        }
        for line in check.remedy.iter().flat_map(|remedy| wrap(&format!("hint: {remedy}"), WIDTH - INDENT)) {
            output.line(&format!("{:INDENT$}{}", "", output.paint(DIM, &line)))?;
        }
    }
    let verdict = if report.healthy {
        output.paint(GOOD, "all that is needed works")
    } else {
        output.paint(BAD, "something needed does not work")
    };
    output.line(&format!("\n{verdict}"))
}

/// `text` in lines of at most `width` columns, broken between words; a word that is longer keeps its line.
pub(crate) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.into()),
        }
    }
    if lines.is_empty() { vec![String::new()] } else { lines }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_break_between_words() {
        let check = |text: &str, expected: &[&str]| assert_eq!(wrap(text, 10), expected, "{text}");
        check("", &[""]);
        check("one two", &["one two"]);
        check("one two three four", &["one two", "three four"]);
        check("a/very/long/path and more", &["a/very/long/path", "and more"]);
    }
}
