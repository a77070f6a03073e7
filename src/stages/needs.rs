//! Checks of the columns that stages need: every missing one is a problem with the stage that makes it.

use arrow::datatypes::{DataType, Schema};

use crate::columns::{PROMPT_IDS, Side, list_type};
use crate::error::Problem;

/// The name of a column, by side.
pub(super) type ColumnName = fn(Side) -> String;

/// Checks that the answers' token columns are there.
pub(super) fn needs_answers(input: &Schema) -> Vec<Problem> {
    let sides = Side::BOTH.map(Side::ids);
    needs_ids(input).into_iter().filter(|problem| sides.iter().any(|name| problem.message.contains(name))).collect()
}

/// Checks that the token columns are there.
pub(super) fn needs_ids(input: &Schema) -> Vec<Problem> {
    let names = [PROMPT_IDS.to_owned(), Side::Chosen.ids(), Side::Rejected.ids()];
    let missing = names.iter().filter(|name| !has_ids(input, name));
    missing
        .map(|name| Problem::at("input", format!("no column `{name}`")).help("put a `tokenize` stage before it"))
        .collect()
}

/// Whether `rows` have `list<int32>` in column `name`.
pub(super) fn has_ids(rows: &Schema, name: &str) -> bool {
    rows.field_with_name(name).is_ok_and(|field| *field.data_type() == list_type(DataType::Int32))
}

/// Checks that both sides have `list<float32>` in the column called `name`; `help` is the way to it.
pub(super) fn needs_floats(rows: &Schema, name: ColumnName, help: &str) -> Vec<Problem> {
    let is_there = |name: &String| {
        rows.field_with_name(name).is_ok_and(|field| *field.data_type() == list_type(DataType::Float32))
    };
    let missing = Side::BOTH.map(name).into_iter().filter(|name| !is_there(name));
    missing.map(|name| Problem::at("input", format!("no column `{name}`")).help(help)).collect()
}

/// Checks that token rewards are there.
pub(super) fn needs_rewards(rows: &Schema) -> Vec<Problem> {
    needs_floats(rows, Side::token_rewards, "put a `score` stage with an oracle or a contrast before it")
}
