//! What a plan will meet, judged from a few hundred rows and from the checkpoints' headers: rows, tokens, rows that will
//! be set aside, memory, time. Nothing is written.

mod computing;
mod fitting;
mod memory;
mod training;

use std::collections::BTreeMap;

use super::flow::Flow;
use super::plan::{Node, Plan};
use super::report::{Reports, add};
use super::step::Step;
use super::supplies::NodeResources;
use crate::columns::PROMPT_IDS;
use crate::error::{Error, Result};
use crate::model::PairIds;
use crate::model::cost::Workload;
use crate::stages::score::pairs;
use crate::stages::{Shape, Volume};
use computing::Clock;
pub use computing::Computing;
pub(super) use memory::batch_tokens;
pub use memory::{Memory, ModelMemory, Room};
pub use training::Training;
use training::training;

/// Units that are looked at, spread over the dataset; of each the first batch.
const PROBES: usize = 4;

/// What one stage will meet.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Estimate {
    /// Rows that come in, that go on, and that are set aside, by reason.
    pub rows: Option<Rows>,
    /// What models and one batch take; not known of models whose weights are not here yet.
    pub memory: Option<Memory>,
    /// What its models compute.
    pub computing: Option<Computing>,
    /// The steps of a training.
    pub training: Option<Training>,
}

/// Rows of a stage, scaled up from a sample.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rows {
    /// Rows in the sample.
    pub sampled: u64,
    /// Rows of the source.
    pub rows_in: f64,
    /// Rows that go on.
    pub rows_out: f64,
    /// Rows set aside by any stage so far, by reason.
    pub set_aside: BTreeMap<String, f64>,
    /// Tokens of prompts and of chosen and rejected responses, once there are any.
    pub tokens: Option<[f64; 3]>,
    /// What these tokens are for a model.
    pub work: Option<Workload>,
}

/// Estimates for the stages of `plan`, by id.
///
/// # Errors
/// Rows or checkpoints that cannot be read.
pub fn estimate(plan: &Plan) -> Result<BTreeMap<String, Estimate>> {
    let mut estimates = BTreeMap::new();
    let mut clock = Clock::new(plan);
    for node in &plan.nodes {
        let rows = sample(plan, node).map_err(|error| error.in_stage(&node.id))?;
        let cost = node.operation().cost(&volume(plan, node, &estimates));
        let memory = cost.as_ref().map(|cost| memory::memory(plan, node, cost)).transpose()?.flatten();
        let computing = cost.as_ref().map(|cost| clock.computing(cost)).transpose()?.flatten();
        let devices = plan.devices_of(node).len() as f64;
        let computing = computing.map(|all| Computing { seconds: all.seconds / devices, ..all });
        let training = training(plan, node, &estimates);
        estimates.insert(node.id.clone(), Estimate { rows, memory, computing, training });
    }
    Ok(estimates)
}

/// How much comes to `node`: what left the nearest stage above whose tokens are known.
fn volume(plan: &Plan, node: &Node, estimates: &BTreeMap<String, Estimate>) -> Volume {
    let inputs = node.operation().inputs();
    let Some(input) = inputs.first().and_then(|(_, input)| plan.node(input)) else { return Volume::default() };
    let known = estimates.get(&input.id).and_then(|estimate| {
        let rows = estimate.rows.as_ref()?;
        Some(Volume { rows: rows.rows_out, prompt_tokens: rows.tokens?[0], work: rows.work? })
    });
    known.unwrap_or_else(|| volume(plan, input, estimates))
}

/// The source of `node`'s rows and the steps up to and including it. What comes after the first stage with models or with
/// derived columns keeps its rows but for the rarest.
fn path(plan: &Plan, node: &Node) -> Result<Option<(Flow, Vec<Step>)>> {
    let operation = node.operation();
    let rows = match operation.shape() {
        Shape::Source(_) => return Ok(Some((Flow::source(node)?, Vec::new()))),
        Shape::Materialised(rows) if operation.models().is_empty() => rows,
        _ => return Ok(None),
    };
    let input = operation.inputs().first().and_then(|(_, input)| plan.node(input));
    let Some((flow, mut steps)) = input.map(|input| path(plan, input)).transpose()?.flatten() else {
        return Ok(None);
    };
    let untrained = |name: &str| Err(Error::stage(name, "is not trained yet"));
    steps.push(Step::new(&node.id, rows.open(&NodeResources::new(plan, node, &untrained))?));
    Ok(Some((flow, steps)))
}

fn sample(plan: &Plan, node: &Node) -> Result<Option<Rows>> {
    let Some((flow, mut steps)) = path(plan, node)? else { return Ok(None) };
    let (mut reports, mut sampled, mut sums, mut filtered) = (Reports::new(), 0, None, [0; 2]);
    let units = flow.units.len();
    let probes = PROBES.min(units);
    for probe in 0..probes {
        let passed = flow.run(probe * units / probes, &Reports::new(), &mut steps, &mut |batch| {
            sampled += batch.num_rows() as u64;
            if batch.column_by_name(PROMPT_IDS).is_some() {
                let (tokens, work) = sums.get_or_insert(([0.0; 3], Workload::default()));
                let (prompts, sides) = pairs(&batch)?;
                for row in 0..batch.num_rows() {
                    let pair = PairIds { prompt: prompts.row(row), responses: sides.map(|side| side.row(row)) };
                    let lengths = [pair.prompt, pair.responses[0], pair.responses[1]].map(<[i32]>::len);
                    tokens.iter_mut().zip(lengths).for_each(|(sum, length)| *sum += length as f64);
                    *work = *work + pair.workload();
                }
            }
            Ok(false)
        })?;
        add(&mut reports, &passed.reports);
        filtered = [filtered[0] + passed.filtered[0], filtered[1] + passed.filtered[1]];
    }
    let source = flow.reader.as_ref().and_then(|(id, _)| reports.get(id));
    let seen = source.map_or(sampled, |report| report.rows_in);
    // `limit` counts the rows that the filters leave, which are known as a share.
    let left = filtered[1] as f64 / filtered[0].max(1) as f64 * flow.dataset.rows() as f64;
    let rows_in = if flow.reader.is_some() { left.min(flow.rows as f64) } else { flow.rows as f64 };
    let scale = rows_in / seen.max(1) as f64;
    let mut set_aside: BTreeMap<String, f64> = BTreeMap::new();
    for (reason, count) in reports.values().flat_map(|report| &report.set_aside) {
        *set_aside.entry(reason.clone()).or_default() += *count as f64 * scale;
    }
    let tokens = sums.map(|(tokens, _)| tokens.map(|sum| sum * scale));
    let work = sums.map(|(_, work)| work.times(scale));
    Ok(Some(Rows { sampled: seen, rows_in, rows_out: sampled as f64 * scale, set_aside, tokens, work }))
}
