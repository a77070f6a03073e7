//! What a run says in numbers: metrics do not depend on how pairs are packed, and summaries say what was done and when.

use serde_json::Value;

use crate::harness::{Folder, repository, small_model};

fn fixture(name: &str) -> String {
    repository().join("tests/fixtures").join(name).display().to_string()
}

/// A pair whose masks have a key token, and one whose answers are too short for the authors' rule: 30 % of the tokens behind
/// the first one, rounded down, are none.
const PAIRS: &str = "\
{\"prompt_ids\": [1, 2], \"chosen_ids\": [3, 4, 5, 6, 7, 8], \"rejected_ids\": [9, 8, 7, 6, 5, 4]}
{\"prompt_ids\": [4], \"chosen_ids\": [5, 6], \"rejected_ids\": [6, 7]}
";

#[test]
fn a_pair_without_key_tokens_counts_as_the_formula_says_however_pairs_are_packed() {
    let folder = Folder::new();
    folder.write("rows.jsonl", PAIRS);
    let metrics = |batch_tokens: usize| -> Value {
        let text = format!(
            "workdir: run{batch_tokens}\n\
             models: {{ a: {{ path: \"{}\" }}, b: {{ path: \"{}\" }} }}\n\
             stages:\n  rows: {{ read: {{ from: rows.jsonl }} }}\n  \
             scored: {{ score: {{ input: rows, oracle: a, reference: b }} }}\n  \
             keyed: {{ select: {{ input: scored, rule: official }} }}\n  \
             policy:\n    train:\n      {{ input: keyed, model: b, objective: {{ sepo: {{}} }}, batch_size: 2, max_steps: 1, \
             batch_tokens: {batch_tokens}, eval: {{ input: keyed, every: 1 }}, learning_rate: 1.0e-6 }}\n",
            fixture("llama-untied"),
            fixture("llama-tied")
        );
        let file = folder.write("p.yaml", &text);
        let report: Value = serde_json::from_str(&folder.succeeds(&["run", file.to_str().unwrap(), "--json"])).unwrap();
        report["stages"]["policy"]["metrics"].clone()
    };
    let (apart, together) = (metrics(1), metrics(1000));
    for name in ["loss", "rewards/chosen", "rewards/margins", "rewards/accuracies", "eval_loss", "eval_rewards/chosen"]
    {
        let [apart, together] = [&apart, &together].map(|metrics| metrics[name].as_f64().unwrap());
        assert!((apart - together).abs() < 1e-5, "{name}: {apart} is not {together}");
    }
    // The mean over two pairs, of which the empty one has a margin of 0: a loss of log 2, and half of the other's margin.
    let (loss, margin) = (apart["loss"].as_f64().unwrap(), 2.0 * apart["rewards/margins"].as_f64().unwrap());
    let of_margin = |margin: f64| (-margin).exp().ln_1p();
    assert!((loss - (of_margin(margin) + 2f64.ln()) / 2.0).abs() < 1e-5, "{loss} {margin}");
}

#[test]
fn stages_that_were_reused_say_so_with_the_seconds_of_this_run() {
    let folder = Folder::new();
    let data = repository().join("data/quickstart");
    let text = format!(
        "workdir: run\n{}stages:\n  pairs: {{ read: {{ from: {}/train.parquet, limit: 48 }} }}\n  \
         tokens: {{ tokenize: {{ input: pairs, tokenizer: base }} }}\n  \
         ref: {{ train: {{ input: tokens, model: base, objective: {{ sft: {{}} }}, learning_rate: 0.01 }} }}\n  \
         report: {{ evaluate: {{ input: tokens, start: ref, models: {{ ref: ref }} }} }}\n  \
         out: {{ write: {{ input: tokens, to: out }} }}\n",
        small_model(),
        data.display()
    );
    let file = folder.write("p.yaml", &text);
    let file = file.to_str().unwrap();
    let first = folder.succeeds(&["run", file]);
    assert!(!first.contains("reused"), "{first}");
    let second = folder.succeeds(&["run", file]);
    for stage in ["pairs", "tokens", "ref", "report", "out"] {
        let line = second.lines().find(|line| line.starts_with(stage)).unwrap();
        assert!(line.ends_with("  reused"), "{second}");
    }
    let report: Value = serde_json::from_str(&folder.succeeds(&["run", file, "--json"])).unwrap();
    let stage = &report["stages"]["ref"];
    let (seconds, reused) = (stage["seconds"].as_f64().unwrap(), stage["reused"].as_f64().unwrap());
    // What the training took is remembered; what this run took is the look at its files.
    assert!(seconds > 0.0 && reused > 0.0 && reused != seconds, "{stage}");
    // A stage that is new runs, on what was reused.
    folder.write("p.yaml", &text.replace("models: { ref: ref }", "models: { again: ref }"));
    let third = folder.succeeds(&["run", file]);
    let line = |stage: &str| third.lines().find(|line| line.starts_with(stage)).unwrap().to_owned();
    assert!(!line("report").contains("reused") && line("ref ").contains("reused"), "{third}");
    let count = line("  pairs");
    assert!(count.ends_with(" 48"), "{third}");
}
