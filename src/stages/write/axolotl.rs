//! The chosen answers for axolotl: a pre-tokenized dataset has `input_ids`, `attention_mask` and `labels`, and its `type` is
//! empty in axolotl's YAML.

use arrow::array::RecordBatch;

use super::labels;
use crate::columns::Side;
use crate::error::Result;

/// The rows of `batch` in axolotl's columns; labels are those of the key mask `mask`.
pub(super) fn rows(batch: &RecordBatch, mask: Option<&str>) -> Result<RecordBatch> {
    labels::batch(labels::columns(batch, Side::Chosen, mask, "")?)
}
