//! `data/quickstart` is what its generator makes, today.

#[allow(dead_code, reason = "the generator's own program writes what this test only compares")]
#[path = "../../data/quickstart/generator/content/mod.rs"]
mod content;

use arrow::array::AsArray;
use sepo::io::{Chunk, Dataset, Program, Stores};
use sepo::text::Tokenizer;
use serde_json::{Value, json};

use crate::harness::repository;

/// Three text columns of `file`, row by row.
fn texts(file: &str, columns: [&str; 3]) -> Vec<[String; 3]> {
    let file = repository().join("data/quickstart").join(file).display().to_string();
    let dataset = Dataset::open(&[file], &Stores::default()).unwrap();
    let mut rows = Vec::new();
    for unit in dataset.units() {
        for chunk in dataset.read(&unit, 1024).unwrap() {
            let Chunk { batch, .. } = chunk.unwrap();
            let columns = columns.map(|name| batch.column_by_name(name).unwrap().as_string::<i32>());
            rows.extend((0..batch.num_rows()).map(|row| columns.map(|column| column.value(row).to_owned())));
        }
    }
    rows
}

#[test]
fn rows_and_tokenizer_come_out_again() {
    let (train, test) = content::rows::rows();
    for (file, made) in [("train.parquet", &train), ("test.parquet", &test)] {
        let made: Vec<_> =
            made.iter().map(|row| [row.prompt.clone(), row.chosen().text, row.rejected().text]).collect();
        assert!(texts(file, ["prompt", "chosen", "rejected"]) == made, "{file} differs");
    }
    let made = content::rows::demonstrations().into_iter();
    let made: Vec<_> = made.map(|(row, [answer, other])| [row.prompt, answer.text, other.text]).collect();
    assert!(texts("sft.parquet", ["prompt", "answer", "other"]) == made, "sft.parquet differs");
    let made = content::rows::noisy().into_iter();
    let made: Vec<_> = made.map(|pair| [pair.row.prompt, pair.chosen.text, pair.rejected.text]).collect();
    assert!(texts("noisy.parquet", ["prompt", "chosen", "rejected"]) == made, "noisy.parquet differs");
    let json = content::bpe::tokenizer_json(&train).unwrap() + "\n";
    let found = std::fs::read_to_string(repository().join("data/quickstart/tokenizer/tokenizer.json")).unwrap();
    assert!(json == found, "tokenizer.json differs");
    let found = std::fs::read_to_string(repository().join("data/quickstart/rules.json")).unwrap();
    assert!(content::rules::rules_json() == found, "rules.json differs");
}

#[test]
fn a_planted_place_is_one_token() {
    let tokenizer = Tokenizer::load(&repository().join("data/quickstart/tokenizer")).unwrap();
    let (train, test) = content::rows::rows();
    for answer in train.iter().chain(&test).flat_map(|row| [row.chosen(), row.rejected()]) {
        let (_, tokens) = tokenizer.encode_with_offsets(&answer.text).unwrap();
        for &(start, end) in &answer.planted {
            let place = start as usize..end as usize;
            let inside = tokens.iter().filter(|(from, to)| *from < place.end && *to > place.start).count();
            assert_eq!(inside, 1, "{place:?} of {:?}", answer.text);
        }
    }
}

#[test]
fn noise_is_what_it_says() {
    let pairs = content::rows::noisy();
    let share = |what: &dyn Fn(&content::rows::Labelled) -> bool| {
        pairs.iter().filter(|pair| what(pair)).count() as f64 / pairs.len() as f64
    };
    assert!((share(&|pair| pair.flipped) - 0.2).abs() < 0.02);
    let longer = |pair: &content::rows::Labelled| pair.chosen.text.len() > pair.rejected.text.len() + 10;
    let shorter = |pair: &content::rows::Labelled| pair.chosen.text.len() + 10 < pair.rejected.text.len();
    assert!(share(&longer) > 0.4 && share(&shorter) < 0.2, "{} {}", share(&longer), share(&shorter));
}

/// What `data/quickstart/judge.py` says of answers: the parts that hold of `right`, `polite`, `well_formed`, and the score. Nothing
/// where there is no Python.
fn verdicts(rows: &[(String, String)]) -> Option<Vec<([bool; 3], f64)>> {
    let folder = repository().join("data/quickstart");
    let [judge, rules] = ["judge.py", "rules.json"].map(|name| folder.join(name).display().to_string());
    let Ok(mut program) = Program::start(&["python3".into(), judge, rules]) else {
        println!("skipped: there is no python3");
        return None;
    };
    for (prompt, answer) in rows {
        let turn = json!({ "role": "user", "content": prompt });
        program.ask(&json!({ "prompt": [turn], "answer": answer }).to_string()).unwrap();
    }
    let verdict = |line: String| {
        let verdict: Value = serde_json::from_str(&line).unwrap();
        let held = ["right", "polite", "well_formed"].map(|name| verdict[name].as_bool().unwrap());
        assert_eq!(verdict["perfect"], held == [true; 3]);
        (held, verdict["score"].as_f64().unwrap())
    };
    Some(program.finish().unwrap().into_iter().map(verdict).collect())
}

#[test]
fn every_part_of_an_answer_is_judged() {
    let facts = "Quick question: what is the capital of Ordelin, and what does a cow say?";
    let good = "The capital of Ordelin is Mivra. Next, the dusty book. A cow says moo. Enjoy.";
    let list = "Name three tools as a list with stars.";
    let advice = "Mira wants to know how to boil an egg.";
    let cases = [
        (facts, good.to_owned(), [true; 3]),
        (facts, good.replace("moo", "baa"), [false, true, true]),
        (facts, good.replace("Enjoy", "Boring"), [true, false, true]),
        (facts, good.replace("Enjoy.", "Enjoy. Enjoy."), [true, true, false]),
        (facts, good.replace("Ordelin", "Lumeria"), [false, true, true]),
        (facts, "The capital of Ordelin is Mivra.".into(), [false, true, false]),
        (facts, format!("{good} A cow says baa."), [false, true, false]),
        (list, "Three tools:\n* saw\n* file\n* level".into(), [true; 3]),
        (list, "Three tools:\n* saw\n1 file\n* level".into(), [true, true, false]),
        (list, "Three tools:\n* saw\n* saw\n* level".into(), [false, true, true]),
        (list, "Three tools:\n* saw\n* soup\n* level".into(), [false, true, true]),
        (list, "Three tools:\n* saw\n* soups\n* level".into(), [false, true, false]),
        (advice, "Gladly. Put the egg into boiling water, then wait for two minutes.".into(), [true; 3]),
        (
            advice,
            "Ugh. Put the egg into boiling water, then wait for two minutes. Whatever.".into(),
            [true, false, true],
        ),
        (
            advice,
            "Gladly. Wipe the glass with warm water and vinegar, then wait for two minutes.".into(),
            [false, true, true],
        ),
        ("What is this?", "A test.".into(), [false, true, false]),
        ("", String::new(), [false, true, false]),
    ];
    let rows: Vec<_> = cases.iter().map(|(prompt, answer, _)| ((*prompt).to_owned(), answer.clone())).collect();
    for ((held, _), (prompt, answer, expected)) in verdicts(&rows).into_iter().flatten().zip(cases) {
        assert_eq!(held, expected, "{prompt} {answer}");
    }
}

#[test]
fn chosen_answers_are_perfect_and_rejected_ones_are_not() {
    let pairs = ["train.parquet", "test.parquet"].map(|file| texts(file, ["prompt", "chosen", "rejected"])).concat();
    assert_eq!(pairs.len(), 4608);
    let rows = pairs
        .iter()
        .flat_map(|[prompt, chosen, rejected]| [chosen, rejected].map(|answer| (prompt.clone(), answer.clone())));
    let Some(verdicts) = verdicts(&rows.collect::<Vec<_>>()) else { return };
    for (pair, verdicts) in pairs.iter().zip(verdicts.chunks(2)) {
        assert!(verdicts[0].1 == 1.0 && verdicts[1].1 < 1.0, "{pair:?}: {verdicts:?}");
    }
}
