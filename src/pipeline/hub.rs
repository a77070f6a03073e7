//! What a pipeline takes from the hub: `hf://` addresses of models and tokenizers, and where they lie on this machine.
//!
//! Planning fetches what tells about a model; its weights follow when it runs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::spec::File;
use crate::error::{Error, Problem, Result};
use crate::io::hub::{Address, Hub, SCHEME, Snapshot};
use crate::monitor::Monitor;
use crate::stages::TokenizerOf;

/// The pipeline's models on the hub, by address.
#[derive(Debug, Clone, Default)]
pub(super) struct OnHub {
    snapshots: BTreeMap<String, Snapshot>,
}

impl OnHub {
    /// Finds every address in `file` and fetches all but weights. What the pipeline file should change goes to
    /// `problems`.
    ///
    /// # Errors
    /// What may do later, and the wish to stop.
    pub(super) fn describe(file: &File, problems: &mut Vec<Problem>, monitor: &dyn Monitor) -> Result<Self> {
        let mut found = Self::default();
        for (text, path) in addresses(file) {
            if found.snapshots.contains_key(text) {
                continue;
            }
            match describe(text, monitor) {
                Ok(Some(snapshot)) => drop(found.snapshots.insert(text.to_owned(), snapshot)),
                Ok(None) => {}
                Err(error @ (Error::Interrupted | Error::Store { retryable: true, .. })) => return Err(error),
                Err(error) => problems.push(Problem { path, message: error.to_string(), help: None }),
            }
        }
        Ok(found)
    }

    /// Where `path`, which may be an address, lies.
    pub(super) fn local(&self, path: &str) -> PathBuf {
        self.snapshots.get(path).map_or_else(|| PathBuf::from(path), Snapshot::model_folder)
    }

    /// Fetches the weights of the addresses `paths`.
    pub(super) fn fetch_weights<'a>(&self, paths: impl Iterator<Item = &'a str>, monitor: &dyn Monitor) -> Result<()> {
        for snapshot in paths.filter_map(|path| self.snapshots.get(path)) {
            Hub::from_env().fetch(snapshot, &snapshot.model_weights(), monitor)?;
        }
        Ok(())
    }

    /// Whether `folder` is a model whose weights were not fetched yet.
    pub(super) fn awaits_weights(&self, folder: &Path) -> bool {
        let mut snapshots = self.snapshots.values().filter(|snapshot| snapshot.model_folder() == folder);
        snapshots.any(|snapshot| snapshot.model_weights().iter().any(|file| !snapshot.local(file).is_file()))
    }
}

fn describe(text: &str, monitor: &dyn Monitor) -> Result<Option<Snapshot>> {
    let Some(address) = Address::parse(text)? else { return Ok(None) };
    let hub = Hub::from_env();
    let snapshot = hub.open(&address)?;
    hub.fetch(&snapshot, &snapshot.model_description(), monitor)?;
    Ok(Some(snapshot))
}

/// Every `hf://` address of a model or tokenizer, and where it stands.
fn addresses(file: &File) -> impl Iterator<Item = (&str, Vec<String>)> {
    let models = file.models.iter().flat_map(|(name, model)| {
        let fields = [("path", &model.path), ("adapter", &model.adapter), ("tokenizer", &model.tokenizer)];
        let place = move |field: &str| vec!["models".to_owned(), name.clone(), field.to_owned()];
        fields.into_iter().filter_map(move |(field, value)| Some((value.as_deref()?, place(field))))
    });
    let tokenizers = file.stages.iter().filter_map(|(id, stage)| {
        let operation = stage.operation();
        match operation.tokenizer()?.of {
            TokenizerOf::Named(name) => {
                Some((name, ["stages", id, operation.name(), "tokenizer"].map(str::to_owned).to_vec()))
            }
            TokenizerOf::Model(_) | TokenizerOf::Rows => None,
        }
    });
    models.chain(tokenizers).filter(|(text, _)| text.starts_with(SCHEME))
}
