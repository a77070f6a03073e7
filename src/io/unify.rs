//! One type for a column that several files hold under different ones.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields};

use super::json_schema::is_json;

/// The type that values of `a` and of `b` can be read as; none where one cannot hold both.
///
/// Numbers widen, the encodings of text and of lists become the plain one, and a struct has the fields of both.
pub(super) fn unify(a: &DataType, b: &DataType) -> Option<DataType> {
    use DataType::{Float64, Int64, List, Null, Struct, Utf8};
    match (a, b) {
        (a, b) if a.equals_datatype(b) => Some(a.clone()),
        (Null, other) | (other, Null) => Some(other.clone()),
        (a, b) if a.is_integer() && b.is_integer() => Some(Int64),
        (a, b) if a.is_numeric() && b.is_numeric() => Some(Float64),
        (a, b) if is_text(a) && is_text(b) => Some(Utf8),
        (Struct(a), Struct(b)) => Some(Struct(unify_fields(a, b)?)),
        (a, b) => {
            let element = unify(list_element(a)?, list_element(b)?)?;
            Some(List(Arc::new(Field::new("element", element, true))))
        }
    }
}

fn unify_fields(a: &Fields, b: &Fields) -> Option<Fields> {
    let nullable = |field: &Field| field.clone().with_nullable(true);
    let both = a.iter().map(|field| match b.find(field.name()) {
        None => Some(nullable(field)),
        Some((_, other)) => {
            let kept = if is_json(other) { nullable(other) } else { nullable(field) };
            Some(kept.with_data_type(unify(field.data_type(), other.data_type())?))
        }
    });
    let rest = b.iter().filter(|field| a.find(field.name()).is_none()).map(|field| Some(nullable(field)));
    both.chain(rest).collect::<Option<Vec<Field>>>().map(Fields::from)
}

fn is_text(data_type: &DataType) -> bool {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, value) => is_text(value),
        _ => false,
    }
}

/// What a list of any kind holds; none of other types.
pub fn list_element(list: &DataType) -> Option<&DataType> {
    match list {
        DataType::List(element)
        | DataType::LargeList(element)
        | DataType::ListView(element)
        | DataType::LargeListView(element)
        | DataType::FixedSizeList(element, _) => Some(element.data_type()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(element: DataType) -> DataType {
        DataType::List(Arc::new(Field::new("element", element, true)))
    }

    fn turns(fields: &[(&str, DataType)]) -> DataType {
        let fields: Vec<Field> = fields.iter().map(|(name, kind)| Field::new(*name, kind.clone(), true)).collect();
        list(DataType::Struct(fields.into()))
    }

    #[test]
    fn what_both_can_be_read_as() {
        use DataType::{Boolean, Float32, Float64, Int32, Int64, LargeUtf8, Null, Utf8, Utf8View};
        assert_eq!(unify(&Int32, &Int64), Some(Int64));
        assert_eq!(unify(&Int64, &Float32), Some(Float64));
        assert_eq!(unify(&Utf8View, &LargeUtf8), Some(Utf8));
        assert_eq!(unify(&Null, &Boolean), Some(Boolean));
        assert_eq!(unify(&Utf8, &Int64), None);
        assert_eq!(unify(&Utf8, &list(Utf8)), None);
        assert_eq!(unify(&list(Null), &list(Utf8)), Some(list(Utf8)));
        let (one, other) = (turns(&[("role", Utf8), ("n", Null)]), turns(&[("role", Utf8View), ("name", Utf8)]));
        assert_eq!(unify(&one, &other), Some(turns(&[("role", Utf8), ("n", Null), ("name", Utf8)])));
    }
}
