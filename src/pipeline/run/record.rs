//! What the workdir remembers of a finished stage.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use serde::{Deserialize, Serialize};
use tracing::warn;

use super::Run;
use super::parts;
use super::workdir::Workdir;
use crate::error::{Error, Result};
use crate::io::{Location, Written};
use crate::monitor::Note;
use crate::pipeline::report::{Reports, StageReport};
use crate::stages::write::card::Part;

/// A finished stage. Found under another fingerprint, it is of other settings and counts as absent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    /// The id of the workdir.
    pub(super) workdir: String,
    /// Empty while the stage is at it: then only the files that it names matter.
    pub(super) fingerprint: String,
    /// What the stage did, and the stages that ran in its pass.
    pub(super) reports: Reports,
    /// Files that the stage wrote outside the workdir's own folders, those of earlier settings included.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) outputs: Vec<Output>,
    /// Parts of a materialised stage.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) parts: Vec<parts::Part>,
    /// The digest of the model that the stage trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) model: Option<String>,
    /// The repository of the hub that the stage uploaded rows to, and what the repository's card says of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) card: Option<(String, Part)>,
}

/// Which run did a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Done {
    Now,
    Earlier,
}

/// A file that a `write` stage made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Output {
    /// Its path, URL or address of the hub in its one spelling.
    pub(super) at: String,
    #[serde(flatten)]
    pub(super) written: Written,
    /// What the file system or store said of it when it was finished; empty before. Of a file on the hub, its digest there.
    pub(super) version: String,
}

impl Record {
    pub(super) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("a record is plain data")
    }

    /// The record at `at`, of whatever settings it is; nothing where there is no record.
    pub(super) fn at(at: &Location) -> Result<Option<Self>> {
        Ok(at.read()?.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }
}

impl Workdir {
    /// The records of all stages without rows, whichever pipeline they are of, by id.
    pub(super) fn records(&self) -> Result<BTreeMap<String, Record>> {
        let mut records = BTreeMap::new();
        for file in self.at.join("results").list()? {
            let id = file.name().trim_end_matches(".json").to_owned();
            records.extend(Record::at(&file)?.filter(|record| record.workdir == self.id).map(|it| (id, it)));
        }
        Ok(records)
    }
}

impl Run<'_> {
    /// What the workdir remembers at `at`, if it is of the stage as it is now.
    pub(super) fn finished(&self, at: &Location, id: &str) -> Result<Option<Record>> {
        Ok(Record::at(at)?.filter(|record| record.fingerprint == self.fingerprints[id]))
    }

    /// Where the record of a stage without rows is.
    pub(super) fn record_of(&self, id: &str) -> Location {
        self.workdir.at.join(&format!("results/{}.json", self.kept_name(id)))
    }

    /// The record of the stage without rows `id`, of whatever settings it is.
    ///
    /// # Errors
    /// A file in its place that is no record of this workdir.
    pub(super) fn recorded(&self, id: &str) -> Result<Option<Record>> {
        let at = self.record_of(id);
        let Some(bytes) = at.read()? else { return Ok(None) };
        let record: Option<Record> = serde_json::from_slice(&bytes).ok();
        let foreign = || {
            let message = "is damaged, or not a record of this workdir; move it away or delete it".to_owned();
            Error::Store { path: at.to_string(), message, retryable: false }
        };
        record.filter(|record| record.workdir == self.workdir.id).map(Some).ok_or_else(foreign)
    }

    /// The records of all stages without rows in this workdir, whichever pipeline they are of, by id.
    pub(super) fn all_recorded(&self) -> Result<BTreeMap<String, Record>> {
        self.workdir.records()
    }

    /// Writes `record` of the stage without rows `id`.
    pub(super) fn record(&self, id: &str, record: &Record) -> Result<()> {
        self.recorded(id)?;
        self.record_of(id).write(record.to_json())
    }

    /// Whether the stage without rows `id` is finished; what is remembered of it goes into the run's report.
    pub(super) fn recall(&mut self, id: &str) -> Result<bool> {
        let Some(record) = self.recorded(id)?.filter(|record| record.fingerprint == self.fingerprints[id]) else {
            return Ok(false);
        };
        self.some_rows(&record.reports, &self.workdir.at.join(&format!("rejects/{}", self.folder_name(id))))?;
        self.remember(record, Done::Earlier);
        Ok(true)
    }

    /// Takes what is remembered of a stage, and of those in its pass, into the run's report.
    pub(super) fn remember(&mut self, record: Record, done: Done) {
        for (stage, report) in record.reports {
            if let Entry::Vacant(place) = self.report.stages.entry(stage) {
                report.warnings.iter().for_each(|warning| warn!("stage `{}`: {warning}", place.key()));
                if done == Done::Earlier {
                    self.monitor.note(Note::Reuses { stage: place.key() });
                }
                place.insert(StageReport { reused: (done == Done::Earlier).then_some(0.0), ..report });
            }
        }
    }

    /// A record of stage `id` as finished; `reports` are those of the stages in its pass, and of the stage itself as far as
    /// rows met it there.
    pub(super) fn conclude(&self, id: &str, report: StageReport, mut reports: Reports) -> Record {
        reports.entry(id.to_owned()).or_default().add(&report);
        Record {
            workdir: self.workdir.id.clone(),
            fingerprint: self.fingerprints[id].clone(),
            reports,
            ..Record::default()
        }
    }

    /// Records a stage without rows as finished.
    pub(super) fn finish(&mut self, id: &str, record: Record) -> Result<()> {
        self.record(id, &record)?;
        self.remember(record, Done::Now);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // A report that is remembered must be the one that was printed. serde_json needs its feature `float_roundtrip` for that.
    #[test]
    fn numbers_come_back_to_the_last_bit() {
        let numbers =
            |seed: u64| f64::from_le_bytes(blake3::hash(&seed.to_le_bytes()).as_bytes()[..8].try_into().unwrap());
        let reports = (0..5000)
            .map(numbers)
            .filter(|number| number.is_finite())
            .enumerate()
            .map(|(index, seconds)| (index.to_string(), StageReport { seconds, ..StageReport::default() }));
        let record = Record { reports: reports.collect(), ..Record::default() };
        assert_eq!(serde_json::from_slice::<Record>(&record.to_json()).unwrap(), record);
    }
}
