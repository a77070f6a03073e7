//! Runs a plan: every stage whose result is not there yet, in order.
//!
//! ```text
//! workdir/data/<id>-<fingerprint>/part-*.parquet, manifest.json   rows of `tokenize`, `score`, `generate`
//! workdir/rejects/<id>-<fingerprint>/part-*.parquet               rows set aside on the way there
//! workdir/models/<id>/                                            what `train` made, and metrics beside it
//! workdir/checkpoints/<id>-<fingerprint>/step-*                  where a training that was stopped goes on
//! workdir/results/<id>.json                                       what any other stage said
//! ```
//!
//! A fingerprint covers a stage's settings and everything before it. A part appears whole, so whoever finds one skips it.
//! Where the variants of a sweep share the workdir, models and results have fingerprints in their names, too.

mod balance;
mod exact;
mod kept;
mod parts;
mod record;
mod rows;
mod share;
mod terminal;
mod train;
mod trained;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use super::plan::{Node, Plan};
use super::report::Report;
use crate::error::{Error, Result};
use crate::io::Location;
use crate::model::{ModelSource, Tokenizer};
use crate::monitor::Monitor;
use crate::stages::Stage;

pub use kept::{Kept, Orphan, kept, orphans};
pub use share::{Share, Work};

/// What a run may be told.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Forget what earlier runs left.
    pub fresh: bool,
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

/// Runs `plan`.
pub fn run(plan: &Plan, name: &str, options: &Options, monitor: &dyn Monitor) -> Result<Report> {
    if options.fresh {
        let workdir = plan.stores.locate(&plan.workdir)?;
        for kept in ["data", "rejects", "checkpoints", "models", "results"] {
            workdir.join(kept).delete_all()?;
        }
    }
    let mut run = Run::prepare(plan, options, monitor)?;
    run.report.pipeline = name.to_owned();
    for node in plan.nodes.iter().filter(|node| run.prints.contains_key(&node.id)).collect::<Vec<_>>() {
        if monitor.stopping() {
            return Err(Error::Interrupted);
        }
        if let Progress::Waiting(why) = run.stage(node).map_err(|error| error.in_stage(&node.id))? {
            run.report.waiting = Some(why);
            break;
        }
    }
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

struct Run<'a> {
    plan: &'a Plan,
    workdir: Location,
    monitor: &'a dyn Monitor,
    report: Report,
    prints: BTreeMap<String, String>,
    work: Work,
    /// Materialised stages whose parts were checked.
    sound: RefCell<BTreeSet<String>>,
}

impl<'a> Run<'a> {
    /// A run of `plan` in which nothing was done yet.
    fn prepare(plan: &'a Plan, options: &Options, monitor: &'a dyn Monitor) -> Result<Self> {
        let workdir = plan.stores.locate(&plan.workdir)?;
        let needed = needed(plan, options)?;
        let nodes = || plan.nodes.iter().filter(|node| needed.contains(&node.id));
        let models = nodes().flat_map(|node| node.stage.models());
        plan.fetch_weights(models.map(|(_, name)| name), monitor)?;
        let (report, prints, sound) = (Report::default(), BTreeMap::new(), RefCell::default());
        let mut run = Self { plan, workdir, monitor, report, prints, work: options.work, sound };
        for node in nodes() {
            let print = run.fingerprint(node)?;
            run.prints.insert(node.id.clone(), print);
        }
        Ok(run)
    }

    /// Digest of the stage's settings and of everything that it uses.
    fn fingerprint(&self, node: &Node) -> Result<String> {
        let mut hasher = blake3::Hasher::new();
        let settings = serde_json::to_string(&node.stage).expect("settings are plain data");
        hasher.update(env!("CARGO_PKG_VERSION").as_bytes()).update(settings.as_bytes());
        hasher.update(&self.plan.seed.to_le_bytes());
        if let Some(dataset) = &node.dataset {
            hasher.update(dataset.fingerprint().as_bytes());
        }
        let tokenizer = match &node.stage {
            Stage::Tokenize(tokenize) => Some(self.plan.tokenizer(&tokenize.tokenizer)),
            Stage::Generate(generate) => self.plan.tokenizer_of(generate),
            _ => None,
        };
        if let Some(folder) = tokenizer {
            let tokenizer = Tokenizer::load(&folder)?;
            hasher.update(tokenizer.digest()?.as_bytes());
            let template = node.stage.template().map(|template| template.open(&tokenizer, tokenizer.eos_token()));
            // Ids need no template: whoever does says that there is none.
            let template = template.and_then(Result::ok).map(|template| template.digest());
            hasher.update(template.unwrap_or_default().as_bytes());
        }
        for (_, name) in node.stage.inputs().into_iter().chain(node.stage.models()) {
            let print = match (self.prints.get(name), self.plan.source(name)) {
                (Some(print), _) => print.clone(),
                (None, Some(source)) => source.digest()?,
                (None, None) => String::new(),
            };
            hasher.update(print.as_bytes());
        }
        Ok(hasher.finalize().to_hex().to_string())
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

    /// Where the parts of `node` are, or its rejects.
    fn folder(&self, kind: &str, node: &Node) -> Location {
        self.workdir.join(&format!("{kind}/{}", self.printed(&node.id)))
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
