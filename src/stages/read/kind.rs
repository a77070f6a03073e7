//! What a format expects of a column, told from the column's Arrow type.

use arrow::datatypes::{DataType, Fields};

use crate::io::list_element;

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    /// A number, or its text.
    Number,
    /// A message, or a list of them.
    Turns,
    /// Either a text or messages.
    Talk,
    /// Lists of two texts: what the user said, and the answer.
    Rounds,
    /// Structs with `rank` and the field named here, which is a text or messages.
    Ranked(&'static str),
}

impl Kind {
    /// Whether a column of this type holds it.
    pub(super) fn accepts(self, data_type: &DataType) -> bool {
        let both = |fields: &Fields, kinds: [(&str, Self); 2]| {
            kinds.iter().all(|(name, kind)| fields.find(name).is_some_and(|(_, field)| kind.accepts(field.data_type())))
        };
        match (self, data_type) {
            // Nothing but nulls: the rows say so.
            (_, DataType::Null) => true,
            (Self::Text, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View) => true,
            (Self::Text, DataType::Dictionary(_, value)) => self.accepts(value),
            (Self::Number, DataType::Boolean) => true,
            (Self::Number, kind) => kind.is_numeric() || Self::Text.accepts(kind),
            (Self::Turns, DataType::Struct(fields)) => {
                let named = |role, content| both(fields, [(role, Self::Text), (content, Self::Text)]);
                let parted = fields.find("role").is_some()
                    && fields.find("content").and_then(|(_, field)| list_element(field.data_type())).is_some();
                named("role", "content") || named("from", "value") || parted
            }
            (Self::Turns, list) => list_element(list).is_some_and(|element| match element {
                DataType::Struct(_) | DataType::Null => self.accepts(element),
                _ => false,
            }),
            (Self::Talk, kind) => Self::Text.accepts(kind) || Self::Turns.accepts(kind),
            (Self::Rounds, list) => list_element(list).is_some_and(|round| {
                *round == DataType::Null || list_element(round).is_some_and(|text| Self::Text.accepts(text))
            }),
            (Self::Ranked(answer), list) => list_element(list).is_some_and(|element| match element {
                DataType::Struct(fields) => both(fields, [("rank", Self::Number), (answer, Self::Talk)]),
                other => *other == DataType::Null,
            }),
            _ => false,
        }
    }

    /// It in words.
    pub(super) fn describe(self) -> String {
        match self {
            Self::Text => "text".to_owned(),
            Self::Number => "a number".to_owned(),
            Self::Turns => "messages".to_owned(),
            Self::Talk => "text or messages".to_owned(),
            Self::Rounds => "lists of two texts".to_owned(),
            Self::Ranked(answer) => format!("list<struct<{answer}, rank>>"),
        }
    }
}
