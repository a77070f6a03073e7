//! The parts of a materialised stage: one for each unit of work, with a note of what was counted and of the part's digest,
//! by which a part that was damaged or cut is found.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use tracing::warn;

use super::Run;
use super::exact::{from_json, to_json};
use crate::error::{Error, Result};
use crate::io::{Dataset, Location, Written};
use crate::pipeline::flow::Flow;
use crate::pipeline::plan::Node;
use crate::pipeline::report::Reports;

/// A part that is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Part {
    /// Its rows.
    pub(super) rows: u64,
    #[serde(flatten)]
    pub(super) file: Written,
}

/// What is remembered of a finished unit. It is written after the part.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Note {
    pub(super) part: Part,
    /// What the stages of the pass did.
    pub(super) reports: Reports,
}

/// The name of a unit's files, without an ending.
pub(super) fn name(unit: usize) -> String {
    format!("part-{unit:05}")
}

/// The units of a stage, finished or not.
pub(super) struct Units {
    folder: Location,
    /// Files that were there before this process did anything.
    found: BTreeSet<String>,
}

impl Units {
    pub(super) fn of(folder: Location) -> Result<Self> {
        let found = folder.list()?.iter().map(|file| file.name().to_owned()).collect();
        Ok(Self { folder, found })
    }

    /// Where the part of `unit` is, or will be.
    pub(super) fn part(&self, unit: usize) -> Location {
        self.folder.join(&format!("{}.parquet", name(unit)))
    }

    fn note(&self, unit: usize) -> Location {
        self.folder.join(&format!("{}.json", name(unit)))
    }

    /// The note of `unit`, if it is finished. With `check`, all bytes of a part that an earlier run left are read; what is
    /// damaged is taken away.
    pub(super) fn finished(&self, unit: usize, check: bool) -> Result<Option<Note>> {
        let at = self.note(unit);
        let Some(bytes) = at.read()? else { return Ok(None) };
        let note: Option<Note> = from_json(&bytes);
        let sound = match &note {
            Some(note) if check && self.found.contains(at.name()) => {
                self.part(unit).digest()?.as_ref() == Some(&note.part.file)
            }
            note => note.is_some(),
        };
        if sound {
            return Ok(note);
        }
        warn!("{} is damaged, cut or gone; it is made again", self.part(unit));
        at.delete()?;
        Ok(None)
    }

    /// Notes that `unit` is finished; false where somebody else was faster.
    pub(super) fn finish(&self, unit: usize, note: &Note) -> Result<bool> {
        self.note(unit).create(to_json(note))
    }
}

impl Run<'_> {
    /// The rows that a stage materialised. Parts that this process did not make are checked once.
    pub(super) fn parts(&self, node: &Node) -> Result<Flow> {
        let folder = self.folder("data", node);
        let manifest = folder.join("manifest.json");
        let gone = || Error::stage(&node.id, "its rows are gone; run the pipeline again");
        let record = self.finished(&manifest, &node.id)?.ok_or_else(gone)?;
        let units = Units { folder, found: BTreeSet::new() };
        if !self.sound.borrow().contains(&node.id) {
            for (unit, part) in record.parts.iter().enumerate() {
                let at = units.part(unit);
                if at.digest()?.as_ref() != Some(&part.file) {
                    // Without them the next run makes this part again, and no other.
                    units.note(unit).delete()?;
                    manifest.delete()?;
                    let message = format!("{at} is damaged, cut or gone; run the same command again to make it again");
                    return Err(Error::stage(&node.id, message));
                }
            }
            self.sound.borrow_mut().insert(node.id.clone());
        }
        let parts = (0..record.parts.len()).map(|unit| units.part(unit)).collect();
        Ok(Flow::whole(Dataset::of(parts)?))
    }
}
