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
//! workdir/sessions/<mark>.json                                    runs at work, or killed
//! ```
//!
//! A fingerprint covers a stage's settings and everything before it. A part appears whole, so whoever finds one skips it.
//! Where the variants of a sweep share the workdir, models and results have fingerprints in their names, too.

mod balance;
mod exact;
mod kept;
mod parts;
pub mod preflight;
mod record;
mod rows;
mod share;
mod terminal;
mod train;
mod trained;
mod uses;
mod workdir;
mod written;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Instant;

use tracing::warn;

use super::plan::{Node, Plan};
use super::report::Report;
use crate::error::{Error, Result};
use crate::io::lease::{Lease, Wait};
use crate::io::owned::Depth;
use crate::io::{Claim, Location, Owned, Owner, Stamps, session};
use crate::model::ModelSource;
use crate::monitor::Monitor;
use crate::stages::Stage;
use crate::text::Tokenizer;

pub use kept::{Kept, Orphan, Planned, kept, orphans};
pub use share::{Share, Work};
pub use workdir::FOLDERS;
use workdir::Workdir;

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
    pub work: Work,
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

fn needed(plan: &Plan, options: &Options) -> Result<Vec<String>> {
    let Some(only) = &options.only else { return Ok(plan.nodes.iter().map(|node| node.id.clone()).collect()) };
    if plan.node(only).is_none() {
        let ids: Vec<&str> = plan.nodes.iter().map(|node| node.id.as_str()).collect();
        return Err(Error::stage(only, format!("no such stage; there are {}", ids.join(", "))));
    }
    let mut needed = vec![only.clone()];
    let mut at = 0;
    while let Some(node) = needed.get(at).and_then(|id| plan.node(id)) {
        let uses = node.stage.inputs().into_iter().chain(node.stage.models()).map(|(_, name)| name.to_owned());
        let more: Vec<String> = uses.filter(|name| plan.node(name).is_some() && !needed.contains(name)).collect();
        needed.extend(more);
        at += 1;
    }
    Ok(needed)
}

/// What a fingerprint is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    Everything,
    /// Not the content of input files.
    Settings,
}

struct Run<'a> {
    plan: &'a Plan,
    workdir: Workdir,
    /// The pipeline file: its name, and a digest of its path.
    pipeline: String,
    monitor: &'a dyn Monitor,
    report: Report,
    prints: BTreeMap<String, String>,
    /// As `prints`, of the settings without the content of input files.
    recipes: BTreeMap<String, String>,
    work: Work,
    verify: Depth,
    /// Materialised stages and models whose files were compared with their digests.
    sound: RefCell<BTreeSet<String>>,
    /// Models and tokenizers by name, as they were when their digests were taken.
    used: RefCell<BTreeMap<String, Stamps>>,
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
        let models = nodes().flat_map(|node| node.stage.models());
        plan.fetch_weights(models.map(|(_, name)| name), monitor)?;
        let mut run = Self {
            plan,
            workdir,
            pipeline: identity(name),
            monitor,
            report: Report { pipeline: name.to_owned(), ..Report::default() },
            prints: BTreeMap::new(),
            recipes: BTreeMap::new(),
            work: options.work,
            verify: if options.verify { Depth::Digest } else { Depth::Size },
            sound: RefCell::default(),
            used: RefCell::default(),
        };
        for node in nodes() {
            run.stamp(node);
            let print = run.fingerprint(node, Of::Everything)?;
            run.prints.insert(node.id.clone(), print);
            let recipe = run.fingerprint(node, Of::Settings)?;
            run.recipes.insert(node.id.clone(), recipe);
        }
        Ok(run)
    }

    /// Runs the stages that are needed, in order.
    fn all(&mut self, options: &Options) -> Result<()> {
        let plan = self.plan;
        let nodes: Vec<&Node> = plan.nodes.iter().filter(|node| self.prints.contains_key(&node.id)).collect();
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

    /// The folders of its `write` stages.
    fn folders(&self) -> Vec<String> {
        let writes = self.plan.nodes.iter().filter_map(|node| match &node.stage {
            Stage::Write(write) => Some(write.to.clone()),
            _ => None,
        });
        writes.collect()
    }

    /// Digest of the stage's settings and of everything that it uses.
    fn fingerprint(&self, node: &Node, of: Of) -> Result<String> {
        let mut hasher = blake3::Hasher::new();
        let settings = serde_json::to_string(&node.stage).expect("settings are plain data");
        hasher.update(env!("CARGO_PKG_VERSION").as_bytes()).update(settings.as_bytes());
        hasher.update(&self.plan.seed.to_le_bytes());
        let prints = match of {
            Of::Everything => &self.prints,
            Of::Settings => &self.recipes,
        };
        if let Some(dataset) = node.dataset.as_ref().filter(|_| of == Of::Everything) {
            hasher.update(dataset.fingerprint(self.monitor)?.as_bytes());
        }
        if let Some(folder) = self.tokenizer(node) {
            let tokenizer = Tokenizer::load(&folder)?;
            hasher.update(tokenizer.digest()?.as_bytes());
            let template = node.stage.template().map(|template| template.open(&tokenizer, tokenizer.eos_token()));
            // Ids need no template: whoever does says that there is none.
            let template = template.and_then(Result::ok).map(|template| template.digest());
            hasher.update(template.unwrap_or_default().as_bytes());
        }
        for (_, name) in node.stage.inputs().into_iter().chain(node.stage.models()) {
            let print = match (prints.get(name), self.plan.source(name)) {
                (Some(print), _) => print.clone(),
                (None, Some(source)) => source.digest()?,
                (None, None) => String::new(),
            };
            hasher.update(print.as_bytes());
        }
        Ok(hasher.finalize().to_hex().to_string())
    }

    /// The folder of the tokenizer that `node` uses.
    fn tokenizer(&self, node: &Node) -> Option<PathBuf> {
        match &node.stage {
            Stage::Tokenize(tokenize) => Some(self.plan.tokenizer(&tokenize.tokenizer)),
            Stage::Generate(generate) => self.plan.tokenizer_of(generate),
            _ => None,
        }
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
        let is_shared = matches!(node.stage, Stage::Train(_) | Stage::Write(_));
        let _lease = is_shared.then(|| self.lease(&node.id)).transpose()?;
        for kind in ["data", "rejects", "checkpoints"] {
            let folder = self.folder(kind, node);
            if let Some(owned) = Owned::open(folder.clone())?.filter(|owned| owned.owner().workdir == self.workdir.id) {
                let parts = if kind == "data" { self.workdir.parts(&folder)? } else { BTreeMap::new() };
                owned.remove(&parts)?;
            }
        }
        match &node.stage {
            Stage::Train(_) => self.forget_trained(node),
            Stage::Write(_) | Stage::Evaluate(_) | Stage::Audit(_) => self.forget_written(node),
            Stage::Read(_) | Stage::Tokenize(_) | Stage::Score(_) | Stage::Select(_) | Stage::Generate(_) => Ok(()),
        }
    }

    fn stage(&mut self, node: &'a Node) -> Result<Progress> {
        match &node.stage {
            Stage::Read(_) | Stage::Select(_) => return Ok(Progress::Done),
            Stage::Tokenize(_) if self.joins_its_consumer(&node.id) => return Ok(Progress::Done),
            Stage::Tokenize(_) | Stage::Score(_) | Stage::Generate(_) => return self.materialise(node),
            Stage::Train(_) | Stage::Evaluate(_) if self.work == Work::Merge => {
                if !self.recall(&node.id)? {
                    return Ok(Progress::Waiting(format!("stage `{}` is left to `sepo run`", node.id)));
                }
            }
            Stage::Train(train) => self.train(node, train)?,
            Stage::Write(write) => self.write(node, write)?,
            Stage::Evaluate(evaluate) => self.evaluate(node, evaluate)?,
            Stage::Audit(audit) => self.audit(node, audit)?,
        }
        Ok(Progress::Done)
    }

    /// A `tokenize` stage whose rows go into one `score` or `generate` stage and nowhere else runs in the same pass.
    fn joins_its_consumer(&self, id: &str) -> bool {
        let mut consumers = self.plan.consumers(id);
        let joins = consumers.next().is_some_and(|node| matches!(node.stage, Stage::Score(_) | Stage::Generate(_)));
        joins && consumers.next().is_none()
    }

    /// Where the parts of `node` are, or its rejects or checkpoints.
    fn folder(&self, kind: &str, node: &Node) -> Location {
        self.workdir.at.join(&format!("{kind}/{}", self.printed(&node.id)))
    }

    /// The claim to [`Self::folder`].
    fn claim(&self, kind: &str, node: &Node) -> Claim {
        Claim { folder: self.folder(kind, node), owner: self.owner(&node.id), pipeline: self.pipeline.clone() }
    }

    fn owner(&self, id: &str) -> Owner {
        Owner {
            workdir: self.workdir.id.clone(),
            stage: id.to_owned(),
            fingerprint: self.prints[id].clone(),
            recipe: self.recipes[id].clone(),
            inputs: self.inputs(id),
        }
    }

    /// What identifies the content of the files that stage `id` depends on.
    fn inputs(&self, id: &str) -> BTreeMap<String, String> {
        let Some(node) = self.plan.node(id) else { return BTreeMap::new() };
        // The fingerprint was taken before, so that they are known.
        let own = node.dataset.iter().flat_map(|dataset| dataset.identities(self.monitor).unwrap_or_default());
        let uses = node.stage.inputs().into_iter().chain(node.stage.models());
        own.chain(uses.flat_map(|(_, name)| self.inputs(name))).collect()
    }

    /// The id of a stage with its fingerprint.
    fn printed(&self, id: &str) -> String {
        format!("{id}-{}", &self.prints[id][..16])
    }

    /// The name of what is kept of the stage `id` for people to find.
    fn kept_name(&self, id: &str) -> String {
        if self.plan.shared { self.printed(id) } else { id.to_owned() }
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
