//! Rows through stages: one pass over a flow, unit by unit, into parts or into whoever looks at them.

use std::time::Instant;

use arrow::array::RecordBatch;

use super::balance::balanced;
use super::parts::{MANIFEST, Note, Part, Units, name};
use super::record::{Done, Record};
use super::share::{Assignment, Walk};
use super::{Progress, Run};
use crate::error::{Error, Result};
use crate::io::{FileFormat, Location};
use crate::pipeline::flow::{Flow, Step};
use crate::pipeline::plan::{Node, Plan};
use crate::pipeline::rejects::{Folder, NoRows};
use crate::pipeline::report::{Reports, add};
use crate::pipeline::supplies::NodeResources;
use crate::stages::positions::{Fitting, Reads};
use crate::stages::{Conclusion, Shape};

/// Units that a message names.
const NAMED: usize = 5;

/// What was found and done of the units of a stage.
struct Walked {
    /// The notes of those that are there.
    notes: Vec<Option<Note>>,
    /// Seconds that models took to load; none where no unit was left to do.
    load_seconds: Option<f64>,
}

impl<'a> Run<'a> {
    /// The rows of stage `id`, and the stages that they still have to pass, in order.
    pub(super) fn flow(&self, id: &str) -> Result<(Flow, Vec<&'a Node>)> {
        let node = self.plan.node(id).expect("the plan resolved the name");
        let (mut flow, nodes) = match node.shape() {
            Shape::Source(_) => (Flow::source(node)?, Vec::new()),
            Shape::Inline(stage) => {
                let (mut flow, nodes) = self.flow(node.operation().inputs()[0].1)?;
                flow.derived.push((id.to_owned(), stage));
                (flow, nodes)
            }
            Shape::Materialised(_) if self.joins_its_consumer(node) => {
                let (flow, mut nodes) = self.flow(node.operation().inputs()[0].1)?;
                nodes.push(node);
                (flow, nodes)
            }
            Shape::Materialised(_) | Shape::Training(_) | Shape::Sink(_) => (self.parts(node)?, Vec::new()),
        };
        flow.max_reject_share = self.plan.max_reject_share;
        Ok((flow, nodes))
    }

    /// The transforms of a pass over `flow` through `nodes`.
    fn open(&self, flow: &Flow, nodes: &[&Node]) -> Result<Vec<Step>> {
        let mut steps = flow.steps();
        for node in nodes {
            steps.push(self.step(node)?);
        }
        Ok(steps)
    }

    fn step(&self, node: &Node) -> Result<Step> {
        match node.shape() {
            Shape::Materialised(rows) => {
                let trained = |name: &str| self.trained(name);
                Ok(Step::new(&node.id, rows.open(&NodeResources::new(self.plan, node, &trained))?))
            }
            _ => Err(Error::stage(&node.id, format!("`{}` makes no rows", node.operation().name()))),
        }
    }

    /// The last step of rows that models of `node` read.
    pub(super) fn fitting(&self, node: &Node, id: &str, reads: Reads) -> Result<Step> {
        Ok(Step::new(id, Box::new(Fitting { reads, positions: self.plan.positions(node)? })))
    }

    /// Runs the rows of `node` into parts, one for each unit that is not there yet.
    pub(super) fn materialise(&mut self, node: &'a Node) -> Result<Progress> {
        let manifest = self.folder("data", node).join(MANIFEST);
        if let Some(record) = self.finished(&manifest, &node.id)? {
            self.some_rows(&record.reports, &self.folder("rejects", node))?;
            self.remember(record, Done::Earlier);
            return Ok(Progress::Done);
        }
        let (flow, mut nodes) = self.flow(node.operation().inputs()[0].1)?;
        nodes.push(node);
        let mut data = self.claim("data", node).open()?;
        data.expect(MANIFEST)?;
        let units = Units::of(data, flow.units.len())?;
        let Walked { notes, load_seconds } = self.walk(&flow, &nodes, &units)?;
        let missing: Vec<usize> = (0..notes.len()).filter(|unit| notes[*unit].is_none()).collect();
        if self.assignment == Assignment::Merge && !missing.is_empty() {
            self.refuse_disagreement(node)?;
            return Err(self.unfinished(node, &flow, &missing));
        }
        // In their order, whatever way was taken: sums of floating-point numbers depend on it.
        let mut reports = Reports::new();
        notes.iter().flatten().for_each(|note| add(&mut reports, &note.reports));
        let parts: Vec<Part> = notes.into_iter().flatten().map(|note| note.part).collect();
        let way = flow.way(flow.derived.iter().map(|(id, _)| id).chain(nodes.iter().map(|node| &node.id)).cloned());
        met(&mut reports, &way);
        if missing.is_empty() {
            let came = flow.reader.is_none().then_some(flow.rows);
            balanced(&reports, &way, came, Some(parts.iter().map(|part| part.rows).sum()))?;
        }
        if !missing.is_empty() {
            self.refuse_disagreement(node)?;
        }
        conclude(&mut reports, self.plan)?;
        if missing.is_empty() {
            self.some_rows(&reports, &self.folder("rejects", node))?;
        }
        let mut report = reports.remove(&node.id).unwrap_or_default();
        report.load_seconds = load_seconds.unwrap_or_default();
        let record = Record { parts, ..self.conclude(&node.id, report, reports) };
        self.unchanged(&flow, nodes.iter().copied())?;
        // Whoever was faster wrote the same, unless it was damaged since.
        if missing.is_empty() && !manifest.create(record.to_json())? && self.finished(&manifest, &node.id)?.is_none() {
            manifest.write(record.to_json())?;
        }
        if missing.is_empty() && !matches!(self.assignment, Assignment::Share(_)) {
            self.sound.borrow_mut().insert(node.id.clone());
        }
        let done = if load_seconds.is_none() && !flow.units.is_empty() { Done::Earlier } else { Done::Now };
        self.remember(record, done);
        Ok(match missing.len() {
            0 => Progress::Done,
            waiting => Progress::Waiting(format!(
                "stage `{}`: {waiting} of {} units belong to other shares and are not there yet; the share that ends \
                 last goes on, or run again without --units",
                node.id,
                flow.units.len()
            )),
        })
    }

    /// Goes through the units of `flow` and does its own of those that are not there, in a pass through `nodes`.
    fn walk(&self, flow: &Flow, nodes: &[&Node], units: &Units) -> Result<Walked> {
        let node = nodes.last().expect("a pass ends in a stage");
        // Where everything is there, no model is needed.
        let mut steps: Option<Vec<Step>> = None;
        let (mut load_seconds, mut seen) = (None, Reports::new());
        let mut notes: Vec<Option<Note>> = vec![None; flow.units.len()];
        let mut walk = Walk::new(notes.len());
        self.monitor.begin(&node.id, Some(flow.rows), "rows");
        while let Some(unit) = walk.next() {
            if self.monitor.stopping() {
                return Err(Error::Interrupted);
            }
            let own = self.assignment.holds(unit);
            let mut note = units.finished(unit, own || self.assignment == Assignment::Merge)?;
            if note.is_none() && own {
                let steps = match &mut steps {
                    Some(steps) => steps,
                    none => {
                        let start = Instant::now();
                        let steps = none.insert(self.open(flow, nodes)?);
                        load_seconds = Some(start.elapsed().as_secs_f64());
                        steps
                    }
                };
                let (done, first) = self.unit(flow, unit, node, (&seen, steps), units)?;
                if !first {
                    walk.jump();
                }
                note = Some(done);
            }
            if let Some(note) = &note {
                add(&mut seen, &note.reports);
            }
            notes[unit] = note;
        }
        self.monitor.end();
        Ok(Walked { notes, load_seconds })
    }

    fn unfinished(&self, node: &Node, flow: &Flow, missing: &[usize]) -> Error {
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

    /// One unit's rows into one part; and whether nobody else had done it in the meantime. `pass` is what the units before
    /// it counted, and the steps.
    fn unit(
        &self,
        flow: &Flow,
        unit: usize,
        node: &Node,
        pass: (&Reports, &mut [Step]),
        units: &Units,
    ) -> Result<(Note, bool)> {
        let part = units.own_part(unit);
        let (mut writer, mut rows) = (None, 0);
        let (seen, steps) = pass;
        let mut passed = flow.run(unit, seen, steps, &mut |batch| {
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
        passed.keep_rejects(&Folder::new(self.claim("rejects", node)), unit, flow.units.len())?;
        // Its part is there; another machine's may differ in a last bit, and notes hold for one.
        if let Some(note) = units.finished(unit, false)? {
            return Ok((note, false));
        }
        let file = match writer {
            Some(writer) => writer.finish()?,
            None => FileFormat::Parquet.create(&part, &node.columns)?.finish()?,
        };
        passed.reports.entry(node.id.clone()).or_default().bytes = file.bytes;
        let note = Note { part: Part { name: part.name().to_owned(), rows, file }, reports: passed.reports };
        if units.finish(unit, &note)? {
            return Ok((note, true));
        }
        // The note names another worker's part.
        part.delete()?;
        let other = units
            .finished(unit, false)?
            .ok_or_else(|| Error::stage(&node.id, format!("the note of {} vanished; run again", name(unit))))?;
        Ok((other, false))
    }

    /// Hands all rows of stage `input` to `take`; returns their number and what the stages on the way did. Models
    /// of `node` that read the rows take those that fit; it sets the others aside.
    pub(super) fn each(
        &self,
        input: &str,
        node: &Node,
        reads: Option<Reads>,
        take: &mut dyn FnMut(&RecordBatch) -> Result<()>,
    ) -> Result<(u64, Reports)> {
        let (flow, nodes) = self.flow(input)?;
        let mut steps = self.open(&flow, &nodes)?;
        if let Some(reads) = reads {
            steps.push(self.fitting(node, &node.id, reads)?);
        }
        let rejects = Folder::new(self.claim("rejects", node));
        // An `evaluate` stage may take the answers of several stages, and pairs beside them.
        let rejects = if reads == Some(Reads::Answers) { rejects.of(input) } else { rejects };
        let mut reports = Reports::new();
        let mut rows = 0;
        self.monitor.begin(&node.id, Some(flow.rows), "rows");
        for unit in 0..flow.units.len() {
            if self.monitor.stopping() {
                return Err(Error::Interrupted);
            }
            let passed = flow.run(unit, &reports, &mut steps, &mut |batch| {
                take(&batch)?;
                rows += batch.num_rows() as u64;
                self.monitor.advance(batch.num_rows() as u64, "");
                Ok(true)
            })?;
            passed.keep_rejects(&rejects, unit, flow.units.len())?;
            add(&mut reports, &passed.reports);
        }
        self.monitor.end();
        let way = flow.way(steps.into_iter().map(|step| step.id));
        met(&mut reports, &way);
        balanced(&reports, &way, flow.reader.is_none().then_some(flow.rows), Some(rows))?;
        conclude(&mut reports, self.plan)?;
        self.some_rows(&reports, rejects.at())?;
        self.unchanged(&flow, nodes)?;
        Ok((rows, reports))
    }

    /// Every stage of `reports` gave or used a row, or the file permits that there is none; rows set aside lie in `rejects`.
    pub(super) fn some_rows(&self, reports: &Reports, rejects: &Location) -> Result<()> {
        match self.plan.allow_empty {
            true => Ok(()),
            false => NoRows::find(&self.plan.nodes, reports).map_or(Ok(()), |none| Err(none.error(rejects))),
        }
    }
}

/// Every stage of `way` has a report, also where no row came by.
pub(super) fn met(reports: &mut Reports, way: &[String]) {
    for id in way {
        reports.entry(id.clone()).or_default();
    }
}

/// Turns the stages' sums into what they report.
pub(super) fn conclude(reports: &mut Reports, plan: &Plan) -> Result<()> {
    for (id, report) in reports {
        if let Some(node) = plan.node(id) {
            let sums = std::mem::take(&mut report.metrics);
            let concluded = match (node.operation().shape(), &node.dataset) {
                (Shape::Source(read), Some(dataset)) => read.repeated_ids(dataset),
                _ => node.operation().conclude(sums),
            };
            let Conclusion { metrics, warnings } = concluded.map_err(|error| error.in_stage(id))?;
            (report.metrics, report.warnings) = (metrics, warnings);
        }
    }
    Ok(())
}
