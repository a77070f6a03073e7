//! Objectives, token rewards and selection rules, from the pipeline file to trained models.

use std::collections::BTreeMap;

use sepo::columns::lists::{Lists, floats, ids, masks};
use sepo::columns::{BETTER_PROMPT_IDS, PROMPT_IDS, Side, WORSE_PROMPT_IDS};
use sepo::io::{Dataset, Stores};
use serde_json::Value;

use crate::close::assert_close;
use crate::harness::{Folder, repository, small_model};

/// A pipeline file with `stages` behind the quickstart's first rows.
fn pipeline(folder: &Folder, tokenize: &str, stages: &str) -> String {
    let data = repository().join("data/quickstart/train.parquet");
    let text = format!(
        "workdir: run\n{}stages:\n  pairs: {{ read: {{ from: {}, limit: 16 }} }}\n  \
         tokens: {{ tokenize: {{ input: pairs, tokenizer: base{tokenize} }} }}\n{stages}",
        small_model(),
        data.display()
    );
    folder.write("p.yaml", &text).to_str().unwrap().to_owned()
}

/// Names and descriptions of the objectives, as `sepo schema` prints them.
fn described(folder: &Folder) -> BTreeMap<String, String> {
    let schema: Value = serde_json::from_str(&folder.succeeds(&["schema"])).unwrap();
    let variants = schema["$defs"]["Objective"]["properties"].as_object().unwrap();
    let words = |text: &Value| text.as_str().unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
    variants.iter().map(|(name, variant)| (name.clone(), words(&variant["description"]))).collect()
}

#[test]
fn the_docs_name_every_objective_and_when_to_use_it() {
    let docs = std::fs::read_to_string(repository().join("docs/objectives.md")).unwrap();
    for (name, when) in described(&Folder::new()) {
        let row = docs.lines().find(|line| line.starts_with(&format!("| `{name}` |")));
        assert!(row.is_some_and(|row| row.contains(&when)), "{name}: docs/objectives.md must say: {when}");
    }
}

#[test]
fn every_objective_trains_on_the_same_columns() {
    let folder = Folder::new();
    let objectives = described(&folder);
    let mut stages = "  oracle: { train: { input: tokens, model: base, objective: { sft: {} }, batch_size: 8, learning_rate: 0.01 } }
  scored: { score: { input: tokens, oracle: oracle, reference: base } }
  keyed: { select: { input: scored } }\n"
        .to_owned();
    for name in objectives.keys() {
        stages += &format!(
            "  by_{name}: {{ train: {{ input: keyed, model: base, reference: base, objective: {{ {name}: {{}} }}, batch_size: 8, \
             learning_rate: 0.001, log_every: 1, eval: {{ input: keyed, every: 9 }} }} }}\n"
        );
    }
    let file = pipeline(&folder, "", &stages);
    let report: Value = serde_json::from_str(&folder.succeeds(&["run", &file, "--json"])).unwrap();
    for name in objectives.keys() {
        let metrics = &report["stages"][format!("by_{name}")]["metrics"];
        assert_eq!(metrics["steps"], 2, "{name}: {metrics}");
        assert!(metrics["loss"].is_number() && metrics["eval_loss"].is_number(), "{name}: {metrics}");
        assert!(metrics["grad_norm"].as_f64() > Some(0.0), "{name}: {metrics}");
    }
}

#[test]
fn objectives_of_live_distributions_lower_their_loss() {
    let folder = Folder::new();
    // Where policy and reference are one model, every ratio is 1: the loss of the start, and the settings.
    let objectives = [
        ("tdpo1", "{}", 2f64.ln()),
        ("tdpo2", "{ beta: 0.5 }", 2f64.ln()),
        ("tbpo_a", "{}", 0.25),
        ("tbpo_a", "{ generator: lr, beta: 1.0 }", 2f64.ln()),
        ("tbpo_q", "{ width: 8 }", 0.25),
        ("tbpo_q", "{ width: 8, generator: { ba: { lambda: 0.5 } } }", -2.0),
    ];
    let mut stages = String::new();
    for (index, (name, settings, _)) in objectives.iter().enumerate() {
        let lora = if index == 0 { ", lora: { r: 4, alpha: 8, merge: true }" } else { "" };
        stages += &format!(
            "  by_{index}: {{ train: {{ input: tokens, model: base, reference: base, objective: {{ {name}: {settings} }}, \
             batch_size: 8, epochs: 6, learning_rate: 0.01, log_every: 1, eval: {{ input: tokens, every: 99 }}{lora} }} }}\n"
        );
    }
    let file = pipeline(&folder, "", &stages);
    let plan = folder.succeeds(&["plan", &file]);
    for (index, (name, ..)) in objectives.iter().enumerate() {
        let scored_before = plan.contains(&format!("by_{index}.reference"));
        assert_eq!(scored_before, *name == "tbpo_q", "only stored log-probabilities take a pass of their own: {plan}");
    }
    let report: Value = serde_json::from_str(&folder.succeeds(&["run", &file, "--json"])).unwrap();
    for (index, (name, settings, start)) in objectives.iter().enumerate() {
        let log = std::fs::read_to_string(folder.path(&format!("run/logs/by_{index}/metrics.jsonl"))).unwrap();
        let first: Value = serde_json::from_str(log.lines().next().unwrap()).unwrap();
        let (first, metrics) = (first["loss"].as_f64().unwrap(), &report["stages"][format!("by_{index}")]["metrics"]);
        assert_close(&format!("{name} {settings}, first loss"), &[first], &[*start], 1e-4);
        let last = metrics["eval_loss"].as_f64().unwrap();
        assert!(last < start - 0.005, "{name} {settings}: {last} after {start}");
        assert_eq!(metrics["steps"], 12);
    }
}

#[test]
fn a_live_reference_is_named_and_has_the_policys_vocabulary() {
    let folder = Folder::new();
    let train = |objective: &str, more: &str| {
        format!("  policy: {{ train: {{ input: tokens, model: base{more}, objective: {{ {objective}: {{}} }} }} }}\n")
    };
    for name in ["tdpo1", "tdpo2", "tbpo_a"] {
        let stderr = folder.fails(&["check", &pipeline(&folder, "", &train(name, ""))], 78);
        let expected = format!("`{name}` compares whole distributions: it needs a reference at work beside the policy");
        assert!(stderr.contains(&expected) && stderr.contains("help: set `reference: base`"), "{stderr}");
        folder.succeeds(&["check", &pipeline(&folder, "", &train(name, ", reference: base"))]);
    }
    folder.succeeds(&["check", &pipeline(&folder, "", &train("tbpo_q", ""))]);

    let models = small_model();
    let (_, base) = models.split_once("  base:\n").unwrap();
    let other = format!("  other:\n{}", base.replace("1280", "1290"));
    let file = pipeline(&folder, "", &train("tdpo1", ", reference: other"));
    let text = std::fs::read_to_string(&file).unwrap().replace("stages:", &format!("{other}stages:"));
    std::fs::write(&file, text).unwrap();
    let stderr = folder.fails(&["check", &file], 78);
    assert!(stderr.contains("`other` has 1290 entries in its vocabulary, `base` has 1280"), "{stderr}");
}

#[test]
fn a_processor_trains_in_f32_alone() {
    let folder = Folder::new();
    let said = |precision: &str| {
        let stages = format!(
            "  p: {{ train: {{ input: tokens, model: base, objective: {{ dpo: {{}} }}, precision: {precision} }} }}\n"
        );
        folder.fails(&["check", &pipeline(&folder, "", &stages)], 78)
    };
    for precision in ["bf16", "tf32"] {
        let expected = format!(
            "the device `cpu` trains in f32, not in `{precision}`\n  help: leave it out, or name another `device`"
        );
        assert!(said(precision).contains(&expected), "{}", said(precision));
    }
    assert!(said("bf16x2").contains("`bf16x2` is for frozen models"), "{}", said("bf16x2"));
}

#[test]
fn missing_columns_and_settings_without_sense_are_found_by_check() {
    let folder = Folder::new();
    let stages = "  one: { train: { input: tokens, model: base, objective: { tgdpo: { beta: 0.0 } } } }
  scored: { score: { input: tokens, reference: base, contrast: true } }
  two: { select: { input: tokens, chosen: { above: 0.5 }, rule: reward_share } }
  three: { select: { input: tokens, rule: confidence } }
  four: { score: { input: tokens, oracle: base, reference: base } }
  five: { train: { input: four, model: base, objective: { t_reg: {} }, eval: { input: tokens, every: 1 } } }
  six: { train: { input: four, model: base, objective: { t_reg: { base: { simpo: { beta: 0 } } } } } }\n";
    let file = pipeline(&folder, ", contrast: { worse: \"{prompt}\", better: x }", stages);
    let stderr = folder.fails(&["check", &file], 78);
    assert!(stderr.contains("the wording has no place for the prompt: write `{prompt}` there"), "{stderr}");

    let file = pipeline(&folder, "", stages);
    let stderr = folder.fails(&["check", &file], 78);
    let rewards =
        "no column `chosen_token_rewards`\n  help: put a `score` stage with an oracle or a contrast before it";
    for expected in [
        rewards,
        "no column `rejected_token_rewards`",
        "beta is 0; it must be above 0",
        "no column `better_prompt_ids`\n  help: give the `tokenize` stage before it `contrast: {}`",
        "this rule needs a share: `top`, `bottom` or `largest`",
        "no column `chosen_ref_logps`",
    ] {
        assert!(stderr.contains(expected), "{expected}\n---\n{stderr}");
    }
    // `one`, `two`, and the held-out rows of `five`.
    assert_eq!(stderr.matches(rewards).count(), 3, "{stderr}");

    let both = "  scored: { score: { input: tokens, oracle: base, reference: base, contrast: true } }\n";
    let stderr = folder.fails(&["check", &pipeline(&folder, ", contrast: {}", both)], 78);
    assert!(stderr.contains("from an oracle or from a contrast, not from both"), "{stderr}");
}

#[test]
fn two_prompts_make_rewards_that_select_and_train_take() {
    let folder = Folder::new();
    let stages = "  scored: { score: { input: tokens, reference: base, contrast: true } }
  keyed:
    select:
      input: scored
      also:
        most: { chosen: { top: 0.8 }, rejected: { bottom: 0.8 }, rule: reward_share }
        batch: { rule: batch_share }
        above: { chosen: { above: 0.0 }, rejected: { below: 0.0 } }
        unsure: { rule: confidence }
  out: { write: { input: keyed, to: run/out } }
  policy: { train: { input: keyed, model: base, objective: { t_reg: { alpha: 0.5 } }, batch_size: 8 } }
  sparse: { train: { input: keyed, model: base, mask: unsure, objective: { sepo: {} }, batch_size: 8 } }\n";
    let file = pipeline(&folder, ", contrast: {}", stages);
    let plan = folder.succeeds(&["plan", &file]);
    assert!(!plan.contains("policy.reference"), "the reference's log-probabilities are there: {plan}");
    let report: Value = serde_json::from_str(&folder.succeeds(&["run", &file, "--json"])).unwrap();
    assert!(report["stages"]["scored"]["metrics"]["contrast_pair_accuracy"].is_number(), "{report}");
    for stage in ["policy", "sparse"] {
        assert_eq!(report["stages"][stage]["metrics"]["steps"], 2, "{report}");
    }

    let shown: Value = serde_json::from_str(&folder.succeeds(&["inspect", "run/out", "--json"])).unwrap();
    let provenance = &shown["provenance"];
    assert!(provenance["rewards"]["contrast"]["better"].as_str().unwrap().contains("helpful"), "{provenance}");
    assert_eq!(provenance["rewards"]["model"], provenance["reference"]);
    assert_eq!(provenance["masks"]["most"]["rule"], "reward_share");

    let dataset = Dataset::open(&[folder.path("run/out").to_str().unwrap().to_owned()], &Stores::default()).unwrap();
    for unit in dataset.units() {
        for chunk in dataset.read(&unit, 100).unwrap() {
            let batch = chunk.unwrap().batch;
            let [prompt, better, worse] =
                [PROMPT_IDS, BETTER_PROMPT_IDS, WORSE_PROMPT_IDS].map(|name| ids(&batch, name).unwrap());
            for row in 0..batch.num_rows() {
                assert!(better.row(row).len() > prompt.row(row).len() && better.row(row) != worse.row(row));
            }
            for side in Side::BOTH {
                let of = |name: String| floats(&batch, &name).unwrap();
                let values = |list: Lists<'_, f32>| list.rows().flatten().copied().map(f64::from).collect::<Vec<_>>();
                let rewards = values(of(side.token_rewards()));
                let (better, worse) = (values(of(side.better_logps())), values(of(side.worse_logps())));
                assert_eq!(better.len(), worse.len());
                let want = better.iter().zip(worse).map(|(better, worse)| 1.0 / (1.0 + (worse - better).exp()) - 0.5);
                assert_close("rewards", &rewards, &want.collect::<Vec<_>>(), 1e-6);
                assert!(rewards.iter().any(|reward| reward.abs() > 1e-6));
                for rule in [None, Some("most"), Some("batch"), Some("above"), Some("unsure")] {
                    let masks = masks(&batch, &side.key_mask(rule)).unwrap();
                    assert!(masks.iter().all(|mask| mask.contains(&true)), "{rule:?}");
                }
            }
        }
    }
}

#[test]
fn short_memory_trains_the_same_model_and_says_what_it_cost() {
    let folder = Folder::new();
    let train = |memory: &str| {
        format!(
            "train: {{ input: tokens, model: base, objective: {{ simpo: {{}} }}, batch_size: 8, learning_rate: 0.01, \
             memory: {memory} }}"
        )
    };
    let stages = format!("  normal: {{ {} }}\n  low: {{ {} }}\n", train("normal"), train("low"));
    let file = pipeline(&folder, "", &stages);
    let report: Value = serde_json::from_str(&folder.succeeds(&["run", &file, "--json"])).unwrap();
    let weights = |id: &str| std::fs::read(folder.path(&format!("run/models/{id}/model.safetensors"))).unwrap();
    assert!(weights("normal") == weights("low"));
    let metric = |id: &str, name: &str| report["stages"][id]["metrics"][name].as_f64().unwrap();
    assert_eq!(metric("normal", "tokens"), metric("low", "tokens"));
    let ratio = metric("low", "gflop") / metric("normal", "gflop");
    assert_close("operations", &[ratio], &[4.0 / 3.0], 1e-9);
    let plan = folder.succeeds(&["plan", &file]);
    assert_eq!(plan.matches(" TFLOP: ").count(), 2, "{plan}");
}
