//! `tojson` as `transformers` sets it up: what Python's `json.dumps` writes. Unlike the engine's own filter it leaves
//! `<`, `>`, `&` and `'` alone. And the way in: JSON as values of the engine.

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Error, ErrorKind, State};
use serde_json::Value as Json;

use super::methods::charge;

/// JSON as a template sees it.
pub(super) fn value(json: &Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(value) => Value::from(*value),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Value::from(number),
            (None, Some(number)) => Value::from(number),
            (None, None) => Value::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => items.iter().map(value).collect(),
        Json::Object(map) => Value::from_pairs(map.iter().map(|(key, item)| (key.as_str(), value(item)))),
    }
}

/// Values nested deeper than this are refused.
const DEPTH: usize = 128;

/// `json.dumps(value, ensure_ascii, indent, separators, sort_keys)`, with `ensure_ascii` false by default.
pub(super) fn tojson(state: &State, value: &Value, options: Kwargs) -> Result<String, Error> {
    let indent = match options.get::<Option<Value>>("indent")?.filter(|indent| !indent.is_none()) {
        None => None,
        Some(indent) => Some(match indent.as_str() {
            Some(text) => text.to_owned(),
            None => " ".repeat(usize::from(u16::try_from(indent.as_i64().unwrap_or(0).max(0)).map_err(wide)?)),
        }),
    };
    let comma = if indent.is_some() { "," } else { ", " };
    let (comma, colon) = match options.get::<Option<Value>>("separators")?.filter(|pair| !pair.is_none()) {
        None => (comma.to_owned(), ": ".to_owned()),
        Some(pair) => (pair.get_item_by_index(0)?.to_string(), pair.get_item_by_index(1)?.to_string()),
    };
    let set = |name: &str| Ok::<bool, Error>(options.get::<Option<bool>>(name)?.unwrap_or(false));
    let (ascii, sort) = (set("ensure_ascii")?, set("sort_keys")?);
    options.assert_all_used()?;
    let mut dump = Dump { state, indent, comma, colon, ascii, sort, out: String::new() };
    dump.write(value, 0)?;
    Ok(dump.out)
}

fn wide(_: std::num::TryFromIntError) -> Error {
    Error::new(ErrorKind::InvalidOperation, "tojson: an indent above 65535")
}

struct Dump<'a, 'env> {
    state: &'a State<'a, 'env>,
    indent: Option<String>,
    comma: String,
    colon: String,
    ascii: bool,
    sort: bool,
    out: String,
}

impl Dump<'_, '_> {
    fn write(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        self.state.consume_fuel(1)?;
        if depth > DEPTH {
            return Err(Error::new(ErrorKind::InvalidOperation, format!("tojson: nested deeper than {DEPTH}")));
        }
        match value.kind() {
            ValueKind::Seq | ValueKind::Iterable => {
                self.put("[")?;
                let mut any = false;
                for item in value.try_iter()? {
                    self.next(&mut any, depth)?;
                    self.write(&item, depth + 1)?;
                }
                self.close(any, depth, "]")
            }
            ValueKind::Map => {
                self.put("{")?;
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort {
                    keys.sort();
                }
                let mut any = false;
                for key in keys {
                    self.next(&mut any, depth)?;
                    let name = key.as_str().map_or_else(|| scalar(&key), |text| Some(text.to_owned()));
                    self.string(&name.ok_or_else(|| no_form(&key))?)?;
                    self.put(&self.colon.clone())?;
                    self.write(&value.get_item(&key)?, depth + 1)?;
                }
                self.close(any, depth, "}")
            }
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            _ => self.put(&scalar(value).ok_or_else(|| no_form(value))?),
        }
    }

    /// What stands before an item.
    fn next(&mut self, any: &mut bool, depth: usize) -> Result<(), Error> {
        if std::mem::replace(any, true) {
            self.put(&self.comma.clone())?;
        }
        self.line(depth + 1)
    }

    fn close(&mut self, any: bool, depth: usize, bracket: &str) -> Result<(), Error> {
        if any {
            self.line(depth)?;
        }
        self.put(bracket)
    }

    fn line(&mut self, depth: usize) -> Result<(), Error> {
        let Some(indent) = &self.indent else { return Ok(()) };
        charge(self.state, indent.len() * depth)?;
        self.out.push('\n');
        self.out += &indent.repeat(depth);
        Ok(())
    }

    fn put(&mut self, text: &str) -> Result<(), Error> {
        charge(self.state, text.len())?;
        self.out += text;
        Ok(())
    }

    fn string(&mut self, text: &str) -> Result<(), Error> {
        charge(self.state, text.len())?;
        let quoted = Json::from(text).to_string();
        if !self.ascii {
            return self.put(&quoted);
        }
        for c in quoted.chars() {
            if c.is_ascii() {
                self.out.push(c);
            } else {
                let units = c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect::<String>();
                self.put(&units)?;
            }
        }
        Ok(())
    }
}

/// A number, a truth value or none.
fn scalar(value: &Value) -> Option<String> {
    match value.kind() {
        ValueKind::None => Some("null".to_owned()),
        ValueKind::Bool => Some(value.is_true().to_string()),
        ValueKind::Number if value.is_integer() => Some(value.to_string()),
        ValueKind::Number => f64::try_from(value.clone()).ok().map(number),
        _ => None,
    }
}

fn no_form(value: &Value) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("tojson: {} has no JSON form", value.kind()))
}

/// A float as JSON and `repr` write it in Python: the shortest digits that read back, with an exponent below 1e-4 and
/// from 1e16 on.
pub(super) fn number(value: f64) -> String {
    if !value.is_finite() {
        return if value.is_nan() {
            "NaN"
        } else if value > 0.0 {
            "Infinity"
        } else {
            "-Infinity"
        }
        .to_owned();
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    match exponent.parse::<i32>() {
        Ok(exponent) if value != 0.0 && !(-4..16).contains(&exponent) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.abs())
        }
        _ => format!("{value:?}"),
    }
}
