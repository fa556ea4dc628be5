//! Text that a terminal shows and does not obey.

use std::borrow::Cow;

/// `text` with every control character but newline and tab as a picture of itself: escape sequences could otherwise move the
/// cursor, set the title or answer for the user.
pub(super) fn printable(text: &str) -> Cow<'_, str> {
    if text.chars().all(|c| picture(c).is_none()) {
        return Cow::Borrowed(text);
    }
    text.chars().map(|c| picture(c).unwrap_or(c)).collect::<String>().into()
}

/// `json` with the control characters that JSON leaves as they are escaped; they can stand within strings only.
pub(super) fn escape_json(json: &str) -> Cow<'_, str> {
    let is_obeyed = |c: char| matches!(c, '\u{7f}'..='\u{9f}');
    if !json.contains(is_obeyed) {
        return Cow::Borrowed(json);
    }
    let escaped = |c: char| if is_obeyed(c) { format!("\\u{:04x}", u32::from(c)) } else { c.to_string() };
    json.chars().map(escaped).collect::<String>().into()
}

/// The Unicode block "Control Pictures" has one for each C0 control, in their order, and for delete.
fn picture(c: char) -> Option<char> {
    match c {
        '\n' | '\t' => None,
        '\0'..='\u{1f}' => char::from_u32(0x2400 + u32::from(c)),
        '\u{7f}' => Some('\u{2421}'),
        '\u{80}'..='\u{9f}' => Some(char::REPLACEMENT_CHARACTER),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_shown() {
        assert_eq!(printable("plain é 日本\n\tπ"), "plain é 日本\n\tπ");
        assert_eq!(printable("\u{1b}[31mred\u{7}\r\u{9b}2J\u{7f}"), "␛[31mred␇␍\u{fffd}2J␡");
        assert!(matches!(printable("plain"), Cow::Borrowed(_)));
    }

    #[test]
    fn json_stays_the_same_value() {
        let text = "a\u{1b}\u{7f}\u{9b}é";
        let json = serde_json::to_string(text).unwrap();
        let escaped = escape_json(&json);
        assert!(escaped.chars().all(|c| !c.is_control()), "{escaped}");
        assert_eq!(serde_json::from_str::<String>(&escaped).unwrap(), text);
    }
}
