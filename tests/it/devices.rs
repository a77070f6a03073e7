//! Several devices share the rows of a stage: what comes out is what one device makes. Without a GPU, two threads of one processor
//! stand for two devices.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::sync::Mutex;

use sepo::error::Error;
use sepo::model::room::with_memory_for;
use sepo::monitor::Monitor;
use sepo::pipeline::{Options, Plan, Spec, run};
use serde_json::Value;

use crate::harness::{Folder, report, repository};

/// The device under test.
fn device() -> String {
    std::env::var("SEPO_TEST_DEVICE").unwrap_or("cpu".into())
}

fn one() -> String {
    format!("device: {}", device())
}

fn several(count: usize) -> String {
    format!("devices: [{}]", vec![device(); count].join(", "))
}

/// Scores and answers a file that is many batches and several that are one, some rows of which are set aside.
fn pipeline(folder: &Folder) {
    std::fs::create_dir(folder.path("rows")).unwrap();
    for (file, rows) in [1500, 3, 40, 1, 300].into_iter().enumerate() {
        let mut text = String::new();
        for row in 0..rows {
            let ids =
                |from: usize, count: usize| -> Vec<usize> { (0..count).map(|at| 3 + (from * 7 + at) % 50).collect() };
            let long = if row % 97 == 5 { 600 } else { 2 + row % 5 };
            let (prompt, chosen, rejected) = (ids(file + row, 3), ids(row, long), ids(row + 1, 1 + row % 3));
            let id = format!("{file}-{row}");
            writeln!(
                text,
                "{{\"row_id\": \"{id}\", \"prompt_ids\": {prompt:?}, \"chosen_ids\": {chosen:?}, \"rejected_ids\": {rejected:?}}}"
            )
            .unwrap();
        }
        folder.write(&format!("rows/{file}.jsonl"), &text);
    }
    let fixture = |name: &str| repository().join("tests/fixtures").join(name).display().to_string();
    let text = format!(
        "vars: {{ out: run }}\nDEVICES\nworkdir: {at}${{out}}\nmodels: {{ a: {{ path: {} }}, b: {{ path: {} }} }}\nstages:\n  \
         rows: {{ read: {{ from: {at}rows }} }}\n  few: {{ read: {{ from: {at}rows/4.jsonl }} }}\n  \
         scored: {{ score: {{ input: rows, oracle: a, reference: b }} }}\n  \
         answers: {{ generate: {{ input: few, model: a, max_tokens: 4, temperature: 1.0, stop_ids: [] }} }}\n  \
         out: {{ write: {{ input: scored, to: \"{at}${{out}}/scored\" }} }}\n",
        fixture("llama-tied"),
        fixture("llama-untied"),
        at = folder.path("").display(),
    );
    folder.write("p.yaml", &text);
}

/// The pipeline file with `devices` in it.
fn on(folder: &Folder, devices: &str) -> String {
    let text = std::fs::read_to_string(folder.path("p.yaml")).unwrap().replace("DEVICES", devices);
    folder.write("now.yaml", &text).to_str().unwrap().to_owned()
}

/// What stages counted, without times.
fn counts(report: &Value) -> BTreeMap<String, Value> {
    let stages = report["stages"].as_object().unwrap().iter();
    let stage = |(id, stage): (&String, &Value)| {
        let kept = ["rows_in", "rows_out", "set_aside", "metrics"].map(|key| stage[key].clone());
        (id.clone(), Value::Array(kept.to_vec()))
    };
    stages.map(stage).collect()
}

/// The bytes of all parts, of rows and of rows set aside, by stage and number.
fn parts(workdir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for kind in ["data", "rejects"] {
        for folder in std::fs::read_dir(workdir.join(kind)).unwrap() {
            let folder = folder.unwrap();
            for file in std::fs::read_dir(folder.path()).unwrap() {
                let name = file.as_ref().unwrap().file_name().into_string().unwrap();
                if let Some(number) = name.strip_suffix(".parquet").and_then(|name| name.get(..10)) {
                    let key = format!("{kind} {} {number}", folder.file_name().display());
                    found.insert(key, std::fs::read(file.unwrap().path()).unwrap());
                }
            }
        }
    }
    found
}

/// Counts what it is told of `scored`, and asks to stop after some rows of it.
#[derive(Default)]
struct Watch {
    most: Option<u64>,
    state: Mutex<(bool, Option<u64>, u64)>,
}

impl Monitor for Watch {
    fn begin(&self, label: &str, total: Option<u64>, _: &'static str) {
        let mut state = self.state.lock().unwrap();
        state.0 = label == "scored";
        if state.0 {
            (state.1, state.2) = (total, 0);
        }
    }
    fn advance(&self, n: u64, _: &str) {
        let mut state = self.state.lock().unwrap();
        state.2 += if state.0 { n } else { 0 };
    }
    fn skip(&self, _: u64) {}
    fn end(&self) {}
    fn stopping(&self) -> bool {
        self.most.is_some_and(|most| self.state.lock().unwrap().2 >= most)
    }
}

fn plan(file: &str, out: &str) -> Plan {
    let vars = [("out".to_owned(), out.to_owned())];
    Plan::new(&Spec::parse(&std::fs::read_to_string(file).unwrap(), file, &vars).unwrap()).unwrap()
}

#[test]
fn rows_and_counts_of_several_devices_are_those_of_one() {
    let folder = Folder::new();
    pipeline(&folder);
    let alone = report(&folder.succeeds(&["run", &on(&folder, &one()), "--var", "out=one", "--json"]));
    let file = on(&folder, &several(3));
    let together = report(&folder.succeeds(&["run", &file, "--var", "out=three", "--json"]));
    assert_eq!(counts(&together), counts(&alone));
    assert_eq!(alone["stages"]["scored"]["set_aside"]["longer than the model's positions"], 21);
    assert_eq!(alone["stages"]["answers"]["metrics"]["answers"], 300);
    let (own, others) = (parts(&folder.path("three")), parts(&folder.path("one")));
    assert_eq!(own.keys().collect::<Vec<_>>(), others.keys().collect::<Vec<_>>());
    assert!(own.keys().any(|name| name.starts_with("rejects scored")), "{:?}", own.keys());
    assert!(own == others, "parts differ");
    let shown = |out: &str| folder.succeeds(&["inspect", &format!("{out}/scored"), "--json"]);
    assert_eq!(shown("three"), shown("one"));
}

#[test]
fn a_run_on_several_devices_stops_goes_on_and_counts_its_rows() {
    let folder = Folder::new();
    pipeline(&folder);
    folder.succeeds(&["run", &on(&folder, &one()), "--var", "out=one"]);
    let file = on(&folder, &several(2));
    let stopped = plan(&file, "two");
    // In the first unit, which has most rows, and as soon as something more is done.
    for most in [300, 1] {
        let watch = Watch { most: Some(most), ..Watch::default() };
        let ended = run(&stopped, &file, &Options::default(), &watch);
        assert!(matches!(ended, Err(Error::Interrupted)), "{ended:?}");
    }
    let watch = Watch::default();
    let ended = run(&plan(&file, "two"), &file, &Options::default(), &watch).unwrap();
    assert_eq!(ended.stages["scored"].rows_out, 1844 - 21);
    assert!(parts(&folder.path("two")) == parts(&folder.path("one")), "parts differ");

    let whole = Watch::default();
    run(&plan(&file, "whole"), &file, &Options::default(), &whole).unwrap();
    let (_, total, done) = *whole.state.lock().unwrap();
    assert_eq!((total, done), (Some(1844), 1844 - 21));
    // A share of the units on one device, and the rest on two.
    folder.succeeds(&["run", &on(&folder, &one()), "--var", "out=shared", "--units", "2/2"]);
    folder.succeeds(&["run", &file, "--var", "out=shared"]);
    assert!(parts(&folder.path("shared")) == parts(&folder.path("one")), "parts differ");
}

#[test]
fn an_error_on_one_device_ends_the_run() {
    let folder = Folder::new();
    pipeline(&folder);
    let row = r#"{"prompt_ids": [3], "chosen_ids": [4], "rejected_ids": [5]}"#;
    folder.write("rows/9.jsonl", &row.replace("[4]", "[96]"));
    let said = folder.fails(&["run", &on(&folder, &several(2))], 1);
    assert!(
        said.contains("stage `scored`: ") && said.contains("token id 96 is outside the vocabulary of 96"),
        "{said}"
    );
}

#[test]
fn devices_of_a_file_are_of_one_kind_and_named_once() {
    let folder = Folder::new();
    pipeline(&folder);
    let refused = |devices: &str| folder.fails(&["check", &on(&folder, devices)], 78);
    let cases = [
        ("devices: []", "now.yaml:2:1: no device is named"),
        ("devices: [cpu]\ndevice: cpu", "now.yaml:2:1: the file has `device` as well"),
        ("devices: [cpu, libtorch]", "now.yaml:2:1: `cpu` and `libtorch` are devices of two kinds"),
        ("devices: [cpu, gpu]", "now.yaml:2:16: unknown device `gpu`"),
        ("devices: cpu", "now.yaml:2:10: expected a list, found text `cpu`"),
    ];
    for (devices, expected) in cases {
        let said = refused(devices);
        assert!(said.contains(expected), "{devices}: {said}");
    }
    let shown = folder.succeeds(&["plan", &on(&folder, "devices: [cpu, cpu]")]);
    assert!(shown.contains("devices cpu, cpu, seed 42"), "{shown}");
}

/// DPO on rows of ids, with reference log-probabilities in a pass of its own and a look at held-out rows.
fn training(folder: &Folder, batch_tokens: &str) -> String {
    let row = |row: usize| {
        let ids = |from: usize, count: usize| -> Vec<usize> { (0..count).map(|at| 3 + (from * 5 + at) % 60).collect() };
        let (prompt, chosen, rejected) = (ids(row, 3), ids(row + 9, 4 + row % 3), ids(row + 20, 3));
        format!("{{\"prompt_ids\": {prompt:?}, \"chosen_ids\": {chosen:?}, \"rejected_ids\": {rejected:?}}}\n")
    };
    folder.write("pairs.jsonl", &(0..24).map(row).collect::<String>());
    let text = format!(
        "{}\nworkdir: {at}${{out}}\nvars: {{ out: run }}\nmodels: {{ a: {{ path: {} }} }}\nstages:\n  \
         rows: {{ read: {{ from: {at}pairs.jsonl }} }}\n  tuned:\n    train: {{ input: rows, model: a, objective: {{ dpo: {{}} }}, \
         batch_size: 8, batch_tokens: {batch_tokens}, learning_rate: 0.001, log_every: 1, eval: {{ input: rows, every: 2 }} }}\n",
        one(),
        repository().join("tests/fixtures/llama-tied").display(),
        at = folder.path("").display(),
    );
    folder.write("train.yaml", &text).to_str().unwrap().to_owned()
}

#[test]
fn a_training_whose_device_has_little_memory_goes_on_in_smaller_passes() {
    let folder = Folder::new();
    let file = training(&folder, "4096");
    let metrics = |out: &str| run(&plan(&file, out), &file, &Options::default(), &Watch::default()).unwrap().stages;
    let whole = metrics("whole");
    let split = with_memory_for(40, || metrics("split"));
    for name in ["loss", "grad_norm", "rewards/margins", "eval_loss", "tokens", "steps"] {
        let [whole, split] = [&whole, &split].map(|stages| stages["tuned"].metrics[name].as_f64().unwrap());
        assert!((whole - split).abs() <= 1e-4 * whole.abs(), "{name}: {whole} {split}");
    }
    let failed = with_memory_for(4, || run(&plan(&file, "none"), &file, &Options::default(), &Watch::default()));
    let said = failed.unwrap_err().to_string();
    assert!(said.contains(": out of memory on demand, above 4 tokens; a lower `batch_tokens`"), "{said}");
}

#[test]
fn batch_tokens_are_a_number_or_found() {
    let folder = Folder::new();
    folder.succeeds(&["run", &training(&folder, "auto")]);
    for (wrong, expected) in [
        ("0", "batch_tokens must be above 0"),
        ("many", "expected a whole number, found text `many`"),
        ("-4", "-4 is below 0"),
    ] {
        let said = folder.fails(&["check", &training(&folder, wrong)], 78);
        assert!(said.contains(expected), "{wrong}: {said}");
    }
}
