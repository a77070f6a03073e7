//! The names of types as people write them: `list<int32>`, `struct<role: string, content: string>`.

use arrow::datatypes::DataType;

/// The name of `data_type`. How a list or a text is stored does not matter to whoever reads it.
pub fn type_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "string".into(),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => "binary".into(),
        DataType::Boolean => "bool".into(),
        DataType::Float32 => "float".into(),
        DataType::Float64 => "double".into(),
        DataType::List(element)
        | DataType::LargeList(element)
        | DataType::ListView(element)
        | DataType::LargeListView(element)
        | DataType::FixedSizeList(element, _) => format!("list<{}>", type_name(element.data_type())),
        DataType::Struct(fields) => {
            let field =
                |field: &arrow::datatypes::FieldRef| format!("{}: {}", field.name(), type_name(field.data_type()));
            format!("struct<{}>", fields.iter().map(field).collect::<Vec<_>>().join(", "))
        }
        DataType::Dictionary(_, values) => type_name(values),
        number if number.is_integer() => number.to_string().to_lowercase(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::columns::{list_type, messages_type};

    #[test]
    fn types_are_named_as_people_write_them() {
        let messages = type_name(&messages_type());
        assert!(messages.starts_with("list<struct<role: string, content: string, name: string, "), "{messages}");
        assert_eq!(type_name(&list_type(DataType::UInt32)), "list<uint32>");
        let text = DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::LargeUtf8));
        assert_eq!(type_name(&text), "string");
        assert_eq!(type_name(&DataType::Float64), "double");
    }
}
