//! The memory that a stage's models and one batch will take. docs/backends.md has the bytes of a parameter as a table.

use super::fitting::{self, Choice};
use crate::error::Result;
use crate::model::sizes::Sizes;
use crate::model::{BatchTokens, DeviceSpec, Precision};
use crate::pipeline::plan::{Node, Plan};
use crate::stages::{Keeps, ModelCost, Role, StageCost, Volume};
use crate::train::kept::{Kept, Master, Moments};

/// Memory of a stage.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Memory {
    /// Its models.
    pub models: Vec<ModelMemory>,
    /// Bytes of what passes keep of a batch.
    pub batch: u64,
    /// Whether it fits, where the device says how much memory is free.
    pub room: Option<Room>,
}

/// Memory of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelMemory {
    /// Its name in the pipeline file.
    pub name: String,
    /// Its parameters.
    pub parameters: u64,
    /// Bytes of one of them, with what training keeps beside it.
    pub bytes_a_parameter: u64,
}

/// The memory that is free on the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Room {
    /// Bytes.
    pub free: u64,
    /// Where that is not enough, settings of the stage with which it would be; none where no settings are known.
    pub settings: Vec<String>,
}

impl Memory {
    /// All bytes.
    pub fn bytes(&self) -> u64 {
        self.batch + self.models.iter().map(|model| model.parameters * model.bytes_a_parameter).sum::<u64>()
    }

    /// Whether it fits; true where the device does not say how much is free.
    pub fn fits(&self) -> bool {
        self.room.as_ref().is_none_or(|room| self.bytes() <= room.free)
    }
}

/// A model of a stage, as far as memory depends on it.
pub(super) struct Model<'a> {
    name: &'a str,
    role: Role,
    keeps: Keeps,
    parameters: u64,
    /// Parameters of the adapters that the stage trains.
    adapters: u64,
    sizes: Sizes,
}

/// Weights, and what a pass keeps of a batch; not known where weights are not here yet.
pub(super) fn memory(plan: &Plan, node: &Node, cost: &StageCost) -> Result<Option<Memory>> {
    let Some(models) = models(plan, node, cost)? else { return Ok(None) };
    let device = plan.device;
    let choice = choice(&models, node, cost, device);
    let mut memory = of(&models, choice, device);
    memory.room = device.free_memory().map(|free| Room { free, settings: Vec::new() });
    if let (false, Some(room)) = (memory.fits(), &mut memory.room) {
        room.settings = fitting::settings(choice, device, |choice| of(&models, choice, device).bytes() <= room.free);
    }
    Ok(Some(memory))
}

/// The tokens of a pass on `device`: for `batch_tokens: auto`, as many as this estimate has room for.
///
/// # Errors
/// A model whose size cannot be read.
pub(in crate::pipeline) fn batch_tokens(
    plan: &Plan,
    node: &Node,
    device: DeviceSpec,
    wanted: BatchTokens,
) -> Result<usize> {
    let cost = match wanted {
        BatchTokens::AtMost(tokens) => return Ok(tokens),
        BatchTokens::Fitting(_) => node.operation().cost(&Volume::default()),
    };
    let known = cost.map(|cost| Ok(models(plan, node, &cost)?.map(|models| (models, cost)))).transpose()?.flatten();
    let tokens = known.map_or(wanted.at_least(), |(models, cost)| choice(&models, node, &cost, device).batch_tokens);
    tracing::info!("stage `{}`: passes of {tokens} tokens at most on `{device}`", node.id);
    Ok(tokens)
}

/// The settings of `node`, with the number of tokens that its passes have on `device`.
fn choice(models: &[Model], node: &Node, cost: &StageCost, device: DeviceSpec) -> Choice {
    let wanted = cost.batch_tokens;
    let choice = Choice::of(cost, node.training());
    let free = device.free_memory().filter(|_| !device.is_processor());
    let (BatchTokens::Fitting(_), Some(free)) = (wanted, free) else { return choice };
    // The estimate is a line from some number of tokens on.
    let bytes = |tokens: usize| of(models, choice.with_tokens(tokens), device).bytes();
    choice.with_tokens(BatchTokens::fitting(free, bytes(BatchTokens::USUAL), bytes(2 * BatchTokens::USUAL)))
}

/// The models of a stage; none where the weights of one are not here yet.
fn models<'a>(plan: &Plan, node: &Node, cost: &StageCost<'a>) -> Result<Option<Vec<Model<'a>>>> {
    let (mut models, train) = (Vec::new(), node.training());
    for ModelCost { name, role, keeps, .. } in &cost.models {
        let Some(source) = plan.start_of(name) else { continue };
        if plan.awaits_weights(&source)? {
            return Ok(None);
        }
        let lora = train.and_then(|train| train.lora.clone());
        let adapters = match (role, lora) {
            (Role::Adapted(_), Some(lora)) => source.adapter_parameters(&lora)?,
            _ => 0,
        };
        let (parameters, sizes) = (source.parameters()?, source.describe()?.sizes);
        models.push(Model { name, role: *role, keeps: *keeps, parameters, adapters, sizes });
    }
    Ok(Some(models))
}

/// The memory of `models` with the settings of `choice`.
fn of(models: &[Model], choice: Choice, device: DeviceSpec) -> Memory {
    let mut memory = Memory::default();
    for Model { name, role, keeps, parameters, adapters, sizes } in models {
        let role = choice.role(*role);
        let bytes_a_parameter = bytes_a_parameter(role, choice.kept);
        memory.models.push(ModelMemory { name: (*name).to_owned(), parameters: *parameters, bytes_a_parameter });
        if *adapters > 0 {
            let (name, bytes_a_parameter) = (format!("adapters of {name}"), bytes_of_adapters(role, choice.kept));
            memory.models.push(ModelMemory { name, parameters: *adapters, bytes_a_parameter });
        }
        let bytes = bytes_an_activation(role, device);
        let of_a_token = match keeps {
            Keeps::AllLayers => sizes.kept_of_a_token(choice.memory, bytes),
            Keeps::OneLayer => sizes.passing_of_a_token(bytes),
            Keeps::Cache => sizes.cached_of_a_token(bytes),
        };
        memory.batch += of_a_token * choice.batch_tokens as u64 + sizes.logits(device, choice.batch_tokens);
    }
    memory
}

/// What trains has a gradient and both moments of AdamW beside it: 4 + 4 + 8 bytes in f32; in bf16 also a copy for the passes, with a
/// gradient of its size: 4 + 2 + 2 + 8. The rest of a model below adapters has nothing beside it.
fn bytes_a_parameter(role: Role, kept: Kept) -> u64 {
    match role {
        Role::Frozen(Precision::Bf16 | Precision::Bf16x2) | Role::Adapted(Precision::Bf16 | Precision::Bf16x2) => 2,
        Role::Frozen(Precision::F32 | Precision::Tf32) | Role::Adapted(Precision::F32 | Precision::Tf32) => 4,
        Role::Trained(Precision::Bf16) if kept.master == Master::None => 2 + 2 + bytes_of_moments(kept),
        Role::Trained(_) => 8 + bytes_of_moments(kept),
        Role::Stored => 0,
    }
}

/// Adapters train in f32, and passes in bf16 convert them.
fn bytes_of_adapters(role: Role, kept: Kept) -> u64 {
    let copy = if role == Role::Adapted(Precision::Bf16) { 2 } else { 0 };
    8 + copy + bytes_of_moments(kept)
}

fn bytes_of_moments(kept: Kept) -> u64 {
    match kept.state {
        Moments::F32 => 8,
        Moments::Bf16 => 4,
    }
}

fn bytes_an_activation(role: Role, device: DeviceSpec) -> u64 {
    match role {
        Role::Trained(Precision::Bf16) | Role::Adapted(Precision::Bf16) => 2,
        Role::Frozen(Precision::Bf16) if device != DeviceSpec::Cpu => 2,
        _ => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_take_the_bytes_of_the_docs() {
        let docs = include_str!("../../../docs/backends.md");
        let [narrow, alone, both] =
            [(Moments::Bf16, Master::F32), (Moments::F32, Master::None), (Moments::Bf16, Master::None)]
                .map(|(state, master)| Kept { state, master });
        let trained = [
            ("trained, f32", Precision::F32, Kept::default()),
            ("trained, f32, `state: bf16`", Precision::F32, narrow),
            ("trained, bf16", Precision::Bf16, Kept::default()),
            ("trained, bf16, `state: bf16`", Precision::Bf16, narrow),
            ("trained, bf16, `master: none`", Precision::Bf16, alone),
            ("trained, bf16, both", Precision::Bf16, both),
        ];
        let frozen = [
            ("base of adapters, f32", Role::Adapted(Precision::F32)),
            ("base of adapters, bf16", Role::Adapted(Precision::Bf16)),
            ("frozen (reference, oracle), bf16", Role::Frozen(Precision::Bf16)),
        ];
        let adapters = [("adapters, f32", Precision::F32), ("adapters, bf16", Precision::Bf16)];
        let trained = trained.map(|(name, precision, kept)| (name, bytes_a_parameter(Role::Trained(precision), kept)));
        let frozen = frozen.map(|(name, role)| (name, bytes_a_parameter(role, Kept::default())));
        let adapters =
            adapters.map(|(name, precision)| (name, bytes_of_adapters(Role::Adapted(precision), Kept::default())));
        for (name, bytes) in trained.into_iter().chain(frozen).chain(adapters) {
            let row = docs.lines().find_map(|line| line.strip_prefix(&format!("| {name} |"))).unwrap();
            let cells: Vec<u64> = row.split('|').filter_map(|cell| cell.trim().parse().ok()).collect();
            let (all, parts) = cells.split_last().unwrap();
            assert_eq!((*all, parts.iter().sum::<u64>()), (bytes, bytes), "{name}");
        }
        let model = ModelMemory { name: "base".into(), parameters: 10, bytes_a_parameter: 16 };
        let mut memory = Memory { models: vec![model], batch: 7, room: None };
        assert_eq!((memory.bytes(), memory.fits()), (167, true));
        memory.room = Some(Room { free: 166, settings: Vec::new() });
        assert!(!memory.fits());
    }
}
