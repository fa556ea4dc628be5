//! Syntax of Jinja2 that the engine does not have, said in syntax that it has.

use std::borrow::Cow;

/// `source` for the engine: newlines and the `generation` tag.
pub(super) fn translated(source: &str) -> String {
    // Jinja2 reads every kind of line end as a newline.
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    without_generation_tags(&source).into_owned()
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
            _ => "",
        };
        match replacement {
            "" => text.push_str(inside),
            replacement => text.push_str(&inside.replace(name, replacement)),
        }
        rest = &tag[end..];
    }
    text.push_str(rest);
    text.into()
}
