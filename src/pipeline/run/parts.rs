//! The parts of a materialised stage: one for each unit of work, with a note of what was counted and of the part's digest,
//! by which a part that was damaged or cut is found.
//!
//! The name of a part has the mark of the process that made it, so that workers at the same unit never overwrite each
//! other's; the note, which is created once, says which part counts.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use tracing::warn;

use super::record::Record;
use super::spread::{Board, UnitSet};
use super::workdir::Workdir;
use super::{Run, locked};
use crate::error::{Error, Result};
use crate::io::{Cost, Dataset, Location, Owned, Written, at_once, owned, session};
use crate::pipeline::flow::Flow;
use crate::pipeline::plan::Node;
use crate::pipeline::report::Reports;

/// The record of all parts, in the folder of a stage.
pub(super) const MANIFEST: &str = "manifest.json";

/// What workers tell one another of finished units, in the folder of a stage: a bit for each unit.
pub(super) const KNOWN: &str = "known.bits";

/// What is said of a note or a part that is not what it was.
const DAMAGED: &str = "is damaged, truncated or missing; it is computed again";

/// The ending of notes.
pub(super) const NOTE: &str = ".json";

/// A part that is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Part {
    /// The name of its file.
    pub(super) name: String,
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
    owned::numbered(unit, "")
}

/// The mark of the process that made the part `name`; nothing for any other name.
pub(super) fn mark_of(name: &str) -> Option<&str> {
    let (number, mark) = name.strip_prefix("part-")?.strip_suffix(".parquet")?.split_once('-')?;
    (number.bytes().all(|byte| byte.is_ascii_digit()) && mark.len() == 16).then_some(mark)
}

/// The unit of the note `name`, if it is one of `count`; none for any other name.
fn unit_of(name: &str, count: usize) -> Option<usize> {
    name.strip_prefix("part-")?.strip_suffix(NOTE)?.parse().ok().filter(|unit| *unit < count)
}

/// The units of a stage, finished or not.
pub(super) struct Units {
    folder: Location,
    count: usize,
    /// Those with a note before this process did anything.
    found: UnitSet,
}

impl Units {
    /// Those in the folder of a stage with `count` units, all of whose notes are looked for.
    pub(super) fn of(mut folder: Owned, count: usize) -> Result<Self> {
        folder.expect_numbered(count, NOTE)?;
        let folder = folder.folder().clone();
        let found = noted(&folder, count)?;
        Ok(Self { folder, count, found })
    }

    /// As [`Self::of`], but where workers told one another what is finished, that is believed: a thousand processes that list a
    /// million files each are too many. It decides which units are computed first, and nothing else: before a commit all
    /// notes are read.
    pub(super) fn told(mut folder: Owned, count: usize) -> Result<Self> {
        folder.expect_numbered(count, NOTE)?;
        let units = Self { folder: folder.folder().clone(), count, found: UnitSet::none(count) };
        let found = match units.told()? {
            Some(told) => told,
            None => noted(&units.folder, count)?,
        };
        Ok(Self { found, ..units })
    }

    /// Those that were finished before this process did anything.
    pub(super) fn found(&self) -> &UnitSet {
        &self.found
    }

    /// Those that are not finished now.
    pub(super) fn look_again(&self) -> Result<Vec<usize>> {
        let noted = noted(&self.folder, self.count)?;
        Ok((0..self.count).filter(|unit| !noted.contains(*unit)).collect())
    }

    /// Whether `unit` is finished.
    pub(super) fn is_noted(&self, unit: usize) -> Result<bool> {
        self.note(unit).is_file()
    }

    /// Where this process puts the part of `unit`.
    pub(super) fn own_part(&self, unit: usize) -> Location {
        self.folder.join(&format!("{}-{}.parquet", name(unit), session::mark()))
    }

    fn note(&self, unit: usize) -> Location {
        self.folder.join(&owned::numbered(unit, NOTE))
    }

    /// The notes of `units`, those that are there. Parts that were there before this process did anything are read: what is
    /// damaged is taken away.
    pub(super) fn sound(&self, units: &[usize]) -> Result<Vec<Option<Note>>> {
        let waiting = if self.folder.local().is_some() { Cost::Local } else { Cost::Waiting };
        let notes = at_once(units, waiting, |unit| Ok((*unit, self.readable(*unit)?)))?;
        let found = notes.iter().filter(|(unit, _)| self.found.contains(*unit));
        let found: Vec<(usize, &Part)> = found.filter_map(|(unit, note)| Some((*unit, &note.as_ref()?.part))).collect();
        let damaged: BTreeSet<usize> = self.damaged(&found)?.into_iter().collect();
        for (unit, part) in found.iter().filter(|(unit, _)| damaged.contains(unit)) {
            warn!("{} {DAMAGED}", self.folder.join(&part.name));
            self.forget(*unit, Some(part))?;
        }
        Ok(notes.into_iter().map(|(unit, note)| note.filter(|_| !damaged.contains(&unit))).collect())
    }

    /// Those of units whose part is not what was written.
    fn damaged(&self, parts: &[(usize, &Part)]) -> Result<Vec<usize>> {
        let cost = match self.folder.local() {
            Some(_) => Cost::Local,
            None if parts.iter().all(|(_, part)| part.file.is_small()) => Cost::Waiting,
            None => Cost::Blocks,
        };
        let are_sound = at_once(parts, cost, |(_, part)| self.folder.join(&part.name).is_still(&part.file))?;
        Ok(parts.iter().zip(are_sound).filter(|(_, is_sound)| !is_sound).map(|((unit, _), _)| *unit).collect())
    }

    /// The note of `unit`, if it is there and can be read.
    fn readable(&self, unit: usize) -> Result<Option<Note>> {
        let at = self.note(unit);
        let Some(bytes) = at.read()? else { return Ok(None) };
        let note = serde_json::from_slice(&bytes).ok();
        if note.is_none() {
            warn!("{at} {DAMAGED}");
            self.forget(unit, None)?;
        }
        Ok(note)
    }

    /// Takes the note of `unit` away, and its `part`.
    fn forget(&self, unit: usize, part: Option<&Part>) -> Result<()> {
        let part = part.filter(|part| mark_of(&part.name).is_some()).map(|part| self.folder.join(&part.name));
        for file in [Some(self.note(unit)), part].into_iter().flatten() {
            if file.is_file()? {
                file.delete()?;
            }
        }
        Ok(())
    }

    /// Notes that `unit` is finished; false where another worker was faster.
    pub(super) fn finish(&self, unit: usize, note: &Note) -> Result<bool> {
        self.note(unit).create(serde_json::to_vec_pretty(note).expect("a note is plain data"))
    }
}

impl Board for Units {
    type Error = Error;

    fn finished_after(&self, unit: usize) -> Result<Vec<usize>> {
        let names = self.folder.names_after(self.note(unit).name())?;
        Ok(names.iter().filter_map(|name| unit_of(name, self.count)).collect())
    }

    fn told(&self) -> Result<Option<UnitSet>> {
        Ok(self.folder.join(KNOWN).read()?.and_then(|bytes| UnitSet::from_bytes(&bytes, self.count)))
    }

    fn tell(&self, units: &UnitSet) -> Result<()> {
        self.folder.join(KNOWN).write(units.to_bytes())
    }
}

/// The units with a note in `folder`, of `count`.
pub(super) fn noted(folder: &Location, count: usize) -> Result<UnitSet> {
    let mut noted = UnitSet::none(count);
    folder.list()?.iter().filter_map(|file| unit_of(file.name(), count)).for_each(|unit| noted.insert(unit));
    Ok(noted)
}

impl Workdir {
    /// The parts in `folder` that its notes and its manifest name, with their sizes and digests, and those that a run of this
    /// workdir left without a note: what may be removed with the folder.
    pub(super) fn parts(&self, folder: &Location) -> Result<BTreeMap<String, Option<Written>>> {
        let mut marks: BTreeSet<String> = self.sessions()?.into_iter().map(|session| session.mark).collect();
        marks.insert(session::mark().to_owned());
        let manifest = Record::at(&folder.join(MANIFEST))?;
        let mut parts: Vec<Part> = manifest.map(|record| record.parts).unwrap_or_default();
        let mut found = BTreeMap::new();
        for file in folder.list()? {
            if mark_of(file.name()).is_some_and(|mark| marks.contains(mark)) {
                found.insert(file.name().to_owned(), None);
            } else if file.name().starts_with("part-") && file.name().ends_with(NOTE) {
                let note: Option<Note> = file.read()?.and_then(|bytes| serde_json::from_slice(&bytes).ok());
                parts.extend(note.map(|note| note.part));
            }
        }
        let parts = parts.into_iter().filter(|part| mark_of(&part.name).is_some());
        found.extend(parts.map(|part| (part.name, Some(part.file))));
        Ok(found)
    }

    /// The parts in `folder` that its notes name.
    pub(super) fn noted(&self, folder: &Location) -> Result<BTreeSet<String>> {
        let parts = self.parts(folder)?.into_iter();
        Ok(parts.filter(|(_, written)| written.is_some()).map(|(name, _)| name).collect())
    }
}

impl Run<'_> {
    /// Shares of `node` whose input files have another content, or whose machines compute in other numbers, work in another folder
    /// and would never meet.
    ///
    /// # Errors
    /// Such a folder that is not finished.
    pub(super) fn refuse_disagreement(&self, node: &Node) -> Result<()> {
        let (own, root) = (self.owner(&node.id), self.workdir.at.join("data"));
        for name in root.entries()? {
            let Some(folder) = Owned::open(root.join(&name))? else { continue };
            let other = folder.owner();
            let is_sibling = (&other.stage, &other.recipe) == (&own.stage, &own.recipe);
            if !is_sibling || other.fingerprint == own.fingerprint || folder.folder().join(MANIFEST).is_file()? {
                continue;
            }
            let has_changed = |file: &&String| own.inputs.get(*file) != other.inputs.get(*file);
            let file = own.inputs.keys().chain(other.inputs.keys()).find(has_changed);
            let (differs, rule) = match file {
                Some(file) => (format!("on other content of {file}"), "shares must read the same files"),
                None => {
                    ("in another arithmetic".to_owned(), "shares must run where `precision` means the same numbers")
                }
            };
            let message = format!(
                "{} is unfinished work of the same settings {differs}: {rule}; if that was an earlier attempt, remove it with \
                 `sepo runs gc --yes`",
                folder.folder(),
            );
            return Err(Error::stage(&node.id, message));
        }
        Ok(())
    }

    /// The rows that a stage materialised. Parts that this process did not make are checked once.
    pub(super) fn parts(&self, node: &Node) -> Result<Flow> {
        let folder = self.folder("data", node);
        let manifest = folder.join(MANIFEST);
        let gone = || Error::stage(&node.id, "its rows are gone; run the pipeline again");
        let record = self.finished(&manifest, &node.id)?.ok_or_else(gone)?;
        let count = record.parts.len();
        let units = Units { folder, count, found: UnitSet::none(count) };
        if !locked(&self.sound).contains(&node.id) {
            let parts: Vec<(usize, &Part)> = record.parts.iter().enumerate().collect();
            if let Some(&unit) = units.damaged(&parts)?.first() {
                // Without them the next run makes this part again, and no other.
                let part = &record.parts[unit];
                units.forget(unit, Some(part))?;
                manifest.delete()?;
                let message = format!(
                    "{} is damaged, truncated or missing; run the same command again to restore it",
                    units.folder.join(&part.name)
                );
                return Err(Error::stage(&node.id, message));
            }
            locked(&self.sound).insert(node.id.clone());
        }
        Ok(Flow::whole(Dataset::of(record.parts.iter().map(|part| units.folder.join(&part.name)).collect())?))
    }
}
