//! What models write: the tokens of `transformers`, and the same ones whatever is written beside them.

use sepo::model::generate::{Answer, Finish, Prompt, Sampling, Settings, Stops};
use sepo::model::{DeviceSpec, Generator, ModelSource, Precision};
use serde::Deserialize;

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
    Settings { sampling, max_tokens: 40, samples: 1, seed: 3, batch_tokens: 4096, stops }
}

const GREEDY: Sampling = Sampling { temperature: 0.0, top_p: 1.0 };
const RANDOM: Sampling = Sampling { temperature: 1.3, top_p: 0.9 };

fn answers(case: &str, settings: Settings, prompts: &[Row]) -> Vec<Vec<Answer>> {
    let device = std::env::var("SEPO_TEST_DEVICE").unwrap_or("cpu".into()).parse::<DeviceSpec>().unwrap();
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
        for (row, found) in rows.iter().zip(answers(&case, settings(GREEDY), &rows)) {
            assert_eq!(found[0].ids, row.answer, "{case}, prompt of {}", row.prompt.len());
            let finish = if row.answer.last() == Some(&2) { Finish::Stop } else { Finish::Length };
            assert_eq!(found[0].finish, finish, "{case}");
        }
    }
}

#[test]
fn an_answer_does_not_depend_on_the_others() {
    for case in ["llama-tied", "mistral-window", "qwen3-window", "gpt_neox-parallel", "gpt2-bare"] {
        let rows = rows(case);
        let together = answers(case, settings(RANDOM), &rows);
        for (row, together) in rows.into_iter().zip(&together) {
            assert_eq!(&answers(case, settings(RANDOM), &[row])[0], together, "{case}");
        }
        // A cache with room for one prompt at a time, and answers that share theirs.
        let rows = self::rows(case);
        let narrow = Settings { batch_tokens: 1, ..settings(RANDOM) };
        assert_eq!(answers(case, narrow, &rows), together, "{case}");
        let several = Settings { samples: 20, ..settings(RANDOM) };
        let several = answers(case, several, &rows);
        assert!(several.iter().zip(&together).all(|(several, one)| several.len() == 20 && several[0] == one[0]));
        assert!(several[7].iter().any(|answer| *answer != several[7][0]), "{case}");
        let other = Settings { seed: 4, ..settings(RANDOM) };
        assert_ne!(answers(case, other, &rows), together, "{case}");
    }
}

#[test]
fn an_answer_ends_where_the_positions_end() {
    let prompt = Row { prompt: (0..120).map(|id| id % 90).collect(), answer: Vec::new() };
    let endless = Settings { stops: Stops::default(), ..settings(GREEDY) };
    let found = &answers("gpt2-bare", endless, &[prompt])[0][0];
    // 128 positions take 120 tokens of the prompt and 8 of the answer; the last one needs none.
    assert_eq!((found.ids.len(), found.finish), (9, Finish::Length));
}
