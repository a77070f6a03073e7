//! Rows on their way: a source, in units, and the transforms that they pass through.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};

use crate::columns::{ROW_ID, row_as_json};
use crate::error::{Error, Place, Result};
use crate::io::{Dataset, Unit};
use crate::stages::Transform;
use crate::stages::read::Reader;
use crate::stages::select::Select;
use crate::train::stream::Source;

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

/// What happened to rows, by stage.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Tally {
    /// Rows that came in.
    pub rows_in: u64,
    /// Rows that went on.
    pub rows_out: u64,
    /// Rows that stopped here, by reason.
    pub set_aside: BTreeMap<String, u64>,
}

impl Tally {
    /// Adds another tally of the same stage.
    pub fn add(&mut self, other: &Self) {
        self.rows_in += other.rows_in;
        self.rows_out += other.rows_out;
        for (reason, count) in &other.set_aside {
            *self.set_aside.entry(reason.clone()).or_default() += count;
        }
    }
}

/// A transform at work, with the id of its stage.
pub(super) struct Station {
    pub(super) id: String,
    pub(super) work: Box<dyn Transform>,
    /// Seconds spent in it.
    pub(super) seconds: f64,
}

impl Station {
    pub(super) fn new(id: &str, work: Box<dyn Transform>) -> Self {
        Self { id: id.to_owned(), work, seconds: 0.0 }
    }
}

/// What a unit's pass leaves beside its rows.
#[derive(Default)]
pub(super) struct Passed {
    pub(super) tallies: BTreeMap<String, Tally>,
    /// Rows set aside: stage, reason, row id, row as JSON.
    pub(super) rejects: Vec<[String; 4]>,
}

impl Passed {
    fn count(&mut self, stage: &str, batch: &RecordBatch, rows_out: usize, set_aside: &[(usize, &'static str)]) {
        let tally = self.tallies.entry(stage.to_owned()).or_default();
        tally.rows_in += batch.num_rows() as u64;
        tally.rows_out += rows_out as u64;
        for (row, reason) in set_aside {
            *tally.set_aside.entry((*reason).to_owned()).or_default() += 1;
            let row = batch.slice(*row, 1);
            let id = crate::columns::row_id(&row).unwrap_or_default();
            self.rejects.push([stage.to_owned(), (*reason).to_owned(), id, row_as_json(&row)]);
        }
    }

    /// The rejects as columns: `row_id`, `stage`, `reason`, `row`.
    pub(super) fn rejected_rows(&self) -> Result<RecordBatch> {
        let column = |index: usize| -> ArrayRef {
            Arc::new(StringArray::from_iter_values(self.rejects.iter().map(|reject| &reject[index])))
        };
        let columns = [(ROW_ID, column(2)), ("stage", column(0)), ("reason", column(1)), ("row", column(3))];
        RecordBatch::try_from_iter(columns).map_err(|error| Error::data(Place::default(), error))
    }
}

impl Flow {
    /// Rows of a source.
    pub(super) fn source(id: &str, dataset: Dataset, reader: Reader, limit: Option<u64>) -> Result<Self> {
        let changes_rows = reader.changes_rows();
        let mut units: Vec<(Unit, u64)> = dataset.units().into_iter().map(|unit| (unit, u64::MAX)).collect();
        let mut flow = Self { rows: dataset.rows(), dataset, reader: None, units: Vec::new(), selects: Vec::new() };
        flow.reader = Some((id.to_owned(), Arc::new(reader)));
        if let Some(mut left) = limit {
            flow.rows = flow.rows.min(left);
            for (unit, take) in &mut units {
                let rows = if changes_rows && left > 0 { flow.count(unit)? } else { unit.rows };
                *take = rows.min(left);
                left -= *take;
            }
            units.retain(|(_, take)| *take > 0);
        }
        flow.units = units;
        Ok(flow)
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
        for chunk in self.dataset.read(&unit, BATCH_ROWS)? {
            let chunk = chunk?;
            let mut batch = match &self.reader {
                None => chunk.batch,
                Some((id, reader)) => {
                    let (seen, outcome) = reader.apply(&file, chunk)?;
                    let taken = left.min(seen.num_rows() as u64) as usize;
                    left -= taken as u64;
                    // The limit counts rows before they are sorted out.
                    let set_aside: Vec<_> = outcome.set_aside.into_iter().filter(|(row, _)| *row < taken).collect();
                    let kept = outcome.kept.slice(0, taken - set_aside.len());
                    passed.count(id, &seen.slice(0, taken), kept.num_rows(), &set_aside);
                    kept
                }
            };
            for station in stations.iter_mut() {
                let before = batch.clone();
                let start = std::time::Instant::now();
                let outcome = station.work.apply(batch).map_err(|error| error.in_stage(&station.id))?;
                station.seconds += start.elapsed().as_secs_f64();
                passed.count(&station.id, &before, outcome.kept.num_rows(), &outcome.set_aside);
                batch = outcome.kept;
            }
            if batch.num_rows() > 0 && !take(batch)? || left == 0 {
                break;
            }
        }
        Ok(passed)
    }
}

impl Source for Flow {
    fn units(&self) -> usize {
        self.units.len()
    }

    fn read(&self, unit: usize, take: &mut dyn FnMut(RecordBatch) -> bool) -> Result<()> {
        self.run(unit, &mut self.stations(), &mut |batch| Ok(take(batch))).map(drop)
    }
}
