//! Text in lines that a terminal of the usual width shows as they are.

/// Columns that a line may take.
pub(crate) const WIDTH: usize = 80;

/// `text` in lines of at most `width` columns, broken between words; a word that is longer, such as a path, keeps its line.
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

/// As [`wrap`], and words that are longer are broken as well.
pub(crate) fn wrap_all(text: &str, width: usize) -> Vec<String> {
    let pieces = |line: String| {
        let letters: Vec<char> = line.chars().collect();
        letters.chunks(width).map(|piece| piece.iter().collect()).collect::<Vec<String>>()
    };
    wrap(text, width).into_iter().flat_map(pieces).collect()
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
        assert_eq!(wrap_all("a/very/löng/path and more", 10), ["a/very/lön", "g/path", "and more"]);
    }
}
