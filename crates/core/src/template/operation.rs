//! The operations of templates as functions that count what they make and look at, before they do it.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use minijinja::value::{Object, ObjectRepr, Tuple, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};

use super::budget::Budget;
use super::cost;

/// An operation of the language. What is of numbers alone stays with the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Concat,
    Add,
    Multiply,
    Remainder,
    Compare,
    Slice,
    Item,
    List,
    Tuple,
    Map,
    Key,
    Iterate,
    Unpack,
    Filter,
    Test,
    Method,
    Function,
}

/// An operation that a template can call, with what its rendering may take.
#[derive(Debug)]
pub(super) struct Metered {
    pub(super) operation: Operation,
    pub(super) budget: Arc<Budget>,
}

impl Operation {
    pub(super) const ALL: [Self; 17] = [
        Self::Concat,
        Self::Add,
        Self::Multiply,
        Self::Remainder,
        Self::Compare,
        Self::Slice,
        Self::Item,
        Self::List,
        Self::Tuple,
        Self::Map,
        Self::Key,
        Self::Iterate,
        Self::Unpack,
        Self::Filter,
        Self::Test,
        Self::Method,
        Self::Function,
    ];

    /// By what name the engine finds it: none that a template could write.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Concat => "~",
            Self::Add => "+",
            Self::Multiply => "*",
            Self::Remainder => "%",
            Self::Compare => "<=>",
            Self::Slice => "[:]",
            Self::Item => "[]",
            Self::List => "[,]",
            Self::Tuple => "(,)",
            Self::Map => "{,}",
            Self::Key => "{:}",
            Self::Iterate => "(for)",
            Self::Unpack => "(*)",
            Self::Filter => "(|)",
            Self::Test => "(is)",
            Self::Method => "(.)",
            Self::Function => "(())",
        }
    }
}

impl fmt::Display for Metered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.operation.name())
    }
}

impl Object for Metered {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
        let budget = &*self.budget;
        match (self.operation, args) {
            (Operation::Concat, [a, b]) => {
                budget.print(a)?;
                budget.print(b)?;
                Ok(Value::from(format!("{a}{b}")))
            }
            (Operation::Add, [a, b]) => add(budget, a, b),
            (Operation::Multiply, [a, b]) => multiply(budget, a, b),
            (Operation::Remainder, [a, b]) => remainder(budget, state, a, b),
            (Operation::Compare, [first, rest @ ..]) => compare(budget, first, rest),
            (Operation::Slice, [value, start, stop, step]) => slice(budget, value, start, stop, step),
            (Operation::Item, [container, key]) => {
                match container.kind() {
                    ValueKind::String | ValueKind::Iterable => budget.look(cost::length(container))?,
                    // It is hashed.
                    _ => drop(budget.look_into(key)?),
                }
                container.get_item(key)
            }
            (Operation::List, items) => made(budget, items.len()).map(|()| Value::from(items.to_vec())),
            (Operation::Tuple, items) => made(budget, items.len()).map(|()| Value::from(Tuple::from(items))),
            (Operation::Map, [map]) => {
                budget.make(cost::LIST.saturating_add(cost::length(map).saturating_mul(cost::PAIR)))?;
                Ok(map.clone())
            }
            (Operation::Key, [key]) => budget.look_into(key).map(|_| key.clone()),
            (Operation::Iterate | Operation::Unpack, [value]) => {
                budget.look(cost::length(value))?;
                if self.operation == Operation::Unpack || value.kind() == ValueKind::Map {
                    made(budget, cost::length(value))?;
                }
                Ok(value.clone())
            }
            (Operation::Filter, [name, args @ ..]) => filter(budget, state, name.as_str().unwrap_or_default(), args),
            (Operation::Test, [name, args @ ..]) => {
                let name = name.as_str().unwrap_or_default();
                cost::of_test(budget, name, args)?;
                state.perform_test(name, args).map(Value::from).map_err(|error| unknown(error, "test", name))
            }
            (Operation::Method, [name, args @ ..]) => {
                let name = name.as_str().unwrap_or_default();
                cost::of_method(budget, name, args)?;
                let (object, args) = args.split_first().ok_or(ErrorKind::MissingArgument)?;
                object.call_method(state, name, args)
            }
            // The constant in the place of a subject.
            (Operation::Function, [name, _, args @ ..]) => {
                let name = name.as_str().unwrap_or_default();
                cost::of_function(budget, args)?;
                let function =
                    state.lookup(name).ok_or_else(|| Error::new(ErrorKind::UnknownFunction, format!("{name} is unknown")))?;
                function.call(state, args)
            }
            _ => Err(ErrorKind::MissingArgument.into()),
        }
    }
}

/// Applies the filter `name`; those that apply another one to each item do so here, that it is counted as well.
fn filter(budget: &Budget, state: &mut State<'_, '_>, name: &str, args: &[Value]) -> Result<Value, Error> {
    if let ("map", [items, inner, rest @ ..]) = (name, args)
        && let Some(inner) = inner.as_str()
    {
        made(budget, cost::length(items))?;
        let apply = |item| filter(budget, state, inner, &[&[item], rest].concat());
        return items.try_iter()?.map(apply).collect::<Result<Vec<_>, _>>().map(Value::from);
    }
    cost::of_filter(budget, name, args)?;
    state.apply_filter(name, args).map_err(|error| unknown(error, "filter", name))
}

fn unknown(error: Error, what: &str, name: &str) -> Error {
    match error.kind() {
        ErrorKind::UnknownFilter | ErrorKind::UnknownTest if error.detail().is_none() => {
            Error::new(error.kind(), format!("{what} {name} is unknown"))
        }
        _ => error,
    }
}

/// A list of `n` items is going to be made.
fn made(budget: &Budget, n: usize) -> Result<(), Error> {
    budget.make(cost::LIST + n.saturating_mul(cost::ITEM))
}

fn add(budget: &Budget, a: &Value, b: &Value) -> Result<Value, Error> {
    if let (Some(text), Some(more)) = (a.as_str(), b.as_str()) {
        budget.make(text.len() + more.len())?;
        return Ok(Value::from([text, more].concat()));
    }
    if is_list(a) && is_list(b) && a.is_tuple() == b.is_tuple() {
        made(budget, cost::length(a).saturating_add(cost::length(b)))?;
        let items: Vec<Value> = a.try_iter()?.chain(b.try_iter()?).collect();
        return Ok(if a.is_tuple() { Value::from(Tuple::from(items)) } else { Value::from(items) });
    }
    numbers("+", a, b, i128::checked_add, |a, b| a + b)
}

fn multiply(budget: &Budget, a: &Value, b: &Value) -> Result<Value, Error> {
    let (repeated, times) = if a.as_str().is_some() || is_list(a) { (a, b) } else { (b, a) };
    let is_text = repeated.as_str().is_some();
    if !is_text && !is_list(repeated) {
        return numbers("*", a, b, i128::checked_mul, |a, b| a * b);
    }
    let times = times.as_i64().ok_or_else(|| impossible("*", a, b))?;
    let times = usize::try_from(times).unwrap_or(0);
    if let Some(text) = repeated.as_str() {
        budget.make(text.len().saturating_mul(times))?;
        return Ok(Value::from(text.repeat(times)));
    }
    let n_items = cost::length(repeated).saturating_mul(times);
    made(budget, n_items)?;
    let items: Vec<Value> = repeated.try_iter()?.collect();
    let items = items.iter().cycle().take(items.len().saturating_mul(times)).cloned().collect::<Vec<_>>();
    Ok(if repeated.is_tuple() { Value::from(Tuple::from(items)) } else { Value::from(items) })
}

/// Of numbers, with the sign of the divisor; behind a text the operator fills its places.
fn remainder(budget: &Budget, state: &mut State<'_, '_>, a: &Value, b: &Value) -> Result<Value, Error> {
    if a.as_str().is_some() {
        let mut args = vec![a.clone()];
        match b.is_tuple() {
            true => args.extend(b.try_iter()?),
            false => args.push(b.clone()),
        }
        return filter(budget, state, "format", &args);
    }
    let of_floats = |a: f64, b: f64| {
        let rest = a % b;
        if rest != 0.0 && (rest < 0.0) != (b < 0.0) { rest + b } else { rest.copysign(b) }
    };
    let of_integers = |a: i128, b: i128| {
        let rest = a.checked_rem(b)?;
        Some(if rest != 0 && (rest < 0) != (b < 0) { rest + b } else { rest })
    };
    numbers("%", a, b, of_integers, of_floats)
}

fn numbers(
    operator: &str,
    a: &Value,
    b: &Value,
    of_integers: impl Fn(i128, i128) -> Option<i128>,
    of_floats: impl Fn(f64, f64) -> f64,
) -> Result<Value, Error> {
    let is_number = |value: &Value| matches!(value.kind(), ValueKind::Number | ValueKind::Bool);
    let is_integer = |value: &Value| value.is_integer() || value.kind() == ValueKind::Bool;
    if !is_number(a) || !is_number(b) {
        return Err(impossible(operator, a, b));
    }
    if is_integer(a) && is_integer(b) {
        let result = of_integers(i128::try_from(a.clone())?, i128::try_from(b.clone())?);
        let failed = || Error::new(ErrorKind::InvalidOperation, format!("unable to calculate {a} {operator} {b}"));
        let result = result.ok_or_else(failed)?;
        return Ok(i64::try_from(result).map_or_else(|_| Value::from(result), Value::from));
    }
    let float = |value: &Value| match value.kind() {
        ValueKind::Bool => Ok(f64::from(u8::from(value.is_true()))),
        _ => f64::try_from(value.clone()),
    };
    let (a, b) = (float(a)?, float(b)?);
    if operator == "%" && b == 0.0 {
        return Err(Error::new(ErrorKind::InvalidOperation, format!("unable to calculate {a} % {b}")));
    }
    Ok(Value::from(of_floats(a, b)))
}

fn impossible(operator: &str, a: &Value, b: &Value) -> Error {
    let problem = format!("tried to use {operator} operator on unsupported types {} and {}", a.kind(), b.kind());
    Error::new(ErrorKind::InvalidOperation, problem)
}

/// `first`, and then operators and operands in turn: `a < b < c`.
fn compare(budget: &Budget, first: &Value, rest: &[Value]) -> Result<Value, Error> {
    let mut left = first;
    for step in rest.chunks_exact(2) {
        let right = &step[1];
        let operator = step[0].as_str().unwrap_or_default();
        let holds = match operator {
            "in" => contains(budget, right, left)?,
            "not in" => !contains(budget, right, left)?,
            operator => {
                budget.look_into(left)?;
                budget.look_into(right)?;
                match operator {
                    "==" => left == right,
                    "!=" => left != right,
                    "<" => left.partial_cmp(right) == Some(Ordering::Less),
                    "<=" => left <= right,
                    ">" => left.partial_cmp(right) == Some(Ordering::Greater),
                    _ => left >= right,
                }
            }
        };
        if !holds {
            return Ok(false.into());
        }
        left = right;
    }
    Ok(true.into())
}

fn contains(budget: &Budget, container: &Value, value: &Value) -> Result<bool, Error> {
    if let Some(text) = container.as_str() {
        budget.read(text)?;
        return Ok(match value.as_str() {
            Some(part) => text.contains(part),
            None => {
                budget.print(value)?;
                text.contains(&value.to_string())
            }
        });
    }
    let size = budget.look_into(value)?;
    match container.kind() {
        ValueKind::Undefined | ValueKind::Plain => Ok(false),
        ValueKind::Map => Ok(!container.get_item(value)?.is_undefined()),
        ValueKind::Seq | ValueKind::Iterable => {
            if size > 1 {
                budget.look(size.saturating_mul(cost::length(container)))?;
            }
            for item in container.try_iter()? {
                budget.look_into(&item)?;
                if item == *value {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        _ => Err(Error::new(ErrorKind::InvalidOperation, "cannot perform a containment check on this value")),
    }
}

/// `value[start:stop:step]`, as Python has it.
fn slice(budget: &Budget, value: &Value, start: &Value, stop: &Value, step: &Value) -> Result<Value, Error> {
    let number = |value: &Value| if value.is_none() { Ok(None) } else { i64::try_from(value.clone()).map(Some) };
    let step = number(step)?.unwrap_or(1);
    if step == 0 {
        return Err(Error::new(ErrorKind::InvalidOperation, "cannot slice by step size of 0"));
    }
    if matches!(value.kind(), ValueKind::Undefined | ValueKind::None) {
        return Ok(Value::from(Vec::<Value>::new()));
    }
    let is_text = value.as_str().is_some();
    if !is_text && !is_list(value) {
        return Err(Error::new(ErrorKind::InvalidOperation, format!("value of type {} cannot be sliced", value.kind())));
    }
    let length = value.len().unwrap_or_else(|| cost::length(value));
    let positions = positions(number(start)?, number(stop)?, step, length as i64);
    if let Some(text) = value.as_str() {
        budget.read(text)?;
        if step == 1 {
            let first = positions.clone().next().unwrap_or(0);
            let part: String = text.chars().skip(first).take(positions.count()).collect();
            return budget.make(part.len()).map(|()| Value::from(part));
        }
        budget.make(text.len().saturating_mul(8))?;
        let characters: Vec<char> = text.chars().collect();
        return Ok(Value::from(positions.filter_map(|i| characters.get(i)).collect::<String>()));
    }
    made(budget, length)?;
    let items: Vec<Value> = value.try_iter()?.collect();
    let items: Vec<Value> = positions.filter_map(|i| items.get(i).cloned()).collect();
    Ok(if value.is_tuple() { Value::from(Tuple::from(items)) } else { Value::from(items) })
}

/// Which of `length` positions a slice has: `slice.indices` of Python.
fn positions(start: Option<i64>, stop: Option<i64>, step: i64, length: i64) -> impl Iterator<Item = usize> + Clone {
    let (least, most) = if step > 0 { (0, length) } else { (-1, length - 1) };
    let clamp = |at: i64| if at < 0 { at.saturating_add(length).max(least) } else { at.min(most) };
    let start = start.map_or(if step > 0 { least } else { most }, clamp);
    let stop = stop.map_or(if step > 0 { most } else { least }, clamp);
    let distance = if step > 0 { stop - start } else { start - stop };
    let n = if distance <= 0 { 0 } else { 1 + (distance - 1) / step.saturating_abs() };
    (0..n).map(move |i| (start + i * step) as usize)
}

fn is_list(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable)
}
