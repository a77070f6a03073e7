//! What templates take from Python: how values print, JSON as `json.dumps` writes it, the clock, and errors on purpose.

use chrono::format::{Item, StrftimeItems};
use chrono::{DateTime, Utc};
use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State};
use serde_json::Value as Json;

/// Adds `tojson`, `raise_exception`, `strftime_now` and Python's way of printing to `environment`.
///
/// The clock is read once, here, so that every row of a run sees the same date; `SOURCE_DATE_EPOCH` (seconds since
/// 1970) fixes it across runs. Dates are in UTC.
pub(super) fn install(environment: &mut Environment<'static>) {
    let now = now();
    environment.set_formatter(print);
    environment.add_filter("tojson", tojson);
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_function("strftime_now", move |format: &str| strftime(now, format));
}

fn now() -> DateTime<Utc> {
    let fixed = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|text| text.trim().parse().ok());
    fixed.and_then(|seconds| DateTime::from_timestamp(seconds, 0)).unwrap_or_else(Utc::now)
}

pub(super) fn strftime(at: DateTime<Utc>, format: &str) -> Result<String, Error> {
    let items: Vec<Item<'_>> = StrftimeItems::new(format).collect();
    if items.contains(&Item::Error) {
        return Err(Error::new(ErrorKind::InvalidOperation, format!("strftime_now: no such date format: {format}")));
    }
    Ok(at.format_with_items(items.iter()).to_string())
}

fn print(out: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    let text = match value.kind() {
        ValueKind::None => "None",
        ValueKind::Bool if value.is_true() => "True",
        ValueKind::Bool => "False",
        _ => return minijinja::escape_formatter(out, state, value),
    };
    out.write_str(text).map_err(Error::from)
}

/// `json.dumps(value, ensure_ascii=False, indent=indent)`, as `transformers` sets it up: unlike the built-in filter it
/// leaves `<`, `>`, `&` and `'` alone.
fn tojson(value: &Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let sort: Option<bool> = options.get("sort_keys")?;
    let _ascii: Option<bool> = options.get("ensure_ascii")?;
    options.assert_all_used()?;
    let mut out = String::new();
    Dump { indent, sort: sort.unwrap_or(false) }.write(value, 0, &mut out)?;
    Ok(out)
}

#[derive(Clone, Copy)]
struct Dump {
    indent: Option<usize>,
    sort: bool,
}

impl Dump {
    fn write(self, value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
        match value.kind() {
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.each(['[', ']'], &items, depth, out, |item, out| self.write(item, depth + 1, out))
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort {
                    keys.sort();
                }
                self.each(['{', '}'], &keys, depth, out, |key, out| {
                    *out += &Json::from(key.to_string()).to_string();
                    *out += ": ";
                    self.write(&value.get_item(key)?, depth + 1, out)
                })
            }
            ValueKind::String => {
                *out += &Json::from(value.as_str().unwrap_or_default()).to_string();
                Ok(())
            }
            ValueKind::None => {
                *out += "null";
                Ok(())
            }
            ValueKind::Bool | ValueKind::Number => {
                *out += &value.to_string();
                Ok(())
            }
            kind => Err(Error::new(ErrorKind::InvalidOperation, format!("tojson: {kind} has no JSON form"))),
        }
    }

    fn each(
        self,
        [open, close]: [char; 2],
        items: &[Value],
        depth: usize,
        out: &mut String,
        write: impl Fn(&Value, &mut String) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let line =
            |depth: usize| self.indent.map(|width| format!("\n{}", " ".repeat(width * depth))).unwrap_or_default();
        out.push(open);
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                *out += if self.indent.is_some() { "," } else { ", " };
            }
            *out += &line(depth + 1);
            write(item, out)?;
        }
        if !items.is_empty() {
            *out += &line(depth);
        }
        out.push(close);
        Ok(())
    }
}
