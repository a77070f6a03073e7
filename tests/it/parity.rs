//! The models against `transformers`, on the checkpoints that `tests/fixtures/make_llama.py` made.

use std::collections::BTreeMap;
use std::path::PathBuf;

use burn::tensor::{Device, Tensor, TensorData};
use sepo::model::{CausalLm, DeviceSpec, ModelSource, Needed, PackedBatch, Response, folder};
use sepo::objective::{self, Dpo, Objective, Pair};
use serde::Deserialize;

const CASES: [&str; 3] = ["llama-tied", "llama-untied", "llama-scaled"];

#[derive(Deserialize)]
struct Expected {
    pairs: Vec<Row>,
    loss: f64,
    gradients: BTreeMap<String, Gradient>,
}

#[derive(Deserialize)]
struct Row {
    prompt: Vec<i32>,
    chosen: Vec<i32>,
    rejected: Vec<i32>,
    chosen_logps: Vec<f64>,
    rejected_logps: Vec<f64>,
}

#[derive(Deserialize)]
struct Gradient {
    norm: f64,
    first: Vec<f64>,
}

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn expected(name: &str) -> Expected {
    let text = std::fs::read(fixture(name).join("expected.json")).unwrap();
    serde_json::from_slice(&text).unwrap()
}

/// The device under test: `SEPO_TEST_DEVICE` names another back end of this build.
fn device() -> Device {
    let name = std::env::var("SEPO_TEST_DEVICE").unwrap_or("cpu".into());
    name.parse::<DeviceSpec>().unwrap().open().unwrap()
}

fn pack(rows: &[Row]) -> PackedBatch {
    let mut batch = PackedBatch::default();
    for row in rows {
        let response = |ids| Response { ids, needed: Needed::All };
        batch.push(&row.prompt, &[response(&row.chosen), response(&row.rejected)]);
    }
    batch
}

fn host(logps: Tensor<1>) -> Vec<f32> {
    logps.into_data().convert::<f32>().try_into_vec::<f32>().unwrap()
}

fn assert_close(name: &str, got: &[f32], want: impl Iterator<Item = f64>, tolerance: f64) {
    let worst = got.iter().zip(want).map(|(got, want)| (f64::from(*got) - want).abs()).fold(0.0, f64::max);
    assert!(worst < tolerance, "{name}: largest difference {worst}");
}

#[test]
fn log_probabilities_are_those_of_transformers() {
    let device = device();
    for name in CASES {
        let model = CausalLm::load(&ModelSource::folder(name, fixture(name)), &device).unwrap();
        let expected = expected(name);
        let logps = host(model.token_logps(&pack(&expected.pairs), &device));
        let want = expected.pairs.iter().flat_map(|row| row.chosen_logps.iter().chain(&row.rejected_logps));
        assert_close(name, &logps, want.copied(), 1e-4);
    }
}

#[test]
fn sharing_a_batch_or_a_prompt_changes_nothing() {
    let device = device();
    let model = CausalLm::load(&ModelSource::folder("m", fixture("llama-tied")), &device).unwrap();
    let rows = expected("llama-tied").pairs;
    let together = host(model.token_logps(&pack(&rows), &device));
    let mut alone = Vec::new();
    for row in &rows {
        for ids in [&row.chosen, &row.rejected] {
            let mut batch = PackedBatch::default();
            batch.push(&row.prompt, &[Response { ids, needed: Needed::All }]);
            alone.extend(host(model.token_logps(&batch, &device)));
        }
    }
    assert_close("packed against alone", &together, alone.iter().copied().map(f64::from), 2e-5);

    let masks: Vec<[Vec<bool>; 2]> = rows
        .iter()
        .map(|row| [&row.chosen, &row.rejected].map(|ids| (0..ids.len()).map(|i| i % 3 == 1).collect()))
        .collect();
    let mut batch = PackedBatch::default();
    for (row, [chosen, rejected]) in rows.iter().zip(&masks) {
        let response = |ids, mask| Response { ids, needed: Needed::Mask(mask) };
        batch.push(&row.prompt, &[response(&row.chosen, chosen), response(&row.rejected, rejected)]);
    }
    let wanted = masks.iter().flatten().flatten().zip(&together).filter(|(key, _)| **key);
    let wanted: Vec<f64> = wanted.map(|(_, logp)| f64::from(*logp)).collect();
    let key = host(model.token_logps(&batch, &device));
    assert_eq!(key.len(), wanted.len());
    assert_close("key tokens alone", &key, wanted.into_iter(), 2e-5);
}

#[test]
fn gradients_are_those_of_pytorch() {
    let device = device().autodiff();
    for name in CASES {
        let model = CausalLm::load(&ModelSource::folder(name, fixture(name)), &device).unwrap();
        let expected = expected(name);
        let batch = pack(&expected.pairs);
        let logps = model.token_logps(&batch, &device);
        let values: Vec<f64> = host(logps.clone().inner()).into_iter().map(f64::from).collect();
        let (mut coefficients, mut loss) = (Vec::new(), 0.0);
        for (row, ranges) in expected.pairs.iter().zip(batch.responses.chunks(2)) {
            let reference = |logps: &[f64]| logps.iter().map(|logp| (0.9 * logp) as f32).collect::<Vec<_>>();
            let (chosen, rejected) = (reference(&row.chosen_logps), reference(&row.rejected_logps));
            let outcome = Objective::Dpo(Dpo::default()).evaluate(&Pair {
                chosen: objective::Response { logps: &values[ranges[0].clone()], reference: &chosen },
                rejected: objective::Response { logps: &values[ranges[1].clone()], reference: &rejected },
            });
            loss += outcome.loss;
            coefficients.extend(outcome.chosen_grad.iter().chain(&outcome.rejected_grad).map(|c| *c as f32));
        }
        assert!((loss - expected.loss).abs() < 1e-4, "{name}: loss {loss}, expected {}", expected.loss);
        let size = coefficients.len();
        let coefficients = Tensor::<1>::from_data(TensorData::new(coefficients, [size]), &device);
        let mut gradients = (logps * coefficients).sum().backward();
        let mut seen = 0;
        model.take_gradients(&mut gradients, |parameter, gradient| {
            let want = &expected.gradients[parameter];
            let got = host(gradient);
            let norm = got.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
            assert!((norm - want.norm).abs() < 1e-3 * want.norm, "{name} {parameter}: {norm} {}", want.norm);
            for (got, want_entry) in got.iter().zip(&want.first) {
                let difference = (f64::from(*got) - want_entry).abs();
                assert!(difference < 1e-3 * want.norm, "{name} {parameter}: {got} {want_entry}");
            }
            seen += 1;
        });
        assert_eq!(seen, expected.gradients.len(), "{name}");
    }
}

#[test]
fn a_saved_folder_gives_the_same_model() {
    let device = device();
    let out = tempfile::tempdir().unwrap();
    for name in CASES {
        let source = ModelSource::folder(name, fixture(name));
        let model = CausalLm::load(&source, &device).unwrap();
        let saved = out.path().join(name);
        folder::save(&model, &source, &saved).unwrap();
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
    assert!(error.contains("holds no model.safetensors"), "{error}");
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
    assert!(error.contains("model_type `mamba` is not supported; supported: llama"), "{error}");
    let error = load(&|folder| std::fs::remove_file(folder.join("config.json")).unwrap());
    assert!(error.contains("config.json: no such file"), "{error}");
}
