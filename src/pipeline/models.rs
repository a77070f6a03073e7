//! The models of a pipeline file. Those that lie in stores are copied to this machine: small files, which a check needs, when
//! the plan is made; weights before a run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::spec::{ModelSpec, Spec};
use crate::error::{Problem, Result};
use crate::io::{Mirror, Stores};
use crate::model::{ModelSource, Weights};

/// Endings of files that only a model that is loaded needs, and of those that nobody here reads.
const WEIGHTS: [&str; 1] = [".safetensors"];
const OTHERS: [&str; 7] = [".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx"];

/// Models by name, their paths on this machine.
#[derive(Debug, Clone)]
pub(super) struct Models {
    specs: BTreeMap<String, ModelSpec>,
    /// Copies of folders in stores, with the model that they belong to.
    mirrors: Vec<(String, Mirror)>,
}

impl Models {
    /// The models of `spec`; what is wrong with them goes to `problems`.
    pub(super) fn new(spec: &Spec, stores: &Stores, problems: &mut Vec<Problem>) -> Self {
        let mut models = Self { specs: spec.file.models.clone(), mirrors: Vec::new() };
        for (name, model) in &mut models.specs {
            let mut problem = |field: &str, message: String| {
                let path = ["models", name, field].into_iter().filter(|part| !part.is_empty());
                problems.push(Problem { path: path.map(str::to_owned).collect(), message, help: None });
            };
            if model.path.is_some() == model.init.is_some() {
                problem("", "a model has either `path` or `init`".into());
            }
            let ModelSpec { path, adapter, tokenizer, .. } = model;
            for (field, folder) in [("path", path), ("adapter", adapter), ("tokenizer", tokenizer)] {
                let Some(url) = folder.as_ref().filter(|folder| folder.contains("://")) else { continue };
                let mirror = stores.locate(url).and_then(|remote| Mirror::of(&remote));
                let mirror = mirror.and_then(|mirror| mirror.fetch(is_small).map(|()| mirror));
                match mirror {
                    Ok(mirror) => {
                        *folder = Some(mirror.folder().display().to_string());
                        models.mirrors.push((name.clone(), mirror));
                    }
                    Err(error) => problem(field, error.to_string()),
                }
            }
        }
        models
    }

    /// The model `name`, whose new parameters come from `seed`.
    pub(super) fn source(&self, name: &str, seed: u64) -> Option<ModelSource> {
        let model = self.specs.get(name)?;
        let tokenizer = model.tokenizer.as_ref().map(PathBuf::from);
        let source = match (&model.path, &model.init) {
            (Some(path), _) => {
                let own = ModelSource::folder(name, path);
                let source = ModelSource::new(name, own.weights, tokenizer.or(own.tokenizer));
                match self.mirrors.iter().find(|(_, mirror)| mirror.folder() == Path::new(path)) {
                    Some((_, mirror)) => source.called(mirror.remote()),
                    None => source,
                }
            }
            (None, init) => {
                let config = init.clone().unwrap_or_default().into_iter().collect();
                ModelSource::new(name, Weights::Init { config, seed }, tokenizer)
            }
        };
        Some(match &model.adapter {
            Some(adapter) => source.adapted(adapter),
            None => source,
        })
    }

    /// Copies the weights of the models that are `used`.
    pub(super) fn fetch(&self, used: impl Fn(&str) -> bool) -> Result<()> {
        let mut mirrors = self.mirrors.iter().filter(|(name, _)| used(name));
        mirrors.try_for_each(|(_, mirror)| mirror.fetch(|name| !OTHERS.iter().any(|ending| name.ends_with(ending))))
    }
}

fn is_small(name: &str) -> bool {
    !WEIGHTS.iter().chain(&OTHERS).any(|ending| name.ends_with(ending))
}
