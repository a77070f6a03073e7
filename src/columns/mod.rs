//! The well-known columns: their names, their types, and typed views on them. No I/O and no arithmetic.
//!
//! Every list column has a child named `element`, as the Parquet specification and pyarrow write it, so that
//! per-column settings and foreign readers find it.

pub mod conversation;
pub mod lists;
pub mod node;
pub mod provenance;
mod type_name;

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, UInt64Type};
use arrow::error::ArrowError;
use arrow::json::LineDelimitedWriter;
use serde::{Deserialize, Serialize};

pub use conversation::{Turn, messages, messages_column, messages_type, role, say, words};
pub use type_name::type_name;

/// Stable key of a row: the source's own, or made from file and row.
pub const ROW_ID: &str = "row_id";
/// The prompt's messages.
pub const PROMPT: &str = "prompt";
/// Token ids of the rendered prompt.
pub const PROMPT_IDS: &str = "prompt_ids";
/// What a model answered, as text.
pub const ANSWER: &str = "answer";
/// Token ids of the answer, the one that ended it included.
pub const ANSWER_IDS: &str = "answer_ids";
/// Why the answer ended: `stop` or `length`.
pub const FINISH_REASON: &str = "finish_reason";
/// The model that answered, by its name in the pipeline.
pub const GENERATOR: &str = "generator";
/// All answers to the prompt, where there are several: list<struct<answer, answer_ids, finish_reason>>.
pub const ANSWERS: &str = "answers";
/// Token ids of the prompt in words that ask for a better answer.
pub const BETTER_PROMPT_IDS: &str = "better_prompt_ids";
/// Token ids of the prompt in words that ask for a worse answer.
pub const WORSE_PROMPT_IDS: &str = "worse_prompt_ids";
/// Sum of the chosen response's token rewards minus that of the rejected one.
pub const REWARD_MARGIN: &str = "reward_margin";

/// One of the two answers of a preference pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// The better answer.
    Chosen,
    /// The worse answer.
    Rejected,
}

impl Side {
    /// Both sides, chosen first.
    pub const BOTH: [Self; 2] = [Self::Chosen, Self::Rejected];

    /// `chosen` or `rejected`: also the name of the column with the answer's messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Chosen => "chosen",
            Self::Rejected => "rejected",
        }
    }

    /// `{side}_ids`: token ids of the answer.
    pub fn ids(self) -> String {
        format!("{}_ids", self.name())
    }

    /// `{side}_truncated`: the answer was cut at `max_length`.
    pub fn truncated(self) -> String {
        format!("{}_truncated", self.name())
    }

    /// `{side}_assistant_mask`: true where a token is the assistant's, not of another turn inside of the answer.
    pub fn assistant_mask(self) -> String {
        format!("{}_assistant_mask", self.name())
    }

    /// `{side}_oracle_logps`: the oracle's log-probability of every response token.
    pub fn oracle_logps(self) -> String {
        format!("{}_oracle_logps", self.name())
    }

    /// `{side}_ref_logps`: the reference's log-probability of every response token.
    pub fn ref_logps(self) -> String {
        format!("{}_ref_logps", self.name())
    }

    /// `{side}_better_logps`: the reference's, behind the prompt that asks for a better answer.
    pub fn better_logps(self) -> String {
        format!("{}_better_logps", self.name())
    }

    /// `{side}_worse_logps`: the reference's, behind the prompt that asks for a worse answer.
    pub fn worse_logps(self) -> String {
        format!("{}_worse_logps", self.name())
    }

    /// `{side}_token_rewards`: oracle minus reference, or better minus worse prompt, for every response token.
    pub fn token_rewards(self) -> String {
        format!("{}_token_rewards", self.name())
    }

    /// `{side}_reward`: the sum of the token rewards.
    pub fn reward(self) -> String {
        format!("{}_reward", self.name())
    }

    /// `{side}_tokens`: what every token adds to the text of the answer.
    pub fn tokens(self) -> String {
        format!("{}_tokens", self.name())
    }

    /// `{side}_char_spans`: the characters of the answer that every token covers.
    pub fn char_spans(self) -> String {
        format!("{}_char_spans", self.name())
    }

    /// `{side}_key_mask`, or `{side}_key_mask_{rule}` for a further named rule: true where a token trains.
    pub fn key_mask(self, rule: Option<&str>) -> String {
        match rule {
            None => format!("{}_key_mask", self.name()),
            Some(rule) => format!("{}_key_mask_{rule}", self.name()),
        }
    }
}

/// `list<element>` with non-null elements.
pub fn list_type(element: DataType) -> DataType {
    DataType::List(Arc::new(Field::new("element", element, false)))
}

/// The `row_id` of every row of `batch`; of none where the column is missing.
pub fn row_ids(batch: &RecordBatch) -> Vec<String> {
    (0..batch.num_rows()).filter_map(|row| row_id(&batch.slice(row, 1))).collect()
}

/// The `row_id` of the first row of `batch`, whatever its type; none where the column is missing.
pub fn row_id(batch: &RecordBatch) -> Option<String> {
    let column = batch.column_by_name(ROW_ID)?;
    match column.data_type() {
        DataType::Int64 => Some(column.as_primitive::<Int64Type>().value(0).to_string()),
        DataType::UInt64 => Some(column.as_primitive::<UInt64Type>().value(0).to_string()),
        DataType::Utf8 => Some(column.as_string::<i32>().value(0).to_owned()),
        _ => None,
    }
}

/// The rows of `batch` as JSON, one object a line, without columns whose type has no JSON form.
pub fn row_as_json(batch: &RecordBatch) -> String {
    let write = |batch: &RecordBatch| {
        let mut writer = LineDelimitedWriter::new(Vec::new());
        writer.write(batch).and_then(|()| writer.finish()).map(|()| writer.into_inner())
    };
    let text = write(batch).or_else(|_| {
        let has_form = |column: &usize| batch.project(&[*column]).and_then(|alone| write(&alone)).is_ok();
        let columns: Vec<usize> = (0..batch.num_columns()).filter(has_form).collect();
        batch.project(&columns).and_then(|rest| write(&rest))
    });
    String::from_utf8_lossy(&text.unwrap_or_default()).trim_end().to_owned()
}

/// Puts `field` in the place of the one with its name, or at the end.
pub fn put(fields: &mut Vec<Field>, field: Field) {
    match fields.iter_mut().find(|other| other.name() == field.name()) {
        Some(place) => *place = field,
        None => fields.push(field),
    }
}

/// `batch` with `column` in the place of the one called `name`, or at the end.
///
/// # Errors
/// A column with another number of rows.
pub fn with_column(batch: &RecordBatch, name: &str, column: ArrayRef) -> Result<RecordBatch, ArrowError> {
    let mut fields: Vec<Field> = batch.schema().fields().iter().map(|field| Field::clone(field)).collect();
    let mut columns = batch.columns().to_vec();
    let nullable = column.is_nullable();
    let place = fields.iter().position(|field| field.name() == name);
    put(&mut fields, Field::new(name, column.data_type().clone(), nullable));
    match place {
        Some(place) => columns[place] = column,
        None => columns.push(column),
    }
    RecordBatch::try_new(Arc::new(Schema::new_with_metadata(fields, batch.schema().metadata().clone())), columns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int64Array, TimestampSecondArray};

    #[test]
    fn a_column_without_a_form_in_json_takes_no_other_along() {
        let zoned = TimestampSecondArray::from(vec![0]).with_timezone("Nowhere/Known");
        let columns: [(&str, ArrayRef); 2] = [("when", Arc::new(zoned)), ("n", Arc::new(Int64Array::from(vec![7])))];
        assert_eq!(row_as_json(&RecordBatch::try_from_iter(columns).unwrap()), "{\"n\":7}");
    }
}
