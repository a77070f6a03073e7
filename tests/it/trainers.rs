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
        ("input: keyed, to: x, mask: all", "only `llama_factory`, `axolotl` and `sepo_csv` take a mask"),
        ("input: keyed, to: x, format: trl", "trl takes conversations"),
    ] {
        let folder = Folder::new();
        let said = folder.fails(&["check", &masked(&folder, &format!("  x: {{ write: {{ {write} }} }}\n"))], 78);
        assert!(said.contains(expected), "{said}");
    }
}

/// A pipeline that scores three pairs with two small models and writes `top_k.csv` of the key tokens that `rule` selects.
fn to_top_k(folder: &Folder, rule: &str) -> String {
    let model = |width: u32| {
        format!(
            "{{ tokenizer: {}/data/quickstart/tokenizer, init: {{ model_type: llama, vocab_size: 1280, hidden_size: {width}, \
             intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2, max_position_embeddings: 256, \
             rms_norm_eps: 1.0e-5, tie_word_embeddings: true }} }}",
            repository().display()
        )
    };
    let pair = |prompt: &str, chosen: &str, rejected: &str| {
        format!("{}\n", json!({"prompt": prompt, "chosen": chosen, "rejected": rejected}))
    };
    folder.write(
        "pairs.jsonl",
        &[
            pair("What is 2 + 2?", "Two and two make four, as everybody knows.", "It is five, or so they say at sea."),
            pair("Say \"a, b\"\nin two lines.", "a\nand then, on its own line, b", "a, b in one line and no more"),
            pair("C:\\temp?", "A folder for files that nobody needs later.", "No idea at all what that could be."),
        ]
        .concat(),
    );
    let text = format!(
        "workdir: run\nmodels: {{ a: {}, b: {} }}\nstages:\n  pairs: {{ read: {{ from: pairs.jsonl }} }}\n  \
         tokens: {{ tokenize: {{ input: pairs, tokenizer: a }} }}\n  \
         scored: {{ score: {{ input: tokens, oracle: a, reference: b }} }}\n  \
         keyed: {{ select: {{ input: scored, rule: {rule} }} }}\n  plain: {{ write: {{ input: keyed, to: plain }} }}\n  \
         csv: {{ write: {{ input: keyed, to: csv, format: sepo_csv }} }}\n",
        model(16),
        model(8)
    );
    folder.write("p.yaml", &text);
    let again = format!(
        "workdir: again\nmodels: {{ a: {} }}\nstages:\n  pairs: {{ read: {{ from: csv/top_k.csv }} }}\n  \
         tokens: {{ tokenize: {{ input: pairs, tokenizer: a, max_length: LENGTH }} }}\n  \
         plain: {{ write: {{ input: tokens, to: back }} }}\n  \
         policy: {{ train: {{ input: tokens, model: a, objective: {{ sepo: {{}} }}, batch_size: 2 }} }}\n",
        model(16)
    );
    folder.write("again.yaml", &again.replace("LENGTH", "200"));
    folder.write("short.yaml", &again.replace("LENGTH", "28").replace("again", "short").replace("back", "short_back"));
    "p.yaml".to_owned()
}

#[test]
fn top_k_csv_brings_the_same_key_tokens_back() {
    let folder = Folder::new();
    folder.succeeds(&["run", &to_top_k(&folder, "official")]);
    folder.succeeds(&["run", "again.yaml"]);
    let (source, back) = (rows_of(&folder.path("plain")), rows_of(&folder.path("back")));
    assert_eq!((source.len(), back.len()), (3, 3));
    for (source, back) in source.iter().zip(&back) {
        for name in ["prompt_ids", "chosen_ids", "rejected_ids", "chosen_key_mask", "rejected_key_mask", "prompt"] {
            assert_eq!(source[name], back[name], "{name}");
        }
    }
    // Answers that are cut take their masks along.
    folder.succeeds(&["run", "short.yaml"]);
    let short = rows_of(&folder.path("short_back"));
    assert!(!short.is_empty());
    for row in &short {
        let length = |name: &str| row[name].as_array().unwrap().len();
        assert_eq!(length("chosen_ids"), length("chosen_key_mask"));
        assert!(length("prompt_ids") + length("chosen_ids") <= 28);
    }
    assert!(short.iter().any(|row| row["chosen_truncated"] == json!(true)), "{short:?}");
}

#[test]
fn top_k_csv_refuses_what_it_cannot_say() {
    let folder = Folder::new();
    let said = folder.fails(&["run", &to_top_k(&folder, "all")], 1);
    assert!(said.contains("the first token as a key token") && said.contains("rule: official"), "{said}");
}
