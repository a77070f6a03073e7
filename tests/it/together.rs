//! Several runs on one workdir at once.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{Folder, repository};

/// A pipeline that trains an oracle, scores with it, and writes.
fn pipeline(folder: &Folder, epochs: usize) -> String {
    let row = |i: usize| {
        format!(
            "{{\"prompt_ids\": [{}, 3], \"chosen_ids\": [{}, 4, 9], \"rejected_ids\": [5, {}]}}\n",
            i % 70 + 1,
            i % 90,
            i % 80
        )
    };
    folder.write("in.jsonl", &(0..400).map(row).collect::<String>());
    let model = repository().join("tests/fixtures/llama-tied");
    let text = format!(
        "workdir: run\nmodels: {{ a: {{ path: {} }} }}\nstages:\n  rows: {{ read: {{ from: in.jsonl }} }}\n  \
         oracle: {{ train: {{ input: rows, model: a, objective: {{ sft: {{}} }}, batch_size: 8, epochs: {epochs}, \
         learning_rate: 1.0e-3, log_every: 1, checkpoint: {{ every: 2, keep: 2 }} }} }}\n  \
         scored: {{ score: {{ input: rows, oracle: oracle, reference: a }} }}\n  out: {{ write: {{ input: scored, to: out }} }}\n",
        model.display()
    );
    folder.write("p.yaml", &text).to_str().unwrap().to_owned()
}

fn start(folder: &Folder, file: &str) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sepo"));
    command
        .args(["run", file])
        .current_dir(folder.path(""))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The steps in the log of the training, one a line.
fn steps(folder: &Folder) -> Vec<u64> {
    let log = fs::read_to_string(folder.path("run/logs/oracle/metrics.jsonl")).unwrap();
    let lines =
        log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{error}: {line}")));
    lines.map(|line| line["step"].as_u64().unwrap()).collect()
}

#[test]
fn three_runs_of_one_training_end_with_one_model() {
    let folder = Folder::new();
    let file = pipeline(&folder, 1);
    let runs: Vec<Child> = (0..3).map(|_| start(&folder, &file)).collect();
    for run in runs {
        let output = run.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(steps(&folder), (1..=50).collect::<Vec<_>>());
    let alone = Folder::new();
    let file = pipeline(&alone, 1);
    alone.succeeds(&["run", &file]);
    for name in ["run/models/oracle/model.safetensors", "out/train-00000-of-00001.parquet"] {
        assert_eq!(fs::read(folder.path(name)).unwrap(), fs::read(alone.path(name)).unwrap(), "{name}");
    }
}

#[test]
fn a_run_that_waits_takes_over_from_one_that_dies() {
    let folder = Folder::new();
    let file = pipeline(&folder, 20);
    let mut first = start(&folder, &file);
    let begun = Instant::now();
    let has_checkpoint = || {
        let found = fs::read_dir(folder.path("run/checkpoints")).into_iter().flatten().flatten();
        found
            .flat_map(|entry| fs::read_dir(entry.path()).unwrap())
            .any(|file| file.unwrap().path().extension().is_some_and(|end| end == "safetensors"))
    };
    while !has_checkpoint() {
        assert!(begun.elapsed() < Duration::from_secs(60) && first.try_wait().unwrap().is_none(), "no checkpoint");
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut second = start(&folder, &file);
    let mut said = String::new();
    for line in BufReader::new(second.stderr.take().unwrap()).lines() {
        let line = line.unwrap() + "\n";
        if line.contains("stage `oracle` waits for process") {
            first.kill().unwrap();
        }
        said += &line;
    }
    assert!(said.contains("waits for process"), "{said}");
    assert!(!first.wait().unwrap().success(), "it was killed in mid-training");
    assert!(second.wait().unwrap().success(), "{said}");
    assert_eq!(steps(&folder), (1..=1000).collect::<Vec<_>>());
}

#[test]
fn runs_with_other_settings_take_turns() {
    let folder = Folder::new();
    let file = pipeline(&folder, 1);
    let text = fs::read_to_string(&file).unwrap().replace("1.0e-3", "2.0e-3");
    let other = folder.write("other.yaml", &text).to_str().unwrap().to_owned();
    let runs: Vec<Child> = (0..4).map(|i| start(&folder, if i % 2 == 0 { &file } else { &other })).collect();
    for run in runs {
        let output = run.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        // A run whose model was replaced before it could use it says so.
        assert!(output.status.success() || said.contains("oracle"), "{said}");
    }
    // Whoever came last, the same command gives the rows of its own settings.
    for file in [&file, &other] {
        folder.succeeds(&["run", file]);
        let alone = Folder::new();
        let own = pipeline(&alone, 1);
        fs::copy(file, &own).unwrap();
        alone.succeeds(&["run", &own]);
        for name in ["run/models/oracle/model.safetensors", "out/train-00000-of-00001.parquet"] {
            assert_eq!(fs::read(folder.path(name)).unwrap(), fs::read(alone.path(name)).unwrap(), "{name}");
        }
    }
}
