//! Checkpoints whose tensors and configuration disagree are read as `transformers` reads them. The log-probabilities are those that
//! it gives for the fixtures, which the changes here leave as they are: tests/peers/compare_checkpoints.py.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use sepo::model::save;
use sepo::model::{CausalLm, ModelSource};
use serde_json::{Value, json};

use crate::close::assert_close;
use crate::harness::Folder;
use crate::parity::{device, expected, fixture, host, pack};

/// Shapes and f32 values by name.
type Tensors = BTreeMap<String, (Vec<usize>, Vec<u8>)>;

fn tensors(file: &Path) -> Tensors {
    let bytes = fs::read(file).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    tensors.iter().map(|(name, view)| (name.to_owned(), (view.shape().to_vec(), view.data().to_vec()))).collect()
}

fn write(file: &Path, tensors: &Tensors) {
    let views =
        tensors.iter().map(|(name, (shape, bytes))| (name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
    safetensors::serialize_to_file(views, None, file).unwrap();
}

/// A copy of the checkpoint `case` in `out`, with other tensors and options.
fn copy(out: &Folder, case: &str, options: &Value, change: impl FnOnce(&mut Tensors)) -> PathBuf {
    let folder = out.path("model");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir(&folder).unwrap();
    let mut config: Value = serde_json::from_slice(&fs::read(fixture(case).join("config.json")).unwrap()).unwrap();
    for (key, value) in options.as_object().unwrap() {
        config[key] = value.clone();
    }
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let mut changed = tensors(&fixture(case).join("model.safetensors"));
    change(&mut changed);
    write(&folder.join("model.safetensors"), &changed);
    folder
}

fn agrees(source: &ModelSource, case: &str, what: &str) -> CausalLm {
    let (device, expected) = (device(), expected(case));
    let model = CausalLm::load(source, &device).unwrap_or_else(|error| panic!("{what}: {error}"));
    let logps = host(model.token_logps(&pack(&expected.pairs), &device));
    assert_close(what, &logps, &expected.logps(), 1e-4);
    model
}

#[test]
fn a_head_of_its_own_is_not_tied_whatever_the_configuration_says() {
    let (out, tied) = (Folder::new(), json!({ "tie_word_embeddings": true }));
    for case in ["llama-untied", "gpt2-untied", "gpt_neox-parallel"] {
        let source = ModelSource::folder("m", copy(&out, case, &tied, |_| {}));
        let model = agrees(&source, case, case);
        let saved = out.path("saved");
        save::whole(&model, &source, None, &saved).unwrap();
        let config: Value = serde_json::from_slice(&fs::read(saved.join("config.json")).unwrap()).unwrap();
        assert_eq!(config["tie_word_embeddings"], false, "{case}");
        agrees(&ModelSource::folder("saved", &saved), case, case);
    }
}

#[test]
fn a_head_that_is_the_embeddings_is_tied_under_either_name() {
    let out = Folder::new();
    const EMBEDDINGS: &str = "model.embed_tokens.weight";
    let both = copy(&out, "llama-tied", &json!({}), |tensors| {
        tensors.insert("lm_head.weight".into(), tensors[EMBEDDINGS].clone());
    });
    agrees(&ModelSource::folder("m", both), "llama-tied", "both");
    let alone = copy(&out, "llama-tied", &json!({}), |tensors| {
        let table = tensors.remove(EMBEDDINGS).unwrap();
        tensors.insert("lm_head.weight".into(), table);
    });
    let alone = ModelSource::folder("m", alone);
    agrees(&alone, "llama-tied", "head alone");
    // The head holds the embeddings, on which every layer depends.
    assert_eq!(alone.common_layers(&ModelSource::folder("base", fixture("llama-tied"))).unwrap(), 0);
    // Nothing can stand for a head that config.json does not tie.
    let missing = copy(&out, "llama-untied", &json!({}), |tensors| drop(tensors.remove("lm_head.weight")));
    let error = CausalLm::load(&ModelSource::folder("m", missing), &device()).unwrap_err().to_string();
    assert!(error.contains("tensor `lm_head.weight` is missing"), "{error}");
}

#[test]
fn what_the_configuration_does_not_account_for_is_left_out() {
    let out = Folder::new();
    let more = copy(&out, "llama-tied", &json!({}), |tensors| {
        let layer = tensors
            .iter()
            .filter(|(name, _)| name.contains("layers.1."))
            .map(|(name, tensor)| (name.replace("layers.1.", "layers.2."), tensor.clone()));
        let layer: Vec<_> = layer.collect();
        tensors.extend(layer);
        let ones = |count: usize| (vec![count], 1_f32.to_le_bytes().repeat(count));
        tensors.insert("model.layers.0.self_attn.q_proj.bias".into(), ones(32));
        tensors.insert("model.layers.0.self_attn.rotary_emb.inv_freq".into(), ones(4));
        tensors.insert("value_head.weight".into(), ones(3));
    });
    agrees(&ModelSource::folder("m", more), "llama-tied", "more tensors");
    for (case, prefix) in [("llama-untied", "model."), ("gpt_neox-parallel", "gpt_neox.")] {
        let bare = copy(&out, case, &json!({}), |tensors| {
            *tensors = std::mem::take(tensors)
                .into_iter()
                .map(|(name, tensor)| (name.strip_prefix(prefix).unwrap_or(&name).to_owned(), tensor))
                .collect();
        });
        agrees(&ModelSource::folder("m", bare), case, "names without their prefix");
    }
}

/// As PEFT saves an adapter that targets the head: with the head and the embeddings as they are without it.
#[test]
fn an_adapter_may_bring_the_head_and_the_embeddings() {
    let (out, base) = (Folder::new(), fixture("llama-untied"));
    let whole = tensors(&base.join("model.safetensors"));
    let adapter = out.path("adapter");
    fs::create_dir(&adapter).unwrap();
    let mut config: Value =
        serde_json::from_slice(&fs::read(fixture("adapters/llama").join("adapter_config.json")).unwrap()).unwrap();
    config["target_modules"].as_array_mut().unwrap().push(json!("lm_head"));
    fs::write(adapter.join("adapter_config.json"), config.to_string()).unwrap();
    let mut own = tensors(&fixture("adapters/llama").join("adapter_model.safetensors"));
    // Factors whose product is 0.
    own.insert("base_model.model.lm_head.lora_A.weight".into(), (vec![4, 32], 1_f32.to_le_bytes().repeat(4 * 32)));
    own.insert("base_model.model.lm_head.lora_B.weight".into(), (vec![96, 4], vec![0; 4 * 4 * 96]));
    own.insert("base_model.model.lm_head.base_layer.weight".into(), whole["lm_head.weight"].clone());
    own.insert("base_model.model.model.embed_tokens.weight".into(), whole["model.embed_tokens.weight"].clone());
    write(&adapter.join("adapter_model.safetensors"), &own);
    let source = |base: &Path| ModelSource::folder("base", base).adapted(adapter.clone());
    agrees(&source(&base), "adapters/llama", "the base's own");
    // The adapter's head is the one that is used.
    let other = copy(&out, "llama-untied", &json!({}), |tensors| {
        let (_, bytes) = tensors.get_mut("lm_head.weight").unwrap();
        bytes.fill(0);
    });
    agrees(&source(&other), "adapters/llama", "another head in the base");
}
