//! Folders that this program made. A record in each, `sepo.json`, says whose the folder is and which files were made
//! there. Only files that a record names are replaced or removed: nothing by a pattern, nothing through a link.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::store::{Found, Location};
use super::{Written, faults, mirror, session};
use crate::error::{Error, Result};

/// The name of the record.
pub const RECORD: &str = "sepo.json";

/// Files that an error names before it counts the rest.
const NAMED: usize = 5;

/// Whose a folder is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The id of the workdir.
    pub workdir: String,
    /// The id of the stage.
    pub stage: String,
    /// The fingerprint of the stage's settings and inputs.
    pub fingerprint: String,
    /// The fingerprint of the settings alone.
    #[serde(default)]
    pub recipe: String,
    /// What identifies the content of the input files, by path or URL.
    #[serde(default)]
    pub inputs: BTreeMap<String, String>,
}

/// Files `part-00000<ending>`, `part-00001<ending>`, …: too many to be recorded one by one while they are made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Numbered {
    count: usize,
    ending: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    #[serde(flatten)]
    owner: Owner,
    /// The pipelines that use the folder.
    used_by: BTreeSet<String>,
    /// By path below the folder; without size and digest while the content may still change.
    files: BTreeMap<String, Option<Written>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    numbered: Vec<Numbered>,
}

/// A folder that is to be made when there is something to put into it.
#[derive(Debug, Clone)]
pub struct Claim {
    /// Where.
    pub folder: Location,
    /// For whom.
    pub owner: Owner,
    /// The pipeline that will use it.
    pub pipeline: String,
}

impl Claim {
    /// Makes the folder, or opens it if it is the owner's already.
    ///
    /// # Errors
    /// A link, a folder of another stage or workdir, a folder with files but without a record; a store that fails.
    pub fn open(&self) -> Result<Owned> {
        Owned::claim(self.folder.clone(), &self.owner, &self.pipeline)
    }
}

/// A folder that this program made, with its record.
#[derive(Debug, Clone)]
pub struct Owned {
    folder: Location,
    record: Record,
}

/// How closely files are compared with their record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// They are there and have their sizes.
    Size,
    /// Their digests, too: all bytes are read.
    Digest,
}

/// How files differ from their record.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Recorded files that are not there.
    pub missing: Vec<String>,
    /// Recorded files with another content.
    pub changed: Vec<String>,
}

/// The name of numbered file `index`.
pub fn numbered(index: usize, ending: &str) -> String {
    format!("part-{index:05}{ending}")
}

/// The first few of `names`, and how many more there are.
pub fn some_of(names: &[String]) -> String {
    let more = names.len().saturating_sub(NAMED);
    let named = names.iter().take(NAMED).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{named} and {more} more") } else { named }
}

impl Owned {
    fn claim(folder: Location, owner: &Owner, pipeline: &str) -> Result<Self> {
        refuse_link(&folder)?;
        if let Some(mut found) = Self::open(folder.clone())? {
            found.refuse_another(owner)?;
            let is_known = found.record.used_by.contains(pipeline) && found.record.owner == *owner;
            if !is_known {
                found.record.used_by.insert(pipeline.to_owned());
                found.record.owner = owner.clone();
                found.save()?;
            }
            return Ok(found);
        }
        // Another run may have made the folder just now.
        let is_other = |found: &Found| is_finished(found) && found.path != RECORD;
        let files: Vec<String> = folder.scan()?.into_iter().filter(is_other).map(|found| found.path).collect();
        if !files.is_empty() && !folder.join(RECORD).exists()? {
            let message = format!("holds {}, which sepo did not make; move it to another place", some_of(&files));
            return Err(refused(&folder, &message));
        }
        let new = Self::new(folder.clone(), owner, pipeline);
        if folder.join(RECORD).create(new.to_json())? {
            return Ok(new);
        }
        let other = Self::open(folder.clone())?.ok_or_else(|| refused(&folder, &"its sepo.json is not sepo's"))?;
        other.refuse_another(owner)?;
        Ok(other)
    }

    /// A record for `folder` that is not written yet.
    pub fn new(folder: Location, owner: &Owner, pipeline: &str) -> Self {
        let used_by = [pipeline.to_owned()].into();
        let record = Record { owner: owner.clone(), used_by, files: BTreeMap::new(), numbered: Vec::new() };
        Self { folder, record }
    }

    /// The folder, if it has a record.
    ///
    /// # Errors
    /// A store that fails.
    pub fn open(folder: Location) -> Result<Option<Self>> {
        let record = folder.join(RECORD).read()?.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Ok(record.map(|record| Self { folder, record }))
    }

    fn refuse_another(&self, owner: &Owner) -> Result<()> {
        let own = &self.record.owner;
        if own.workdir != owner.workdir {
            return Err(refused(&self.folder, &"was made by a run with another workdir; move it to another place"));
        }
        if own.stage != owner.stage {
            let message = format!("belongs to stage `{}`; give one of the two stages another id", own.stage);
            return Err(refused(&self.folder, &message));
        }
        Ok(())
    }

    fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(&self.record).expect("a record is plain data")
    }

    /// Writes the record.
    ///
    /// # Errors
    /// A store that fails.
    pub fn save(&self) -> Result<()> {
        self.folder.join(RECORD).write(self.to_json())
    }

    /// Where it is.
    pub fn folder(&self) -> &Location {
        &self.folder
    }

    /// Whose it is.
    pub fn owner(&self) -> &Owner {
        &self.record.owner
    }

    /// The pipelines that use it.
    pub fn used_by(&self) -> &BTreeSet<String> {
        &self.record.used_by
    }

    /// The recorded files by path below the folder, but for numbered ones.
    pub fn files(&self) -> impl Iterator<Item = (&str, Option<&Written>)> {
        self.record.files.iter().map(|(path, written)| (path.as_str(), written.as_ref()))
    }

    /// One digest over the recorded files.
    pub fn digest(&self) -> String {
        let files = serde_json::to_vec(&self.record.files).expect("a record is plain data");
        blake3::hash(&files).to_hex().to_string()
    }

    /// Records, before they are made, the files `part-00000<ending>` and on.
    ///
    /// # Errors
    /// A store that fails.
    pub fn expect_numbered(&mut self, count: usize, ending: &str) -> Result<()> {
        let numbered = Numbered { count, ending: ending.to_owned() };
        if self.record.numbered.contains(&numbered) {
            return Ok(());
        }
        self.record.numbered.retain(|other| other.ending != ending);
        self.record.numbered.push(numbered);
        self.save()
    }

    /// How many files with `ending` are expected; none where that is not recorded yet.
    pub fn numbered(&self, ending: &str) -> Option<usize> {
        self.record.numbered.iter().find(|numbered| numbered.ending == ending).map(|numbered| numbered.count)
    }

    /// Records the file `path`, without size and digest, before it is made. It may replace a file of that name that is
    /// recorded, and no other. A run that is killed between the replacement and [`Self::made`] leaves no digest of the
    /// file that was there before.
    ///
    /// # Errors
    /// A file of that name that this program did not make; a store that fails.
    pub fn expect(&mut self, path: &str) -> Result<Location> {
        let file = self.folder.join(path);
        match self.record.files.get(path) {
            Some(None) => return Ok(file),
            None if file.exists()? => {
                return Err(refused(&file, &"sepo did not make this file and does not replace it; move it away"));
            }
            Some(Some(_)) | None => {}
        }
        self.record.files.insert(path.to_owned(), None);
        self.save()?;
        Ok(file)
    }

    /// Records what `path` holds now that it is finished.
    ///
    /// # Errors
    /// A store that fails.
    pub fn made(&mut self, path: &str, written: Written) -> Result<()> {
        self.record.files.insert(path.to_owned(), Some(written));
        self.save()
    }

    /// Takes the files of `other` into the record, without writing it.
    pub fn include(&mut self, other: &Self) {
        self.record.files.extend(other.record.files.clone());
    }

    /// Records all files that are in the folder now, with their digests, without writing the record: for a folder that
    /// this process alone has filled.
    ///
    /// # Errors
    /// A store that fails.
    pub fn take_stock(&mut self) -> Result<()> {
        for found in self.folder.scan()?.into_iter().filter(|found| found.path != RECORD) {
            let written = self.folder.join(&found.path).digest()?;
            self.record.files.insert(found.path, written);
        }
        Ok(())
    }

    /// Removes the recorded file `path` and its entry.
    ///
    /// # Errors
    /// A store that fails.
    pub fn discard(&mut self, path: &str) -> Result<()> {
        let file = self.folder.join(path);
        if file.is_file()? {
            file.delete()?;
        }
        self.record.files.remove(path);
        self.save()
    }

    /// Moves the folder, which is a draft on this machine, to `to`, or copies it where it cannot be moved whole. What the
    /// record at `to` names and did not change since is replaced, other files stay. In a copy the record comes first: until
    /// all of its files are there with their sizes, the folder counts as unfinished.
    ///
    /// # Errors
    /// A link at `to`; a store or a disk that fails.
    pub fn publish(&self, to: &Location) -> Result<()> {
        let from = self.folder.local().ok_or_else(|| refused(&self.folder, &"not a folder of this machine"))?;
        refuse_link(to)?;
        if let Some(earlier) = Self::open(to.clone())? {
            earlier.remove(&BTreeMap::new())?;
        }
        if let Some(local) = to.local().filter(|local| local.symlink_metadata().is_err()) {
            let moved = faults::pass(local.display()).and_then(|()| fs::rename(from, local));
            return moved.map_err(|error| refused(to, &error));
        }
        let there = Self { folder: to.clone(), record: self.record.clone() };
        there.save()?;
        self.record.files.keys().try_for_each(|path| mirror::copy(&from.join(path), &to.join(path)))
    }

    /// How the files differ from the record. Files whose content may still change count as they are.
    ///
    /// # Errors
    /// A store that fails.
    pub fn difference(&self, depth: Depth) -> Result<Difference> {
        let mut difference = Difference::default();
        for (path, written) in &self.record.files {
            let file = self.folder.join(path);
            let holds = match written {
                Some(written) => holds(&file, written, depth)?,
                None => file.is_file()?.then_some(true),
            };
            match holds {
                Some(true) => {}
                Some(false) => difference.changed.push(path.clone()),
                None => difference.missing.push(path.clone()),
            }
        }
        Ok(difference)
    }

    /// Files in the folder that the record does not name.
    ///
    /// # Errors
    /// A store that fails.
    pub fn foreign(&self) -> Result<Vec<String>> {
        let found = self.folder.scan()?.into_iter();
        Ok(found.filter(|found| is_finished(found) && !self.names(&found.path)).map(|found| found.path).collect())
    }

    fn names(&self, path: &str) -> bool {
        let is_numbered = |numbered: &Numbered| {
            let index = path.strip_prefix("part-").and_then(|path| path.strip_suffix(&numbered.ending)?.parse().ok());
            index.is_some_and(|index| index < numbered.count && path == self::numbered(index, &numbered.ending))
        };
        path == RECORD || self.record.files.contains_key(path) || self.record.numbered.iter().any(is_numbered)
    }

    /// Removes the files that are recorded here or in `also` and have their sizes, if these are recorded, then the record, then the
    /// folders that are empty. Returns what stayed. This is the only place that empties a folder.
    ///
    /// # Errors
    /// A link in place of the folder; a file that cannot be removed.
    pub fn remove(self, also: &BTreeMap<String, Option<Written>>) -> Result<Vec<String>> {
        refuse_link(&self.folder)?;
        let (mut gone, mut stayed) = (Vec::new(), Vec::new());
        for found in self.folder.scan()?.into_iter().filter(|found| found.path != RECORD) {
            let recorded = self.record.files.get(&found.path).or_else(|| also.get(&found.path)).map(Option::as_ref);
            let recorded = recorded.or(self.names(&found.path).then_some(None));
            match recorded {
                Some(written) if found.is_file && written.is_none_or(|written| written.bytes == found.bytes) => {
                    self.folder.join(&found.path).delete()?;
                    gone.push(found.path);
                }
                _ => stayed.push(found.path),
            }
        }
        let record = self.folder.join(RECORD);
        if record.is_file()? {
            record.delete()?;
        }
        if let Some(local) = self.folder.local() {
            remove_empty(local, &gone);
        }
        Ok(stayed)
    }
}

/// Removes the folders of `files`, which are paths below `folder`, and `folder`, as far as they are empty.
fn remove_empty(folder: &Path, files: &[String]) {
    let parents = files.iter().flat_map(|file| Path::new(file).ancestors().skip(1));
    let mut folders: BTreeSet<&Path> = parents.collect();
    folders.insert(Path::new(""));
    // Deeper ones first. One that holds something stays, whatever it is.
    for below in folders.into_iter().rev() {
        let folder = folder.join(below);
        if faults::pass(folder.display()).is_ok() {
            drop(fs::remove_dir(folder));
        }
    }
}

/// Whether `file` holds what was `written`; nothing where there is no such file.
///
/// # Errors
/// A store that fails.
pub fn holds(file: &Location, written: &Written, depth: Depth) -> Result<Option<bool>> {
    let Some(bytes) = file.size()? else { return Ok(None) };
    if bytes != written.bytes || depth == Depth::Size {
        return Ok(Some(bytes == written.bytes));
    }
    Ok(file.digest()?.map(|found| found == *written))
}

fn is_finished(found: &Found) -> bool {
    !found.path.split('/').any(|name| session::mark_of(name).is_some())
}

/// # Errors
/// A link in place of `folder`.
pub fn refuse_link(folder: &Location) -> Result<()> {
    let is_link = |local: &Path| match fs::symlink_metadata(local) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(false),
        meta => meta.map(|meta| meta.is_symlink()),
    };
    match folder.local().map(is_link).transpose() {
        Ok(Some(true)) => Err(refused(
            folder,
            &"is a link; sepo keeps what it makes in real folders: make the workdir itself a link, or name another workdir",
        )),
        Ok(_) => Ok(()),
        Err(error) => Err(refused(folder, &error)),
    }
}

fn refused(place: &Location, message: &dyn std::fmt::Display) -> Error {
    Error::Store { path: place.to_string(), message: message.to_string(), retryable: false }
}

#[cfg(test)]
mod tests;
