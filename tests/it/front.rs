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

/// The blocks of YAML in a page of the repository.
fn blocks(page: &str) -> Vec<String> {
    let text = fs::read_to_string(repository().join(page)).unwrap();
    let blocks = text.split("```yaml\n").skip(1).filter_map(|rest| rest.split_once("\n```"));
    blocks.map(|(block, _)| block.to_owned()).collect()
}

/// A small model and 64 rows, to run the pipelines of the pages on.
fn model_and_rows(folder: &Folder) -> [String; 2] {
    let data = repository().join("data/quickstart/train.parquet");
    let text = format!(
        "workdir: rows-run\nstages:\n  pairs: {{ read: {{ from: {}, limit: 64, select: [prompt, chosen, rejected] }} }}\n  \
         out: {{ write: {{ input: pairs, to: rows }} }}\n",
        data.display()
    );
    folder.write("rows.yaml", &text);
    folder.succeeds(&["run", "rows.yaml"]);
    [format!("model={}", model(folder)), "data=rows".to_owned()]
}

#[test]
fn the_pipeline_of_the_readme_runs() {
    let folder = Folder::new();
    let [model, data] = model_and_rows(&folder);
    folder.write("readme.yaml", &blocks("README.md")[0]);
    folder.succeeds(&["run", "readme.yaml", "--var", &model, "--var", &data]);
    assert!(folder.path("runs/first/models/policy/model.safetensors").is_file());
    assert!(folder.path("runs/first/scored/train-00000-of-00001.parquet").is_file());
}

#[test]
fn the_pipelines_of_the_migration_page_run() {
    let folder = Folder::new();
    let [model, data] = model_and_rows(&folder);
    let ours: Vec<String> =
        blocks("docs/migration.md").into_iter().filter(|text| text.starts_with("# sepo run")).collect();
    assert_eq!(ours.len(), 3);
    for (at, text) in ours.iter().enumerate() {
        let (file, out) = (format!("{at}.yaml"), format!("out=run-{at}"));
        folder.write(&file, text);
        folder.succeeds(&["run", &file, "--var", &model, "--var", &data, "--var", &out]);
        assert!(folder.path(&format!("run-{at}/models/policy")).is_dir(), "{text}");
    }
    assert!(folder.path("run-1/models/policy/adapter_config.json").is_file());
}

#[test]
fn every_word_of_the_migration_page_has_an_answer() {
    let folder = Folder::new();
    let page = fs::read_to_string(repository().join("docs/migration.md")).unwrap();
    let table = page.split("## Words\n").nth(1).unwrap().lines().filter(|line| line.starts_with("| `"));
    let rows = table.map(|line| line.split(" | ").collect::<Vec<_>>());
    let words = rows.filter(|row| row[1] != "the same" && row[1] != row[0].trim_start_matches("| "));
    let words: Vec<String> =
        words.flat_map(|row| row[0].split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>()).collect();
    assert!(words.len() > 45, "{}", words.len());
    let listed: String = words.iter().map(|word| format!("{word}: 1\n")).collect();
    let theirs = blocks("docs/migration.md").into_iter().filter(|text| !text.starts_with("# sepo run"));
    for text in theirs.chain([listed]) {
        folder.write("theirs.yaml", &text);
        let said = folder.fails(&["check", "theirs.yaml"], 78);
        let lines = text.lines().filter(|line| !line.starts_with('#')).count();
        assert_eq!(said.matches("unknown key").count(), lines, "{said}");
        assert!(!said.contains("help: one of") && said.matches("help: ").count() >= lines, "{said}");
    }
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
