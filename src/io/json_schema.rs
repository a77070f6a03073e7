//! The columns of JSON rows: what all of them have in common.
//!
//! A key may be missing. Whole numbers are `Int64`, or `UInt64` where they need it; whole and other numbers make `Float64`.
//! Numbers that no such type holds exactly, and different scalars, are texts of what was written. A list that is empty, or
//! a value that is null, says nothing. Values that are a list or an object in one row and something else in another stay
//! JSON: a text of the extension type `arrow.json`.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema};

use super::extension;
use super::json_value::{Json, is_finite};
use super::limits::COLUMNS;

/// What the values of one place in the rows look like.
#[derive(Debug, Clone, Default, PartialEq)]
enum Shape {
    #[default]
    Unknown,
    Bool,
    Number(Numbers),
    Text,
    List(Box<Shape>),
    Object(Columns),
    /// Values that have no form in common.
    Json,
}

/// What numbers need of their type.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Numbers {
    /// One has a fraction or an exponent, or is not finite.
    has_fractions: bool,
    is_below_zero: bool,
    /// One is beyond `i64`.
    is_beyond_signed: bool,
    /// One is beyond `u64`, or below `i64`.
    is_beyond_all: bool,
    /// A whole one is no `f64`.
    is_inexact: bool,
}

impl Numbers {
    fn add(&mut self, number: &str) {
        if !is_finite(number) || number.contains(['.', 'e', 'E']) {
            self.has_fractions = true;
            return;
        }
        let Ok(whole) = number.parse::<i128>() else {
            (self.is_beyond_all, self.is_inexact) = (true, true);
            return;
        };
        self.is_below_zero |= whole < 0;
        self.is_beyond_signed |= whole > i128::from(i64::MAX);
        self.is_beyond_all |= whole > i128::from(u64::MAX) || whole < i128::from(i64::MIN);
        self.is_inexact |= whole as f64 as i128 != whole;
    }

    fn data_type(self) -> DataType {
        match self {
            Self { has_fractions: true, is_inexact: false, .. } => DataType::Float64,
            Self { has_fractions: true, .. } | Self { is_beyond_all: true, .. } => DataType::Utf8,
            Self { is_beyond_signed: true, is_below_zero: true, .. } => DataType::Utf8,
            Self { is_beyond_signed: true, .. } => DataType::UInt64,
            _ => DataType::Int64,
        }
    }
}

/// The keys of objects, in the order in which they appear.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Columns {
    shapes: Vec<(String, Shape)>,
    places: HashMap<String, usize>,
    /// Values that are not null, by place.
    values: Vec<u64>,
}

/// How much of it there is: of columns everywhere in the rows, and of objects in the row at hand.
#[derive(Debug, Default)]
pub(super) struct Extent {
    columns: usize,
    pub(super) objects: u64,
}

/// A key that makes one column too many: the keys that lead there, and it.
#[derive(Debug, PartialEq)]
pub(super) struct TooMany(Vec<String>);

impl std::fmt::Display for TooMany {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let help = "where keys are data, write a list of objects with a key and a value";
        let column = self.0.join(".");
        write!(f, "column `{column}` is one more than the {COLUMNS} that a file may have; {help}")
    }
}

impl Columns {
    /// Takes in the fields of one more row.
    pub(super) fn add(
        &mut self,
        row: &[(std::borrow::Cow<'_, str>, Json<'_>)],
        extent: &mut Extent,
    ) -> Result<(), TooMany> {
        extent.objects += 1;
        for (at, (key, value)) in row.iter().enumerate() {
            let near = self.shapes.get(at).is_some_and(|(known, _)| known == key).then_some(at);
            let place = match near.or_else(|| self.places.get(&**key).copied()) {
                Some(place) => place,
                None => {
                    extent.columns += 1;
                    if extent.columns > COLUMNS {
                        return Err(TooMany(vec![key.clone().into_owned()]));
                    }
                    self.shapes.push((key.clone().into_owned(), Shape::Unknown));
                    self.values.push(0);
                    self.places.insert(key.clone().into_owned(), self.shapes.len() - 1);
                    self.shapes.len() - 1
                }
            };
            self.values[place] += u64::from(is_value(value));
            let added = self.shapes[place].1.add(value, extent);
            added.map_err(|TooMany(mut path)| {
                path.insert(0, key.clone().into_owned());
                TooMany(path)
            })?;
        }
        Ok(())
    }

    /// The columns of `rows` rows as a schema. Columns of scalars without a null are not nullable.
    pub(super) fn schema(&self, rows: u64) -> Schema {
        let is_full = |name: &str| self.places.get(name).is_some_and(|place| self.values[*place] == rows);
        let fields = self.fields();
        let fields = fields.iter().map(|field| {
            let nullable = field.data_type().is_nested() || !is_full(field.name());
            Field::clone(field).with_nullable(nullable)
        });
        Schema::new(fields.collect::<Vec<_>>())
    }

    /// An object that never holds anything is no column.
    fn fields(&self) -> Fields {
        self.shapes.iter().filter_map(|(name, shape)| shape.field(name)).collect()
    }
}

/// Whether it is a value in a column of any type.
fn is_value(value: &Json<'_>) -> bool {
    match value {
        Json::Null => false,
        Json::Number(number) => is_finite(number),
        _ => true,
    }
}

impl Shape {
    fn add(&mut self, value: &Json<'_>, extent: &mut Extent) -> Result<(), TooMany> {
        match (&mut *self, value) {
            (Self::Json, _) | (_, Json::Null) => {}
            (Self::List(element), Json::List(items)) => {
                return items.iter().try_for_each(|item| element.add(item, extent));
            }
            (Self::Object(columns), Json::Object(fields)) => return columns.add(fields, extent),
            (Self::Number(numbers), Json::Number(number)) => numbers.add(number),
            (Self::Bool, Json::Bool(_)) | (Self::Text, Json::Text(_)) => {}
            (Self::Unknown, value) => {
                *self = match value {
                    Json::Null => Self::Unknown,
                    Json::Bool(_) => Self::Bool,
                    Json::Number(_) => Self::Number(Numbers::default()),
                    Json::Text(_) => Self::Text,
                    Json::List(_) => Self::List(Box::default()),
                    Json::Object(_) => Self::Object(Columns::default()),
                };
                return self.add(value, extent);
            }
            (Self::Bool | Self::Number(_) | Self::Text, Json::Bool(_) | Json::Number(_) | Json::Text(_)) => {
                *self = Self::Text;
            }
            _ => *self = Self::Json,
        }
        Ok(())
    }

    fn field(&self, name: &str) -> Option<Field> {
        let data_type = match self {
            Self::Unknown => DataType::Null,
            Self::Bool => DataType::Boolean,
            Self::Number(numbers) => numbers.data_type(),
            Self::Text => DataType::Utf8,
            Self::List(element) => DataType::List(Arc::new(element.field("element")?)),
            Self::Object(columns) => {
                let fields = columns.fields();
                if fields.is_empty() {
                    return None;
                }
                DataType::Struct(fields)
            }
            Self::Json => return Some(extension::json(Field::new(name, DataType::Utf8, true))),
        };
        Some(Field::new(name, data_type, true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::json_value::parse;

    fn columns(rows: &[&str]) -> Result<Columns, TooMany> {
        let (mut columns, mut extent) = (Columns::default(), Extent::default());
        for row in rows {
            let Json::Object(fields) = parse(row).unwrap() else { panic!("{row}") };
            columns.add(&fields, &mut extent)?;
        }
        Ok(columns)
    }

    #[test]
    fn types_widen_until_every_row_fits() {
        let rows = [
            r#"{"n": 1, "list": [], "who": {"name": null, "empty": {}}, "mixed": 1, "turns": [null], "full": "x"}"#,
            r#"{"n": 0.5, "list": [1], "late": true, "turns": [{"role": "user"}], "full": "y"}"#,
            r#"{"n": null, "list": [0.5], "who": {"name": "x"}, "mixed": "a", "turns": [{"content": null}], "full": "z"}"#,
        ];
        let schema = columns(&rows).unwrap().schema(3);
        let shown = |name: &str| schema.field_with_name(name).unwrap().data_type().to_string();
        assert_eq!(shown("n"), "Float64");
        assert!(shown("list").contains("Float64"), "{}", shown("list"));
        assert_eq!(shown("who"), "Struct(\"name\": Utf8)");
        assert_eq!(shown("mixed"), "Utf8");
        assert_eq!(shown("late"), "Boolean");
        assert!(shown("turns").contains("\"role\": Utf8, \"content\": Null"), "{}", shown("turns"));
        let nullable: Vec<bool> = schema.fields().iter().map(|field| field.is_nullable()).collect();
        assert_eq!(nullable, [true, true, true, true, true, false, true]);
    }

    #[test]
    fn whole_numbers_are_exact_or_text() {
        let kind = |values: &str| {
            let rows: Vec<String> = values.split(' ').map(|value| format!("{{\"n\": {value}}}")).collect();
            let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
            columns(&rows).unwrap().schema(9).field(0).data_type().clone()
        };
        assert_eq!(kind("1 -9223372036854775808 9223372036854775807"), DataType::Int64);
        assert_eq!(kind("1 9223372036854775808 18446744073709551615"), DataType::UInt64);
        assert_eq!(kind("-1 9223372036854775808"), DataType::Utf8);
        assert_eq!(kind("18446744073709551616"), DataType::Utf8);
        assert_eq!(kind("9007199254740992 0.5 -1"), DataType::Float64);
        assert_eq!(kind("9007199254740993 0.5"), DataType::Utf8);
        assert_eq!(kind("1 NaN -Infinity 1e999"), DataType::Float64);
    }

    #[test]
    fn what_has_no_form_in_common_stays_json() {
        let rows = [
            r#"{"a": 1, "m": [{"content": "x"}, {"content": null}], "l": [1, [2]]}"#,
            r#"{"a": {"b": 1}, "m": [{"content": [{"text": "y"}]}], "l": []}"#,
        ];
        let schema = columns(&rows).unwrap().schema(2);
        let is_json = |name: &str| extension::name(schema.field_with_name(name).unwrap()) == Some(extension::JSON);
        assert_eq!([is_json("a"), is_json("m"), is_json("l")], [true, false, false]);
        let DataType::List(element) = schema.field(2).data_type() else { panic!() };
        assert_eq!(extension::name(element), Some(extension::JSON));
    }

    #[test]
    fn columns_are_counted_wherever_they_are() {
        let wide = |count: usize| (0..count).map(|key| format!("\"k{key}\": 1")).collect::<Vec<_>>().join(", ");
        assert!(columns(&[&format!("{{\"a\": [{{{}}}]}}", wide(COLUMNS - 1))]).is_ok());
        let error = columns(&[&format!("{{\"a\": [{{{}}}]}}", wide(COLUMNS))]).unwrap_err().to_string();
        assert!(error.starts_with("column `a.k9999` is one more than the 10000 that a file may have; "), "{error}");
    }
}
