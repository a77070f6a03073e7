//! LoRA adapters on disk, in PEFT's format: adapter_config.json and adapter_model.safetensors.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use rayon::prelude::*;
use serde::Deserialize;
use serde_json::{Value, json};

use super::checkpoint::Checkpoint;
use super::folder::{self, Card};
use super::kernels::linear::Layout;
use super::lora::{Lora, scale};
use super::source::{ModelSource, missing};
use super::trunk::layer_of;
use super::weights::shorten;
use super::{CausalLm, Weights};
use crate::error::{Error, Result};

const CONFIG: &str = "adapter_config.json";
const TENSORS: &str = "adapter_model.safetensors";

/// The name under which PEFT stores the model's parameter `name`.
pub fn peft_name(name: &str) -> String {
    format!("base_model.model.{}", name.replace(".adapter.", "."))
}

/// Whether `folder` holds an adapter and no model.
pub(super) fn is_adapter(folder: &Path) -> bool {
    folder.join(CONFIG).is_file() && !folder.join("config.json").is_file()
}

/// The files that make up an adapter.
pub(super) fn files(folder: &Path) -> Vec<PathBuf> {
    [CONFIG, TENSORS].map(|name| folder.join(name)).to_vec()
}

/// The folder of the model that the adapter in `folder` was made for.
pub(super) fn base_of(folder: &Path) -> Result<PathBuf> {
    let path = folder.join(CONFIG);
    let help = "give the model as `path` and this folder as `adapter`";
    match Config::read(folder)?.base_model_name_or_path {
        Some(base) => {
            let places = [PathBuf::from(&base), folder.join(&base)];
            let found = places.into_iter().find(|place| place.is_dir());
            found.ok_or_else(|| Error::model(path.display(), format!("its base `{base}` is not a folder here; {help}")))
        }
        None => Err(Error::model(path.display(), format!("does not name its base; {help}"))),
    }
}

/// adapter_config.json, with PEFT's names.
#[derive(Debug, Deserialize)]
struct Config {
    base_model_name_or_path: Option<String>,
    peft_type: Option<String>,
    lora_alpha: Option<f64>,
    #[serde(default)]
    use_rslora: bool,
    bias: Option<String>,
    init_lora_weights: Option<Value>,
    #[serde(flatten)]
    others: BTreeMap<String, Value>,
}

/// Options that change what an adapter computes, and that are not supported.
const UNSUPPORTED: [&str; 13] = [
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "kasa_config",
    "monteclora_config",
    "arrow_config",
    "lora_bias",
    "alpha_pattern",
    "modules_to_save",
    "layer_replication",
    "target_parameters",
    "trainable_token_indices",
    "alora_invocation_tokens",
];

impl Config {
    fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(CONFIG);
        let text = super::description::read(&path).map_err(|error| missing(&path, &error))?;
        serde_json::from_slice(&text).map_err(|error| Error::model(path.display(), error))
    }

    fn problem(&self) -> Option<String> {
        let unset = |value: &Value| match value {
            Value::Null | Value::Bool(false) => true,
            Value::Array(items) => items.is_empty(),
            Value::Object(entries) => entries.is_empty(),
            _ => false,
        };
        let set = |name: &str| self.others.get(name).is_some_and(|value| !unset(value));
        let is = |value: &Option<String>, only: &str| value.as_deref().is_none_or(|value| value == only);
        if !is(&self.peft_type, "LORA") {
            return Some(format!("peft_type {:?} is not supported; supported: LORA", self.peft_type));
        }
        if !is(&self.bias, "none") {
            return Some(format!("bias {:?} is not supported; supported: none", self.bias));
        }
        // These begin by changing the base's weights, which the adapter's folder does not hold.
        let changing = ["pissa", "olora", "corda", "loftq", "lora_ga"];
        if let Some(init) = self.init_lora_weights.as_ref().and_then(Value::as_str)
            && changing.iter().any(|name| init.to_lowercase().starts_with(name))
        {
            return Some(format!("init_lora_weights `{init}` is not supported; convert it to a plain LoRA with PEFT"));
        }
        UNSUPPORTED.iter().find(|name| set(name)).map(|name| format!("{name} is not supported"))
    }
}

/// An adapter on disk.
#[derive(Debug)]
pub(super) struct Stored {
    folder: PathBuf,
    pub(super) checkpoint: Checkpoint,
    used: BTreeSet<String>,
    pub(super) alpha: f64,
    pub(super) rslora: bool,
}

/// `s A B` of one layer: A `[r, in]`, B `[out, r]`.
#[derive(Debug)]
pub(super) struct Factors {
    pub(super) a: Vec<f32>,
    pub(super) b: Vec<f32>,
    pub(super) r: usize,
    /// Widths in and out.
    pub(super) size: [usize; 2],
    pub(super) scale: f64,
}

impl Stored {
    /// Opens the adapter in `folder`.
    pub(super) fn open(folder: &Path) -> Result<Self> {
        let config = Config::read(folder)?;
        let wrong = |message: String| Error::model(folder.join(CONFIG).display(), message);
        if let Some(problem) = config.problem() {
            return Err(wrong(problem));
        }
        let alpha = config.lora_alpha.ok_or_else(|| wrong("has no lora_alpha".into()))?;
        let checkpoint = Checkpoint::of_files(vec![folder.join(TENSORS)])?;
        let (folder, rslora) = (folder.to_owned(), config.use_rslora);
        Ok(Self { folder, checkpoint, used: BTreeSet::new(), alpha, rslora })
    }

    /// What the adapter adds to the layer `name`, if it does.
    pub(super) fn factors(&mut self, name: &str, size: [usize; 2]) -> Result<Option<Factors>> {
        let [a, b] = ["lora_A", "lora_B"].map(|factor| peft_name(&format!("{name}.{factor}.weight")));
        let Some(r) = self.checkpoint.shape(&a).or(self.checkpoint.shape(&b)).map(|shape| shape[0]) else {
            return Ok(None);
        };
        let [input, output] = size;
        let factors = Factors {
            a: self.checkpoint.tensor(&a, &[r, input])?,
            b: self.checkpoint.tensor(&b, &[output, r])?,
            r,
            size,
            scale: scale(self.alpha, r, self.rslora),
        };
        self.used.extend([a, b]);
        Ok(Some(factors))
    }

    /// Every tensor must have been asked for.
    pub(super) fn finish(&self) -> Result<()> {
        let unused: Vec<&str> = self.checkpoint.names().filter(|name| !self.used.contains(*name)).collect();
        if unused.is_empty() {
            return Ok(());
        }
        let message = format!("tensors that fit no linear layer of the base: {}", shorten(&unused));
        Err(Error::model(self.folder.join(TENSORS).display(), message))
    }
}

impl Factors {
    /// Adds `s A B` to the values of a weight.
    pub(super) fn merge_into(self, weight: &mut [f32], layout: Layout) {
        let (device, [input, output]) = (Device::flex(), self.size);
        let matrix = |values, shape| Tensor::<2>::from_data(TensorData::new(values, shape), &device);
        let delta = matrix(self.b, [output, self.r]).matmul(matrix(self.a, [self.r, input])) * self.scale;
        let delta = match layout {
            Layout::OutIn => delta,
            Layout::InOut => delta.transpose(),
        };
        let delta = delta.into_data();
        let delta = delta.as_slice::<f32>().expect("flex computes in f32");
        weight.par_iter_mut().zip(delta).for_each(|(weight, delta)| *weight += delta);
    }
}

/// Writes what `lora` trained on `source`: the adapters into `folder`, or the whole model with them merged.
pub fn save(model: CausalLm, source: &ModelSource, lora: &Lora, card: &Card, folder: &Path) -> Result<()> {
    if !lora.merge {
        return folder::appear(folder, |draft| write(&model, source, lora, card, draft));
    }
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let adapters = folder.with_file_name(format!(".{name}.adapters"));
    folder::appear(&adapters, |draft| write(&model, source, lora, card, draft))?;
    drop(model);
    let result = save_merged(source, &adapters, card, folder);
    let removed = fs::remove_dir_all(&adapters).map_err(|error| Error::model(adapters.display(), error));
    result.and(removed)
}

fn save_merged(source: &ModelSource, adapters: &Path, card: &Card, folder: &Path) -> Result<()> {
    let weights = match source.base_folder()? {
        Some(base) => Weights::Folder(base),
        None => source.weights.clone(),
    };
    let adapted = ModelSource::new(&source.name, weights, source.tokenizer.clone()).adapted(adapters);
    folder::save(&CausalLm::load(&adapted, &Device::flex())?, source, Some(card), folder)
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
    folder::write_tensors(&tensors, &folder.join(TENSORS))?;
    let base = source.base_folder()?.map(|base| fs::canonicalize(&base).unwrap_or(base));
    let alpha = if lora.alpha.fract() == 0.0 { json!(lora.alpha as i64) } else { json!(lora.alpha) };
    let mut config = json!({
        "alpha_pattern": {},
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": matches!(model, CausalLm::Gpt2(_)),
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
    folder::write_json(&config, &folder.join(CONFIG))?;
    folder::write_text(&card.text(source, "peft"), &folder.join("README.md"))?;
    folder::copy_tokenizer(source, folder)
}
