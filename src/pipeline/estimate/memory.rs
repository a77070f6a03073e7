//! The memory that a stage's models and one batch will take. docs/backends.md has the bytes of a parameter as a table.

use crate::error::Result;
use crate::model::Precision;
use crate::pipeline::plan::Plan;
use crate::stages::{ModelCost, Role, StageCost};

/// Memory of a stage.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Memory {
    /// Its models.
    pub models: Vec<ModelMemory>,
    /// Bytes of what passes keep of a batch.
    pub batch: u64,
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

impl Memory {
    /// All bytes.
    pub fn bytes(&self) -> u64 {
        self.batch + self.models.iter().map(|model| model.parameters * model.bytes_a_parameter).sum::<u64>()
    }
}

/// Weights, and what a pass keeps of a batch; not known where weights are not here yet.
pub(super) fn memory(plan: &Plan, cost: &StageCost) -> Result<Option<Memory>> {
    let mut memory = Memory::default();
    for ModelCost { name, role, kept, .. } in &cost.models {
        let Some(source) = plan.start_of(name) else { continue };
        if plan.awaits_weights(&source)? {
            return Ok(None);
        }
        let (name, bytes_a_parameter) = ((*name).to_owned(), bytes_a_parameter(*role));
        memory.models.push(ModelMemory { name, parameters: source.parameters()?, bytes_a_parameter });
        memory.batch += source.activations()? / kept * bytes_an_activation(*role) * cost.batch_tokens as u64;
    }
    Ok(Some(memory))
}

/// What trains has a gradient and both moments of AdamW beside it: 4 + 4 + 8 bytes in f32; in bf16 also a copy for the passes, with a
/// gradient of its size: 4 + 2 + 2 + 8. The rest of a model below adapters has nothing beside it.
fn bytes_a_parameter(role: Role) -> u64 {
    match role {
        Role::Frozen(Precision::Bf16 | Precision::Bf16x2) | Role::Adapted(Precision::Bf16 | Precision::Bf16x2) => 2,
        Role::Frozen(Precision::F32 | Precision::Tf32) | Role::Adapted(Precision::F32 | Precision::Tf32) => 4,
        Role::Trained(_) => 16,
        Role::Stored => 0,
    }
}

fn bytes_an_activation(role: Role) -> u64 {
    match role {
        Role::Trained(Precision::Bf16) | Role::Adapted(Precision::Bf16) => 2,
        _ => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_take_the_bytes_of_the_docs() {
        let docs = include_str!("../../../docs/backends.md");
        let rows = [
            ("trained, f32", Role::Trained(Precision::F32)),
            ("trained, bf16", Role::Trained(Precision::Bf16)),
            ("base of adapters, f32", Role::Adapted(Precision::F32)),
            ("base of adapters, bf16", Role::Adapted(Precision::Bf16)),
            ("frozen (reference, oracle), bf16", Role::Frozen(Precision::Bf16)),
        ];
        for (name, role) in rows {
            let row = docs.lines().find_map(|line| line.strip_prefix(&format!("| {name} |"))).unwrap();
            let cells: Vec<u64> = row.split('|').filter_map(|cell| cell.trim().parse().ok()).collect();
            let (all, parts) = cells.split_last().unwrap();
            assert_eq!((*all, parts.iter().sum::<u64>()), (bytes_a_parameter(role), bytes_a_parameter(role)), "{name}");
        }
        let model = ModelMemory { name: "base".into(), parameters: 10, bytes_a_parameter: 16 };
        assert_eq!(Memory { models: vec![model], batch: 7 }.bytes(), 167);
    }
}
