//! Saves a model as `transformers` expects it: config.json, generation_config.json, model.safetensors (in shards above a size), the
//! files of the tokenizer with the chat template, and a model card.
//!
//! Weights are saved in f32, whatever the dtype of the source: training changes them by less than f16 and bf16 can represent.
//! Conversion from f16 and bf16 to f32 is exact, so a model that is loaded and saved has bitwise equal values.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use super::card::Card;
use super::files::{copy_tokenizer, make, write_json, write_tensors, write_text};
use crate::error::{Error, Result};
use crate::model::architectures::{CausalLm, class};
use crate::model::checkpoint::files::{CONFIG, INDEX, TENSORS};
use crate::model::checkpoint::source::ModelSource;
use crate::text::description;

/// The largest size of a weight file, unless it has a single tensor.
const SHARD_BYTES: usize = 5_000_000_000;

/// Writes `model`, which was loaded from `source`, into `folder`, with a model card if it was trained.
///
/// # Errors
/// A folder that cannot be written, or a source that cannot be read.
pub fn whole(model: &CausalLm, source: &ModelSource, card: Option<&Card>, folder: &Path) -> Result<()> {
    sharded(model, source, card, folder, SHARD_BYTES)
}

/// As [`whole`], with weight files of at most `shard_bytes` bytes, or one tensor.
///
/// # Errors
/// As for [`whole`].
pub fn sharded(
    model: &CausalLm,
    source: &ModelSource,
    card: Option<&Card>,
    folder: &Path,
    shard_bytes: usize,
) -> Result<()> {
    make(folder)?;
    let config = config(model, source)?;
    write_json(&config, &folder.join(CONFIG))?;
    write_json(&generation_config(source, &config)?, &folder.join("generation_config.json"))?;
    write_weights(model, folder, shard_bytes)?;
    if let Some(card) = card {
        write_text(&card.text(source, "transformers"), &folder.join("README.md"))?;
    }
    copy_tokenizer(source, folder)
}

fn config(model: &CausalLm, source: &ModelSource) -> Result<Value> {
    let mut config = source.config()?;
    // What the weights say, where config.json said something else of them.
    if !model.body().is_tied() {
        config["tie_word_embeddings"] = json!(false);
    }
    let dtype = if config.get("dtype").is_some() { "dtype" } else { "torch_dtype" };
    config[dtype] = json!("float32");
    if config.get("architectures").is_none() {
        config["architectures"] = json!(class(&config).into_iter().collect::<Vec<_>>());
    }
    Ok(config)
}

/// The file of the source, or the token ids in config.json.
fn generation_config(source: &ModelSource, config: &Value) -> Result<Value> {
    let own = source.base_folder()?.map(|folder| folder.join("generation_config.json"));
    if let Some(path) = own.filter(|path| path.is_file()) {
        let text = description::read(&path).map_err(|error| Error::model(path.display(), error))?;
        return serde_json::from_slice(&text).map_err(|error| Error::model(path.display(), error));
    }
    let names = ["bos_token_id", "eos_token_id", "pad_token_id"];
    Ok(names.iter().filter_map(|name| Some(((*name).to_owned(), config.get(*name)?.clone()))).collect())
}

/// Writes one file, or shards and their index, with one shard in memory at a time.
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
        1 => TENSORS.to_owned(),
        count => format!("model-{:05}-of-{count:05}.safetensors", shard + 1),
    };
    for shard in 0..shards.len() {
        let mut tensors = Vec::new();
        model.for_each_parameter(|name, values, shape| {
            if shard_of[name] == shard {
                tensors.push((name.to_owned(), values.into_data().convert::<f32>(), shape.to_vec()));
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
    write_json(&index, &folder.join(INDEX))
}
