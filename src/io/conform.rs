//! Values of one type as those of another that [`unify`](super::unify) found: struct fields by their names, whole numbers
//! exactly or not at all, and what extension types mean.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, ListArray, RecordBatch, StringArray, StructArray, new_null_array,
};
use arrow::compute::{CastOptions, cast, cast_with_options};
use arrow::datatypes::{DataType, Field, Int8Type};
use arrow::json::LineDelimitedWriter;

use super::extension::{self, BOOL8, JSON, UUID};
use super::unify::{is_text, list_field};

/// A value that has no room in its column's common type.
#[derive(Debug, PartialEq)]
pub(super) struct Lost {
    /// The names that lead to it.
    pub(super) path: Vec<String>,
    pub(super) message: String,
}

/// `array`, whose field is `from`, under the field `to`.
pub(super) fn conform(array: &ArrayRef, from: &Field, to: &Field) -> Result<ArrayRef, Lost> {
    let lost = |message: String| Lost { path: vec![from.name().clone()], message };
    let below = |mut lost: Lost| {
        lost.path.insert(0, from.name().clone());
        lost
    };
    let as_json = extension::name(to) == Some(JSON) && extension::name(from) != Some(JSON);
    match (from.data_type(), to.data_type()) {
        (DataType::Null, kind) => Ok(new_null_array(kind, array.len())),
        _ if as_json => json_texts(array).map_err(lost),
        (_, kind) if array.data_type() == kind => Ok(array.clone()),
        (DataType::FixedSizeBinary(16), DataType::Utf8) if extension::name(from) == Some(UUID) => Ok(uuids(array)),
        (DataType::Int8, DataType::Boolean) if extension::name(from) == Some(BOOL8) => {
            let bytes = array.as_primitive::<Int8Type>().iter();
            Ok(Arc::new(bytes.map(|byte| byte.map(|byte| byte != 0)).collect::<BooleanArray>()))
        }
        (DataType::Struct(own), DataType::Struct(fields)) => {
            let rows = array.as_struct();
            let column = |field: &Arc<Field>| match own.find(field.name()) {
                None => Ok(new_null_array(field.data_type(), rows.len())),
                Some((index, own)) => conform(rows.column(index), own, field).map_err(below),
            };
            let columns = fields.iter().map(column).collect::<Result<Vec<_>, _>>()?;
            let made = StructArray::try_new_with_length(fields.clone(), columns, rows.nulls().cloned(), rows.len());
            made.map(|made| Arc::new(made) as ArrayRef).map_err(|error| lost(error.to_string()))
        }
        (own, DataType::List(element)) if list_field(own).is_some() => {
            let own = list_field(own).expect("it was asked for");
            let held = list_field(array.data_type()).expect("an array has the type of its field");
            let plain = DataType::List(Arc::new(held.clone().with_nullable(true)));
            let list = cast(array, &plain).map_err(|error| lost(error.to_string()))?;
            let list = list.as_list::<i32>();
            let values = conform(list.values(), &own.clone().with_name(from.name()), element)?;
            let made = ListArray::try_new(element.clone(), list.offsets().clone(), values, list.nulls().cloned());
            made.map(|made| Arc::new(made) as ArrayRef).map_err(|error| lost(error.to_string()))
        }
        (own, kind) => scalar(array, own, kind).map_err(lost),
    }
}

/// Numbers, texts and times as others.
fn scalar(array: &ArrayRef, own: &DataType, kind: &DataType) -> Result<ArrayRef, String> {
    let options = CastOptions { safe: false, ..CastOptions::default() };
    let made = cast_with_options(array, kind, &options);
    if own.is_integer() && made.is_err() {
        return Err(first_lost(array, &cast(array, kind).map_err(|error| error.to_string())?, kind));
    }
    let made = made.map_err(|error| error.to_string())?;
    if own.is_integer() && *kind == DataType::Float64 {
        let back = cast(&made, own).map_err(|error| error.to_string())?;
        if back.to_data() != array.to_data() {
            return Err(first_lost(array, &back, kind));
        }
    }
    Ok(made)
}

/// Names the first value of `array` that is another in `made`.
fn first_lost(array: &ArrayRef, made: &ArrayRef, kind: &DataType) -> String {
    let text = |array: &ArrayRef| {
        cast(array, &DataType::Utf8).unwrap_or_else(|_| new_null_array(&DataType::Utf8, array.len()))
    };
    let (own, made) = (text(array), text(made));
    let (own, made) = (own.as_string::<i32>(), made.as_string::<i32>());
    let differs = own.iter().zip(made).find(|(own, made)| own != made);
    let value = differs.and_then(|(own, _)| own).unwrap_or_default();
    format!(
        "{value} has no room in {kind}, which is the type that the column has in common with that of other files; write the \
         column with one type in all of them"
    )
}

fn uuids(array: &ArrayRef) -> ArrayRef {
    let text = |bytes: &[u8]| {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
    };
    let bytes = array.as_fixed_size_binary().iter();
    Arc::new(bytes.map(|bytes| bytes.map(text)).collect::<StringArray>())
}

/// Every value as JSON.
fn json_texts(array: &ArrayRef) -> Result<ArrayRef, String> {
    if is_text(array.data_type()) {
        let texts = cast(array, &DataType::Utf8).map_err(|error| error.to_string())?;
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        return Ok(Arc::new(texts.as_string::<i32>().iter().map(|text| text.map(quoted)).collect::<StringArray>()));
    }
    let batch =
        RecordBatch::try_from_iter_with_nullable([("v", array.clone(), true)]).map_err(|error| error.to_string())?;
    let mut writer = LineDelimitedWriter::new(Vec::new());
    writer.write(&batch).and_then(|()| writer.finish()).map_err(|error| error.to_string())?;
    let lines = String::from_utf8(writer.into_inner()).map_err(|error| error.to_string())?;
    let value = |line: &str| line.strip_prefix("{\"v\":").and_then(|rest| rest.strip_suffix('}')).map(str::to_owned);
    Ok(Arc::new(lines.lines().map(value).collect::<StringArray>()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{FixedSizeBinaryArray, Int64Array, UInt64Array};

    fn field(name: &str, kind: DataType) -> Field {
        Field::new(name, kind, true)
    }

    fn record(fields: Vec<(Field, ArrayRef)>) -> ArrayRef {
        Arc::new(StructArray::from(
            fields.into_iter().map(|(field, column)| (Arc::new(field), column)).collect::<Vec<_>>(),
        ))
    }

    #[test]
    fn fields_are_found_by_their_names_and_extensions_by_their_meaning() {
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None]));
        let key: ArrayRef =
            Arc::new(FixedSizeBinaryArray::try_from_iter([[0x12; 16], [0xab; 16]].into_iter()).unwrap());
        let uuid = extension::named(field("key", DataType::FixedSizeBinary(16)), UUID);
        let rows = record(vec![(field("b", DataType::Int64), numbers.clone()), (uuid, key)]);
        let wanted = vec![field("a", DataType::Utf8), field("key", DataType::Utf8), field("b", DataType::Float64)];
        let (from, to) = (field("x", rows.data_type().clone()), field("x", DataType::Struct(wanted.into())));
        let made = conform(&rows, &from, &to).unwrap();
        let made = made.as_struct();
        assert_eq!(made.column(0).null_count(), 2);
        assert_eq!(made.column(1).as_string::<i32>().value(1), "abababab-abab-abab-abab-abababababab");
        assert_eq!(made.column(2).data_type(), &DataType::Float64);

        let json = extension::json(field("x", DataType::Utf8));
        let made = conform(&rows, &from, &json).map_err(|lost| lost.message);
        assert!(made.is_ok(), "{made:?}");
        let texts: ArrayRef = Arc::new(StringArray::from(vec![Some("a\"b"), None]));
        let made = conform(&texts, &field("x", DataType::Utf8), &json).unwrap();
        assert_eq!(made.as_string::<i32>().iter().collect::<Vec<_>>(), [Some("\"a\\\"b\""), None]);
        let list =
            ListArray::from_iter_primitive::<arrow::datatypes::Int64Type, _, _>([Some(vec![Some(1), None]), None]);
        let list: ArrayRef = Arc::new(list);
        let made = conform(&list, &field("x", list.data_type().clone()), &json).unwrap();
        assert_eq!(made.as_string::<i32>().iter().collect::<Vec<_>>(), [Some("[1,null]"), None]);
    }

    #[test]
    fn a_number_without_room_is_named() {
        let ids: ArrayRef = Arc::new(UInt64Array::from(vec![Some(5), None, Some(12_297_829_382_473_034_411)]));
        let lost = conform(&ids, &field("id", DataType::UInt64), &field("id", DataType::Int64)).unwrap_err();
        assert!(lost.message.starts_with("12297829382473034411 has no room in Int64"), "{}", lost.message);
        assert_eq!(lost.path, ["id"]);
        let whole: ArrayRef = Arc::new(Int64Array::from(vec![None, Some(9_007_199_254_740_993)]));
        let rows = record(vec![(field("n", DataType::Int64), whole.clone())]);
        let to = field("x", DataType::Struct(vec![field("n", DataType::Float64)].into()));
        let lost = conform(&rows, &field("x", rows.data_type().clone()), &to).unwrap_err();
        assert!(lost.message.starts_with("9007199254740993 has no room in Float64"), "{}", lost.message);
        assert_eq!(lost.path, ["x", "n"]);
        assert!(conform(&whole.slice(0, 1), &field("n", DataType::Int64), &field("n", DataType::Float64)).is_ok());
    }
}
