//! What trains, and what it says about a batch: a model, and a baseline head where the objective learns one.

use burn::module::Module;
use burn::tensor::{Device, Gradients, Tensor};

use crate::model::{Baseline, CausalLm, PackedBatch};
use crate::objective::States;

/// A model in training.
#[derive(Debug, Clone)]
pub struct Policy {
    model: CausalLm,
    baseline: Option<Baseline>,
}

/// What a policy says about the needed tokens of a batch, each `[needed]`.
pub(super) struct PolicyOutput {
    /// Their log-probabilities.
    pub(super) logps: Tensor<1>,
    /// The numbers of the states before them, where the objective reads any.
    pub(super) states: Option<Tensor<1>>,
    /// The log-probabilities of a live reference.
    pub(super) reference: Option<Tensor<1>>,
}

impl Policy {
    /// `model` with what an objective that reads `states` trains beside it, from `seed`.
    pub fn new(model: CausalLm, states: States, seed: u64, device: &Device) -> Self {
        let baseline = match states {
            States::Baseline { width } => Some(Baseline::new(model.hidden_size(), width, seed, device)),
            States::Nothing | States::Divergence => None,
        };
        Self { model, baseline }
    }

    /// The model alone.
    pub fn model(&self) -> &CausalLm {
        &self.model
    }

    /// The same without autodiff.
    pub(super) fn valid(&self) -> Self {
        Self { model: self.model.valid(), baseline: self.baseline.as_ref().map(Module::valid) }
    }

    /// What it says about `batch`, whose hidden states are `hidden`, beside the live `reference` where there is one.
    pub(super) fn forward(
        &self,
        hidden: Tensor<2>,
        reference: Option<&CausalLm>,
        batch: &PackedBatch,
        device: &Device,
    ) -> PolicyOutput {
        if let Some(reference) = reference {
            let compared = self.model.compared(hidden, reference, batch, device);
            let (states, reference) = (Some(compared.divergences), Some(compared.reference));
            return PolicyOutput { logps: compared.logps, states, reference };
        }
        // The baseline follows the policy; it does not lead it.
        let states = self.baseline.as_ref().map(|baseline| baseline.values(hidden.clone().detach()));
        PolicyOutput { logps: self.model.logps_of(hidden, batch), states, reference: None }
    }

    /// Calls `visit` with every parameter's name and tensor, flattened, in a fixed order.
    pub(super) fn for_each_parameter(&self, mut visit: impl FnMut(&str, Tensor<1>, &[usize])) {
        self.model.for_each_parameter(&mut visit);
        if let Some(baseline) = &self.baseline {
            baseline.for_each_parameter(visit);
        }
    }

    /// Takes every trained parameter's gradient out of `gradients`.
    pub(super) fn take_gradients(&self, gradients: &mut Gradients, mut take: impl FnMut(&str, Tensor<1>)) {
        self.model.take_gradients(gradients, &mut take);
        if let Some(baseline) = &self.baseline {
            baseline.take_gradients(gradients, take);
        }
    }

    /// Replaces every parameter by what `replace` makes of its name and tensor.
    pub(super) fn map_parameters(self, mut replace: impl FnMut(&str, Tensor<1>) -> Tensor<1>) -> Self {
        let model = self.model.map_parameters(&mut replace);
        Self { model, baseline: self.baseline.map(|baseline| baseline.map_parameters(replace)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ModelSource, Needed, Response, Weights};
    use serde_json::json;

    fn policy(device: &Device) -> Policy {
        let config = json!({
            "model_type": "llama", "vocab_size": 20, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1,
            "num_attention_heads": 2, "max_position_embeddings": 16, "rms_norm_eps": 1e-5, "tie_word_embeddings": true,
        });
        let source = ModelSource::new("small", Weights::Init { config, seed: 1 }, None);
        Policy::new(CausalLm::load(&source, device).unwrap(), States::Baseline { width: 4 }, 1, device)
    }

    #[test]
    fn a_baseline_learns_and_leaves_the_policy_alone() {
        let device = Device::flex().autodiff();
        let policy = policy(&device);
        let mut batch = PackedBatch::default();
        batch.push(&[1, 2], &[Response { ids: &[3, 4, 5], needed: Needed::All }]);
        let output = policy.forward(policy.model.hidden(&batch, &device), None, &batch, &device);
        let states = output.states.unwrap();
        assert_eq!(states.to_data().try_into_vec::<f32>().unwrap(), [0.0; 3], "it starts at 0");
        let mut seen = Vec::new();
        policy.take_gradients(&mut states.sum().backward(), |name, _| seen.push(name.to_owned()));
        assert_eq!(seen, ["baseline.up", "baseline.shift", "baseline.down"]);
        let moved = policy.map_parameters(|name, values| if name == "baseline.down" { values + 1.0 } else { values });
        let hidden = moved.model.hidden(&batch, &device);
        let states =
            moved.forward(hidden, None, &batch, &device).states.unwrap().to_data().try_into_vec::<f32>().unwrap();
        assert!(states.iter().all(|state| *state != 0.0) && states[0] != states[1], "{states:?}");
    }
}
