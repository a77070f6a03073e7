//! One row of any dataset in a terminal, column by column: conversations turn by turn, long lists by their beginning.

use std::fmt::Write;

use arrow::array::RecordBatch;
use arrow::json::writer::{JsonArray, WriterBuilder};
use serde_json::{Map, Value, json};

use super::terminal::{plain, plain_json};
use crate::error::{Error, Place, Result};

/// Values of a list that are shown.
const SHOWN: usize = 16;

/// The values of one row by column.
#[derive(Debug)]
pub(super) struct Values(Map<String, Value>);

impl Values {
    /// The values of `batch`, which has one row and is at `place`.
    ///
    /// # Errors
    /// A column of a type that JSON has no form for.
    pub(super) fn of(batch: &RecordBatch, place: &Place) -> Result<Self> {
        let wrong = |error: &dyn std::fmt::Display| Error::data(place.clone(), error);
        let mut writer = WriterBuilder::new().with_explicit_nulls(true).build::<_, JsonArray>(Vec::new());
        writer.write(batch).and_then(|()| writer.finish()).map_err(|error| wrong(&error))?;
        let [row] = serde_json::from_slice(&writer.into_inner()).map_err(|error| wrong(&error))?;
        Ok(Self(row))
    }

    /// The values as one line of JSON, apart from the row's number, whose name a column may have.
    pub(super) fn json(&self, number: u64) -> String {
        plain_json(&format!("{}\n", json!({ "row": number, "values": self.0 })))
    }

    /// The values for people.
    pub(super) fn text(&self, number: u64) -> String {
        let mut out = format!("row {number}\n");
        for (name, value) in &self.0 {
            let _ = writeln!(out, "\n{}", plain(name));
            shown(&mut out, value);
        }
        out
    }
}

fn shown(out: &mut String, value: &Value) {
    let line = |value: &Value| value.as_str().map_or_else(|| plain_json(&value.to_string()), plain);
    let _ = match value {
        Value::Array(values) if values.iter().any(|value| value.get("role").is_some()) => {
            return values.iter().for_each(|message| turn(out, message));
        }
        Value::Array(values) if values.len() > SHOWN => {
            let first: Vec<String> = values[..SHOWN].iter().map(|value| plain_json(&value.to_string())).collect();
            writeln!(out, "[{}, …] ({} values)", first.join(", "), values.len())
        }
        value => writeln!(out, "{}", line(value)),
    };
}

/// A message: its role and text, then what else it has.
fn turn(out: &mut String, message: &Value) {
    let text = |key: &str| message.get(key).and_then(Value::as_str).map_or_else(|| "null".to_owned(), plain);
    let _ = writeln!(out, "{}: {}", text("role"), text("content"));
    for (key, value) in message.as_object().into_iter().flatten() {
        if !["role", "content"].contains(&key.as_str()) && !value.is_null() {
            let _ = writeln!(out, "  {} {}", plain(key), plain_json(&value.to_string()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_and_beginnings_of_long_lists_are_shown() {
        let row = json!({
            "row_id": "r\u{1b}[2J",
            "prompt": [{"role": "user", "content": "two\nlines"}, {"role": "tool", "content": null, "name": "clock"}],
            "ids": (0..20).collect::<Vec<_>>(),
            "score": 0.5,
        });
        let values = Values(row.as_object().unwrap().clone());
        let ids = "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, …] (20 values)";
        let want = format!(
            "row 3\n\nrow_id\nr\\u{{1b}}[2J\n\nprompt\nuser: two\nlines\ntool: null\n  name \"clock\"\n\nids\n{ids}\n\nscore\n0.5\n"
        );
        assert_eq!(values.text(3), want);
        let named_alike = Values(json!({ "row": 7 }).as_object().unwrap().clone());
        assert_eq!(named_alike.json(1), "{\"row\":1,\"values\":{\"row\":7}}\n");
    }
}
