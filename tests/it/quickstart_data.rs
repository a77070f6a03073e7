//! `data/quickstart` is what its generator makes, today.

#[allow(dead_code, reason = "the generator's own program writes what this test only compares")]
#[path = "../../data/quickstart/generator/content/mod.rs"]
mod content;

use arrow::array::AsArray;
use sepo::io::{Chunk, Dataset, Stores};
use sepo::text::Tokenizer;

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
