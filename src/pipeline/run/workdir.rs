//! The workdir: a folder that is marked as one. What a run makes there carries the workdir's id, so that neither another
//! workdir's files nor the user's are ever taken for its own.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::io::owned::{refuse_link, some_of};
use crate::io::{Location, nonce, session};

/// The file that marks a workdir.
pub const MARKER: &str = "sepo-workdir.json";

/// The folders that a run keeps in its workdir.
pub const FOLDERS: [&str; 10] =
    ["checkpoints", "data", "leases", "logs", "models", "rejects", "results", "sessions", "tables", UPLOADS];

/// The folder of files that are made to be uploaded to the hub; they lie there until they are.
pub const UPLOADS: &str = "uploads";

#[derive(Debug, Serialize, Deserialize)]
struct Marker {
    /// Random, made with the workdir.
    workdir: String,
    /// The version of the program that made it.
    made_by: String,
}

/// A run that may have left something unfinished. It is removed when the run ends.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Session {
    /// What the names of its unfinished files contain.
    pub(super) mark: String,
    /// The pipeline that ran.
    pub(super) pipeline: String,
    /// Where its unfinished files may lie beside the workdir: the folders of its `write` stages.
    pub(super) folders: Vec<String>,
}

/// A marked workdir.
#[derive(Debug, Clone)]
pub(super) struct Workdir {
    pub(super) at: Location,
    pub(super) id: String,
}

/// What keeps `at` from being a workdir: files in a folder that is not marked as one.
///
/// # Errors
/// A store that fails, a marker that cannot be read.
pub(super) fn obstacle(at: &Location) -> Result<Option<String>> {
    if marker(at)?.is_some() {
        return Ok(None);
    }
    // A new file system has this folder.
    let is_foreign = |path: &str| path != "lost+found" && session::mark_of(path).is_none();
    let foreign: Vec<String> = at.entries()?.into_iter().filter(|path| is_foreign(path)).collect();
    // Another run may have made the workdir between the two looks.
    if foreign.is_empty() || marker(at)?.is_some() {
        return Ok(None);
    }
    let way_out = "a workdir is a new or an empty folder, or one that an earlier run made";
    Ok(Some(format!("the folder holds {}, which sepo did not make; {way_out}", some_of(&foreign))))
}

fn marker(at: &Location) -> Result<Option<String>> {
    let file = at.join(MARKER);
    let Some(bytes) = file.read()? else { return Ok(None) };
    let marker: Result<Marker, _> = serde_json::from_slice(&bytes);
    let wrong = |error| Error::data(crate::error::Place::file(&file), format!("not the marker of a workdir ({error})"));
    marker.map(|marker| Some(marker.workdir)).map_err(wrong)
}

impl Workdir {
    /// Opens the workdir `at`, or makes it.
    ///
    /// # Errors
    /// A folder with files that is not marked as a workdir; links in place of the folders that runs keep; a store that
    /// fails.
    pub(super) fn open(at: Location) -> Result<Self> {
        let refused = |message: String| Error::Store { path: at.to_string(), message, retryable: false };
        if let Some(obstacle) = obstacle(&at)? {
            return Err(refused(obstacle));
        }
        FOLDERS.iter().try_for_each(|folder| refuse_link(&at.join(folder)))?;
        let new = Marker { workdir: nonce(), made_by: format!("sepo {}", env!("CARGO_PKG_VERSION")) };
        let id = match marker(&at)? {
            Some(id) => id,
            None if at.join(MARKER).create(serde_json::to_vec_pretty(&new).expect("a marker is plain data"))? => {
                new.workdir
            }
            None => marker(&at)?.ok_or_else(|| refused("its marker vanished; run the same command again".into()))?,
        };
        Ok(Self { at, id })
    }

    /// The workdir `at`, if a run made it.
    pub(super) fn existing(at: Location) -> Result<Option<Self>> {
        Ok(marker(&at)?.map(|id| Self { at, id }))
    }

    fn session(&self, mark: &str) -> Location {
        self.at.join(&format!("sessions/{mark}.json"))
    }

    /// Records the run of this process.
    pub(super) fn begin(&self, pipeline: &str, folders: Vec<String>) -> Result<()> {
        let session = Session { mark: session::mark().to_owned(), pipeline: pipeline.to_owned(), folders };
        self.session(&session.mark).write(serde_json::to_vec_pretty(&session).expect("a session is plain data"))
    }

    /// Removes the record of a run, of which nothing unfinished is left.
    pub(super) fn end(&self, mark: &str) -> Result<()> {
        let session = self.session(mark);
        if session.is_file()? { session.delete() } else { Ok(()) }
    }

    /// Whether the run with `mark` began so long ago that it cannot be at work any more.
    pub(super) fn is_abandoned(&self, mark: &str) -> Result<bool> {
        let name = format!("{mark}.json");
        let found = self.at.join("sessions").scan()?.into_iter().find(|found| found.path == name);
        Ok(found.is_some_and(|found| super::kept::is_abandoned(found.changed)))
    }

    /// Whether other runs are at work, or were killed. Of many killed ones, it asks for no more than one answer of a store.
    pub(super) fn has_others(&self) -> Result<bool> {
        let own = format!("{}.json", session::mark());
        Ok(self.at.join("sessions").names_after("")?.iter().any(|name| *name != own))
    }

    /// The runs that are at work, or were killed.
    pub(super) fn sessions(&self) -> Result<Vec<Session>> {
        let mut sessions = Vec::new();
        for file in self.at.join("sessions").list()? {
            sessions.extend(file.read()?.and_then(|bytes| serde_json::from_slice(&bytes).ok()));
        }
        Ok(sessions)
    }
}
