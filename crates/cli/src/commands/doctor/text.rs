//! The report for people.

use anyhow::Result;

use super::{DoctorReport, State};
use crate::output::{BAD, BOLD, DIM, GOOD, Output, WIDTH, wrap};

/// Columns before a finding: the state and the name.
const INDENT: usize = 30;

pub(super) fn show(report: &DoctorReport, output: &Output) -> Result<()> {
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
