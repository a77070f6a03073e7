//! Parsed JSON rows to Arrow columns.

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int64Array, ListArray, RecordBatch, RecordBatchOptions, StringBuilder,
    StructArray, UInt64Array, new_null_array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, Fields, SchemaRef};
use arrow::error::ArrowError;

use super::extension;
use super::json_value::{Json, is_finite};

/// The columns `schema` of `rows`, which are objects; the schema is one that was inferred from them.
pub(super) fn batch(schema: &SchemaRef, rows: &[Json<'_>]) -> Result<RecordBatch, ArrowError> {
    let rows: Vec<&Json<'_>> = rows.iter().collect();
    let columns = columns(schema.fields(), &rows)?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
    RecordBatch::try_new_with_options(schema.clone(), columns, &options)
}

const NULL: Json<'static> = Json::Null;

/// Objects from so many keys on are looked into by a table.
const MANY: usize = 16;

fn columns<'a>(fields: &Fields, objects: &[&'a Json<'a>]) -> Result<Vec<ArrayRef>, ArrowError> {
    let tables: Vec<Option<HashMap<&str, &'a Json<'a>>>> = objects
        .iter()
        .map(|object| match object {
            Json::Object(own) if own.len() >= MANY => Some(own.iter().map(|(key, value)| (&**key, value)).collect()),
            _ => None,
        })
        .collect();
    let column = |(index, field): (usize, &Arc<Field>)| {
        let value = |row: usize| -> Option<&'a Json<'a>> {
            match (objects[row], &tables[row]) {
                (_, Some(table)) => table.get(field.name().as_str()).copied(),
                (Json::Object(own), None) => {
                    let near = own.get(index).filter(|(key, _)| key == field.name());
                    near.or_else(|| own.iter().find(|(key, _)| key == field.name())).map(|(_, value)| value)
                }
                _ => None,
            }
        };
        let found: Vec<&Json<'_>> = (0..objects.len()).map(|row| value(row).unwrap_or(&NULL)).collect();
        array(field, &found)
    };
    fields.iter().enumerate().map(column).collect()
}

fn array<'a>(field: &Field, values: &[&'a Json<'a>]) -> Result<ArrayRef, ArrowError> {
    let unlike = |value: &Json<'_>| {
        ArrowError::JsonError(format!("column `{}`: {value:?} is no {}", field.name(), field.data_type()))
    };
    Ok(match field.data_type() {
        DataType::Null => new_null_array(&DataType::Null, values.len()),
        DataType::Boolean => {
            let bool = |value: &&Json<'_>| match value {
                Json::Null => Ok(None),
                Json::Bool(value) => Ok(Some(*value)),
                other => Err(unlike(other)),
            };
            Arc::new(values.iter().map(bool).collect::<Result<BooleanArray, _>>()?)
        }
        DataType::Int64 => Arc::new(numbers::<i64>(values).map_err(unlike)?.collect::<Int64Array>()),
        DataType::UInt64 => Arc::new(numbers::<u64>(values).map_err(unlike)?.collect::<UInt64Array>()),
        DataType::Float64 => Arc::new(numbers::<f64>(values).map_err(unlike)?.collect::<Float64Array>()),
        DataType::List(element) => {
            let (mut lengths, mut items) = (Vec::with_capacity(values.len()), Vec::new());
            for value in values {
                match value {
                    Json::List(own) => {
                        lengths.push(own.len());
                        items.extend(own);
                    }
                    Json::Null => lengths.push(0),
                    other => return Err(unlike(other)),
                }
            }
            let items = array(element, &items)?;
            Arc::new(ListArray::try_new(element.clone(), OffsetBuffer::from_lengths(lengths), items, valid(values))?)
        }
        DataType::Struct(fields) => {
            if let Some(other) = values.iter().find(|value| !matches!(value, Json::Object(_) | Json::Null)) {
                return Err(unlike(other));
            }
            Arc::new(StructArray::try_new(fields.clone(), columns(fields, values)?, valid(values))?)
        }
        _ => texts(extension::name(field) == Some(extension::JSON), values),
    })
}

fn valid(values: &[&Json<'_>]) -> Option<NullBuffer> {
    let valid: NullBuffer = values.iter().map(|value| **value != Json::Null).collect();
    (valid.null_count() > 0).then_some(valid)
}

/// Numbers of one type; the first value that is none.
fn numbers<'a, T: FromStr + FromWord>(
    values: &[&'a Json<'a>],
) -> Result<impl Iterator<Item = Option<T>> + use<T>, &'a Json<'a>> {
    let number = |value: &&'a Json<'a>| match value {
        Json::Null => Ok(None),
        Json::Number(number) if !is_finite(number) => Ok(T::word(number)),
        Json::Number(number) => number.parse().map(Some).map_err(|_| *value),
        other => Err(*other),
    };
    Ok(values.iter().map(number).collect::<Result<Vec<_>, _>>()?.into_iter())
}

/// What `NaN` and the infinities are in a column of a type.
trait FromWord: Sized {
    fn word(word: &str) -> Option<Self>;
}

impl FromWord for i64 {
    fn word(_: &str) -> Option<Self> {
        None
    }
}

impl FromWord for u64 {
    fn word(_: &str) -> Option<Self> {
        None
    }
}

impl FromWord for f64 {
    fn word(word: &str) -> Option<Self> {
        word.parse().ok()
    }
}

/// Texts, of other scalars as they are written; or whatever there is as JSON.
fn texts(as_json: bool, values: &[&Json<'_>]) -> ArrayRef {
    let mut texts = StringBuilder::new();
    let mut written = String::new();
    for value in values {
        match value {
            Json::Null => texts.append_null(),
            Json::Number(number) if !is_finite(number) => texts.append_null(),
            value if as_json => {
                written.clear();
                value.write(&mut written);
                texts.append_value(&written);
            }
            Json::Text(text) => texts.append_value(text),
            Json::Number(number) => texts.append_value(number),
            Json::Bool(value) => texts.append_value(if *value { "true" } else { "false" }),
            Json::List(_) | Json::Object(_) => texts.append_null(),
        }
    }
    Arc::new(texts.finish())
}
