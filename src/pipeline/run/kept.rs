//! What a workdir keeps by its records, and what of it no run of the pipeline will ever use again. What has no record, or
//! is used by another pipeline file, is never listed for removal.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::parts::{self, MANIFEST};
use super::record::Record;
use super::workdir::Workdir;
use super::{Options, Run};
use crate::error::Result;
use crate::io::{Location, Owned, Owner, Written, session};
use crate::monitor::Monitor;
use crate::pipeline::Planned;

/// The folders of a workdir whose entries carry a fingerprint.
const KINDS: [&str; 3] = ["data", "rejects", "checkpoints"];

/// A file that is not finished may still be at work for so long.
const AT_WORK: Duration = Duration::from_secs(24 * 3600);

/// A folder of the workdir that belongs to one stage under one fingerprint.
#[derive(Debug, Serialize)]
pub struct KeptFolder {
    /// `data` (parts), `rejects` or `checkpoints`.
    pub kind: &'static str,
    /// The stage's id.
    pub stage: String,
    /// The first 16 digits of its fingerprint.
    pub fingerprint: String,
    /// Whether the pipeline, as it is now, has such a stage.
    pub current: bool,
    /// Whether another pipeline file uses it.
    pub shared: bool,
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
    folder: Owned,
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
    Folder(Owned, BTreeMap<String, Option<Written>>),
    File(Location),
    /// A folder that a killed process alone has filled.
    Draft(Owned),
    /// The record of a run of which nothing unfinished is left.
    Session(Workdir, String),
}

impl Orphan {
    /// Removes it for good. Files that no record names stay, and are returned.
    ///
    /// # Errors
    /// A store or a disk that fails.
    pub fn remove(self) -> Result<Vec<String>> {
        match self.what {
            What::Folder(owned, parts) => owned.remove(&parts),
            What::File(file) => file.delete().map(|()| Vec::new()),
            What::Draft(mut owned) => owned.take_stock().and_then(|()| owned.remove(&BTreeMap::new())),
            What::Session(workdir, mark) => workdir.end(&mark).map(|()| Vec::new()),
        }
    }
}

/// What the first workdir of `pipelines` keeps by its records, whichever pipeline made it.
///
/// # Errors
/// A store that fails; models that cannot be read, on which fingerprints depend.
pub fn kept(pipelines: &[Planned], monitor: &dyn Monitor) -> Result<Vec<KeptFolder>> {
    let Some(workdir) = workdir(pipelines)? else { return Ok(Vec::new()) };
    let (mut fingerprints, mut users) = (BTreeSet::new(), BTreeSet::new());
    for Planned { name, plans, .. } in pipelines {
        for plan in plans {
            let run = Run::prepare(plan, workdir.clone(), name, &Options::default(), monitor)?;
            fingerprints.extend(run.fingerprints.keys().map(|id| run.folder_name(id)));
            users.insert(run.pipeline);
        }
    }
    let mut kept = Vec::new();
    for kind in KINDS {
        let root = workdir.at.join(kind);
        for folder in root.entries()? {
            let Some(owned) = Owned::open(root.join(&folder))?.filter(|owned| owned.owner().workdir == workdir.id)
            else {
                continue;
            };
            let files = owned.folder().scan()?;
            let notes = files.iter().filter(|found| found.path.starts_with("part-") && found.path.ends_with(".json"));
            let newest = files.iter().map(|found| found.changed).max();
            let fingerprint: String = owned.owner().fingerprint.chars().take(16).collect();
            kept.push(KeptFolder {
                kind,
                stage: owned.owner().stage.clone(),
                current: fingerprints.contains(&folder),
                shared: !owned.used_by().is_subset(&users),
                finished: kind == "data" && Record::at(&owned.folder().join(MANIFEST))?.is_some(),
                units: notes.count() as u64,
                files: files.len() as u64,
                bytes: files.iter().map(|found| found.bytes).sum(),
                idle_seconds: newest.map_or(0, age),
                fingerprint,
                folder: owned,
            });
        }
    }
    Ok(kept)
}

fn workdir(pipelines: &[Planned]) -> Result<Option<Workdir>> {
    let first = pipelines.iter().find_map(|planned| planned.plans.first());
    let at = first.map(|plan| plan.stores.locate(&plan.workdir)).transpose()?;
    Ok(at.map(Workdir::existing).transpose()?.flatten())
}

/// What no run of `pipelines` will use: what they alone made with other settings, and what killed runs left unfinished.
///
/// # Errors
/// As [`kept`].
pub fn orphans(pipelines: &[Planned], monitor: &dyn Monitor) -> Result<Vec<Orphan>> {
    let mut orphans = Vec::new();
    let mut live = Vec::new();
    let Some(workdir) = workdir(pipelines)? else { return Ok(orphans) };
    for kept in kept(pipelines, monitor)? {
        let is_data = kept.kind == "data";
        if kept.current || kept.shared {
            live.extend(
                is_data
                    .then(|| Ok((kept.folder.folder().clone(), workdir.noted(kept.folder.folder())?)))
                    .transpose()?,
            );
            continue;
        }
        let parts = if is_data { workdir.parts(kept.folder.folder())? } else { BTreeMap::new() };
        let path = kept.folder.folder().to_string();
        orphans.push(Orphan {
            path,
            why: "of other settings",
            bytes: kept.bytes,
            what: What::Folder(kept.folder, parts),
        });
    }
    let first = pipelines.iter().find_map(|planned| planned.plans.first());
    let Some(first) = first else { return Ok(orphans) };
    for session in workdir.sessions()? {
        let mut places = vec![workdir.at.clone()];
        for folder in &session.folders {
            places.push(first.stores.locate(folder)?);
        }
        let (mut unfinished, mut is_over) = (Vec::new(), true);
        for place in &places {
            for (orphan, changed) in of_session(place, &session.mark, &live)? {
                is_over &= is_abandoned(changed);
                // A folder of outputs may lie in the workdir.
                if !unfinished.iter().any(|other: &Orphan| other.path == orphan.path) {
                    unfinished.push(orphan);
                }
            }
        }
        if is_over {
            orphans.extend(unfinished);
            let path = workdir.at.join(&format!("sessions/{}.json", session.mark)).to_string();
            if workdir.is_abandoned(&session.mark)? {
                orphans.push(Orphan {
                    path,
                    why: "of a killed run",
                    bytes: 0,
                    what: What::Session(workdir.clone(), session.mark),
                });
            }
        }
    }
    Ok(orphans)
}

/// What the process with `mark` left unfinished below `place`, with the time of its last change: drafts, and parts that no
/// note of the folders `live` names.
fn of_session(
    place: &Location,
    mark: &str,
    live: &[(Location, BTreeSet<String>)],
) -> Result<Vec<(Orphan, SystemTime)>> {
    let mut orphans = Vec::new();
    let mut drafts: BTreeMap<String, (u64, SystemTime)> = BTreeMap::new();
    for found in place.scan()? {
        let orphan = |path: String, bytes, what| Orphan { path, why: NEVER_FINISHED, bytes, what };
        let names: Vec<&str> = found.path.split('/').collect();
        let draft = names.iter().position(|name| session::mark_of(name) == Some(mark));
        match draft {
            Some(at) if at + 1 == names.len() => {
                let file = place.join(&found.path);
                orphans.push((orphan(file.to_string(), found.bytes, What::File(file)), found.changed));
            }
            Some(at) => {
                let (bytes, changed) = drafts.entry(names[..=at].join("/")).or_insert((0, found.changed));
                (*bytes, *changed) = (*bytes + found.bytes, (*changed).max(found.changed));
            }
            None if parts::mark_of(found.name()) == Some(mark) => {
                let file = place.join(&found.path);
                let folder = live
                    .iter()
                    .find(|(folder, _)| file.canonical().below(&folder.canonical()).as_deref() == Some(found.name()));
                if folder.is_some_and(|(_, parts)| !parts.contains(found.name())) {
                    orphans.push((orphan(file.to_string(), found.bytes, What::File(file)), found.changed));
                }
            }
            None => {}
        }
    }
    for (path, (bytes, changed)) in drafts {
        let folder = place.join(&path);
        let (path, owner) = (folder.to_string(), Owner::default());
        let what = What::Draft(Owned::new(folder, &owner, ""));
        orphans.push((Orphan { path, why: NEVER_FINISHED, bytes, what }, changed));
    }
    Ok(orphans)
}

const NEVER_FINISHED: &str = "never finished";

pub(super) fn is_abandoned(changed: SystemTime) -> bool {
    age(changed) > AT_WORK.as_secs()
}

fn age(changed: SystemTime) -> u64 {
    SystemTime::now().duration_since(changed).unwrap_or_default().as_secs()
}
