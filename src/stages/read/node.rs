//! Values of a source's columns, whatever Arrow type holds them: text in any encoding, lists of any kind, structs.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Float64Type};
use arrow::error::ArrowError;

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    Null,
    Text(String),
    /// A number, or true and false as 1 and 0.
    Number(f64),
    List(Vec<Node>),
    Struct(Vec<(String, Node)>),
}

impl Node {
    /// The text, if it is one.
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The number, if it is one or the text of one.
    pub(super) fn number(&self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Text(text) => text.trim().parse().ok(),
            _ => None,
        }
        .filter(|number: &f64| number.is_finite())
    }

    /// The elements of a list; none of anything else.
    pub(super) fn items(&self) -> &[Node] {
        match self {
            Self::List(items) => items,
            _ => &[],
        }
    }

    /// The field `name` of a struct; null where there is none.
    pub(super) fn field(&self, name: &str) -> &Node {
        let fields = match self {
            Self::Struct(fields) => &fields[..],
            _ => &[],
        };
        fields.iter().find(|(field, _)| field == name).map_or(&Self::Null, |(_, node)| node)
    }
}

/// The values of `column`, one a row. What is neither text, number, list nor struct counts as null.
pub(super) fn nodes(column: &ArrayRef) -> Result<Vec<Node>, ArrowError> {
    match column.data_type() {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
            let texts = cast(column, &DataType::Utf8)?;
            Ok(texts
                .as_string::<i32>()
                .iter()
                .map(|text| text.map_or(Node::Null, |text| Node::Text(text.into())))
                .collect())
        }
        DataType::Dictionary(_, value) => nodes(&cast(column, value)?),
        kind if kind.is_numeric() || *kind == DataType::Boolean => {
            let numbers = cast(column, &DataType::Float64)?;
            Ok(numbers
                .as_primitive::<Float64Type>()
                .iter()
                .map(|number| number.map_or(Node::Null, Node::Number))
                .collect())
        }
        DataType::List(element)
        | DataType::LargeList(element)
        | DataType::ListView(element)
        | DataType::LargeListView(element)
        | DataType::FixedSizeList(element, _) => {
            let list = cast(column, &DataType::List(Arc::new(Field::clone(element).with_nullable(true))))?;
            let list = list.as_list::<i32>();
            let (offsets, start) = (list.value_offsets(), list.value_offsets()[0]);
            let length = offsets[list.len()] - start;
            let mut values = nodes(&list.values().slice(start as usize, length as usize))?.into_iter();
            let items = |row: usize| {
                let items = values.by_ref().take((offsets[row + 1] - offsets[row]) as usize).collect();
                if list.is_valid(row) { Node::List(items) } else { Node::Null }
            };
            Ok((0..list.len()).map(items).collect())
        }
        DataType::Struct(fields) => {
            let rows = column.as_struct();
            let columns = rows.columns().iter().map(nodes).collect::<Result<Vec<_>, _>>()?;
            let value = |row: usize| match rows.is_valid(row) {
                true => {
                    let values = columns.iter().map(|column| column[row].clone());
                    Node::Struct(fields.iter().map(|field| field.name().clone()).zip(values).collect())
                }
                false => Node::Null,
            };
            Ok((0..rows.len()).map(value).collect())
        }
        _ => Ok(vec![Node::Null; column.len()]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{
        BooleanArray, Int32Array, LargeListArray, LargeStringArray, ListArray, StringArray, StringDictionaryBuilder,
        StringViewArray, StructArray,
    };
    use arrow::buffer::OffsetBuffer;
    use arrow::datatypes::{Fields, Int8Type};

    #[test]
    fn every_encoding_of_text_is_the_same() {
        let mut dictionary = StringDictionaryBuilder::<Int8Type>::new();
        dictionary.append_value("ü🙂");
        dictionary.append_null();
        let columns: [ArrayRef; 4] = [
            Arc::new(StringArray::from(vec![Some("ü🙂"), None])),
            Arc::new(LargeStringArray::from(vec![Some("ü🙂"), None])),
            Arc::new(StringViewArray::from(vec![Some("ü🙂"), None])),
            Arc::new(dictionary.finish()),
        ];
        for column in columns {
            assert_eq!(nodes(&column).unwrap(), [Node::Text("ü🙂".into()), Node::Null]);
        }
    }

    #[test]
    fn lists_and_structs_keep_their_nulls() {
        let fields: Fields =
            vec![Field::new("text", DataType::Utf8, true), Field::new("yes", DataType::Boolean, true)].into();
        let texts: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None, Some("c")]));
        let yes: ArrayRef = Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)]));
        let rows = StructArray::new(fields.clone(), vec![texts, yes], Some(vec![true, false, true].into()));
        let element = Arc::new(Field::new("item", DataType::Struct(fields), true));
        let (lengths, valid) = ([2, 0, 1], Some(vec![true, false, true].into()));
        let list =
            ListArray::new(element.clone(), OffsetBuffer::from_lengths(lengths), Arc::new(rows.clone()), valid.clone());
        let large = LargeListArray::new(element, OffsetBuffer::from_lengths(lengths), Arc::new(rows), valid);
        let lists: [ArrayRef; 2] = [Arc::new(list), Arc::new(large)];
        for list in lists {
            let values = nodes(&list.slice(0, 3)).unwrap();
            assert_eq!(
                (values[0].items()[0].field("text").text(), values[0].items()[0].field("yes").number()),
                (Some("a"), Some(1.0))
            );
            assert_eq!((&values[0].items()[1], &values[1]), (&Node::Null, &Node::Null));
            assert_eq!(nodes(&list.slice(2, 1)).unwrap()[0].items()[0].field("text").text(), Some("c"));
        }
        let numbers: ArrayRef = Arc::new(Int32Array::from(vec![Some(-3), None]));
        assert_eq!(nodes(&numbers).unwrap(), [Node::Number(-3.0), Node::Null]);
    }
}
