//! A stage's rows into parts, one for each unit of work, by as many processes as there are.

use std::sync::Mutex;

use super::balance::balanced;
use super::parts::{MANIFEST, Part, name};
use super::pass::Pass;
use super::record::{Done, Record};
use super::rows::{conclude, met};
use super::share::Assignment;
use super::spread::Walk;
use super::{Progress, Run, locked};
use crate::error::{Error, Result};
use crate::io::lease::{Lease, Wait};
use crate::io::{Location, random};
use crate::pipeline::flow::Flow;
use crate::pipeline::plan::Node;
use crate::pipeline::rejects::TooMany;
use crate::pipeline::report::{Reports, add};

/// Units that a message names.
const NAMED: usize = 5;

/// Notes that are in memory at a time when all are added up.
const NOTES_AT_ONCE: usize = 1024;

/// What the notes of some units say.
#[derive(Default)]
struct Gathered {
    reports: Reports,
    parts: Vec<Part>,
    /// Units without a note, or with a part that is not what its note says.
    missing: Vec<usize>,
}

impl<'a> Run<'a> {
    /// Runs the rows of `node` into parts, one for each unit that is not there yet.
    pub(super) fn materialise(&mut self, node: &'a Node) -> Result<Progress> {
        let manifest = self.folder("data", node).join(MANIFEST);
        if let Some(record) = self.finished(&manifest, &node.id)? {
            self.some_rows(&record.reports, &self.folder("rejects", node))?;
            self.remember(record, Done::Earlier);
            return Ok(Progress::Done);
        }
        let pass = self.pass(node)?;
        if self.assignment != Assignment::Merge {
            self.walk(&pass)?;
        }
        // Without a share, every unit was done or met.
        let missing = if self.assignment == Assignment::All { Vec::new() } else { pass.units.look_again()? };
        if missing.is_empty() {
            return self.commit(pass, &manifest).map(|()| Progress::Done);
        }
        self.refuse_disagreement(node)?;
        if self.assignment == Assignment::Merge {
            return Err(unfinished(node, &pass.flow, &missing));
        }
        let count = pass.flow.units.len();
        let own = (0..count).filter(|unit| self.assignment.holds(*unit) && missing.binary_search(unit).is_err());
        let gathered = self.gather(&pass, own.collect())?;
        let (record, done) = self.sum(&pass, gathered)?;
        self.remember(record, done);
        Ok(Progress::Waiting(format!(
            "stage `{}`: {} of {count} units belong to other shares and are not there yet; the share that ends last goes on, or \
             run again without --units",
            node.id,
            missing.len(),
        )))
    }

    /// Does the units of this run that are left, but those that other workers do meanwhile.
    fn walk(&self, pass: &Pass<'a>) -> Result<()> {
        let mut walk = Walk::new(pass.units.found(), |unit| self.assignment.holds(unit), random());
        if self.workdir.has_others()? {
            walk.join(&pass.units)?;
        }
        self.monitor.begin(&pass.node().id, Some(pass.flow.rows), "rows");
        let walk = Mutex::new(walk);
        self.in_threads(pass, pass.flow.units.len(), &|pass, steps| {
            // The lock is free while a unit is done.
            while let Some(unit) = { locked(&walk).next() } {
                if self.stops(pass) {
                    return Err(Error::Interrupted);
                }
                if !pass.units.is_noted(unit)? && self.unit(pass, steps, unit)? {
                    locked(&walk).did(unit, &pass.units)?;
                } else {
                    locked(&walk).meet(unit, &pass.units)?;
                }
            }
            Ok(())
        })?;
        self.monitor.end();
        Ok(())
    }

    /// Does the units `damaged`, whatever other workers know of them.
    fn make_again(&self, pass: &Pass<'a>, damaged: &[usize]) -> Result<()> {
        let rows = damaged.iter().map(|unit| pass.flow.most(*unit)).sum();
        self.monitor.begin(&pass.node().id, Some(rows), "rows");
        self.in_threads(pass, 1, &|pass, steps| {
            damaged.iter().try_for_each(|unit| {
                if self.stops(pass) { Err(Error::Interrupted) } else { self.unit(pass, steps, *unit).map(drop) }
            })
        })?;
        self.monitor.end();
        Ok(())
    }

    /// Commits the stage of `pass`, all of whose units were found or done, unless another run does: one checks the parts that
    /// earlier runs left and reads all notes, the others wait.
    fn commit(&mut self, pass: Pass<'a>, manifest: &Location) -> Result<()> {
        let node = pass.node();
        let lease = self.lease_of_commit(&node.id, manifest)?;
        if let Some(record) = self.finished(manifest, &node.id)? {
            self.some_rows(&record.reports, &self.folder("rejects", node))?;
            locked(&self.sound).insert(node.id.clone());
            self.remember(record, if pass.load_seconds().is_some() { Done::Now } else { Done::Earlier });
            return Ok(());
        }
        let gathered = loop {
            let gathered = self.gather(&pass, (0..pass.flow.units.len()).collect())?;
            match (gathered.missing.is_empty(), self.assignment) {
                (true, _) => break gathered,
                (false, Assignment::Merge) => return Err(unfinished(node, &pass.flow, &gathered.missing)),
                (false, _) => self.make_again(&pass, &gathered.missing)?,
            }
        };
        let (kept, rejects) = (gathered.parts.iter().map(|part| part.rows).sum(), self.folder("rejects", node));
        let came = pass.flow.reader.is_none().then_some(pass.flow.rows);
        let mut reports = gathered.reports.clone();
        let way = way(&pass);
        met(&mut reports, &way);
        balanced(&reports, &way, came, Some(kept))?;
        if let Some(too_many) = TooMany::find(&Reports::new(), &reports, pass.flow.max_reject_share) {
            return Err(too_many.error(&rejects));
        }
        let (record, done) = self.sum(&pass, gathered)?;
        self.some_rows(&record.reports, &rejects)?;
        self.unchanged(&pass.flow, pass.nodes.iter().copied())?;
        // A run whose lease ended may have been faster; it wrote the same, unless it was damaged since.
        if !manifest.create(record.to_json())? && self.finished(manifest, &node.id)?.is_none() {
            manifest.write(record.to_json())?;
        }
        locked(&self.sound).insert(node.id.clone());
        self.remember(record, done);
        drop(lease);
        Ok(())
    }

    /// The lease by which one run commits stage `id`; none where another one has, in `manifest`.
    fn lease_of_commit(&self, id: &str, manifest: &Location) -> Result<Option<Lease>> {
        let name = format!("{}-commit", self.folder_name(id));
        Lease::acquire(&self.workdir.at.join("leases"), &name, |_| {
            if self.monitor.stopping() {
                return Err(Error::Interrupted);
            }
            Ok(if manifest.is_file()? { Wait::GiveUp } else { Wait::On })
        })
    }

    /// The notes of `units`, added up in their order, whatever way was taken: sums of floating-point numbers depend on it.
    fn gather(&self, pass: &Pass<'a>, units: Vec<usize>) -> Result<Gathered> {
        let mut gathered = Gathered::default();
        for some in units.chunks(NOTES_AT_ONCE) {
            if self.monitor.stopping() {
                return Err(Error::Interrupted);
            }
            let done = &locked(&pass.counted).done;
            let of_others = some.iter().copied().filter(|unit| !done.contains_key(unit));
            let mut read = pass.units.sound(&of_others.collect::<Vec<_>>())?.into_iter();
            for unit in some {
                let note = done.get(unit).cloned().or_else(|| read.next().flatten());
                match note {
                    Some(note) => {
                        add(&mut gathered.reports, &note.reports);
                        gathered.parts.push(note.part);
                    }
                    None => gathered.missing.push(*unit),
                }
            }
        }
        Ok(gathered)
    }

    /// The record of what was `gathered`, and by whom it was done.
    fn sum(&self, pass: &Pass<'a>, gathered: Gathered) -> Result<(Record, Done)> {
        let (node, mut reports) = (pass.node(), gathered.reports);
        met(&mut reports, &way(pass));
        conclude(&mut reports, self.plan)?;
        let mut report = reports.remove(&node.id).unwrap_or_default();
        report.load_seconds = pass.load_seconds().unwrap_or_default();
        let record = Record { parts: gathered.parts, ..self.conclude(&node.id, report, reports) };
        let done = if pass.load_seconds().is_none() && !pass.flow.units.is_empty() { Done::Earlier } else { Done::Now };
        Ok((record, done))
    }
}

/// The stages that count the rows of `pass`, in order.
fn way(pass: &Pass) -> Vec<String> {
    let derived = pass.flow.derived.iter().map(|(id, _)| id);
    pass.flow.way(derived.chain(pass.nodes.iter().map(|node| &node.id)).cloned())
}

fn unfinished(node: &Node, flow: &Flow, missing: &[usize]) -> Error {
    let named = missing.iter().take(NAMED).map(|unit| {
        let (groups, file) = (&flow.units[*unit].0.groups, flow.dataset.file(&flow.units[*unit].0));
        format!("{} ({file}, row groups {} to {})", name(*unit), groups.start, groups.end - 1)
    });
    let named: Vec<String> = named.collect();
    let more = if missing.len() > NAMED { ", …" } else { "" };
    let message = format!(
        "{} of {} units are not there: {}{more}; run their shares again, or `sepo run` without --units for all that is \
         missing",
        missing.len(),
        flow.units.len(),
        named.join(", ")
    );
    Error::stage(&node.id, message)
}
