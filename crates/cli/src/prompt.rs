//! The text that a command works on: an argument, or standard input.

use std::io::{self, IsTerminal, Read};

use anyhow::{Context, Result};
use tandem::Error;

use crate::failure::Usage;

/// `given`, or standard input for `-` and, unless that is a terminal, for nothing.
///
/// # Errors
/// [`Usage`] when there is nothing to read from, an error with the place when the input is not valid UTF-8, and
/// [`Error::EmptyPrompt`].
pub(crate) fn read(given: Option<String>, what: &str) -> Result<String> {
    let text = match given {
        Some(text) if text != "-" => text,
        None if io::stdin().is_terminal() => {
            let hint =
                format!("give it as an argument, or pipe it in: `echo TEXT | tandem …`; `-` reads the {what} from the terminal");
            return Err(Usage::new(format!("there is no {what}"), hint).into());
        }
        _ => read_to_end(io::stdin().lock())?,
    };
    if text.is_empty() {
        return Err(Error::EmptyPrompt.into());
    }
    Ok(text)
}

fn read_to_end(mut input: impl Read) -> Result<String> {
    let mut bytes = Vec::new();
    input.read_to_end(&mut bytes).context("standard input cannot be read")?;
    let mut text = text(bytes, 0)?;
    // What `echo` and an editor put there is no part of the text.
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

/// `bytes`, which began at `offset` of standard input, as text.
///
/// # Errors
/// With the offset of the first byte that is not valid UTF-8.
pub(crate) fn text(bytes: Vec<u8>, offset: usize) -> Result<String> {
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let byte = error.as_bytes()[at];
        anyhow::Error::from(Error::BadFile {
            file: "standard input".into(),
            problem: format!("is not valid UTF-8: byte {byte:#04x} at offset {}", offset + at),
            hint: Some("convert it first, for example with `iconv -f LATIN1 -t UTF-8`".into()),
            source: None,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_end_is_left_out() {
        for (input, expected) in [("a", "a"), ("a\n", "a"), ("a\r\n", "a"), ("a\n\n", "a\n"), ("\n", ""), ("a\r", "a\r")] {
            assert_eq!(read_to_end(input.as_bytes()).unwrap(), expected);
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_located() {
        let error = text(b"caf\xe9!".to_vec(), 10).unwrap_err();
        assert_eq!(error.to_string(), "`standard input`: is not valid UTF-8: byte 0xe9 at offset 13");
    }

    #[test]
    fn nothing_is_no_prompt() {
        assert!(matches!(read(Some(String::new()), "prompt").unwrap_err().downcast_ref(), Some(Error::EmptyPrompt)));
        assert_eq!(read(Some("x".into()), "prompt").unwrap(), "x");
    }
}
