//! Saves trained adapters in PEFT's format, or the whole model with the adapters merged.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use burn::tensor::Device;
use serde_json::json;

use super::card::Card;
use super::files::{copy_tokenizer, make, write_json, write_tensors, write_text};
use super::whole::whole;
use crate::error::{Error, Result};
use crate::kernels::layout::Layout;
use crate::model::architectures::CausalLm;
use crate::model::checkpoint::files::{ADAPTER_CONFIG, ADAPTER_TENSORS};
use crate::model::checkpoint::names::{layer_of, peft_name};
use crate::model::checkpoint::source::{ModelSource, Weights};
use crate::model::layers::lora::Lora;

/// Writes the adapters that `lora` trained on `source` into `folder`, or the whole model with the adapters merged.
///
/// # Errors
/// A folder that cannot be written, or a source that cannot be read.
pub fn adapted(model: CausalLm, source: &ModelSource, lora: &Lora, card: &Card, folder: &Path) -> Result<()> {
    if !lora.merge {
        return write(&model, source, lora, card, folder);
    }
    let adapters = folder.join("adapters");
    write(&model, source, lora, card, &adapters)?;
    drop(model);
    save_merged(source, &adapters, card, folder)?;
    let wrong = |error: std::io::Error| Error::model(adapters.display(), error);
    for entry in fs::read_dir(&adapters).map_err(wrong)? {
        fs::remove_file(entry.map_err(wrong)?.path()).map_err(wrong)?;
    }
    fs::remove_dir(&adapters).map_err(wrong)
}

fn save_merged(source: &ModelSource, adapters: &Path, card: &Card, folder: &Path) -> Result<()> {
    let weights = match source.base_folder()? {
        Some(base) => Weights::Folder(base),
        None => source.weights.clone(),
    };
    let adapted = ModelSource::new(&source.name, weights, source.tokenizer.clone()).adapted(adapters);
    whole(&CausalLm::load(&adapted, &Device::flex())?, source, Some(card), folder)
}

fn write(model: &CausalLm, source: &ModelSource, lora: &Lora, card: &Card, folder: &Path) -> Result<()> {
    let mut tensors = Vec::new();
    let (mut layers, mut indices) = (BTreeSet::new(), BTreeSet::new());
    model.for_each_parameter(|name, values, shape| {
        if let Some((layer, _)) = name.split_once(".adapter.") {
            indices.extend(layer_of(layer));
            layers.insert(layer.rsplit('.').next().unwrap_or(layer).to_owned());
            tensors.push((peft_name(name), values.into_data(), shape.to_vec()));
        }
    });
    make(folder)?;
    write_tensors(&tensors, &folder.join(ADAPTER_TENSORS))?;
    let base = source.base_folder()?.map(|base| fs::canonicalize(&base).unwrap_or(base));
    let alpha = if lora.alpha.fract() == 0.0 { json!(lora.alpha as i64) } else { json!(lora.alpha) };
    let mut config = json!({
        "alpha_pattern": {},
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": source.describe()?.names.layout == Layout::InOut,
        "inference_mode": true,
        "init_lora_weights": true,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "modules_to_save": null,
        "peft_type": "LORA",
        "r": lora.r,
        "rank_pattern": {},
        "target_modules": lora.targets.clone().unwrap_or_else(|| layers.into_iter().collect()),
        "task_type": "CAUSAL_LM",
        "use_dora": false,
        "use_rslora": lora.rslora,
    });
    if lora.last_layers.is_some() {
        config["layers_to_transform"] = json!(indices);
    }
    write_json(&config, &folder.join(ADAPTER_CONFIG))?;
    write_text(&card.text(source, "peft"), &folder.join("README.md"))?;
    copy_tokenizer(source, folder)
}
