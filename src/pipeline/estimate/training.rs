//! What a training will do: its steps, and the learning rates that it takes them at.

use std::collections::BTreeMap;

use super::Estimate;
use crate::pipeline::plan::{Node, Plan};

/// Steps of a training and their learning rates.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Training {
    /// Optimizer steps.
    pub steps: u64,
    /// How many of them warm up.
    pub warmup_steps: u64,
    /// The learning rates of the first step, at the peak, and of the last step.
    pub rates: [f64; 3],
    /// Whether `max_steps` alone decides about the steps, not the number of rows.
    pub exact: bool,
}

/// The training of `node` on rows like those of `estimates`; none for other stages, and for rows of which nothing is known.
pub(super) fn training(plan: &Plan, node: &Node, estimates: &BTreeMap<String, Estimate>) -> Option<Training> {
    let train = node.training()?;
    let settings = train.settings(plan.seed);
    let steps = settings.steps(rows(plan, &train.input, estimates)?.round() as u64);
    let schedule = settings.schedule;
    let exact = train.max_steps == Some(steps);
    Some(Training { steps, warmup_steps: schedule.warmup_steps(steps), rates: schedule.rates(steps), exact })
}

/// Rows of stage `id`: those of the nearest stage above it that were estimated.
fn rows(plan: &Plan, id: &str, estimates: &BTreeMap<String, Estimate>) -> Option<f64> {
    match estimates.get(id).and_then(|estimate| estimate.rows.as_ref()) {
        Some(rows) => Some(rows.rows_out),
        None => rows(plan, plan.node(id)?.operation().inputs().first()?.1, estimates),
    }
}
