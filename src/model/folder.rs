//! A model on disk, as `transformers` expects it: config.json, generation_config.json, model.safetensors (in shards above
//! a size), the tokenizer's files with the chat template, and a model card.
//!
//! Weights are computed with in f32 and saved in f32, whatever the source's type was: training moves them by less than
//! f16 and bf16 can tell apart. f16 and bf16 widen to f32 exactly, so a model that is read and written back has the same
//! values bit for bit.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use burn::tensor::TensorData;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

use super::source::ModelSource;
use super::{ARCHITECTURES, CausalLm};
use crate::error::{Error, Result};

/// Files that make up a tokenizer; those that exist are copied along.
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

/// Files of which a folder with a whole model, or an adapter, has one.
pub const WHOLE: [&str; 2] = ["config.json", "adapter_config.json"];

/// The size that a file of weights has at most, unless one tensor alone is larger.
const SHARD_BYTES: usize = 5_000_000_000;

/// What a model card says about the training.
#[derive(Debug, Clone, PartialEq)]
pub struct Card {
    /// The objective's name and settings.
    pub objective: Value,
    /// What it was trained on.
    pub data: String,
}

impl Card {
    /// The card of a model that was made from `source`, to be loaded with `library`.
    pub(super) fn text(&self, source: &ModelSource, library: &str) -> String {
        let objective = self.objective.as_object().and_then(|objective| objective.iter().next());
        let (name, settings) = objective.map_or(("", String::new()), |(name, settings)| (name, settings.to_string()));
        let (version, data) = (env!("CARGO_PKG_VERSION"), &self.data);
        format!(
            "---\nlibrary_name: {library}\ntags:\n- sepo\n- {name}\n---\n\n# {source}, trained with {name}\n\n\
             | | |\n|---|---|\n| Base model | {source} |\n| Objective | {name} `{settings}` |\n\
             | Data | {data} |\n| Made by | sepo {version} |\n"
        )
    }
}

/// Writes `model`, which was made from `source`, into `folder`, with a model card if it was trained. The folder appears
/// whole.
pub fn save(model: &CausalLm, source: &ModelSource, card: Option<&Card>, folder: &Path) -> Result<()> {
    save_sharded(model, source, card, folder, SHARD_BYTES)
}

/// [`save`] with files of weights of at most `shard_bytes` bytes, or one tensor.
pub fn save_sharded(
    model: &CausalLm,
    source: &ModelSource,
    card: Option<&Card>,
    folder: &Path,
    shard_bytes: usize,
) -> Result<()> {
    appear(folder, |folder| {
        let config = config(source)?;
        write_json(&config, &folder.join("config.json"))?;
        write_json(&generation_config(source, &config)?, &folder.join("generation_config.json"))?;
        write_weights(model, folder, shard_bytes)?;
        if let Some(card) = card {
            write_text(&card.text(source, "transformers"), &folder.join("README.md"))?;
        }
        copy_tokenizer(source, folder)
    })
}

/// Lets `write` fill a folder under a temporary name, which then replaces what was at `folder`.
pub(super) fn appear(folder: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let wrong = |error: std::io::Error| unwritable(folder, error);
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let draft = folder.with_file_name(format!(".{name}.{}", std::process::id()));
    let result = fs::create_dir_all(&draft).map_err(wrong).and_then(|()| write(&draft)).and_then(|()| {
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

fn unwritable(path: &Path, error: impl std::fmt::Display) -> Error {
    Error::model(path.display(), format!("cannot be written: {error}"))
}

pub(super) fn write_text(text: &str, path: &Path) -> Result<()> {
    fs::write(path, text).map_err(|error| unwritable(path, error))
}

pub(super) fn write_json(value: &Value, path: &Path) -> Result<()> {
    write_text(&format!("{value:#}\n"), path)
}

fn config(source: &ModelSource) -> Result<Value> {
    let mut config = source.config()?;
    let dtype = if config.get("dtype").is_some() { "dtype" } else { "torch_dtype" };
    config[dtype] = json!("float32");
    if config.get("architectures").is_none() {
        let model_type = config.get("model_type").and_then(Value::as_str).unwrap_or_default();
        let known = ARCHITECTURES.iter().find(|(name, _)| *name == model_type);
        config["architectures"] = json!(known.map(|(_, architecture)| architecture).into_iter().collect::<Vec<_>>());
    }
    Ok(config)
}

/// The source's own, else what config.json says about it.
fn generation_config(source: &ModelSource, config: &Value) -> Result<Value> {
    let own = source.base_folder()?.map(|folder| folder.join("generation_config.json"));
    if let Some(path) = own.filter(|path| path.is_file()) {
        let text = super::description::read(&path).map_err(|error| Error::model(path.display(), error))?;
        return serde_json::from_slice(&text).map_err(|error| Error::model(path.display(), error));
    }
    let names = ["bos_token_id", "eos_token_id", "pad_token_id"];
    Ok(names.iter().filter_map(|name| Some(((*name).to_owned(), config.get(*name)?.clone()))).collect())
}

/// One file, or shards and their index. One shard at a time is held in memory.
fn write_weights(model: &CausalLm, folder: &Path, shard_bytes: usize) -> Result<()> {
    let mut shards: Vec<usize> = Vec::new();
    let mut shard_of: BTreeMap<String, usize> = BTreeMap::new();
    let mut parameters = 0;
    model.for_each_parameter(|name, _, shape| {
        let size = shape.iter().product::<usize>();
        parameters += size;
        let bytes = size * size_of::<f32>();
        match shards.last_mut() {
            Some(filled) if *filled + bytes <= shard_bytes => *filled += bytes,
            _ => shards.push(bytes),
        }
        shard_of.insert(name.to_owned(), shards.len() - 1);
    });
    let file = |shard: usize| match shards.len() {
        1 => "model.safetensors".to_owned(),
        count => format!("model-{:05}-of-{count:05}.safetensors", shard + 1),
    };
    for shard in 0..shards.len() {
        let mut tensors = Vec::new();
        model.for_each_parameter(|name, values, shape| {
            if shard_of[name] == shard {
                tensors.push((name.to_owned(), values.into_data(), shape.to_vec()));
            }
        });
        write_tensors(&tensors, &folder.join(file(shard)))?;
    }
    if shards.len() == 1 {
        return Ok(());
    }
    let metadata = json!({ "total_parameters": parameters, "total_size": shards.iter().sum::<usize>() });
    let map: BTreeMap<&String, String> = shard_of.iter().map(|(name, shard)| (name, file(*shard))).collect();
    let index = json!({ "metadata": metadata, "weight_map": map });
    write_json(&index, &folder.join("model.safetensors.index.json"))
}

/// f32 tensors with their names and shapes as a safetensors file.
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
