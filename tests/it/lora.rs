//! LoRA adapters: read as PEFT saves them, trained, saved as PEFT reads them, merged, and refused with a reason.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use safetensors::SafeTensors;
use sepo::model::checkpoint::names::peft_name;
use sepo::model::save::{self, Card};
use sepo::model::{CausalLm, Lora, ModelSource, Weights};
use serde_json::{Value, json};

use crate::close::assert_close;
use crate::harness::{Folder, repository};
use crate::parity::{assert_parity, device, expected, fixture, host, pack};

/// The adapters that `tests/fixtures/make_adapters.py` made, their bases, and how they were made.
fn adapters() -> [(&'static str, &'static str, Value); 5] {
    [
        ("adapters/llama", "llama-untied", json!({ "r": 4, "alpha": 8 })),
        ("adapters/qwen3", "qwen3-window", json!({ "r": 2, "alpha": 6, "targets": ["q_proj", "v_proj"] })),
        (
            "adapters/gpt_neox",
            "gpt_neox-sequential-v4",
            json!({ "r": 3, "alpha": 6, "targets": ["dense", "query_key_value"] }),
        ),
        ("adapters/gpt2", "gpt2-bare", json!({ "r": 4, "alpha": 5, "targets": ["c_attn", "c_proj"], "rslora": true })),
        (
            "adapters/qwen2",
            "qwen2-tied",
            json!({ "r": 2, "alpha": 4, "targets": ["q_proj", "up_proj"], "last_layers": 1 }),
        ),
    ]
}

fn lora(settings: &Value) -> Lora {
    serde_json::from_value(settings.clone()).unwrap()
}

fn source(name: &str) -> ModelSource {
    ModelSource::folder(name, fixture(name))
}

fn card() -> Card {
    Card { objective: json!({ "dpo": { "beta": 0.1 } }), data: "4 rows of `tokens` in a test".into(), base: None }
}

fn tensors(file: &Path) -> BTreeMap<String, (Vec<usize>, Vec<u8>)> {
    let bytes = fs::read(file).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    tensors.iter().map(|(name, view)| (name.to_owned(), (view.shape().to_vec(), view.data().to_vec()))).collect()
}

#[test]
fn a_training_adapter_is_pefts() {
    for (name, _, settings) in adapters() {
        let load = |device: &_| CausalLm::load_adapted(&source(name), &lora(&settings), 1, device).unwrap();
        assert_parity(name, &expected(name), load, peft_name);
    }
}

#[test]
fn an_adapter_is_read_by_its_folder_or_beside_its_base() {
    let device = device();
    for (name, base, _) in adapters() {
        let expected = expected(name);
        let beside = source(base).adapted(fixture(name));
        assert_ne!(beside.digest().unwrap(), source(base).digest().unwrap());
        for source in [source(name), beside] {
            let model = CausalLm::load(&source, &device).unwrap();
            let logps = host(model.token_logps(&pack(&expected.pairs), &device));
            assert_close(name, &logps, &expected.logps(), 1e-4);
        }
    }
}

#[test]
fn an_adapter_is_saved_as_peft_saves_it() {
    let (device, out) = (device(), Folder::new());
    for (name, base, settings) in adapters() {
        let model = CausalLm::load_adapted(&source(name), &lora(&settings), 1, &device).unwrap();
        let folder = out.path(base);
        save::adapted(model, &source(name), &lora(&settings), &card(), &folder).unwrap();
        let file = "adapter_model.safetensors";
        assert_eq!(tensors(&folder.join(file)), tensors(&fixture(name).join(file)), "{name}");
        let config = |folder: &Path| -> Value {
            serde_json::from_slice(&fs::read(folder.join("adapter_config.json")).unwrap()).unwrap()
        };
        let (ours, theirs) = (config(&folder), config(&fixture(name)));
        for (key, value) in ours.as_object().unwrap() {
            match key.as_str() {
                "base_model_name_or_path" => {
                    let base = fs::canonicalize(fixture(base)).unwrap();
                    assert_eq!(value.as_str(), base.to_str(), "{name}");
                }
                // PEFT names every layer in full where it was told to take all.
                "target_modules" if settings.get("targets").is_none() => {
                    assert_eq!(value.as_array().map(Vec::len), Some(7), "{name}: {value}");
                }
                // A set, in whatever order Python gave it.
                "target_modules" => {
                    let set = |value: &Value| -> BTreeSet<String> { serde_json::from_value(value.clone()).unwrap() };
                    assert_eq!(set(value), set(&theirs[key]), "{name}");
                }
                key => assert_eq!(*value, theirs[key], "{name}: {key}"),
            }
        }
        let readme = fs::read_to_string(folder.join("README.md")).unwrap();
        assert!(readme.contains("library_name: peft") && readme.contains("dpo"), "{readme}");
        assert!(CausalLm::load(&ModelSource::folder("back", folder), &device).is_ok());
    }
}

#[test]
fn merged_adapters_are_a_model_like_any_other() {
    let (device, out) = (device(), Folder::new());
    for (name, base, settings) in adapters() {
        let settings = Lora { merge: true, ..lora(&settings) };
        let model = CausalLm::load_adapted(&source(name), &settings, 1, &device).unwrap();
        let folder = out.path(base);
        save::adapted(model, &source(name), &settings, &card(), &folder).unwrap();
        let expected = expected(name);
        let merged = CausalLm::load(&ModelSource::folder("merged", folder), &device).unwrap();
        let logps = host(merged.token_logps(&pack(&expected.pairs), &device));
        assert_close(name, &logps, &expected.logps(), 1e-4);
    }
    assert_eq!(fs::read_dir(out.path("")).unwrap().count(), adapters().len(), "nothing else is left behind");
}

#[test]
fn a_new_adapter_leaves_the_model_as_it_is_and_everything_else_frozen() {
    let device = device();
    for (base, layers) in [("mistral-window", 14), ("gpt2-untied", 8), ("gpt_neox-parallel", 8)] {
        let batch = pack(&expected(base).pairs);
        let plain = CausalLm::load(&source(base), &device).unwrap();
        let adapted = CausalLm::load_adapted(&source(base), &lora(&json!({})), 7, &device.clone().autodiff()).unwrap();
        let logps = adapted.token_logps(&batch, &device.clone().autodiff());
        assert_close(base, &host(logps.clone().inner()), &host(plain.token_logps(&batch, &device)), 1e-6);
        let (mut names, mut gradients) = (Vec::new(), logps.sum().backward());
        adapted.take_gradients(&mut gradients, |name, _| names.push(name.to_owned()));
        assert!(names.iter().all(|name| name.contains(".adapter.lora_")), "{names:?}");
        assert_eq!(names.len(), 2 * layers, "{base}");
    }
    // A head may be adapted, if somebody asks for it.
    let settings = lora(&json!({ "targets": ["lm_head", "down_proj"] }));
    let model = CausalLm::load_adapted(&source("mistral-window"), &settings, 7, &device.clone().autodiff()).unwrap();
    let logps = model.token_logps(&pack(&expected("mistral-window").pairs), &device.autodiff());
    let (mut names, mut gradients) = (Vec::new(), logps.sum().backward());
    model.take_gradients(&mut gradients, |name, _| names.push(name.to_owned()));
    assert!(names.contains(&"lm_head.adapter.lora_B.weight".to_owned()), "{names:?}");
}

#[test]
fn what_cannot_be_adapted_is_named() {
    let (device, out) = (device(), Folder::new());
    let adapted = |name: &str, settings: Value| {
        CausalLm::load_adapted(&source(name), &lora(&settings), 1, &device).unwrap_err().to_string()
    };
    let error = adapted("llama-tied", json!({ "targets": ["q_proj", "lm_head"] }));
    assert!(error.contains("no linear layer `lm_head`; there are down_proj, gate_proj, k_proj"), "{error}");
    let error = adapted("llama-tied", json!({ "r": 0 }));
    assert!(error.contains("r must be above 0"), "{error}");
    for (last_layers, why) in [(0, "last_layers must be above 0"), (3, "last_layers is 3, but the model has 2 layers")]
    {
        let error = adapted("llama-tied", json!({ "last_layers": last_layers }));
        assert!(error.contains(why), "{error}");
    }
    let error = adapted("adapters/llama", json!({ "r": 4, "alpha": 8, "last_layers": 1 }));
    assert!(error.contains("layers.0.") && error.contains("`targets` and `last_layers` must reach it"), "{error}");
    let error = adapted("adapters/llama", json!({ "r": 8, "alpha": 8 }));
    assert!(error.contains("has rank 4 on `model.layers.0.self_attn.q_proj`"), "{error}");
    let error = adapted("adapters/llama", json!({ "r": 4, "alpha": 16 }));
    assert!(error.contains("has alpha 8"), "{error}");
    let error = adapted("adapters/qwen3", json!({ "r": 2, "alpha": 6 }));
    assert!(error.contains("leaves `model.layers.0.self_attn.k_proj` alone"), "{error}");
    let error = adapted("adapters/qwen3", json!({ "r": 2, "alpha": 6, "targets": ["v_proj"] }));
    assert!(error.contains("changes `model.layers.0.self_attn.q_proj`"), "{error}");
    let config = source("llama-tied").config().unwrap();
    let init = ModelSource::new("new", Weights::Init { config, seed: 1 }, None);
    let error = CausalLm::load_adapted(&init, &lora(&json!({})), 1, &device).unwrap_err().to_string();
    assert!(error.contains("set `merge: true`"), "{error}");

    let load = |source: ModelSource| CausalLm::load(&source, &device).unwrap_err().to_string();
    let error = load(source("llama-tied").adapted(fixture("adapters/qwen3")));
    assert!(
        error.contains("`base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight` has shape [64, 2]"),
        "{error}"
    );
    let error = load(source("llama-tied").adapted(fixture("adapters/gpt2")));
    assert!(
        error.contains("tensors that fit no linear layer of the base: `base_model.model.transformer.h.0"),
        "{error}"
    );
    let error = load(source("adapters/llama").adapted(fixture("adapters/qwen3")));
    assert!(error.contains("is an adapter itself"), "{error}");
    let broken = |change: &dyn Fn(&mut Value)| {
        let folder = out.path("adapter");
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir(&folder).unwrap();
        fs::copy(fixture("adapters/llama/adapter_model.safetensors"), folder.join("adapter_model.safetensors"))
            .unwrap();
        let text = fs::read(fixture("adapters/llama/adapter_config.json")).unwrap();
        let mut config: Value = serde_json::from_slice(&text).unwrap();
        config["base_model_name_or_path"] = json!(fixture("llama-untied"));
        change(&mut config);
        fs::write(folder.join("adapter_config.json"), config.to_string()).unwrap();
        ModelSource::folder("m", folder)
    };
    assert!(CausalLm::load(&broken(&|_| ()), &device).is_ok());
    for (key, value) in [
        ("use_dora", json!(true)),
        ("peft_type", json!("IA3")),
        ("bias", json!("all")),
        ("init_lora_weights", json!("pissa_niter_4")),
        ("modules_to_save", json!(["embed_tokens"])),
        ("alpha_pattern", json!({ "q_proj": 3 })),
    ] {
        let error = load(broken(&|config| config[key] = value.clone()));
        assert!(error.contains(&format!("adapter_config.json: {key}")) && error.contains("not supported"), "{error}");
    }
    let error = load(broken(&|config| config["base_model_name_or_path"] = json!("org/name")));
    assert!(error.contains("its base `org/name` is not a folder here; give the model as `path`"), "{error}");
}

#[test]
fn stages_train_adapters_and_use_them() {
    let folder = Folder::new();
    let data = repository().join("data/quickstart");
    let data = data.display();
    let base = "{ model_type: llama, vocab_size: 1280, hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, \
                num_attention_heads: 2, max_position_embeddings: 256, rms_norm_eps: 1.0e-5 }";
    let file = folder.write(
        "lora.yaml",
        &format!(
            "\
workdir: run
models:
  new: {{ tokenizer: {data}/tokenizer, init: {base} }}
stages:
  pairs: {{ read: {{ from: {data}/train.parquet, limit: 32 }} }}
  tokens: {{ tokenize: {{ input: pairs, tokenizer: new }} }}
  base: {{ train: {{ input: tokens, model: new, objective: {{ sft: {{}} }}, batch_size: 8, learning_rate: 0.01 }} }}
  ref:
    train:
      {{ input: tokens, model: base, objective: {{ sft: {{}} }}, lora: {{ r: 2, alpha: 4 }}, batch_size: 8, learning_rate: 0.01 }}
  oracle:
    train:
      {{ input: tokens, model: ref, objective: {{ dpo: {{}} }}, lora: {{ r: 2, alpha: 4 }}, batch_size: 8, learning_rate: 0.01 }}
  scored: {{ score: {{ input: tokens, oracle: oracle, reference: ref }} }}
  keyed: {{ select: {{ input: scored }} }}
  policy:
    train:
      {{ input: keyed, model: ref, objective: {{ sepo: {{ gamma: 2.0 }} }}, lora: {{ r: 2, alpha: 4, merge: true }}, batch_size: 8 }}
  report: {{ evaluate: {{ input: tokens, start: ref, models: {{ policy: policy, oracle: oracle }} }} }}
"
        ),
    );
    let file = file.to_str().unwrap();
    let first = folder.succeeds(&["run", file, "--json"]);
    let written = || fs::metadata(folder.path("run/models/ref/adapter_model.safetensors")).unwrap().modified().unwrap();
    let before = written();
    folder.succeeds(&["run", file]);
    assert_eq!(before, written(), "an adapter is trained once");
    let report: Value = serde_json::from_str(&first).unwrap();
    let metrics = &report["stages"]["report"]["metrics"];
    assert!(metrics["oracle"]["chosen_drift"].as_f64() != Some(0.0), "{metrics}");
    assert!(metrics["oracle"]["chosen_logps"] != metrics["policy"]["chosen_logps"], "{metrics}");
    let holds = |stage: &str, name: &str| folder.path("run/models").join(stage).join(name).is_file();
    for (stage, whole) in [("ref", false), ("oracle", false), ("policy", true)] {
        assert_eq!(holds(stage, "config.json"), whole, "{stage}");
        assert_eq!(holds(stage, "adapter_config.json"), !whole, "{stage}");
        assert!(holds(stage, "README.md") && holds(stage, "tokenizer.json"), "{stage}");
    }
    let readme = fs::read_to_string(folder.path("run/models/policy/README.md")).unwrap();
    assert!(readme.contains("| Data | 32 rows of `keyed` in") && readme.contains("sepo `{\"gamma\":2.0"), "{readme}");

    let file = folder.write(
        "use.yaml",
        &format!(
            "\
workdir: run
models:
  whole: {{ path: run/models/oracle }}
  beside: {{ path: run/models/base, adapter: run/models/oracle }}
stages:
  pairs: {{ read: {{ from: {data}/train.parquet, limit: 32 }} }}
  tokens: {{ tokenize: {{ input: pairs, tokenizer: whole }} }}
  report: {{ evaluate: {{ input: tokens, start: whole, models: {{ beside: beside }} }} }}
"
        ),
    );
    let report: Value = serde_json::from_str(&folder.succeeds(&["run", file.to_str().unwrap(), "--json"])).unwrap();
    let same = &report["stages"]["report"]["metrics"]["beside"];
    assert_eq!((&same["chosen_drift"], &same["chosen_logps"]), (&json!(0.0), &metrics["oracle"]["chosen_logps"]));
}
