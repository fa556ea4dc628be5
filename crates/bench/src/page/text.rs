//! Text within a line.

use maud::{Markup, html};

/// `text`, with what stands between backticks as code. A backtick without another one is a backtick.
pub(super) fn inline(text: &str) -> Markup {
    let parts: Vec<&str> = text.split('`').collect();
    let closed = parts.len() % 2 == 1;
    html! {
        @for (i, part) in parts.iter().enumerate() {
            @if i % 2 == 0 { (part) }
            @else if i + 1 < parts.len() || closed { (code(part)) }
            @else { "`" (part) }
        }
    }
}

/// A command line breaks between its options only.
fn code(text: &str) -> Markup {
    if !text.contains(" --") {
        return html! { code { (text) } };
    }
    html! {
        code {
            @for (i, option) in text.split(" --").enumerate() {
                @if i == 0 { span { (option) } } @else { " " span { "--" (option) } }
            }
        }
    }
}

/// `value` with the digits that count: three, and none behind the point of a number of more.
pub(super) fn number(value: f64) -> String {
    let size = value.abs();
    match size {
        _ if !value.is_finite() => "–".into(),
        _ if size >= 99.95 => format!("{value:.0}"),
        _ if size >= 9.995 => format!("{value:.1}"),
        _ if size >= 0.9995 => format!("{value:.2}"),
        _ if size >= 0.001 => format!("{value:.3}"),
        _ if size == 0.0 => "0".into(),
        _ => format!("{value:.1e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backticks_come_in_pairs() {
        let check = |text, expected: &str| assert_eq!(inline(text).into_string(), expected);
        check("use `--dtype int4` & <go>", "use <code>--dtype int4</code> &amp; &lt;go&gt;");
        check("one ` only", "one ` only");
        check("`-a 1 --b <`", "<code><span>-a 1</span> <span>--b &lt;</span></code>");
        check("`a` b `c`", "<code>a</code> b <code>c</code>");
    }

    #[test]
    fn numbers_have_the_digits_that_count() {
        let given = [1234.5, 71.26, 7.126, 0.7126, 0.0, 0.000_12, f64::NAN, -20.0];
        assert_eq!(given.map(number), ["1234", "71.3", "7.13", "0.713", "0", "1.2e-4", "–", "-20.0"]);
    }
}
