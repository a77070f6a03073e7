//! The columns of JSON rows: what all of them have in common.
//!
//! A key may be missing. Whole and other numbers make `Float64`, different scalars `Utf8`. A list that is empty, or a
//! value that is null, says nothing.

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

/// A row that does not fit.
#[derive(Debug)]
pub(super) struct Conflict {
    column: Vec<String>,
    why: Why,
}

#[derive(Debug)]
enum Why {
    Kinds { found: &'static str, known: &'static str },
    Columns,
}

impl Conflict {
    fn below(mut self, key: &str) -> Self {
        self.column.insert(0, key.to_owned());
        self
    }
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let column = self.column.join(".");
        match self.why {
            Why::Kinds { found, known } => write!(f, "column `{column}` is {found} here and {known} in an earlier row"),
            Why::Columns => {
                let help = "where keys are data, write a list of objects with a key and a value";
                write!(f, "column `{column}` is one more than the {COLUMNS} that a file may have; {help}")
            }
        }
    }
}

impl Columns {
    /// Takes in one more row.
    pub(super) fn add(&mut self, row: &Map<String, Value>, extent: &mut Extent) -> Result<(), Conflict> {
        extent.objects += 1;
        for (key, value) in row {
            let place = match self.places.get(key) {
                Some(place) => *place,
                None => {
                    extent.columns += 1;
                    if extent.columns > COLUMNS {
                        return Err(Conflict { column: vec![key.clone()], why: Why::Columns });
                    }
                    self.shapes.push((key.clone(), Shape::Unknown));
                    self.places.insert(key.clone(), self.shapes.len() - 1);
                    self.shapes.len() - 1
                }
            };
            self.shapes[place].1.add(value, extent).map_err(|conflict| conflict.below(key))?;
        }
        Ok(())
    }

    /// The columns as a schema.
    pub(super) fn schema(&self) -> Schema {
        Schema::new(self.fields())
    }

    /// An object that never holds anything is no column.
    fn fields(&self) -> Fields {
        let columns = self.shapes.iter().filter_map(|(name, shape)| Some(Field::new(name, shape.data_type()?, true)));
        columns.collect()
    }
}

impl Shape {
    fn add(&mut self, value: &Value, extent: &mut Extent) -> Result<(), Conflict> {
        let scalar = match value {
            Value::Null => return Ok(()),
            Value::Bool(_) => DataType::Boolean,
            Value::Number(number) if number.is_i64() => DataType::Int64,
            Value::Number(_) => DataType::Float64,
            Value::String(_) => DataType::Utf8,
            Value::Array(items) => {
                if *self == Self::Unknown {
                    *self = Self::List(Box::default());
                }
                return match self {
                    Self::List(element) => items.iter().try_for_each(|item| element.add(item, extent)),
                    other => Err(other.conflict("a list")),
                };
            }
            Value::Object(map) => {
                if *self == Self::Unknown {
                    *self = Self::Object(Columns::default());
                }
                return match self {
                    Self::Object(columns) => columns.add(map, extent),
                    other => Err(other.conflict("an object")),
                };
            }
        };
        match self {
            Self::Unknown => *self = Self::Scalar(scalar),
            Self::Scalar(known) if *known == scalar => {}
            Self::Scalar(known) => *known = wider(known, &scalar),
            other => return Err(other.conflict(name(&scalar))),
        }
        Ok(())
    }

    fn conflict(&self, found: &'static str) -> Conflict {
        let known = match self {
            Self::Unknown => "nothing",
            Self::Scalar(scalar) => name(scalar),
            Self::List(_) => "a list",
            Self::Object(_) => "an object",
        };
        Conflict { column: Vec::new(), why: Why::Kinds { found, known } }
    }

    fn data_type(&self) -> Option<DataType> {
        match self {
            Self::Unknown => Some(DataType::Null),
            Self::Scalar(scalar) => Some(scalar.clone()),
            Self::List(element) => Some(DataType::List(Arc::new(Field::new("element", element.data_type()?, true)))),
            Self::Object(columns) => {
                let fields = columns.fields();
                (!fields.is_empty()).then_some(DataType::Struct(fields))
            }
        }
    }
}

fn wider(a: &DataType, b: &DataType) -> DataType {
    let number = |scalar: &DataType| matches!(scalar, DataType::Int64 | DataType::Float64);
    if number(a) && number(b) { DataType::Float64 } else { DataType::Utf8 }
}

fn name(scalar: &DataType) -> &'static str {
    match scalar {
        DataType::Boolean => "true or false",
        DataType::Utf8 => "a text",
        _ => "a number",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn columns(rows: &[Value]) -> Result<Columns, Conflict> {
        let (mut columns, mut extent) = (Columns::default(), Extent::default());
        rows.iter().try_for_each(|row| columns.add(row.as_object().unwrap(), &mut extent))?;
        Ok(columns)
    }

    #[test]
    fn types_widen_until_every_row_fits() {
        let rows = [
            json!({"n": 1, "list": [], "who": {"name": null, "empty": {}}, "mixed": 1, "turns": [null]}),
            json!({"n": 0.5, "list": [1], "late": true, "turns": [{"role": "user"}]}),
            json!({"n": null, "list": [0.5], "who": {"name": "x"}, "mixed": "a", "turns": [{"content": null}]}),
        ];
        let schema = columns(&rows).unwrap().schema();
        let shown = |name: &str| schema.field_with_name(name).unwrap().data_type().to_string();
        assert_eq!(shown("n"), "Float64");
        assert!(shown("list").contains("Float64"), "{}", shown("list"));
        assert_eq!(shown("who"), "Struct(\"name\": Utf8)");
        assert_eq!(shown("mixed"), "Utf8");
        assert_eq!(shown("late"), "Boolean");
        assert!(shown("turns").contains("\"role\": Utf8, \"content\": Null"), "{}", shown("turns"));
    }

    #[test]
    fn a_contradiction_is_named() {
        let error = |rows: &[Value]| columns(rows).unwrap_err().to_string();
        let rows = [json!({"a": 1}), json!({"a": {"b": 1}})];
        assert_eq!(error(&rows), "column `a` is an object here and a number in an earlier row");
        let rows = [json!({"m": [{"content": "x"}]}), json!({"m": [{"content": [1]}]})];
        assert_eq!(error(&rows), "column `m.content` is a list here and a text in an earlier row");
    }
    #[test]
    fn columns_are_counted_wherever_they_are() {
        let wide = |count: usize| (0..count).map(|key| (format!("k{key}"), json!(1))).collect::<Map<_, _>>();
        assert!(columns(&[json!({ "a": [wide(COLUMNS - 1)] })]).is_ok());
        let error = columns(&[json!({ "a": [wide(COLUMNS)] })]).unwrap_err().to_string();
        assert!(error.starts_with("column `a.k9999` is one more than the 10000 that a file may have; "), "{error}");
    }
}
