//! Prompts equal those that transformers rendered, `goldens/templates.json`.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};
use tandem_core::template::{ChatTemplate, RenderOptions, TemplateTokens};

/// Cases that differ from transformers, with the reason. One that no longer differs must go.
const KNOWN_DIFFERENCES: &[(&str, &str)] = &[("how values print", "minijinja has no tuple without parentheses: `{{ 'x', }}`")];

#[derive(Deserialize)]
struct Goldens {
    clock: String,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    group: String,
    name: String,
    template: String,
    special_tokens: BTreeMap<String, Value>,
    messages: Vec<Value>,
    add_generation_prompt: bool,
    extra: Map<String, Value>,
    expected: Option<String>,
    expected_error: Option<String>,
    error_kind: Option<String>,
}

fn goldens() -> Goldens {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens/templates.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// What is wrong with our rendering of `case`, with special tokens guarded or not.
fn difference(case: &Case, now: i64, special: &[&str]) -> Option<String> {
    let named = case.special_tokens.iter().filter_map(|(name, token)| Some((name.clone(), token.as_str()?.to_owned())));
    let tokens = TemplateTokens { named: named.collect(), special: special.iter().map(|&token| token.to_owned()).collect() };
    let options = RenderOptions {
        add_generation_prompt: case.add_generation_prompt,
        extra: case.extra.clone(),
        now: Some(now),
        ..RenderOptions::default()
    };
    let rendered =
        ChatTemplate::new(&case.template, tokens, "golden").and_then(|template| template.render_values(&case.messages, &options));
    match (rendered, &case.expected, &case.expected_error) {
        (Ok(prompt), Some(expected), None) if prompt.text() == *expected => None,
        (Ok(prompt), Some(expected), None) => Some(format!("rendered {:?}\nexpected {expected:?}", prompt.text())),
        (Ok(prompt), _, _) => Some(format!("rendered {:?}\nexpected an error", prompt.text())),
        (Err(error), None, Some(expected)) => {
            let same = case.error_kind.as_deref() != Some("TemplateError") || error.to_string().ends_with(expected.as_str());
            (!same).then(|| format!("failed with {error}\nexpected    {expected}"))
        }
        (Err(error), _, _) => {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            Some(format!("failed with {error}: {}", cause.unwrap_or_default()))
        }
    }
}

#[test]
fn prompts_equal_those_of_transformers() {
    let goldens = goldens();
    let now: jiff::civil::DateTime = goldens.clock.parse().unwrap();
    let now = now.to_zoned(jiff::tz::TimeZone::UTC).unwrap().timestamp().as_second();
    assert!(goldens.cases.len() >= 100);
    let mut wrong = Vec::new();
    for case in &goldens.cases {
        let known = KNOWN_DIFFERENCES.iter().find(|(name, _)| *name == case.name);
        for special in [&[][..], &["<|im_start|>", "<|im_end|>", "<s>", "</s>", "<|eot_id|>", "[INST]"]] {
            match (difference(case, now, special), known) {
                (None, None) | (Some(_), Some(_)) => {}
                (Some(difference), None) => wrong.push(format!("{}, {}: {difference}", case.group, case.name)),
                (None, Some((_, reason))) => wrong.push(format!("{}, {}: no longer differs ({reason})", case.group, case.name)),
            }
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n\n"));
}
