//! The weights of a model: header, offsets, types and shapes of a safetensors file.

#![no_main]

use std::sync::Once;

use libfuzzer_sys::fuzz_target;
use sepo::model::{CausalLm, DeviceSpec, ModelSource};
use sepo_fuzz::{file, folder};

/// So small that a seed can hold all of its tensors.
const CONFIG: &str = r#"{ "model_type": "llama", "vocab_size": 3, "hidden_size": 2, "intermediate_size": 2,
    "num_hidden_layers": 1, "num_attention_heads": 1, "max_position_embeddings": 4, "rms_norm_eps": 1e-5,
    "tie_word_embeddings": true }"#;

fuzz_target!(|content: &[u8]| {
    static CONFIGURED: Once = Once::new();
    CONFIGURED.call_once(|| drop(file("config.json", CONFIG.as_bytes())));
    file("model.safetensors", content);
    let source = ModelSource::folder("fuzz", folder());
    let parameters = source.parameters();
    let model = DeviceSpec::Cpu.open().and_then(|device| CausalLm::load(&source, &device));
    assert!(model.is_err() || parameters.is_ok(), "loaded what cannot be counted");
});
