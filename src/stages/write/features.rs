//! What `datasets` calls the types of columns, in the footer of every file.

use std::sync::Arc;

use arrow::datatypes::{DataType, FieldRef, Schema, SchemaRef, TimeUnit};
use serde_json::{Map, Value, json};

/// The footer's key that `datasets` looks at.
const FEATURES: &str = "huggingface";

/// The schema with the `huggingface` metadata, from which `datasets` restores the types; without it where a type has no
/// name there.
pub(super) fn with_features(schema: &Schema) -> SchemaRef {
    let feature = |field: &FieldRef| Some((field.name().clone(), feature(field.data_type())?));
    let features: Option<Map<String, Value>> = schema.fields().iter().map(feature).collect();
    let mut metadata = schema.metadata().clone();
    match features {
        Some(features) => metadata.insert(FEATURES.to_owned(), json!({"info": {"features": features}}).to_string()),
        None => metadata.remove(FEATURES),
    };
    Arc::new(schema.clone().with_metadata(metadata))
}

/// What `datasets` calls a type: the names of `datasets.features.features.string_to_arrow`.
fn feature(data_type: &DataType) -> Option<Value> {
    let list = |element: &FieldRef, name: &str| Some(json!({"feature": feature(element.data_type())?, "_type": name}));
    match data_type {
        DataType::List(element) => list(element, "List"),
        DataType::LargeList(element) => list(element, "LargeList"),
        DataType::FixedSizeList(element, length) => {
            Some(json!({"feature": feature(element.data_type())?, "length": length, "_type": "List"}))
        }
        DataType::Struct(fields) => {
            fields.iter().map(|field| Some((field.name().clone(), feature(field.data_type())?))).collect()
        }
        // A way to store values, which readers undo.
        DataType::Dictionary(_, values) => feature(values),
        value => Some(json!({"dtype": value_name(value)?, "_type": "Value"})),
    }
}

/// What `datasets` calls the type of single values.
pub(super) fn value_name(data_type: &DataType) -> Option<String> {
    Some(match data_type {
        DataType::Utf8 | DataType::Utf8View => "string".to_owned(),
        DataType::LargeUtf8 => "large_string".to_owned(),
        DataType::Binary | DataType::BinaryView => "binary".to_owned(),
        DataType::LargeBinary => "large_binary".to_owned(),
        DataType::Boolean => "bool".to_owned(),
        DataType::Null => "null".to_owned(),
        DataType::Date32 => "date32".to_owned(),
        DataType::Date64 => "date64".to_owned(),
        DataType::Timestamp(unit, None) => format!("timestamp[{}]", unit_name(*unit)),
        DataType::Timestamp(unit, Some(zone)) => format!("timestamp[{}, tz={zone}]", unit_name(*unit)),
        DataType::Time32(unit) => format!("time32[{}]", unit_name(*unit)),
        DataType::Time64(unit) => format!("time64[{}]", unit_name(*unit)),
        DataType::Duration(unit) => format!("duration[{}]", unit_name(*unit)),
        DataType::Decimal128(precision, scale) => format!("decimal128({precision}, {scale})"),
        DataType::Decimal256(precision, scale) => format!("decimal256({precision}, {scale})"),
        number if number.is_integer() || number.is_floating() => number.to_string().to_lowercase(),
        _ => return None,
    })
}

fn unit_name(unit: TimeUnit) -> &'static str {
    match unit {
        TimeUnit::Second => "s",
        TimeUnit::Millisecond => "ms",
        TimeUnit::Microsecond => "us",
        TimeUnit::Nanosecond => "ns",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::Field;

    #[test]
    fn every_type_has_the_name_that_datasets_gives_it() {
        let named = |data_type: DataType| feature(&data_type).map(|value| value["dtype"].as_str().unwrap().to_owned());
        let text = || Box::new(DataType::Utf8);
        let micro = TimeUnit::Microsecond;
        for (data_type, expected) in [
            (DataType::Int64, "int64"),
            (DataType::UInt8, "uint8"),
            (DataType::Float16, "float16"),
            (DataType::Float64, "float64"),
            (DataType::Dictionary(Box::new(DataType::Int32), text()), "string"),
            (DataType::Utf8View, "string"),
            (DataType::Timestamp(micro, None), "timestamp[us]"),
            (DataType::Timestamp(micro, Some("UTC".into())), "timestamp[us, tz=UTC]"),
            (DataType::Time32(TimeUnit::Second), "time32[s]"),
            (DataType::Decimal128(10, 2), "decimal128(10, 2)"),
        ] {
            assert_eq!(named(data_type.clone()).as_deref(), Some(expected), "{data_type}");
        }
        // Without a name for one, none is claimed.
        let odd = Field::new("odd", DataType::Interval(arrow::datatypes::IntervalUnit::DayTime), true);
        assert!(!with_features(&Schema::new(vec![odd])).metadata().contains_key(FEATURES));
    }
}
