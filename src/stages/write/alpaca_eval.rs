//! Answers as AlpacaEval takes them: `model_outputs`, one JSON array of objects with `instruction`, `output`,
//! `generator` and `dataset` (<https://github.com/tatsu-lab/alpaca_eval>).

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Schema};

use crate::columns::{ANSWER, GENERATOR, PROMPT, messages, messages_type, role, words};
use crate::error::{Error, Place, Problem, Result};

/// The dataset's own columns, taken where they are there.
const INSTRUCTION: &str = "instruction";
const DATASET: &str = "dataset";

/// What rows lack.
pub(super) fn problems(input: &Schema) -> Vec<Problem> {
    let has = |name: &str| input.field_with_name(name).is_ok();
    let asks = has(INSTRUCTION) || input.field_with_name(PROMPT).is_ok_and(|at| *at.data_type() == messages_type());
    let mut problems = Vec::new();
    if !has(ANSWER) || !has(GENERATOR) {
        let problem = Problem::at("format", "alpaca_eval takes answers, and there is no column `answer`");
        problems.push(problem.help("put a `generate` stage before it"));
    }
    if !asks {
        problems.push(Problem::at("format", "alpaca_eval takes instructions: the column `instruction`, or `prompt`"));
    }
    problems
}

/// The rows of `batch` in AlpacaEval's columns. Without a column `instruction` it is what the user said last.
pub(super) fn rows(batch: &RecordBatch) -> Result<RecordBatch> {
    let text = |name: &str| -> Result<Option<ArrayRef>> {
        let column = batch.column_by_name(name).map(|column| cast(column, &DataType::Utf8));
        column.transpose().map_err(|error| Error::data(Place::column(name), error))
    };
    let needed = |name: &str| text(name)?.ok_or_else(|| Error::data(Place::column(name), "no such column"));
    let instruction = match text(INSTRUCTION)? {
        Some(instruction) => instruction,
        None => {
            let asked = messages(batch, PROMPT)?.into_iter().map(|turns| {
                let last = turns.iter().rev().find(|turn| role(turn) == "user");
                last.map(words).unwrap_or_default()
            });
            Arc::new(asked.map(Some).collect::<StringArray>())
        }
    };
    let unknown = || StringArray::from(vec!["unknown"; batch.num_rows()]);
    let dataset = text(DATASET)?.filter(|column| column.null_count() == 0);
    let dataset = dataset.unwrap_or_else(|| Arc::new(unknown()));
    RecordBatch::try_from_iter([
        (INSTRUCTION, instruction),
        ("output", needed(ANSWER)?),
        (GENERATOR, needed(GENERATOR)?),
        (DATASET, dataset),
    ])
    .map_err(|error| Error::data(Place::default(), error))
}
