//! What the workdir remembers of a finished stage.

use std::collections::btree_map::Entry;

use serde::{Deserialize, Serialize};
use tracing::warn;

use super::Run;
use super::exact::{from_json, to_json};
use super::parts::Part;
use crate::error::Result;
use crate::io::Location;
use crate::pipeline::report::{Reports, StageReport};

/// A finished stage. Found under another fingerprint, it is of other settings and counts as absent.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) fingerprint: String,
    /// What the stage did, and the stages that ran in its pass.
    pub(super) reports: Reports,
    /// Files that it made under their final names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) outputs: Vec<String>,
    /// Parts of a materialised stage.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) parts: Vec<Part>,
}

impl Record {
    pub(super) fn to_json(&self) -> Vec<u8> {
        to_json(self)
    }

    /// The record at `at`, of whatever settings it is; none where there is none, or a damaged one.
    pub(super) fn at(at: &Location) -> Result<Option<Self>> {
        Ok(at.read()?.and_then(|bytes| from_json(&bytes)))
    }
}

impl Run<'_> {
    /// What the workdir remembers at `at`, if it is of the stage as it is now.
    pub(super) fn finished(&self, at: &Location, id: &str) -> Result<Option<Record>> {
        Ok(Record::at(at)?.filter(|record| record.fingerprint == self.prints[id]))
    }

    /// Where the record of a stage without rows is.
    pub(super) fn record_of(&self, id: &str) -> Location {
        self.workdir.join(&format!("results/{}.json", self.kept_name(id)))
    }

    /// Whether the stage without rows `id` is finished; what is remembered of it goes into the run's report.
    pub(super) fn recall(&mut self, id: &str) -> Result<bool> {
        let Some(record) = self.finished(&self.record_of(id), id)? else { return Ok(false) };
        self.some_rows(&record.reports, &self.workdir.join(&format!("rejects/{}", self.printed(id))))?;
        self.remember(record);
        Ok(true)
    }

    /// Takes what is remembered of a stage into the run's report.
    pub(super) fn remember(&mut self, record: Record) {
        self.report.outputs.extend(record.outputs);
        for (stage, report) in record.reports {
            if let Entry::Vacant(place) = self.report.stages.entry(stage) {
                report.warnings.iter().for_each(|warning| warn!("stage `{}`: {warning}", place.key()));
                place.insert(report);
            }
        }
    }

    /// Records a stage without rows as finished; `reports` are those of the stages in its pass, and of the stage itself as
    /// far as rows met it there.
    pub(super) fn finish(
        &mut self,
        id: &str,
        report: StageReport,
        mut reports: Reports,
        outputs: Vec<String>,
    ) -> Result<()> {
        reports.entry(id.to_owned()).or_default().add(&report);
        let record = Record { fingerprint: self.prints[id].clone(), reports, outputs, parts: Vec::new() };
        self.record_of(id).write(record.to_json())?;
        self.remember(record);
        Ok(())
    }
}
