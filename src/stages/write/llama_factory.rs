//! A folder for LLaMA-Factory's `tokenized_path`, as `datasets.Dataset.save_to_disk` lays it out: Arrow streams,
//! `state.json`, `dataset_info.json`. Its pairwise collator takes `{side}_input_ids`, `{side}_attention_mask`, `{side}_labels`, and
//! `images`, `videos`, `audios`, which are null here.

use std::sync::Arc;

use arrow::array::{ArrayRef, NullArray, RecordBatch};
use serde_json::{Value, json};

use super::labels;
use crate::columns::Side;
use crate::error::Result;
use crate::io::Written;

/// The rows of `batch` in LLaMA-Factory's columns; labels are those of the key mask `mask`.
pub(super) fn rows(batch: &RecordBatch, mask: Option<&str>) -> Result<RecordBatch> {
    let mut columns = Vec::new();
    for side in Side::BOTH {
        columns.extend(labels::columns(batch, side, mask, &format!("{}_", side.name()))?);
    }
    let null: ArrayRef = Arc::new(NullArray::new(batch.num_rows()));
    columns.extend(["images", "videos", "audios"].map(|name| (name.to_owned(), null.clone())));
    labels::batch(columns)
}

/// `state.json` and `dataset_info.json`. The fingerprint, by which `datasets` caches, is that of the files' content.
pub(super) fn beside(split: &str, files: &[(&str, &Written)]) -> Vec<(&'static str, Value)> {
    let mut content = blake3::Hasher::new();
    for (_, written) in files {
        content.update(written.blake3.as_bytes());
    }
    let names: Vec<Value> = files.iter().map(|(name, _)| json!({ "filename": name })).collect();
    let state = json!({
        "_data_files": names,
        "_fingerprint": &content.finalize().to_hex()[..16],
        "_format_columns": null,
        "_format_kwargs": {},
        "_format_type": null,
        "_output_all_columns": false,
        "_split": split,
    });
    vec![("state.json", state), ("dataset_info.json", json!({}))]
}
