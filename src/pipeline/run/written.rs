//! `write` stages: which files of a folder are the stage's by its record, and how new ones take their places.
//!
//! The record names files before they get their names, so that after a crash the stage still knows its own; a file that it
//! does not name, or that changed since, is the user's.

use std::collections::{BTreeMap, BTreeSet};

use super::Run;
use super::record::{Done, Output, Record};
use super::sink::Drained;
use crate::error::{Error, Result};
use crate::io::owned::{Depth, holds, some_of};
use crate::io::{Canonical, Location, session};
use crate::pipeline::plan::Node;
use crate::stages::write::Shard;
use crate::stages::{Destination, Ending};

/// The folder of a `write` stage and what is known of the files in it.
struct Outputs {
    folder: Location,
    at: Canonical,
    /// What the stage wrote by its record, under whatever settings, wherever it lies.
    recorded: Vec<Output>,
    /// Files in the folder that the stage did not write, or that changed since; with the stage that wrote them, if one did.
    others: BTreeMap<String, Option<String>>,
}

impl Run<'_> {
    /// Runs stage `node`, which writes files `to` a folder, unless an earlier run did.
    pub(super) fn write(&mut self, node: &Node, ending: &dyn Ending, to: &dyn Destination) -> Result<()> {
        let folder = self.plan.stores.locate(to.folder())?;
        if self.is_written(node, &folder)? {
            return Ok(());
        }
        let lease = self.lease(&node.id)?;
        // Whoever held it before may have written the files.
        if self.is_written(node, &folder)? {
            return Ok(());
        }
        let record = self.recorded(&node.id)?;
        let outputs = Outputs::of(self, record, folder.clone())?;
        outputs.refuse_others(node, to)?;
        let Drained { report, passed, files, .. } = self.drain(node, ending)?;
        lease.held()?;
        let record = outputs.publish(self, node, to, files, self.conclude(&node.id, report, passed))?;
        self.report.outputs.extend(shown(&folder, &record));
        self.finish(&node.id, record)
    }

    /// Whether the stage wrote its files under its present settings; the report then has what is remembered of it.
    fn is_written(&mut self, node: &Node, folder: &Location) -> Result<bool> {
        let Some(found) = self.recorded(&node.id)?.filter(|record| record.fingerprint == self.fingerprints[&node.id])
        else {
            return Ok(false);
        };
        if !self.is_whole(node, &found, folder)? {
            return Ok(false);
        }
        self.some_rows(&found.reports, &self.folder("rejects", node))?;
        self.report.outputs.extend(shown(folder, &found));
        self.remember(found, Done::Earlier);
        Ok(true)
    }

    /// Whether all files that `record` names in `folder` are there.
    ///
    /// # Errors
    /// Files that changed since.
    fn is_whole(&self, node: &Node, record: &Record, folder: &Location) -> Result<bool> {
        let mut changed = Vec::new();
        let (at, mut there) = (folder.canonical(), 0);
        for output in &record.outputs {
            let Some(name) = below(&at, output) else { continue };
            let file = folder.join(&name);
            let Some(size) = file.size()? else { return Ok(false) };
            // An unchanged version is the store's word; another one may be that of a copy.
            let is_same = self.verify == Depth::Size && file.tag()? == output.version && size == output.written.bytes;
            if !is_same && holds(&file, &output.written, Depth::Digest)? != Some(true) {
                changed.push(name);
            }
            there += 1;
        }
        if changed.is_empty() {
            return Ok(there > 0);
        }
        let message = format!(
            "in {folder}, {} changed since sepo wrote it; move it away or delete it, and run again to have it written again",
            some_of(&changed)
        );
        Err(Error::stage(&node.id, message))
    }

    /// Lets stage `node` write again what it wrote; the record still says which files are its own.
    pub(super) fn forget_written(&self, node: &Node) -> Result<()> {
        match self.recorded(&node.id)? {
            Some(record) => self.record(&node.id, &Record { fingerprint: String::new(), ..record }),
            None => Ok(()),
        }
    }
}

/// The files of `record` in `folder`, as the user calls them.
fn shown(folder: &Location, record: &Record) -> Vec<String> {
    let at = folder.canonical();
    record.outputs.iter().filter_map(|output| Some(folder.join(&below(&at, output)?).to_string())).collect()
}

/// The path of `output` below the folder `at`.
fn below(at: &Canonical, output: &Output) -> Option<String> {
    output.at.strip_prefix(&at.to_string())?.strip_prefix('/').map(str::to_owned)
}

impl Outputs {
    fn of(run: &Run, record: Option<Record>, folder: Location) -> Result<Self> {
        let recorded = record.map(|record| record.outputs).unwrap_or_default();
        let at = folder.canonical();
        let mut outputs = Self { folder, at, recorded, others: BTreeMap::new() };
        for found in outputs.folder.scan()? {
            if session::mark_of(found.name()).is_some() {
                continue;
            }
            let is_own = found.is_file && outputs.is_own(&found.path, &outputs.recorded)?;
            if !is_own {
                outputs.others.insert(found.path, None);
            }
        }
        if !outputs.others.is_empty() {
            for (stage, record) in run.all_recorded()? {
                for name in record.outputs.iter().filter_map(|output| below(&outputs.at, output)) {
                    outputs.others.entry(name).and_modify(|by| *by = Some(stage.clone()));
                }
            }
        }
        Ok(outputs)
    }

    /// Whether the file `name` is there and holds what one of `recorded` says.
    fn is_own(&self, name: &str, recorded: &[Output]) -> Result<bool> {
        for output in recorded.iter().filter(|output| below(&self.at, output).as_deref() == Some(name)) {
            if holds(&self.folder.join(name), &output.written, Depth::Digest)? == Some(true) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Files of other stages may lie beside the stage's own; anything else needs `overwrite`.
    fn refuse_others(&self, node: &Node, to: &dyn Destination) -> Result<()> {
        let own = |name: &String, by: &Option<String>| by.is_none() || to.may_make(name);
        let refused: Vec<String> =
            self.others.iter().filter(|(name, by)| own(name, by)).map(|(name, _)| name.clone()).collect();
        if refused.is_empty() || to.overwrites() {
            return Ok(());
        }
        let message = format!(
            "{} holds {}, which this stage did not write or which changed since; write to another folder, or set `overwrite: \
             true` to replace files of the same names",
            self.folder,
            some_of(&refused)
        );
        Err(Error::stage(&node.id, message))
    }

    /// Gives `shards` their names in place of what the stage wrote before. Returns the stage's record, which is `record`
    /// with all files.
    fn publish(
        &self,
        run: &Run,
        node: &Node,
        to: &dyn Destination,
        mut shards: Vec<Shard>,
        record: Record,
    ) -> Result<Record> {
        let output = |shard: &Shard| Output {
            at: format!("{}/{}", self.at, shard.name),
            written: shard.written.clone(),
            version: String::new(),
        };
        let new: Vec<Output> = shards.iter().map(output).collect();
        let (earlier, elsewhere): (Vec<Output>, Vec<Output>) =
            self.recorded.iter().cloned().partition(|output| below(&self.at, output).is_some());
        let unfinished = Record {
            workdir: run.workdir.id.clone(),
            outputs: [elsewhere.clone(), earlier.clone(), new.clone()].concat(),
            ..Record::default()
        };
        run.record(&node.id, &unfinished)?;
        for shard in &mut shards {
            let place = self.folder.join(&shard.name);
            if place.exists()? && !to.overwrites() && !self.is_own(&shard.name, &earlier)? {
                let message = format!("{place} appeared or changed while the stage ran; move it away and run again");
                return Err(Error::stage(&node.id, message));
            }
            shard.publish(&place)?;
        }
        let names: BTreeSet<&str> = shards.iter().map(|shard| shard.name.as_str()).collect();
        let old: BTreeSet<String> = earlier.iter().filter_map(|output| below(&self.at, output)).collect();
        for name in old.iter().filter(|name| !names.contains(name.as_str())) {
            if self.is_own(name, &earlier)? {
                self.folder.join(name).delete()?;
            }
        }
        let versioned = shards
            .iter()
            .zip(new)
            .map(|(shard, output)| Ok(Output { version: self.folder.join(&shard.name).tag()?, ..output }));
        let versioned: Vec<Output> = versioned.collect::<Result<_>>()?;
        Ok(Record { outputs: [elsewhere, versioned].concat(), ..record })
    }
}
