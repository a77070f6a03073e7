//! What `sepo plan` says of the shipped pipelines, and `sepo check` of broken ones, word for word: tests/plans holds both.
//! `SEPO_BLESS=1 cargo test --release --locked --test it plans` writes them again; the difference is then to be read.

use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::{Folder, repository, small_model};

/// Trains the models and writes the tokens that shipped pipelines find where the quickstart left them.
fn quickstart() -> String {
    format!(
        "workdir: runs/quickstart
{}stages:
  pairs: {{ read: {{ from: data/quickstart/train.parquet, limit: 8 }} }}
  tokens: {{ tokenize: {{ input: pairs, tokenizer: base, max_length: 256 }} }}
  ref: {{ train: {{ input: tokens, model: base, objective: {{ sft: {{}} }}, max_steps: 1, batch_size: 2 }} }}
  oracle: {{ train: {{ input: tokens, model: ref, reference: ref, objective: {{ dpo: {{}} }}, max_steps: 1, batch_size: 2 }} }}
  out: {{ write: {{ input: tokens, to: runs/quickstart/scored }} }}
",
        small_model().replace("max_position_embeddings: 256", "max_position_embeddings: 2048")
    )
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// The YAML files in `folder`, in their order.
fn pipelines(folder: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|end| end == "yaml")).collect();
    files.sort();
    files
}

/// Compares `said` with the file `name` of tests/plans, or writes it there.
fn is_as_recorded(name: &str, said: &str) {
    let file = repository().join("tests/plans").join(name);
    if std::env::var_os("SEPO_BLESS").is_some() {
        return fs::write(file, said).unwrap();
    }
    let recorded = fs::read_to_string(&file).unwrap_or_default();
    assert!(recorded == said, "{} says\n{recorded}\nand sepo\n{said}\nSEPO_BLESS=1 records the latter", file.display());
}

/// A plan without what differs from machine to machine: how fast it is, and how much memory is free.
fn of_any_machine(plan: &str) -> String {
    let line = |line: &str| match line.split_once("FLOP: ") {
        Some((work, _)) => format!("{work}FLOP"),
        None => line.trim_end().to_owned(),
    };
    plan.lines().filter(|text| !text.contains(" free on ")).map(|text| line(text) + "\n").collect()
}

#[test]
fn plans_of_shipped_pipelines() {
    let folder = Folder::new();
    for name in ["data", "pipelines"] {
        copy(&repository().join(name), &folder.path(name));
    }
    folder.succeeds(&["run", folder.write("quickstart.yaml", &quickstart()).to_str().unwrap()]);
    for file in pipelines(&repository().join("pipelines")) {
        let name = file.file_name().unwrap().to_str().unwrap();
        let plan = folder.succeeds(&["plan", &format!("pipelines/{name}")]);
        is_as_recorded(&format!("{}.txt", name.trim_end_matches(".yaml")), &of_any_machine(&plan));
    }
}

#[test]
fn what_is_wrong_with_broken_pipelines() {
    let folder = Folder::new();
    folder.write("rows.jsonl", "{\"prompt_ids\": [1, 2], \"chosen_ids\": [3], \"rejected_ids\": [4]}\n");
    for (name, fixture) in [("model", "llama-tied"), ("other", "llama-untied")] {
        copy(&repository().join("tests/fixtures").join(fixture), &folder.path(name));
    }
    let files = pipelines(&repository().join("tests/plans/broken"));
    assert!(files.len() >= 12, "{}", files.len());
    for file in files {
        let name = file.file_name().unwrap().to_str().unwrap();
        fs::copy(&file, folder.path(name)).unwrap();
        let said = folder.fails(&["check", name], 78);
        is_as_recorded(&format!("broken/{}.txt", name.trim_end_matches(".yaml")), &said);
    }
}
