//! The parts of a materialised stage: one for each unit of work, with a note of what was counted and of the part's digest,
//! by which a part that was damaged or cut is found.
//!
//! The name of a part has the mark of the process that made it, so that workers at the same unit never overwrite each
//! other's; the note, which is created once, says which part counts.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use tracing::warn;

use super::Run;
use super::record::Record;
use super::workdir::Workdir;
use crate::error::{Error, Result};
use crate::io::{Dataset, Location, Owned, Written, owned, session};
use crate::pipeline::flow::Flow;
use crate::pipeline::plan::Node;
use crate::pipeline::report::Reports;

/// The record of all parts, in the folder of a stage.
pub(super) const MANIFEST: &str = "manifest.json";

/// The ending of notes.
const NOTE: &str = ".json";

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

/// The units of a stage, finished or not.
pub(super) struct Units {
    folder: Location,
    /// Files that were there before this process did anything.
    found: BTreeSet<String>,
}

impl Units {
    /// Those in the folder of a stage with `count` units.
    pub(super) fn of(mut folder: Owned, count: usize) -> Result<Self> {
        folder.expect_numbered(count, NOTE)?;
        let folder = folder.folder().clone();
        let found = folder.list()?.iter().map(|file| file.name().to_owned()).collect();
        Ok(Self { folder, found })
    }

    /// Where this process puts the part of `unit`.
    pub(super) fn own_part(&self, unit: usize) -> Location {
        self.folder.join(&format!("{}-{}.parquet", name(unit), session::mark()))
    }

    fn note(&self, unit: usize) -> Location {
        self.folder.join(&owned::numbered(unit, NOTE))
    }

    /// The note of `unit`, if it is finished. With `check`, all bytes of a part that an earlier run left are read; what is
    /// damaged is taken away.
    pub(super) fn finished(&self, unit: usize, check: bool) -> Result<Option<Note>> {
        let at = self.note(unit);
        let Some(bytes) = at.read()? else { return Ok(None) };
        let note: Option<Note> = serde_json::from_slice(&bytes).ok();
        let (part, sound) = match &note {
            Some(note) => {
                let part = self.folder.join(&note.part.name);
                let read = check && self.found.contains(at.name());
                let sound = !read || part.digest()?.as_ref() == Some(&note.part.file);
                (part, sound)
            }
            None => (at.clone(), false),
        };
        if sound {
            return Ok(note);
        }
        warn!("{part} is damaged, cut or gone; it is made again");
        self.forget(unit, note.as_ref().map(|note| &note.part))?;
        Ok(None)
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
        let units = Units { folder, found: BTreeSet::new() };
        if !self.sound.borrow().contains(&node.id) {
            for (unit, part) in record.parts.iter().enumerate() {
                let at = units.folder.join(&part.name);
                if at.digest()?.as_ref() != Some(&part.file) {
                    // Without them the next run makes this part again, and no other.
                    units.forget(unit, Some(part))?;
                    manifest.delete()?;
                    let message = format!("{at} is damaged, cut or gone; run the same command again to make it again");
                    return Err(Error::stage(&node.id, message));
                }
            }
            self.sound.borrow_mut().insert(node.id.clone());
        }
        Ok(Flow::whole(Dataset::of(record.parts.iter().map(|part| units.folder.join(&part.name)).collect())?))
    }
}
