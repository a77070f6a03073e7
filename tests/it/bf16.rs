//! Passes in bf16 on LibTorch, beside those in f32: what `precision: bf16` costs.

use std::io::Write;

use burn::tensor::Device;
use sepo::error::Error;
use sepo::model::{CausalLm, DeviceSpec, Lora, ModelSource, WeightFormat};
use sepo::pipeline::{Options, Plan, Spec, run};
use serde_json::{Value, json};

use crate::close::assert_close;
use crate::harness::{Folder, repository, small_model};
use crate::parity::{Limits, assert_parity_within, cases, expected, fixture, host, pack};
use crate::resume::StopAfter;

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

/// A pipeline that trains a small model for 20 steps in each stage: name and settings.
fn trainings(folder: &Folder, workdir: &str, stages: &[(&str, &str)]) -> String {
    let train = |(name, settings): &(&str, &str)| {
        format!(
            "  {name}: {{ train: {{ input: tokens, model: base, objective: {{ dpo: {{}} }}, batch_size: 8, max_steps: 20, epochs: 4, \
             learning_rate: 0.003, log_every: 1, checkpoint: {{ every: 2 }}, {settings} }} }}\n"
        )
    };
    let rows = repository().join("data/quickstart/train.parquet");
    let file = format!(
        "workdir: {workdir}\ndevice: {}\n{}stages:\n  pairs: {{ read: {{ from: {}, limit: 64 }} }}\n  \
         tokens: {{ tokenize: {{ input: pairs, tokenizer: base }} }}\n{}",
        spec(),
        small_model(),
        rows.display(),
        stages.iter().map(train).collect::<String>(),
    );
    folder.write(&format!("{workdir}.yaml"), &file).to_str().unwrap().to_owned()
}

/// Parameters and moments in bf16 alone.
const SMALLEST: &str = "precision: bf16, optimizer: { state: bf16, master: none }";

#[test]
fn twenty_steps_in_bf16_lose_what_those_in_f32_lose() {
    let folder = Folder::new();
    let stages = [("wide", "precision: f32"), ("narrow", "precision: bf16"), ("smallest", SMALLEST)];
    folder.succeeds(&["run", &trainings(&folder, "run", &stages)]);
    let [wide, narrow, smallest] = stages.map(|(stage, _)| losses(&folder, stage));
    assert!(wide[19] < 0.95 * wide[0], "the training gets somewhere: {wide:?}");
    for found in [narrow, smallest] {
        assert_eq!((wide.len(), found.len()), (20, 20));
        assert_ne!(wide, found);
        for (step, (wide, found)) in wide.iter().zip(&found).enumerate() {
            assert!((wide - found).abs() <= 0.01 * wide, "step {step}: {found} in bf16, {wide} in f32");
        }
    }
}

#[test]
fn parameters_in_bf16_alone_go_on_from_a_checkpoint() {
    let folder = Folder::new();
    let weights =
        |workdir: &str| std::fs::read(folder.path(workdir).join("models/smallest/model.safetensors")).unwrap();
    folder.succeeds(&["run", &trainings(&folder, "whole", &[("smallest", SMALLEST)])]);
    let file = trainings(&folder, "stopped", &[("smallest", SMALLEST)]);
    let text = std::fs::read_to_string(&file)
        .unwrap()
        .replace("workdir: ", &format!("workdir: {}/", folder.path("").display()));
    std::fs::write(&file, &text).unwrap();
    let plan = Plan::new(&Spec::parse(&text, &file, &[]).unwrap()).unwrap();
    let stopped = run(&plan, &file, &Options::default(), &StopAfter(5.into()));
    assert!(matches!(stopped, Err(Error::Interrupted)), "{stopped:?}");
    folder.succeeds(&["run", &file]);
    assert_eq!(weights("stopped"), weights("whole"));
}

/// The folder of a model of Llama 3's 8B shape in bf16, whose weights are a hole in a file.
fn eight_billion(folder: &Folder) {
    let (width, inner, layers, vocabulary, kv) = (4096, 14336, 32, 128_256, 1024);
    let config = json!({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": vocabulary, "hidden_size": width,
        "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": 32, "num_key_value_heads": 8,
        "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 500_000.0,
    });
    let mut shapes = vec![
        ("model.embed_tokens".to_owned(), vec![vocabulary, width]),
        ("lm_head".to_owned(), vec![vocabulary, width]),
        ("model.norm".to_owned(), vec![width]),
    ];
    for layer in 0..layers {
        let of_layer = [
            ("self_attn.q_proj", vec![width, width]),
            ("self_attn.k_proj", vec![kv, width]),
            ("self_attn.v_proj", vec![kv, width]),
            ("self_attn.o_proj", vec![width, width]),
            ("mlp.gate_proj", vec![inner, width]),
            ("mlp.up_proj", vec![inner, width]),
            ("mlp.down_proj", vec![width, inner]),
            ("input_layernorm", vec![width]),
            ("post_attention_layernorm", vec![width]),
        ];
        shapes.extend(of_layer.map(|(name, shape)| (format!("model.layers.{layer}.{name}"), shape)));
    }
    let (mut header, mut end) = (serde_json::Map::new(), 0u64);
    for (name, shape) in shapes {
        let start = end;
        end += 2 * shape.iter().product::<u64>();
        let entry = json!({ "dtype": "BF16", "shape": shape, "data_offsets": [start, end] });
        header.insert(format!("{name}.weight"), entry);
    }
    let header = Value::Object(header).to_string();
    std::fs::create_dir(folder.path("big")).unwrap();
    folder.write("big/config.json", &config.to_string());
    let mut file = std::fs::File::create(folder.path("big/model.safetensors")).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.set_len(8 + header.len() as u64 + end).unwrap();
}

#[test]
fn a_step_of_adapters_on_eight_billion_parameters_takes_24_gb_by_plan() {
    let folder = Folder::new();
    eight_billion(&folder);
    let quickstart = repository().join("data/quickstart");
    let file = format!(
        "workdir: run\ndevice: {}\nmodels:\n  base: {{ path: big, tokenizer: {}/tokenizer }}\nstages:\n  \
         pairs: {{ read: {{ from: {}/train.parquet, limit: 64 }} }}\n  tokens: {{ tokenize: {{ input: pairs, tokenizer: base }} }}\n  \
         tuned: {{ train: {{ input: tokens, model: base, objective: {{ sft: {{}} }}, precision: bf16, memory: low, lora: {{ r: 16 }} }} }}\n  \
         full: {{ train: {{ input: tokens, model: base, objective: {{ sft: {{}} }} }} }}\n",
        spec(),
        quickstart.display(),
        quickstart.display(),
    );
    folder.write("p.yaml", &file);
    let plan = folder.succeeds(&["plan", "p.yaml"]);
    let gib = |stage: &str| {
        let of_stage = plan.split(&format!("\n{stage} ")).nth(1).unwrap();
        let line = of_stage.lines().find(|line| line.contains(" of memory for ")).unwrap();
        let number = line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap();
        assert!(line.contains(&format!("{number:.2} GiB")), "{line}");
        number
    };
    let gb = gib("tuned") * 1.073_741_824;
    assert!((16.0..24.0).contains(&gb), "{gb} GB\n{plan}");
    assert!(plan.contains("adapters of base 41.9 M parameters of 18 bytes"), "{plan}");
    // Fully trained in f32 it takes 16 bytes a parameter, and more than a machine for tests has.
    assert!(gib("full") > 120.0, "{plan}");
    assert!(plan.contains(" free on "), "{plan}");
}
