//! Conversations in columns: a list of turns, each with `role` and `content` as text, and nullable fields for what else a
//! message may have.
//!
//! `content` is never null, so that every reader finds the words of a turn in one place. A message whose content is not
//! one text (parts, or none beside tool calls) has the original in `extra`.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, RecordBatch, StringArray, StructArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Fields};
use serde_json::{Map, Value};

use super::list_type;
use crate::error::{Error, Place};

/// One message of a conversation as chat templates see it: `role`, `content` and whatever else it has, without nulls.
pub type Turn = Map<String, Value>;

/// A message of role and words alone.
pub fn say(role: &str, content: &str) -> Turn {
    [("role", role), ("content", content)].map(|(key, value)| (key.to_owned(), value.into())).into_iter().collect()
}

/// Who speaks.
pub fn role(turn: &Turn) -> &str {
    turn.get("role").and_then(Value::as_str).unwrap_or_default()
}

/// The words of a message: its content, or the texts of the content's parts one after the other.
pub fn words(turn: &Turn) -> String {
    match turn.get("content") {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => parts.iter().filter_map(|part| part.get("text")?.as_str()).collect(),
        _ => String::new(),
    }
}

/// Fields that are text and stand in a column of their own, beside role and content.
const TEXTS: [&str; 3] = ["name", "tool_call_id", "reasoning_content"];
/// The calls of a message, as JSON.
const TOOL_CALLS: &str = "tool_calls";
/// What has no field of its own, as a JSON object.
pub const EXTRA: &str = "extra";

/// `list<struct<role, content, name?, tool_call_id?, reasoning_content?, tool_calls?, extra?>>`, all of them text: the
/// canonical form of a conversation. `tool_calls` and `extra` hold JSON.
pub fn messages_type() -> DataType {
    list_type(DataType::Struct(fields()))
}

fn fields() -> Fields {
    let always = ["role", "content"].map(|name| Field::new(name, DataType::Utf8, false));
    let nullable = TEXTS.into_iter().chain([TOOL_CALLS, EXTRA]).map(|name| Field::new(name, DataType::Utf8, true));
    always.into_iter().chain(nullable).collect()
}

/// The conversations in column `name`.
///
/// # Errors
/// A column that is not of [`messages_type`], or JSON in it that cannot be read.
pub fn messages(batch: &RecordBatch, name: &str) -> Result<Vec<Vec<Turn>>, Error> {
    let wrong = |message: &str| Error::data(Place::column(name), message);
    let column = batch.column_by_name(name).filter(|column| *column.data_type() == messages_type());
    let list = column.ok_or_else(|| wrong("holds no conversations"))?.as_list::<i32>();
    let turns = list.values().as_struct();
    let columns: Vec<(&str, &StringArray)> = turns
        .fields()
        .iter()
        .zip(turns.columns())
        .map(|(field, column)| (field.name().as_str(), column.as_string::<i32>()))
        .collect();
    let turn = |at: usize| turn(&columns, at).map_err(|error| wrong(&format!("holds broken JSON: {error}")));
    let row = |range: &[i32]| (range[0] as usize..range[1] as usize).map(turn).collect();
    list.offsets().windows(2).map(row).collect()
}

fn turn(columns: &[(&str, &StringArray)], at: usize) -> Result<Turn, serde_json::Error> {
    let mut turn = Turn::new();
    for (name, column) in columns.iter().filter(|(_, column)| column.is_valid(at)) {
        let text = column.value(at);
        match *name {
            TOOL_CALLS => drop(turn.insert(TOOL_CALLS.into(), serde_json::from_str(text)?)),
            EXTRA => turn.extend(serde_json::from_str::<Turn>(text)?),
            name => drop(turn.insert(name.into(), text.into())),
        }
    }
    turn.retain(|_, value| !value.is_null());
    Ok(turn)
}

/// A column of conversations.
pub fn messages_column<'a>(rows: impl Iterator<Item = &'a [Turn]> + Clone) -> ArrayRef {
    let lengths = OffsetBuffer::from_lengths(rows.clone().map(<[Turn]>::len));
    let turns: Vec<Stored> = rows.flatten().map(Stored::new).collect();
    let column =
        |name: &str| -> ArrayRef { Arc::new(turns.iter().map(|turn| turn.get(name)).collect::<StringArray>()) };
    let fields = fields();
    let columns = fields.iter().map(|field| column(field.name())).collect();
    let values = StructArray::new(fields.clone(), columns, None);
    let element = Arc::new(Field::new("element", DataType::Struct(fields), false));
    Arc::new(ListArray::new(element, lengths, Arc::new(values), None))
}

/// The fields of one turn, as text.
struct Stored(Vec<(&'static str, String)>);

impl Stored {
    fn new(turn: &Turn) -> Self {
        let mut stored = vec![("role", role(turn).to_owned()), ("content", words(turn))];
        let mut extra = Turn::new();
        for (name, value) in turn.iter().filter(|(name, _)| *name != "role") {
            match (TEXTS.into_iter().find(|text| text == name), value) {
                (_, Value::String(_)) if name == "content" => {}
                (Some(name), Value::String(text)) => stored.push((name, text.clone())),
                _ if name == TOOL_CALLS && !value.is_null() => stored.push((TOOL_CALLS, value.to_string())),
                _ => drop(extra.insert(name.clone(), value.clone())),
            }
        }
        if !turn.contains_key("content") {
            extra.insert("content".into(), Value::Null);
        }
        if !extra.is_empty() {
            stored.push((EXTRA, Value::Object(extra).to_string()));
        }
        Self(stored)
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(field, _)| *field == name).map(|(_, text)| text.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn turns(json: Value) -> Vec<Turn> {
        json.as_array().unwrap().iter().map(|turn| turn.as_object().unwrap().clone()).collect()
    }

    #[test]
    fn messages_come_back_with_all_their_fields() {
        let call = json!([{"type": "function", "function": {"name": "add", "arguments": {"b": 1, "a": 2.5}}}]);
        let parts = json!([{"type": "text", "text": "Two, "}, {"type": "text", "text": "three?"}]);
        let rows = [
            turns(json!([{"role": "user", "content": "q"}, {"role": "assistant", "tool_calls": call}])),
            turns(json!([{"role": "tool", "content": "4", "name": "add", "tool_call_id": "7"},
                         {"role": "assistant", "content": "", "reasoning_content": "so", "thinking": "so", "n": 1}])),
            turns(json!([{"role": "user", "content": parts}])),
            turns(json!([])),
        ];
        let column = messages_column(rows.iter().map(Vec::as_slice));
        let batch = RecordBatch::try_from_iter([("prompt", column.clone())]).unwrap();
        assert_eq!(messages(&batch, "prompt").unwrap(), rows);
        assert_eq!(messages(&batch.slice(2, 2), "prompt").unwrap(), rows[2..]);
        let content = column.as_list::<i32>().values().as_struct().column_by_name("content").unwrap().clone();
        let content: Vec<Option<&str>> = content.as_string::<i32>().iter().collect();
        assert_eq!(content, ["q", "", "4", "", "Two, three?"].map(Some));
        // Keys keep their order, which equality does not see.
        let call = &messages(&batch, "prompt").unwrap()[0][1]["tool_calls"][0];
        assert_eq!(call["function"]["arguments"].to_string(), r#"{"b":1,"a":2.5}"#);
    }
}
