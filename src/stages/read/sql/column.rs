//! Columns as SQL expressions see them: their types, and their values row by row.

use std::borrow::Cow;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{
    ArrowDictionaryKeyType, ArrowPrimitiveType, DataType, Date32Type, Decimal128Type, Field, Float16Type, Float32Type,
    Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType,
    TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type, UInt32Type,
    UInt64Type,
};

use super::value::{List, Type, Value};
use crate::io::extension;

/// The type of a column.
pub(super) fn type_of(field: &Field) -> Type {
    if let Some(name) = extension::name(field) {
        return Type::Other(name.to_owned());
    }
    match field.data_type() {
        DataType::Null => Type::Null,
        DataType::Boolean => Type::Bool,
        kind if kind.is_integer() => Type::Int,
        DataType::Float16 | DataType::Float32 => Type::Single,
        DataType::Float64 => Type::Double,
        DataType::Decimal128(_, scale) if *scale >= 0 => Type::Decimal,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Type::Text,
        DataType::Date32 => Type::Date,
        DataType::Timestamp(_, None) => Type::Timestamp,
        DataType::Dictionary(_, values) => type_of(&Field::new("", DataType::clone(values), true)),
        DataType::List(element) | DataType::LargeList(element) | DataType::FixedSizeList(element, _) => {
            Type::List(Box::new(type_of(element)))
        }
        DataType::Struct(fields) => {
            Type::Struct(fields.iter().map(|field| (field.name().clone(), type_of(field))).collect())
        }
        other => Type::Other(other.to_string()),
    }
}

/// The value in row `row` of `array`, as [`type_of`] says.
pub(super) fn value(array: &dyn Array, row: usize) -> Value<'_> {
    if array.is_null(row) {
        return Value::Null;
    }
    let text = |text| Value::Text(Cow::Borrowed(text));
    match array.data_type() {
        DataType::Null => Value::Null,
        DataType::Boolean => Value::Bool(array.as_boolean().value(row)),
        DataType::Int8 => int::<Int8Type>(array, row),
        DataType::Int16 => int::<Int16Type>(array, row),
        DataType::Int32 => int::<Int32Type>(array, row),
        DataType::Int64 => int::<Int64Type>(array, row),
        DataType::UInt8 => int::<UInt8Type>(array, row),
        DataType::UInt16 => int::<UInt16Type>(array, row),
        DataType::UInt32 => int::<UInt32Type>(array, row),
        DataType::UInt64 => int::<UInt64Type>(array, row),
        DataType::Float16 => Value::Single(array.as_primitive::<Float16Type>().value(row).to_f32()),
        DataType::Float32 => Value::Single(array.as_primitive::<Float32Type>().value(row)),
        DataType::Float64 => Value::Double(array.as_primitive::<Float64Type>().value(row)),
        DataType::Decimal128(_, scale @ 0..) => {
            Value::Decimal { units: array.as_primitive::<Decimal128Type>().value(row), scale: *scale as u8 }
        }
        DataType::Utf8 => text(array.as_string::<i32>().value(row)),
        DataType::LargeUtf8 => text(array.as_string::<i64>().value(row)),
        DataType::Utf8View => text(array.as_string_view().value(row)),
        DataType::Date32 => Value::Date(array.as_primitive::<Date32Type>().value(row).into()),
        DataType::Timestamp(unit, None) => Value::Timestamp(timestamp(array, *unit, row)),
        DataType::Dictionary(key, _) => dictionary(array, key, row),
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            let offsets = list.value_offsets();
            Value::List(List::Rows(list.values(), offsets[row] as usize..offsets[row + 1] as usize))
        }
        DataType::LargeList(_) => {
            let list = array.as_list::<i64>();
            let offsets = list.value_offsets();
            Value::List(List::Rows(list.values(), offsets[row] as usize..offsets[row + 1] as usize))
        }
        DataType::FixedSizeList(_, length) => {
            let (list, length) = (array.as_fixed_size_list(), *length as usize);
            Value::List(List::Rows(list.values(), row * length..(row + 1) * length))
        }
        DataType::Struct(_) => Value::Struct(array, row),
        _ => Value::Other,
    }
}

/// Field `index` of a row of structs.
pub(super) fn field(array: &dyn Array, row: usize, index: usize) -> Value<'_> {
    value(array.as_struct().column(index), row)
}

fn int<T: ArrowPrimitiveType<Native: Into<i128>>>(array: &dyn Array, row: usize) -> Value<'_> {
    Value::Int(array.as_primitive::<T>().value(row).into())
}

fn timestamp(array: &dyn Array, unit: TimeUnit, row: usize) -> i128 {
    match unit {
        TimeUnit::Second => i128::from(array.as_primitive::<TimestampSecondType>().value(row)) * 1_000_000_000,
        TimeUnit::Millisecond => i128::from(array.as_primitive::<TimestampMillisecondType>().value(row)) * 1_000_000,
        TimeUnit::Microsecond => i128::from(array.as_primitive::<TimestampMicrosecondType>().value(row)) * 1000,
        TimeUnit::Nanosecond => i128::from(array.as_primitive::<TimestampNanosecondType>().value(row)),
    }
}

fn dictionary<'a>(array: &'a dyn Array, key: &DataType, row: usize) -> Value<'a> {
    match key {
        DataType::Int8 => entry::<Int8Type>(array, row),
        DataType::Int16 => entry::<Int16Type>(array, row),
        DataType::Int32 => entry::<Int32Type>(array, row),
        DataType::Int64 => entry::<Int64Type>(array, row),
        DataType::UInt8 => entry::<UInt8Type>(array, row),
        DataType::UInt16 => entry::<UInt16Type>(array, row),
        DataType::UInt32 => entry::<UInt32Type>(array, row),
        _ => entry::<UInt64Type>(array, row),
    }
}

fn entry<K: ArrowDictionaryKeyType>(array: &dyn Array, row: usize) -> Value<'_> {
    let dictionary = array.as_dictionary::<K>();
    dictionary.key(row).map_or(Value::Null, |key| value(dictionary.values(), key))
}
