//! What the values of a dataset were made with, carried in the schema's metadata and in the Parquet footer.
//!
//! A stage that is about to mix two makings (rewards of one reference, a trainer configured with another) finds the
//! contradiction here and refuses.

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Key of the schema metadata and of the Parquet footer.
pub const KEY: &str = "sepo";

/// Digests and rules. Absent means that the dataset holds nothing made with it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Provenance {
    /// Version of sepo that wrote it.
    pub version: String,
    /// Digest of the tokenizer's vocabulary, merges and special tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<String>,
    /// The folder of the tokenizer when it made the ids, as the run named it. Only where to look first: what is found there is
    /// the tokenizer if it has its digest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokenizer_folder: Option<String>,
    /// Digest of the chat template.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// Digest of the oracle behind `{side}_oracle_logps`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oracle: Option<String>,
    /// Digest of the reference behind `{side}_ref_logps`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// The wordings behind `better_prompt_ids` and `worse_prompt_ids`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contrast: Option<Value>,
    /// What `{side}_token_rewards` are made of: an oracle and its reference, or a model and two wordings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rewards: Option<Value>,
    /// Numbers of the weights behind the log-probabilities: `f32`, `bf16x2`, `bf16`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub precision: Option<Value>,
    /// Kind of the device that computed the log-probabilities: `cpu`, `libtorch`, `libtorch:cuda`, `cuda`, …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// The model behind `answer`, and how it answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answers: Option<Value>,
    /// The rule behind each key mask, by mask column suffix; the default mask is `""`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub masks: BTreeMap<String, Value>,
}

impl Provenance {
    /// What the schema says about itself; empty where it says nothing or nothing readable.
    pub fn of(schema: &Schema) -> Self {
        schema.metadata().get(KEY).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
    }

    /// The schema with this provenance written into its metadata.
    pub fn stamp(mut self, schema: &Schema) -> SchemaRef {
        env!("CARGO_PKG_VERSION").clone_into(&mut self.version);
        let mut metadata = schema.metadata().clone();
        let text = serde_json::to_string(&self).expect("provenance is plain data");
        metadata.insert(KEY.to_owned(), text);
        Arc::new(schema.clone().with_metadata(metadata))
    }

    /// The same rows under a schema with this provenance.
    pub fn stamp_rows(self, rows: &RecordBatch) -> RecordBatch {
        let schema = self.stamp(&rows.schema());
        RecordBatch::try_new(schema, rows.columns().to_vec()).expect("only the metadata differs")
    }
}
