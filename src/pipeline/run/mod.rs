//! Runs a plan: every stage whose result is not there yet, in order.
//!
//! ```text
//! workdir/sepo-workdir.json                                       marks the workdir
//! workdir/data/<id>-<fingerprint>/part-*.parquet, manifest.json   rows of `tokenize`, `score`, `generate`
//! workdir/rejects/<id>-<fingerprint>/part-*.parquet               rows set aside on the way there
//! workdir/models/<id>/                                            what `train` made
//! workdir/logs/<id>/                                              its metrics
//! workdir/checkpoints/<id>-<fingerprint>/step-*                   where a training that was stopped goes on
//! workdir/results/<id>.json                                       what any other stage said, and the files that it wrote
//! workdir/results/<id>.to.json                                    what of a model is on the hub
//! workdir/uploads/.sepo-*                                         files on their way to the hub
//! workdir/sessions/<mark>.json                                    runs at work, or killed
//! ```
//!
//! A fingerprint covers a stage's settings and everything before it. A part appears whole, so whoever finds one skips it.
//! Where the variants of a sweep share the workdir, models and results have fingerprints in their names, too.

mod balance;
mod kept;
mod materialise;
mod parts;
mod pass;
pub mod preflight;
mod provenance;
mod publish;
mod published;
mod record;
mod rows;
#[cfg(feature = "flight")]
mod served;
mod share;
mod sink;
mod spread;
mod train;
mod trained;
mod uses;
mod workdir;
mod written;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde_json::json;
use tracing::warn;

use super::plan::{Node, Plan};
use super::report::Report;
use crate::error::{Error, Result};
use crate::io::lease::{Lease, Wait};
use crate::io::owned::Depth;
use crate::io::{Claim, Location, Owned, Owner, Stamps, session};
use crate::model::generate::GenerationConfig;
use crate::model::{CausalLm, ModelSource, Precision};
use crate::monitor::{Monitor, Note};
use crate::stages::{Role, Shape};

pub use kept::{KeptFolder, Orphan, kept, orphans};
#[cfg(feature = "flight")]
pub use served::ServedStage;
pub use share::{Assignment, Share};
use workdir::Workdir;
pub use workdir::{FOLDERS, MARKER, UPLOADS};

/// What a run may be told.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Do again what earlier runs did.
    pub fresh: bool,
    /// Compare the digests of all files that earlier runs wrote.
    pub verify: bool,
    /// Run this stage, and what it needs.
    pub only: Option<String>,
    /// The units of work that it does.
    pub assignment: Assignment,
}

/// Whether what comes after a stage can run.
#[derive(Debug, PartialEq, Eq)]
enum Progress {
    Done,
    /// Other shares of the stage's units are not there yet.
    Waiting(String),
}

/// Runs `plan`, which comes from the pipeline file `name`.
///
/// # Errors
/// A workdir that cannot be one; whatever a stage says; inputs that changed during the run.
pub fn run(plan: &Plan, name: &str, options: &Options, monitor: &dyn Monitor) -> Result<Report> {
    let workdir = Workdir::open(plan.stores.locate(&plan.workdir)?)?;
    let mut run = Run::prepare(plan, workdir, name, options, monitor)?;
    run.workdir.begin(&run.pipeline, run.folders())?;
    run.all(options)?;
    // A run that failed may have left something unfinished; its session says where.
    run.workdir.end(session::mark())?;
    Ok(run.report)
}

fn has_models(node: &Node) -> bool {
    !node.operation().models().is_empty()
}

/// What `mutex` holds, whoever panicked with it.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn needed(plan: &Plan, options: &Options) -> Result<Vec<String>> {
    let Some(only) = &options.only else { return Ok(plan.nodes.iter().map(|node| node.id.clone()).collect()) };
    if plan.node(only).is_none() {
        let ids: Vec<&str> = plan.nodes.iter().map(|node| node.id.as_str()).collect();
        return Err(Error::stage(only, format!("no such stage; the stages are {}", ids.join(", "))));
    }
    let mut needed = vec![only.clone()];
    let mut at = 0;
    while let Some(node) = needed.get(at).and_then(|id| plan.node(id)) {
        let uses = node.operation().uses().into_iter().map(|(_, name)| name.to_owned());
        let more: Vec<String> = uses.filter(|name| plan.node(name).is_some() && !needed.contains(name)).collect();
        needed.extend(more);
        at += 1;
    }
    Ok(needed)
}

/// What a fingerprint is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of<'a> {
    /// Settings, the content of input files, and the numbers that the stage's frozen models compute in.
    Everything(&'a [Precision]),
    Settings,
}

struct Run<'a> {
    plan: &'a Plan,
    workdir: Workdir,
    /// The pipeline file: its name, and a digest of its path.
    pipeline: String,
    monitor: &'a dyn Monitor,
    report: Report,
    fingerprints: BTreeMap<String, String>,
    /// As `fingerprints`, of the settings without the content of input files.
    recipes: BTreeMap<String, String>,
    assignment: Assignment,
    verify: Depth,
    /// Materialised stages and models whose files were compared with their digests.
    sound: Mutex<BTreeSet<String>>,
    /// Models and tokenizers by name, as they were when their digests were taken.
    used: Mutex<BTreeMap<String, Stamps>>,
}

impl<'a> Run<'a> {
    /// A run of `plan` in which nothing was done yet.
    fn prepare(
        plan: &'a Plan,
        workdir: Workdir,
        name: &str,
        options: &Options,
        monitor: &'a dyn Monitor,
    ) -> Result<Self> {
        let needed = needed(plan, options)?;
        let nodes = || plan.nodes.iter().filter(|node| needed.contains(&node.id));
        let models = nodes().flat_map(|node| node.operation().models());
        plan.fetch_weights(models.map(|model| model.name), monitor)?;
        let mut run = Self {
            plan,
            workdir,
            pipeline: identity(name),
            monitor,
            report: Report { pipeline: name.to_owned(), ..Report::default() },
            fingerprints: BTreeMap::new(),
            recipes: BTreeMap::new(),
            assignment: options.assignment,
            verify: if options.verify { Depth::Digest } else { Depth::Size },
            sound: Mutex::default(),
            used: Mutex::default(),
        };
        for node in nodes() {
            run.stamp(node);
            let fingerprint = run.fingerprint(node, Of::Everything(&run.arithmetic(node)?))?;
            run.fingerprints.insert(node.id.clone(), fingerprint);
            let recipe = run.fingerprint(node, Of::Settings)?;
            run.recipes.insert(node.id.clone(), recipe);
        }
        Ok(run)
    }

    /// Runs the stages that are needed, in order.
    fn all(&mut self, options: &Options) -> Result<()> {
        let plan = self.plan;
        let nodes: Vec<&Node> = plan.nodes.iter().filter(|node| self.fingerprints.contains_key(&node.id)).collect();
        if options.fresh {
            nodes.iter().try_for_each(|node| self.forget(node).map_err(|error| error.in_stage(&node.id)))?;
        }
        for node in nodes {
            if self.monitor.stopping() {
                return Err(Error::Interrupted);
            }
            let start = Instant::now();
            let progress = self.stage(node).map_err(|error| error.in_stage(&node.id))?;
            if let Some(seconds) = self.report.stages.get_mut(&node.id).and_then(|report| report.reused.as_mut()) {
                *seconds = start.elapsed().as_secs_f64();
            }
            if let Progress::Waiting(why) = progress {
                self.report.waiting = Some(why);
                break;
            }
        }
        Ok(())
    }

    /// The folders that its stages write files into.
    fn folders(&self) -> Vec<String> {
        self.plan.nodes.iter().filter_map(|node| Some(node.destination()?.folder().to_owned())).collect()
    }

    /// Digest of the stage's settings and of everything that it uses.
    fn fingerprint(&self, node: &Node, of: Of) -> Result<String> {
        let (operation, mut hasher) = (node.operation(), blake3::Hasher::new());
        let mut settings = operation.fingerprint();
        // A struct's fields may change places.
        settings.sort_all_objects();
        hasher.update(env!("CARGO_PKG_VERSION").as_bytes());
        hasher.update(operation.name().as_bytes()).update(settings.to_string().as_bytes());
        hasher.update(&self.plan.seed.to_le_bytes());
        let fingerprints = match of {
            Of::Everything(_) => &self.fingerprints,
            Of::Settings => &self.recipes,
        };
        if let Of::Everything(arithmetic) = of {
            hasher.update(json!(arithmetic).to_string().as_bytes());
            if let Some(dataset) = &node.dataset {
                hasher.update(dataset.fingerprint(self.monitor)?.as_bytes());
            }
        }
        if let Some((used, folder)) = operation.tokenizer().zip(self.plan.tokenizer_of(operation)) {
            let tokenizer = self.plan.tokenizers.load(&folder)?;
            hasher.update(tokenizer.digest()?.as_bytes());
            // Ids need no template: whoever does says that there is none.
            let template = used.template.and_then(|choice| choice.open(&tokenizer, tokenizer.eos_token()).ok());
            hasher.update(template.map(|template| template.digest()).unwrap_or_default().as_bytes());
        }
        for (_, name) in operation.uses() {
            let fingerprint = match (fingerprints.get(name), self.plan.source(name)) {
                (Some(fingerprint), _) => fingerprint.clone(),
                (None, Some(source)) if operation.generates() => {
                    self.digests(name, &source)?;
                    format!("{}{}", source.digest()?, json!(GenerationConfig::of(&source)?.entries()))
                }
                (None, Some(source)) => {
                    self.digests(name, &source)?;
                    source.digest()?
                }
                (None, None) => String::new(),
            };
            hasher.update(fingerprint.as_bytes());
        }
        Ok(hasher.finalize().to_hex().to_string())
    }

    /// Tells that the digest of the model `name` is needed.
    fn digests(&self, name: &str, source: &ModelSource) -> Result<()> {
        self.monitor.note(Note::Digests { model: name, bytes: source.bytes()? });
        Ok(())
    }

    /// Tells which models `node` is about to load.
    fn loads(&self, node: &Node) -> Result<()> {
        let models = node.operation().models().into_iter().filter(|model| model.role != Role::Stored);
        for model in models.map(|model| model.name).collect::<BTreeSet<&str>>() {
            let bytes = self.model(model)?.bytes()?;
            self.monitor.note(Note::Loads { stage: &node.id, model, bytes });
        }
        Ok(())
    }

    /// The numbers that the models of `node` compute in on this machine. Training in f32, which every device has, is left out.
    fn arithmetic(&self, node: &Node) -> Result<Vec<Precision>> {
        let device = self.plan.device;
        let roles = node.operation().models().into_iter().map(|model| model.role);
        let in_force = roles.filter_map(|role| match role {
            Role::Frozen(precision) => Some(CausalLm::arithmetic(device, precision)),
            Role::Trained(precision) | Role::Adapted(precision) => {
                let found = CausalLm::training_arithmetic(device, precision);
                (!matches!(found, Ok(Precision::F32))).then_some(found)
            }
            Role::Stored => None,
        });
        in_force.collect()
    }

    /// The lease of what stage `id` makes under a name that all runs share, for one of them at a time.
    fn lease(&self, id: &str) -> Result<Lease> {
        let mut is_first = true;
        let lease = Lease::acquire(&self.workdir.at.join("leases"), &self.kept_name(id), |holder| {
            if std::mem::take(&mut is_first) {
                warn!("stage `{id}` waits for {holder}, which is at it");
            }
            if self.monitor.stopping() { Err(Error::Interrupted) } else { Ok(Wait::On) }
        });
        lease?.ok_or(Error::Interrupted)
    }

    /// Lets `node` be done again: what earlier runs made of it under its present settings goes.
    fn forget(&self, node: &Node) -> Result<()> {
        let makes_files = node.destination().is_some() || node.operation().publication().is_some();
        let is_shared = node.training().is_some() || makes_files;
        let _lease = is_shared.then(|| self.lease(&node.id)).transpose()?;
        for kind in ["data", "rejects", "checkpoints"] {
            let folder = self.folder(kind, node);
            if let Some(owned) = Owned::open(folder.clone())?.filter(|owned| owned.owner().workdir == self.workdir.id) {
                let parts = if kind == "data" { self.workdir.parts(&folder)? } else { BTreeMap::new() };
                owned.remove(&parts)?;
            }
        }
        match node.shape() {
            Shape::Training(_) => self.forget_trained(node),
            Shape::Sink(_) => self.forget_written(node),
            Shape::Source(_) | Shape::Inline(_) | Shape::Materialised(_) => Ok(()),
        }
    }

    fn stage(&mut self, node: &'a Node) -> Result<Progress> {
        match node.shape() {
            Shape::Source(_) | Shape::Inline(_) => return Ok(Progress::Done),
            Shape::Materialised(_) if self.joins_its_consumer(node) => return Ok(Progress::Done),
            Shape::Materialised(_) => return self.materialise(node),
            // No model computes in a merge.
            Shape::Training(_) | Shape::Sink(_) if self.assignment == Assignment::Merge && has_models(node) => {
                if !self.recall(&node.id)? {
                    return Ok(Progress::Waiting(format!("stage `{}` is left to `sepo run`", node.id)));
                }
            }
            Shape::Training(train) => {
                self.train(node, train)?;
                self.publish_model(node)?;
            }
            Shape::Sink(ending) => self.end(node, ending)?,
        }
        Ok(Progress::Done)
    }

    /// A stage without models whose rows go into one stage with models and nowhere else runs in the same pass.
    fn joins_its_consumer(&self, node: &Node) -> bool {
        let mut consumers = self.plan.consumers(&node.id);
        let joins = |consumer: &Node| matches!(consumer.shape(), Shape::Materialised(_)) && has_models(consumer);
        !has_models(node) && consumers.next().is_some_and(joins) && consumers.next().is_none()
    }

    /// Where the parts of `node` are, or its rejects or checkpoints.
    fn folder(&self, kind: &str, node: &Node) -> Location {
        self.workdir.at.join(&format!("{kind}/{}", self.folder_name(&node.id)))
    }

    /// The claim to [`Self::folder`].
    fn claim(&self, kind: &str, node: &Node) -> Claim {
        Claim { folder: self.folder(kind, node), owner: self.owner(&node.id), pipeline: self.pipeline.clone() }
    }

    fn owner(&self, id: &str) -> Owner {
        Owner {
            workdir: self.workdir.id.clone(),
            stage: id.to_owned(),
            fingerprint: self.fingerprints[id].clone(),
            recipe: self.recipes[id].clone(),
            inputs: self.inputs(id),
        }
    }

    /// What identifies the content of the files that stage `id` depends on.
    fn inputs(&self, id: &str) -> BTreeMap<String, String> {
        let Some(node) = self.plan.node(id) else { return BTreeMap::new() };
        // The fingerprint was taken before, so that they are known.
        let own = node.dataset.iter().flat_map(|dataset| dataset.identities(self.monitor).unwrap_or_default());
        let uses = node.operation().uses().into_iter();
        own.chain(uses.flat_map(|(_, name)| self.inputs(name))).collect()
    }

    /// The id of a stage with its fingerprint.
    fn folder_name(&self, id: &str) -> String {
        format!("{id}-{}", &self.fingerprints[id][..16])
    }

    /// The name of what is kept of the stage `id` for people to find.
    fn kept_name(&self, id: &str) -> String {
        if self.plan.shared { self.folder_name(id) } else { id.to_owned() }
    }

    /// The name of the pipeline file without its folder, which means nothing elsewhere.
    fn file_name(&self) -> String {
        let file = std::path::Path::new(&self.report.pipeline).file_name();
        file.map_or_else(|| self.report.pipeline.clone(), |file| file.to_string_lossy().into_owned())
    }

    /// The model `name`: one of the file's, or what a `train` stage made.
    fn model(&self, name: &str) -> Result<ModelSource> {
        match self.plan.source(name) {
            Some(source) => Ok(source),
            None => self.trained(name),
        }
    }
}

/// The folder `tables/<stem>` in the workdir of `plan`, for the sweep of the pipeline file `name`.
///
/// # Errors
/// A folder that sepo did not make; a store that fails.
pub fn tables(plan: &Plan, name: &str, stem: &str) -> Result<Owned> {
    let workdir = Workdir::open(plan.stores.locate(&plan.workdir)?)?;
    let owner = Owner { workdir: workdir.id, stage: "sweep".to_owned(), ..Owner::default() };
    Claim { folder: workdir.at.join(&format!("tables/{stem}")), owner, pipeline: identity(name) }.open()
}

/// What a pipeline file is known by in a workdir: its name, and a digest of its path.
fn identity(name: &str) -> String {
    let path = std::path::Path::new(name);
    let absolute = Location::parse(name).map_or_else(|_| name.to_owned(), |at| at.canonical().to_string());
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    format!("{file}#{}", &blake3::hash(absolute.as_bytes()).to_hex()[..8])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::DeviceSpec;
    use crate::monitor::Silent;
    use crate::pipeline::Spec;

    #[test]
    fn other_numbers_are_another_result_of_the_same_settings() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().display();
        let row = "{\"prompt_ids\": [1], \"chosen_ids\": [2], \"rejected_ids\": [3]}\n";
        std::fs::write(folder.path().join("rows.jsonl"), row).unwrap();
        let text = format!(
            "workdir: {at}/run\nprecision: bf16\nmodels:\n  base:\n    init:\n      {{ model_type: llama, vocab_size: 8, \
             hidden_size: 8, intermediate_size: 8, num_hidden_layers: 1, num_attention_heads: 2, rms_norm_eps: 1.0e-5 }}\n\
             stages:\n  rows: {{ read: {{ from: {at}/rows.jsonl }} }}\n  scored: {{ score: {{ input: rows, reference: base }} }}\n"
        );
        let plan = Plan::new(&Spec::parse(&text, "p.yaml", &[]).unwrap()).unwrap();
        let workdir = Workdir::open(plan.stores.locate(&plan.workdir).unwrap()).unwrap();
        let run = Run::prepare(&plan, workdir, "p.yaml", &Options::default(), &Silent).unwrap();
        let scored = plan.node("scored").unwrap();
        let [in_force] = run.arithmetic(scored).unwrap()[..] else { panic!("one model") };
        assert_eq!(in_force, CausalLm::arithmetic(DeviceSpec::Cpu, Precision::Bf16).unwrap());
        let fingerprint = |precision| run.fingerprint(scored, Of::Everything(&[precision])).unwrap();
        assert_eq!(fingerprint(in_force), run.fingerprints["scored"]);
        assert_ne!(fingerprint(Precision::F32), fingerprint(Precision::Bf16));
        assert_ne!(fingerprint(Precision::Bf16x2), fingerprint(Precision::Bf16));
    }
}
