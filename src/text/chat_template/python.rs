//! What templates expect of Python and jinja2: how values print, filters and tests that differ from the engine's, the clock, and
//! `raise_exception`.

use std::fmt::Write as _;

use chrono::format::{Item, StrftimeItems};
use chrono::{DateTime, FixedOffset, Local};
use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State};

use super::json::{number, tojson};
use super::methods;

/// Makes `environment` behave like that of `transformers`.
///
/// The clock is read once, here, so that all rows of a run have the same date, in local time. `SOURCE_DATE_EPOCH` (seconds since 1970,
/// in UTC) sets it.
pub(super) fn install(environment: &mut Environment<'static>) {
    let now = now();
    environment.set_formatter(print);
    environment.set_unknown_method_callback(methods::call);
    environment.add_filter("tojson", tojson);
    environment.add_filter("trim", trim);
    environment.add_filter("string", string);
    environment.add_filter("default", default);
    environment.add_filter("d", default);
    environment.add_filter("dictsort", dictsort);
    environment.add_filter("int", int);
    environment.add_filter("float", float);
    environment.add_test("sequence", is_sequence);
    environment.add_test("iterable", is_iterable);
    environment.add_function("raise_exception", |state: &State, message: &Value| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, methods::shown(state, message)?).with_source(Raised))
    });
    environment.add_function("strftime_now", move |format: &str| strftime(now, format));
}

/// Marks errors that the template raises itself.
#[derive(Debug, thiserror::Error)]
#[error("raised by the template")]
pub(super) struct Raised;

fn now() -> DateTime<FixedOffset> {
    let fixed = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|text| text.trim().parse().ok());
    let fixed = fixed.and_then(|seconds| DateTime::from_timestamp(seconds, 0));
    fixed.map_or_else(|| Local::now().fixed_offset(), |at| at.fixed_offset())
}

pub(super) fn strftime(at: DateTime<FixedOffset>, format: &str) -> Result<String, Error> {
    let items: Vec<Item<'_>> = StrftimeItems::new(format).collect();
    let wrong = || Error::new(ErrorKind::InvalidOperation, format!("strftime_now: no such date format: {format}"));
    if items.contains(&Item::Error) {
        return Err(wrong());
    }
    let mut text = String::new();
    // Some formats can be parsed but not written.
    write!(text, "{}", at.format_with_items(items.iter())).map_err(|_| wrong())?;
    Ok(text)
}

fn print(out: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    let text = match value.kind() {
        ValueKind::Number if !value.is_integer() => number(f64::try_from(value.clone())?),
        ValueKind::Seq | ValueKind::Map | ValueKind::Iterable => methods::shown(state, value)?,
        _ => return minijinja::escape_formatter(out, state, value),
    };
    out.write_str(&text).map_err(Error::from)
}

/// `str(value)`.
fn string(state: &State, value: &Value) -> Result<Value, Error> {
    if value.as_str().is_some() { Ok(value.clone()) } else { methods::shown(state, value).map(Value::from) }
}

/// `str(value).strip(chars)`.
fn trim(state: &State, value: &Value, chars: Option<&str>) -> Result<Value, Error> {
    let chars = methods::few(chars)?;
    match value.as_str() {
        Some(text) => Ok(Value::from(methods::strip(text, chars, true, true))),
        None => Ok(Value::from(methods::strip(&methods::shown(state, value)?, chars, true, true))),
    }
}

fn default(value: &Value, other: Option<Value>, boolean: Option<bool>, options: Kwargs) -> Result<Value, Error> {
    let other = other.or(options.get("default_value")?).unwrap_or_else(|| Value::from(""));
    let boolean = boolean.or(options.get("boolean")?).unwrap_or(false);
    options.assert_all_used()?;
    Ok(if value.is_undefined() || (boolean && !value.is_true()) { other } else { value.clone() })
}

/// As the engine's filter, with options also by position.
fn dictsort(
    value: &Value,
    case_sensitive: Option<bool>,
    by: Option<String>,
    reverse: Option<bool>,
    options: Kwargs,
) -> Result<Value, Error> {
    let given = [
        ("case_sensitive", case_sensitive.map(Value::from)),
        ("by", by.map(Value::from)),
        ("reverse", reverse.map(Value::from)),
    ];
    let mut named = Vec::new();
    for (name, given) in given {
        named.extend(given.or(options.get(name)?).map(|value| (name, value)));
    }
    options.assert_all_used()?;
    minijinja::filters::dictsort(value, Kwargs::from_iter(named))
}

/// A value that is not a number becomes 0, not an error.
fn int(
    state: &State,
    value: &Value,
    default: Option<Value>,
    base: Option<u32>,
    options: Kwargs,
) -> Result<Value, Error> {
    let default = default.or(options.get("default")?).unwrap_or_else(|| Value::from(0));
    minijinja::filters::int(state, value, Some(default), base, options)
}

fn float(state: &State, value: &Value, default: Option<Value>, options: Kwargs) -> Result<Value, Error> {
    let default = default.or(options.get("default")?).unwrap_or_else(|| Value::from(0.0));
    minijinja::filters::float(state, value, Some(default), options)
}

/// In jinja2 everything with a length and items is a sequence, also strings and mappings.
fn is_sequence(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::String | ValueKind::Map | ValueKind::Undefined)
}

fn is_iterable(value: &Value) -> bool {
    !value.is_none() && value.try_iter().is_ok()
}
