//! A stage of a run as rows that are served: its finished parts, while others are still computed.

use std::sync::OnceLock;

use arrow::datatypes::SchemaRef;

use super::parts::{MANIFEST, NOTE, Note, Part, mark_of, name, noted};
use super::record::Record;
use super::workdir::Workdir;
use crate::error::{Error, Place, Result};
use crate::io::flight::{Contents, Opened, PORTION, Piece, Shelf, Ticket};
use crate::io::{Dataset, Location, Owned, owned};

/// The rows of a `tokenize`, `score` or `generate` stage, in pieces that are its units of work.
pub struct ServedStage {
    workdir: Workdir,
    stage: String,
    /// What its fingerprint begins with.
    fingerprint: String,
    /// The stage's folder, once the run has made it.
    folder: OnceLock<StageFolder>,
    /// The columns, once a unit is finished.
    schema: OnceLock<SchemaRef>,
    /// All parts, once the stage is committed.
    parts: OnceLock<Vec<Part>>,
}

/// Where a stage keeps its parts, and how many units it has.
struct StageFolder {
    owned: Owned,
    units: usize,
}

impl ServedStage {
    /// The stage `stage` of the run with the workdir `at`. `NAME@FINGERPRINT` names one of several that differ in their settings.
    ///
    /// # Errors
    /// A folder that is no workdir; a store that fails.
    pub fn open(at: Location, stage: &str) -> Result<Self> {
        let shown = at.to_string();
        let none = || {
            let message = "is not the workdir of a run; start the run first, or leave `--stage` out to serve files";
            Error::Store { path: shown, message: message.to_owned(), retryable: false }
        };
        let workdir = Workdir::existing(at)?.ok_or_else(none)?;
        let (stage, fingerprint) = stage.split_once('@').unwrap_or((stage, ""));
        Ok(Self {
            workdir,
            stage: stage.to_owned(),
            fingerprint: fingerprint.to_owned(),
            folder: OnceLock::new(),
            schema: OnceLock::new(),
            parts: OnceLock::new(),
        })
    }

    /// What is there of the stage now, for people.
    ///
    /// # Errors
    /// As [`Shelf::look`].
    pub fn state(&self) -> Result<String> {
        let Some(StageFolder { owned, units }) = self.folder()? else {
            let there: Vec<String> = self.folders()?.into_iter().map(|owned| owned.owner().stage.clone()).collect();
            let there = if there.is_empty() { "none yet".to_owned() } else { there.join(", ") };
            return Ok(format!(
                "waiting for stage `{}`; stages with rows in {}: {there} (`tokenize`, `score` and `generate` keep rows)",
                self.stage, self.workdir.at
            ));
        };
        let finished = if self.is_complete()? { *units } else { *units - noted(owned.folder(), *units)?.absent() };
        let fingerprint = &owned.owner().fingerprint[..16.min(owned.owner().fingerprint.len())];
        Ok(format!("stage `{}@{fingerprint}`: {finished} of {units} units are finished", self.stage))
    }

    /// The folders of all stages with rows.
    fn folders(&self) -> Result<Vec<Owned>> {
        let root = self.workdir.at.join("data");
        let mut folders = Vec::new();
        for entry in root.entries()? {
            folders.extend(Owned::open(root.join(&entry))?.filter(|owned| owned.owner().workdir == self.workdir.id));
        }
        Ok(folders)
    }

    /// The stage's folder. Once it was found it stays, whatever other settings are run later.
    fn folder(&self) -> Result<Option<&StageFolder>> {
        if let Some(folder) = self.folder.get() {
            return Ok(Some(folder));
        }
        let is_wanted = |owned: &Owned| {
            owned.owner().stage == self.stage && owned.owner().fingerprint.starts_with(&self.fingerprint)
        };
        let mut found: Vec<Owned> = self.folders()?.into_iter().filter(is_wanted).collect();
        if found.len() > 1 {
            let names = found.iter().map(|owned| format!("`{}@{:.16}`", self.stage, owned.owner().fingerprint));
            let message = format!(
                "its rows are there under several settings; `--stage` takes one of {}",
                names.collect::<Vec<_>>().join(", ")
            );
            return Err(Error::stage(&self.stage, message));
        }
        // Without their number the units are not planned yet.
        let found = found.pop().and_then(|owned| Some(StageFolder { units: owned.numbered(NOTE)?, owned }));
        Ok(found.map(|folder| self.folder.get_or_init(|| folder)))
    }

    /// All parts, if the stage is committed.
    fn committed(&self, folder: &StageFolder) -> Result<Option<&Vec<Part>>> {
        if self.parts.get().is_none() {
            let record = Record::at(&folder.owned.folder().join(MANIFEST))?;
            let own = record.filter(|record| record.fingerprint == folder.owned.owner().fingerprint);
            let Some(record) = own else { return Ok(None) };
            self.parts.get_or_init(|| record.parts);
        }
        Ok(self.parts.get())
    }

    /// The part of `unit`, if it is finished.
    fn part(&self, folder: &StageFolder, unit: usize) -> Result<Option<Part>> {
        if let Some(parts) = self.committed(folder)? {
            return Ok(parts.get(unit).cloned());
        }
        let note = folder.owned.folder().join(&owned::numbered(unit, NOTE)).read()?;
        Ok(note.and_then(|bytes| serde_json::from_slice::<Note>(&bytes).ok()).map(|note| note.part))
    }

    /// The rows of `part`.
    fn dataset(&self, folder: &StageFolder, part: &Part) -> Result<Dataset> {
        let at = folder.owned.folder().join(&part.name);
        let is_name = mark_of(&part.name).is_some() && !part.name.contains(['/', '\\']);
        if !is_name || at.size()? != Some(part.file.bytes) {
            let message = "is damaged or missing; the run computes it again when it comes to its end";
            return Err(Error::data(Place::file(&at), message));
        }
        Dataset::of(vec![at])
    }

    /// The columns, if a unit is finished.
    fn columns(&self, folder: &StageFolder) -> Result<Option<SchemaRef>> {
        if let Some(schema) = self.schema.get() {
            return Ok(Some(schema.clone()));
        }
        let finished = match self.committed(folder)? {
            Some(_) => Some(0),
            None => {
                let noted = noted(folder.owned.folder(), folder.units)?;
                (0..folder.units).find(|unit| noted.contains(*unit))
            }
        };
        let part = finished.map(|unit| self.part(folder, unit)).transpose()?.flatten();
        let Some(part) = part else { return Ok(None) };
        let schema = self.dataset(folder, &part)?.schema().clone();
        Ok(Some(self.schema.get_or_init(|| schema).clone()))
    }
}

impl Shelf for ServedStage {
    fn look(&self) -> Result<Option<Contents>> {
        let Some(folder) = self.folder()? else { return Ok(None) };
        if folder.units == 0 {
            return Err(Error::stage(&self.stage, "it has no units, because no rows come to it"));
        }
        let Some(schema) = self.columns(folder)? else { return Ok(None) };
        let parts = self.committed(folder)?;
        let piece = |unit: usize| Piece {
            ticket: Ticket::whole(name(unit)),
            rows: parts.and_then(|parts| parts.get(unit)).map(|part| part.rows),
        };
        Ok(Some(Contents { schema, pieces: (0..folder.units).map(piece).collect() }))
    }

    fn open(&self, ticket: &Ticket) -> Result<Opened> {
        let Some(folder) = self.folder()? else { return Ok(Opened::NotYet) };
        let number = ticket.file.strip_prefix("part-").and_then(|number| number.parse::<usize>().ok());
        let Some(unit) = number.filter(|unit| *unit < folder.units && name(*unit) == ticket.file) else {
            let last = name(folder.units.saturating_sub(1));
            return Ok(Opened::Unknown(format!(
                "no part `{}` is served; there are `{}` to `{last}`",
                ticket.file,
                name(0)
            )));
        };
        let Some(part) = self.part(folder, unit)? else { return Ok(Opened::NotYet) };
        let dataset = self.dataset(folder, &part)?;
        let count = dataset.units().last().map_or(0, |unit| unit.groups.end);
        let groups = match ticket.of(count) {
            Ok(groups) => groups,
            Err(wrong) => return Ok(Opened::Unknown(wrong)),
        };
        let is_last = unit + 1 == folder.units && groups.end == count;
        let rows = dataset.read_groups(0, groups, PORTION)?;
        Ok(Opened::Rows { schema: dataset.schema().clone(), rows, is_last })
    }

    fn is_complete(&self) -> Result<bool> {
        let Some(folder) = self.folder()? else { return Ok(false) };
        Ok(self.committed(folder)?.is_some())
    }
}
