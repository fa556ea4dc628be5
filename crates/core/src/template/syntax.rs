//! Syntax of Jinja2 that the engine does not have, said in syntax that it has.

use std::borrow::Cow;

/// `source` for the engine: newlines, the `generation` tag and `%` behind a string.
pub(super) fn translated(source: &str) -> String {
    // Jinja2 reads every kind of line end as a newline.
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    with_format_filter(&without_generation_tags(&source))
}

/// `'%09d' % loop.index` as `'%09d'|format(loop.index)`, where the operand is a name, a dotted name or in parentheses.
fn with_format_filter(source: &str) -> String {
    let mut text = String::with_capacity(source.len());
    let mut rest = source;
    let mut inside = false;
    while let Some(c) = rest.chars().next() {
        let next = if inside { &["%}", "}}"] } else { &["{%", "{{"] };
        let n = match c {
            '{' if rest.starts_with("{#") && !inside => rest.find("#}").map_or(rest.len(), |end| end + 2),
            '"' | '\'' if inside => {
                let n = string_len(rest);
                text.push_str(&rest[..n]);
                rest = &rest[n..];
                if let Some((operand, n)) = operand_of_percent(rest) {
                    text.push_str("|format(");
                    text.push_str(operand);
                    text.push(')');
                    rest = &rest[n..];
                }
                continue;
            }
            _ if next.iter().any(|delimiter| rest.starts_with(delimiter)) => {
                inside = !inside;
                2
            }
            c => c.len_utf8(),
        };
        text.push_str(&rest[..n]);
        rest = &rest[n..];
    }
    text
}

/// The operand of a `%` that `rest` starts with, and the bytes up to its end.
fn operand_of_percent(rest: &str) -> Option<(&str, usize)> {
    let operand = rest.trim_start().strip_prefix('%')?.trim_start();
    let start = rest.len() - operand.len();
    let is_name = |c: char| c.is_alphanumeric() || c == '_' || c == '.';
    let n = match operand.chars().next()? {
        '(' => group_len(operand)?,
        c if c.is_alphanumeric() || c == '_' => operand.find(|c| !is_name(c)).unwrap_or(operand.len()),
        _ => return None,
    };
    // What follows may belong to the operand: left as it is, which is an error and not another meaning.
    if operand[n..].trim_start().starts_with(['[', '(', '|', '.', '*']) {
        return None;
    }
    Some((operand[..n].strip_prefix('(').and_then(|group| group.strip_suffix(')')).unwrap_or(&operand[..n]), start + n))
}

/// The length of the group in parentheses that `text` starts with.
fn group_len(text: &str) -> Option<usize> {
    let (mut depth, mut at) = (0_usize, 0);
    while let Some(c) = text[at..].chars().next() {
        match c {
            '"' | '\'' => {
                at += string_len(&text[at..]);
                continue;
            }
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        at += c.len_utf8();
        if depth == 0 {
            return Some(at);
        }
    }
    None
}

/// The length of the string literal that `text` starts with, quotes included.
fn string_len(text: &str) -> usize {
    let mut chars = text.char_indices();
    let quote = chars.next().map(|(_, c)| c);
    while let Some((at, c)) = chars.next() {
        if c == '\\' {
            chars.next();
        } else if Some(c) == quote {
            return at + 1;
        }
    }
    text.len()
}

/// The `generation` tag only tells a trainer which tokens are the model's own. `with` treats the blanks around it and the
/// variables within it in the same way.
fn without_generation_tags(source: &str) -> Cow<'_, str> {
    if !source.contains("generation") {
        return source.into();
    }
    let mut text = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start + 2);
        text.push_str(before);
        rest = tag;
        let Some(end) = tag.find("%}") else { break };
        let inside = &tag[..end];
        let name = inside.trim_start_matches(['-', '+']).trim_end_matches(['-', '+']).trim();
        let replacement = match name {
            "generation" => "with",
            "endgeneration" => "endwith",
            _ => continue,
        };
        text.push_str(&inside.replace(name, replacement));
        rest = &tag[end..];
    }
    text.push_str(rest);
    text.into()
}
