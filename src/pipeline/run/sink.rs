//! Stages that rows end in, and what is known above them.

use std::collections::BTreeSet;
use std::time::Instant;

use arrow::datatypes::SchemaRef;

use super::Run;
use crate::error::Result;
use crate::pipeline::plan::Node;
use crate::pipeline::report::{Reports, StageReport, add};
use crate::pipeline::supplies::NodeResources;
use crate::report::SetAside;
use crate::stages::write::Shard;
use crate::stages::{Ending, Shape};

/// What a sink made of all rows, and what the stages on their way did.
pub(super) struct Drained {
    pub(super) report: StageReport,
    pub(super) passed: Reports,
    pub(super) files: Vec<Shard>,
    /// The columns of files of rows.
    pub(super) columns: Option<SchemaRef>,
}

impl Run<'_> {
    /// Runs stage `node`, unless an earlier run did.
    pub(super) fn end(&mut self, node: &Node, ending: &dyn Ending) -> Result<()> {
        match (ending.destination(), node.operation().publication()) {
            (Some(destination), Some(to)) => return self.publish_rows(node, ending, destination, &to),
            (Some(to), None) => return self.write(node, ending, to),
            (None, _) => {}
        }
        if self.recall(&node.id)? {
            return Ok(());
        }
        let Drained { report, passed, .. } = self.drain(node, ending)?;
        let record = self.conclude(&node.id, report, passed);
        self.finish(&node.id, record)
    }

    /// All rows of all inputs of `node`, one input after the other, into its sink.
    pub(super) fn drain(&self, node: &Node, ending: &dyn Ending) -> Result<Drained> {
        self.loads(node)?;
        let start = Instant::now();
        let trained = |name: &str| self.trained(name);
        let resources = NodeResources::new(self.plan, node, &trained).behind(self.set_aside_above(node));
        let mut sink = ending.open(&resources)?;
        let load_seconds = start.elapsed().as_secs_f64();
        let start = Instant::now();
        let (mut report, mut passed) = (StageReport { load_seconds, ..StageReport::default() }, Reports::new());
        for (index, (field, input)) in node.operation().inputs().into_iter().enumerate() {
            let reads = ending.reads(field);
            let (rows, reports) = self.each(input, node, reads, &mut |batch| sink.take(index, batch))?;
            // Where models read the rows, those that fit them are counted on the way.
            if reads.is_none() {
                report.rows_in += rows;
                report.rows_out += rows;
            }
            add(&mut passed, &reports);
        }
        let finished = sink.finish()?;
        report.seconds = start.elapsed().as_secs_f64();
        (report.metrics, report.warnings) = (finished.metrics, finished.warnings);
        report.bytes = finished.files.iter().map(|file| file.written.bytes).sum();
        Ok(Drained { report, passed, files: finished.files, columns: finished.columns })
    }

    /// The stages that the rows of `node` come from, in the order in which they run.
    pub(super) fn above(&self, node: &Node) -> Vec<&Node> {
        let mut above = BTreeSet::new();
        let mut next: Vec<&str> = node.operation().inputs().into_iter().map(|(_, input)| input).collect();
        while let Some(node) = next.pop().and_then(|id| self.plan.node(id)) {
            if above.insert(&node.id) {
                next.extend(node.operation().inputs().into_iter().map(|(_, input)| input));
            }
        }
        self.plan.nodes.iter().filter(|node| above.contains(&node.id)).collect()
    }

    /// The rows that the stages above `node` set aside. None where one of them, which might do so, has not run yet: it joins the
    /// pass of `node`.
    fn set_aside_above(&self, node: &Node) -> Option<Vec<SetAside>> {
        let (mut above, mut set_aside) = (self.above(node), Vec::new());
        above.sort_by_key(|node| &node.id);
        for above in above {
            let Some(report) = self.report.stages.get(&above.id) else {
                if matches!(above.shape(), Shape::Inline(_)) { continue } else { return None }
            };
            let reasons = report.set_aside.iter().filter(|(_, rows)| **rows > 0);
            set_aside.extend(reasons.map(|(reason, rows)| SetAside {
                stage: above.id.clone(),
                reason: reason.clone(),
                rows: *rows,
            }));
        }
        Some(set_aside)
    }
}
