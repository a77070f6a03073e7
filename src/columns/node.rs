//! Values of a source's columns, whatever Arrow type holds them: text in any encoding, lists of any kind, structs.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type, UInt64Type};
use arrow::error::ArrowError;
use serde_json::{Map, Value};

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub enum Node {
    /// Nothing.
    Null,
    /// A text.
    Text(String),
    /// True or false.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// A whole number beyond those.
    Unsigned(u64),
    /// Any other number.
    Number(f64),
    /// A list.
    List(Vec<Node>),
    /// Fields in order, those that are null too.
    Struct(Vec<(String, Node)>),
}

impl Node {
    /// The text, if it is one.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The number, if it is one or the text of one; true and false are 1 and 0.
    pub fn number(&self) -> Option<f64> {
        match self {
            Self::Bool(value) => Some(f64::from(u8::from(*value))),
            Self::Integer(number) => Some(*number as f64),
            Self::Unsigned(number) => Some(*number as f64),
            Self::Number(number) => Some(*number),
            Self::Text(text) => text.trim().parse().ok(),
            _ => None,
        }
        .filter(|number: &f64| number.is_finite())
    }

    /// The elements of a list; none of anything else.
    pub fn items(&self) -> &[Node] {
        match self {
            Self::List(items) => items,
            _ => &[],
        }
    }

    /// The field `name` of a struct; null where there is none.
    pub fn field(&self, name: &str) -> &Node {
        let fields = match self {
            Self::Struct(fields) => &fields[..],
            _ => &[],
        };
        fields.iter().find(|(field, _)| field == name).map_or(&Self::Null, |(_, node)| node)
    }
}

impl Node {
    /// It as JSON. Fields that are null are left out: a column's type has the fields of all rows, so they are those that
    /// this row does not have.
    pub fn json(&self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Text(text) => text.as_str().into(),
            Self::Bool(value) => (*value).into(),
            Self::Integer(number) => (*number).into(),
            Self::Unsigned(number) => (*number).into(),
            Self::Number(number) => (*number).into(),
            Self::List(items) => items.iter().map(Self::json).collect(),
            Self::Struct(fields) => {
                let fields = fields.iter().filter(|(_, value)| *value != Self::Null);
                fields.map(|(name, value)| (name.clone(), value.json())).collect::<Map<_, _>>().into()
            }
        }
    }
}

impl From<Value> for Node {
    fn from(json: Value) -> Self {
        match json {
            Value::Null => Self::Null,
            Value::Bool(value) => Self::Bool(value),
            Value::String(text) => Self::Text(text),
            Value::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(number), _) => Self::Integer(number),
                (None, Some(number)) => Self::Unsigned(number),
                (None, None) => Self::Number(number.as_f64().unwrap_or(f64::NAN)),
            },
            Value::Array(items) => Self::List(items.into_iter().map(Self::from).collect()),
            Value::Object(map) => Self::Struct(map.into_iter().map(|(name, value)| (name, value.into())).collect()),
        }
    }
}

/// The values of `column`, one a row, whose field is `field`: the JSON of a field of the extension type `arrow.json` is
/// read. What is neither text, number, list nor struct counts as null.
///
/// # Errors
/// A type that JSON has no form for; JSON that cannot be read.
pub fn nodes(field: &Field, column: &ArrayRef) -> Result<Vec<Node>, ArrowError> {
    let nodes = plain_nodes(column)?;
    if field.metadata().get("ARROW:extension:name").map(String::as_str) != Some("arrow.json") {
        return Ok(nodes);
    }
    let parsed = |node: Node| match node {
        Node::Text(text) => serde_json::from_str::<Value>(&text).map_or(Node::Text(text), Node::from),
        other => other,
    };
    Ok(nodes.into_iter().map(parsed).collect())
}

fn plain_nodes(column: &ArrayRef) -> Result<Vec<Node>, ArrowError> {
    match column.data_type() {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
            let texts = cast(column, &DataType::Utf8)?;
            Ok(texts
                .as_string::<i32>()
                .iter()
                .map(|text| text.map_or(Node::Null, |text| Node::Text(text.into())))
                .collect())
        }
        DataType::Dictionary(_, value) => plain_nodes(&cast(column, value)?),
        DataType::Boolean => Ok(column.as_boolean().iter().map(|value| value.map_or(Node::Null, Node::Bool)).collect()),
        kind if kind.is_unsigned_integer() => numbers::<UInt64Type>(column, Node::Unsigned),
        kind if kind.is_integer() => numbers::<Int64Type>(column, Node::Integer),
        kind if kind.is_numeric() => numbers::<Float64Type>(column, Node::Number),
        DataType::List(element)
        | DataType::LargeList(element)
        | DataType::ListView(element)
        | DataType::LargeListView(element)
        | DataType::FixedSizeList(element, _) => {
            let list = cast(column, &DataType::List(Arc::new(Field::clone(element).with_nullable(true))))?;
            let list = list.as_list::<i32>();
            let (offsets, start) = (list.value_offsets(), list.value_offsets()[0]);
            let length = offsets[list.len()] - start;
            let mut values = nodes(element, &list.values().slice(start as usize, length as usize))?.into_iter();
            let items = |row: usize| {
                let items = values.by_ref().take((offsets[row + 1] - offsets[row]) as usize).collect();
                if list.is_valid(row) { Node::List(items) } else { Node::Null }
            };
            Ok((0..list.len()).map(items).collect())
        }
        DataType::Struct(fields) => {
            let rows = column.as_struct();
            let columns = fields.iter().zip(rows.columns()).map(|(field, column)| nodes(field, column));
            let columns = columns.collect::<Result<Vec<_>, _>>()?;
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

fn numbers<T: ArrowPrimitiveType>(column: &ArrayRef, node: fn(T::Native) -> Node) -> Result<Vec<Node>, ArrowError> {
    let numbers = cast(column, &T::DATA_TYPE)?;
    Ok(numbers.as_primitive::<T>().iter().map(|number| number.map_or(Node::Null, node)).collect())
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
    use serde_json::json;

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
            assert_eq!(plain_nodes(&column).unwrap(), [Node::Text("ü🙂".into()), Node::Null]);
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
            let values = plain_nodes(&list.slice(0, 3)).unwrap();
            assert_eq!(
                (values[0].items()[0].field("text").text(), values[0].items()[0].field("yes").number()),
                (Some("a"), Some(1.0))
            );
            assert_eq!((&values[0].items()[1], &values[1]), (&Node::Null, &Node::Null));
            assert_eq!(plain_nodes(&list.slice(2, 1)).unwrap()[0].items()[0].field("text").text(), Some("c"));
        }
        let numbers: ArrayRef = Arc::new(Int32Array::from(vec![Some(-3), None]));
        assert_eq!(plain_nodes(&numbers).unwrap(), [Node::Integer(-3), Node::Null]);
    }

    #[test]
    fn json_is_read_by_its_extension_type_at_every_depth() {
        let json = Field::new("content", DataType::Utf8, true)
            .with_metadata([("ARROW:extension:name".to_owned(), "arrow.json".to_owned())].into());
        let texts: ArrayRef =
            Arc::new(StringArray::from(vec![r#""Q2""#, r#"[{"text": "Q", "n": 1, "no": null}]"#, "not JSON"]));
        let rows: ArrayRef = Arc::new(StructArray::from(vec![(Arc::new(json), texts.clone())]));
        let field = Field::new("turn", rows.data_type().clone(), true);
        let found: Vec<Value> = nodes(&field, &rows).unwrap().iter().map(|node| node.field("content").json()).collect();
        assert_eq!(found, [json!("Q2"), json!([{"text": "Q", "n": 1}]), json!("not JSON")]);
        assert_eq!(plain_nodes(&texts).unwrap()[0], Node::Text(r#""Q2""#.into()));
    }
}
