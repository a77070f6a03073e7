//! What `write` makes for other trainers: labels on key tokens alone, files as `datasets` and TRL expect them.

use std::fs;

use serde_json::{Value, json};

use crate::formats::rows_of;
use crate::harness::{Folder, repository};

/// Two rows whose key masks are those of `select`, with a second mask of random tokens.
fn masked(folder: &Folder, more: &str) -> String {
    let fixture = |name: &str| repository().join("tests/fixtures").join(name).display().to_string();
    folder.write(
        "rows.jsonl",
        "{\"prompt_ids\": [1, 2], \"chosen_ids\": [3, 4, 5, 6], \"rejected_ids\": [7, 8, 9]}\n\
         {\"prompt_ids\": [4], \"chosen_ids\": [5], \"rejected_ids\": [6, 7]}\n",
    );
    let text = format!(
        "workdir: run\nmodels: {{ a: {{ path: {} }}, b: {{ path: {} }} }}\nstages:\n  \
         rows: {{ read: {{ from: rows.jsonl }} }}\n  scored: {{ score: {{ input: rows, oracle: a, reference: b }} }}\n  \
         keyed: {{ select: {{ input: scored, also: {{ all: {{ chosen: {{ top: 1.0 }}, rejected: {{ bottom: 1.0 }} }} }} }} }}\n  \
         plain: {{ write: {{ input: keyed, to: plain }} }}\n{more}",
        fixture("llama-untied"),
        fixture("llama-tied")
    );
    folder.write("p.yaml", &text).to_str().unwrap().to_owned()
}

/// `labels` of `ids` behind a prompt, by `mask`.
fn labels(row: &Value, side: &str, mask: &str) -> (Vec<i64>, Vec<i64>) {
    let numbers = |name: &str| row[name].as_array().unwrap().iter().map(|id| id.as_i64().unwrap()).collect::<Vec<_>>();
    let (prompt, answer) = (numbers("prompt_ids"), numbers(&format!("{side}_ids")));
    let mask = row[&format!("{side}_{mask}")].as_array().unwrap();
    let of_answer = answer.iter().zip(mask).map(|(id, key)| if key.as_bool().unwrap() { *id } else { -100 });
    let labels = vec![-100; prompt.len()].into_iter().chain(of_answer).collect();
    ([prompt, answer.clone()].concat(), labels)
}

#[test]
fn llama_factory_gets_labels_on_key_tokens_alone() {
    let folder = Folder::new();
    let write = "  lf: { write: { input: keyed, to: lf, format: llama_factory } }\n  \
                 all: { write: { input: keyed, to: all, format: llama_factory, mask: all, split: validation } }\n";
    folder.succeeds(&["run", &masked(&folder, write)]);
    let names = |name: &str| {
        let mut names: Vec<String> = fs::read_dir(folder.path(name))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != "sepo.json")
            .collect();
        names.sort();
        names
    };
    assert_eq!(names("lf"), ["data-00000-of-00001.arrow", "dataset_info.json", "state.json"]);
    let bytes = fs::read(folder.path("lf/data-00000-of-00001.arrow")).unwrap();
    assert!(!bytes.starts_with(b"ARROW1"), "datasets reads streams");
    let state: Value = serde_json::from_slice(&fs::read(folder.path("all/state.json")).unwrap()).unwrap();
    assert_eq!(state["_data_files"], json!([{ "filename": "data-00000-of-00001.arrow" }]));
    assert_eq!(state["_split"], "validation");
    let source = rows_of(&folder.path("plain"));
    for (name, mask) in [("lf", "key_mask"), ("all", "key_mask_all")] {
        let written = rows_of(&folder.path(&format!("{name}/data-00000-of-00001.arrow")));
        assert_eq!(written.len(), 2);
        for (row, source) in written.iter().zip(&source) {
            for side in ["chosen", "rejected"] {
                let (ids, labels) = labels(source, side, mask);
                assert_eq!(row[&format!("{side}_input_ids")], json!(ids));
                assert_eq!(row[&format!("{side}_labels")], json!(labels));
                assert_eq!(row[&format!("{side}_attention_mask")], json!(vec![1; ids.len()]));
            }
            assert!(row.get("images").is_none_or(Value::is_null), "{row}");
        }
    }
    // Run again, everything is its own: nothing is in the way.
    folder.succeeds(&["run", "p.yaml", "--fresh"]);
}

#[test]
fn axolotl_gets_the_chosen_answer() {
    let folder = Folder::new();
    folder.succeeds(&["run", &masked(&folder, "  ax: { write: { input: keyed, to: ax, format: axolotl } }\n")]);
    let (source, written) = (rows_of(&folder.path("plain")), rows_of(&folder.path("ax")));
    for (row, source) in written.iter().zip(&source) {
        let (ids, labels) = labels(source, "chosen", "key_mask");
        assert_eq!(*row, json!({ "input_ids": ids, "attention_mask": vec![1; ids.len()], "labels": labels }));
    }
    assert_eq!(written.len(), 2);
}

#[test]
fn trl_gets_conversations() {
    let folder = Folder::new();
    let talk = |more: &str| {
        format!(
            "{{\"prompt\": [{{\"role\": \"user\", \"content\": \"q\"}}], \
             \"chosen\": [{{\"role\": \"assistant\", \"content\": \"a\"{more}}}], \
             \"rejected\": [{{\"role\": \"assistant\", \"content\": \"b\"}}]}}\n"
        )
    };
    let text = "workdir: run\nstages:\n  rows: { read: { from: rows.jsonl } }\n  \
                out: { write: { input: rows, to: out, format: trl } }\n";
    let file = folder.write("p.yaml", text);
    folder.write("rows.jsonl", &talk(""));
    folder.succeeds(&["run", file.to_str().unwrap()]);
    let turn = |role: &str, content: &str| json!([{ "role": role, "content": content }]);
    let expected =
        json!({ "prompt": turn("user", "q"), "chosen": turn("assistant", "a"), "rejected": turn("assistant", "b") });
    assert_eq!(rows_of(&folder.path("out")), [expected]);
    folder.write("rows.jsonl", &talk(", \"reasoning_content\": \"so\""));
    let said = folder.fails(&["run", file.to_str().unwrap()], 1);
    assert!(said.contains("has a message with `reasoning_content`"), "{said}");
}

#[test]
fn what_trainers_lack_is_found_by_check() {
    for (write, expected) in [
        ("input: scored, to: x, format: llama_factory", "no column `chosen_key_mask`"),
        ("input: keyed, to: x, format: llama_factory, mask: al", "no column `chosen_key_mask_al`"),
        ("input: keyed, to: x, mask: all", "only `llama_factory` and `axolotl` take a mask"),
        ("input: keyed, to: x, format: trl", "trl takes conversations"),
    ] {
        let folder = Folder::new();
        let said = folder.fails(&["check", &masked(&folder, &format!("  x: {{ write: {{ {write} }} }}\n"))], 78);
        assert!(said.contains(expected), "{said}");
    }
}
