//! Settings with which a stage needs less memory.

use std::fmt;

use crate::model::{DeviceSpec, Memory, Precision};
use crate::stages::train::Train;
use crate::stages::{Role, StageCost};
use crate::train::kept::{Kept, Master, Moments};

/// The settings of a stage that its memory depends on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Choice {
    /// Most tokens in a pass.
    pub(super) batch_tokens: usize,
    /// What passes with gradients keep.
    pub(super) memory: Memory,
    /// What the optimizer keeps.
    pub(super) kept: Kept,
    kind: Kind,
    /// Replaces the precision of the stage.
    precision: Option<Precision>,
    /// The precision of the stage.
    own: Precision,
}

/// What a stage does with its models.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Frozen,
    Trained,
    Adapted,
}

/// A setting that needs less memory, the least harmful first.
#[derive(Debug, Clone, Copy)]
enum Change {
    MemoryLow,
    BatchTokens(usize),
    Bf16,
    State,
    NoMaster,
}

const CHANGES: [Change; 7] = [
    Change::MemoryLow,
    Change::BatchTokens(2048),
    Change::BatchTokens(1024),
    Change::Bf16,
    Change::State,
    Change::NoMaster,
    Change::BatchTokens(512),
];

impl Choice {
    /// The settings of a stage.
    pub(super) fn of(cost: &StageCost, train: Option<&Train>) -> Self {
        let own = cost.models.iter().find_map(|model| match model.role {
            Role::Frozen(precision) | Role::Trained(precision) | Role::Adapted(precision) => Some(precision),
            Role::Stored => None,
        });
        let kind = match train {
            None => Kind::Frozen,
            Some(train) if train.lora.is_some() => Kind::Adapted,
            Some(_) => Kind::Trained,
        };
        Self {
            batch_tokens: cost.batch_tokens.at_least(),
            memory: train.map_or_else(Memory::default, |train| train.memory),
            kept: train.map_or_else(Kept::default, |train| train.optimizer),
            kind,
            precision: None,
            own: own.unwrap_or_default(),
        }
    }

    /// The settings with passes of at most `batch_tokens` tokens.
    pub(super) fn with_tokens(self, batch_tokens: usize) -> Self {
        Self { batch_tokens, ..self }
    }

    /// What the stage does with a model of `role`.
    pub(super) fn role(self, role: Role) -> Role {
        match (role, self.precision) {
            (Role::Frozen(_), Some(precision)) => Role::Frozen(precision),
            (Role::Trained(_), Some(precision)) => Role::Trained(precision),
            (Role::Adapted(_), Some(precision)) => Role::Adapted(precision),
            (role, _) => role,
        }
    }

    /// The settings after `change`, where it is possible and one at all.
    fn after(self, change: Change, device: DeviceSpec) -> Option<Self> {
        let is_wide = self.precision.unwrap_or(self.own) != Precision::Bf16;
        let narrows = device != DeviceSpec::Cpu || self.kind == Kind::Frozen;
        let Kept { state, master } = self.kept;
        match change {
            Change::MemoryLow if self.kind != Kind::Frozen && self.memory != Memory::Low => {
                Some(Self { memory: Memory::Low, ..self })
            }
            Change::BatchTokens(tokens) if tokens < self.batch_tokens => Some(self.with_tokens(tokens)),
            Change::Bf16 if is_wide && narrows => Some(Self { precision: Some(Precision::Bf16), ..self }),
            Change::State if self.kind == Kind::Trained && state != Moments::Bf16 => {
                Some(Self { kept: Kept { state: Moments::Bf16, master }, ..self })
            }
            Change::NoMaster if self.kind == Kind::Trained && !is_wide && master != Master::None => {
                Some(Self { kept: Kept { state, master: Master::None }, ..self })
            }
            _ => None,
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MemoryLow => f.write_str("memory: low"),
            Self::BatchTokens(tokens) => write!(f, "batch_tokens: {tokens}"),
            Self::Bf16 => f.write_str("precision: bf16"),
            Self::State => f.write_str("optimizer.state: bf16"),
            Self::NoMaster => f.write_str("optimizer.master: none"),
        }
    }
}

/// The fewest settings, beginning with the least harmful, after which the stage `fits`; none where all of them are not enough.
pub(super) fn settings(choice: Choice, device: DeviceSpec, fits: impl Fn(Choice) -> bool) -> Vec<String> {
    let alone = CHANGES.iter().find(|change| choice.after(**change, device).is_some_and(&fits));
    if let Some(change) = alone {
        return vec![change.to_string()];
    }
    let (mut choice, mut made) = (choice, Vec::new());
    for change in CHANGES {
        let Some(after) = choice.after(change, device) else { continue };
        if matches!(change, Change::BatchTokens(_)) {
            made.retain(|made| !matches!(made, Change::BatchTokens(_)));
        }
        made.push(change);
        choice = after;
        if fits(choice) {
            return made.iter().map(Change::to_string).collect();
        }
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(kind: Kind) -> Choice {
        let (batch_tokens, memory, kept) = (4096, Memory::Normal, Kept::default());
        Choice { batch_tokens, memory, kept, kind, precision: None, own: Precision::F32 }
    }

    #[test]
    fn one_setting_is_named_where_it_is_enough_and_all_that_it_takes_otherwise() {
        let device = DeviceSpec::LibTorch;
        let low = |choice: Choice| choice.memory == Memory::Low;
        assert_eq!(settings(choice(Kind::Trained), device, low), ["memory: low"]);
        let state = |choice: Choice| choice.kept.state == Moments::Bf16;
        assert_eq!(settings(choice(Kind::Trained), device, state), ["optimizer.state: bf16"]);
        let all = settings(choice(Kind::Trained), device, |choice| choice.kept.master == Master::None);
        assert_eq!(
            all,
            ["memory: low", "batch_tokens: 1024", "precision: bf16", "optimizer.state: bf16", "optimizer.master: none"]
        );
        assert!(settings(choice(Kind::Trained), device, |_| false).is_empty());
    }

    #[test]
    fn settings_that_a_stage_lacks_are_not_named() {
        let small = |choice: Choice| choice.batch_tokens == 512 && choice.precision.is_some();
        assert_eq!(settings(choice(Kind::Frozen), DeviceSpec::Cpu, small), ["precision: bf16", "batch_tokens: 512"]);
        let narrow = |choice: Choice| choice.precision.is_some();
        assert!(settings(choice(Kind::Adapted), DeviceSpec::Cpu, narrow).is_empty());
        assert!(
            settings(choice(Kind::Adapted), DeviceSpec::LibTorch, |choice| choice.kept != Kept::default()).is_empty()
        );
    }
}
