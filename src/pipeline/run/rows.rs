//! Rows through stages: what a pass over a flow consists of, and a pass into whoever looks at the rows.

use arrow::array::RecordBatch;

use super::Run;
use super::balance::balanced;
use crate::error::{Error, Result};
use crate::io::Location;
use crate::model::DeviceSpec;
use crate::pipeline::flow::Flow;
use crate::pipeline::plan::{Node, Plan};
use crate::pipeline::rejects::{Folder, NoRows};
use crate::pipeline::report::{Reports, add};
use crate::pipeline::step::Step;
use crate::pipeline::supplies::NodeResources;
use crate::stages::positions::{Fitting, Reads};
use crate::stages::{Conclusion, Shape, Transform};

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
    pub(super) fn open(&self, flow: &Flow, nodes: &[&Node]) -> Result<Vec<Step>> {
        let mut steps = flow.steps();
        for node in nodes {
            steps.push(Step::new(&node.id, self.opened(node, self.plan.device)?));
        }
        Ok(steps)
    }

    /// The transform of `node`, with its models on `device`.
    pub(super) fn opened(&self, node: &Node, device: DeviceSpec) -> Result<Box<dyn Transform>> {
        match node.shape() {
            Shape::Materialised(rows) => {
                if device == self.plan.device {
                    self.loads(node)?;
                }
                let trained = |name: &str| self.trained(name);
                rows.open(&NodeResources::new(self.plan, node, &trained).on(device))
            }
            _ => Err(Error::stage(&node.id, format!("`{}` makes no rows", node.operation().name()))),
        }
    }

    /// The last step of rows that models of `node` read.
    pub(super) fn fitting(&self, node: &Node, id: &str, reads: Reads) -> Result<Step> {
        Ok(Step::new(id, Box::new(Fitting { reads, positions: self.plan.positions(node)? })))
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
            let before = rows;
            let passed = flow.run(unit, &reports, &mut steps, &mut |batch| {
                take(&batch)?;
                rows += batch.num_rows() as u64;
                self.monitor.advance(batch.num_rows() as u64, "");
                Ok(true)
            })?;
            self.monitor.skip(flow.most(unit).saturating_sub(rows - before));
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
