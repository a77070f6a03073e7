//! The models of a pipeline file. Those that lie in stores or on the hub are copied to this machine: small files, which a
//! check needs, when the plan is made; weights before a run.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::hub::OnHub;
use super::spec::{ModelSpec, Spec};
use crate::error::{Error, Problem, Result};
use crate::io::hub::{Address, SCHEME};
use crate::io::{Mirror, Stores};
use crate::model::{ModelSource, Weights};
use crate::monitor::Monitor;

/// Endings of files that only a model that is loaded needs, and of those that nobody here reads.
const WEIGHTS: [&str; 1] = [".safetensors"];
const OTHERS: [&str; 7] = [".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx"];

/// Models by name. Paths in stores have become those of their copies.
#[derive(Debug, Clone)]
pub(super) struct Models {
    specs: BTreeMap<String, ModelSpec>,
    hub: OnHub,
    /// Copies of folders in stores, with the model that they belong to.
    mirrors: Vec<(String, Mirror)>,
    /// Models with a problem of their own: what follows from it is not reported as well.
    broken: BTreeSet<String>,
}

impl Models {
    /// The models of `spec`; what is wrong with them goes to `problems`.
    ///
    /// # Errors
    /// What may do later, and the wish to stop.
    pub(super) fn new(
        spec: &Spec,
        stores: &Stores,
        problems: &mut Vec<Problem>,
        monitor: &dyn Monitor,
    ) -> Result<Self> {
        let hub = OnHub::describe(&spec.file, problems, monitor)?;
        let (specs, broken) = (spec.file.models.clone(), spec.broken.clone());
        let mut models = Self { specs, hub, mirrors: Vec::new(), broken };
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
                let in_store = |folder: &&String| folder.contains("://") && !folder.starts_with(SCHEME);
                let Some(url) = folder.as_ref().filter(in_store) else { continue };
                let mirror = stores.locate(url).and_then(|remote| Mirror::of(&remote));
                let mirror = mirror.and_then(|mirror| mirror.fetch(is_small).map(|()| mirror));
                match mirror {
                    Ok(mirror) => {
                        *folder = Some(mirror.folder().display().to_string());
                        models.mirrors.push((name.clone(), mirror));
                    }
                    Err(error @ (Error::Interrupted | Error::Store { retryable: true, .. })) => return Err(error),
                    Err(error) => problem(field, error.to_string()),
                }
            }
        }
        let is_broken = |problem: &Problem| match &problem.path[..] {
            [first, name, ..] if first == "models" => Some(name.clone()),
            _ => None,
        };
        models.broken.extend(problems.iter().filter_map(is_broken));
        let found = models.incomplete(spec);
        models.broken.extend(found.iter().filter_map(is_broken));
        problems.extend(found);
        Ok(models)
    }

    /// Folders of models that are not there, or do not hold what the stages of `spec` need.
    fn incomplete(&self, spec: &Spec) -> Vec<Problem> {
        let used: BTreeSet<&str> =
            spec.file.stages.values().flat_map(|stage| stage.operation().models()).map(|model| model.name).collect();
        let mut problems = Vec::new();
        for (name, model) in spec.file.models.iter().filter(|(name, _)| !self.is_broken(name)) {
            let folders = [("path", &model.path), ("adapter", &model.adapter), ("tokenizer", &model.tokenizer)];
            let missing = folders.into_iter().find_map(|(field, folder)| no_folder(field, folder.as_deref()?));
            let found = missing.or_else(|| match &model.tokenizer {
                Some(folder) if !self.local(folder).join("tokenizer.json").is_file() && !folder.contains("://") => {
                    Some(Problem::at("tokenizer", format!("no tokenizer.json in `{folder}`")))
                }
                _ => {
                    let source = self.source(name, 0).filter(|_| used.contains(name.as_str()))?;
                    let awaited =
                        source.base_folder().ok().flatten().is_some_and(|folder| self.awaits_weights(&folder));
                    let described = source.describe().map(drop);
                    let wrong = described.and_then(|()| if awaited { Ok(()) } else { source.look() });
                    let field = if model.path.is_some() { "path" } else { "init" };
                    wrong.err().map(|error| Problem::at(field, error.to_string()))
                }
            });
            problems.extend(found.map(|problem| problem.within(&["models", name])));
        }
        problems
    }

    /// Whether the model `name` has a problem that was reported.
    pub(super) fn is_broken(&self, name: &str) -> bool {
        self.broken.contains(name)
    }

    /// The names of all models.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.specs.keys().map(String::as_str)
    }

    /// The name `org/name` of the model `name`, if it is one of the hub.
    pub(super) fn hub_name(&self, name: &str) -> Option<String> {
        Some(Address::parse(self.specs.get(name)?.path.as_deref()?).ok()??.repo)
    }

    /// Where `path`, which may be an address of the hub, lies.
    pub(super) fn local(&self, path: &str) -> PathBuf {
        self.hub.local(path)
    }

    /// The model `name`, whose new parameters come from `seed`.
    pub(super) fn source(&self, name: &str, seed: u64) -> Option<ModelSource> {
        let model = self.specs.get(name)?;
        let tokenizer = model.tokenizer.as_ref().map(|path| self.local(path));
        let source = match (&model.path, &model.init) {
            (Some(path), _) => {
                let own = ModelSource::folder(name, self.local(path));
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
            Some(adapter) => source.adapted(self.local(adapter)),
            None => source,
        })
    }

    /// Copies the weights of the models `names`.
    pub(super) fn fetch_weights<'a>(&self, names: impl Iterator<Item = &'a str>, monitor: &dyn Monitor) -> Result<()> {
        let names: BTreeSet<&str> = names.collect();
        for (_, mirror) in self.mirrors.iter().filter(|(name, _)| names.contains(name.as_str())) {
            mirror.fetch(|name| !OTHERS.iter().any(|ending| name.ends_with(ending)))?;
        }
        let models = names.into_iter().filter_map(|name| self.specs.get(name));
        let paths = models.flat_map(|model| [&model.path, &model.adapter]).filter_map(|path| path.as_deref());
        self.hub.fetch_weights(paths, monitor)
    }

    /// Whether `folder` is the copy of a model whose weights are not here yet.
    pub(super) fn awaits_weights(&self, folder: &Path) -> bool {
        let copies = self.mirrors.iter().filter(|(_, mirror)| mirror.folder() == folder);
        copies.into_iter().any(|(_, mirror)| mirror.awaits(|name| WEIGHTS.iter().any(|end| name.ends_with(end))))
            || self.hub.awaits_weights(folder)
    }
}

/// A folder of this machine that is not there.
fn no_folder(field: &str, text: &str) -> Option<Problem> {
    let folder = Path::new(text);
    if text.contains("://") || folder.is_dir() {
        return None;
    }
    let message = match folder.exists() {
        true => format!("`{text}` is a file, not a folder"),
        false => format!("the folder `{text}` does not exist"),
    };
    let problem = Problem::at(field, message);
    Some(match on_the_hub(text, "") {
        Some(help) => problem.help(help),
        None => problem,
    })
}

/// What to write for `text` if it looks like a name of the hub, `org/name`, and nothing here has that name; `kind` stands
/// before names of its kind.
pub(super) fn on_the_hub(text: &str, kind: &str) -> Option<String> {
    let is_word = |word: &str| {
        word.starts_with(|c: char| c.is_ascii_alphanumeric())
            && word.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    let (organisation, name) = text.split_once('/')?;
    let is_name = is_word(organisation) && is_word(name) && !Path::new(text).exists();
    is_name.then(|| format!("on the hub it is `{SCHEME}{kind}{text}`"))
}

fn is_small(name: &str) -> bool {
    !WEIGHTS.iter().chain(&OTHERS).any(|ending| name.ends_with(ending))
}
