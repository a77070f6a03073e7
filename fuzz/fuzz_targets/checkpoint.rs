//! A model's folder: config.json, and header, offsets, types and shapes of a safetensors file. The first two bytes are the
//! length of config.json, which the weights follow.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sepo::model::{CausalLm, DeviceSpec, ModelSource};
use sepo_fuzz::{file, folder};

fuzz_target!(|input: &[u8]| {
    let Some((length, content)) = input.split_first_chunk() else { return };
    let Some((config, weights)) = content.split_at_checked(usize::from(u16::from_le_bytes(*length))) else { return };
    file("config.json", config);
    file("model.safetensors", weights);
    let source = ModelSource::folder("fuzz", folder());
    let parameters = source.parameters();
    let model = DeviceSpec::Cpu.open().and_then(|device| CausalLm::load(&source, &device));
    assert!(model.is_err() || parameters.is_ok(), "loaded what cannot be counted");
});
