//! Model folders: read, written back, and refused with a reason.

use sepo::model::{CausalLm, ModelSource, folder};

use crate::parity::{cases, device, expected, fixture, host, pack};

#[test]
fn a_saved_folder_gives_the_same_model() {
    let device = device();
    let out = tempfile::tempdir().unwrap();
    for name in cases() {
        let name = name.as_str();
        let source = ModelSource::folder(name, fixture(name));
        let model = CausalLm::load(&source, &device).unwrap();
        let saved = out.path().join(name);
        folder::save(&model, &source, None, &saved).unwrap();
        let back = CausalLm::load(&ModelSource::folder(name, &saved), &device).unwrap();
        let batch = pack(&expected(name).pairs);
        assert_eq!(host(model.token_logps(&batch, &device)), host(back.token_logps(&batch, &device)));
    }
}

#[test]
fn broken_folders_are_named() {
    let device = device();
    let out = tempfile::tempdir().unwrap();
    let load = |change: &dyn Fn(&std::path::Path)| {
        let folder = out.path().join("model");
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir(&folder).unwrap();
        for file in ["config.json", "model.safetensors"] {
            std::fs::copy(fixture("llama-tied").join(file), folder.join(file)).unwrap();
        }
        change(&folder);
        CausalLm::load(&ModelSource::folder("m", &folder), &device).unwrap_err().to_string()
    };
    let edit = |folder: &std::path::Path, from: &str, to: &str| {
        let path = folder.join("config.json");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{text}");
        std::fs::write(path, text.replace(from, to)).unwrap();
    };
    let error = load(&|folder| std::fs::remove_file(folder.join("model.safetensors")).unwrap());
    assert!(error.contains("holds no model.safetensors and no model.safetensors.index.json"), "{error}");
    let error = load(&|folder| {
        let path = folder.join("model.safetensors");
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(path, &bytes[..bytes.len() - 100]).unwrap();
    });
    assert!(error.contains("model.safetensors: not a whole safetensors file"), "{error}");
    let error = load(&|folder| edit(folder, "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3"));
    assert!(error.contains("tensor `model.layers.2.") && error.contains("is missing"), "{error}");
    let error = load(&|folder| edit(folder, "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1"));
    assert!(error.contains("does not account for: `model.layers.1."), "{error}");
    let error = load(&|folder| edit(folder, "\"vocab_size\": 96", "\"vocab_size\": 95"));
    assert!(error.contains("`model.embed_tokens.weight` has shape [96, 32]; config.json asks for [95, 32]"), "{error}");
    let error = load(&|folder| edit(folder, "\"model_type\": \"llama\"", "\"model_type\": \"mamba\""));
    assert!(error.contains("model_type `mamba` is not supported; supported: llama, mistral"), "{error}");
    let error = load(&|folder| std::fs::remove_file(folder.join("config.json")).unwrap());
    assert!(error.contains("config.json: no such file"), "{error}");
}
