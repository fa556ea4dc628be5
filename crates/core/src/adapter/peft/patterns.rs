//! PEFT's own matching of modules' names: ends of names, and regular expressions as Python's `re` reads them.

use std::collections::HashSet;

use fancy_regex::{Regex, RegexBuilder};

use crate::error::{Error, Result};

/// The most names or patterns of one setting.
const MAX_PATTERNS: usize = 1 << 14;

/// The longest expression, in bytes.
const MAX_LENGTH: usize = 1 << 13;

/// The most comparisons of a pattern with a module's name that one adapter may ask for.
const MAX_COMPARISONS: usize = 1 << 24;

/// The most memory of one compiled expression, in bytes.
const MAX_COMPILED: usize = 1 << 20;

/// The most steps that an expression may go back in one comparison.
const MAX_STEPS: usize = 100_000;

/// Which modules a setting chooses.
#[derive(Debug, PartialEq)]
pub(super) enum Selection {
    /// Every linear layer but the head.
    AllLinear,
    /// Those whose names are, or end behind a dot in, one of these.
    Names(HashSet<String>),
    /// Those whose whole name matches.
    Expression(String),
}

impl Selection {
    /// Whether each of `modules` is chosen. `field` of `file` is the setting.
    pub(super) fn choose(&self, modules: &[&str], file: &str, field: &str) -> Result<Vec<bool>> {
        match self {
            Self::AllLinear => Ok(modules.iter().map(|module| !module.ends_with("lm_head")).collect()),
            Self::Names(names) => {
                let ends = |module: &str| module.match_indices('.').any(|(dot, _)| names.contains(&module[dot + 1..]));
                Ok(modules.iter().map(|module| names.contains(*module) || ends(module)).collect())
            }
            Self::Expression(expression) => {
                let expression = compile(expression, |text| format!(r"\A(?:{text})\z"), file, field)?;
                modules.iter().map(|module| is_match(&expression, module, file, field)).collect()
            }
        }
    }
}

/// The value of the first of `patterns` that matches each of `modules`, or `default`: `get_pattern_key` of `utils/other.py`.
pub(super) fn values<T: Copy>(patterns: &[(String, T)], modules: &[&str], default: T, file: &str, field: &str) -> Result<Vec<T>> {
    if patterns.len().saturating_mul(modules.len()) > MAX_COMPARISONS {
        let problem = format!("has {} patterns for {} modules, more than can be compared", patterns.len(), modules.len());
        return Err(Error::bad_field(file, field, problem));
    }
    let mut values = vec![None; modules.len()];
    // One expression is in memory at a time.
    for (pattern, value) in patterns {
        let expression = compile(pattern, |text| format!(r"\A(.*\.)?({text})\z"), file, field)?;
        for (place, module) in values.iter_mut().zip(modules).filter(|(place, _)| place.is_none()) {
            *place = is_match(&expression, module, file, field)?.then_some(*value);
        }
    }
    Ok(values.into_iter().map(|value| value.unwrap_or(default)).collect())
}

/// The number of the layer that each of `modules` is in, by the list of layers that `patterns` name, or by the first number in its name.
pub(super) fn layers(patterns: &[String], modules: &[&str], file: &str) -> Result<Vec<Option<usize>>> {
    const FIELD: &str = "layers_pattern";
    let mut numbers = vec![None; modules.len()];
    let any = [r".*?\.[^.]*\.(?P<layer_number>\d+)\.".to_owned()];
    let named: Vec<String> = patterns.iter().map(|pattern| format!(r"(?:^|.*?\.){pattern}\.(?P<layer_number>\d+)\.")).collect();
    for pattern in if patterns.is_empty() { &any[..] } else { &named[..] } {
        let expression = compile(pattern, |text| format!(r"\A{text}"), file, FIELD)?;
        for (place, module) in numbers.iter_mut().zip(modules).filter(|(place, _)| place.is_none()) {
            let found = expression.captures(module).map_err(|_| too_slow(file, FIELD))?;
            let number = found.as_ref().and_then(|found| found.name("layer_number"));
            *place = number.and_then(|number| number.as_str().parse().ok());
        }
    }
    Ok(numbers)
}

/// Refuses a setting of more names than are read.
pub(super) fn check_number(n: usize, file: &str, field: &str) -> Result<()> {
    if n <= MAX_PATTERNS {
        return Ok(());
    }
    Err(Error::bad_field(file, field, format!("has {n} entries, more than the {MAX_PATTERNS} that are read")))
}

fn compile(text: &str, whole: impl Fn(&str) -> String, file: &str, field: &str) -> Result<Regex> {
    if text.len() > MAX_LENGTH {
        return Err(Error::bad_field(file, field, format!("has an expression of {} bytes, more than {MAX_LENGTH}", text.len())));
    }
    let compiled = |text: &str| {
        RegexBuilder::new(text)
            .backtrack_limit(MAX_STEPS)
            .delegate_size_limit(MAX_COMPILED)
            .delegate_dfa_size_limit(MAX_COMPILED)
            .build()
    };
    // By itself first: an expression with a parenthesis too many is not to close the one around it.
    match compiled(text).and_then(|_| compiled(&whole(text))) {
        Ok(expression) => Ok(expression),
        Err(error) => {
            let shown: String = text.chars().take(60).collect();
            Err(Error::bad_field(
                file,
                field,
                format!("has `{shown}`, which is not a regular expression that can be read: {error}"),
            ))
        }
    }
}

fn is_match(expression: &Regex, module: &str, file: &str, field: &str) -> Result<bool> {
    expression.is_match(module).map_err(|_| too_slow(file, field))
}

fn too_slow(file: &str, field: &str) -> Error {
    Error::bad_field(file, field, "has an expression that goes back and forth too often to be compared")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(patterns: &[&str], module: &str) -> Result<usize> {
        let patterns: Vec<(String, usize)> = patterns.iter().enumerate().map(|(i, text)| ((*text).into(), i)).collect();
        Ok(values(&patterns, &[module], 99, "file", "rank_pattern")?[0])
    }

    #[test]
    fn patterns_match_whole_parts_at_the_end() {
        const MODULE: &str = "model.layers.1.mlp.up_proj";
        let check = |pattern: &str, matches: bool| assert_eq!(first(&[pattern], MODULE).unwrap() == 0, matches, "{pattern}");
        check("up_proj", true);
        check("p_proj", false);
        check("mlp.up_proj", true);
        check("mlp", false);
        check(r"layers\.(0|1)\..*", true);
        check("^model.layers.1.mlp.up_proj", true);
        check("^layers.1.mlp.up_proj", false);
        check("gate_proj|up_proj", true);
        check("(?=up).*", true);
        assert_eq!(first(&["q_proj", "up_proj", ".*"], MODULE).unwrap(), 1);
    }

    #[test]
    fn expressions_that_cannot_be_are_errors() {
        let check = |pattern: &str, expected: &str| {
            let error = first(&[pattern], &"a".repeat(64)).unwrap_err().to_string();
            assert!(error.contains("rank_pattern") && error.contains(expected), "{error}");
        };
        check("(", "not a regular expression");
        check("a)|(b", "not a regular expression");
        check(&"a{1000}".repeat(900), "not a regular expression");
        check(&"a".repeat(MAX_LENGTH + 1), "more than");
        check(r"(?:a|a)*(?!\1)(x)\1b", "too often");
    }
}
