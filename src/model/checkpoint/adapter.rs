//! Reads LoRA adapters in PEFT's format: adapter_config.json and adapter_model.safetensors.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::files::{ADAPTER_CONFIG, ADAPTER_TENSORS, missing};
use super::names::{peft_name, shorten};
use super::tensors::Checkpoint;
use crate::error::{Error, Result};
use crate::text::description;

/// The files that make up an adapter.
pub(in crate::model) fn files(folder: &Path) -> Vec<PathBuf> {
    [ADAPTER_CONFIG, ADAPTER_TENSORS].map(|name| folder.join(name)).to_vec()
}

/// The folder of the model that the adapter in `folder` was made for.
pub(in crate::model) fn base_of(folder: &Path) -> Result<PathBuf> {
    let path = folder.join(ADAPTER_CONFIG);
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
        let path = folder.join(ADAPTER_CONFIG);
        let text = description::read(&path).map_err(|error| missing(&path, &error))?;
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
        // These change the weights of the base at initialisation, and the folder of the adapter does not contain the change.
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
pub(in crate::model) struct Stored {
    folder: PathBuf,
    pub(in crate::model) checkpoint: Checkpoint,
    used: BTreeSet<String>,
    pub(in crate::model) alpha: f64,
    pub(in crate::model) rslora: bool,
}

/// `s A B` of one layer: A `[r, in]`, B `[out, r]`.
#[derive(Debug)]
pub(in crate::model) struct Factors {
    pub(in crate::model) a: Vec<f32>,
    pub(in crate::model) b: Vec<f32>,
    pub(in crate::model) r: usize,
    /// Input and output width.
    pub(in crate::model) size: [usize; 2],
    pub(in crate::model) scale: f64,
}

impl Stored {
    /// Opens the adapter in `folder`.
    pub(in crate::model) fn open(folder: &Path) -> Result<Self> {
        let config = Config::read(folder)?;
        let wrong = |message: String| Error::model(folder.join(ADAPTER_CONFIG).display(), message);
        if let Some(problem) = config.problem() {
            return Err(wrong(problem));
        }
        let alpha = config.lora_alpha.ok_or_else(|| wrong("has no lora_alpha".into()))?;
        let checkpoint = Checkpoint::of_files(vec![folder.join(ADAPTER_TENSORS)])?;
        let (folder, rslora) = (folder.to_owned(), config.use_rslora);
        Ok(Self { folder, checkpoint, used: BTreeSet::new(), alpha, rslora })
    }

    /// The factors for the layer `name`, if the adapter has any.
    pub(in crate::model) fn factors(&mut self, name: &str, size: [usize; 2]) -> Result<Option<Factors>> {
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

    /// The adapter's copy of the base's tensor `name`, if it has one. PEFT reads the `base_layer` of adapted layers alone.
    pub(in crate::model) fn base(&mut self, name: &str, shape: &[usize]) -> Result<Option<Vec<f32>>> {
        if let Some(layer) = name.strip_suffix(".base_layer.weight")
            && self.checkpoint.shape(&peft_name(&format!("{layer}.lora_A.weight"))).is_none()
        {
            return Ok(None);
        }
        let name = peft_name(name);
        if self.checkpoint.shape(&name).is_none() {
            return Ok(None);
        }
        let values = self.checkpoint.tensor(&name, shape)?;
        self.used.insert(name);
        Ok(Some(values))
    }

    /// Checks that every tensor was used.
    pub(in crate::model) fn finish(&self) -> Result<()> {
        let unused: Vec<&str> = self.checkpoint.names().filter(|name| !self.used.contains(*name)).collect();
        if unused.is_empty() {
            return Ok(());
        }
        let message = format!("tensors that fit no linear layer of the base: {}", shorten(&unused));
        Err(Error::model(self.folder.join(ADAPTER_TENSORS).display(), message))
    }
}

/// The scale of an adapter of rank `r`.
pub(in crate::model) fn scale(alpha: f64, r: usize, rslora: bool) -> f64 {
    alpha / if rslora { (r as f64).sqrt() } else { r as f64 }
}
