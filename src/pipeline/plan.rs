//! A pipeline whose names are resolved and whose columns are known, before a row is read.

use std::collections::BTreeSet;
use std::path::PathBuf;

use arrow::datatypes::SchemaRef;
use tracing::warn;

use super::models::{Models, on_the_hub};
use super::places;
use super::run::preflight;
use super::sources::Sources;
use super::spec::Spec;
use super::tokenizers::Tokenizers;
use super::{devices, doubtful, limits, vocabulary};
use crate::error::{Error, Problem, Result, suggest};
use crate::io::{Dataset, Stores};
use crate::model::{DeviceSpec, ModelSource, Weights};
use crate::monitor::{Monitor, Silent};
use crate::stages::train::Train;
use crate::stages::{
    Defaults, Destination, Inputs, ModelUse, Operation, Shape, Stage, TokenizerFound, TokenizerOf, TokenizerUse,
    replaced,
};
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
    /// Where models run that need one device alone: the first of `devices`.
    pub device: DeviceSpec,
    /// Where models run, of one kind.
    pub devices: Vec<DeviceSpec>,
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
    pub(super) tokenizers: Tokenizers,
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
    /// Its id. No id in a pipeline file has a dot, so that no stage is named as one that the planner adds.
    pub id: String,
    /// Who wants it.
    pub origin: Origin,
    /// What it does.
    pub stage: Stage,
    /// The columns of its rows; for stages without rows, those of its input.
    pub columns: SchemaRef,
    /// The dataset of a `read` stage.
    pub dataset: Option<Dataset>,
}

/// Who wants a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The pipeline file.
    File,
    /// The planner, for a stage of the file: its id is that stage's, a dot, and what it is for.
    Planner,
}

impl Node {
    /// What the stage does.
    pub fn operation(&self) -> &dyn Operation {
        self.stage.operation()
    }

    /// How a run treats it.
    pub fn shape(&self) -> Shape<'_> {
        self.operation().shape()
    }

    /// Where it writes files, if it does, and not to the hub.
    pub fn destination(&self) -> Option<&dyn Destination> {
        match self.shape() {
            Shape::Sink(ending) if self.operation().publication().is_none() => ending.destination(),
            _ => None,
        }
    }

    /// The training that it is, if it is one.
    pub fn training(&self) -> Option<&Train> {
        match self.shape() {
            Shape::Training(train) => Some(train),
            _ => None,
        }
    }
}

impl Plan {
    /// Resolves and checks `spec`.
    ///
    /// # Errors
    /// Every problem that can be found without reading rows, each with its position.
    pub fn new(spec: &Spec) -> Result<Self> {
        Self::watched(spec, &mut Sources::default(), &Silent)
    }

    /// As [`Self::new`], with the datasets of `sources`; `monitor` watches what is fetched from the hub.
    ///
    /// # Errors
    /// As for [`Self::new`].
    pub fn watched(spec: &Spec, sources: &mut Sources, monitor: &dyn Monitor) -> Result<Self> {
        let mut problems = Vec::new();
        let order = sort(spec, &mut problems);
        let stores = Stores::new(spec.file.storage.clone());
        problems.extend(spec.file.storage.problem().map(|message| Problem::at("storage", message)));
        let models = Models::new(spec, &stores, &mut problems, monitor)?;
        if !(0.0..=1.0).contains(&spec.file.max_reject_share) {
            let message = format!("max_reject_share is {}; it must be in [0, 1]", spec.file.max_reject_share);
            problems.push(Problem::at("max_reject_share", message));
        }
        let devices = devices::of(spec, &mut problems);
        let mut plan = Self {
            nodes: Vec::new(),
            workdir: spec.file.workdir.clone(),
            stores,
            device: devices[0],
            devices,
            seed: spec.file.seed,
            max_reject_share: spec.file.max_reject_share,
            allow_empty: spec.file.allow_empty,
            warnings: Vec::new(),
            shared: false,
            models,
            tokenizers: Tokenizers::default(),
        };
        // What a store refused is told beside the problems, or if there are none ends the plan as the store's word.
        let mut refused: Vec<(Error, Problem)> = Vec::new();
        for id in order {
            let mut stage = spec.file.stages[&id].clone();
            stage.operation_mut().default_to(&Defaults { precision: spec.file.precision, seed: spec.file.seed });
            if stage.operation().inputs().iter().any(|(_, input)| plan.node(input).is_none()) {
                // What is wrong with the input is reported there.
                let place = ["stages", &id, stage.operation().name()];
                problems.extend(stage.operation().wrong_settings().into_iter().map(|problem| problem.within(&place)));
                continue;
            }
            plan.add_passes(&id, &mut stage);
            let mut open = |from: &[String]| sources.open(from, (&spec.file.storage, &plan.stores), monitor);
            let columns = plan.columns(&stage, &mut open);
            let place = ["stages", &id, stage.operation().name()];
            let mut found = stage.operation().wrong_settings();
            match columns {
                Ok((columns, dataset)) => {
                    plan.nodes.push(Node { id, origin: Origin::File, stage, columns, dataset });
                    continue;
                }
                Err(Obstacle::Problems(more)) => found.extend(more),
                Err(Obstacle::Failed(Error::Interrupted)) => return Err(Error::Interrupted),
                Err(Obstacle::Failed(error)) => {
                    let problem = Problem::at("from", error.to_string()).within(&place);
                    refused.push((error.in_stage(&id), problem));
                }
            }
            problems.extend(found.into_iter().map(|problem| problem.within(&place)));
        }
        problems.extend(vocabulary::problems(&plan));
        if !spec.lacks_workdir {
            for found in [places::problems(spec, &plan), preflight::problems(&plan)] {
                match found {
                    Ok(found) => problems.extend(found),
                    Err(Error::Interrupted) => return Err(Error::Interrupted),
                    Err(error) => refused.push((error.clone(), Problem::at("workdir", error.to_string()))),
                }
            }
        }
        problems.extend(limits::problems(&mut plan, spec));
        problems.extend(doubtful::problems(&plan));
        if !problems.is_empty() {
            problems.extend(refused.into_iter().map(|(_, problem)| problem));
            return Err(spec.report(problems));
        }
        if let Some((error, _)) = refused.into_iter().next() {
            return Err(error);
        }
        plan.warnings = spec.placed(doubtful::warnings(&plan)).iter().map(|found| found.within(spec.name())).collect();
        Ok(plan)
    }

    /// The stage `id`.
    pub fn node(&self, id: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.id == id)
    }

    /// Whether a problem of the model `name`, or of the one that it goes back to, was reported.
    pub(super) fn is_broken(&self, name: &str) -> bool {
        self.models.is_broken(self.first(name))
    }

    /// The devices that share the rows of `node`.
    pub(super) fn devices_of(&self, node: &Node) -> &[DeviceSpec] {
        let is_shared = matches!(node.shape(), Shape::Materialised(_)) && !node.operation().models().is_empty();
        if is_shared { &self.devices } else { &self.devices[..1] }
    }

    /// The stages that take the rows of `id`.
    pub fn consumers<'a>(&'a self, id: &'a str) -> impl Iterator<Item = &'a Node> {
        self.nodes.iter().filter(move |node| node.operation().inputs().iter().any(|(_, input)| *input == id))
    }

    /// The model `name` before any training: none for the id of a `train` stage.
    pub fn source(&self, name: &str) -> Option<ModelSource> {
        self.models.source(name, self.seed)
    }

    /// The model of the hub, `org/name`, that the model `name` goes back to, through all `train` stages between.
    pub fn hub_base(&self, name: &str) -> Option<String> {
        match self.node(name).and_then(Node::training) {
            Some(train) => self.hub_base(&train.model),
            None => self.models.hub_name(name),
        }
    }

    /// Brings the weights of the models `names` that lie in stores or on the hub to this machine.
    ///
    /// # Errors
    /// A store or a disk that fails.
    pub fn fetch_weights<'a>(&self, names: impl Iterator<Item = &'a str>, monitor: &dyn Monitor) -> Result<()> {
        self.models.fetch_weights(names, monitor)
    }

    /// Whether `source` lies elsewhere and its weights were not fetched yet.
    ///
    /// # Errors
    /// A source that cannot be opened.
    pub fn awaits_weights(&self, source: &ModelSource) -> Result<bool> {
        Ok(source.base_folder()?.is_some_and(|folder| self.models.awaits_weights(&folder)))
    }

    /// The model that the training of `name` began with, however many `train` stages lie between.
    pub fn start_of(&self, name: &str) -> Option<ModelSource> {
        self.source(self.first(name))
    }

    /// The name of that model.
    fn first<'a>(&'a self, mut name: &'a str) -> &'a str {
        while let Some(train) = self.node(name).and_then(Node::training) {
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
            (format!("`{name}` is neither a model under `models:` nor a folder"), help)
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

    /// The folder of the tokenizer that `operation` uses.
    pub fn tokenizer_of(&self, operation: &dyn Operation) -> Option<PathBuf> {
        match operation.tokenizer()?.of {
            TokenizerOf::Named(name) => Some(self.tokenizer(name)),
            TokenizerOf::Model(name) => self.start_of(name)?.tokenizer,
            TokenizerOf::Rows => self.tokenizer_of_rows(operation),
        }
    }

    /// The folder of the tokenizer that made the ids of the rows of `operation`, or else of the first model above it.
    fn tokenizer_of_rows(&self, operation: &dyn Operation) -> Option<PathBuf> {
        let mut of_model = None;
        let mut at = operation;
        while let Some(above) = at.inputs().first().and_then(|(_, input)| self.node(input)) {
            at = above.operation();
            if at.longest_row().is_some() {
                return self.tokenizer_of(at);
            }
            of_model = of_model.or_else(|| at.models().iter().find_map(|model| self.start_of(model.name)?.tokenizer));
        }
        of_model
    }

    /// Plans the passes that stage `id` needs over its rows before it takes them.
    fn add_passes(&mut self, id: &str, stage: &mut Stage) {
        for pass in stage.operation().passes_before(&self.inputs(stage.operation())) {
            // A pass that its rows do not permit is not made: what they lack is reported for the stage itself.
            if let Ok(columns) = pass.stage.operation().columns(&self.inputs(pass.stage.operation())) {
                let id = format!("{id}.{}", pass.name);
                stage.operation_mut().take_from(pass.field, id.clone());
                self.nodes.push(Node { id, origin: Origin::Planner, stage: pass.stage, columns, dataset: None });
            }
        }
    }

    /// What is known of the inputs of `operation`, whose files are not opened yet.
    fn inputs(&self, operation: &dyn Operation) -> Inputs {
        let rows =
            operation.inputs().into_iter().filter_map(|(_, id)| Some((id.to_owned(), self.node(id)?.columns.clone())));
        let model = operation.tokenizer().and_then(|tokenizer| match tokenizer.of {
            TokenizerOf::Named(name) => Some(name),
            TokenizerOf::Model(name) => Some(self.first(name)),
            TokenizerOf::Rows => None,
        });
        let tokenizer = match self.tokenizer_of(operation) {
            _ if model.is_some_and(|model| self.models.is_broken(model)) => TokenizerFound::Unknown,
            Some(folder) => TokenizerFound::In(folder),
            None => TokenizerFound::Nowhere,
        };
        Inputs { rows: rows.collect(), files: None, tokenizer }
    }

    /// The columns of `stage`, and the files that it reads, which `open` opens.
    fn columns(
        &self,
        stage: &Stage,
        open: &mut dyn FnMut(&[String]) -> Result<Dataset>,
    ) -> Result<(SchemaRef, Option<Dataset>), Obstacle> {
        let operation = stage.operation();
        let mut inputs = self.inputs(operation);
        let dataset = match operation.shape() {
            Shape::Source(read) => {
                let from = read.from.list();
                let on_the_hub = || from.iter().find_map(|from| on_the_hub(from, "datasets/"));
                Some(open(&from).map_err(|error| Obstacle::at("from", error).help(on_the_hub()))?)
            }
            _ => None,
        };
        inputs.files = dataset.as_ref().map(|dataset| dataset.schema().clone());
        if let Some(TokenizerUse { of: TokenizerOf::Named(name), .. }) = operation.tokenizer() {
            self.has_tokenizer(name)?;
        }
        let columns = operation.columns(&inputs)?;
        if let [(_, id)] = operation.inputs()[..] {
            let problems = replaced(&inputs.of(id), &columns);
            if !problems.is_empty() {
                return Err(problems.into());
            }
        }
        Ok((columns, dataset))
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
    id.starts_with(first) && id.chars().all(|c| first(c) || c == '-')
}

/// Stage ids so that each comes after what it uses; unknown names and cycles are problems.
fn sort(spec: &Spec, problems: &mut Vec<Problem>) -> Vec<String> {
    let stages = &spec.file.stages;
    let mut sorted: Vec<String> = Vec::new();
    let problem = |id: &str, field: &str, message: String, help: Option<String>| {
        let path = ["stages", id, stages[id].operation().name(), field].map(str::to_owned).to_vec();
        Problem { path, message, help }
    };
    let uses = |id: &str| -> Vec<String> {
        let names = stages[id].operation().uses().into_iter().map(|(_, name)| name.to_owned());
        names.filter(|name| stages.contains_key(name)).collect()
    };
    for id in &spec.order {
        let operation = stages[id].operation();
        let ids: Vec<&str> = stages.keys().map(String::as_str).collect();
        let shape = |name: &str| stages.get(name).map(|stage| stage.operation().shape());
        let trains = |name: &str| matches!(shape(name), Some(Shape::Training(_)));
        let has_rows = |name: &str| !matches!(shape(name), Some(Shape::Training(_) | Shape::Sink(_)));
        if !is_id(id) {
            let path = vec!["stages".to_owned(), id.clone()];
            let message = format!(
                "`{id}` is not a valid stage id: ids name files and may contain only letters, digits, `_` and `-`"
            );
            problems.push(Problem { path, message, help: None });
        }
        let is_there = |name: &str| !spec.broken.contains(name);
        for (field, name) in operation.inputs().into_iter().filter(|(_, name)| is_there(name)) {
            if !stages.contains_key(name) {
                problems.push(problem(id, field, format!("no stage `{name}`"), Some(suggest(name, &ids))));
            } else if !has_rows(name) {
                problems.push(problem(id, field, format!("stage `{name}` produces no rows"), None));
            }
        }
        for ModelUse { field, name, .. } in operation.models().into_iter().filter(|model| is_there(model.name)) {
            let known = spec.file.models.contains_key(name);
            if known && stages.contains_key(name) {
                problems.push(problem(id, field, format!("`{name}` names both a model and a stage"), None));
            } else if !known && !trains(name) {
                let models = spec.file.models.keys().chain(stages.keys().filter(|id| trains(id)));
                let models: Vec<&str> = models.map(String::as_str).collect();
                let message = format!("`{name}` is neither a model nor a `train` stage");
                problems.push(problem(id, field, message, Some(suggest(name, &models))));
            }
        }
    }
    let mut waiting = spec.order.clone();
    while !waiting.is_empty() {
        let ready = |id: &String| uses(id).iter().all(|name| sorted.contains(name));
        let Some(next) = waiting.iter().position(ready) else {
            let message = format!("these stages depend on each other: {}", waiting.join(", "));
            problems.push(problem(&waiting[0], "", message, None));
            break;
        };
        sorted.push(waiting.remove(next));
    }
    sorted
}
