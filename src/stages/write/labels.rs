//! Key tokens as trainers take them: one sequence of prompt and answer, and a label for every token of it, the token's id where
//! it trains and -100 where it does not. Labels are not shifted: the label of a token stands at the token.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{Int8Type, Int32Type};

use crate::columns::lists::{from_rows, ids, masks};
use crate::columns::{PROMPT_IDS, Side, row_ids};
use crate::error::{Error, Place, Result};

/// The label of a token without a loss, in PyTorch and all trainers on top of it.
const IGNORED: i32 = -100;

/// `input_ids`, `attention_mask` and `labels` of prompt and answer of `side`, under names with `prefix`; labels are those of the key
/// mask `mask`.
///
/// # Errors
/// A column that is not there or has another type, a mask that is not as long as its answer.
pub(super) fn columns(
    batch: &RecordBatch,
    side: Side,
    mask: Option<&str>,
    prefix: &str,
) -> Result<[(String, ArrayRef); 3]> {
    let (prompts, answers) = (ids(batch, PROMPT_IDS)?, ids(batch, &side.ids())?);
    let name = side.key_mask(mask);
    let masks = masks(batch, &name)?;
    let (mut sequences, mut labels) = (Vec::new(), Vec::new());
    for (row, mask) in masks.iter().enumerate() {
        let (prompt, answer) = (prompts.row(row), answers.row(row));
        if mask.len() != answer.len() {
            let message = format!(
                "row {} has {} values, and its answer {} tokens",
                row_ids(batch).get(row).cloned().unwrap_or_default(),
                mask.len(),
                answer.len()
            );
            return Err(Error::data(Place::column(&name), message));
        }
        sequences.push([prompt, answer].concat());
        let of_answer = answer.iter().zip(mask).map(|(id, is_key)| if *is_key { *id } else { IGNORED });
        labels.push(std::iter::repeat_n(IGNORED, prompt.len()).chain(of_answer).collect::<Vec<i32>>());
    }
    let attended = from_rows::<Int8Type>(sequences.iter().map(|ids| vec![1; ids.len()]));
    let named = |name: &str, column: ArrayRef| (format!("{prefix}{name}"), column);
    Ok([
        named("input_ids", from_rows::<Int32Type>(&sequences)),
        named("attention_mask", Arc::clone(&attended)),
        named("labels", from_rows::<Int32Type>(&labels)),
    ])
}

/// `columns` as rows.
pub(super) fn batch(columns: impl IntoIterator<Item = (String, ArrayRef)>) -> Result<RecordBatch> {
    RecordBatch::try_from_iter(columns).map_err(|error| Error::data(Place::default(), error))
}
