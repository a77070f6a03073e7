//! A training that is stopped goes on where it was, to the same weights.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::sleep;
use std::time::Duration;

use sepo::error::Error;
use sepo::monitor::Monitor;
use sepo::pipeline::{Options, Plan, Spec, run};

use crate::harness::{Folder, repository, small_model};

/// A training of 12 steps in 3 epochs, with a checkpoint after every other step; `more` are settings of its own.
fn training(folder: &Folder, out: &str, more: &str) -> String {
    let data = repository().join("data/quickstart");
    let data = data.display();
    let text = format!(
        "\
workdir: {}
{}stages:
  pairs: {{ read: {{ from: {data}/train.parquet, limit: 30 }} }}
  tokens: {{ tokenize: {{ input: pairs, tokenizer: base }} }}
  tuned:
    train: {{ input: tokens, model: base, objective: {{ sft: {{}} }}, epochs: 3, batch_size: 8, learning_rate: 0.01,
              checkpoint: {{ every: 2, keep: 1 }}, log_every: 1{more} }}
",
        folder.path(out).display(),
        small_model()
    );
    folder.write(&format!("{out}.yaml"), &text).to_str().unwrap().to_owned()
}

fn weights(folder: &Folder, out: &str) -> Vec<u8> {
    std::fs::read(folder.path(out).join("models/tuned/model.safetensors")).unwrap()
}

/// Asks to stop after a number of steps.
pub(crate) struct StopAfter(pub(crate) AtomicU64);

impl Monitor for StopAfter {
    fn begin(&self, _: &str, _: Option<u64>, _: &'static str) {}
    fn advance(&self, _: u64, note: &str) {
        if note.starts_with("loss") {
            self.0.fetch_sub(1, Ordering::Relaxed);
        }
    }
    fn skip(&self, _: u64) {}
    fn end(&self) {}
    fn stopping(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}

#[test]
fn a_stopped_training_goes_on_with_the_next_step() {
    let folder = Folder::new();
    folder.succeeds(&["run", &training(&folder, "whole", "")]);
    let file = training(&folder, "stopped", "");
    let plan = Plan::new(&Spec::parse(&std::fs::read_to_string(&file).unwrap(), &file, &[]).unwrap()).unwrap();
    // Within an epoch, at the end of one, and right behind the last stop.
    for steps in [3, 1, 1, 4] {
        let stopped = run(&plan, &file, &Options::default(), &StopAfter(steps.into()));
        assert!(matches!(stopped, Err(Error::Interrupted)), "{stopped:?}");
    }
    // How often checkpoints are saved changes nothing that comes out, so it throws none away.
    let text = std::fs::read_to_string(&file).unwrap().replace("every: 2", "every: 5");
    let plan = Plan::new(&Spec::parse(&text, &file, &[]).unwrap()).unwrap();
    // Asked to stop behind its last step, it has ended.
    let report = run(&plan, &file, &Options::default(), &StopAfter(3.into())).unwrap();
    assert_eq!(report.stages["tuned"].metrics["steps"], 12);
    assert_eq!(weights(&folder, "stopped"), weights(&folder, "whole"));
    let log = |out: &str| {
        let text = std::fs::read_to_string(folder.path(out).join("logs/tuned/metrics.jsonl")).unwrap();
        let step = |line: &str| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            (line["step"].clone(), line["loss"].clone())
        };
        text.lines().map(step).collect::<Vec<_>>()
    };
    assert_eq!(log("stopped"), log("whole"));
    let left = std::fs::read_dir(folder.path("stopped/checkpoints")).unwrap();
    assert_eq!(left.count(), 0, "checkpoints of a training that ended");
}

#[test]
fn a_stopped_training_of_adapters_goes_on_too_and_keeps_the_adapters_alone() {
    let folder = Folder::new();
    let lora = ", lora: { r: 2, alpha: 4, merge: true }";
    folder.succeeds(&["run", &training(&folder, "whole", lora)]);
    let file = training(&folder, "stopped", lora);
    let plan = Plan::new(&Spec::parse(&std::fs::read_to_string(&file).unwrap(), &file, &[]).unwrap()).unwrap();
    let stopped = run(&plan, &file, &Options::default(), &StopAfter(3.into()));
    assert!(matches!(stopped, Err(Error::Interrupted)), "{stopped:?}");
    let checkpoint = std::fs::read_dir(folder.path("stopped/checkpoints")).unwrap().next().unwrap().unwrap().path();
    let checkpoint = std::fs::read(checkpoint.join("step-00000003.safetensors")).unwrap();
    let names: Vec<_> =
        safetensors::SafeTensors::deserialize(&checkpoint).unwrap().names().into_iter().map(str::to_owned).collect();
    assert!(names.iter().all(|name| name.contains("lora_")), "{names:?}");
    folder.succeeds(&["run", &file]);
    assert_eq!(weights(&folder, "stopped"), weights(&folder, "whole"));
}

/// The random numbers of a step follow from its number.
#[test]
fn a_stopped_training_goes_on_with_the_same_stochastic_rounding() {
    let folder = Folder::new();
    let narrow = ", optimizer: { state: bf16 }";
    folder.succeeds(&["run", &training(&folder, "whole", narrow)]);
    folder.succeeds(&["run", &training(&folder, "wide", "")]);
    let file = training(&folder, "stopped", narrow);
    let plan = Plan::new(&Spec::parse(&std::fs::read_to_string(&file).unwrap(), &file, &[]).unwrap()).unwrap();
    let stopped = run(&plan, &file, &Options::default(), &StopAfter(3.into()));
    assert!(matches!(stopped, Err(Error::Interrupted)), "{stopped:?}");
    folder.succeeds(&["run", &file]);
    assert_eq!(weights(&folder, "stopped"), weights(&folder, "whole"));
    assert_ne!(weights(&folder, "wide"), weights(&folder, "whole"));
}

#[test]
fn a_stopped_training_goes_on_with_its_baseline() {
    let folder = Folder::new();
    let training = |out: &str| {
        let file = training(&folder, out, "");
        let text = std::fs::read_to_string(&file).unwrap().replace("sft: {}", "tbpo_q: { width: 8, beta: 1.0 }");
        std::fs::write(&file, text).unwrap();
        file
    };
    folder.succeeds(&["run", &training("whole")]);
    let file = training("stopped");
    let plan = Plan::new(&Spec::parse(&std::fs::read_to_string(&file).unwrap(), &file, &[]).unwrap()).unwrap();
    let stopped = run(&plan, &file, &Options::default(), &StopAfter(3.into()));
    assert!(matches!(stopped, Err(Error::Interrupted)), "{stopped:?}");
    let checkpoint = std::fs::read_dir(folder.path("stopped/checkpoints")).unwrap().next().unwrap().unwrap().path();
    let checkpoint = std::fs::read(checkpoint.join("step-00000003.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&checkpoint).unwrap();
    let head = tensors.tensor("parameter.baseline.down").unwrap();
    assert!(head.data().iter().any(|byte| *byte != 0), "the baseline learns");
    folder.succeeds(&["run", &file]);
    assert_eq!(weights(&folder, "stopped"), weights(&folder, "whole"));
}

#[test]
fn a_killed_training_ends_with_the_same_weights() {
    let folder = Folder::new();
    folder.succeeds(&["run", &training(&folder, "whole", "")]);
    let file = training(&folder, "killed", "");
    for milliseconds in [60, 90, 120, 150, 180] {
        let mut process = Command::new(env!("CARGO_BIN_EXE_sepo"))
            .args(["run", &file])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        sleep(Duration::from_millis(milliseconds));
        process.kill().unwrap();
        process.wait().unwrap();
    }
    folder.succeeds(&["run", &file]);
    assert_eq!(weights(&folder, "killed"), weights(&folder, "whole"));
}

#[test]
fn a_broken_checkpoint_is_an_error_that_names_it() {
    let folder = Folder::new();
    let file = training(&folder, "out", "");
    let plan = Plan::new(&Spec::parse(&std::fs::read_to_string(&file).unwrap(), &file, &[]).unwrap()).unwrap();
    let stopped = run(&plan, &file, &Options::default(), &StopAfter(3.into()));
    assert!(matches!(stopped, Err(Error::Interrupted)), "{stopped:?}");
    let checkpoints = std::fs::read_dir(folder.path("out/checkpoints")).unwrap().next().unwrap().unwrap().path();
    std::fs::write(checkpoints.join("step-00000003.safetensors"), b"cut").unwrap();
    let stderr = folder.fails(&["run", &file], 1);
    assert!(stderr.contains("step-00000003.safetensors: not a checkpoint of this training"), "{stderr}");
}
