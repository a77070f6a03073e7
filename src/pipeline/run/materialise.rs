//! A stage's rows into parts, one for each unit of work, by as many processes as there are.

use std::collections::BTreeMap;
use std::time::Instant;

use super::balance::balanced;
use super::parts::{KNOWN, MANIFEST, Note, Part, Units, name};
use super::record::{Done, Record};
use super::rows::{conclude, met};
use super::share::Assignment;
use super::spread::Walk;
use super::{Progress, Run};
use crate::error::{Error, Result};
use crate::io::lease::{Lease, Wait};
use crate::io::{FileFormat, Location, random};
use crate::pipeline::flow::{Flow, Step};
use crate::pipeline::plan::Node;
use crate::pipeline::rejects::{Folder, TooMany};
use crate::pipeline::report::{Reports, add};

/// Units that a message names.
const NAMED: usize = 5;

/// Notes that are in memory at a time when all are added up.
const NOTES_AT_ONCE: usize = 1024;

/// A pass of units through the stages up to one that is materialised.
struct Pass<'a> {
    flow: Flow,
    /// The stages, of which the last is materialised.
    nodes: Vec<&'a Node>,
    units: Units,
    /// None before the first unit: where everything is there, no model is needed.
    steps: Option<Vec<Step>>,
    /// Seconds that models took to load.
    load_seconds: Option<f64>,
    /// The units that this process did.
    done: BTreeMap<usize, Note>,
    /// What was counted of them.
    seen: Reports,
}

impl<'a> Pass<'a> {
    fn node(&self) -> &'a Node {
        self.nodes.last().expect("a pass ends in a stage")
    }
}

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
        let mut pass = self.pass(node)?;
        if self.assignment != Assignment::Merge {
            self.walk(&mut pass)?;
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

    fn pass(&self, node: &'a Node) -> Result<Pass<'a>> {
        let (flow, mut nodes) = self.flow(node.operation().inputs()[0].1)?;
        nodes.push(node);
        let mut data = self.claim("data", node).open()?;
        data.expect(MANIFEST)?;
        data.expect(KNOWN)?;
        let units = match self.assignment {
            Assignment::All => Units::told(data, flow.units.len())?,
            Assignment::Share(_) | Assignment::Merge => Units::of(data, flow.units.len())?,
        };
        let (done, seen) = (BTreeMap::new(), Reports::new());
        Ok(Pass { flow, nodes, units, steps: None, load_seconds: None, done, seen })
    }

    /// Does the units of this run that are left, but those that other workers do meanwhile.
    fn walk(&self, pass: &mut Pass<'a>) -> Result<()> {
        let mut walk = Walk::new(pass.units.found(), |unit| self.assignment.holds(unit), random());
        if self.workdir.has_others()? {
            walk.join(&pass.units)?;
        }
        self.monitor.begin(&pass.node().id, Some(pass.flow.rows), "rows");
        while let Some(unit) = walk.next() {
            if self.monitor.stopping() {
                return Err(Error::Interrupted);
            }
            if !pass.units.is_noted(unit)? && self.unit(pass, unit)? {
                walk.did(unit, &pass.units)?;
            } else {
                walk.meet(unit, &pass.units)?;
            }
        }
        self.monitor.end();
        Ok(())
    }

    /// Does the units `damaged`, whatever other workers know of them.
    fn make_again(&self, pass: &mut Pass<'a>, damaged: &[usize]) -> Result<()> {
        let rows = damaged.iter().map(|unit| pass.flow.units[*unit].0.rows).sum();
        self.monitor.begin(&pass.node().id, Some(rows), "rows");
        for unit in damaged {
            if self.monitor.stopping() {
                return Err(Error::Interrupted);
            }
            self.unit(pass, *unit)?;
        }
        self.monitor.end();
        Ok(())
    }

    /// One unit's rows into one part; false where another worker was faster.
    fn unit(&self, pass: &mut Pass<'a>, unit: usize) -> Result<bool> {
        let (node, count) = (pass.node(), pass.flow.units.len());
        let steps = match &mut pass.steps {
            Some(steps) => steps,
            none => {
                let start = Instant::now();
                let steps = none.insert(self.open(&pass.flow, &pass.nodes)?);
                pass.load_seconds = Some(start.elapsed().as_secs_f64());
                steps
            }
        };
        let part = pass.units.own_part(unit);
        let (mut writer, mut rows) = (None, 0);
        let mut passed = pass.flow.run(unit, &pass.seen, steps, &mut |batch| {
            if writer.is_none() {
                writer = Some(FileFormat::Parquet.create(&part, &batch.schema())?);
            }
            rows += batch.num_rows() as u64;
            self.monitor.advance(batch.num_rows() as u64, "");
            writer.as_mut().expect("created just above").write(&batch)?;
            Ok(!self.monitor.stopping())
        })?;
        if self.monitor.stopping() {
            return Err(Error::Interrupted);
        }
        passed.keep_rejects(&Folder::new(self.claim("rejects", node)), unit, count)?;
        let file = match writer {
            Some(writer) => writer.finish()?,
            None => FileFormat::Parquet.create(&part, &node.columns)?.finish()?,
        };
        passed.reports.entry(node.id.clone()).or_default().bytes = file.bytes;
        let note = Note { part: Part { name: part.name().to_owned(), rows, file }, reports: passed.reports };
        if !pass.units.finish(unit, &note)? {
            // The note names another worker's part; that of another machine may differ in a last bit.
            part.delete()?;
            return Ok(false);
        }
        add(&mut pass.seen, &note.reports);
        pass.done.insert(unit, note);
        Ok(true)
    }

    /// Commits the stage of `pass`, all of whose units were found or done, unless another run does: one checks the parts that
    /// earlier runs left and reads all notes, the others wait.
    fn commit(&mut self, mut pass: Pass<'a>, manifest: &Location) -> Result<()> {
        let node = pass.node();
        let lease = self.lease_of_commit(&node.id, manifest)?;
        if let Some(record) = self.finished(manifest, &node.id)? {
            self.some_rows(&record.reports, &self.folder("rejects", node))?;
            self.sound.borrow_mut().insert(node.id.clone());
            self.remember(record, if pass.load_seconds.is_some() { Done::Now } else { Done::Earlier });
            return Ok(());
        }
        let gathered = loop {
            let gathered = self.gather(&pass, (0..pass.flow.units.len()).collect())?;
            match (gathered.missing.is_empty(), self.assignment) {
                (true, _) => break gathered,
                (false, Assignment::Merge) => return Err(unfinished(node, &pass.flow, &gathered.missing)),
                (false, _) => self.make_again(&mut pass, &gathered.missing)?,
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
        self.sound.borrow_mut().insert(node.id.clone());
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
            let (of_others, done) = (some.iter().copied().filter(|unit| !pass.done.contains_key(unit)), &pass.done);
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
        report.load_seconds = pass.load_seconds.unwrap_or_default();
        let record = Record { parts: gathered.parts, ..self.conclude(&node.id, report, reports) };
        let done = if pass.load_seconds.is_none() && !pass.flow.units.is_empty() { Done::Earlier } else { Done::Now };
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
