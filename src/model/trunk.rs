//! The first layers that two models share: an adapter on the last layers, or a training that froze the first ones, leaves them as
//! they are in the base. They run once for both models.

use serde_json::Value;

use super::architectures::Described;
use super::checkpoint::adapter::Stored;
use super::checkpoint::names::layer_of;
use super::checkpoint::source::ModelSource;
use super::checkpoint::tensors::Checkpoint;
use super::sizes::Names;
use crate::error::Result;

impl ModelSource {
    /// The number of layers, counted from the embeddings, that are bitwise equal in both models. Reads the weights up to the first
    /// difference.
    ///
    /// # Errors
    /// A checkpoint that cannot be read, or a model that is not supported.
    pub fn common_layers(&self, other: &Self) -> Result<usize> {
        let config = self.config()?;
        if computational(&config) != computational(&other.config()?) {
            return Ok(0);
        }
        let Described { sizes, names, .. } = self.describe()?;
        let base = match (self.base_folder()?, other.base_folder()?) {
            (Some(own), Some(other)) if own == other => usize::MAX,
            (Some(own), Some(other)) => Checkpoint::open(&own)?.same_base(&Checkpoint::open(&other)?, &names),
            (None, None) if self.weights == other.weights => usize::MAX,
            _ => 0,
        };
        let adapter = |source: &Self| source.adapter_folder().map(Stored::open).transpose();
        let adapted = match (adapter(self)?, adapter(other)?) {
            (Some(own), Some(other)) if (own.alpha, own.rslora) == (other.alpha, other.rslora) => {
                own.checkpoint.same_until(&other.checkpoint, &names)
            }
            adapters => {
                let adapters = [adapters.0, adapters.1];
                let adapted = adapters.iter().flatten().flat_map(|stored| stored.checkpoint.names());
                adapted.map(|name| matters_from(name, &names)).min().unwrap_or(usize::MAX)
            }
        };
        Ok(sizes.layers.min(base).min(adapted))
    }
}

impl Checkpoint {
    /// As [`Self::same_until`], of whole models: where a checkpoint has its embeddings under the head's name, all depends on it.
    fn same_base(&self, other: &Self, names: &Names) -> usize {
        let has_embeddings =
            |checkpoint: &Self| checkpoint.names().any(|name| name.split('.').any(|part| part == names.embeddings));
        match has_embeddings(self) && has_embeddings(other) || self.has_equal(other, &format!("{}.weight", names.head))
        {
            true => self.same_until(other, names),
            false => 0,
        }
    }

    /// The first layer whose output depends on a tensor that differs between the two; `usize::MAX` if no layer does.
    fn same_until(&self, other: &Self, names: &Names) -> usize {
        let tensors = self.names().chain(other.names());
        let mut tensors: Vec<(usize, &str)> = tensors.map(|name| (matters_from(name, names), name)).collect();
        tensors.sort_unstable();
        let differs = |(layer, name): &(usize, &str)| *layer < usize::MAX && !self.has_equal(other, name);
        tensors.into_iter().find(differs).map_or(usize::MAX, |(layer, _)| layer)
    }
}

/// The first layer whose output depends on the tensor `name`; `usize::MAX` for the final norm and the head.
fn matters_from(name: &str, names: &Names) -> usize {
    let after_all = || name.split('.').any(|part| names.after_layers.contains(&part));
    layer_of(name).unwrap_or_else(|| if after_all() { usize::MAX } else { 0 })
}

/// config.json without the entries that do not affect the computation.
fn computational(config: &Value) -> Value {
    let mut config = config.clone();
    if let Some(entries) = config.as_object_mut() {
        let irrelevant =
            ["_name_or_path", "architectures", "transformers_version", "torch_dtype", "dtype", "use_cache"];
        entries.retain(|name, _| !irrelevant.contains(&name.as_str()) && !name.ends_with("_token_id"));
    }
    config
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::model::save::{self, Card};
    use crate::model::{CausalLm, DeviceSpec, Lora, PairIds, Precision, Scorer};

    fn fixture(name: &str) -> ModelSource {
        ModelSource::folder(name, Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name))
    }

    /// `source` with adapters that are not zero, on all layers or the last ones.
    fn adapted(source: &ModelSource, last_layers: Option<usize>, alpha: f64, folder: PathBuf) -> ModelSource {
        let lora: Lora =
            serde_json::from_value(serde_json::json!({ "alpha": alpha, "last_layers": last_layers })).unwrap();
        let device = DeviceSpec::Cpu.open().unwrap();
        let model = CausalLm::load_adapted(source, &lora, 7, &device)
            .unwrap()
            .map_parameters(|name, values| if name.contains("lora_B") { values + 0.05 } else { values });
        let card = Card { objective: serde_json::json!({}), data: String::new(), base: None };
        save::adapted(model, source, &lora, &card, &folder).unwrap();
        ModelSource::folder("adapted", folder)
    }

    #[test]
    fn names_say_where_a_difference_begins() {
        let [llama, neox, gpt2] = ["llama-tied", "gpt_neox-parallel", "gpt2-untied"]
            .map(|model| move |name: &str| matters_from(name, &fixture(model).describe().unwrap().names));
        assert_eq!(llama("model.embed_tokens.weight"), 0);
        assert_eq!(gpt2("transformer.wpe.weight"), 0);
        assert_eq!(llama("base_model.model.model.layers.12.mlp.up_proj.lora_A.weight"), 12);
        assert_eq!(gpt2("h.3.ln_1.bias"), 3);
        assert_eq!(llama("model.layers.4.post_attention_layernorm.weight"), 4);
        assert_eq!(llama("model.norm.weight"), usize::MAX);
        assert_eq!(llama("base_model.model.lm_head.lora_A.weight"), usize::MAX);
        assert_eq!([neox("gpt_neox.final_layer_norm.bias"), neox("embed_out.weight")], [usize::MAX; 2]);
        assert_eq!([gpt2("transformer.ln_f.bias"), gpt2("ln_f.bias")], [usize::MAX; 2]);
    }

    #[test]
    fn the_layers_below_an_adapter_are_those_of_its_base() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["llama-tied", "gpt_neox-parallel", "gpt2-untied"] {
            let base = fixture(name);
            let all = base.describe().unwrap().sizes.layers;
            assert!(all > 1);
            assert_eq!(base.common_layers(&base).unwrap(), all);
            let last = adapted(&base, Some(1), 32.0, at(&format!("{name}-last")));
            let whole = adapted(&base, None, 32.0, at(&format!("{name}-whole")));
            let other_scale = adapted(&base, Some(1), 8.0, at(&format!("{name}-scale")));
            assert_eq!(base.common_layers(&last).unwrap(), all - 1, "{name}");
            assert_eq!(last.common_layers(&other_scale).unwrap(), all - 1, "{name}");
            assert_eq!(whole.common_layers(&base).unwrap(), 0, "{name}");
            assert_eq!(whole.common_layers(&last).unwrap(), 0, "{name}");
            assert_eq!(last.common_layers(&last).unwrap(), all, "{name}");
        }
        assert_eq!(fixture("llama-tied").common_layers(&fixture("gpt2-untied")).unwrap(), 0);
    }

    /// Bitwise: a score does not depend on whether layers are shared.
    #[test]
    fn common_layers_run_once_to_the_same_log_probabilities() {
        let folder = tempfile::tempdir().unwrap();
        let base = fixture("llama-tied");
        let last = adapted(&base, Some(1), 32.0, folder.path().join("last"));
        let [base, last] =
            [base, last].map(|source| Scorer::load(&source, DeviceSpec::Cpu, Precision::F32, 16).unwrap());
        let pairs = [
            PairIds { prompt: &[5, 9, 1, 7], responses: [&[4, 8, 2], &[6, 1]] },
            PairIds { prompt: &[3, 3], responses: [&[2], &[]] },
            PairIds { prompt: &[1, 2, 3, 4, 5, 6, 7, 8], responses: [&[9, 8], &[7, 7, 7]] },
        ];
        let apart = [&base, &last].map(|scorer| scorer.logps(&pairs).unwrap());
        assert!(apart[0] != apart[1]);
        assert_eq!(base.logps_beside(&last, 1, &pairs).unwrap(), apart);
        assert_eq!(base.logps_beside(&last, 0, &pairs).unwrap(), apart);
    }
}
