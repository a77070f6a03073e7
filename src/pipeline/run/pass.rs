//! A pass of units through the stages up to one that is materialised. Where several devices share its rows there are as many threads:
//! each reads units, takes them through the stages before the models, and writes parts; all of them give their batches to the devices
//! ([`Crew`]), so that none is idle when one unit is all that is left.

use std::collections::BTreeMap;
use std::mem::take;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::Instant;

use super::parts::{KNOWN, MANIFEST, Note, Part, Units};
use super::share::Assignment;
use super::{Run, locked};
use crate::error::{Error, Result};
use crate::io::FileFormat;
use crate::pipeline::flow::Flow;
use crate::pipeline::plan::Node;
use crate::pipeline::rejects::Folder;
use crate::pipeline::report::{Reports, add};
use crate::pipeline::step::{Crew, Step};

/// The steps of a thread; none before its first unit: where everything is there, no model is needed.
pub(super) type Steps = Option<Vec<Step>>;

/// A pass of units through stages.
pub(super) struct Pass<'a> {
    pub(super) flow: Flow,
    /// The stages, of which the last is materialised.
    pub(super) nodes: Vec<&'a Node>,
    pub(super) units: Units,
    pub(super) counted: Mutex<Counted>,
    threads: Mutex<Vec<Steps>>,
    /// The devices that share the rows, where there are several.
    crew: OnceLock<Result<Arc<Crew>>>,
    /// Whether a thread failed, for which the others stop.
    has_failed: AtomicBool,
}

/// What this process did.
#[derive(Default)]
pub(super) struct Counted {
    /// The units, with what was counted of each.
    pub(super) done: BTreeMap<usize, Note>,
    /// What was counted of all.
    seen: Reports,
    /// Seconds that models took to load.
    load_seconds: Option<f64>,
}

impl<'a> Pass<'a> {
    /// The stage that is materialised.
    pub(super) fn node(&self) -> &'a Node {
        self.nodes.last().expect("a pass ends in a stage")
    }

    /// Seconds that models took to load; none where no unit was left to do.
    pub(super) fn load_seconds(&self) -> Option<f64> {
        locked(&self.counted).load_seconds
    }
}

impl<'a> Run<'a> {
    /// The pass that ends in `node`.
    pub(super) fn pass(&self, node: &'a Node) -> Result<Pass<'a>> {
        let (flow, mut nodes) = self.flow(node.operation().inputs()[0].1)?;
        nodes.push(node);
        let mut data = self.claim("data", node).open()?;
        data.expect(MANIFEST)?;
        data.expect(KNOWN)?;
        let units = match self.assignment {
            Assignment::All => Units::told(data, flow.units.len())?,
            Assignment::Share(_) | Assignment::Merge => Units::of(data, flow.units.len())?,
        };
        Ok(Pass {
            flow,
            nodes,
            units,
            counted: Mutex::default(),
            threads: Mutex::default(),
            crew: OnceLock::new(),
            has_failed: AtomicBool::new(false),
        })
    }

    /// Whether units are given up: on request, or because another thread failed.
    pub(super) fn stops(&self, pass: &Pass) -> bool {
        self.monitor.stopping() || pass.has_failed.load(Ordering::Relaxed)
    }

    /// Runs `work` in a thread for each device that shares the rows of `pass`, at most `most`, with the steps of that thread.
    ///
    /// # Errors
    /// What the first thread says that failed.
    pub(super) fn in_threads(
        &self,
        pass: &Pass<'a>,
        most: usize,
        work: &(dyn Fn(&Pass<'a>, &mut Steps) -> Result<()> + Sync),
    ) -> Result<()> {
        let count = self.plan.devices_of(pass.node()).len().min(most);
        let mut threads = take(&mut *locked(&pass.threads));
        threads.resize_with(threads.len().max(count), || None);
        let work = &|steps: &mut Steps| {
            let ended = work(pass, steps);
            pass.has_failed.fetch_or(ended.is_err(), Ordering::Relaxed);
            ended
        };
        let ended: Vec<Result<()>> = match &mut threads[..count] {
            [own] => vec![work(own)],
            several => thread::scope(|scope| {
                let running: Vec<_> = several.iter_mut().map(|steps| scope.spawn(move || work(steps))).collect();
                running.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
            }),
        };
        *locked(&pass.threads) = threads;
        let (stopped, failed): (Vec<Error>, Vec<Error>) =
            ended.into_iter().filter_map(Result::err).partition(|error| matches!(error, Error::Interrupted));
        failed.into_iter().chain(stopped).next().map_or(Ok(()), Err)
    }

    /// The steps of `pass`, with models that this call or another thread's loaded.
    fn steps(&self, pass: &Pass<'a>) -> Result<Vec<Step>> {
        let (start, devices) = (Instant::now(), self.plan.devices_of(pass.node()));
        let steps = match pass.nodes.split_last() {
            Some((last, before)) if devices.len() > 1 => {
                let mut steps = self.open(&pass.flow, before)?;
                let open = || Crew::open(devices, |device| self.opened(last, device)).map(Arc::new);
                steps.push(Step::on(&last.id, pass.crew.get_or_init(open).clone()?));
                steps
            }
            _ => self.open(&pass.flow, &pass.nodes)?,
        };
        let seconds = &mut locked(&pass.counted).load_seconds;
        *seconds = Some(start.elapsed().as_secs_f64().max(seconds.unwrap_or_default()));
        Ok(steps)
    }

    /// One unit's rows into one part; false where another worker was faster.
    pub(super) fn unit(&self, pass: &Pass<'a>, steps: &mut Steps, unit: usize) -> Result<bool> {
        let (node, count) = (pass.node(), pass.flow.units.len());
        let steps = match steps {
            Some(steps) => steps,
            none => none.insert(self.steps(pass)?),
        };
        let part = pass.units.own_part(unit);
        let (mut writer, mut rows, mut is_whole) = (None, 0, true);
        let before = locked(&pass.counted).seen.clone();
        let mut passed = pass.flow.run(unit, &before, steps, &mut |batch| {
            if writer.is_none() {
                writer = Some(FileFormat::Parquet.create(&part, &batch.schema())?);
            }
            rows += batch.num_rows() as u64;
            self.monitor.advance(batch.num_rows() as u64, "");
            writer.as_mut().expect("created just above").write(&batch)?;
            is_whole = !self.stops(pass);
            Ok(is_whole)
        })?;
        if !is_whole || self.monitor.stopping() {
            return Err(Error::Interrupted);
        }
        self.monitor.skip(pass.flow.most(unit).saturating_sub(rows));
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
        let mut counted = locked(&pass.counted);
        add(&mut counted.seen, &note.reports);
        counted.done.insert(unit, note);
        Ok(true)
    }
}
