//! Bytes that become text: GPT-2's byte alphabet, and UTF-8 that arrives in parts.

/// One more than the highest character of the alphabet: 256 bytes, of which 68 are shown as 256, 257, …
const ALPHABET_END: usize = 256 + 68;

/// The byte of each character of GPT-2's alphabet, by code point; `NONE` where there is none.
///
/// Source: `bytes_to_unicode` in <https://github.com/openai/gpt-2/blob/master/src/encoder.py>.
static BYTE_OF: [u16; ALPHABET_END] = byte_table();

const NONE: u16 = u16::MAX;

/// Appends the bytes that `token` stands for. One with a character outside the alphabet, as added tokens may have, stands for
/// its own UTF-8.
pub(super) fn push_bytes(token: &str, bytes: &mut Vec<u8>) {
    let start = bytes.len();
    for c in token.chars() {
        match BYTE_OF.get(c as usize) {
            Some(&byte) if byte != NONE => bytes.push(byte as u8),
            _ => {
                bytes.truncate(start);
                bytes.extend_from_slice(token.as_bytes());
                return;
            }
        }
    }
}

/// Takes all text from `bytes` that later bytes cannot change. What is left is the start of one character.
/// Sequences that no byte can complete become U+FFFD, one for one as in [`String::from_utf8_lossy`].
pub(super) fn take_text(bytes: &mut Vec<u8>) -> String {
    let mut text = String::new();
    let mut start = 0;
    loop {
        match std::str::from_utf8(&bytes[start..]) {
            Ok(valid) => {
                text.push_str(valid);
                start = bytes.len();
                break;
            }
            Err(e) => {
                let end = start + e.valid_up_to();
                text.push_str(&String::from_utf8_lossy(&bytes[start..end]));
                match e.error_len() {
                    Some(n) => {
                        text.push(char::REPLACEMENT_CHARACTER);
                        start = end + n;
                    }
                    None => {
                        start = end;
                        break;
                    }
                }
            }
        }
    }
    bytes.drain(..start);
    text
}

const fn byte_table() -> [u16; ALPHABET_END] {
    let mut table = [NONE; ALPHABET_END];
    let mut byte = 0;
    let mut unprintable = 0;
    while byte < 256 {
        let printable = matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
        if printable {
            table[byte] = byte as u16;
        } else {
            table[256 + unprintable] = byte as u16;
            unprintable += 1;
        }
        byte += 1;
    }
    table
}
