//! Rows on their way: a source, in units, and the transforms that they pass through.

use std::sync::Arc;
use std::time::Instant;

use arrow::array::{ArrayRef, RecordBatch, StringArray};

use super::plan::Node;
use super::report::Reports;
use crate::columns::{ROW_ID, row_as_json};
use crate::error::{Error, Place, Result};
use crate::io::{Dataset, FileFormat, Location, Unit, ahead};
use crate::stages::read::Reader;
use crate::stages::select::Select;
use crate::stages::{Stage, Transform};

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
    /// Masks that are derived on the way.
    pub(super) selects: Vec<(String, Select)>,
}

/// A transform at work, with the id of its stage.
pub(super) struct Station {
    pub(super) id: String,
    pub(super) work: Box<dyn Transform>,
}

impl Station {
    pub(super) fn new(id: &str, work: Box<dyn Transform>) -> Self {
        Self { id: id.to_owned(), work }
    }
}

/// What a unit's pass leaves beside its rows.
#[derive(Default)]
pub(super) struct Passed {
    pub(super) reports: Reports,
    /// Rows set aside: stage, reason, row id, row as JSON.
    pub(super) rejects: Vec<[String; 4]>,
}

impl Passed {
    fn count(
        &mut self,
        stage: &str,
        start: Instant,
        batch: &RecordBatch,
        rows_out: usize,
        set_aside: &[(usize, &'static str)],
    ) {
        let report = self.reports.entry(stage.to_owned()).or_default();
        report.seconds += start.elapsed().as_secs_f64();
        report.rows_in += batch.num_rows() as u64;
        report.rows_out += rows_out as u64;
        for (row, reason) in set_aside {
            *report.set_aside.entry((*reason).to_owned()).or_default() += 1;
            let row = batch.slice(*row, 1);
            let id = crate::columns::row_id(&row).unwrap_or_default();
            self.rejects.push([stage.to_owned(), (*reason).to_owned(), id, row_as_json(&row)]);
        }
    }

    /// Writes the rejects, where there are any, as the columns `row_id`, `stage`, `reason`, `row`.
    pub(super) fn write_rejects(&self, to: &Location) -> Result<()> {
        if self.rejects.is_empty() {
            return Ok(());
        }
        let column = |index: usize| -> ArrayRef {
            Arc::new(StringArray::from_iter_values(self.rejects.iter().map(|reject| &reject[index])))
        };
        let columns = [(ROW_ID, column(2)), ("stage", column(0)), ("reason", column(1)), ("row", column(3))];
        let rows = RecordBatch::try_from_iter(columns).map_err(|error| Error::data(Place::file(to), error))?;
        let mut writer = FileFormat::Parquet.create(to, &rows.schema())?;
        writer.write(&rows)?;
        writer.finish().map(drop)
    }
}

impl Flow {
    /// The rows of a `read` stage.
    pub(super) fn source(node: &Node) -> Result<Self> {
        let (Stage::Read(read), Some(dataset)) = (&node.stage, &node.dataset) else {
            return Err(Error::stage(&node.id, format!("`{}` has no files", node.stage.name())));
        };
        let reader = read.open(dataset.schema())?;
        let mut dataset = dataset.clone();
        dataset.prune(&reader.bounds());
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
        Self { rows: dataset.rows(), dataset, reader: None, units, selects: Vec::new() }
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
    pub(super) fn stations(&self) -> Vec<Station> {
        self.selects.iter().map(|(id, select)| Station::new(id, select.open())).collect()
    }

    /// Runs unit `index` through `stations`; `take` gets the rows and says whether it wants more.
    pub(super) fn run(
        &self,
        index: usize,
        stations: &mut [Station],
        take: &mut dyn FnMut(RecordBatch) -> Result<bool>,
    ) -> Result<Passed> {
        let (unit, mut left) = self.units[index].clone();
        let file = self.dataset.file(&unit).to_string();
        let mut passed = Passed::default();
        for chunk in ahead(self.dataset.read(&unit, BATCH_ROWS)?) {
            let chunk = chunk?;
            let mut batch = match &self.reader {
                None => chunk.batch,
                Some((id, reader)) => {
                    let start = Instant::now();
                    let (seen, outcome) = reader.apply(&file, chunk)?;
                    let taken = left.min(seen.num_rows() as u64) as usize;
                    left -= taken as u64;
                    // The limit counts rows before they are sorted out.
                    let set_aside: Vec<_> = outcome.set_aside.into_iter().filter(|(row, _)| *row < taken).collect();
                    let kept = outcome.kept.slice(0, taken - set_aside.len());
                    passed.count(id, start, &seen.slice(0, taken), kept.num_rows(), &set_aside);
                    kept
                }
            };
            for station in stations.iter_mut() {
                let before = batch.clone();
                let start = Instant::now();
                let outcome = station.work.apply(batch).map_err(|error| error.in_stage(&station.id))?;
                passed.count(&station.id, start, &before, outcome.kept.num_rows(), &outcome.set_aside);
                batch = outcome.kept;
            }
            if batch.num_rows() > 0 && !take(batch)? || left == 0 {
                break;
            }
        }
        for station in stations {
            let report = passed.reports.entry(station.id.clone()).or_default();
            report.metrics = station.work.counted();
        }
        Ok(passed)
    }
}
