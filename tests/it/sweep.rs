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
  compare: [{ stage: report, against: start, metrics: [mean_logp_margin] }]
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
    let (compared, measured): (Vec<&str>, Vec<&str>) = lines.iter().partition(|line| line.matches('±').count() == 1);
    // Two stages, two values of beta, two learning rates of which one is chosen; the seeds repeat.
    assert_eq!(measured.len(), 8, "{tables}");
    assert_eq!(measured.iter().filter(|line| line.contains("(chosen)")).count(), 4, "{tables}");
    assert!(measured.iter().all(|line| line.contains("| 2 |") && line.contains('±')), "{tables}");
    // With the chosen rates, and with each for all: two values of beta.
    assert_eq!(compared.len(), 6, "{tables}");
    let plot = std::fs::read_to_string(folder.path("run/tables/sweep/drift.svg")).unwrap();
    assert!(
        plot.contains(">dpo 0.1</text>") && plot.contains(">drift of chosen tokens (nats a token)</text>"),
        "{plot}"
    );
    // The tables are made of the numbers alone.
    for file in ["tables.md", "drift.svg"] {
        std::fs::remove_file(folder.path(&format!("run/tables/sweep/{file}"))).unwrap();
    }
    let text = folder.succeeds(&["tables", file, "run/tables/sweep"]);
    assert_eq!(text, tables);
    assert_eq!(std::fs::read_to_string(folder.path("run/tables/sweep/tables.md")).unwrap(), tables);
    assert_eq!(std::fs::read_to_string(folder.path("run/tables/sweep/drift.svg")).unwrap(), plot);
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
    for part in [
        "sweep.yaml:5:11: `sed` is not a variable",
        "`lr` takes a list",
        "`k` is not under `over`",
        "no stage `nowhere`",
    ] {
        assert!(said.contains(part), "{said}");
    }
    let sweep = "\
sweep:
  over: { seed: [1, 2], lr: [0.01] }
  repeats: seed
  choose: { variable: lr, stage: ref, metric: accuracy }
  compare: [{ stage: report, against: stat, metrics: [accuracy, los] }]
  plots:
    a: { stage: report, x: drift, y: accurcy }
    b: { stage: report, x: label, y: accuracy }
    c: { stage: report, x: metric, y: reward_in_best }
    d: { stage: reprot, x: kl, y: accuracy }";
    folder.write("sweep.yaml", &pipeline(sweep));
    let said = folder.fails(&["check", "sweep.yaml"], 78);
    for part in [
        "stage `ref` has no table: `train` compares nothing",
        "stage `report` compares no `stat`\n  help: did you mean `start`?",
        "the stage has no metric `los`\n  help: one of accuracy, chosen_drift",
        "the stage has no metric `drift`",
        "the stage has no metric `accurcy`\n  help: did you mean `accuracy`?",
        "`label` is the number that a name ends with, as in `share_10`; none of the stage's names ends so",
        "the stage has no metrics named `reward_in_best` and a number",
        "no stage `reprot`\n  help: did you mean `report`?",
    ] {
        assert!(said.contains(part), "{part}: {said}");
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
