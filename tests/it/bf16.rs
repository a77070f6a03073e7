//! Passes in bf16 on LibTorch, beside those in f32: what `precision: bf16` costs.

use burn::tensor::Device;
use sepo::model::{CausalLm, DeviceSpec, Lora, ModelSource, WeightFormat};
use serde_json::{Value, json};

use crate::close::assert_close;
use crate::harness::{Folder, repository, small_model};
use crate::parity::{Limits, assert_parity_within, cases, expected, fixture, host, pack};

/// bf16 has 8 bits of mantissa; the fixtures have log-probabilities down to -12, two or three layers, and losses up to 6, which are
/// sums over the tokens of answers.
const BF16: Limits = Limits { logps: 0.1, loss: 0.1, gradients: 0.1 };

/// LibTorch on the CPU, or the device under test if that is LibTorch's.
fn spec() -> DeviceSpec {
    let named = std::env::var("SEPO_TEST_DEVICE").unwrap_or_default();
    named.parse().ok().filter(|spec| *spec != DeviceSpec::Cpu).unwrap_or(DeviceSpec::LibTorch)
}

fn device() -> Device {
    spec().open().unwrap()
}

#[test]
fn log_probabilities_and_gradients_differ_by_a_rounding() {
    let device = device();
    for name in cases() {
        let source = ModelSource::folder(&name, fixture(&name));
        let load = |device: &Device| CausalLm::frozen(&source, WeightFormat::Bf16, device).unwrap();
        assert_parity_within(BF16, &device, &name, &expected(&name), load, str::to_owned);
    }
}

/// A checkpoint in bf16 is uploaded as it is: its weights are those that a conversion on the host gives.
#[test]
fn a_checkpoint_in_bf16_is_the_same_uploaded_as_it_is() {
    let (name, device) = ("qwen2-bf16", device());
    let source = ModelSource::folder(name, fixture(name));
    let collect = |format, device: &Device| {
        let mut all = Vec::new();
        CausalLm::frozen(&source, format, device).unwrap().for_each_parameter(|name, values, _| {
            all.push((name.to_owned(), host(values)));
        });
        all
    };
    let want = collect(WeightFormat::Plain, &Device::flex());
    assert_eq!(collect(WeightFormat::Plain, &device), want);
    assert_eq!(collect(WeightFormat::Bf16, &device), want);
}

#[test]
fn adapters_train_above_a_base_in_bf16() {
    let (name, device) = ("llama-tied", device().autodiff());
    let source = ModelSource::folder(name, fixture(name));
    let lora: Lora = serde_json::from_value(json!({})).unwrap();
    let batch = pack(&expected(name).pairs);
    let [wide, narrow] = [WeightFormat::Plain, WeightFormat::Bf16].map(|format| {
        let model = CausalLm::adapted(&source, &lora, 7, format, &device).unwrap();
        let model = model.map_parameters(|name, values| if name.contains("lora_B") { values + 0.05 } else { values });
        let logps = model.token_logps(&batch, &device);
        let found = host(logps.clone().inner());
        let (mut gradients, mut norms) = (logps.sum().backward(), Vec::new());
        model.take_gradients(&mut gradients, |name, gradient| {
            let norm = host(gradient).iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
            norms.push((name.to_owned(), norm));
        });
        (found, norms)
    });
    assert_ne!(wide.0, narrow.0);
    assert_close(name, &narrow.0, &wide.0, 0.05);
    assert!(!wide.1.is_empty() && wide.1.iter().all(|(name, _)| name.contains("lora_")), "{:?}", wide.1);
    assert_eq!(wide.1.len(), narrow.1.len());
    for ((name, want), (_, got)) in wide.1.iter().zip(&narrow.1) {
        assert_close(name, &[*got], &[*want], 0.05 * want);
    }
}

/// The losses of a stage's steps, by its log.
fn losses(folder: &Folder, stage: &str) -> Vec<f64> {
    let text = std::fs::read_to_string(folder.path(&format!("run/logs/{stage}/metrics.jsonl"))).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line["part"] == "train").map(|line| line["loss"].as_f64().unwrap()).collect()
}

#[test]
fn twenty_steps_in_bf16_lose_what_those_in_f32_lose() {
    let folder = Folder::new();
    let train = |name: &str, precision: &str| {
        format!(
            "  {name}: {{ train: {{ input: tokens, model: base, objective: {{ dpo: {{}} }}, batch_size: 8, max_steps: 20, epochs: 4, \
             learning_rate: 0.003, log_every: 1, precision: {precision} }} }}\n"
        )
    };
    let rows = repository().join("data/quickstart/train.parquet");
    let file = format!(
        "workdir: run\ndevice: {}\n{}stages:\n  pairs: {{ read: {{ from: {}, limit: 64 }} }}\n  \
         tokens: {{ tokenize: {{ input: pairs, tokenizer: base }} }}\n{}{}",
        spec(),
        small_model(),
        rows.display(),
        train("wide", "f32"),
        train("narrow", "bf16")
    );
    folder.write("p.yaml", &file);
    folder.succeeds(&["run", "p.yaml"]);
    let (wide, narrow) = (losses(&folder, "wide"), losses(&folder, "narrow"));
    assert_eq!((wide.len(), narrow.len()), (20, 20));
    assert_ne!(wide, narrow);
    assert!(wide[19] < 0.95 * wide[0], "the training gets somewhere: {wide:?}");
    for (step, (wide, narrow)) in wide.iter().zip(&narrow).enumerate() {
        assert!((wide - narrow).abs() <= 0.01 * wide, "step {step}: {narrow} in bf16, {wide} in f32");
    }
}
