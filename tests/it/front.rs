//! The first things that a newcomer does: `sepo init`, `sepo explain`, the reference of all settings.

use std::fs;

use crate::harness::{Folder, repository, small_model};

#[test]
fn the_reference_is_what_the_program_prints() {
    let folder = Folder::new();
    let shipped = fs::read_to_string(repository().join("docs/pipeline.md")).unwrap();
    assert!(shipped == folder.succeeds(&["schema", "--format", "markdown"]));
    assert_eq!(folder.succeeds(&["schema", "--format", "json"]), folder.succeeds(&["schema"]));
}

#[test]
fn a_setting_is_explained() {
    let folder = Folder::new();
    let said = folder.succeeds(&["explain", "train.learning_rate"]);
    let expected = "\
train.learning_rate

  Peak learning rate, above 0 and at most 1.

  type     number
  default  1.0e-6
  example  learning_rate: 5.0e-7
";
    assert_eq!(said, expected);
    let said = folder.succeeds(&["explain", "select.rule"]);
    assert!(said.contains("default  share\n") && said.contains("\n  official       The authors' script"), "{said}");
    let said = folder.succeeds(&["explain", "select"]);
    assert!(said.contains("\nSettings\n") && said.contains("\n  rule      How picks"), "{said}");
    // Several settings of one name, the list of all, and a name that is none.
    let said = folder.succeeds(&["explain", "batch_tokens"]);
    assert!(["score.", "train.", "generate.", "evaluate."].iter().all(|stage| said.contains(stage)), "{said}");
    let said = folder.succeeds(&["explain"]);
    assert!(said.contains("\n  workdir") && said.contains("\nStages\n") && said.contains("\n  audit"), "{said}");
    assert!(said.lines().all(|line| line.chars().count() <= 100), "{said}");
    let said = folder.fails(&["explain", "selct.rule"], 2);
    assert!(said.contains("did you mean `select.rule`?"), "{said}");
    let said = folder.fails(&["explain", "train.num_train_epochs"], 2);
    assert!(said.contains("`epochs` of a `train` stage"), "{said}");
}

/// A model folder that trains in a moment.
fn model(folder: &Folder) -> String {
    let data = repository().join("data/quickstart/train.parquet");
    let stages = format!(
        "workdir: made\n{}stages:
  pairs: {{ read: {{ from: {}, limit: 4 }} }}
  tokens: {{ tokenize: {{ input: pairs, tokenizer: base }} }}
  start: {{ train: {{ input: tokens, model: base, objective: {{ sft: {{}} }}, learning_rate: 0.001 }} }}
",
        small_model().replace("max_position_embeddings: 256", "max_position_embeddings: 1024"),
        data.display()
    );
    folder.write("model.yaml", &stages);
    folder.succeeds(&["run", "model.yaml"]);
    "made/models/start".to_owned()
}

#[test]
fn a_starter_pipeline_is_checked_and_runs() {
    let folder = Folder::new();
    let model = model(&folder);
    let data = repository().join("data/quickstart/train.parquet").display().to_string();
    let said = folder.succeeds(&["init", &data, "--model", &model]);
    assert!(
        said.contains(": format `pairs`, columns ") && said.contains("100 of the first 100 rows can be used\n"),
        "{said}"
    );
    let said = folder.fails(&["init", &data, "--model", &model], 1);
    assert!(said.contains("pipeline.yaml: the file exists; `--out` names another one"), "{said}");
    let said = folder.succeeds(&["check", "pipeline.yaml"]);
    assert!(said.ends_with("stages, no problems\n"), "{said}");
    let said = folder.succeeds(&["run", "pipeline.yaml", "--var", "limit=64"]);
    assert!(said.contains("accuracy") && folder.path("runs/pipeline/scored").is_dir(), "{said}");
    // What was scored is data again, tokenized already.
    let said = folder.succeeds(&["init", "runs/pipeline/scored", "--model", &model, "--out", "second.yaml"]);
    assert!(said.contains(": format `tokens`, "), "{said}");
    folder.succeeds(&["check", "second.yaml"]);
}

#[test]
fn a_starter_pipeline_names_the_format_of_every_data() {
    let folder = Folder::new();
    let model = model(&folder);
    let row = "{\"instruction\": \"q\", \"chosen\": \"a\", \"rejected\": \"b\"}\n";
    folder.write(
        "alpaca.jsonl",
        &(row.to_owned() + "{\"instruction\": \"q\", \"chosen\": \"a\", \"rejected\": \"a\"}\n"),
    );
    let said = folder.succeeds(&["init", "alpaca.jsonl", "--model", &model, "--out", "alpaca.yaml"]);
    assert!(
        said.contains("format `alpaca`, columns instruction, chosen, rejected\n1 of the first 2 rows can be used ("),
        "{said}"
    );
    folder.succeeds(&["check", "alpaca.yaml"]);
    folder.write("prompts.jsonl", "{\"prompt\": \"q\"}\n");
    folder.succeeds(&["init", "prompts.jsonl", "--model", &model, "--out", "prompts.yaml"]);
    folder.succeeds(&["check", "prompts.yaml"]);
    // Nothing is written where there is no such data, or data that no pipeline can use.
    folder.write("other.jsonl", "{\"prompt\": \"q\", \"completion\": \"a\", \"label\": true}\n");
    let said = folder.fails(&["init", "other.jsonl", "--out", "other.yaml"], 1);
    assert!(said.contains("unpaired data") && said.contains("help: "), "{said}");
    folder.fails(&["init", "nowhere.jsonl", "--out", "other.yaml"], 1);
    assert!(!folder.path("other.yaml").exists());
    // Without data, the place for it is named.
    let said = folder.succeeds(&["init", "--model", &model, "--out", "empty.yaml"]);
    assert!(said.starts_with("no dataset given"), "{said}");
    let said = folder.fails(&["check", "empty.yaml"], 78);
    assert!(said.contains("pairs.jsonl"), "{said}");
}

#[test]
fn a_warning_has_no_colours_in_a_pipe() {
    let folder = Folder::new();
    let data = repository().join("data/quickstart/train.parquet");
    let text = format!(
        "workdir: run\n{}stages:
  pairs: {{ read: {{ from: {}, limit: 4 }} }}
  tokens: {{ tokenize: {{ input: pairs, tokenizer: base }} }}
  tuned: {{ train: {{ input: tokens, model: base, objective: {{ sft: {{}} }} }} }}
  report: {{ evaluate: {{ input: tokens, start: base, models: {{ tuned: tuned }} }} }}
",
        small_model(),
        data.display()
    );
    folder.write("p.yaml", &text);
    let output = folder.sepo(&["check", "p.yaml"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && said.contains("WARN") && !said.contains('\u{1b}'), "{said}");
}
