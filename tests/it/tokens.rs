//! What `tokenize` makes of conversations, against the ids of `transformers` in `tests/fixtures/tokens`.

use std::collections::BTreeMap;
use std::fs;

use serde_json::{Value, json};

use crate::formats::rows_of;
use crate::harness::{Folder, repository};

fn fixture(name: &str) -> Value {
    serde_json::from_slice(&fs::read(repository().join("tests/fixtures/tokens").join(name)).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<i64> {
    value.as_array().unwrap().iter().map(|id| id.as_i64().unwrap()).collect()
}

/// The cases by the folder of their tokenizer.
fn cases() -> BTreeMap<String, Vec<Value>> {
    let mut cases = BTreeMap::<String, Vec<Value>>::new();
    for case in fixture("cases.json").as_array().unwrap() {
        cases.entry(case["folder"].as_str().unwrap().to_owned()).or_default().push(case.clone());
    }
    cases
}

/// Tokenizes every case in one run; the report, and the rows of every folder by their number.
fn tokenized(
    folder: &Folder,
    cases: &BTreeMap<String, Vec<Value>>,
) -> (Value, BTreeMap<String, BTreeMap<usize, Value>>) {
    let tokenizers = fixture("tokenizers.json");
    let mut stages = String::new();
    for (name, cases) in cases {
        fs::create_dir(folder.path(name)).unwrap();
        folder.write(&format!("{name}/tokenizer.json"), &tokenizers[cases[0]["base"].as_str().unwrap()].to_string());
        folder.write(&format!("{name}/tokenizer_config.json"), &cases[0]["config"].to_string());
        let row = |(at, case): (usize, &Value)| {
            let mut row = case["row"].clone();
            row["row_id"] = json!(at.to_string());
            format!("{row}\n")
        };
        folder.write(&format!("{name}.jsonl"), &cases.iter().enumerate().map(row).collect::<String>());
        let template = if cases[0]["config"].get("chat_template").is_none() { ", template: none" } else { "" };
        stages += &format!(
            "  r-{name}: {{ read: {{ from: {name}.jsonl }} }}\n  \
             t-{name}: {{ tokenize: {{ input: r-{name}, tokenizer: {name}{template} }} }}\n  \
             o-{name}: {{ write: {{ input: t-{name}, to: out/{name} }} }}\n"
        );
    }
    folder.write("p.yaml", &format!("workdir: run\nstages:\n{stages}"));
    let report = serde_json::from_str(&folder.succeeds(&["run", "p.yaml", "--json"])).unwrap();
    let rows = |name: &String| {
        let rows = rows_of(&folder.path(&format!("out/{name}")));
        rows.into_iter().map(|row| (row["row_id"].as_str().unwrap().parse().unwrap(), row)).collect()
    };
    (report, cases.keys().map(|name| (name.clone(), rows(name))).collect())
}

#[test]
fn ids_are_those_of_transformers() {
    let (folder, cases) = (Folder::new(), cases());
    let (report, rows) = tokenized(&folder, &cases);
    let mut compared = 0;
    for (name, cases) in &cases {
        let found = &rows[name];
        for (at, case) in cases.iter().enumerate() {
            let (what, prompt) = (format!("{name}, row {at}: {case}"), ids(&case["prompt_ids"]));
            let begins = case["row"]["prompt"][0]["role"].as_str();
            if name.ends_with("-last") && begins == Some("system") {
                assert!(!found.contains_key(&at), "{what}");
                let aside = &report["stages"][format!("t-{name}")]["set_aside"];
                assert_eq!(
                    *aside,
                    json!({"the chat template rewrites the prompt when an answer follows": 1}),
                    "{what}"
                );
                continue;
            }
            let row = found.get(&at).unwrap_or_else(|| panic!("{what}: set aside\n{report}"));
            let ours = ids(&row["prompt_ids"]);
            let wholes = ["chosen", "rejected"].map(|side| ids(&case[side]));
            if wholes.iter().all(|whole| whole.starts_with(&prompt)) {
                assert_eq!(ours, prompt, "{what}");
            }
            for (side, whole) in ["chosen", "rejected"].into_iter().zip(wholes) {
                let answer = ids(&row[format!("{side}_ids")]);
                assert_eq!([&ours[..], &answer].concat(), whole, "{what}, {side}: {row}");
                let mask: Vec<bool> = row[format!("{side}_assistant_mask")]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|own| own.as_bool().unwrap())
                    .collect();
                assert_eq!(mask.len(), answer.len(), "{what}");
                if case["row"][side].as_array().unwrap().len() == 1 {
                    assert!(!mask.contains(&false), "{what}: {mask:?}");
                } else {
                    let expected = ids(&case[format!("{side}_mask")]);
                    let expected: Vec<bool> = expected[ours.len()..].iter().map(|own| *own == 1).collect();
                    assert_eq!(mask, expected, "{what}, {side}: {row}");
                }
                compared += 1;
            }
            assert_eq!(report["stages"][format!("t-{name}")]["metrics"]["boundary_merged"], 0, "{what}");
        }
    }
    assert!(compared > 100, "{compared}");
}

#[test]
fn masks_and_rewards_are_of_the_assistants_turns() {
    let folder = Folder::new();
    let mut cases = cases();
    cases.retain(|name, _| name == "bytes-zephyr");
    let (_, rows) = tokenized(&folder, &cases);
    folder.write(
        "q.yaml",
        "workdir: q
models:
  base:
    tokenizer: bytes-zephyr
    init:
      { model_type: llama, vocab_size: 380, hidden_size: 8, intermediate_size: 16, num_hidden_layers: 1,
        num_attention_heads: 1, max_position_embeddings: 256, rms_norm_eps: 1.0e-5, tie_word_embeddings: true }
stages:
  rows: { read: { from: out/bytes-zephyr } }
  oracle: { train: { input: rows, model: base, objective: { dpo: {} }, max_steps: 2, learning_rate: 0.01 } }
  scored: { score: { input: rows, oracle: oracle, reference: base } }
  keyed: { select: { input: scored, rule: all, also: { few: { rule: share } } } }
  policy: { train: { input: keyed, model: base, objective: { sepo: {} }, max_steps: 1 } }
  out: { write: { input: keyed, to: out/keyed } }
",
    );
    folder.succeeds(&["run", "q.yaml"]);
    let mut others = 0;
    for (row, tokens) in rows_of(&folder.path("out/keyed")).iter().zip(rows["bytes-zephyr"].values()) {
        for side in ["chosen", "rejected"] {
            let list = |row: &Value, name: &str| row[format!("{side}_{name}")].as_array().unwrap().clone();
            let own = list(tokens, "assistant_mask");
            assert_eq!(list(row, "key_mask"), own, "every token of the assistant's, and no other");
            let rewards = list(row, "token_rewards");
            for ((own, reward), few) in own.iter().zip(&rewards).zip(list(row, "key_mask_few")) {
                if own == false {
                    assert_eq!((reward, &few), (&json!(0.0), &json!(false)));
                    others += 1;
                }
            }
            let sum: f64 = rewards.iter().map(|reward| reward.as_f64().unwrap()).sum();
            let reward = row[format!("{side}_reward")].as_f64().unwrap();
            assert!((sum - reward).abs() < 1e-4, "{sum} {reward}");
        }
    }
    assert!(others > 20, "{others}");
}
