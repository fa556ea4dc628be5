//! A position in the bytes of a header, which never passes their end.

use std::ops::Range;

use crate::error::{Error, Result};

/// Reads one number after the other.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    position: usize,
    file: &'a str,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8], file: &'a str) -> Self {
        Self { bytes, position: 0, file }
    }

    /// How far it has read, in bytes.
    pub(super) fn position(&self) -> usize {
        self.position
    }

    /// How many bytes are left.
    pub(super) fn left(&self) -> usize {
        self.bytes.len() - self.position
    }

    /// The file's name in messages.
    pub(super) fn file(&self) -> &'a str {
        self.file
    }

    /// The next `N` bytes, as a number is made of them; `what` it is, for the message.
    pub(super) fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let range = self.range(N as u64, what)?;
        let mut array = [0; N];
        array.copy_from_slice(&self.bytes[range]);
        Ok(array)
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// Where the next `n` bytes lie, which it passes.
    pub(super) fn range(&mut self, n: u64, what: &str) -> Result<Range<usize>> {
        let n = usize::try_from(n).ok().filter(|n| *n <= self.left()).ok_or_else(|| Error::BadFile {
            file: self.file.into(),
            problem: format!("ends within {what}: {n} bytes are to follow, and {} do", self.left()),
            hint: Some("the file is damaged, or its download was cut short: obtain it again".into()),
            source: None,
        })?;
        let start = self.position;
        self.position += n;
        Ok(start..self.position)
    }

    /// Where the next string lies: a length of 64 bits, then so many bytes.
    pub(super) fn string(&mut self, what: &str) -> Result<Range<usize>> {
        let length = self.u64(what)?;
        self.range(length, what)
    }

    /// The bytes of a range that it gave.
    pub(super) fn bytes(&self, range: Range<usize>) -> &'a [u8] {
        &self.bytes[range]
    }
}

/// A name from a file as messages show it: without control characters, and not too long.
pub(super) fn shown(bytes: &[u8]) -> String {
    const MAX_SHOWN: usize = 80;
    let text = String::from_utf8_lossy(bytes);
    let mut shown: String = text.chars().take(MAX_SHOWN).flat_map(char::escape_default).collect();
    if text.chars().nth(MAX_SHOWN).is_some() {
        shown.push_str("...");
    }
    shown
}
