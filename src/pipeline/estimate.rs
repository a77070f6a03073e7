//! What a plan will meet, judged from a few hundred rows and from the checkpoints' headers: rows, tokens, rows that will
//! be set aside, memory, time. Nothing is written.

mod computing;
mod training;

use std::collections::BTreeMap;

use super::flow::{Flow, Station};
use super::plan::{Node, Plan};
use super::report::{Reports, add};
use crate::columns::PROMPT_IDS;
use crate::error::Result;
use crate::model::cost::Workload;
use crate::model::{Memory, PairIds, Precision};
use crate::stages::{Stage, score::pairs};
use crate::text::Tokenizer;
use computing::Clock;
pub use computing::Computing;
pub use training::Training;
use training::training;

/// Units that are looked at, spread over the dataset; of each the first batch.
const PROBES: usize = 4;

/// What one stage will meet.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Estimate {
    /// Rows that come in, that go on, and that are set aside, by reason.
    pub rows: Option<Rows>,
    /// Bytes of memory that models and one batch take; not known of models whose weights are not here yet.
    pub memory: Option<u64>,
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
        let rows = match &node.stage {
            Stage::Read(_) | Stage::Tokenize(_) => sample(plan, node).map_err(|error| error.in_stage(&node.id))?,
            // What comes after keeps its rows but for the rarest.
            _ => None,
        };
        let computing = clock.computing(node, &estimates)?;
        let training = training(plan, node, &estimates);
        let estimate = Estimate { rows, memory: memory(plan, node)?, computing, training };
        estimates.insert(node.id.clone(), estimate);
    }
    Ok(estimates)
}

/// The source of `node`'s rows and the stations up to and including it.
fn path(plan: &Plan, node: &Node) -> Result<Option<(Flow, Vec<Station>)>> {
    let station = match &node.stage {
        Stage::Read(_) => return Ok(Some((Flow::source(node)?, Vec::new()))),
        Stage::Tokenize(tokenize) => tokenize.open(Tokenizer::load(&plan.tokenizer(&tokenize.tokenizer))?)?,
        _ => return Ok(None),
    };
    let input = node.stage.inputs().first().and_then(|(_, input)| plan.node(input));
    let Some((flow, mut stations)) = input.map(|input| path(plan, input)).transpose()?.flatten() else {
        return Ok(None);
    };
    stations.push(Station::new(&node.id, station));
    Ok(Some((flow, stations)))
}

fn sample(plan: &Plan, node: &Node) -> Result<Option<Rows>> {
    let Some((flow, mut stations)) = path(plan, node)? else { return Ok(None) };
    let (mut reports, mut sampled, mut sums) = (Reports::new(), 0, None);
    let units = flow.units.len();
    let probes = PROBES.min(units);
    for probe in 0..probes {
        let passed = flow.run(probe * units / probes, &Reports::new(), &mut stations, &mut |batch| {
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
    }
    let source = flow.reader.as_ref().and_then(|(id, _)| reports.get(id));
    let seen = source.map_or(sampled, |report| report.rows_in);
    let scale = flow.rows as f64 / seen.max(1) as f64;
    let mut set_aside: BTreeMap<String, f64> = BTreeMap::new();
    for (reason, count) in reports.values().flat_map(|report| &report.set_aside) {
        *set_aside.entry(reason.clone()).or_default() += *count as f64 * scale;
    }
    let tokens = sums.map(|(tokens, _)| tokens.map(|sum| sum * scale));
    let work = sums.map(|(_, work)| work.times(scale));
    Ok(Some(Rows {
        sampled: seen,
        rows_in: flow.rows as f64,
        rows_out: sampled as f64 * scale,
        set_aside,
        tokens,
        work,
    }))
}

/// Weights, and what a pass keeps of a batch. What trains has a gradient and both moments of AdamW beside it; the rest of a
/// model below adapters has not.
fn memory(plan: &Plan, node: &Node) -> Result<Option<u64>> {
    let (bytes_a_weight, share_kept, batch_tokens) = match &node.stage {
        Stage::Score(score) => match score.precision {
            Some(Precision::Bf16 | Precision::Bf16x2) => (2, 8, score.batch_tokens),
            Some(Precision::F32) | None => (4, 8, score.batch_tokens),
        },
        Stage::Evaluate(evaluate) => (4, 8, evaluate.batch_tokens),
        Stage::Generate(generate) => match generate.precision {
            Some(Precision::Bf16 | Precision::Bf16x2) => (2, 4, generate.batch_tokens),
            Some(Precision::F32) | None => (4, 4, generate.batch_tokens),
        },
        Stage::Train(train) => {
            let share_kept = if train.memory == Memory::Low { 8 } else { 1 };
            (if train.lora.is_some() { 4 } else { 16 }, share_kept, train.batch_tokens)
        }
        _ => return Ok(None),
    };
    let mut bytes = 0;
    for (field, name) in node.stage.models() {
        let (mut bytes_a_weight, mut share_kept) = (bytes_a_weight, share_kept);
        if let (Stage::Train(train), "reference") = (&node.stage, field) {
            if !train.objective.formula().needs().live_reference() {
                // It was turned into columns by a stage of its own.
                continue;
            }
            (bytes_a_weight, share_kept) = (4, 8);
        }
        let Some(source) = plan.start_of(name) else { continue };
        if plan.awaits_weights(&source)? {
            return Ok(None);
        }
        bytes += source.parameters()? * bytes_a_weight;
        bytes += source.activations()? / share_kept * size_of::<f32>() as u64 * batch_tokens as u64;
    }
    Ok(Some(bytes))
}
