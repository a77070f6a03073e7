//! Where a model comes from: a Hugging Face folder or a configuration to initialise, and an optional adapter.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use serde_json::Value;

use super::files::{CONFIG, is_adapter, missing};
use super::{adapter, tensors};
use crate::error::{Error, Result};
use crate::text::description;

/// A model that is not loaded yet.
#[derive(Debug, Clone)]
pub struct ModelSource {
    /// Name in the pipeline file.
    pub name: String,
    /// Its weights.
    pub weights: Weights,
    /// A folder with a LoRA adapter in PEFT's format.
    pub adapter: Option<PathBuf>,
    /// The folder with tokenizer.json; usually the folder of the weights.
    pub tokenizer: Option<PathBuf>,
    /// The name for messages, if it is not the folder.
    origin: Option<String>,
    digest: Arc<OnceLock<String>>,
}

/// The source of a model's parameters.
#[derive(Debug, Clone, PartialEq)]
pub enum Weights {
    /// A folder with config.json and safetensors, or the folder of an adapter, which names its base.
    Folder(PathBuf),
    /// Random initialisation of a configuration.
    Init {
        /// The content of config.json.
        config: Value,
        /// Seed of the random numbers.
        seed: u64,
    },
}

impl ModelSource {
    /// A model called `name`.
    pub fn new(name: impl Into<String>, weights: Weights, tokenizer: Option<PathBuf>) -> Self {
        Self { name: name.into(), weights, adapter: None, tokenizer, origin: None, digest: Arc::default() }
    }

    /// The folder `path` with weights and tokenizer; the tokenizer of an adapter may be that of its base.
    pub fn folder(name: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        let mut source = Self::new(name, Weights::Folder(path.into()), None);
        // An adapter that does not name its base is an error when the model is loaded.
        let folders = [source.adapter_folder().map(Path::to_owned), source.base_folder().ok().flatten()];
        source.tokenizer = folders.into_iter().flatten().find(|folder| folder.join("tokenizer.json").is_file());
        source
    }

    /// The same model, whose folder is a copy of `origin`.
    pub fn called(mut self, origin: impl fmt::Display) -> Self {
        self.origin = Some(origin.to_string());
        self
    }

    /// The same model with the adapter in `folder`.
    pub fn adapted(mut self, folder: impl Into<PathBuf>) -> Self {
        self.adapter = Some(folder.into());
        self
    }

    /// The folder of the adapter, if there is one.
    pub fn adapter_folder(&self) -> Option<&Path> {
        match &self.weights {
            _ if self.adapter.is_some() => self.adapter.as_deref(),
            Weights::Folder(folder) => Some(&**folder).filter(|folder| is_adapter(folder)),
            Weights::Init { .. } => None,
        }
    }

    /// The folder of the weights without an adapter; `None` for a model that is initialised from a configuration.
    ///
    /// # Errors
    /// An adapter's folder that does not name a folder of weights, or a second adapter below the first.
    pub fn base_folder(&self) -> Result<Option<PathBuf>> {
        let Weights::Folder(folder) = &self.weights else { return Ok(None) };
        if !is_adapter(folder) {
            return Ok(Some(folder.clone()));
        }
        let base = match &self.adapter {
            None => adapter::base_of(folder)?,
            Some(_) => folder.clone(),
        };
        if is_adapter(&base) {
            let message = "is an adapter itself; train it with `merge: true`, and put the second adapter on the result";
            return Err(Error::model(base.display(), message));
        }
        Ok(Some(base))
    }

    /// The content of config.json.
    ///
    /// # Errors
    /// A file that cannot be read or is not JSON.
    pub fn config(&self) -> Result<Value> {
        if let Weights::Init { config, .. } = &self.weights {
            return Ok(config.clone());
        }
        let path = self.base_folder()?.unwrap_or_default().join(CONFIG);
        let text = description::read(&path).map_err(|error| missing(&path, &error))?;
        serde_json::from_slice(&text).map_err(|error| Error::model(path.display(), error))
    }

    /// The files of its weights and of its adapter.
    fn files(&self) -> Result<impl Iterator<Item = PathBuf>> {
        let weights = self.base_folder()?.map(|folder| tensors::files(&folder)).transpose()?;
        let adapter = self.adapter_folder().map(adapter::files);
        Ok(weights.into_iter().flatten().chain(adapter.into_iter().flatten()))
    }

    /// The size of its weights on disk; 0 for a model that is initialised from a configuration.
    ///
    /// # Errors
    /// Weights or an adapter that are missing.
    pub fn bytes(&self) -> Result<u64> {
        let size =
            |file: PathBuf| std::fs::metadata(&file).map(|found| found.len()).map_err(|error| missing(&file, &error));
        self.files()?.map(size).sum()
    }

    /// Looks whether the files that loading needs are there; no weights are read.
    ///
    /// # Errors
    /// A configuration, weights or an adapter that are missing.
    pub fn look(&self) -> Result<()> {
        self.config()?;
        self.bytes().map(drop)
    }

    /// The blake3 digest of configuration and weights: models with equal digests give equal log-probabilities.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn digest(&self) -> Result<String> {
        if let Some(digest) = self.digest.get() {
            return Ok(digest.clone());
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.config()?.to_string().as_bytes());
        if let Weights::Init { seed, .. } = &self.weights {
            hasher.update(&seed.to_le_bytes());
        }
        for file in self.files()? {
            hash_file(&mut hasher, &file).map_err(|error| missing(&file, &error))?;
        }
        let digest = hasher.finalize().to_hex().to_string();
        Ok(self.digest.get_or_init(|| digest).clone())
    }
}

impl fmt::Display for ModelSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.weights {
            _ if self.origin.is_some() => f.write_str(self.origin.as_deref().unwrap_or_default())?,
            Weights::Folder(folder) => write!(f, "{}", folder.display())?,
            Weights::Init { .. } => write!(f, "model `{}`", self.name)?,
        }
        match &self.adapter {
            Some(adapter) => write!(f, " with {}", adapter.display()),
            None => Ok(()),
        }
    }
}

/// Reads block by block: a memory-mapped file would count as memory in use.
fn hash_file(hasher: &mut blake3::Hasher, path: &Path) -> io::Result<()> {
    let (mut file, mut block) = (File::open(path)?, vec![0; 16 << 20]);
    loop {
        match file.read(&mut block)? {
            0 => return Ok(()),
            read => hasher.update_rayon(&block[..read]),
        };
    }
}
