//! What a workdir keeps, by stage and fingerprint, and what of it no run of the pipeline will ever use again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::record::Record;
use super::{Options, Run};
use crate::error::{Error, Result};
use crate::io::{Listed, Location};
use crate::monitor::Monitor;
use crate::pipeline::Plan;
use crate::stages::Stage;
use crate::stages::write::Shards;

/// The folders of a workdir whose entries carry a fingerprint.
const KINDS: [&str; 3] = ["data", "rejects", "checkpoints"];

/// A file that is not finished may still be at work for so long.
const AT_WORK: Duration = Duration::from_secs(24 * 3600);

/// A folder of the workdir that belongs to one stage under one fingerprint.
#[derive(Debug, Serialize)]
pub struct Kept {
    /// `data` (parts), `rejects` or `checkpoints`.
    pub kind: &'static str,
    /// The stage's id.
    pub stage: String,
    /// The first 16 digits of its fingerprint.
    pub fingerprint: String,
    /// Whether the pipeline, as it is now, has such a stage.
    pub current: bool,
    /// Whether all parts are there; of data alone.
    pub finished: bool,
    /// Units that are done; of data alone.
    pub units: u64,
    /// Files in it.
    pub files: u64,
    /// Their size.
    pub bytes: u64,
    /// Seconds since one of them was written.
    pub idle_seconds: u64,
    #[serde(skip)]
    folder: Location,
}

/// Something that no run of the pipeline will use.
#[derive(Debug)]
pub struct Orphan {
    /// Its path or URL.
    pub path: String,
    /// Why nothing uses it.
    pub why: &'static str,
    /// Its size.
    pub bytes: u64,
    what: What,
}

#[derive(Debug)]
enum What {
    Folder(Location),
    File(Location),
    Staged(PathBuf),
}

impl Orphan {
    /// Removes it for good.
    pub fn remove(&self) -> Result<()> {
        match &self.what {
            What::Folder(folder) => folder.delete_all(),
            What::File(file) => file.delete(),
            What::Staged(path) => std::fs::remove_file(path).map_err(|error| Error::Store {
                path: self.path.clone(),
                message: error.to_string(),
                retryable: false,
            }),
        }
    }
}

/// What the workdir keeps that `plans`, the variants of a pipeline, share.
///
/// # Errors
/// A store that fails; models that cannot be read, on which fingerprints depend.
pub fn kept(plans: &[Plan], monitor: &dyn Monitor) -> Result<Vec<Kept>> {
    let Some(first) = plans.first() else { return Ok(Vec::new()) };
    let workdir = first.stores.locate(&first.workdir)?;
    let mut prints = BTreeSet::new();
    for plan in plans {
        let run = Run::prepare(plan, &Options::default(), monitor)?;
        prints.extend(run.prints.iter().map(|(id, print)| format!("{id}-{}", &print[..16])));
    }
    let mut kept = Vec::new();
    for kind in KINDS {
        let root = workdir.join(kind);
        let mut folders: BTreeMap<String, Vec<Listed>> = BTreeMap::new();
        let prefix = root.to_string().len() + 1;
        for listed in root.list_all()? {
            let path = listed.file.to_string();
            if let Some((folder, _)) = path[prefix..].split_once('/') {
                folders.entry(folder.to_owned()).or_default().push(listed);
            }
        }
        for (name, files) in folders {
            let Some((stage, fingerprint)) = name.rsplit_once('-') else { continue };
            let notes = files.iter().filter(|listed| listed.file.name().starts_with("part-"));
            let newest = files.iter().map(|listed| listed.changed).max();
            let folder = root.join(&name);
            kept.push(Kept {
                kind,
                stage: stage.to_owned(),
                fingerprint: fingerprint.to_owned(),
                current: prints.contains(&name),
                finished: kind == "data" && Record::at(&folder.join("manifest.json"))?.is_some(),
                units: notes.filter(|listed| listed.file.name().ends_with(".json")).count() as u64,
                files: files.len() as u64,
                bytes: files.iter().map(|listed| listed.bytes).sum(),
                idle_seconds: newest.map_or(0, age),
                folder,
            });
        }
    }
    Ok(kept)
}

/// What no run of `plans` will use: what was made with other settings, and files that were never finished.
///
/// # Errors
/// As [`kept`].
pub fn orphans(plans: &[Plan], monitor: &dyn Monitor) -> Result<Vec<Orphan>> {
    let stale = kept(plans, monitor)?.into_iter().filter(|kept| !kept.current);
    let stale = stale.map(|kept| Orphan {
        path: kept.folder.to_string(),
        why: "of other settings",
        bytes: kept.bytes,
        what: What::Folder(kept.folder),
    });
    let mut orphans: Vec<Orphan> = stale.collect();
    let mut folders: BTreeMap<String, Location> = BTreeMap::new();
    for plan in plans {
        let writes = plan.nodes.iter().filter_map(|node| match &node.stage {
            Stage::Write(write) => Some(&write.to),
            _ => None,
        });
        for url in writes.chain([&plan.workdir]) {
            folders.insert(url.clone(), plan.stores.locate(url)?);
        }
    }
    for folder in folders.into_values() {
        let drafts = folder.list_all()?.into_iter().filter(|listed| Shards::is_draft(listed.file.name()));
        let drafts = drafts.map(|it| (it.file.to_string(), it.changed, it.bytes, What::File(it.file)));
        let staged = folder.staged()?.into_iter();
        let staged = staged.map(|it| (it.path.display().to_string(), it.changed, it.bytes, What::Staged(it.path)));
        for (path, changed, bytes, what) in drafts.chain(staged) {
            if is_abandoned(changed) && !orphans.iter().any(|orphan| orphan.path == path) {
                orphans.push(Orphan { path, why: NEVER_FINISHED, bytes, what });
            }
        }
    }
    Ok(orphans)
}

const NEVER_FINISHED: &str = "never finished";

fn is_abandoned(changed: SystemTime) -> bool {
    age(changed) > AT_WORK.as_secs()
}

fn age(changed: SystemTime) -> u64 {
    SystemTime::now().duration_since(changed).unwrap_or_default().as_secs()
}
