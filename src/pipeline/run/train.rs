//! Runs a `train` stage: its model, a stream of its rows, and the counts of what the rows met on their way.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use arrow::array::RecordBatch;
use serde_json::json;
use tracing::warn;

use super::Run;
use super::balance::balanced;
use super::record::Record;
use super::rows::{conclude, met};
use crate::columns::provenance::Provenance;
use crate::error::{Error, Result};
use crate::io::Claim;
use crate::model::cost::Cost;
use crate::model::save::{self, Card};
use crate::model::{CausalLm, Precision, Room, WeightFormat, on_device};
use crate::pipeline::estimate::batch_tokens;
use crate::pipeline::flow::Flow;
use crate::pipeline::plan::Node;
use crate::pipeline::rejects::Folder;
use crate::pipeline::report::{Reports, StageReport, add};
use crate::stages::positions::{Fitting, Reads};
use crate::stages::train::Train;
use crate::train::example::Wanted;
use crate::train::stream::Source;
use crate::train::{Example, Feed, Job, Settings, Trained, stream};

impl Run<'_> {
    pub(super) fn train(&mut self, node: &Node, train: &Train) -> Result<()> {
        if self.is_trained(&node.id)? {
            return Ok(());
        }
        let lease = self.lease(&node.id)?;
        // Whoever held it before may have trained the model.
        if self.is_trained(&node.id)? {
            return Ok(());
        }
        self.refuse_foreign_model(&node.id, train.overwrite)?;
        let (feed, mut passed) = self.feed(node, train)?;
        self.loads(node)?;
        let start = Instant::now();
        let source = self.model(&train.model)?;
        let device = self.plan.device.open()?.autodiff();
        let precision = CausalLm::training_arithmetic(self.plan.device, train.precision())?;
        if precision != train.precision() {
            warn!(
                "stage `{}`: no training in `{}` on `{}`; it is in f32",
                node.id,
                train.precision(),
                self.plan.device
            );
        }
        let format = match precision {
            Precision::Bf16 => WeightFormat::Bf16,
            _ => WeightFormat::Plain,
        };
        let model = on_device(self.plan.device, || match &train.lora {
            Some(lora) => CausalLm::adapted(&source, lora, self.plan.seed, format, &device),
            None => CausalLm::load(&source, &device),
        })?;
        let needs = train.objective.formula().needs();
        let reference = match &train.reference {
            Some(reference) if needs.live_reference() => {
                Some(CausalLm::open(&self.model(reference)?, self.plan.device, precision)?.0)
            }
            _ => None,
        };
        let tokens = batch_tokens(self.plan, node, self.plan.device, train.batch_tokens)?;
        let load_seconds = start.elapsed().as_secs_f64();
        if needs.stored_reference() {
            self.refuse_another_reference(node, &feed.input.flow, train.reference.as_ref().unwrap_or(&train.model))?;
        }
        let logs = self.workdir.at.join(&format!("logs/{}", self.kept_name(&node.id)));
        let log = Claim { folder: logs, ..self.claim("checkpoints", node) };
        let checkpoints = train.checkpoint.open(self.claim("checkpoints", node));
        let job = Job {
            name: &node.id,
            spec: self.plan.device,
            device: &device,
            room: &Room::new(self.plan.device, tokens),
            settings: &Settings { precision, ..train.settings(self.plan.seed) },
            reference: reference.as_ref(),
            feed: &feed,
            checkpoints: &checkpoints,
            cost: Some(Cost::of(&source.describe()?.sizes)),
            log: &log,
            monitor: self.monitor,
        };
        let Trained { model, metrics, seconds } = job.run(model)?;
        let card = Card {
            objective: json!(train.objective),
            data: format!("{} rows of `{}` in {}", feed.examples, train.input, self.file_name()),
            base: self.plan.hub_base(&train.model),
        };
        conclude(&mut passed, self.plan)?;
        for rows in feed.held_out.iter().map(|(rows, _)| rows).chain([&feed.input]) {
            self.unchanged(&rows.flow, [node])?;
        }
        lease.held()?;
        let model = self.keep(node, train.overwrite, |folder| match &train.lora {
            Some(lora) => save::adapted(model, &source, lora, &card, folder),
            None => save::whole(&model, &source, Some(&card), folder),
        })?;
        let report = StageReport { seconds, load_seconds, metrics, ..StageReport::default() };
        let record = Record { model: Some(model), ..self.conclude(&node.id, report, passed) };
        self.finish(&node.id, record)?;
        checkpoints.clear()
    }

    /// The rows to train on, counted, with those that are held out; and what the stages on their way did.
    fn feed<'t>(&self, node: &Node, train: &'t Train) -> Result<(Rows<'t>, Reports)> {
        let rejects = Folder::new(self.claim("rejects", node));
        let counted = |input: &str, id: &str, rejects: Folder| -> Result<_> {
            let mut flow = self.flow(input)?.0;
            flow.end = Some((id.to_owned(), Fitting { reads: Reads::Pairs, positions: self.plan.positions(node)? }));
            Ok(Arc::new(Counted { flow, rejects, seen: Mutex::default() }))
        };
        let input = counted(&train.input, &node.id, rejects.clone())?;
        // Where `max_steps` is few, most of a large dataset need not be counted.
        let most = train.max_steps.map(|steps| steps.saturating_mul(train.batch_size as u64));
        let examples = input.count(most.map(|most| most.div_ceil(u64::from(train.epochs.max(1)))))?;
        let mut passed = input.reports();
        let mut held_out = None;
        if let Some(eval) = &train.eval {
            let columns = &self.plan.node(&eval.input).expect("the plan resolved the name").columns;
            let rows = counted(&eval.input, &format!("{}.eval", node.id), rejects.of("eval"))?;
            rows.count(None)?;
            for (id, report) in rows.reports() {
                passed.entry(id).or_insert(report);
            }
            held_out = Some((rows, train.wanted(columns)));
        }
        self.some_rows(&passed, rejects.at())?;
        let wanted = train.wanted(&node.columns);
        Ok((Rows { input, examples, wanted, held_out, train, seed: self.plan.seed }, passed))
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
    /// Its rows that can be trained on.
    examples: u64,
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
        self.examples
    }
}

/// A flow that is read epoch after epoch, and counted the first time that a unit was read to its end.
struct Counted {
    flow: Flow,
    rejects: Folder,
    seen: Mutex<ReadUnits>,
}

/// What the stages on the way did over the units that were read to their end.
#[derive(Default)]
struct ReadUnits {
    units: BTreeSet<usize>,
    reports: Reports,
}

impl Counted {
    /// Rows that come out of the flow: all of them, or those of the first units that have `enough`.
    fn count(&self, enough: Option<u64>) -> Result<u64> {
        let mut rows = 0;
        for unit in 0..self.units() {
            if enough.is_some_and(|enough| rows >= enough) {
                break;
            }
            self.read(unit, &mut |batch| {
                rows += batch.num_rows() as u64;
                true
            })?;
        }
        let mut reports = self.reports();
        let way = self.flow.way(self.flow.steps().into_iter().map(|step| step.id));
        met(&mut reports, &way);
        balanced(&reports, &way, None, Some(rows))?;
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).reports = reports;
        Ok(rows)
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
        let passed = self.flow.run(unit, &self.reports(), &mut self.flow.steps(), &mut |batch| {
            whole = take(batch);
            Ok(whole)
        })?;
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if whole && !seen.units.contains(&unit) {
            passed.keep_rejects(&self.rejects, unit, self.flow.units.len())?;
            seen.units.insert(unit);
            add(&mut seen.reports, &passed.reports);
        }
        Ok(())
    }
}
