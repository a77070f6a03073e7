//! What `tokenize` makes of conversations, against the ids of `transformers` in `tests/fixtures/tokens`.

use std::collections::BTreeMap;
use std::fs;

use sepo::text::Tokenizer;
use serde_json::{Value, json};

use crate::formats::rows_of;
use crate::harness::{Folder, repository};

fn fixture(name: &str) -> Value {
    serde_json::from_slice(&fs::read(repository().join("tests/fixtures/tokens").join(name)).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<i64> {
    value.as_array().unwrap().iter().map(|id| id.as_i64().unwrap()).collect()
}

/// Tokenizer folders, the rows of each and what becomes of them.
struct Cases {
    /// Tokenizer and configuration by name.
    folders: BTreeMap<String, Value>,
    /// The cases of every folder, with their rows in the place of their numbers.
    cases: BTreeMap<String, Vec<Value>>,
}

impl Cases {
    /// Those of the folders that `keep` names.
    fn new(keep: impl Fn(&str) -> bool) -> Self {
        let mut parts = fixture("cases.json");
        let mut cases = BTreeMap::<String, Vec<Value>>::new();
        for mut case in parts["cases"].as_array().unwrap().clone() {
            case["row"] = parts["rows"][case["row"].as_u64().unwrap() as usize].clone();
            cases.entry(case["folder"].as_str().unwrap().to_owned()).or_default().push(case);
        }
        cases.retain(|name, _| keep(name));
        Self { folders: serde_json::from_value(parts["folders"].take()).unwrap(), cases }
    }
}

/// Tokenizes every case in one run; the report, and the rows of every folder by their number.
fn tokenized(folder: &Folder, cases: &Cases) -> (Value, BTreeMap<String, BTreeMap<usize, Value>>) {
    let tokenizers = fixture("tokenizers.json");
    let mut stages = String::new();
    for (name, rows) in &cases.cases {
        let Value::Object(tokenizer) = &cases.folders[name] else { panic!("{name}") };
        fs::create_dir(folder.path(name)).unwrap();
        let base = &tokenizers[tokenizer["base"].as_str().unwrap()];
        folder.write(&format!("{name}/tokenizer.json"), &base.to_string());
        folder.write(&format!("{name}/tokenizer_config.json"), &tokenizer["config"].to_string());
        let row = |(at, case): (usize, &Value)| {
            let mut row = case["row"].clone();
            row["row_id"] = json!(at.to_string());
            format!("{row}\n")
        };
        folder.write(&format!("{name}.jsonl"), &rows.iter().enumerate().map(row).collect::<String>());
        let template = if tokenizer["config"].get("chat_template").is_none() { ", template: none" } else { "" };
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
    (report, cases.cases.keys().map(|name| (name.clone(), rows(name))).collect())
}

#[test]
fn ids_are_those_of_transformers() {
    let (folder, cases) = (Folder::new(), Cases::new(|name| !name.starts_with("family-")));
    let (report, rows) = tokenized(&folder, &cases);
    let mut compared = 0;
    for (name, cases) in &cases.cases {
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
    let (_, rows) = tokenized(&folder, &Cases::new(|name| name == "bytes-zephyr"));
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

/// Tool calls, their results, tools, documents, arguments of the template, what a model thought, and contents in parts.
#[test]
fn conversations_with_tools_are_rendered_as_by_transformers() {
    let (folder, cases) = (Folder::new(), Cases::new(|name| name.starts_with("family-")));
    let (report, rows) = tokenized(&folder, &cases);
    let mut compared = 0;
    for (name, cases) in &cases.cases {
        let tokenizer = Tokenizer::load(&folder.path(name)).unwrap();
        for (at, case) in cases.iter().enumerate() {
            let prompt: Vec<char> = case["prompt_text"].as_str().unwrap().chars().collect();
            let whole = |side: &str| {
                let (shared, rest) = (&case[format!("{side}_text")][0], &case[format!("{side}_text")][1]);
                let shared: String = prompt[..shared.as_u64().unwrap() as usize].iter().collect();
                shared + rest.as_str().unwrap()
            };
            let what = format!("{name}, row {at}: {case}");
            if whole("chosen") == whole("rejected") {
                assert!(!rows[name].contains_key(&at), "{what}");
                continue;
            }
            let row = rows[name].get(&at).unwrap_or_else(|| panic!("{what}: set aside\n{report}"));
            let decode = |ids: &[i64]| tokenizer.decode(&ids.iter().map(|id| *id as i32).collect::<Vec<_>>()).unwrap();
            let ours = ids(&row["prompt_ids"]);
            for side in ["chosen", "rejected"] {
                let answer = ids(&row[format!("{side}_ids")]);
                assert_eq!(decode(&[&ours[..], &answer].concat()), whole(side), "{what}, {side}");
                compared += 1;
            }
            if case["row"]["chosen"].as_array().unwrap().len() > 1 {
                let (answer, mask) = (ids(&row["chosen_ids"]), row["chosen_assistant_mask"].as_array().unwrap());
                let own: Vec<i64> =
                    answer.iter().zip(mask).filter(|(_, own)| **own == true).map(|(id, _)| *id).collect();
                let own = decode(&own);
                assert!(own.contains("Rome") && own.contains("31 degrees.") && !own.contains("hazy"), "{what}: {own}");
            }
        }
    }
    assert!(compared > 90, "{compared}");
}

/// What was read once and written is read again with all that its messages had.
#[test]
fn what_was_written_is_read_again() {
    let (folder, cases) = (Folder::new(), Cases::new(|name| name == "family-thinking"));
    let (_, first) = tokenized(&folder, &cases);
    folder.write(
        "q.yaml",
        "workdir: q
stages:
  rows: { read: { from: out/family-thinking, format: pairs } }
  tokens: { tokenize: { input: rows, tokenizer: family-thinking } }
  out: { write: { input: tokens, to: again } }
",
    );
    folder.succeeds(&["run", "q.yaml"]);
    let again = rows_of(&folder.path("again"));
    assert_eq!(again.len(), first["family-thinking"].len());
    for (again, first) in again.iter().zip(first["family-thinking"].values()) {
        for name in ["prompt", "chosen", "rejected", "prompt_ids", "chosen_ids", "rejected_ids"] {
            assert_eq!(again[name], first[name], "{name}");
        }
    }
}

#[test]
fn templates_have_arguments_names_and_files() {
    let folder = Folder::new();
    fs::create_dir(folder.path("tokenizer")).unwrap();
    folder.write("tokenizer/tokenizer.json", &fixture("tokenizers.json")["bytes"].to_string());
    let named = json!([
        {"name": "default", "template": "d{{ mood }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"},
        {"name": "tool_use", "template": "t{% for m in messages %}{{ m.content }}{% endfor %}"},
        {"name": "rag", "template": "r{% for m in messages %}{{ m.content }}{% endfor %}"},
    ]);
    folder.write("tokenizer/tokenizer_config.json", &json!({"eos_token": "</s>", "chat_template": named}).to_string());
    folder.write("own.jinja", "o{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}");
    let row = |extra: Value| {
        let mut row = json!({"prompt": "q", "chosen": "good", "rejected": "bad"});
        row.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        format!("{row}\n")
    };
    let rows = [json!({}), json!({"tools": "[{\"name\": \"add\"}]"}), json!({"chat_template_kwargs": {"mood": "!"}})];
    folder.write("rows.jsonl", &rows.map(row).concat());
    let tokenizer = Tokenizer::load(&folder.path("tokenizer")).unwrap();
    let pipeline = |options: &str| {
        let stages = format!(
            "workdir: run\nstages:\n  rows: {{ read: {{ from: rows.jsonl }} }}\n  \
             tokens: {{ tokenize: {{ input: rows, tokenizer: tokenizer{options} }} }}\n  \
             out: {{ write: {{ input: tokens, to: out }} }}\n"
        );
        folder.write("p.yaml", &stages);
    };
    let texts = |options: &str| {
        pipeline(options);
        folder.succeeds(&["run", "p.yaml"]);
        let text = |row: &Value| {
            let ids = [ids(&row["prompt_ids"]), ids(&row["chosen_ids"])].concat();
            tokenizer.decode(&ids.iter().map(|id| *id as i32).collect::<Vec<_>>()).unwrap()
        };
        rows_of(&folder.path("out")).iter().map(text).collect::<Vec<_>>()
    };
    assert_eq!(texts(""), ["dq</s>good</s>", "tqgood", "d!q</s>good</s>"]);
    assert_eq!(texts(", template_args: { mood: '?' }"), ["d?q</s>good</s>", "tqgood", "d!q</s>good</s>"]);
    assert_eq!(texts(", template: rag"), ["rqgood"; 3]);
    assert_eq!(texts(", template: own.jinja"), ["oq</s>good</s>"; 3]);
    // Another text of the file is another template.
    folder.write("own.jinja", "p{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}");
    assert_eq!(texts(", template: own.jinja"), ["pq</s>good</s>"; 3]);
    pipeline(", template: owm.jinja");
    let stderr = folder.fails(&["check", "p.yaml"], 78);
    assert!(stderr.contains("`owm.jinja` is no file, and no chat template in `tokenizer`"), "{stderr}");
    assert!(stderr.contains("help: one of default, rag, tool_use, a file, or `none`"), "{stderr}");
    pipeline("");
    folder.write("rows.jsonl", &row(json!({"tools": 3})));
    let stderr = folder.fails(&["run", "p.yaml"], 1);
    assert!(stderr.contains("`tools`: row 0 of the batch holds no list of objects"), "{stderr}");
}

/// Prompts of `generate` are rendered as those of `tokenize`.
#[test]
fn generate_hands_tools_and_arguments_to_the_template() {
    let folder = Folder::new();
    fs::create_dir(folder.path("tokenizer")).unwrap();
    folder.write("tokenizer/tokenizer.json", &fixture("tokenizers.json")["bytes"].to_string());
    let template = fs::read_to_string(repository().join("tests/fixtures/templates/fenced_calls.jinja")).unwrap();
    let config = json!({"bos_token": "<s>", "eos_token": "</s>", "chat_template": template});
    folder.write("tokenizer/tokenizer_config.json", &config.to_string());
    let tool = json!({"type": "function", "function": {"name": "add", "description": "Adds."}});
    let rows = [json!({"prompt": "1+1?", "tools": [tool]}), json!({"prompt": "1+1?"})];
    folder.write("rows.jsonl", &rows.map(|row| format!("{row}\n")).concat());
    folder.write(
        "p.yaml",
        "workdir: run
models:
  base:
    tokenizer: tokenizer
    init:
      { model_type: llama, vocab_size: 380, hidden_size: 8, intermediate_size: 16, num_hidden_layers: 1,
        num_attention_heads: 1, max_position_embeddings: 1024, rms_norm_eps: 1.0e-5, tie_word_embeddings: true }
stages:
  rows: { read: { from: rows.jsonl, format: prompts } }
  says: { generate: { input: rows, model: base, max_tokens: 2, template_args: { enable_thinking: false } } }
  out: { write: { input: says, to: out } }
",
    );
    folder.succeeds(&["run", "p.yaml"]);
    let tokenizer = Tokenizer::load(&folder.path("tokenizer")).unwrap();
    let prompt = |row: &Value| {
        let ids: Vec<i32> = ids(&row["prompt_ids"]).iter().map(|id| *id as i32).collect();
        tokenizer.decode(&ids).unwrap()
    };
    let found: Vec<String> = rows_of(&folder.path("out")).iter().map(prompt).collect();
    assert!(found[0].starts_with("<s>\n## Tools\n- add: Adds. {\"type\": \"function\""), "{found:?}");
    assert!(found[0].ends_with("<|u|>1+1?<|a|><think></think>"), "{found:?}");
    assert_eq!(found[1], "<s><|u|>1+1?<|a|><think></think>");
}
