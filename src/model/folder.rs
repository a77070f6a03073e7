//! A model on disk, as `transformers` expects it: config.json, generation_config.json, model.safetensors, and the
//! tokenizer's files.

use std::fs;
use std::path::Path;

use burn::tensor::TensorData;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

use super::source::ModelSource;
use super::{ARCHITECTURES, CausalLm};
use crate::error::{Error, Result};

/// Files that make up a tokenizer; those that exist are copied along.
const TOKENIZER_FILES: [&str; 6] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
];

/// Writes `model`, which was made from `source`, into `folder`. The folder appears whole: it is written under a
/// temporary name beside it first, and replaces what was there.
pub fn save(model: &CausalLm, source: &ModelSource, folder: &Path) -> Result<()> {
    let wrong = |error: std::io::Error| Error::model(folder.display(), format!("cannot be written: {error}"));
    let parent = folder.parent().unwrap_or(Path::new("."));
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let draft = parent.join(format!(".{name}.{}", std::process::id()));
    let result = write(model, source, &draft).and_then(|()| {
        if folder.exists() {
            fs::remove_dir_all(folder).map_err(wrong)?;
        }
        fs::rename(&draft, folder).map_err(wrong)
    });
    if result.is_err() {
        // The draft may not exist yet; what matters is the error that led here.
        let _ = fs::remove_dir_all(&draft);
    }
    result
}

fn write(model: &CausalLm, source: &ModelSource, folder: &Path) -> Result<()> {
    let wrong = |error: std::io::Error| Error::model(folder.display(), format!("cannot be written: {error}"));
    fs::create_dir_all(folder).map_err(wrong)?;
    let mut config = source.config()?;
    let dtype = if config.get("dtype").is_some() { "dtype" } else { "torch_dtype" };
    config[dtype] = json!("float32");
    if config.get("architectures").is_none() {
        let model_type = config.get("model_type").and_then(Value::as_str).unwrap_or_default();
        let known = ARCHITECTURES.iter().find(|(name, _)| *name == model_type);
        config["architectures"] = json!(known.map(|(_, architecture)| architecture).into_iter().collect::<Vec<_>>());
    }
    let pretty = |value: &Value| format!("{value:#}\n");
    fs::write(folder.join("config.json"), pretty(&config)).map_err(wrong)?;
    fs::write(folder.join("generation_config.json"), pretty(&generation_config(&config))).map_err(wrong)?;

    let mut tensors: Vec<(String, TensorData, Vec<usize>)> = Vec::new();
    model.for_each_parameter(|name, values, shape| {
        tensors.push((name.to_owned(), values.into_data(), shape.to_vec()));
    });
    let views: Result<Vec<(&str, TensorView)>, _> = tensors
        .iter()
        .map(|(name, data, shape)| {
            TensorView::new(Dtype::F32, shape.clone(), data.as_bytes()).map(|view| (name.as_str(), view))
        })
        .collect();
    let metadata = Some([("format".to_owned(), "pt".to_owned())].into());
    let path = folder.join("model.safetensors");
    views
        .and_then(|views| safetensors::serialize_to_file(views, metadata, &path))
        .map_err(|error| Error::model(path.display(), format!("cannot be written: {error}")))?;

    let Some(tokenizer) = &source.tokenizer else { return Ok(()) };
    for name in TOKENIZER_FILES {
        let file = tokenizer.join(name);
        if file.is_file() {
            fs::copy(&file, folder.join(name)).map_err(wrong)?;
        }
    }
    Ok(())
}

fn generation_config(config: &Value) -> Value {
    let names = ["bos_token_id", "eos_token_id", "pad_token_id"];
    names.iter().filter_map(|name| Some(((*name).to_owned(), config.get(*name)?.clone()))).collect()
}
