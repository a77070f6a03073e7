//! What models write: the tokens of `transformers`, and the same ones whatever is written beside them.

use arrow::array::AsArray;
use sepo::io::{Chunk, Dataset, Stores};
use sepo::model::generate::{Answer, Finish, GenerationConfig, Penalties, Prompt, Sampling, Settings, Stops};
use sepo::model::{CausalLm, DeviceSpec, Generator, ModelSource, PairIds, Precision, Scorer};
use serde::Deserialize;
use serde_json::Value;

use crate::close::assert_close;
use crate::harness::{Folder, repository, small_model};
use crate::parity::{cases, fixture};

/// A row of generated.json, which `tests/fixtures/make_generations.py` made.
#[derive(Deserialize)]
struct Row {
    prompt: Vec<i32>,
    answer: Vec<i32>,
}

fn rows(case: &str) -> Vec<Row> {
    serde_json::from_slice(&std::fs::read(fixture(case).join("generated.json")).unwrap()).unwrap()
}

/// 40 tokens as in the script, up to the end-of-text token 2.
fn settings(sampling: Sampling) -> Settings {
    let stops = Stops { ids: [2].into(), ..Stops::default() };
    Settings {
        sampling,
        penalties: Penalties::default(),
        max_tokens: 40,
        samples: 1,
        seed: 3,
        batch_tokens: 4096,
        stops,
    }
}

#[test]
fn the_numbers_that_a_model_computes_in_are_known_before_it_is_loaded() {
    let source = ModelSource::folder("qwen2-bf16", fixture("qwen2-bf16"));
    for wanted in [Precision::F32, Precision::Bf16x2, Precision::Bf16] {
        let scorer = Scorer::load(&source, DeviceSpec::Cpu, wanted, 64).unwrap();
        assert_eq!(CausalLm::arithmetic(DeviceSpec::Cpu, wanted).unwrap(), scorer.precision(), "{wanted:?}");
    }
}

const GREEDY: Sampling = Sampling::new(0.0, 1.0);
const RANDOM: Sampling = Sampling::new(1.3, 0.9);

fn device() -> DeviceSpec {
    std::env::var("SEPO_TEST_DEVICE").unwrap_or("cpu".into()).parse().unwrap()
}

fn answers(case: &str, settings: Settings, prompts: &[Row]) -> Vec<Vec<Answer>> {
    let device = device();
    let source = ModelSource::folder(case, fixture(case));
    let generator = Generator::load(&source, device, Precision::F32, settings).unwrap();
    let keys: Vec<String> = prompts.iter().map(|row| format!("{:?}", row.prompt)).collect();
    let prompts = prompts.iter().zip(&keys).map(|(row, key)| Prompt { ids: &row.prompt, key });
    generator.answers(&prompts.collect::<Vec<_>>()).unwrap()
}

#[test]
fn greedy_answers_are_those_of_transformers() {
    for case in cases() {
        let rows = rows(&case);
        let answers = answers(&case, settings(GREEDY), &rows);
        assert_eq!(answers.len(), rows.len(), "{case}");
        for (row, found) in rows.iter().zip(answers) {
            assert_eq!(found[0].ids, row.answer, "{case}, prompt of {}", row.prompt.len());
            let finish = if row.answer.last() == Some(&2) { Finish::Stop } else { Finish::Length };
            assert_eq!(found[0].finish, finish, "{case}");
        }
    }
}

#[test]
fn an_answer_does_not_depend_on_the_others() {
    // On other devices than `cpu` a number that lies between two tokens may fall to either: logits round differently in another batch.
    let sampling = if device() == DeviceSpec::Cpu { RANDOM } else { GREEDY };
    for case in ["llama-tied", "mistral-window", "qwen3-window", "gpt_neox-parallel", "gpt2-bare"] {
        let rows = rows(case);
        let together = answers(case, settings(sampling), &rows);
        assert_eq!(together.len(), rows.len(), "{case}");
        for (row, together) in rows.into_iter().zip(&together) {
            assert_eq!(&answers(case, settings(sampling), &[row])[0], together, "{case}");
        }
        // A cache with room for one prompt at a time, and answers that share theirs.
        let rows = self::rows(case);
        let narrow = Settings { batch_tokens: 1, ..settings(sampling) };
        assert_eq!(answers(case, narrow, &rows), together, "{case}");
        let several = Settings { samples: 20, ..settings(sampling) };
        let several = answers(case, several, &rows);
        let first: Vec<Answer> = several.iter().map(|several| several[0].clone()).collect();
        assert_eq!(first, together.concat(), "{case}");
        assert!(several.iter().all(|several| several.len() == 20), "{case}");
        if sampling == GREEDY {
            continue;
        }
        assert!(several[7].iter().any(|answer| *answer != several[7][0]), "{case}");
        let other = Settings { seed: 4, ..settings(sampling) };
        assert_ne!(answers(case, other, &rows), together, "{case}");
    }
}

/// Settings, prompts and answers of `tests/fixtures/generation_config/make_expected.py`.
#[derive(Deserialize)]
struct Meant {
    case: String,
    settings: Value,
    prompt: Vec<i32>,
    answer: Vec<i32>,
}

#[test]
fn generation_config_is_applied_as_generate_does() {
    let rows: Vec<Meant> =
        serde_json::from_slice(&std::fs::read(fixture("generation_config").join("answers.json")).unwrap()).unwrap();
    for (index, Meant { case, settings, prompt, answer }) in rows.into_iter().enumerate() {
        let folder = Folder::new();
        folder.write("generation_config.json", &settings.to_string());
        let meant = GenerationConfig::of(&ModelSource::folder("m", folder.path("."))).unwrap();
        let (sampling, penalties) = meant.settings().unwrap();
        let stops = Stops { ids: meant.ends().unwrap_or([2].into()), ..Stops::default() };
        let own = Settings { max_tokens: 24, penalties, stops, ..self::settings(sampling) };
        let row = Row { prompt, answer };
        let found = answers(&case, own, std::slice::from_ref(&row));
        assert_eq!(found[0][0].ids, row.answer, "{index}: {case} {settings}");
    }
}

#[test]
fn generation_config_is_applied_where_it_is_asked_for_and_else_named() {
    let folder = Folder::new();
    let model = folder.path("m");
    std::fs::create_dir(&model).unwrap();
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(fixture("llama-tied").join(name), model.join(name)).unwrap();
    }
    let rows = r#"{"prompt_ids": [3], "chosen_ids": [4], "rejected_ids": [5]}"#;
    folder.write("x.jsonl", &rows.replace("[3]", "[10, 21, 32, 21, 32]"));
    let run = |config: &str, options: &str| {
        std::fs::write(model.join("generation_config.json"), config).unwrap();
        let stages = format!(
            "models: {{ base: {{ path: m }} }}\nworkdir: run\nstages:\n  rows: {{ read: {{ from: x.jsonl }} }}\n  \
             answers: {{ generate: {{ input: rows, model: base, max_tokens: 24{options} }} }}\n"
        );
        folder.write("p.yaml", &stages);
        folder.sepo(&["run", "p.yaml", "--json"])
    };
    let answer = || {
        let data = std::fs::read_dir(folder.path("run/data")).unwrap().map(|entry| entry.unwrap().path());
        let newest = data.max_by_key(|path| std::fs::metadata(path).unwrap().modified().unwrap()).unwrap();
        crate::formats::rows_of(&newest)[0]["answer_ids"].clone()
    };
    let plain = run("{}", "");
    assert!(plain.status.success(), "{}", String::from_utf8_lossy(&plain.stderr));
    let greedy = answer();
    let meant = r#"{"repetition_penalty": 1.3, "eos_token_id": 2}"#;
    let ignored = run(meant, "");
    let stderr = String::from_utf8_lossy(&ignored.stderr);
    assert_eq!(answer(), greedy);
    assert_eq!(
        stderr.matches("generation_config.json says repetition_penalty 1.3, which is not applied").count(),
        1,
        "{stderr}"
    );
    let applied = run(meant, ", generation_config: model");
    let stderr = String::from_utf8_lossy(&applied.stderr);
    assert!(applied.status.success() && !stderr.contains("not applied"), "{stderr}");
    let expected =
        serde_json::json!([9, 57, 18, 22, 51, 18, 78, 55, 53, 30, 6, 4, 4, 57, 14, 18, 18, 18, 18, 18, 18, 18, 18, 18]);
    assert_eq!(answer(), expected);
    let unsupported = run(r#"{"num_beams": 4}"#, ", generation_config: model");
    let stderr = String::from_utf8_lossy(&unsupported.stderr);
    assert!(stderr.contains("generation_config.json: `num_beams: 4` is not supported"), "{stderr}");
    let both = run(meant, ", generation_config: model, temperature: 1.0");
    assert_eq!(both.status.code(), Some(78));
}

#[test]
fn an_answer_ends_where_the_positions_end() {
    let prompt = Row { prompt: (0..120).map(|id| id % 90).collect(), answer: Vec::new() };
    let endless = Settings { stops: Stops::default(), ..settings(GREEDY) };
    let found = &answers("gpt2-bare", endless, &[prompt])[0][0];
    // 128 positions take 120 tokens of the prompt and 8 of the answer; the last one needs none.
    assert_eq!((found.ids.len(), found.finish), (9, Finish::Length));
}

/// A judge that likes its first ten lines better than the others.
const JUDGE: &str = r#"{ printf "{\"score\": %d, \"brief\": %s}\n", (NR <= 10), (NR <= 20) ? "true" : "false" }"#;

/// A pipeline in which a small model answers held-out prompts, before and after a little training.
fn pipeline(folder: &Folder) -> String {
    let data = repository().join("data/quickstart");
    let data = data.display();
    let text = format!(
        "\
workdir: run
{}stages:
  pairs: {{ read: {{ from: {data}/train.parquet, limit: 64 }} }}
  tokens: {{ tokenize: {{ input: pairs, tokenizer: base }} }}
  ref: {{ train: {{ input: tokens, model: base, objective: {{ sft: {{}} }}, batch_size: 8, learning_rate: 0.02, epochs: 6 }} }}
  prompts: {{ read: {{ from: {data}/test.parquet, format: prompts, limit: 40 }} }}
  trained: {{ generate: {{ input: prompts, model: ref, max_tokens: 24, temperature: 1, top_p: 0.9 }} }}
  untrained: {{ generate: {{ input: prompts, model: base, max_tokens: 24, temperature: 1, samples: 2 }} }}
  out: {{ write: {{ input: trained, to: run/out }} }}
  leaderboard: {{ write: {{ input: trained, to: run/leaderboard, format: alpaca_eval }} }}
  report:
    evaluate:
      input: tokens
      start: base
      models: {{ after: ref }}
      answers: {{ after: trained, before: untrained }}
      judge: {{ command: {{ run: [awk, '{JUDGE}'], measures: [brief] }} }}
      against: before
  rewards:
    evaluate:
      answers: {{ after: trained, before: untrained }}
      judge: {{ reward: {{ oracle: ref, reference: base }} }}
      against: before
",
        small_model()
    );
    folder.write("p.yaml", &text).display().to_string()
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// The text column `name` of the Parquet files in `folder`.
fn column(folder: &str, name: &str) -> Vec<String> {
    let dataset = Dataset::open(&[folder.to_owned()], &Stores::default()).unwrap();
    let chunks = dataset.units().into_iter().flat_map(|unit| dataset.read(&unit, 1024).unwrap().collect::<Vec<_>>());
    let texts = |chunk: sepo::Result<Chunk>| {
        let batch = chunk.unwrap().batch;
        let column = batch.column_by_name(name).unwrap().as_string::<i32>();
        column.iter().map(|text| text.unwrap().to_owned()).collect::<Vec<_>>()
    };
    chunks.flat_map(texts).collect()
}

#[test]
fn answers_are_written_judged_and_compared() {
    let folder = Folder::new();
    let file = pipeline(&folder);
    let report = json(&folder.succeeds(&["run", &file, "--json"]));
    let stages = &report["stages"];
    assert_eq!((&stages["trained"]["rows_in"], &stages["trained"]["rows_out"]), (&40.into(), &40.into()), "{report}");
    assert_eq!(stages["untrained"]["metrics"]["answers"], 80);

    let table = &stages["report"]["metrics"];
    let (after, before) = (&table["after"], &table["before"]);
    assert_eq!((&after["answers"], &before["answers"]), (&40.into(), &80.into()), "{table}");
    let number = |value: &Value| value.as_f64().unwrap();
    assert!(number(&after["kl"]) > 0.1 && number(&after["accuracy"]) > 0.0, "{after}");
    assert!(before.get("kl").is_none(), "{before}");
    assert!(number(&after["distinct_1"]) < number(&before["distinct_1"]), "{table}");
    let rate = &after["win_rate"];
    assert!(rate["against"] == "before" && rate["rows"] == 40, "{rate}");
    assert!(number(&rate["low"]) <= number(&rate["rate"]) && number(&rate["rate"]) <= number(&rate["high"]), "{rate}");
    // `after` is asked about first: ten of its 40 answers get a point, none of `before` does.
    assert_eq!((number(&after["score"]), number(&after["brief"])), (0.25, 0.5), "{after}");
    assert_eq!((number(&before["score"]), number(&before["brief"])), (0.0, 0.0), "{before}");
    assert_eq!((&rate["wins"], &rate["ties"], &rate["losses"]), (&10.into(), &30.into(), &0.into()), "{rate}");
    // What the model learned to write is likelier under it than under the model that it was.
    let rewarded = &stages["rewards"]["metrics"];
    assert!(number(&rewarded["after"]["score"]) > 0.0, "{rewarded}");
    assert!(number(&rewarded["after"]["win_rate"]["low"]) > 0.5, "{rewarded}");

    let outputs = std::fs::read(folder.path("run/leaderboard/model_outputs.json")).unwrap();
    let outputs: Vec<Value> = serde_json::from_slice(&outputs).unwrap();
    let names: Vec<&str> = outputs[0].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!((outputs.len(), names), (40, ["instruction", "output", "generator", "dataset"].to_vec()));
    let written = folder.path("run/out").display().to_string();
    let answers = column(&written, "answer");
    let output: Vec<&str> = outputs.iter().map(|output| output["output"].as_str().unwrap()).collect();
    assert_eq!(output, answers);
    assert!(answers.iter().all(|answer| !answer.ends_with("<|end|>")), "{answers:?}");
    assert_eq!(outputs[0]["generator"], "ref");

    let again = crate::harness::report(&folder.succeeds(&["run", &file, "--json"]));
    assert_eq!(again["stages"]["trained"], stages["trained"]);
    let text = std::fs::read_to_string(&file).unwrap();
    let narrow = text.replace("top_p: 0.9", "top_p: 0.9, batch_tokens: 1");
    folder.succeeds(&["run", folder.write("q.yaml", &narrow).to_str().unwrap(), "--only", "out"]);
    assert_eq!(column(&written, "answer"), answers);
    let other = text.replace("top_p: 0.9", "top_p: 0.9, seed: 7");
    folder.succeeds(&["run", folder.write("q.yaml", &other).to_str().unwrap(), "--only", "out"]);
    assert_ne!(column(&written, "answer"), answers);
    let stopped = text.replace("top_p: 0.9", "top_p: 0.9, stop: [e]");
    folder.succeeds(&["run", folder.write("q.yaml", &stopped).to_str().unwrap(), "--only", "out"]);
    let cut: Vec<&str> = answers.iter().map(|answer| answer.split('e').next().unwrap()).collect();
    assert_eq!(column(&written, "answer"), cut);
}

#[test]
fn mistakes_about_answers_are_found_before_a_run() {
    let folder = Folder::new();
    let text = std::fs::read_to_string(pipeline(&folder)).unwrap();
    let fails = |from: &str, to: &str, expected: &str| {
        let broken = text.replacen(from, to, 1);
        assert_ne!(broken, text, "{from}");
        let stderr = folder.fails(&["check", folder.write("q.yaml", &broken).to_str().unwrap()], 78);
        assert!(stderr.contains(expected), "{expected}\n---\n{stderr}");
    };
    fails("temperature: 1, top_p: 0.9", "temperature: -1, top_p: 0", "temperature must be 0 or above");
    fails("temperature: 1, top_p: 0.9", "temperature: -1, top_p: 0", "top_p must be in (0, 1]");
    fails("samples: 2", "samples: 0", "samples must be above 0");
    fails("against: before", "against: befor", "no answers of the name `befor`\n  help: one of after, before");
    let judge = text.lines().find(|line| line.contains("judge: { command")).unwrap();
    fails(judge, "", "a win needs a judge");
    fails("run: [awk", "run: [no-such-judge", "no folder of PATH has a program `no-such-judge`");
    fails("run: [awk", "run: [./no-such-judge", "there is no file `./no-such-judge`");
    fails("measures: [brief]", "measures: [kl]", "`kl` is the name of another metric of answers");
    fails("start: base\n", "\n", "name `start`");
    fails("after: trained, before: untrained", "after: trained, before: prompts", "has no answers");
    fails("input: trained, to: run/leaderboard", "input: tokens, to: run/leaderboard", "there is no column `answer`");
    fails("format: prompts", "format: promts", "unknown choice `promts`\n  help: did you mean `prompts`?");
    fails(
        "trained: { generate: { input: prompts",
        "trained: { generate: { input: prompts, tokenizer: nowhere",
        "`nowhere` is neither a model under `models:` nor a folder",
    );
    let ids = "workdir: run\nmodels: { base: { path: MODEL } }\nstages:\n  rows: { read: { from: rows.jsonl } }\n  \
               said: { generate: { input: rows, model: base, stop: [x] } }\n";
    folder.write("rows.jsonl", "{\"prompt_ids\": [1], \"chosen_ids\": [2], \"rejected_ids\": [3]}\n");
    let ids = ids.replace("MODEL", &fixture("llama-tied").display().to_string());
    let stderr = folder.fails(&["check", folder.write("q.yaml", &ids).to_str().unwrap()], 78);
    assert!(stderr.contains("`base` has no tokenizer"), "{stderr}");
    let plain = ids.replace(", stop: [x]", ", max_tokens: 3") + "  out: { write: { input: said, to: run/out } }\n";
    folder.succeeds(&["run", folder.write("q.yaml", &plain).to_str().unwrap()]);
    let shown = json(&folder.succeeds(&["inspect", "run/out", "--json"]));
    assert_eq!(shown["rows"], 1, "{shown}");
}

#[test]
fn prompts_that_no_model_can_take_are_set_aside() {
    let folder = Folder::new();
    let long: Vec<i32> = (0..128).map(|id| id % 90).collect();
    let row = |prompt: &[i32]| format!("{{\"prompt_ids\": {prompt:?}, \"chosen_ids\": [2], \"rejected_ids\": [3]}}\n");
    folder.write("rows.jsonl", &(row(&long) + &row(&[5, 6])));
    let text = format!(
        "workdir: run\nmodels: {{ base: {{ path: {} }} }}\nstages:\n  rows: {{ read: {{ from: rows.jsonl }} }}\n  \
         said: {{ generate: {{ input: rows, model: base, max_tokens: 3 }} }}\n",
        fixture("gpt2-bare").display()
    );
    let report = json(&folder.succeeds(&["run", folder.write("p.yaml", &text).to_str().unwrap(), "--json"]));
    let said = &report["stages"]["said"];
    assert_eq!((&said["rows_in"], &said["rows_out"]), (&2.into(), &1.into()), "{report}");
    assert_eq!(said["set_aside"]["prompt longer than the model's positions"], 1, "{report}");
}

#[test]
fn divergence_is_that_of_pytorch() {
    let rows = rows("llama-tied");
    let scorer = |case: &str| {
        Scorer::load(&ModelSource::folder(case, fixture(case)), DeviceSpec::Cpu, Precision::F32, 100).unwrap()
    };
    let (own, start) = (scorer("llama-tied"), scorer("llama-untied"));
    let pairs: Vec<PairIds> = rows.iter().map(|row| PairIds::alone(&row.prompt, &row.answer)).collect();
    let expected = std::fs::read(fixture("divergence.json")).unwrap();
    let expected: Vec<Vec<f64>> = serde_json::from_slice(&expected).unwrap();
    let found = own.divergences(&start, &pairs).unwrap();
    assert_eq!(found.len(), expected.len());
    for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
        assert_close(&format!("row {index}"), found, expected, 1e-4);
    }
    let none: Vec<Vec<f64>> = expected.iter().map(|row| vec![0.0; row.len()]).collect();
    assert_eq!(own.divergences(&own, &pairs).unwrap(), none);
}

#[test]
fn a_judge_that_fails_ends_the_run_and_a_changed_one_judges_again() {
    let folder = Folder::new();
    let text = std::fs::read_to_string(pipeline(&folder)).unwrap();
    let judged = |script: &str| {
        let script = folder.write("judge.sh", script).display().to_string();
        let start = text.find("run: [awk").unwrap();
        let end = start + text[start..].find("], measures").unwrap();
        let text = format!("{}run: [sh, {script}{}", &text[..start], &text[end..]);
        folder.write("q.yaml", &text).display().to_string()
    };
    let file = judged("head -n 1 > /dev/null; echo no key >&2; exit 3\n");
    let stderr = folder.fails(&["run", &file, "--only", "report"], 1);
    assert!(stderr.contains("stage `report`: `sh ") && stderr.contains("exit status: 3\nno key"), "{stderr}");
    let file = judged("cat > /dev/null; echo '{\"score\": 1}'\n");
    let stderr = folder.fails(&["run", &file, "--only", "report"], 1);
    assert!(stderr.contains("answered 1 of 120 lines; it must answer each"), "{stderr}");
    let file = judged("sed 's/.*/{\"points\": 1}/'\n");
    let stderr = folder.fails(&["run", &file, "--only", "report"], 1);
    assert!(stderr.contains("line 1 of its answers: `{\"points\": 1}` has no `score`"), "{stderr}");
    let score = |script: &str| {
        let report = json(&folder.succeeds(&["run", &judged(script), "--only", "report", "--json"]));
        report["stages"]["report"]["metrics"]["after"]["score"].as_f64().unwrap()
    };
    assert_eq!(score("sed 's/.*/{\"score\": 1, \"brief\": 1}/'\n"), 1.0);
    assert_eq!(score("sed 's/.*/{\"score\": 2, \"brief\": 1}/'\n"), 2.0);
}
