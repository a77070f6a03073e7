//! How long models will compute: the operations that the rows ask for, and the speed of a product, measured here and now.

use crate::error::Result;
use crate::model::cost::{Cost, calibrate};
use crate::model::{CausalLm, Precision};
use crate::pipeline::plan::Plan;
use crate::stages::{ModelCost, Role, StageCost};

/// What a stage's models will compute.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Computing {
    /// Floating-point operations.
    pub operations: f64,
    /// Seconds, at the speed of a product in the layers' width, on all devices that share the rows. Everything else comes on top.
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

    /// What the models of `cost` will compute; none where it is nothing, or nothing is known of it.
    pub(super) fn computing(&mut self, cost: &StageCost) -> Result<Option<Computing>> {
        let mut all = Computing { operations: 0.0, seconds: 0.0 };
        for ModelCost { name, role, work, .. } in &cost.models {
            let Some(source) = self.plan.start_of(name) else { continue };
            let cost = Cost::of(&source.describe()?.sizes);
            let frozen = match role {
                Role::Frozen(precision) => Some(*precision),
                Role::Trained(precision) | Role::Adapted(precision) => {
                    let found = CausalLm::training_arithmetic(self.plan.device, *precision)?;
                    (found != Precision::F32).then_some(found)
                }
                Role::Stored => None,
            };
            let operations = cost.forward(*work);
            if operations > 0.0 {
                all.operations += operations;
                all.seconds += operations / self.speed(frozen, cost.width())?;
            }
        }
        Ok(Some(all).filter(|all| all.operations > 0.0))
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
