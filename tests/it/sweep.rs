//! Sweeps: every combination runs, what variants share is done once, tables say what was measured.

use serde_json::Value;

use crate::harness::{Folder, repository, small_model};

fn pipeline(sweep: &str) -> String {
    let data = repository().join("data/quickstart");
    format!(
        "\
vars: {{ seed: 1, lr: 0.01, beta: 0.1 }}
workdir: run
seed: ${{seed}}
{sweep}
{}stages:
  pairs: {{ read: {{ from: {}/train.parquet, limit: 24 }} }}
  tokens: {{ tokenize: {{ input: pairs, tokenizer: base }} }}
  ref: {{ train: {{ input: tokens, model: base, objective: {{ sft: {{}} }}, batch_size: 8, learning_rate: 0.01 }} }}
  policy:
    train: {{ input: tokens, model: ref, objective: {{ dpo: {{ beta: '${{beta}}' }} }}, batch_size: 8, learning_rate: '${{lr}}' }}
  validation: {{ evaluate: {{ input: tokens, start: ref, models: {{ dpo: policy, start: ref }} }} }}
  report: {{ evaluate: {{ input: tokens, start: ref, models: {{ dpo: policy, start: ref }} }} }}
",
        small_model(),
        data.display()
    )
}

#[test]
fn a_sweep_runs_every_variant_and_shares_what_is_equal() {
    let folder = Folder::new();
    let sweep = "\
sweep:
  over: { seed: [1, 2], lr: [0.01, 0.001], beta: [0.1, 0.5] }
  repeats: seed
  choose: { variable: lr, stage: validation, metric: mean_logp_margin }
  plots: { drift: { stage: report, x: chosen_drift, y: accuracy } }";
    let file = folder.write("sweep.yaml", &pipeline(sweep));
    let file = file.to_str().unwrap();
    assert!(folder.succeeds(&["check", file]).contains("8 variants"));
    let outcomes: Value = serde_json::from_str(&folder.succeeds(&["run", file, "--json"])).unwrap();
    assert_eq!(outcomes["variants"].as_array().unwrap().len(), 8);
    let models: Vec<String> = std::fs::read_dir(folder.path("run/models"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let count = |id: &str| models.iter().filter(|name| name.starts_with(&format!("{id}-"))).count();
    assert_eq!((count("ref"), count("policy")), (2, 8), "{models:?}");
    let tables = std::fs::read_to_string(folder.path("run/tables/sweep/tables.md")).unwrap();
    let lines: Vec<&str> = tables.lines().filter(|line| line.starts_with("| dpo")).collect();
    // Two stages, two values of beta; the learning rate is chosen, the seeds repeat.
    assert_eq!(lines.len(), 4, "{tables}");
    assert!(lines.iter().all(|line| line.contains("| 2 |") && line.contains('±')), "{tables}");
    let plot = std::fs::read_to_string(folder.path("run/tables/sweep/drift.svg")).unwrap();
    assert!(plot.contains(">dpo</text>") && plot.ends_with("</svg>\n"), "{plot}");
    let shown: Value =
        serde_json::from_str(&folder.succeeds(&["inspect", "run/tables/sweep/numbers.parquet", "--json"])).unwrap();
    assert!(shown["rows"].as_u64() > Some(100), "{shown}");
    // Again, with one value given: nothing is trained.
    folder.succeeds(&["run", file, "--var", "lr=0.01", "--json"]);
    assert_eq!(std::fs::read_dir(folder.path("run/models")).unwrap().count(), models.len());
}

#[test]
fn mistakes_of_a_sweep_have_positions() {
    let folder = Folder::new();
    let sweep = "\
sweep:
  over: { sed: [1], lr: [] }
  repeats: k
  choose: { variable: lr, stage: nowhere, metric: accuracy }";
    folder.write("sweep.yaml", &pipeline(sweep));
    let said = folder.fails(&["check", "sweep.yaml"], 78);
    for part in
        ["sweep.yaml:5:11: `sed` is no variable", "`lr` takes a list", "`k` is not under `over`", "no stage `nowhere`"]
    {
        assert!(said.contains(part), "{said}");
    }
    let apart = "sweep: { over: { seed: [1, 2] } }";
    folder.write("apart.yaml", &pipeline(apart).replace("workdir: run", "workdir: run${seed}"));
    assert!(folder.fails(&["check", "apart.yaml"], 78).contains("share one workdir"));
}

/// They are counted before any of them is made.
#[test]
fn combinations_have_a_bound() {
    let folder = Folder::new();
    let values = (1..=100).map(|value| value.to_string()).collect::<Vec<_>>().join(", ");
    let sweep = format!("sweep: {{ over: {{ seed: [{values}], lr: [{values}], beta: [{values}, 0] }} }}");
    folder.write("sweep.yaml", &pipeline(&sweep));
    let said = folder.fails(&["check", "sweep.yaml"], 78);
    assert!(said.contains("sweep.yaml:4:10: 1010000 combinations of values; the most for a file of "), "{said}");
    // A variable that is given has one value.
    let said = folder.fails(&["check", "sweep.yaml", "--var", "lr=1", "--var", "seed=x"], 78);
    assert!(!said.contains("combinations"), "{said}");
}
