//! What filters, tests and methods make and look at: counted before they run, by what each does with its arguments.

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Value};

use super::budget::Budget;

/// Bytes that a list takes by itself, and for each of its items.
pub(super) const LIST: usize = 48;
pub(super) const ITEM: usize = 24;

/// A pair of a key and a value, as a tuple in a list; the largest that a filter makes of an item.
pub(super) const PAIR: usize = 96;

/// A piece of a text that was split.
const PIECE: usize = 48;

/// How much longer a character can get: the capital of `ΐ` has three.
const LARGER: usize = 3;

/// And escaped: `&` is `&#x26;`.
pub(super) const ESCAPED: usize = 6;

/// The longest text that a date is made by.
const MAX_DATE_FORMAT: usize = 1024;

/// Elements of a list or a map, characters of a text: at most so many.
pub(super) fn length(value: &Value) -> usize {
    match value.as_str() {
        Some(text) => text.len(),
        None => value.len().unwrap_or(1),
    }
}

/// The filter `name`, applied to the first of `args`.
pub(super) fn of_filter(budget: &Budget, name: &str, args: &[Value]) -> Result<(), Error> {
    let (subject, rest) = args.split_first().ok_or(ErrorKind::MissingArgument)?;
    match name {
        // They give what is there.
        "default" | "d" | "first" | "attr" | "bool" | "int" | "float" | "abs" | "round" | "safe" => look(budget, subject),
        "length" | "count" | "last" => look(budget, subject),
        "trim" | "string" | "wordcount" => budget.print(subject).map(drop),
        "upper" | "lower" | "title" | "capitalize" => larger(budget, subject, LARGER),
        "escape" | "e" => larger(budget, subject, ESCAPED),
        "replace" => replace(budget, subject, rest),
        "join" => join(budget, subject, rest.first()),
        "format" => format(budget, subject, rest),
        "indent" => indent(budget, subject, rest),
        "split" | "lines" => split(budget, subject, rest.first()),
        "batch" | "slice" => {
            collect(budget, args)?;
            budget.make(largest_number(rest).saturating_mul(LIST + ITEM))
        }
        // The sum of lists copies what it has for each.
        "sum" => {
            let n = budget.look_into(subject)?;
            rest.iter().try_for_each(|value| budget.look_into(value).map(drop))?;
            budget.make(if rest.is_empty() { 0 } else { n.saturating_mul(n).saturating_mul(ITEM) })
        }
        // Each item is compared with the arguments.
        "select" | "reject" | "selectattr" | "rejectattr" => {
            let n = sum(rest.iter().map(|value| budget.look_into(value)))?;
            budget.look(n.saturating_mul(length(subject)))?;
            collect(budget, &args[..1])
        }
        // It counts itself what it makes.
        "tojson" => budget.look_into(subject).map(drop),
        _ => collect(budget, args),
    }
}

/// The test `name`; some compare their arguments.
pub(super) fn of_test(budget: &Budget, name: &str, args: &[Value]) -> Result<(), Error> {
    match name {
        "in" => {
            let n = sum(args.iter().take(1).map(|value| budget.look_into(value)))?;
            let containers = args.get(1);
            budget.look(n.saturating_mul(containers.map_or(1, length)))?;
            containers.map_or(Ok(()), |value| budget.look_into(value).map(drop))
        }
        "eq" | "equalto" | "==" | "ne" | "!=" | "lt" | "lessthan" | "<" | "le" | "<=" | "gt" | "greaterthan" | ">" | "ge"
        | ">=" => args.iter().try_for_each(|value| budget.look_into(value).map(drop)),
        _ => args.iter().try_for_each(|value| look(budget, value)),
    }
}

/// The method `name` of the first of `args`.
pub(super) fn of_method(budget: &Budget, name: &str, args: &[Value]) -> Result<(), Error> {
    let (subject, rest) = args.split_first().ok_or(ErrorKind::MissingArgument)?;
    if subject.as_str().is_none() {
        return match name {
            "get" => rest.first().map_or(Ok(()), |key| budget.look_into(key).map(drop)),
            "items" | "keys" | "values" => budget.make(length(subject).saturating_mul(PAIR)),
            // Of a list, a namespace or a loop.
            _ if subject.kind() == ValueKind::Plain => rest.iter().try_for_each(|value| budget.look_into(value).map(drop)),
            _ => args.iter().try_for_each(|value| budget.look_into(value).map(drop)),
        };
    }
    match name {
        "upper" | "lower" | "title" | "capitalize" => larger(budget, subject, LARGER),
        "replace" => replace(budget, subject, rest),
        "join" => rest.first().map_or(Ok(()), |list| join(budget, list, Some(subject))),
        "format" => format(budget, subject, rest),
        "split" | "rsplit" | "splitlines" => split(budget, subject, rest.first()),
        "strip" | "lstrip" | "rstrip" | "removeprefix" | "removesuffix" | "partition" | "rpartition" => {
            rest.iter().try_for_each(|value| look(budget, value))?;
            budget.print(subject).map(drop)
        }
        _ => args.iter().try_for_each(|value| budget.look_into(value).map(drop)),
    }
}

/// A function that copies its arguments.
pub(super) fn of_function(budget: &Budget, args: &[Value]) -> Result<(), Error> {
    args.iter().try_for_each(|value| {
        look(budget, value)?;
        budget.make(LIST + length(value).saturating_mul(2 * PAIR))
    })
}

/// A date is shown by `format`.
pub(super) fn of_date(format: &str) -> Result<(), Error> {
    if format.len() <= MAX_DATE_FORMAT {
        return Ok(());
    }
    Err(Error::new(ErrorKind::InvalidOperation, "the format of the date is too long"))
}

fn look(budget: &Budget, value: &Value) -> Result<(), Error> {
    value.as_str().map_or(Ok(()), |text| budget.read(text))
}

fn larger(budget: &Budget, subject: &Value, times: usize) -> Result<(), Error> {
    let n_bytes = budget.printed(subject)?;
    budget.make(n_bytes.saturating_mul(times))
}

/// Lists are made of the items of the first of `args`.
fn collect(budget: &Budget, args: &[Value]) -> Result<(), Error> {
    args.iter().try_for_each(|value| budget.look_into(value).map(drop))?;
    budget.make(LIST + args.first().map_or(0, length).saturating_mul(PAIR))
}

fn replace(budget: &Budget, subject: &Value, rest: &[Value]) -> Result<(), Error> {
    let mut printed = [subject].into_iter().chain(rest).map(|value| budget.printed(value));
    let n_bytes = printed.next().transpose()?.unwrap_or(0);
    let new = printed.nth(1).transpose()?.unwrap_or(0);
    let n = match (subject.as_str(), rest.first().and_then(Value::as_str)) {
        (Some(text), Some("")) => text.len() + 1,
        (Some(text), Some(old)) => text.matches(old).count(),
        _ => n_bytes + 1,
    };
    budget.make(n_bytes.saturating_add(n.saturating_mul(new)))
}

fn join(budget: &Budget, list: &Value, joiner: Option<&Value>) -> Result<(), Error> {
    let n_bytes = budget.printed(list)?;
    let between = joiner.map_or(Ok(0), |joiner| budget.printed(joiner))?;
    budget.make(n_bytes.saturating_add(length(list).saturating_mul(between)))
}

/// Places of a text are filled: each with the longest of the arguments at most, and up to the width that it names.
fn format(budget: &Budget, text: &Value, rest: &[Value]) -> Result<(), Error> {
    let longest = rest.iter().try_fold(0, |longest, value| budget.printed(value).map(|n| longest.max(n)))?;
    let n_bytes = budget.printed(text)?;
    let text = text.as_str().unwrap_or_default();
    let n_places = text.bytes().filter(|byte| matches!(byte, b'%' | b'{')).count();
    let widths = text.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
    let widths = widths.fold(0_usize, |sum, digits| sum.saturating_add(digits.parse().unwrap_or(usize::MAX)));
    let width = if takes_widths(text) { largest_number(rest) } else { 0 };
    let each = longest.max(width).saturating_add(64);
    budget.make(n_bytes.saturating_add(widths.saturating_mul(2)).saturating_add(n_places.saturating_mul(each)))
}

/// Whether arguments may be widths: `%*d`, `{:>{}}`.
fn takes_widths(text: &str) -> bool {
    let is_nested = |part: &str| part.find('{').is_some_and(|open| part.find('}').is_none_or(|close| open < close));
    text.contains('*') || text.split(':').skip(1).any(is_nested)
}

fn indent(budget: &Budget, subject: &Value, rest: &[Value]) -> Result<(), Error> {
    let n_bytes = budget.printed(subject)?;
    let n_lines = subject.as_str().map_or(n_bytes, |text| text.matches('\n').count()) + 1;
    budget.make(n_bytes.saturating_add(n_lines.saturating_mul(largest_number(rest).max(4))))
}

fn split(budget: &Budget, subject: &Value, separator: Option<&Value>) -> Result<(), Error> {
    look(budget, subject)?;
    let n_bytes = budget.printed(subject)?;
    let text = subject.as_str().unwrap_or_default();
    let n = match separator.and_then(Value::as_str) {
        Some("") => n_bytes,
        Some(separator) => text.matches(separator).count(),
        None => text.chars().filter(|c| c.is_whitespace()).count(),
    };
    budget.make(n_bytes.saturating_add((n + 2).saturating_mul(PIECE)))
}

/// The largest whole number among `values`, also those that are named.
fn largest_number(values: &[Value]) -> usize {
    let number = |value: &Value| match value.kind() {
        ValueKind::Number if value.is_integer() => {
            let number = i128::try_from(value.clone()).unwrap_or(i128::MAX).max(0);
            usize::try_from(number).unwrap_or(usize::MAX)
        }
        // An indentation or a width is at most as long as a text that stands for it.
        ValueKind::String => length(value),
        _ => 0,
    };
    let named = |value: &Value| {
        let keys = if value.is_kwargs() { value.try_iter().ok() } else { None };
        keys.into_iter().flatten().filter_map(|key| value.get_item(&key).ok()).map(|value| number(&value)).max().unwrap_or(0)
    };
    values.iter().map(|value| number(value).max(named(value))).max().unwrap_or(0)
}

fn sum(counts: impl Iterator<Item = Result<usize, Error>>) -> Result<usize, Error> {
    counts.into_iter().try_fold(0, |sum: usize, n| Ok(sum.saturating_add(n?)))
}
