//! The columns of JSON rows: what all of them have in common.
//!
//! A key may be missing. Whole and other numbers make `Float64`, different scalars `Utf8`. A list that is empty, or a
//! value that is null, says nothing. Values that are a list or an object in one row and something else in another stay JSON:
//! a text of the extension type `arrow.json`.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema};
use serde_json::{Map, Value};

use super::limits::COLUMNS;

/// What the values of one place in the rows look like.
#[derive(Debug, Clone, Default, PartialEq)]
enum Shape {
    #[default]
    Unknown,
    Scalar(DataType),
    List(Box<Shape>),
    Object(Columns),
    /// Values that have no form in common.
    Json,
}

/// The keys of objects, in the order in which they appear.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Columns {
    shapes: Vec<(String, Shape)>,
    places: HashMap<String, usize>,
}

/// How much of it there is: of columns everywhere in the rows, and of objects in the row at hand.
#[derive(Debug, Default)]
pub(super) struct Extent {
    columns: usize,
    pub(super) objects: u64,
}

/// One column more than there may be, by the names that lead to it.
#[derive(Debug)]
pub(super) struct TooMany(Vec<String>);

impl TooMany {
    fn below(mut self, key: &str) -> Self {
        self.0.insert(0, key.to_owned());
        self
    }
}

impl fmt::Display for TooMany {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (column, help) = (self.0.join("."), "where keys are data, write a list of objects with a key and a value");
        write!(f, "column `{column}` is one more than the {COLUMNS} that a file may have; {help}")
    }
}

impl Columns {
    /// Takes in one more row.
    pub(super) fn add(&mut self, row: &Map<String, Value>, extent: &mut Extent) -> Result<(), TooMany> {
        extent.objects += 1;
        for (key, value) in row {
            let place = match self.places.get(key) {
                Some(place) => *place,
                None => {
                    extent.columns += 1;
                    if extent.columns > COLUMNS {
                        return Err(TooMany(vec![key.clone()]));
                    }
                    self.shapes.push((key.clone(), Shape::Unknown));
                    self.places.insert(key.clone(), self.shapes.len() - 1);
                    self.shapes.len() - 1
                }
            };
            self.shapes[place].1.add(value, extent).map_err(|column| column.below(key))?;
        }
        Ok(())
    }

    /// The columns as a schema.
    pub(super) fn schema(&self) -> Schema {
        Schema::new(self.fields())
    }

    /// An object that never holds anything is no column.
    fn fields(&self) -> Fields {
        self.shapes.iter().filter_map(|(name, shape)| shape.field(name)).collect()
    }
}

impl Shape {
    fn add(&mut self, value: &Value, extent: &mut Extent) -> Result<(), TooMany> {
        if *self == Self::Unknown {
            *self = match value {
                Value::Array(_) => Self::List(Box::default()),
                Value::Object(_) => Self::Object(Columns::default()),
                _ => Self::Unknown,
            };
        }
        let scalar = match value {
            Value::Null => return Ok(()),
            Value::Bool(_) => DataType::Boolean,
            Value::Number(number) if number.is_i64() => DataType::Int64,
            Value::Number(_) => DataType::Float64,
            Value::String(_) => DataType::Utf8,
            Value::Array(items) => {
                if let Self::List(element) = self {
                    return items.iter().try_for_each(|item| element.add(item, extent));
                }
                *self = Self::Json;
                return Ok(());
            }
            Value::Object(map) => {
                if let Self::Object(columns) = self {
                    return columns.add(map, extent);
                }
                *self = Self::Json;
                return Ok(());
            }
        };
        match self {
            Self::Unknown => *self = Self::Scalar(scalar),
            Self::Scalar(known) if *known == scalar => {}
            Self::Scalar(known) => *known = wider(known, &scalar),
            other => *other = Self::Json,
        }
        Ok(())
    }

    /// A column, or what a list or an object holds. An object that never holds anything is none.
    fn field(&self, name: &str) -> Option<Field> {
        let data_type = match self {
            Self::Unknown => DataType::Null,
            Self::Scalar(scalar) => scalar.clone(),
            Self::List(element) => DataType::List(Arc::new(element.field("element")?)),
            Self::Object(columns) => {
                Some(columns.fields()).filter(|fields| !fields.is_empty()).map(DataType::Struct)?
            }
            Self::Json => return Some(json_field(name)),
        };
        Some(Field::new(name, data_type, true))
    }
}

/// A column of JSON.
fn json_field(name: &str) -> Field {
    let extension = [(EXTENSION_NAME.to_owned(), JSON.to_owned()), (EXTENSION_METADATA.to_owned(), String::new())];
    Field::new(name, DataType::Utf8, true).with_metadata(extension.into())
}

const EXTENSION_NAME: &str = "ARROW:extension:name";
const EXTENSION_METADATA: &str = "ARROW:extension:metadata";
const JSON: &str = "arrow.json";

/// Whether `field` holds JSON.
pub(super) fn is_json(field: &Field) -> bool {
    field.metadata().get(EXTENSION_NAME).is_some_and(|name| name == JSON)
}

/// Whether `field` holds JSON, or anything in it.
pub(super) fn has_json(field: &Field) -> bool {
    is_json(field)
        || match field.data_type() {
            DataType::Struct(fields) => fields.iter().any(|field| has_json(field)),
            DataType::List(element) => has_json(element),
            _ => false,
        }
}

/// Makes texts of the values in `value` that columns of JSON hold; `field` is its column.
pub(super) fn write_json(value: &mut Value, field: &Field) {
    match (field.data_type(), value) {
        (_, Value::Null) => {}
        (_, value) if is_json(field) => *value = value.to_string().into(),
        (DataType::Struct(fields), Value::Object(map)) => {
            for field in fields.iter().filter(|field| has_json(field)) {
                map.get_mut(field.name()).into_iter().for_each(|value| write_json(value, field));
            }
        }
        (DataType::List(element), Value::Array(items)) => items.iter_mut().for_each(|item| write_json(item, element)),
        _ => {}
    }
}

fn wider(a: &DataType, b: &DataType) -> DataType {
    let number = |scalar: &DataType| matches!(scalar, DataType::Int64 | DataType::Float64);
    if number(a) && number(b) { DataType::Float64 } else { DataType::Utf8 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn columns(rows: &[Value]) -> Columns {
        let (mut columns, mut extent) = (Columns::default(), Extent::default());
        rows.iter().for_each(|row| columns.add(row.as_object().unwrap(), &mut extent).unwrap());
        columns
    }

    #[test]
    fn types_widen_until_every_row_fits() {
        let rows = [
            json!({"n": 1, "list": [], "who": {"name": null, "empty": {}}, "mixed": 1, "turns": [null]}),
            json!({"n": 0.5, "list": [1], "late": true, "turns": [{"role": "user"}]}),
            json!({"n": null, "list": [0.5], "who": {"name": "x"}, "mixed": "a", "turns": [{"content": null}]}),
        ];
        let schema = columns(&rows).schema();
        let shown = |name: &str| schema.field_with_name(name).unwrap().data_type().to_string();
        assert_eq!(shown("n"), "Float64");
        assert!(shown("list").contains("Float64"), "{}", shown("list"));
        assert_eq!(shown("who"), "Struct(\"name\": Utf8)");
        assert_eq!(shown("mixed"), "Utf8");
        assert_eq!(shown("late"), "Boolean");
        assert!(shown("turns").contains("\"role\": Utf8, \"content\": Null"), "{}", shown("turns"));
    }

    #[test]
    fn what_has_no_form_in_common_stays_json() {
        let rows = [
            json!({"a": 1, "m": [{"content": "x"}, {"content": null}], "l": [1, [2]]}),
            json!({"a": {"b": 1}, "m": [{"content": [{"text": "y"}]}], "l": []}),
        ];
        let schema = columns(&rows).schema();
        let is_json = |name: &str| is_json(schema.field_with_name(name).unwrap());
        assert_eq!([is_json("a"), is_json("m"), is_json("l")], [true, false, false]);
        assert!(schema.fields().iter().all(|field| has_json(field)));
        let written: Vec<Value> = rows
            .into_iter()
            .map(|mut row| {
                schema.fields().iter().for_each(|field| write_json(&mut row[field.name()], field));
                row
            })
            .collect();
        assert_eq!(
            written,
            [
                json!({"a": "1", "m": [{"content": "\"x\""}, {"content": null}], "l": ["1", "[2]"]}),
                json!({"a": "{\"b\":1}", "m": [{"content": "[{\"text\":\"y\"}]"}], "l": []}),
            ]
        );
    }
}
