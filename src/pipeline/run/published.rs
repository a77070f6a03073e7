//! Uploads to the hub: which files of a repository are a stage's by the records of this workdir, and how new ones take their
//! places, in one commit.
//!
//! The rule is that of folders (`written`): a file that no record names, or that changed since, is somebody else's. The record names
//! files with their digests before the commit is made, so that after a crash the stage still knows its own.

use std::collections::{BTreeMap, BTreeSet};

use tracing::warn;

use super::Run;
use super::record::{Output, Record};
use crate::error::{Error, Result};
use crate::io::Written;
use crate::io::hub::{Address, Change, Hub, Look, Outgoing, Prepared, Tree};
use crate::io::owned::some_of;
use crate::stages::Publication;

/// The card of a repository, in its root.
pub(super) const CARD: &str = "README.md";

/// What the hub itself puts into a repository.
const HUBS_OWN: &str = ".gitattributes";

/// Commits by others in a row that an upload tries to follow.
const PATIENCE: u32 = 10;

/// Files for a repository.
pub(super) struct Upload<'a> {
    /// The stage, for messages and for the commit's.
    pub(super) stage: &'a str,
    pub(super) to: &'a Publication,
    /// By path below the folder of [`Publication::address`], with what the disk holds.
    pub(super) files: Vec<(Outgoing, Written)>,
    /// What earlier runs of the stage uploaded there: [`is_of`] its address.
    pub(super) earlier: Vec<Output>,
}

/// What an upload came to.
pub(super) struct Uploaded {
    /// The files with their digests, as the record names them.
    pub(super) outputs: Vec<Output>,
    /// The commit that they are in; none where nothing had to change.
    pub(super) commit: Option<String>,
}

/// The name of file `path` of the repository of `address` in records.
pub(super) fn at(address: &Address, path: &str) -> String {
    address.of(path).canonical().to_string()
}

/// The path in the repository of `address` of the file that `output` names, if it is one.
fn path_of(address: &Address, output: &Output) -> Option<String> {
    output.at.strip_prefix(&at(address, "")).map(str::to_owned)
}

/// Whether `output` is below the folder of `address`, or its card.
pub(super) fn is_of(address: &Address, output: &Output) -> bool {
    let folder = format!("{}/", address.path.trim_end_matches('/'));
    path_of(address, output).is_some_and(|path| address.path.is_empty() || path == CARD || path.starts_with(&folder))
}

/// Whether `tree` holds what `output` says at `path`.
fn holds(tree: &Tree, path: &str, output: &Output) -> bool {
    tree.digest(path).is_some_and(|digest| !digest.is_empty() && digest == output.version)
}

/// The files below the folder of `address` that none of `records` names, or that changed since. The card is somebody's only if
/// it is in the way, which is found out when there is one of ours.
pub(super) fn foreign(tree: &Tree, address: &Address, records: &BTreeMap<String, Record>) -> Vec<String> {
    let outputs: Vec<&Output> = records.values().flat_map(|record| &record.outputs).collect();
    let is_own = |path: &str| {
        let of_path = |output: &&&Output| path_of(address, output).as_deref() == Some(path);
        outputs.iter().filter(of_path).any(|output| holds(tree, path, output))
    };
    let inside = |path: &str| {
        let folder = &address.path;
        folder.is_empty() || path.strip_prefix(folder.as_str()).is_some_and(|below| below.starts_with('/'))
    };
    let files = tree.files().filter(|path| inside(path) && *path != CARD && *path != HUBS_OWN);
    files.filter(|path| !is_own(path)).map(str::to_owned).collect()
}

/// Refuses to write beside what others made.
pub(super) fn refuse_foreign(stage: &str, to: &Publication, foreign: &[String]) -> Result<()> {
    if foreign.is_empty() || to.overwrites {
        return Ok(());
    }
    let message = format!(
        "{} holds {}, which sepo did not upload from this workdir or which changed since; name another folder or repository, or \
         set `overwrite: true` to replace files of the same names",
        to.address,
        some_of(foreign)
    );
    Err(Error::stage(stage, message))
}

impl Run<'_> {
    /// Whether everything that `record` names in the repository of `to` is there, but for its card, which people edit.
    pub(super) fn is_published(&self, to: &Publication, record: &Record) -> Result<bool> {
        let own = record.outputs.iter().filter(|output| is_of(&to.address, output));
        let outputs: Vec<(String, &Output)> =
            own.filter_map(|output| Some((path_of(&to.address, output)?, output))).collect();
        if outputs.is_empty() {
            return Ok(false);
        }
        let Look::Found(tree) = Hub::from_env().look(&to.address)? else { return Ok(false) };
        Ok(outputs.iter().filter(|(path, _)| path != CARD).all(|(path, output)| holds(&tree, path, output)))
    }

    /// Refuses a repository that holds what others made, before anything is computed for it; makes it if it is to be made.
    pub(super) fn refuse_foreign_files(&self, stage: &str, to: &Publication) -> Result<()> {
        let tree = Hub::from_env().writable(&to.address, to.create)?;
        refuse_foreign(stage, to, &foreign(&tree, &to.address, &self.all_recorded()?))
    }

    /// Brings the files of `upload` to the hub. `note` writes into the stage's record what it is about to name its own.
    pub(super) fn upload(&self, upload: Upload, note: impl Fn(&[Output]) -> Result<()>) -> Result<Uploaded> {
        let Upload { stage, to, files, earlier } = upload;
        let (hub, address) = (Hub::from_env(), &to.address);
        let (outgoing, written): (Vec<Outgoing>, Vec<Written>) = files.into_iter().unzip();
        let mut tree = hub.writable(address, to.create)?;
        let prepared = hub.prepare(address, outgoing, self.monitor)?;
        let output = |(file, written): (&Prepared, &Written)| Output {
            at: at(address, file.path()),
            written: written.clone(),
            version: file.digest().to_owned(),
        };
        let outputs: Vec<Output> = prepared.iter().zip(&written).map(output).collect();
        note(&outputs)?;
        let summary = format!("{stage}: {} files by sepo {}", prepared.len(), env!("CARGO_PKG_VERSION"));
        for _ in 0..PATIENCE {
            let records = self.all_recorded()?;
            let changes = changes(stage, to, &tree, &prepared, &earlier, &records)?;
            let is_there = |output: &Output| {
                let put =
                    |change: &Change| matches!(change, Change::Put(file) if at(address, file.path()) == output.at);
                let path = path_of(address, output).unwrap_or_default();
                holds(&tree, &path, output) || changes.iter().any(put)
            };
            // Without a card that stays as somebody else wrote it.
            let outputs: Vec<Output> = outputs.iter().filter(|output| is_there(output)).cloned().collect();
            hub.send(address, &changes, self.monitor)?;
            if changes.is_empty() {
                return Ok(Uploaded { outputs, commit: None });
            }
            if self.monitor.stopping() {
                return Err(Error::Interrupted);
            }
            if let Some(commit) = hub.commit(address, &tree, &changes, &summary)? {
                return Ok(Uploaded { outputs, commit: Some(commit) });
            }
            tree = hub.writable(address, None)?;
        }
        let message =
            format!("others committed {PATIENCE} times while this upload tried to; run the same command again");
        Err(Error::Store { path: address.to_string(), message, retryable: true })
    }
}

/// What has to change in `tree` for it to hold `files`, and no others of `earlier`.
fn changes<'a>(
    stage: &str,
    to: &Publication,
    tree: &Tree,
    files: &'a [Prepared],
    earlier: &'a [Output],
    records: &BTreeMap<String, Record>,
) -> Result<Vec<Change<'a>>> {
    let address = &to.address;
    let recorded: Vec<&Output> = records.values().flat_map(|record| &record.outputs).collect();
    let is_ours = |path: &str, outputs: &[&Output]| {
        outputs.iter().any(|output| output.at == at(address, path) && holds(tree, path, output))
    };
    let own: Vec<&Output> = earlier.iter().collect();
    let (mut changes, mut foreign) = (Vec::new(), Vec::new());
    for file in files {
        match tree.digest(file.path()) {
            Some(digest) if digest == file.digest() => continue,
            None => {}
            Some(_) if to.overwrites => {}
            // All stages that write into the repository make its card, each from what all of them recorded.
            Some(_) if file.path() == CARD && is_ours(CARD, &recorded) => {}
            Some(_) if file.path() == CARD => {
                let help = "its card stays as it is; `overwrite: true` replaces it";
                warn!("stage `{stage}`: somebody else wrote the {CARD} of {address}: {help}");
                continue;
            }
            Some(_) if is_ours(file.path(), &own) => {}
            Some(_) => {
                foreign.push(file.path().to_owned());
                continue;
            }
        }
        changes.push(Change::Put(file));
    }
    refuse_foreign(stage, to, &foreign)?;
    let names: BTreeSet<&str> = files.iter().map(Prepared::path).collect();
    let root = at(address, "");
    // After a crash the record names a file more than once.
    let mut gone = BTreeSet::new();
    for output in earlier {
        let Some(path) = output.at.strip_prefix(&root) else { continue };
        if path != CARD && !names.contains(path) && holds(tree, path, output) {
            gone.insert(path);
        }
    }
    changes.extend(gone.into_iter().map(Change::Delete));
    Ok(changes)
}
