//! How many positions a model was made for, from config.json. Learned positions end there; rotary ones can be computed for any
//! position, but the model has never seen them.

use serde_json::Value;

/// What `transformers` takes for `max_position_embeddings` where config.json does not name it.
const DEFAULTS: [(&str, f64); 5] =
    [("llama", 2048.0), ("mistral", 131_072.0), ("qwen2", 32_768.0), ("qwen3", 32_768.0), ("gpt_neox", 2048.0)];

/// The longest sequence that a model with this `config` was made for; none where config.json does not tell. A sliding window
/// is no limit: layers see less than the whole sequence, but positions go on.
///
/// `max_position_embeddings` is the length before `linear` scaling of rotary positions, as the documentation of `transformers`
/// has it ("don't update `max_position_embeddings`"), unless `original_max_position_embeddings` says otherwise. With `llama3`
/// it is the length after the scaling.
pub fn limit(config: &Value) -> Option<usize> {
    let number = |map: &Value, name: &str| map.get(name)?.as_f64().filter(|number| *number >= 1.0);
    let kind = config.get("model_type").and_then(Value::as_str)?;
    if kind == "gpt2" {
        return number(config, "n_positions").map(|positions| positions as usize);
    }
    let default = || DEFAULTS.iter().find(|(name, _)| *name == kind).map(|(_, positions)| *positions);
    let positions = number(config, "max_position_embeddings").or_else(default)?;
    let parameters = ["rope_scaling", "rope_parameters"].into_iter().filter_map(|name| config.get(name));
    let Some(scaling) = parameters.into_iter().find(|parameters| parameters.is_object()) else {
        return Some(positions as usize);
    };
    let scaling_kind = scaling.get("rope_type").or_else(|| scaling.get("type")).and_then(Value::as_str);
    let original = number(scaling, "original_max_position_embeddings")
        .or_else(|| number(config, "original_max_position_embeddings"))
        .unwrap_or(positions);
    let scaled = match scaling_kind {
        Some("linear") => original * number(scaling, "factor").unwrap_or(1.0),
        _ => positions,
    };
    Some(positions.max(scaled) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_limit_is_that_of_the_scaled_model() {
        let limit = |more: Value| {
            let mut config = json!({ "model_type": "llama", "max_position_embeddings": 4096 });
            config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            limit(&config)
        };
        assert_eq!(limit(json!({})), Some(4096));
        assert_eq!(limit(json!({ "sliding_window": 512 })), Some(4096));
        assert_eq!(limit(json!({ "rope_scaling": null, "rope_parameters": { "rope_theta": 1e4 } })), Some(4096));
        // lmsys/vicuna-7b-v1.5-16k.
        assert_eq!(limit(json!({ "rope_scaling": { "type": "linear", "factor": 4.0 } })), Some(16_384));
        let raised = json!({ "max_position_embeddings": 16_384,
            "rope_parameters": { "rope_type": "linear", "factor": 4.0, "original_max_position_embeddings": 4096 } });
        assert_eq!(limit(raised), Some(16_384));
        // meta-llama/Llama-3.2-1B.
        let llama3 = json!({ "max_position_embeddings": 131_072,
            "rope_scaling": { "rope_type": "llama3", "factor": 32.0, "original_max_position_embeddings": 8192 } });
        assert_eq!(limit(llama3), Some(131_072));
    }

    #[test]
    fn what_config_json_leaves_out_is_the_default_of_its_architecture() {
        assert_eq!(limit(&json!({ "model_type": "gpt2", "n_positions": 1024 })), Some(1024));
        assert_eq!(limit(&json!({ "model_type": "qwen2" })), Some(32_768));
        assert_eq!(limit(&json!({ "model_type": "other" })), None);
        assert_eq!(limit(&json!({})), None);
    }
}
