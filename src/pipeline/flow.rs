//! Rows on their way: a source, in units, and the transforms that they pass through.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::RecordBatch;

use super::plan::Node;
use super::rejects::{Folder, Rejects, TooMany};
use super::report::Reports;
use super::step::{Applied, Step, Submitted};
use crate::error::{Error, Result};
use crate::io::{Chunk, Dataset, Unit, prefetch};
use crate::stages::positions::Fitting;
use crate::stages::read::Reader;
use crate::stages::{Derived, Shape};

/// Rows of a batch: what a forward pass sorts by length, what is decoded at a time.
const BATCH_ROWS: usize = 256;

/// Rows of a dataset, in units, read and then derived.
#[derive(Clone)]
pub(super) struct Flow {
    /// The files.
    pub(super) dataset: Dataset,
    /// How source rows are read, and the stage that reads them; none for data that the run itself materialised.
    pub(super) reader: Option<(String, Arc<Reader>)>,
    /// Units with the number of rows to take of each, after filtering.
    pub(super) units: Vec<(Unit, u64)>,
    /// Rows that come out, as far as is known before they are read.
    pub(super) rows: u64,
    /// Stages that derive columns on the way.
    pub(super) derived: Vec<(String, Arc<dyn Derived>)>,
    /// The stage whose models take the rows that fit them, where rows are read again and again.
    pub(super) end: Option<(String, Fitting)>,
    /// The share of a stage's rows from which on a unit is given up.
    pub(super) max_reject_share: f64,
}

/// What a unit's pass leaves beside its rows.
#[derive(Default)]
pub(super) struct Passed {
    pub(super) reports: Reports,
    /// Rows of the files that were read, and those of them that the source's filters left.
    pub(super) filtered: [u64; 2],
    /// Rows set aside.
    rejects: Rejects,
    /// A stage that set too many aside, for which the pass ended early.
    pub(super) too_many: Option<TooMany>,
}

impl Passed {
    /// Counts what became of `batch`, and returns the rows that go on.
    fn add(&mut self, stage: &str, batch: &RecordBatch, applied: Applied) -> RecordBatch {
        let Applied { outcome, counted, seconds } = applied;
        self.count(stage, seconds, batch, outcome.kept.num_rows(), &outcome.set_aside);
        self.reports.entry(stage.to_owned()).or_default().add_metrics(&counted);
        outcome.kept
    }

    fn count(
        &mut self,
        stage: &str,
        seconds: f64,
        batch: &RecordBatch,
        rows_out: usize,
        set_aside: &[(usize, &'static str)],
    ) {
        let report = self.reports.entry(stage.to_owned()).or_default();
        report.seconds += seconds;
        report.rows_in += batch.num_rows() as u64;
        report.rows_out += rows_out as u64;
        for (row, reason) in set_aside {
            *report.set_aside.entry((*reason).to_owned()).or_default() += 1;
            self.rejects.add(stage, reason, batch, *row);
        }
    }

    /// Keeps the rows of `unit`, of `units`, that were set aside in `folder`, if there are any.
    ///
    /// # Errors
    /// Too many of them; a store that fails.
    pub(super) fn keep_rejects(&self, folder: &Folder, unit: usize, units: usize) -> Result<()> {
        if !self.rejects.is_empty() {
            self.rejects.write(&folder.file(unit, units)?)?;
        }
        self.too_many.as_ref().map_or(Ok(()), |too_many| Err(too_many.error(folder.at())))
    }
}

impl Flow {
    /// The rows of a `read` stage.
    pub(super) fn source(node: &Node) -> Result<Self> {
        let (Shape::Source(read), Some(dataset)) = (node.shape(), &node.dataset) else {
            return Err(Error::stage(&node.id, format!("`{}` has no files", node.operation().name())));
        };
        let reader = read.open(dataset.schema())?;
        let mut dataset = dataset.clone();
        dataset.prune(&reader.bounds())?;
        if let Some(wanted) = reader.wanted(dataset.schema()) {
            dataset.project(&wanted);
        }
        let mut flow = Self::whole(dataset);
        let changes_rows = reader.changes_rows();
        flow.reader = Some((node.id.clone(), Arc::new(reader)));
        if let Some(mut left) = read.limit {
            flow.rows = flow.rows.min(left);
            let mut units = std::mem::take(&mut flow.units);
            for (unit, take) in &mut units {
                let rows = if changes_rows && left > 0 { flow.count(unit)? } else { unit.rows };
                *take = rows.min(left);
                left -= *take;
            }
            units.retain(|(_, take)| *take > 0);
            flow.units = units;
        }
        Ok(flow)
    }

    /// Rows that are taken as they are.
    pub(super) fn whole(dataset: Dataset) -> Self {
        let units = dataset.units().into_iter().map(|unit| (unit, u64::MAX)).collect();
        let (rows, derived) = (dataset.rows(), Vec::new());
        Self { rows, dataset, reader: None, units, derived, end: None, max_reject_share: 1.0 }
    }

    /// Rows that unit `index` gives at most, unless the reader makes several of one.
    pub(super) fn most(&self, index: usize) -> u64 {
        let (unit, take) = &self.units[index];
        unit.rows.min(*take)
    }

    /// Rows of `unit` that the reader's filters leave.
    fn count(&self, unit: &Unit) -> Result<u64> {
        let mut rows = 0;
        for chunk in self.dataset.read(unit, BATCH_ROWS)? {
            let (_, reader) = self.reader.as_ref().expect("a source has a reader");
            rows += reader.apply(&self.dataset.file(unit).to_string(), chunk?)?.0.num_rows() as u64;
        }
        Ok(rows)
    }

    /// The transforms that every pass over this flow begins with.
    pub(super) fn steps(&self) -> Vec<Step> {
        let derived = self.derived.iter().map(|(id, stage)| Step::new(id, stage.open()));
        derived.chain(self.end.iter().map(|(id, fitting)| Step::new(id, Box::new(fitting.clone())))).collect()
    }

    /// The stages that count the rows of a pass through `steps`, in order.
    pub(super) fn way(&self, steps: impl IntoIterator<Item = String>) -> Vec<String> {
        self.reader.iter().map(|(id, _)| id.clone()).chain(steps).collect()
    }

    /// The rows of the source that `chunk` of `file` gives, at most `left`, which becomes less.
    fn source_rows(&self, file: &str, chunk: Chunk, left: &mut u64, passed: &mut Passed) -> Result<RecordBatch> {
        let Some((id, reader)) = &self.reader else { return Ok(chunk.batch) };
        let (start, read) = (Instant::now(), chunk.batch.num_rows());
        let (seen, outcome) = reader.apply(file, chunk)?;
        passed.filtered[0] += read as u64;
        passed.filtered[1] += seen.num_rows() as u64;
        let taken = (*left).min(seen.num_rows() as u64) as usize;
        *left -= taken as u64;
        // The limit counts rows before they are sorted out.
        let set_aside: Vec<_> = outcome.set_aside.into_iter().filter(|(row, _)| *row < taken).collect();
        let kept = outcome.kept.slice(0, taken - set_aside.len());
        passed.count(id, start.elapsed().as_secs_f64(), &seen.slice(0, taken), kept.num_rows(), &set_aside);
        Ok(kept)
    }

    /// Runs unit `index` through `steps`; `take` gets the rows in their order and says whether it wants more. `before` is what the
    /// units before this one counted.
    pub(super) fn run(
        &self,
        index: usize,
        before: &Reports,
        steps: &mut [Step],
        take: &mut dyn FnMut(RecordBatch) -> Result<bool>,
    ) -> Result<Passed> {
        let (unit, mut left) = self.units[index].clone();
        let file = self.dataset.file(&unit).to_string();
        let (mut passed, mut ahead) = (Passed::default(), Ahead::default());
        self.dataset.unchanged(&unit)?;
        let mut chunks = prefetch(self.dataset.read(&unit, BATCH_ROWS)?);
        let mut is_wanted = true;
        while is_wanted {
            let next = if left == 0 { None } else { chunks.next() };
            let is_last = next.is_none();
            if let Some(chunk) = next {
                let mut batch = self.source_rows(&file, chunk?, &mut left, &mut passed)?;
                if let Some((last, first)) = steps.split_last_mut() {
                    for step in first {
                        let applied = step.apply(batch.clone())?;
                        batch = passed.add(&step.id, &batch, applied);
                    }
                    ahead.0.push_back((batch.clone(), last.submit(batch)));
                } else {
                    is_wanted = batch.num_rows() == 0 || take(batch)?;
                }
            }
            if let Some(last) = steps.last() {
                let most = if is_last { 0 } else { last.ahead() };
                while is_wanted && let Some(batch) = ahead.next(most, last, &mut passed)? {
                    is_wanted = batch.num_rows() == 0 || take(batch)?;
                }
            }
            passed.too_many = TooMany::find(before, &passed.reports, self.max_reject_share);
            is_wanted &= !is_last && passed.too_many.is_none();
        }
        // Rows of another version must not be kept.
        self.dataset.unchanged(&unit)?;
        for step in steps {
            // Also where no row came by.
            passed.reports.entry(step.id.clone()).or_default().add_metrics(&step.counted());
        }
        Ok(passed)
    }
}

/// Batches that the last step of a pass has not given back yet, in their order.
#[derive(Default)]
struct Ahead(VecDeque<(RecordBatch, Submitted)>);

impl Ahead {
    /// The rows that go on of the first of more than `most` batches that `step` has.
    fn next(&mut self, most: usize, step: &Step, passed: &mut Passed) -> Result<Option<RecordBatch>> {
        if self.0.len() <= most {
            return Ok(None);
        }
        let Some((batch, submitted)) = self.0.pop_front() else { return Ok(None) };
        let applied = step.result(&submitted)?;
        Ok(Some(passed.add(&step.id, &batch, applied)))
    }
}
