//! Runs a `train` stage: its model, a stream of its rows, and the counts of what the rows met on their way.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use arrow::array::RecordBatch;
use serde_json::json;

use super::balance::balanced;
use super::parts::name;
use super::rows::conclude;
use super::{Run, Work};
use crate::columns::provenance::Provenance;
use crate::error::{Error, Result};
use crate::io::Location;
use crate::model::cost::Cost;
use crate::model::save::{self, Card};
use crate::model::{CausalLm, Precision};
use crate::pipeline::flow::Flow;
use crate::pipeline::plan::Node;
use crate::pipeline::report::{Reports, StageReport, add};
use crate::stages::train::Train;
use crate::train::example::Wanted;
use crate::train::stream::Source;
use crate::train::{Example, Feed, Job, stream};

impl Run<'_> {
    pub(super) fn train(&mut self, node: &Node, train: &Train) -> Result<()> {
        if self.is_trained(&node.id)? && self.recall(&node.id)? {
            return Ok(());
        }
        if matches!(self.work, Work::Share(_)) {
            let first = format!("training is not shared out; run it once with `--only {}`, then the shares", node.id);
            return Err(Error::stage(&node.id, first));
        }
        let start = Instant::now();
        let source = self.model(&train.model)?;
        let device = self.plan.device.open()?.autodiff();
        let model = match &train.lora {
            Some(lora) => CausalLm::load_adapted(&source, lora, self.plan.seed, &device)?,
            None => CausalLm::load(&source, &device)?,
        };
        let needs = train.objective.formula().needs();
        let reference = match &train.reference {
            Some(reference) if needs.live_reference() => {
                Some(CausalLm::open(&self.model(reference)?, self.plan.device, Precision::F32)?.0)
            }
            _ => None,
        };
        let load_seconds = start.elapsed().as_secs_f64();
        let input = self.flow(&train.input)?.0;
        if needs.stored_reference() {
            self.refuse_another_reference(node, &input, train.reference.as_ref().unwrap_or(&train.model))?;
        }
        let held_out = match &train.eval {
            None => None,
            Some(eval) => {
                let columns = &self.plan.node(&eval.input).expect("the plan resolved the name").columns;
                let flow = Counted::new(self.flow(&eval.input)?.0, self.folder("rejects", node).join("eval"));
                Some((Arc::new(flow), train.wanted(columns)))
            }
        };
        let input = Arc::new(Counted::new(input, self.folder("rejects", node)));
        let wanted = train.wanted(&node.columns);
        let feed = Rows { input: input.clone(), wanted, held_out, train, seed: self.plan.seed };
        let log = self.workdir.join(&format!("logs/{}", self.kept_name(&node.id)));
        let checkpoints = train.checkpoint.open(self.folder("checkpoints", node));
        let job = Job {
            name: &node.id,
            device: &device,
            settings: &train.settings(self.plan.seed),
            reference: reference.as_ref(),
            feed: &feed,
            checkpoints: &checkpoints,
            cost: Some(Cost::of(&source.describe()?.sizes)),
            log: &log,
            monitor: self.monitor,
        };
        let (model, mut metrics) = job.run(model)?;
        let seconds = metrics.remove("seconds").and_then(|seconds| seconds.as_f64()).unwrap_or_default();
        let rows_in = input.flow.rows;
        let card = Card {
            objective: json!(train.objective),
            data: format!("{rows_in} rows of `{}` in {}", train.input, self.report.pipeline),
        };
        self.keep(&node.id, |folder| match &train.lora {
            Some(lora) => save::adapted(model, &source, lora, &card, folder),
            None => save::whole(&model, &source, Some(&card), folder),
        })?;
        let mut passed = input.reports();
        balanced(&passed, &input.flow.way(input.flow.selects.iter().map(|(id, _)| id.clone())), None, None)?;
        conclude(&mut passed, self.plan)?;
        let report = StageReport { rows_in, seconds, load_seconds, metrics, ..StageReport::default() };
        self.finish(&node.id, report, passed, Vec::new())?;
        checkpoints.clear()
    }

    /// The reference's log-probabilities in the rows must be those of the reference that the stage names.
    fn refuse_another_reference(&self, node: &Node, input: &Flow, reference: &str) -> Result<()> {
        let own = self.model(reference)?.digest()?;
        match Provenance::of(input.dataset.schema()).reference {
            Some(found) if found != own => {
                let short = |digest: &str| digest.chars().take(12).collect::<String>();
                let (found, own) = (short(&found), short(&own));
                let message = format!(
                    "the `ref_logps` columns were computed with another model ({found}…) than `{reference}` ({own}…); \
                     name that one as `reference`, or score the rows again"
                );
                Err(Error::stage(&node.id, message))
            }
            _ => Ok(()),
        }
    }
}

/// The rows of a `train` stage.
struct Rows<'a> {
    input: Arc<Counted>,
    wanted: Wanted,
    held_out: Option<(Arc<Counted>, Wanted)>,
    train: &'a Train,
    seed: u64,
}

impl Feed for Rows<'_> {
    fn epoch(&self, epoch: u32) -> Box<dyn Iterator<Item = Result<Example>>> {
        let shuffle = self.train.shuffle(self.seed);
        Box::new(stream::examples(self.input.clone(), self.wanted.clone(), shuffle, epoch))
    }

    fn held_out(&self) -> Option<Box<dyn Iterator<Item = Result<Example>>>> {
        let (flow, wanted) = self.held_out.as_ref()?;
        Some(Box::new(stream::examples(flow.clone(), wanted.clone(), None, 0)))
    }

    fn examples(&self) -> u64 {
        self.input.flow.rows
    }
}

/// A flow that is read epoch after epoch, and counted the first time that a unit was read to its end.
struct Counted {
    flow: Flow,
    rejects: Location,
    seen: Mutex<Seen>,
}

/// What the stages on the way did over the units that were read to their end.
#[derive(Default)]
struct Seen {
    units: BTreeSet<usize>,
    reports: Reports,
}

impl Counted {
    fn new(flow: Flow, rejects: Location) -> Self {
        Self { flow, rejects, seen: Mutex::default() }
    }

    /// What the stages on the way did so far.
    fn reports(&self) -> Reports {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).reports.clone()
    }
}

impl Source for Counted {
    fn units(&self) -> usize {
        self.flow.units.len()
    }

    fn read(&self, unit: usize, take: &mut dyn FnMut(RecordBatch) -> bool) -> Result<()> {
        let mut whole = true;
        let passed = self.flow.run(unit, &self.reports(), &mut self.flow.stations(), &mut |batch| {
            whole = take(batch);
            Ok(whole)
        })?;
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if whole && !seen.units.contains(&unit) {
            passed.keep_rejects(&self.rejects, &format!("{}.parquet", name(unit)))?;
            seen.units.insert(unit);
            add(&mut seen.reports, &passed.reports);
        }
        Ok(())
    }
}
