//! Rows set aside: kept with their reasons, and counted against the share from which on a run goes wrong.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};

use super::plan::Node;
use super::report::{Reports, StageReport};
use crate::columns::{ROW_ID, row_as_json, row_id};
use crate::error::{Error, Place, Result};
use crate::io::owned::numbered;
use crate::io::{Claim, FileFormat, Location};

/// Rows of a stage before their share says anything.
const ENOUGH: u64 = 1000;

/// The folder of a stage's rows set aside, which is made for the first of them. It has one file for each unit with such
/// rows.
#[derive(Debug, Clone)]
pub(super) struct Folder {
    claim: Claim,
    ending: String,
}

impl Folder {
    /// The folder of `claim`.
    pub(super) fn new(claim: Claim) -> Self {
        Self { claim, ending: ".parquet".to_owned() }
    }

    /// The same folder with files of their own for the rows of `input`.
    pub(super) fn of(&self, input: &str) -> Self {
        Self { ending: format!(".{input}.parquet"), ..self.clone() }
    }

    /// Where it is.
    pub(super) fn at(&self) -> &Location {
        &self.claim.folder
    }

    /// The file for the rows of `unit`, of `units`.
    pub(super) fn file(&self, unit: usize, units: usize) -> Result<Location> {
        let mut folder = self.claim.open()?;
        folder.expect_numbered(units, &self.ending)?;
        Ok(folder.folder().join(&numbered(unit, &self.ending)))
    }
}

/// Rows that were set aside: stage, reason, row id, row as JSON.
#[derive(Default)]
pub(super) struct Rejects(Vec<[String; 4]>);

impl Rejects {
    /// Takes up row `row` of `batch`.
    pub(super) fn add(&mut self, stage: &str, reason: &str, batch: &RecordBatch, row: usize) {
        let row = batch.slice(row, 1);
        let id = row_id(&row).unwrap_or_default();
        self.0.push([stage.to_owned(), reason.to_owned(), id, row_as_json(&row)]);
    }

    /// Whether no row was set aside.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Writes the rows as the columns `row_id`, `stage`, `reason`, `row`.
    pub(super) fn write(&self, to: &Location) -> Result<()> {
        let column = |index: usize| -> ArrayRef {
            Arc::new(StringArray::from_iter_values(self.0.iter().map(|reject| &reject[index])))
        };
        let columns = [(ROW_ID, column(2)), ("stage", column(0)), ("reason", column(1)), ("row", column(3))];
        let rows = RecordBatch::try_from_iter(columns).map_err(|error| Error::data(Place::file(to), error))?;
        let mut writer = FileFormat::Parquet.create(to, &rows.schema())?;
        writer.write(&rows)?;
        writer.finish().map(drop)
    }
}

/// A stage that sets too many rows aside.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooMany {
    stage: String,
    message: String,
}

impl TooMany {
    /// A stage that, over what `before` and `now` count, set aside more than `most` of at least [`ENOUGH`] rows.
    pub(super) fn find(before: &Reports, now: &Reports, most: f64) -> Option<Self> {
        now.iter().find_map(|(stage, report)| {
            let earlier = before.get(stage);
            let rows = report.rows_in + earlier.map_or(0, |earlier| earlier.rows_in);
            let mut reasons: BTreeMap<&str, u64> = BTreeMap::new();
            for (reason, count) in report.set_aside.iter().chain(earlier.iter().flat_map(|earlier| &earlier.set_aside))
            {
                *reasons.entry(reason).or_default() += count;
            }
            let aside: u64 = reasons.values().sum();
            if rows < ENOUGH || aside as f64 <= most * rows as f64 {
                return None;
            }
            let reasons = listed(reasons.into_iter());
            let message = format!(
                "{aside} of the first {rows} rows were set aside ({reasons}), more than `max_reject_share: {most}` permits"
            );
            Some(Self { stage: stage.clone(), message })
        })
    }

    /// The error that ends the run, whose rejects lie in `folder`.
    pub(super) fn error(&self, folder: &Location) -> Error {
        let way_out = "inspect them (`sepo inspect`), fix the cause or raise `max_reject_share`, and run again";
        Error::stage(&self.stage, format!("{}; the rows are in {folder}; {way_out}", self.message))
    }
}

/// Reasons with their counts, the most frequent first.
fn listed<'a>(reasons: impl Iterator<Item = (&'a str, u64)>) -> String {
    let mut reasons: Vec<(&str, u64)> = reasons.collect();
    reasons.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let reasons: Vec<String> = reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    reasons.join(", ")
}

/// A stage that no row came out of.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoRows {
    stage: String,
    /// How many came in, and why they were set aside.
    rows: u64,
    reasons: String,
}

impl NoRows {
    /// The first of the stages `nodes`, or of those that only `reports` knows, that gave and used no row.
    pub(super) fn find(nodes: &[Node], reports: &Reports) -> Option<Self> {
        let planned = nodes.iter().filter_map(|node| reports.get_key_value(&node.id));
        let none = |(stage, report): (&String, &StageReport)| {
            let aside: u64 = report.set_aside.values().sum();
            let reasons = listed(report.set_aside.iter().map(|(reason, count)| (reason.as_str(), *count)));
            (report.rows_in == aside).then(|| Self { stage: stage.clone(), rows: report.rows_in, reasons })
        };
        planned.chain(reports).find_map(none)
    }

    /// The error that ends the run, whose rejects lie in `folder`.
    pub(super) fn error(&self, folder: &Location) -> Error {
        let Self { stage, rows, reasons } = self;
        let message = match rows {
            0 => "no row came in: its files hold none, or `where`, `sample` and `split` leave none".to_owned(),
            rows => format!("all {rows} rows that came in were set aside ({reasons}); they are in {folder}"),
        };
        let way_out = "where a result without rows is meant, set `allow_empty: true` at the top of the pipeline file";
        Error::stage(stage, format!("{message}; {way_out}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_counts_from_enough_rows_on_and_over_all_units() {
        let reports = |rows_in: u64, aside: u64| -> Reports {
            let set_aside = [("empty answer".to_owned(), aside)].into();
            [("read".to_owned(), StageReport { rows_in, set_aside, ..StageReport::default() })].into()
        };
        let none = Reports::new();
        assert_eq!(TooMany::find(&none, &reports(999, 999), 0.5), None);
        assert_eq!(TooMany::find(&none, &reports(1000, 500), 0.5), None);
        assert_eq!(TooMany::find(&reports(9000, 0), &reports(1000, 1000), 0.5), None);
        assert_eq!(TooMany::find(&none, &reports(5000, 5000), 1.0), None);
        let found = TooMany::find(&reports(900, 400), &reports(100, 101), 0.5).unwrap();
        assert!(found.message.contains("501 of the first 1000 rows were set aside (501 empty answer)"), "{found:?}");
    }
}
