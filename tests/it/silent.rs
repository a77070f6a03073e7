//! What would be wrong without a word: an oracle that never trained, rows longer than a model, columns that would be replaced,
//! settings that do nothing.

use serde_json::{Value, json};

use crate::harness::{Folder, repository};

fn fixture(name: &str) -> String {
    repository().join("tests/fixtures").join(name).display().to_string()
}

/// Rows of token ids with answers of `lengths`.
fn rows(lengths: &[usize]) -> String {
    let row = |(row, length): (usize, &usize)| {
        let ids = |salt: usize| (0..*length).map(|at| (7 * row + salt * at) % 90).collect::<Vec<_>>();
        json!({ "prompt_ids": [5, 9, row], "chosen_ids": ids(3), "rejected_ids": ids(11) }).to_string() + "\n"
    };
    lengths.iter().enumerate().map(row).collect()
}

/// A pipeline over `rows.jsonl` with the models `a` and `b`, which have 128 positions, and `more` stages.
fn pipeline(folder: &Folder, more: &str) -> String {
    let text = format!(
        "workdir: run\nmodels: {{ a: {{ path: {} }}, b: {{ path: {} }} }}\nstages:\n  \
         rows: {{ read: {{ from: rows.jsonl }} }}\n{more}",
        fixture("llama-tied"),
        fixture("llama-untied")
    );
    folder.write("p.yaml", &text).to_str().unwrap().to_owned()
}

fn report(folder: &Folder, file: &str) -> Value {
    serde_json::from_str(&folder.succeeds(&["run", file, "--json"])).unwrap()
}

#[test]
fn an_oracle_of_one_step_is_trained() {
    let folder = Folder::new();
    folder.write("rows.jsonl", &rows(&[6; 32]));
    let file = pipeline(
        &folder,
        "  oracle: { train: { input: rows, model: a, objective: { dpo: {} } } }\n  \
         scored: { score: { input: rows, oracle: oracle, reference: a } }\n",
    );
    let plan = folder.succeeds(&["plan", &file]);
    let steps = "about 1 step, 1 of warm-up; learning rate 5.00e-7 at first, 5.00e-7 at most, 5.00e-7 at last";
    assert!(plan.contains(steps), "{plan}");
    let report = report(&folder, &file);
    let oracle = &report["stages"]["oracle"];
    assert_eq!((&oracle["rows_in"], &oracle["rows_out"]), (&32.into(), &32.into()), "{oracle}");
    assert_eq!((&oracle["metrics"]["steps"], &oracle["metrics"]["learning_rate"]), (&1.into(), &json!(5e-7)));
    let scored = &report["stages"]["scored"]["metrics"];
    assert!(scored["zero_rewards"].as_f64() < Some(0.5 * 12.0 * 32.0), "{scored}");
}

#[test]
fn an_oracle_that_is_its_reference_is_refused() {
    let folder = Folder::new();
    folder.write("rows.jsonl", &rows(&[6; 4]));
    let score = |oracle: &str| format!("  scored: {{ score: {{ input: rows, oracle: {oracle}, reference: a }} }}\n");
    let said = folder.fails(&["check", &pipeline(&folder, &score("a"))], 78);
    assert!(said.contains("p.yaml:5:") && said.contains("oracle `a` and reference `a` are the same model"), "{said}");

    // Another name for the same folder, and a copy of it.
    std::os::unix::fs::symlink(fixture("llama-tied"), folder.path("link")).unwrap();
    std::fs::create_dir(folder.path("copy")).unwrap();
    for file in std::fs::read_dir(fixture("llama-tied")).unwrap().map(|file| file.unwrap().path()) {
        std::fs::copy(&file, folder.path("copy").join(file.file_name().unwrap())).unwrap();
    }
    let named = |model: &str| {
        let text = std::fs::read_to_string(pipeline(&folder, &score("twin"))).unwrap();
        let text = text.replace("models: {", &format!("models: {{ twin: {{ path: {model} }},"));
        folder.write("p.yaml", &text).to_str().unwrap().to_owned()
    };
    let said = folder.fails(&["check", &named("link")], 78);
    assert!(said.contains("oracle `twin` and reference `a` are the same model"), "{said}");
    let said = folder.fails(&["run", &named("copy")], 1);
    assert!(said.contains("stage `scored`: copy: is the same model as the reference `a`"), "{said}");

    let judged = "  said: { generate: { input: rows, model: a, max_tokens: 2 } }\n  report:\n    evaluate: { answers: { a: said }, \
                  judge: { reward: { oracle: b, reference: b } } }\n";
    let said = folder.fails(&["check", &pipeline(&folder, judged)], 78);
    assert!(said.contains("oracle `b` and reference `b` are the same model"), "{said}");
}

#[test]
fn an_adapter_that_changed_nothing_gives_rewards_that_are_all_0_and_no_rows() {
    let folder = Folder::new();
    folder.write("rows.jsonl", &rows(&[6; 4]));
    // The smallest learning rate that a 32-bit number can hold, on factors that begin at 0: what they add is lost in rounding.
    let file = pipeline(
        &folder,
        "  oracle: { train: { input: rows, model: a, objective: { dpo: {} }, lora: { r: 2 }, learning_rate: 1.0e-38 } }\n  \
         scored: { score: { input: rows, oracle: oracle, reference: a } }\n  out: { write: { input: scored, to: out } }\n",
    );
    let said = folder.fails(&["run", &file], 1);
    assert!(said.contains("all 48 token rewards are 0: `oracle` says of every token what `a` says"), "{said}");
    assert!(!folder.path("out").exists());
}

#[test]
fn rewards_that_are_mostly_0_and_masks_that_ties_decided_are_warned_of() {
    let folder = Folder::new();
    let row = |rewards: &str, row: usize| {
        format!(
            "{{\"row_id\": {row}, \"prompt_ids\": [1], \"chosen_ids\": [1, 2, 3, 4], \"rejected_ids\": [5, 6, 7, 8], \
             \"chosen_token_rewards\": {rewards}, \"rejected_token_rewards\": {rewards}}}\n"
        )
    };
    let some = row("[0.0, 0.0, 0.0, 0.0]", 0) + &row("[0.5, 0.5, 0.5, 0.5]", 1) + &row("[0.1, 0.2, 0.3, 0.4]", 2);
    folder.write("rows.jsonl", &some);
    let stages = "  keyed: { select: { input: rows, also: { much: { chosen: { above: 3.0 }, rejected: { below: -3.0 } } } } }\n  \
                  out: { write: { input: keyed, to: out } }\n";
    let file = pipeline(&folder, stages);
    let output = folder.sepo(&["run", &file]);
    let said = String::from_utf8_lossy(&output.stderr);
    let shown = String::from_utf8_lossy(&output.stdout);
    let warnings = [
        "`chosen_key_mask` and `rejected_key_mask`: in 4 of 6 responses all values are equal",
        "`chosen_key_mask_much` and `rejected_key_mask_much`: in 6 of 6 responses the rule selects no token",
    ];
    for warning in warnings {
        assert!(
            said.contains(warning) && shown.contains(&format!("warning: stage `keyed`: {warning}")),
            "{said}{shown}"
        );
    }
    // They are remembered with the result.
    let report = report(&folder, &file);
    let keyed = &report["stages"]["keyed"];
    assert_eq!(keyed["warnings"].as_array().map(Vec::len), Some(2), "{keyed}");
    assert_eq!(keyed["metrics"]["responses_decided_by_ties"], 4);
    assert_eq!(keyed["metrics"]["responses_without_selection/much"], 6);
}

#[test]
fn rows_longer_than_a_models_positions_are_set_aside_by_every_stage() {
    let folder = Folder::new();
    // 3 tokens of prompt, 128 positions.
    folder.write("rows.jsonl", &rows(&[125, 126, 20, 40_000, 20]));
    let file = pipeline(
        &folder,
        "  scored: { score: { input: rows, oracle: b, reference: a } }\n  \
         out: { write: { input: scored, to: out } }\n  \
         tuned: { train: { input: rows, model: a, objective: { sft: {} }, eval: { input: rows, every: 9 } } }\n  \
         said: { generate: { input: rows, model: b, max_tokens: 3 } }\n  \
         report: { evaluate: { input: rows, start: a, models: { b: b } } }\n  \
         answered: { evaluate: { answers: { rows: said }, judge: { reward: { oracle: b, reference: a } } } }\n",
    );
    let report = report(&folder, &file);
    for stage in ["scored", "tuned", "tuned.eval", "report"] {
        let stage = &report["stages"][stage];
        assert_eq!((&stage["rows_in"], &stage["rows_out"]), (&5.into(), &3.into()), "{stage}");
        assert_eq!(stage["set_aside"], json!({ "longer than the model's positions": 2 }), "{stage}");
    }
    assert_eq!(report["stages"]["report"]["metrics"]["b"]["pairs"], 3.0);
    assert_eq!(report["stages"]["out"]["rows_in"], 3);
    assert_eq!(report["stages"]["answered"]["rows_out"], 5);
    let shown = |path: &str| -> Value { serde_json::from_str(&folder.succeeds(&["inspect", path, "--json"])).unwrap() };
    assert_eq!(shown("run/rejects")["rows"], 4 * 2);

    // An answer and its prompt fit, or the prompt is set aside.
    let long: Vec<usize> = (0..127).map(|id| id % 90).collect();
    let row =
        |prompt: &[usize]| json!({ "prompt_ids": prompt, "chosen_ids": [1], "rejected_ids": [2] }).to_string() + "\n";
    folder.write("rows.jsonl", &(row(&long[..126]) + &row(&long[..125])));
    let said = report_of_answers(&folder);
    assert_eq!(said["set_aside"], json!({ "prompt and max_tokens longer than the model's positions": 1 }), "{said}");
    assert_eq!(said["metrics"]["answers"], 1);
}

fn report_of_answers(folder: &Folder) -> Value {
    let file = pipeline(folder, "  said: { generate: { input: rows, model: b, max_tokens: 3 } }\n");
    report(folder, &file)["stages"]["said"].clone()
}

#[test]
fn max_length_fits_every_model_that_reads_the_rows() {
    let folder = Folder::new();
    let tokenizer = repository().join("data/quickstart/tokenizer");
    folder.write(
        "rows.jsonl",
        "{\"prompt\": \"What is two plus two?\", \"chosen\": \"Four.\", \"rejected\": \"Five.\"}\n",
    );
    let model = |positions: usize, more: &str| {
        format!(
            "{{ tokenizer: {}, init: {{ model_type: llama, vocab_size: 1280, hidden_size: 16, intermediate_size: 32, \
             num_hidden_layers: 1, num_attention_heads: 2, max_position_embeddings: {positions}{more} }} }}",
            tokenizer.display()
        )
    };
    let file = |max_length: &str, more: &str| {
        let text = format!(
            "workdir: run\nmodels:\n  large: {}\n  small: {}\nstages:\n  rows: {{ read: {{ from: rows.jsonl }} }}\n  \
             tokens: {{ tokenize: {{ input: rows, tokenizer: large{max_length} }} }}\n  \
             scored: {{ score: {{ input: tokens, oracle: small, reference: large }} }}\n",
            model(512, ""),
            model(64, more)
        );
        folder.write("p.yaml", &text).to_str().unwrap().to_owned()
    };
    let said = folder.fails(&["check", &file(", max_length: 65", "")], 78);
    let expected =
        "max_length is 65: `small`, which stage `scored` uses, has 64 positions\n  help: set it to 64 or less";
    assert!(said.contains("p.yaml:7:56: ") && said.contains(expected), "{said}");
    folder.succeeds(&["check", &file(", max_length: 64", "")]);
    let scaled = ", rope_scaling: { rope_type: linear, factor: 2.0 }";
    folder.succeeds(&["check", &file(", max_length: 128", scaled)]);
    assert!(folder.fails(&["check", &file(", max_length: 129", scaled)], 78).contains("has 128 positions"));
    // A length that nobody named is one that fits.
    let plan = folder.succeeds(&["plan", &file("", "")]);
    assert!(plan.contains("prompt and answer of 64 tokens or fewer"), "{plan}");
}

#[test]
fn columns_that_bear_names_of_ours_and_hold_something_else_are_named() {
    let folder = Folder::new();
    folder.write(
        "rows.jsonl",
        "{\"prompt_ids\": [1], \"chosen_ids\": [2, 3], \"rejected_ids\": [3], \"chosen_reward\": 4.5, \"row_id\": 0.5}\n",
    );
    let stages =
        "  scored: { score: { input: rows, oracle: b, reference: a } }\n  out: { write: { input: scored, to: out } }\n";
    let file = pipeline(&folder, stages);
    let text = std::fs::read_to_string(&file).unwrap();
    let renamed = |names: &str| {
        let text = text.replace("rows.jsonl }", &format!("rows.jsonl, rename: {{ {names} }} }}"));
        folder.write("p.yaml", &text).to_str().unwrap().to_owned()
    };
    let said = folder.fails(&["check", &file], 78);
    assert!(said.contains("p.yaml:4:19: column `row_id` is Float64"), "{said}");
    let said = folder.fails(&["check", &renamed("row_id: key")], 78);
    let expected = "column `chosen_reward` is Float64; this stage would put Float32 in its place\n  help: give it another name in \
                    the `read` stage: `rename: { chosen_reward: source_chosen_reward }`";
    assert!(said.contains("p.yaml:5:22: ") && said.contains(expected), "{said}");
    for (names, expected) in [
        ("row_id: key, nothing: x", "no column `nothing`; there are prompt_ids, chosen_ids"),
        ("row_id: chosen_ids", "two columns would be called `chosen_ids`"),
    ] {
        let said = folder.fails(&["check", &renamed(names)], 78);
        assert!(said.contains(expected), "{said}");
    }
    let file = renamed("row_id: key, chosen_reward: human");
    folder.succeeds(&["run", &file]);
    let shown: Value = serde_json::from_str(&folder.succeeds(&["inspect", "out", "--json"])).unwrap();
    let kind = |name: &str| shown["columns"][name].as_str().map(str::to_owned);
    let kinds = ["key", "human", "chosen_reward", "row_id"].map(kind);
    assert_eq!(kinds, ["double", "double", "float", "string"].map(|kind| Some(kind.to_owned())));
    // What was scored before is scored anew.
    let again =
        text.replace("rows.jsonl", "out").replace("to: out", "to: again").replace("workdir: run", "workdir: more");
    folder.succeeds(&["run", folder.write("p.yaml", &again).to_str().unwrap()]);

    // A prompt that the format does not read is not thrown away either.
    folder.write("rows.jsonl", "{\"question\": \"q\", \"prompt\": \"p\", \"chosen\": \"a\", \"rejected\": \"b\"}\n");
    let text = "workdir: run\nstages:\n  rows: { read: { from: rows.jsonl, columns: { prompt: question } } }\n";
    let file = folder.write("p.yaml", text).to_str().unwrap().to_owned();
    let said = folder.fails(&["check", &file], 78);
    assert!(said.contains("column `prompt` is Utf8; this stage would put a conversation"), "{said}");
}

#[test]
fn renamed_columns_are_filtered_and_selected_by_their_new_names() {
    let folder = Folder::new();
    folder.write("rows.csv", "id,question,good,bad,kind\na,What?,Yes.,No.,x\nb,What?,Yes.,Maybe.,y\n");
    let text = "workdir: run\nstages:\n  rows:\n    read: { from: rows.csv, rename: { id: row_id, good: chosen, bad: rejected, \
                question: prompt, kind: sort_of }, where: \"sort_of = 'y'\", select: [sort_of] }\n  \
                out: { write: { input: rows, to: out } }\n";
    folder.succeeds(&["run", folder.write("p.yaml", text).to_str().unwrap()]);
    let shown: Value = serde_json::from_str(&folder.succeeds(&["inspect", "out", "--json"])).unwrap();
    let names: Vec<&str> = shown["columns"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!((&shown["rows"], names), (&1.into(), vec!["row_id", "sort_of", "prompt", "chosen", "rejected"]));
}

#[test]
fn settings_that_would_do_nothing_or_harm_are_found_by_check() {
    let folder = Folder::new();
    folder.write("rows.jsonl", &rows(&[6; 4]));
    let train = |settings: &str| {
        format!("  tuned: {{ train: {{ input: rows, model: a, objective: {{ dpo: {{}} }}, {settings} }} }}\n")
    };
    let generate =
        |settings: &str| format!("  said: {{ generate: {{ input: rows, model: a, max_tokens: 4, {settings} }} }}\n");
    let score = "  scored: { score: { input: rows, oracle: b, reference: a, batch_tokens: 0 } }\n";
    for (stage, expected) in [
        (train("epochs: 0"), "epochs must be above 0"),
        (train("max_steps: 0"), "max_steps must be above 0"),
        (train("batch_tokens: 0"), "batch_tokens must be above 0"),
        (train("learning_rate: 1.0e-50"), "learning_rate must be above 0 as a 32-bit number, and at most 1"),
        (train("learning_rate: 5.0e+7"), "learning_rate must be above 0 as a 32-bit number, and at most 1"),
        (train("weight_decay: -0.1"), "weight_decay must be 0 or more"),
        (train("betas: [0.9, 1.0]"), "betas must be in [0, 1)"),
        (train("eps: 0"), "eps must be above 0"),
        (train("epochs: 5000000000"), "5000000000 is above 4294967295"),
        (train("mask: key"), "`dpo` trains on all tokens and reads no mask"),
        (score.to_owned(), "batch_tokens must be above 0"),
        (generate("top_p: 0.9"), "top_p changes nothing at temperature 0"),
        (generate("samples: 4"), "all samples are the same at temperature 0"),
        (generate("batch_tokens: 0"), "batch_tokens must be above 0"),
        (generate("stop_ids: [-1]"), "no token has an id below 0"),
        (
            generate("temperature: 1").replace("max_tokens: 4", "max_tokens: 128"),
            "max_tokens is 128: `a` has 128 positions",
        ),
    ] {
        let said = folder.fails(&["check", &pipeline(&folder, &stage)], 78);
        assert!(said.contains("p.yaml:5:") && said.contains(expected), "{stage}{expected}\n{said}");
    }
    for number in [".nan", ".inf"] {
        let said = folder.fails(&["check", &pipeline(&folder, &train(&format!("learning_rate: {number}")))], 78);
        assert!(said.contains("p.yaml:5:") && said.contains("non-finite float"), "{said}");
    }
    for read in ["sample: 0", "limit: 0", "split: { held_out: 1.0, keep: train }"] {
        let text = std::fs::read_to_string(pipeline(&folder, "")).unwrap();
        let text = text.replace("rows.jsonl }", &format!("rows.jsonl, {read} }}"));
        let said = folder.fails(&["check", folder.write("p.yaml", &text).to_str().unwrap()], 78);
        assert!(said.contains("p.yaml:4:"), "{said}");
    }
}

#[test]
fn held_out_rows_that_are_trained_on_and_references_without_use_are_warned_of() {
    let folder = Folder::new();
    folder.write("rows.jsonl", &rows(&[6; 40]));
    let stages = |split: [&str; 2]| {
        format!(
            "  seen: {{ read: {{ from: rows.jsonl{} }} }}\n  unseen: {{ read: {{ from: rows.jsonl{} }} }}\n  tuned:\n    \
             train: {{ input: seen, model: a, reference: b, objective: {{ sft: {{}} }}, eval: {{ input: unseen, every: 1 }} }}\n  \
             report: {{ evaluate: {{ input: unseen, start: a, models: {{ tuned: tuned }} }} }}\n",
            split[0], split[1]
        )
    };
    let said = |file: &str| {
        let output = folder.sepo(&["check", file]);
        assert_eq!(output.status.code(), Some(0));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let both = said(&pipeline(&folder, &stages(["", ""])));
    for expected in [
        "`sft` reads no reference: this one changes nothing",
        "rows of `unseen` are also training rows of `seen`: rows.jsonl",
    ] {
        assert!(both.contains(expected) && both.contains("p.yaml:8:"), "{both}");
    }
    assert_eq!(both.matches("are also training rows of").count(), 2, "{both}");
    let sides = ["train", "held_out"].map(|keep| format!(", split: {{ held_out: 0.25, keep: {keep} }}"));
    let apart = said(&pipeline(&folder, &stages([&sides[0], &sides[1]])));
    assert!(!apart.contains("are also training rows of"), "{apart}");
}

#[test]
fn a_training_counts_the_rows_that_it_has_and_looks_at_held_out_rows_at_its_end() {
    let folder = Folder::new();
    let rows = rows(&[6; 40]);
    let bad = "{\"prompt_ids\": [1], \"chosen_ids\": [2], \"rejected_ids\": [2]}\n".repeat(38);
    folder.write("rows.jsonl", &(rows + &bad));
    let stages = "  few: { read: { from: rows.jsonl, limit: 4 } }\n  \
                  tuned: { train: { input: rows, model: a, objective: { sft: {} }, batch_size: 8, warmup: 0.2, decay: linear, \
                  eval: { input: few, every: 99 } } }\n";
    let report = report(&folder, &pipeline(&folder, stages));
    let tuned = &report["stages"]["tuned"]["metrics"];
    // Of 78 rows 40 can be used: 5 steps, the last of them a quarter of the way above 0.
    assert_eq!((&tuned["steps"], &tuned["learning_rate"]), (&5.into(), &json!(2.5e-7)), "{tuned}");
    assert!(tuned["eval_loss"].is_number(), "{tuned}");
    assert_eq!(report["stages"]["rows"]["set_aside"]["identical answers"], 38);
}
