//! Conversations for TRL's preference trainers: `prompt`, `chosen` and `rejected`, each a list of `role` and `content`.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, ListArray, RecordBatch, StructArray};
use arrow::datatypes::{DataType, Field, Schema};

use crate::columns::{PROMPT, Side, messages, messages_type, row_ids};
use crate::error::{Error, Place, Problem, Result};

const COLUMNS: [&str; 3] = [PROMPT, Side::Chosen.name(), Side::Rejected.name()];

/// What rows lack.
pub(super) fn problems(input: &Schema) -> Vec<Problem> {
    let lacks = |name: &&str| input.field_with_name(name).map_or(true, |field| *field.data_type() != messages_type());
    let missing = COLUMNS.into_iter().find(lacks);
    let problem =
        |name| Problem::at("format", format!("trl takes conversations, and there are none in a column `{name}`"));
    missing.map(problem).into_iter().collect()
}

/// The rows of `batch` in TRL's columns.
///
/// # Errors
/// A message with tool calls or other fields: TRL's columns would not have the same ones for every row.
pub(super) fn rows(batch: &RecordBatch) -> Result<RecordBatch> {
    let mut columns: Vec<(&str, ArrayRef)> = Vec::new();
    for name in COLUMNS {
        for (row, turns) in messages(batch, name)?.iter().enumerate() {
            let known = ["role", "content"];
            if let Some(field) = turns.iter().flat_map(|turn| turn.keys()).find(|key| !known.contains(&key.as_str())) {
                let row = row_ids(batch).get(row).cloned().unwrap_or_default();
                let message = format!(
                    "row {row} has a message with `{field}`, which `format: trl` does not write; use `parquet`"
                );
                return Err(Error::data(Place::column(name), message));
            }
        }
        let column = batch.column_by_name(name).expect("messages found it").as_list::<i32>();
        let turns = column.values().as_struct();
        let (fields, values): (Vec<_>, Vec<_>) =
            turns.fields().iter().cloned().zip(turns.columns().iter().cloned()).take(2).unzip();
        let turns = StructArray::new(fields.clone().into(), values, None);
        let element = Arc::new(Field::new("element", DataType::Struct(fields.into()), false));
        columns.push((name, Arc::new(ListArray::new(element, column.offsets().clone(), Arc::new(turns), None))));
    }
    RecordBatch::try_from_iter(columns).map_err(|error| Error::data(Place::default(), error))
}
