//! A pipeline whose names are resolved and whose columns are known, before a row is read.

use std::collections::BTreeSet;
use std::path::PathBuf;

use arrow::datatypes::{Schema, SchemaRef};
use tracing::warn;

use super::models::{Models, on_the_hub};
use super::places;
use super::run::preflight;
use super::spec::Spec;
use super::{doubtful, limits, vocabulary};
use crate::columns::Side;
use crate::error::{Error, Problem, Result, suggest};
use crate::io::{Dataset, Stores};
use crate::model::{DeviceSpec, ModelSource, Precision, Weights};
use crate::monitor::{Monitor, Silent};
use crate::stages::generate::Generate;
use crate::stages::score::Score;
use crate::stages::train::Train;
use crate::stages::{Stage, replaced};
use crate::text::tokenizer::way_out;

/// What will run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Stages in an order in which every one comes after what it uses.
    pub nodes: Vec<Node>,
    /// Folder for everything that the run keeps.
    pub workdir: String,
    /// The stores that paths and URLs lie in.
    pub stores: Stores,
    /// Where models run.
    pub device: DeviceSpec,
    /// Seed of the order of training rows.
    pub seed: u64,
    /// The largest share of a stage's rows that may be set aside.
    pub max_reject_share: f64,
    /// Whether a result may have no rows.
    pub allow_empty: bool,
    /// What is probably not meant in the pipeline file, each with its position.
    pub warnings: Vec<String>,
    /// Whether other pipelines, the variants of a sweep, keep their results in the same workdir.
    pub shared: bool,
    models: Models,
}

/// Why the columns of a stage are not known.
enum Obstacle {
    /// The pipeline file is wrong.
    Problems(Vec<Problem>),
    /// The file may be right, but a store with its data said no.
    Failed(Error),
}

impl From<Vec<Problem>> for Obstacle {
    fn from(problems: Vec<Problem>) -> Self {
        Self::Problems(problems)
    }
}

impl Obstacle {
    /// With a way out, where there is one.
    fn help(self, help: Option<String>) -> Self {
        match (self, help) {
            (Self::Problems(problems), Some(help)) => {
                Self::Problems(problems.into_iter().map(|problem| problem.help(help.clone())).collect())
            }
            (obstacle, _) => obstacle,
        }
    }

    fn at(field: &str, error: Error) -> Self {
        match error {
            Error::Interrupted | Error::Store { .. } => Self::Failed(error),
            error => Self::Problems(vec![Problem::at(field, error.to_string())]),
        }
    }
}

/// One stage.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its id in the file; stages that the planner added have a dot in theirs.
    pub id: String,
    /// What it does.
    pub stage: Stage,
    /// The columns of its rows; for stages without rows, those of its input.
    pub columns: SchemaRef,
    /// The dataset of a `read` stage.
    pub dataset: Option<Dataset>,
}

impl Plan {
    /// Resolves and checks `spec`.
    ///
    /// # Errors
    /// Every problem that can be found without reading rows, each with its position.
    pub fn new(spec: &Spec) -> Result<Self> {
        Self::watched(spec, &Silent)
    }

    /// As [`Self::new`]; `monitor` watches what is fetched from the hub.
    pub fn watched(spec: &Spec, monitor: &dyn Monitor) -> Result<Self> {
        let mut problems = Vec::new();
        let order = sort(spec, &mut problems);
        let stores = Stores::new(spec.file.storage.clone());
        problems.extend(spec.file.storage.problem().map(|message| Problem::at("storage", message)));
        let models = Models::new(spec, &stores, &mut problems, monitor)?;
        if !(0.0..=1.0).contains(&spec.file.max_reject_share) {
            let message = format!("max_reject_share is {}; it must be in [0, 1]", spec.file.max_reject_share);
            problems.push(Problem::at("max_reject_share", message));
        }
        problems.extend(not_built(spec.file.device));
        let mut plan = Self {
            nodes: Vec::new(),
            workdir: spec.file.workdir.clone(),
            stores,
            device: spec.file.device,
            seed: spec.file.seed,
            max_reject_share: spec.file.max_reject_share,
            allow_empty: spec.file.allow_empty,
            warnings: Vec::new(),
            shared: false,
            models,
        };
        for id in order {
            let mut stage = spec.file.stages[&id].clone();
            let inputs: Vec<String> = stage.inputs().iter().map(|(_, input)| (*input).to_owned()).collect();
            if inputs.iter().any(|input| plan.node(input).is_none()) {
                // What is wrong with the input is reported there.
                continue;
            }
            match &mut stage {
                Stage::Train(train) => plan.add_reference_passes(&id, train),
                Stage::Score(score) => score.precision = score.precision.or(Some(spec.file.precision)),
                Stage::Generate(generate) => {
                    generate.precision = generate.precision.or(Some(spec.file.precision));
                    generate.seed = generate.seed.or(Some(spec.file.seed));
                }
                _ => {}
            }
            match plan.columns(&stage, monitor) {
                Err(Obstacle::Failed(error)) => return Err(error.in_stage(&id)),
                Ok((columns, dataset)) => plan.nodes.push(Node { id, stage, columns, dataset }),
                Err(Obstacle::Problems(found)) => {
                    problems.extend(found.into_iter().map(|problem| problem.within(&["stages", &id, stage.name()])));
                }
            }
        }
        if problems.is_empty() {
            problems = vocabulary::problems(&plan);
            problems.extend(places::problems(spec, &plan)?);
            problems.extend(preflight::problems(&plan)?);
            problems.extend(limits::problems(&mut plan, spec));
            problems.extend(doubtful::problems(&plan));
        }
        if !problems.is_empty() {
            return Err(spec.report(problems));
        }
        plan.warnings = spec.placed(doubtful::warnings(&plan));
        Ok(plan)
    }

    /// The stage `id`.
    pub fn node(&self, id: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.id == id)
    }

    /// The stages that take the rows of `id`.
    pub fn consumers<'a>(&'a self, id: &'a str) -> impl Iterator<Item = &'a Node> {
        self.nodes.iter().filter(move |node| node.stage.inputs().iter().any(|(_, input)| *input == id))
    }

    /// The model `name` before any training: none for the id of a `train` stage.
    pub fn source(&self, name: &str) -> Option<ModelSource> {
        self.models.source(name, self.seed)
    }

    /// Brings the weights of the models `names` that lie in stores or on the hub to this machine.
    ///
    /// # Errors
    /// A store or a disk that fails.
    pub fn fetch_weights<'a>(&self, names: impl Iterator<Item = &'a str>, monitor: &dyn Monitor) -> Result<()> {
        self.models.fetch_weights(names, monitor)
    }

    /// Whether `source` lies elsewhere and its weights were not fetched yet.
    pub fn awaits_weights(&self, source: &ModelSource) -> Result<bool> {
        Ok(source.base_folder()?.is_some_and(|folder| self.models.awaits_weights(&folder)))
    }

    /// The model that the training of `name` began with, however many `train` stages lie between.
    pub fn start_of(&self, name: &str) -> Option<ModelSource> {
        self.source(self.first(name))
    }

    /// The name of that model.
    fn first<'a>(&'a self, mut name: &'a str) -> &'a str {
        while let Some(Node { stage: Stage::Train(train), .. }) = self.node(name) {
            name = &train.model;
        }
        name
    }

    /// Whether `name`, a model or a folder, has a tokenizer. What is wrong with a model is said where the model stands.
    fn has_tokenizer(&self, name: &str) -> Result<(), Vec<Problem>> {
        let folder = self.tokenizer(name);
        if self.models.is_broken(name) || folder.join("tokenizer.json").is_file() {
            return Ok(());
        }
        let models: Vec<&str> = self.models.names().collect();
        let (message, help) = if models.contains(&name) {
            let help = format!("name the folder that has it under `models: {name}`, as `tokenizer`");
            (format!("model `{name}` has no tokenizer: there is no tokenizer.json in `{}`", folder.display()), help)
        } else if folder.is_dir() {
            (format!("no tokenizer.json in `{}`", folder.display()), way_out(&folder))
        } else {
            let help = on_the_hub(name, "").unwrap_or_else(|| suggest(name, &models));
            (format!("`{name}` is no model under `models:`, and no folder"), help)
        };
        Err(vec![Problem::at("tokenizer", message).help(help)])
    }

    /// The tokenizer folder that `name` means: a model's, or a folder.
    pub fn tokenizer(&self, name: &str) -> PathBuf {
        match self.source(name) {
            Some(source) => source.tokenizer.unwrap_or_else(|| match source.weights {
                Weights::Folder(folder) => folder,
                Weights::Init { .. } => PathBuf::from(name),
            }),
            None => self.models.local(name),
        }
    }

    /// The folder of the tokenizer that a `generate` stage reads and writes with.
    pub fn tokenizer_of(&self, generate: &Generate) -> Option<PathBuf> {
        match &generate.tokenizer {
            Some(name) => Some(self.tokenizer(name)),
            None => self.start_of(&generate.model)?.tokenizer,
        }
    }

    /// DPO reads the reference's log-probabilities from columns; where they are missing, a scoring pass comes first.
    fn add_reference_passes(&mut self, id: &str, train: &mut Train) {
        if !train.objective.formula().needs().stored_reference() {
            return;
        }
        let reference = train.reference.clone().unwrap_or_else(|| train.model.clone());
        let mut pass = |input: &mut String, name: String| {
            let Some(node) = self.node(input) else { return };
            if node.columns.field_with_name(&Side::Chosen.ref_logps()).is_ok() {
                return;
            }
            let score = Score {
                input: input.clone(),
                oracle: None,
                contrast: false,
                reference: reference.clone(),
                batch_tokens: train.batch_tokens,
                // The policy trains in f32; its reference must not differ from it by rounding.
                precision: Some(Precision::F32),
            };
            // Missing id columns are reported for the train stage itself.
            if let Ok(columns) = score.columns(&node.columns) {
                self.nodes.push(Node { id: name.clone(), stage: Stage::Score(score), columns, dataset: None });
                *input = name;
            }
        };
        pass(&mut train.input, format!("{id}.reference"));
        if let Some(eval) = &mut train.eval {
            pass(&mut eval.input, format!("{id}.eval_reference"));
        }
    }

    fn columns(&self, stage: &Stage, monitor: &dyn Monitor) -> Result<(SchemaRef, Option<Dataset>), Obstacle> {
        let input = |id: &str| self.node(id).map_or_else(|| Schema::empty().into(), |node| node.columns.clone());
        let checked = |input: SchemaRef, problems: Vec<Problem>| match problems.is_empty() {
            true => Ok(input),
            false => Err(problems),
        };
        let columns = match stage {
            Stage::Read(read) => {
                let dataset = Dataset::open_watched(&read.from.list(), &self.stores, monitor);
                let dataset = dataset.map_err(|error| {
                    let hub = read.from.list().iter().find_map(|from| on_the_hub(from, "datasets/"));
                    Obstacle::at("from", error).help(hub)
                })?;
                return Ok((read.columns(dataset.schema())?, Some(dataset)));
            }
            Stage::Tokenize(tokenize) => {
                self.has_tokenizer(&tokenize.tokenizer)?;
                if !self.models.is_broken(&tokenize.tokenizer) {
                    let problem = tokenize.template.problem(&self.tokenizer(&tokenize.tokenizer));
                    problem.map_or(Ok(()), |problem| Err(vec![problem]))?;
                }
                tokenize.columns(&input(&tokenize.input))?
            }
            Stage::Score(score) => score.columns(&input(&score.input))?,
            Stage::Select(select) => select.columns(&input(&select.input))?,
            Stage::Generate(generate) => {
                generate.tokenizer.as_deref().map(|name| self.has_tokenizer(name)).transpose()?;
                let has_tokenizer =
                    self.tokenizer_of(generate).is_some() || self.models.is_broken(self.first(&generate.model));
                generate.columns(&input(&generate.input), has_tokenizer)?
            }
            Stage::Write(write) => checked(input(&write.input), write.problems(&input(&write.input)))?,
            Stage::Train(train) => {
                let held_out = train.eval.as_ref().map(|eval| input(&eval.input));
                checked(input(&train.input), train.problems(&input(&train.input), held_out.as_deref()))?
            }
            Stage::Evaluate(evaluate) => {
                let problems = evaluate.problems(|id| self.node(id).map(|node| node.columns.clone()));
                checked(evaluate.input.as_ref().map_or_else(|| Schema::empty().into(), |id| input(id)), problems)?
            }
            Stage::Audit(audit) => checked(input(&audit.input), audit.problems(&input(&audit.input)))?,
        };
        if let [(_, id)] = stage.inputs()[..] {
            let problems = replaced(&input(id), &columns);
            if !problems.is_empty() {
                return Err(problems.into());
            }
        }
        Ok((columns, None))
    }
}

/// Logs the warnings of `plans`, each once however many plans have it.
pub fn warn(plans: &[Plan]) {
    let warnings: BTreeSet<&String> = plans.iter().flat_map(|plan| &plan.warnings).collect();
    warnings.into_iter().for_each(|warning| warn!("{warning}"));
}

/// Whether `id` can be part of a file's name, wherever that file is.
fn is_id(id: &str) -> bool {
    let first = |c: char| c.is_alphanumeric() || c == '_';
    id.starts_with(first) && id.chars().all(|c| first(c) || c == '-' || c == '.')
}

/// A device that this build cannot open.
fn not_built(device: DeviceSpec) -> Option<Problem> {
    let feature = device.missing_feature()?;
    let help = match device {
        DeviceSpec::Cuda(index) => {
            format!(
                "an NVIDIA GPU is `libtorch:cuda:{index}`, in a build with `--features tch`; this back end was never built"
            )
        }
        _ => format!("build with `--features {feature}`, as docs/backends.md says; `cpu` needs nothing"),
    };
    Some(Problem::at("device", format!("this build cannot use the device `{device}`")).help(help))
}

/// Stage ids so that each comes after what it uses; unknown names and cycles are problems.
fn sort(spec: &Spec, problems: &mut Vec<Problem>) -> Vec<String> {
    let stages = &spec.file.stages;
    let mut sorted: Vec<String> = Vec::new();
    let problem = |id: &str, field: &str, message: String, help: Option<String>| {
        let path = ["stages", id, stages[id].name(), field].map(str::to_owned).to_vec();
        Problem { path, message, help }
    };
    let uses = |id: &str| -> Vec<String> {
        let stage = &stages[id];
        let names = stage.inputs().into_iter().chain(stage.models()).map(|(_, name)| name.to_owned());
        names.filter(|name| stages.contains_key(name)).collect()
    };
    for id in &spec.order {
        let stage = &stages[id];
        let ids: Vec<&str> = stages.keys().map(String::as_str).collect();
        let trains = |name: &str| matches!(stages.get(name), Some(Stage::Train(_)));
        let has_rows = |name: &str| {
            let rows = |s: &Stage| {
                matches!(
                    s,
                    Stage::Read(_) | Stage::Tokenize(_) | Stage::Score(_) | Stage::Select(_) | Stage::Generate(_)
                )
            };
            stages.get(name).is_some_and(rows)
        };
        if !is_id(id) {
            let path = vec!["stages".to_owned(), id.clone()];
            let message =
                format!("`{id}` is no stage id: it names files, so it has only letters, digits, `_`, `-` and `.`");
            problems.push(Problem { path, message, help: None });
        }
        for (field, name) in stage.inputs() {
            if !stages.contains_key(name) {
                problems.push(problem(id, field, format!("no stage `{name}`"), Some(suggest(name, &ids))));
            } else if !has_rows(name) {
                problems.push(problem(id, field, format!("stage `{name}` has no rows to give"), None));
            }
        }
        for (field, name) in stage.models() {
            let known = spec.file.models.contains_key(name);
            if known && stages.contains_key(name) {
                problems.push(problem(id, field, format!("`{name}` is a model and a stage"), None));
            } else if !known && !trains(name) {
                let models = spec.file.models.keys().chain(stages.keys().filter(|id| trains(id)));
                let models: Vec<&str> = models.map(String::as_str).collect();
                let message = format!("no model and no train stage `{name}`");
                problems.push(problem(id, field, message, Some(suggest(name, &models))));
            }
        }
    }
    let mut waiting = spec.order.clone();
    while !waiting.is_empty() {
        let ready = |id: &String| uses(id).iter().all(|name| sorted.contains(name));
        let Some(next) = waiting.iter().position(ready) else {
            let message = format!("stages that need each other: {}", waiting.join(", "));
            problems.push(problem(&waiting[0], "", message, None));
            break;
        };
        sorted.push(waiting.remove(next));
    }
    sorted
}
