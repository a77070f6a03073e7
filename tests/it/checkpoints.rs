//! Model folders: read, written back, and refused with a reason.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors};
use sepo::model::save::{self, Card};
use sepo::model::{CausalLm, DeviceSpec, ModelSource, Precision, Scorer};
use serde_json::{Value, json};

use crate::harness::{Folder, repository};
use crate::parity::{cases, device, expected, fixture, host, pack};

fn source(name: &str) -> ModelSource {
    ModelSource::folder(name, fixture(name))
}

/// The weight files of a folder.
fn weight_files(folder: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|e| e == "safetensors")).collect();
    files.sort();
    files
}

/// The bits of every tensor of a folder as f32.
fn bits(folder: &Path) -> BTreeMap<String, Vec<u32>> {
    let mut tensors = BTreeMap::new();
    for file in weight_files(folder) {
        let bytes = fs::read(file).unwrap();
        for (name, view) in SafeTensors::deserialize(&bytes).unwrap().iter() {
            let widen = |bytes: &[u8]| match view.dtype() {
                Dtype::F32 => f32::from_le_bytes(bytes.try_into().unwrap()),
                Dtype::F16 => f16::from_le_bytes(bytes.try_into().unwrap()).to_f32(),
                Dtype::BF16 => bf16::from_le_bytes(bytes.try_into().unwrap()).to_f32(),
                other => panic!("{other:?}"),
            };
            let size = view.dtype().bitsize() / 8;
            tensors.insert(name.to_owned(), view.data().chunks(size).map(|bytes| widen(bytes).to_bits()).collect());
        }
    }
    tensors
}

fn json_file(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn a_model_that_is_read_and_written_back_is_the_same_bit_for_bit() {
    let (device, out) = (device(), Folder::new());
    for name in cases() {
        let saved = out.path(&name);
        save::whole(&CausalLm::load(&source(&name), &device).unwrap(), &source(&name), None, &saved).unwrap();
        let mut want = bits(&fixture(&name));
        if name == "gpt2-bare" {
            want.retain(|tensor, _| !tensor.ends_with(".attn.bias"));
            want = want.into_iter().map(|(tensor, bits)| (format!("transformer.{tensor}"), bits)).collect();
        }
        assert!(bits(&saved) == want, "{name}");
        let mut config = json_file(&fixture(&name).join("config.json"));
        let dtype = if config.get("dtype").is_some() { "dtype" } else { "torch_dtype" };
        config[dtype] = json!("float32");
        assert_eq!(json_file(&saved.join("config.json")), config, "{name}");
        let header = fs::read(saved.join("model.safetensors")).unwrap();
        let (_, metadata) = SafeTensors::read_metadata(&header).unwrap();
        assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");
        assert!(!saved.join("README.md").exists(), "nothing was trained");
    }
}

#[test]
fn weights_above_a_size_are_written_in_shards() {
    let (device, out) = (device(), Folder::new());
    let (source, saved) = (source("llama-tied"), out.path("sharded"));
    let model = CausalLm::load(&source, &device).unwrap();
    save::sharded(&model, &source, None, &saved, 20_000).unwrap();
    assert!(bits(&saved) == bits(&fixture("llama-tied")));
    let files = weight_files(&saved);
    let count = files.len();
    assert!(count > 2 && files[0].ends_with(format!("model-00001-of-{count:05}.safetensors")), "{files:?}");
    let index = json_file(&saved.join("model.safetensors.index.json"));
    let map = index["weight_map"].as_object().unwrap();
    let parameters: usize = bits(&saved).values().map(Vec::len).sum();
    assert_eq!(index["metadata"], json!({ "total_parameters": parameters, "total_size": 4 * parameters }));
    for file in &files {
        let bytes = fs::read(file).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let size: usize = tensors.iter().map(|(_, view)| view.data().len()).sum();
        assert!(size <= 20_000 || tensors.len() == 1, "{file:?}: {size}");
        let name = file.file_name().unwrap().to_str().unwrap();
        assert!(tensors.names().iter().all(|tensor| map[*tensor] == name), "{file:?}");
    }
    let back = CausalLm::load(&ModelSource::folder("back", &saved), &device).unwrap();
    let batch = pack(&expected("llama-tied").pairs);
    assert_eq!(host(model.token_logps(&batch, &device)), host(back.token_logps(&batch, &device)));
}

#[test]
fn what_lies_beside_the_weights_is_kept_and_the_training_told() {
    let (device, out) = (device(), Folder::new());
    let base = out.path("base");
    fs::create_dir(&base).unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(fixture("llama-tied").join(file), base.join(file)).unwrap();
    }
    let generation = json!({ "temperature": 0.6, "eos_token_id": [2, 7] });
    fs::write(base.join("generation_config.json"), generation.to_string()).unwrap();
    fs::write(base.join("chat_template.jinja"), "{{ messages }}").unwrap();
    let tokenizer = repository().join("data/quickstart/tokenizer/tokenizer.json");
    fs::copy(tokenizer, base.join("tokenizer.json")).unwrap();
    let source = ModelSource::folder("base", &base);
    let model = CausalLm::load(&source, &device).unwrap();
    let card =
        Card { objective: json!({ "dpo": { "beta": 0.1 } }), data: "12 rows of `tokens` in p.yaml".into(), base: None };
    let saved = out.path("saved");
    save::whole(&model, &source, Some(&card), &saved).unwrap();
    assert_eq!(json_file(&saved.join("generation_config.json")), generation);
    for file in ["tokenizer.json", "chat_template.jinja"] {
        assert!(fs::read(saved.join(file)).unwrap() == fs::read(base.join(file)).unwrap(), "{file}");
    }
    let card = fs::read_to_string(saved.join("README.md")).unwrap();
    for expected in ["library_name: transformers", "- dpo", "`{\"beta\":0.1}`", "12 rows of `tokens` in p.yaml", "base"]
    {
        assert!(card.contains(expected), "{expected}\n---\n{card}");
    }
}

/// The error of loading a copy of `case` after `change`.
fn broken(case: &str, change: &dyn Fn(&Path)) -> String {
    let out = Folder::new();
    let folder = out.path("model");
    fs::create_dir(&folder).unwrap();
    for entry in fs::read_dir(fixture(case)).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, folder.join(path.file_name().unwrap())).unwrap();
    }
    change(&folder);
    CausalLm::load(&ModelSource::folder("m", &folder), &device()).unwrap_err().to_string()
}

fn set(folder: &Path, options: &Value) {
    let path = folder.join("config.json");
    let mut config = json_file(&path);
    for (key, value) in options.as_object().unwrap() {
        config[key] = value.clone();
    }
    fs::write(path, config.to_string()).unwrap();
}

#[test]
fn broken_folders_are_named() {
    let load = |change: &dyn Fn(&Path)| broken("llama-tied", change);
    let configured = |options: Value| load(&|folder| set(folder, &options));
    let error = load(&|folder| fs::remove_file(folder.join("model.safetensors")).unwrap());
    assert!(error.contains("holds no model.safetensors and no model.safetensors.index.json"), "{error}");
    let error = load(&|folder| fs::remove_file(folder.join("config.json")).unwrap());
    assert!(error.contains("config.json: no such file"), "{error}");
    let error = configured(json!({ "num_hidden_layers": 3 }));
    assert!(error.contains("tensor `model.layers.2.") && error.contains("is missing"), "{error}");
    let error = configured(json!({ "vocab_size": 95 }));
    assert!(error.contains("`model.embed_tokens.weight` has shape [96, 32]; config.json asks for [95, 32]"), "{error}");
    let error = configured(json!({ "model_type": "mamba" }));
    assert!(error.contains("model_type `mamba` is not supported; supported: llama, mistral"), "{error}");
    let error = configured(json!({ "model_type": null }));
    assert!(error.contains("no model_type is not supported"), "{error}");
}

#[test]
fn options_that_are_not_supported_are_named() {
    for (case, options, expected) in [
        ("llama-tied", json!({ "hidden_act": "gelu" }), "hidden_act `gelu` is not supported; supported: silu"),
        ("llama-tied", json!({ "rope_parameters": { "rope_type": "yarn" } }), "rope_type `yarn` is not supported"),
        ("llama-tied", json!({ "rope_scaling": { "type": "dynamic" } }), "rope_type `dynamic` is not supported"),
        ("llama-tied", json!({ "rope_scaling": { "type": "linear" } }), "the rotary scaling has no `factor`"),
        ("llama-tied", json!({ "rope_parameters": { "partial_rotary_factor": 0.5 } }), "partial_rotary_factor"),
        ("llama-tied", json!({ "quantization_config": { "bits": 4 } }), "quantization_config"),
        ("llama-tied", json!({ "num_key_value_heads": 3 }), "num_key_value_heads 3 does not divide"),
        ("llama-tied", json!({ "head_dim": 7 }), "7 of 7 dimensions of a head would rotate"),
        ("llama-tied", json!({ "num_attention_heads": 0, "num_key_value_heads": 0 }), "num_attention_heads is 0"),
        ("llama-tied", json!({ "hidden_size": "big" }), "config.json: invalid type"),
        ("mistral-window", json!({ "sliding_window": 0 }), "sliding_window must be above 0"),
        ("qwen2-tied", json!({ "layer_types": ["full_attention"] }), "layer_types names 1 layers"),
        ("qwen2-tied", json!({ "layer_types": ["sliding_attention", "full_attention"] }), "without use_sliding_window"),
        ("qwen3-tied", json!({ "layer_types": ["chunked", "chunked"] }), "layer_types `chunked` is not supported"),
        ("gpt_neox-parallel", json!({ "hidden_act": "relu" }), "hidden_act `relu` is not supported; supported: gelu"),
        ("gpt_neox-parallel", json!({ "num_attention_heads": 5 }), "num_attention_heads 5 does not divide"),
        ("gpt2-untied", json!({ "activation_function": "relu" }), "activation_function `relu` is not supported"),
        ("gpt2-untied", json!({ "add_cross_attention": true }), "add_cross_attention is not supported"),
        ("gpt2-untied", json!({ "n_head": 0 }), "n_head is 0"),
    ] {
        let error = broken(case, &|folder| set(folder, &options));
        assert!(error.contains(expected), "{case} {options}: {error}");
    }
}

#[test]
fn files_that_are_not_whole_or_lie_are_errors() {
    let replaced = |bytes: &dyn Fn(Vec<u8>) -> Vec<u8>| {
        broken("llama-tied", &|folder| {
            let path = folder.join("model.safetensors");
            fs::write(&path, bytes(fs::read(&path).unwrap())).unwrap();
        })
    };
    let file = |header: &str, data: usize| {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    };
    let tensor = |shape: &str, offsets: &str| {
        format!("{{\"model.norm.weight\":{{\"dtype\":\"F32\",\"shape\":{shape},\"data_offsets\":{offsets}}}}}")
    };
    let whole = |header: String, data: usize| replaced(&|_| file(&header, data));
    for error in [
        replaced(&|bytes| bytes[..bytes.len() - 100].to_vec()),
        replaced(&|bytes| [bytes, vec![0; 8]].concat()),
        replaced(&|bytes| bytes[..100].to_vec()),
        replaced(&|_| vec![1, 2, 3]),
        replaced(&|bytes| [vec![255; 8], bytes].concat()),
        replaced(&|bytes| [(1u64 << 30).to_le_bytes().to_vec(), bytes].concat()),
        whole("not json".into(), 0),
        whole(tensor("[32]", "[0,64]"), 64),
        whole(tensor("[32]", "[128,0]"), 128),
        whole(tensor("[32]", "[0,999999]"), 128),
        whole(tensor("[4294967296,4294967296,4294967296]", "[0,0]"), 0),
        whole(tensor("[18446744073709551615]", "[0,18446744073709551612]"), 0),
    ] {
        assert!(error.contains("model.safetensors: not a whole safetensors file: "), "{error}");
    }
    let error = replaced(&|_| Vec::new());
    assert!(error.contains("model.safetensors: "), "{error}");
    let error = replaced(&|bytes| {
        let text = bytes.windows(5).position(|window| window == b"\"F32\"").unwrap();
        [&bytes[..text], b"\"I32\"", &bytes[text + 5..]].concat()
    });
    assert!(error.contains("has type I32; supported are F32, F16, BF16"), "{error}");
}

#[test]
fn an_index_names_what_is_there() {
    let case = "mistral-f16-shards";
    let index = |edit: &dyn Fn(&mut Value, &Path)| {
        broken(case, &|folder| {
            let path = folder.join("model.safetensors.index.json");
            let mut index = json_file(&path);
            edit(&mut index, folder);
            fs::write(path, index.to_string()).unwrap();
        })
    };
    let norm = |index: &mut Value, file: &str| index["weight_map"]["model.norm.weight"] = json!(file);
    let error = index(&|index, _| norm(index, "model-00009-of-00003.safetensors"));
    assert!(
        error.contains("index.json: names the file `model-00009-of-00003.safetensors`, which is missing"),
        "{error}"
    );
    for outside in ["../x.safetensors", "/etc/passwd", "..", "a/b", ""] {
        let error = index(&|index, _| norm(index, outside));
        assert!(error.contains(&format!("names the file `{outside}`, which is not in the folder")), "{error}");
    }
    let error = index(&|index, _| {
        let own = index["weight_map"]["model.norm.weight"].as_str().unwrap().to_owned();
        let files = (1..=3).map(|shard| format!("model-0000{shard}-of-00003.safetensors"));
        let other = files.into_iter().find(|file| *file != own).unwrap();
        norm(index, &other);
    });
    assert!(error.contains("index.json: tensor `model.norm.weight` is not in "), "{error}");
    let error = index(&|index, folder| {
        fs::copy(folder.join("model-00001-of-00003.safetensors"), folder.join("twice.safetensors")).unwrap();
        index["weight_map"]["other"] = json!("twice.safetensors");
    });
    assert!(error.contains("is also in ") && error.contains("remove one of the two"), "{error}");
    let error = index(&|index, _| index["weight_map"] = json!({}));
    assert!(error.contains("has no weight_map, or an empty one"), "{error}");
    let error = index(&|index, _| index["weight_map"]["model.norm.weight"] = json!(3));
    assert!(error.contains("tensor `model.norm.weight` has no file name"), "{error}");
}

#[test]
fn sequences_longer_than_learned_positions_are_an_error() {
    let scorer = Scorer::load(&source("gpt2-bare"), DeviceSpec::Cpu, Precision::F32, 4096).unwrap();
    let ids = vec![3; 100];
    let pair = |prompt| sepo::model::PairIds { prompt, responses: [&ids[..28], &ids[..27]] };
    assert!(scorer.logps(&[pair(&ids)]).is_ok());
    let long = vec![3; 101];
    let error = scorer.logps(&[pair(&long)]).unwrap_err().to_string();
    assert!(error.contains("a row has 129 tokens, the model 128 positions; set the `tokenize` stage's"), "{error}");
}
