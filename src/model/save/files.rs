//! Writes the files of a model folder.

use std::fs;
use std::path::Path;

use burn::tensor::TensorData;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::model::checkpoint::source::ModelSource;

/// The files of a tokenizer; those that exist are copied.
const TOKENIZER_FILES: [&str; 9] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
];

/// Creates `folder` if it does not exist.
pub(super) fn make(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).map_err(|error| unwritable(folder, error))
}

fn unwritable(path: &Path, error: impl std::fmt::Display) -> Error {
    Error::model(path.display(), format!("cannot be written: {error}"))
}

pub(super) fn write_text(text: &str, path: &Path) -> Result<()> {
    fs::write(path, text).map_err(|error| unwritable(path, error))
}

pub(super) fn write_json(value: &Value, path: &Path) -> Result<()> {
    write_text(&format!("{value:#}\n"), path)
}

/// Writes f32 tensors with their names and shapes as a safetensors file.
pub(super) fn write_tensors(tensors: &[(String, TensorData, Vec<usize>)], path: &Path) -> Result<()> {
    let metadata = Some([("format".to_owned(), "pt".to_owned())].into());
    let views: Result<Vec<(&String, TensorView)>, _> = tensors
        .iter()
        .map(|(name, data, shape)| TensorView::new(Dtype::F32, shape.clone(), data.as_bytes()).map(|view| (name, view)))
        .collect();
    views
        .and_then(|views| safetensors::serialize_to_file(views, metadata, path))
        .map_err(|error| unwritable(path, error))
}

pub(super) fn copy_tokenizer(source: &ModelSource, folder: &Path) -> Result<()> {
    let Some(tokenizer) = &source.tokenizer else { return Ok(()) };
    for name in TOKENIZER_FILES {
        let file = tokenizer.join(name);
        if file.is_file() {
            fs::copy(&file, folder.join(name)).map_err(|error| unwritable(&folder.join(name), error))?;
        }
    }
    Ok(())
}
