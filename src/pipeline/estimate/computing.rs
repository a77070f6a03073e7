//! How long models will compute: the operations that the rows ask for, and the speed of a product, measured here and now.

use std::collections::BTreeMap;

use super::Estimate;
use crate::error::Result;
use crate::model::Precision;
use crate::model::cost::{Cost, Workload, calibrate};
use crate::pipeline::plan::{Node, Plan};
use crate::stages::Stage;

/// What a stage's models will compute.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Computing {
    /// Floating-point operations.
    pub operations: f64,
    /// Seconds, at the speed of a product in the layers' width. Everything else comes on top.
    pub seconds: f64,
}

/// Measures every product once.
pub(super) struct Clock<'a> {
    plan: &'a Plan,
    speeds: Vec<((Option<Precision>, usize), f64)>,
}

impl<'a> Clock<'a> {
    pub(super) fn new(plan: &'a Plan) -> Self {
        Self { plan, speeds: Vec::new() }
    }

    /// What `node` will compute on rows like those of `estimates`; none for stages without models or without tokens.
    pub(super) fn computing(
        &mut self,
        node: &Node,
        estimates: &BTreeMap<String, Estimate>,
    ) -> Result<Option<Computing>> {
        let Some((rows, work)) = self.work(node, estimates) else { return Ok(None) };
        let (frozen, passes) = match &node.stage {
            // The contrast asks the reference twice more.
            Stage::Score(score) => (Some(score.precision.unwrap_or_default()), if score.contrast { 3.0 } else { 1.0 }),
            Stage::Evaluate(_) => (Some(Precision::F32), 1.0),
            Stage::Train(train) => {
                let most = train.max_steps.map_or(f64::INFINITY, |steps| (steps * train.batch_size as u64) as f64);
                let epochs = f64::from(train.epochs).min(most / rows.max(1.0));
                (None, epochs * train.settings(self.plan.seed).passes())
            }
            _ => return Ok(None),
        };
        let mut all = Computing { operations: 0.0, seconds: 0.0 };
        for (field, name) in node.stage.models() {
            if matches!(node.stage, Stage::Train(_)) && field == "reference" {
                continue;
            }
            let Some(source) = self.plan.start_of(name) else { continue };
            let cost = Cost::of(&source.describe()?.sizes);
            let operations = passes * cost.forward(work);
            all.operations += operations;
            all.seconds += operations / self.speed(frozen, cost.width())?;
        }
        Ok(Some(all).filter(|all| all.operations > 0.0))
    }

    /// Rows and their work: those of the nearest stage above whose tokens are known.
    fn work(&self, node: &Node, estimates: &BTreeMap<String, Estimate>) -> Option<(f64, Workload)> {
        let (_, input) = *node.stage.inputs().first()?;
        match estimates.get(input).and_then(|estimate| estimate.rows.as_ref()?.work.map(|work| (estimate, work))) {
            Some((estimate, work)) => Some((estimate.rows.as_ref()?.rows_out, work)),
            None => self.work(self.plan.node(input)?, estimates),
        }
    }

    fn speed(&mut self, frozen: Option<Precision>, width: usize) -> Result<f64> {
        let key = (frozen, width);
        if let Some((_, speed)) = self.speeds.iter().find(|(known, _)| *known == key) {
            return Ok(*speed);
        }
        let speed = calibrate(self.plan.device, frozen, width)?;
        self.speeds.push((key, speed));
        Ok(speed)
    }
}
