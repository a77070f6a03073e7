//! Pipelines from the command line: mistakes, a whole small run, running again, rows set aside.

use serde_json::Value;

use crate::harness::{Folder, report, repository, small_model};

/// A pipeline on the quickstart data with a model that trains in a moment.
fn small(folder: &Folder) -> std::path::PathBuf {
    let data = repository().join("data/quickstart");
    let data = data.display();
    folder.write(
        "small.yaml",
        &format!(
            "\
vars: {{ limit: 48, out: run }}
workdir: ${{out}}
{}stages:
  pairs: {{ read: {{ from: {data}/train.parquet, limit: \"${{limit}}\" }} }}
  tokens: {{ tokenize: {{ input: pairs, tokenizer: base, spans: [planted] }} }}
  ref: {{ train: {{ input: tokens, model: base, objective: {{ sft: {{}} }}, batch_size: 8, learning_rate: 0.01 }} }}
  oracle:
    train: {{ input: tokens, model: ref, objective: {{ dpo: {{ beta: 0.1 }} }}, batch_size: 8, learning_rate: 0.01 }}
  scored: {{ score: {{ input: tokens, oracle: oracle, reference: ref }} }}
  keyed: {{ select: {{ input: scored, also: {{ official: {{ rule: official }} }} }} }}
  out: {{ write: {{ input: keyed, to: \"${{out}}/scored\" }} }}
  policy: {{ train: {{ input: keyed, model: ref, objective: {{ sepo: {{ gamma: 2.0 }} }}, batch_size: 8 }} }}
  report: {{ evaluate: {{ input: tokens, start: ref, models: {{ policy: policy }} }} }}
  planted: {{ audit: {{ input: keyed, spans: planted }} }}
",
            small_model()
        ),
    )
}

#[test]
fn a_plan_counts_the_rows_that_filters_leave() {
    let folder = Folder::new();
    let row = |number: usize| format!("{{\"prompt\": \"q {number}\", \"chosen\": \"a\", \"rejected\": \"b\"}}\n");
    folder.write("rows.jsonl", &(0..1000).map(row).collect::<String>());
    let planned = |settings: &str| {
        let text = format!(
            "workdir: run\nstages:\n  pairs: {{ read: {{ from: rows.jsonl{settings} }} }}\n  \
             out: {{ write: {{ input: pairs, to: out }} }}\n"
        );
        let plan = folder.succeeds(&["plan", folder.write("p.yaml", &text).to_str().unwrap()]);
        let rows = plan.split("about ").skip(1).find_map(|part| part.split_once(" rows")).unwrap().0;
        rows.parse::<u64>().unwrap()
    };
    assert_eq!(planned(""), 1000);
    assert!((60..140).contains(&planned(", split: { held_out: 0.1, keep: held_out }")));
    assert!((860..940).contains(&planned(", split: { held_out: 0.1, keep: train }")));
    assert!((420..580).contains(&planned(", sample: 0.5")));
    assert_eq!(planned(", sample: 0.5, limit: 50"), 50);
}

#[test]
fn a_small_pipeline_runs_and_is_not_run_twice() {
    let folder = Folder::new();
    let file = small(&folder);
    let file = file.to_str().unwrap();
    assert!(folder.succeeds(&["check", file]).contains("no problems"));
    let plan = folder.succeeds(&["plan", file]);
    assert!(plan.contains("oracle.reference") && plan.contains("about 48 rows, 0.003 M tokens"), "{plan}");
    let first: Value = serde_json::from_str(&folder.succeeds(&["run", file, "--json"])).unwrap();
    let stages = &first["stages"];
    for stage in ["pairs", "tokens", "scored", "keyed"] {
        assert_eq!((&stages[stage]["rows_in"], &stages[stage]["rows_out"]), (&48.into(), &48.into()), "{stage}");
    }
    assert_eq!(stages["out"]["rows_in"], 48);
    assert_eq!(stages["policy"]["metrics"]["steps"], 6);
    assert!(stages["report"]["metrics"]["policy"]["accuracy"].is_number());
    assert!(stages["planted"]["metrics"]["chosen"]["reward_auroc"].is_number());
    let output = first["outputs"][0].as_str().unwrap();
    assert!(output.ends_with("run/scored/train-00000-of-00001.parquet"), "{output}");
    let shown: Value = serde_json::from_str(&folder.succeeds(&["inspect", "run/scored", "--json"])).unwrap();
    assert_eq!(shown["rows"], 48);
    let provenance = &shown["provenance"];
    assert!(provenance["oracle"].is_string() && provenance["masks"]["official"]["rule"] == "official", "{provenance}");
    assert!(shown["chosen_token_rewards"]["tokens"].as_f64() > Some(48.0));

    let again = report(&folder.succeeds(&["run", file, "--json"]));
    assert_eq!(first, again);
    let log = std::fs::read_to_string(folder.path("run/logs/policy/metrics.jsonl")).unwrap();
    assert!(log.lines().all(|line| serde_json::from_str::<Value>(line).unwrap()["loss"].is_number()), "{log}");
}

#[test]
fn two_runs_of_one_seed_give_the_same_rows() {
    let folder = Folder::new();
    let file = small(&folder);
    let file = file.to_str().unwrap();
    let shown = |out: &str| {
        folder.succeeds(&["run", file, "--var", &format!("out={out}"), "--only", "out"]);
        folder.succeeds(&["inspect", &format!("{out}/scored"), "--json"])
    };
    assert_eq!(shown("one"), shown("two"));
}

#[test]
fn every_mistake_is_reported_with_its_place() {
    let folder = Folder::new();
    let file = small(&folder);
    let text = std::fs::read_to_string(&file).unwrap();
    let broken = text
        .replace("workdir:", "device: gpu\nworkdri: x\nworkdir:")
        .replace("limit: \"${limit}\"", "limit: many")
        .replace("{ sft: {} }", "{ stf: {} }")
        .replace("spans: [planted] } }\n  ref", "spans: planted, max_lenght: 3 } }\n  ref");
    let broken = folder.write("broken.yaml", &broken);
    let stderr = folder.fails(&["check", broken.to_str().unwrap()], 78);
    for expected in [
        "broken.yaml:3:1: unknown key `workdri`\n  help: did you mean `workdir`?",
        "expected a whole number or nothing, found text `many`",
        "unknown name `stf`\n  help: did you mean `sft`?",
        "unknown key `max_lenght`\n  help: did you mean `max_length`?",
        "expected a list, found text `planted`",
    ] {
        assert!(stderr.contains(expected), "{expected}\n---\n{stderr}");
    }

    let broken = text
        .replace("input: keyed, to", "input: keyd, to")
        .replace("input: scored,", "input: tokens,")
        .replace("start: ref", "start: reff")
        .replace("label_smoothing", "");
    let broken = folder.write("names.yaml", &broken);
    let stderr = folder.fails(&["check", broken.to_str().unwrap()], 78);
    for expected in [
        "no stage `keyd`\n  help: did you mean `keyed`?",
        "`reff` is neither a model nor a `train` stage",
        "no column `chosen_token_rewards`",
    ] {
        assert!(stderr.contains(expected), "{expected}\n---\n{stderr}");
    }
    let stderr = folder.fails(&["check", file.to_str().unwrap(), "--var", "limt=3"], 78);
    assert!(stderr.contains("unknown variable in --var `limt`\n  help: did you mean `limit`?"), "{stderr}");
    folder.fails(&["run"], 2);
}

#[test]
fn rows_without_use_are_set_aside_and_the_counts_add_up() {
    let folder = Folder::new();
    let tokenizer = repository().join("data/quickstart/tokenizer");
    folder.write(
        "rows.jsonl",
        "{\"prompt\": \"What is two plus two?\", \"chosen\": \"Four.\", \"rejected\": \"Five.\"}\n\
         {\"prompt\": \"What is two plus two?\", \"chosen\": \"Four.\", \"rejected\": \"Four.\"}\n\
         {\"prompt\": \"What is two plus two?\", \"chosen\": \"\", \"rejected\": \"Four.\"}\n\
         {\"prompt\": \"Tell me all about it, and leave nothing out, please\", \"chosen\": \"a\", \"rejected\": \"b\"}\n",
    );
    let file = folder.write(
        "p.yaml",
        &format!(
            "workdir: run\nstages:\n  rows: {{ read: {{ from: rows.jsonl }} }}\n  \
             tokens: {{ tokenize: {{ input: rows, tokenizer: \"{}\", max_length: 16 }} }}\n  \
             out: {{ write: {{ input: tokens, to: run/out }} }}\n",
            tokenizer.display()
        ),
    );
    let report: Value = serde_json::from_str(&folder.succeeds(&["run", file.to_str().unwrap(), "--json"])).unwrap();
    let rows = &report["stages"]["rows"];
    assert_eq!((&rows["rows_in"], &rows["rows_out"]), (&4.into(), &2.into()), "{report}");
    assert_eq!(rows["set_aside"]["identical answers"], 1);
    assert_eq!(rows["set_aside"]["empty answer"], 1);
    let tokens = &report["stages"]["tokens"];
    assert_eq!((&tokens["rows_in"], &tokens["rows_out"]), (&2.into(), &1.into()), "{report}");
    assert_eq!(tokens["set_aside"]["prompt too long"], 1);
    let shown: Value = serde_json::from_str(&folder.succeeds(&["inspect", "run/rejects", "--json"])).unwrap();
    assert_eq!(shown["rows"], 3);
    let plan = folder.succeeds(&["plan", file.to_str().unwrap()]);
    assert!(plan.contains("set aside 25.0 % (empty answer)"), "{plan}");
}

#[test]
fn filters_limits_and_splits_take_the_rows_that_they_say() {
    let folder = Folder::new();
    let rows = |options: &str| {
        let data = repository().join("data/quickstart/train.parquet");
        let text = format!(
            "workdir: run\nstages:\n  rows: {{ read: {{ from: \"{}\", {options} }} }}\n  \
             out: {{ write: {{ input: rows, to: run/out }} }}\n",
            data.display()
        );
        let file = folder.write("p.yaml", &text);
        let report = folder.succeeds(&["run", file.to_str().unwrap(), "--json"]);
        let report: Value = serde_json::from_str(&report).unwrap();
        report["stages"]["out"]["rows_in"].as_u64().unwrap()
    };
    let lists = rows("where: \"kind = 'list'\"");
    assert!((400..800).contains(&lists), "{lists}");
    assert_eq!(rows("where: \"kind = 'list'\", limit: 300"), 300);
    assert_eq!(rows("limit: 3000"), 3000);
    let [train, held_out] =
        ["train", "held_out"].map(|keep| rows(&format!("split: {{ held_out: 0.25, keep: {keep} }}")));
    assert_eq!(train + held_out, 4096);
    assert!((850..1200).contains(&held_out), "{held_out}");
    let sampled = rows("sample: 0.5");
    assert!((1900..2200).contains(&sampled) && sampled == rows("sample: 0.5"), "{sampled}");
}

#[test]
fn rows_set_aside_on_the_way_to_files_are_kept_too() {
    let folder = Folder::new();
    folder.write(
        "rows.jsonl",
        "{\"prompt_ids\": [1], \"chosen_ids\": [2], \"rejected_ids\": [2]}\n\
         {\"prompt_ids\": [1], \"chosen_ids\": [2], \"rejected_ids\": [3]}\n",
    );
    let text = "workdir: run\nstages:\n  rows: { read: { from: rows.jsonl } }\n  out: { write: { input: rows, to: run/out } }\n";
    let file = folder.write("p.yaml", text);
    folder.succeeds(&["run", file.to_str().unwrap()]);
    for (path, rows) in [("run/out", 1), ("run/rejects", 1)] {
        let shown: Value = serde_json::from_str(&folder.succeeds(&["inspect", path, "--json"])).unwrap();
        assert_eq!(shown["rows"], rows, "{path}");
    }
}

#[test]
fn rows_set_aside_on_the_way_into_training_are_counted_and_kept() {
    let folder = Folder::new();
    let model = repository().join("tests/fixtures/llama-tied");
    folder.write(
        "rows.jsonl",
        "{\"prompt_ids\": [1], \"chosen_ids\": [2], \"rejected_ids\": [2]}\n\
         {\"prompt_ids\": [1], \"chosen_ids\": [2], \"rejected_ids\": [3]}\n",
    );
    let text = format!(
        "workdir: run\nmodels: {{ base: {{ path: {} }} }}\nstages:\n  rows: {{ read: {{ from: rows.jsonl }} }}\n  \
         tuned: {{ train: {{ input: rows, model: base, objective: {{ sft: {{}} }}, epochs: 2 }} }}\n",
        model.display()
    );
    let file = folder.write("p.yaml", &text);
    let report: Value = serde_json::from_str(&folder.succeeds(&["run", file.to_str().unwrap(), "--json"])).unwrap();
    let rows = &report["stages"]["rows"];
    assert_eq!((&rows["rows_in"], &rows["rows_out"]), (&2.into(), &1.into()), "{report}");
    let shown: Value = serde_json::from_str(&folder.succeeds(&["inspect", "run/rejects", "--json"])).unwrap();
    assert_eq!(shown["rows"], 1);
}

#[test]
fn columns_of_another_reference_are_refused() {
    let folder = Folder::new();
    let fixture = |name: &str| repository().join("tests/fixtures").join(name).display().to_string();
    folder.write("rows.jsonl", "{\"prompt_ids\": [1], \"chosen_ids\": [2, 3], \"rejected_ids\": [3]}\n");
    let models =
        format!("models: {{ a: {{ path: {} }}, b: {{ path: {} }} }}", fixture("llama-tied"), fixture("llama-untied"));
    let score = format!(
        "workdir: run\n{models}\nstages:\n  rows: {{ read: {{ from: rows.jsonl }} }}\n  \
         scored: {{ score: {{ input: rows, reference: a }} }}\n  out: {{ write: {{ input: scored, to: run/out }} }}\n"
    );
    folder.succeeds(&["run", folder.write("score.yaml", &score).to_str().unwrap()]);
    let train = |reference: &str| {
        let text = format!(
            "workdir: train\n{models}\nstages:\n  rows: {{ read: {{ from: run/out }} }}\n  \
             oracle: {{ train: {{ input: rows, model: a, reference: {reference}, objective: {{ dpo: {{}} }} }} }}\n"
        );
        folder.write("train.yaml", &text).to_str().unwrap().to_owned()
    };
    let stderr = folder.fails(&["run", &train("b")], 1);
    assert!(stderr.contains("stage `oracle`: the `ref_logps` columns were computed with another model"), "{stderr}");
    folder.succeeds(&["run", &train("a")]);
}

/// A copy of the quickstart's tokenizer in which two tokens have changed places.
fn other_tokenizer(folder: &Folder) -> String {
    let own = repository().join("data/quickstart/tokenizer/tokenizer.json");
    let mut tokenizer: Value = serde_json::from_slice(&std::fs::read(own).unwrap()).unwrap();
    let vocabulary = tokenizer["model"]["vocab"].as_object_mut().unwrap();
    let at = |id: u64, vocabulary: &serde_json::Map<String, Value>| {
        vocabulary.iter().find(|(_, value)| value.as_u64() == Some(id)).unwrap().0.clone()
    };
    let (one, two) = (at(700, vocabulary), at(701, vocabulary));
    vocabulary.insert(one, 701.into());
    vocabulary.insert(two, 700.into());
    std::fs::create_dir(folder.path("other")).unwrap();
    folder.write("other/tokenizer.json", &tokenizer.to_string());
    folder.path("other").display().to_string()
}

#[test]
fn models_must_read_the_ids_as_they_were_made() {
    let folder = Folder::new();
    let text = std::fs::read_to_string(small(&folder)).unwrap();
    let other = other_tokenizer(&folder);
    let broken = text.replace("tokenizer: base,", &format!("tokenizer: {other}, template: none,"));
    let stderr = folder.fails(&["check", folder.write("p.yaml", &broken).to_str().unwrap()], 78);
    assert!(stderr.contains("the vocabularies part at id 700"), "{stderr}");

    let broken = text.replace("vocab_size: 1280", "vocab_size: 1000");
    let stderr = folder.fails(&["check", folder.write("p.yaml", &broken).to_str().unwrap()], 78);
    assert!(stderr.contains("tokens have no embedding in the model, whose vocab_size is 1000"), "{stderr}");

    // Ids in a dataset carry the digest of the tokenizer that made them.
    folder.succeeds(&["run", folder.write("p.yaml", &text).to_str().unwrap(), "--only", "out"]);
    let reading = |tokenizer: &str| {
        let lines = text.lines().take_while(|line| *line != "stages:").map(|line| match line {
            line if line.contains("tokenizer:") => format!("    tokenizer: {tokenizer}"),
            line => line.to_owned(),
        });
        let models: Vec<String> = lines.collect();
        let stages = "stages:\n  rows: { read: { from: run/scored } }\n  \
                      tuned: { train: { input: rows, model: base, objective: { sft: {} } } }\n";
        folder.write("q.yaml", &format!("{}\n{stages}", models.join("\n"))).to_str().unwrap().to_owned()
    };
    let stderr = folder.fails(&["check", &reading(&other)], 78);
    assert!(stderr.contains("the rows were tokenized with another tokenizer than that of `base`"), "{stderr}");
    folder.succeeds(&["check", &reading(&repository().join("data/quickstart/tokenizer").display().to_string())]);
}

#[test]
fn broken_inputs_are_errors_with_names() {
    let folder = Folder::new();
    let pipeline = |from: &str| {
        let text = format!("workdir: run\nstages:\n  rows: {{ read: {{ from: {from} }} }}\n");
        folder.write("p.yaml", &text).to_str().unwrap().to_owned()
    };
    let stderr = folder.fails(&["run", &pipeline("nothing.parquet")], 78);
    assert!(stderr.contains("p.yaml:3:19: nothing.parquet: no such file or folder"), "{stderr}");
    let whole = std::fs::read(repository().join("data/quickstart/test.parquet")).unwrap();
    std::fs::write(folder.path("cut.parquet"), &whole[..whole.len() / 2]).unwrap();
    let stderr = folder.fails(&["run", &pipeline("cut.parquet")], 78);
    assert!(stderr.contains("cut.parquet: not a whole Parquet file"), "{stderr}");
    folder.write("bad.jsonl", "{\"chosen\": \"a\", \"rejected\": \"b\"}\nnot json\n");
    let stderr = folder.fails(&["run", &pipeline("bad.jsonl")], 78);
    assert!(stderr.contains("bad.jsonl, row 2: not JSON"), "{stderr}");
    folder.write("types.jsonl", "{\"prompt\": \"q\", \"chosen\": 1, \"rejected\": 2}\n");
    let stderr = folder.fails(&["run", &pipeline("types.jsonl")], 78);
    assert!(stderr.contains("column `chosen` is Int64"), "{stderr}");
}

#[test]
fn shipped_pipelines_have_no_problems_and_schema_is_json() {
    let folder = Folder::new();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_sepo"))
        .current_dir(repository())
        .args(["check", "pipelines/quickstart.yaml"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let schema: Value = serde_json::from_str(&folder.succeeds(&["schema"])).unwrap();
    assert!(schema["$defs"]["File"]["properties"]["stages"].is_object());
}

#[test]
fn an_id_with_a_dot_is_refused_where_it_stands() {
    let folder = Folder::new();
    let text = std::fs::read_to_string(small(&folder)).unwrap();
    // The planner's scoring pass for the oracle has this name.
    let dotted =
        text.replace("  policy: {", "  oracle.reference: {").replace("policy: policy", "policy: oracle.reference");
    let line = dotted.lines().position(|line| line.starts_with("  oracle.reference")).unwrap() + 1;
    let stderr = folder.fails(&["check", folder.write("dotted.yaml", &dotted).to_str().unwrap()], 78);
    let expected = format!(
        "dotted.yaml:{line}:3: `oracle.reference` is not a valid stage id: ids name files and may contain only letters, digits, `_` and `-`"
    );
    assert!(stderr.contains(&expected), "{expected}\n---\n{stderr}");
}

#[test]
fn how_a_training_goes_changes_nothing_that_was_done() {
    let folder = Folder::new();
    let file = small(&folder);
    folder.succeeds(&["run", file.to_str().unwrap(), "--only", "policy"]);
    let text = std::fs::read_to_string(&file).unwrap();
    let also = "gamma: 2.0 } }, memory: low, checkpoint: { every: 3 }, log_every: 1, overwrite: true,";
    let changed = text.replace("gamma: 2.0 } },", also);
    assert_ne!(text, changed);
    folder.write("small.yaml", &changed);
    let list = folder.succeeds(&["runs", "list", file.to_str().unwrap()]);
    assert!(list.contains("current") && !list.contains("stale"), "{list}");
    let model = || std::fs::metadata(folder.path("run/models/policy/model.safetensors")).unwrap().modified().unwrap();
    let before = model();
    folder.succeeds(&["run", file.to_str().unwrap(), "--only", "policy"]);
    assert_eq!(model(), before);
}
