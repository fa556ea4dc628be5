//! The file of `--prompts`: a prompt a line, in JSON.

use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;
use tandem::Error;
use tandem::files::ModelFile;

use crate::prompt;

/// The largest file that is read, in bytes.
const MAX_BYTES: u64 = 256 << 20;

/// A line of the file.
#[derive(Debug, PartialEq)]
pub(super) struct Line {
    /// Its number, from 1.
    pub(super) number: usize,
    pub(super) prompt: String,
}

/// What a line may be.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Text(String),
    Object { prompt: String },
}

/// The prompts of the file at `path`, or of standard input for `-`, and what it is called.
///
/// # Errors
/// [`Error::BadFile`] with the number of the first line that is not a prompt, and for a file without any.
pub(super) fn read(path: &Path) -> Result<(String, Vec<Line>)> {
    if path == Path::new("-") {
        let mut bytes = Vec::new();
        std::io::stdin().lock().take(MAX_BYTES + 1).read_to_end(&mut bytes).context("standard input cannot be read")?;
        if bytes.len() as u64 > MAX_BYTES {
            let problem = format!("has more than {} MiB", MAX_BYTES >> 20);
            let hint = Some("divide it into several".into());
            return Err(Error::BadFile { file: "standard input".into(), problem, hint, source: None }.into());
        }
        let lines = parse("standard input", &prompt::text(bytes, 0)?)?;
        return Ok(("standard input".into(), lines));
    }
    let file = ModelFile::Path(path.into());
    let (name, text) = (file.name().into_owned(), file.read_text(MAX_BYTES)?);
    let lines = parse(&name, &text)?;
    Ok((name, lines))
}

fn parse(name: &str, text: &str) -> Result<Vec<Line>> {
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
    let lines = lines.map(|(number, line)| {
        let bad = |problem: &str| Error::BadFile {
            file: name.into(),
            problem: format!("line {number} {problem}"),
            hint: Some("a line is a JSON string, or an object such as `{\"prompt\": \"Hello\"}`".into()),
            source: None,
        };
        match serde_json::from_str(line) {
            Ok(Written::Text(prompt) | Written::Object { prompt }) if prompt.is_empty() => Err(bad("has an empty prompt")),
            Ok(Written::Text(prompt) | Written::Object { prompt }) => Ok(Line { number, prompt }),
            Err(error) if error.is_data() => Err(bad("is neither a JSON string nor an object with a string `prompt`")),
            Err(_) => Err(bad("is not valid JSON")),
        }
    });
    let lines = lines.collect::<Result<Vec<Line>, Error>>()?;
    if lines.is_empty() {
        let hint = Some("write one JSON string per line, such as `\"Hello\"`".into());
        return Err(Error::BadFile { file: name.into(), problem: "holds no prompts".into(), hint, source: None }.into());
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_strings_or_objects() {
        let text = "\"one\"\n\n{\"id\": 7, \"prompt\": \"two\\nlines\"}\r\n";
        let line = |number, prompt: &str| Line { number, prompt: prompt.into() };
        assert_eq!(parse("p", text).unwrap(), [line(1, "one"), line(3, "two\nlines")]);
    }

    #[test]
    fn bad_lines_are_named_by_their_number() {
        for (text, expected) in [
            ("\"a\"\nb", "`p`: line 2 is not valid JSON"),
            ("\"a\"\n\n7", "`p`: line 3 is neither a JSON string nor an object with a string `prompt`"),
            ("{\"text\": \"a\"}", "`p`: line 1 is neither a JSON string nor an object with a string `prompt`"),
            ("{\"prompt\": \"\"}", "`p`: line 1 has an empty prompt"),
            ("\n \n", "`p`: holds no prompts"),
        ] {
            assert_eq!(parse("p", text).unwrap_err().to_string(), expected);
        }
    }
}
