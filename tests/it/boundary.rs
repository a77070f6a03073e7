//! Where prompts and answers meet in `tokenize`: what is counted, what an example shows, what is refused.

use sepo::text::Tokenizer;
use serde_json::{Value, json};

use crate::formats::rows_of;
use crate::harness::{Folder, repository};

const TURNS: &str = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}\
                     {% if add_generation_prompt %}<|assistant|>{% endif %}";
const NO_END: &str = "{{ bos_token }}{{ bos_token }}{% for m in messages %}{{ m.content }}\n{% endfor %}";

/// A folder with rows, a tokenizer, and a pipeline that tokenizes them under `options`.
fn folder(template: &str, options: &str, rows: &[[&str; 3]]) -> Folder {
    let folder = Folder::new();
    std::fs::create_dir(folder.path("tokenizer")).unwrap();
    let tokenizer = repository().join("data/quickstart/tokenizer/tokenizer.json");
    std::fs::copy(tokenizer, folder.path("tokenizer/tokenizer.json")).unwrap();
    let config = json!({"bos_token": "<|system|>", "eos_token": "<|end|>", "chat_template": template});
    folder.write("tokenizer/tokenizer_config.json", &config.to_string());
    let row = |[prompt, chosen, rejected]: &[&str; 3]| {
        json!({"prompt": prompt, "chosen": chosen, "rejected": rejected}).to_string() + "\n"
    };
    folder.write("rows.jsonl", &rows.iter().map(row).collect::<String>());
    folder.write("p.yaml", &pipeline(options));
    folder
}

fn pipeline(options: &str) -> String {
    format!(
        "workdir: run\nstages:\n  rows: {{ read: {{ from: rows.jsonl }} }}\n  \
         tokens: {{ tokenize: {{ input: rows, tokenizer: tokenizer{options} }} }}\n  \
         out: {{ write: {{ input: tokens, to: run/out }} }}\n"
    )
}

fn metrics(folder: &Folder) -> Value {
    let report: Value = serde_json::from_str(&folder.succeeds(&["run", "p.yaml", "--json"])).unwrap();
    report["stages"]["tokens"]["metrics"].clone()
}

#[test]
fn a_template_that_closes_its_turns_has_no_faults() {
    let found = metrics(&folder(TURNS, "", &[["What is two plus two?", "Four.", "Five."]]));
    for name in ["boundary_merged", "missing_eos", "double_bos", "truncated", "chosen_truncated", "rejected_truncated"]
    {
        assert_eq!(found[name], 0, "{found}");
        assert!(found.get(format!("{name}_example")).is_none(), "{found}");
    }
}

#[test]
fn faults_are_counted_with_an_example() {
    // The first prompt and its chosen answer make one word.
    let rows = [["What is tw", "o times", "x"], ["What is two?\n\n", "Four.", "Five."]];
    let found = metrics(&folder(NO_END, ", template: none", &rows));
    assert_eq!((&found["boundary_merged"], &found["missing_eos"]), (&1.into(), &0.into()), "{found}");
    let example = found["boundary_merged_example"].as_str().unwrap();
    assert!(example.starts_with("row rows.jsonl:1, chosen: prompt alone ends "), "{example}");
    assert!(example.contains(", with the answer \" two\" \" times\" \"<|end|>\""), "{example}");

    let found = metrics(&folder(
        NO_END,
        ", max_length: 14",
        &[["What is two plus two?", "Four.", "Five, or six, or seven, or eight."]],
    ));
    assert_eq!((&found["missing_eos"], &found["double_bos"]), (&1.into(), &1.into()), "{found}");
    assert_eq!(found["double_bos_example"].as_str().unwrap().matches("<|system|>").count(), 2, "{found}");
    assert_eq!((&found["chosen_truncated"], &found["rejected_truncated"]), (&0.into(), &1.into()), "{found}");
    assert!(found["truncated_example"].as_str().unwrap().starts_with("row rows.jsonl:1, rejected: "), "{found}");
}

#[test]
fn too_large_a_share_is_an_error_however_often_it_is_run() {
    let rows = [["What is two?", "Four.", "Five."], ["What is one?", "One.", "Five."]];
    let folder = folder(NO_END, ", boundary: { merged: 1, missing_eos: 0.5, double_bos: 0.25 }", &rows);
    for _ in 0..2 {
        let stderr = folder.fails(&["run", "p.yaml"], 1);
        for expected in [
            "stage `tokens`: ",
            "2 of 2 rows (100.00 %) have an answer that no special token ends, more than `boundary.missing_eos: 0.5` \
             allows; \
             for example row rows.jsonl:1, rejected: answer ends ",
            "2 of 2 rows (100.00 %) have a BOS token too many, more than `boundary.double_bos: 0.25` allows",
        ] {
            assert!(stderr.contains(expected), "{expected}\n---\n{stderr}");
        }
        assert!(!stderr.contains("boundary.merged"), "{stderr}");
    }
    folder.write("p.yaml", &pipeline(", boundary: { missing_eos: 1 }"));
    let first = metrics(&folder);
    assert_eq!(first["missing_eos"], 2);
    // What is there already is counted again, where a run goes on.
    let data = std::fs::read_dir(folder.path("run/data")).unwrap().map(|entry| entry.unwrap().path());
    data.for_each(|data| drop(std::fs::remove_file(data.join("manifest.json"))));
    assert_eq!(metrics(&folder), first);
    folder.write("p.yaml", &pipeline(", boundary: { missing_eos: 2 }"));
    let stderr = folder.fails(&["check", "p.yaml"], 78);
    assert!(stderr.contains("missing_eos is 2; it must be in [0, 1]"), "{stderr}");
}

#[test]
fn rows_that_the_template_refuses_are_set_aside() {
    let refuses =
        "{% for m in messages %}{% if 'five' in m.content %}{{ raise_exception('no fives') }}{% endif %}{% endfor %}";
    let rows = [["What is two plus two?", "Four.", "Six."], ["What is two plus five?", "Seven.", "Six."]];
    let folder = folder(&format!("{refuses}{TURNS}"), "", &rows);
    let report: Value = serde_json::from_str(&folder.succeeds(&["run", "p.yaml", "--json"])).unwrap();
    let tokens = &report["stages"]["tokens"];
    assert_eq!((&tokens["rows_in"], &tokens["rows_out"]), (&2.into(), &1.into()), "{report}");
    assert_eq!(tokens["set_aside"]["refused by the chat template"], 1, "{report}");
    let example = tokens["metrics"]["template_refused_example"].as_str().unwrap();
    assert!(
        example.starts_with("row rows.jsonl:2: ") && example.ends_with("chat template, line 1: no fives"),
        "{example}"
    );
}

/// A template that takes no row at all is at fault itself.
#[test]
fn a_template_that_refuses_every_row_is_an_error() {
    let adds = "{% for m in messages %}{{ m.content + m }}{% endfor %}";
    let folder = folder(adds, "", &[["What is two plus two?", "Four.", "Six."]]);
    let stderr = folder.fails(&["run", "p.yaml"], 1);
    let expected = "stage `tokens`: the chat template refuses every row; for example row rows.jsonl:1: ";
    assert!(stderr.contains(expected), "{stderr}");
}

/// One token, ` two`, lies across the end of the first prompt with its chosen answer, and none with the other.
#[test]
fn a_token_across_the_end_of_the_prompt_goes_by_the_rule() {
    let rows =
        [["What is tw", "o times", "x"], ["What is tw", "o plus", "o times"], ["What is two?", " Four.", " Five."]];
    let rows_by = |options: &str| {
        let folder = folder(NO_END, &format!(", template: none{options}"), &rows);
        let report: Value = serde_json::from_str(&folder.succeeds(&["run", "p.yaml", "--json"])).unwrap();
        let tokens = report["stages"]["tokens"].clone();
        let tokenizer = Tokenizer::load(&folder.path("tokenizer")).unwrap();
        let shown = |ids: &Value| {
            let ids = ids.as_array().unwrap().iter().map(|id| tokenizer.token_text(id.as_i64().unwrap() as i32));
            ids.collect::<Vec<_>>().join("|")
        };
        let shown = |row: &Value| ["prompt_ids", "chosen_ids", "rejected_ids"].map(|name| shown(&row[name]));
        (tokens, rows_of(&folder.path("run/out")).iter().map(shown).collect::<Vec<_>>())
    };
    let last = ["What| is| two|?", " F|our|.|<|end|>", " F|ive|.|<|end|>"];
    let across = |rows: &[[&str; 3]]| rows.iter().map(|row| row.map(str::to_owned)).collect::<Vec<_>>();
    let (tokens, found) = rows_by("");
    let first = ["What| is", " two| times|<|end|>", " tw|x|<|end|>"];
    assert_eq!(found, across(&[first, ["What| is", " two| pl|us|<|end|>", " two| times|<|end|>"], last]));
    assert_eq!((&tokens["metrics"]["boundary_merged"], &tokens["set_aside"]), (&2.into(), &json!({})), "{tokens}");
    // ` tw` stands behind the cut and is nobody's answer.
    let one = folder(NO_END, ", template: none", &rows[..1]);
    one.succeeds(&["run", "p.yaml"]);
    let row = &rows_of(&one.path("run/out"))[0];
    assert_eq!(row["chosen_assistant_mask"], json!([true, true, true]));
    assert_eq!(row["rejected_assistant_mask"], json!([false, true, true]));

    let (tokens, found) = rows_by(", boundary: merge_to_prompt");
    assert_eq!(found, across(&[["What| is| two", " pl|us|<|end|>", " times|<|end|>"], last]));
    let reason = "the end of the prompt has other tokens with each answer";
    assert_eq!(
        (&tokens["metrics"]["boundary_merged"], &tokens["set_aside"][reason]),
        (&1.into(), &1.into()),
        "{tokens}"
    );

    let (tokens, found) = rows_by(", boundary: { rule: set_aside, merged: 0.7 }");
    assert_eq!(found, across(&[last]));
    assert_eq!(tokens["set_aside"], json!({"a token spans the end of the prompt": 2}), "{tokens}");
    assert_eq!((&tokens["rows_in"], &tokens["rows_out"]), (&3.into(), &1.into()), "{tokens}");
    assert!(tokens["metrics"]["boundary_merged_example"].as_str().unwrap().starts_with("row rows.jsonl:1"), "{tokens}");
    let strict = folder(NO_END, ", template: none, boundary: { rule: set_aside, merged: 0.6 }", &rows);
    let stderr = strict.fails(&["run", "p.yaml"], 1);
    assert!(stderr.contains("2 of 3 rows (66.67 %) have a token that spans the end of the prompt"), "{stderr}");
    strict.write("p.yaml", &pipeline(", boundary: set_asid"));
    let stderr = strict.fails(&["check", "p.yaml"], 78);
    assert!(stderr.contains("did you mean `set_aside`?"), "{stderr}");
}

/// With `contrast` the prompt in other words is cut as the prompt itself is.
#[test]
fn reworded_prompts_meet_the_answers_in_the_same_tokens() {
    let rows = [["What is tw", "o times", "o plus"]];
    let contrast = "{ better: 'Be good. {prompt}', worse: 'Be bad. {prompt}' }";
    let folder = folder(NO_END, &format!(", template: none, contrast: {contrast}"), &rows);
    folder.succeeds(&["run", "p.yaml"]);
    let row = &rows_of(&folder.path("run/out"))[0];
    let tokenizer = Tokenizer::load(&folder.path("tokenizer")).unwrap();
    for (name, words) in [("better_prompt_ids", "Be good. What is"), ("worse_prompt_ids", "Be bad. What is")] {
        assert_eq!(row[name], json!(tokenizer.encode(words).unwrap()), "{name}: {row}");
    }
}
