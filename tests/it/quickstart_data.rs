//! `data/quickstart` is what its generator makes, today.

#[allow(dead_code, reason = "the generator's own program writes what this test only compares")]
#[path = "../../data/quickstart/generator/content/mod.rs"]
mod content;

use arrow::array::AsArray;
use sepo::io::{Chunk, Dataset, Stores};

use crate::harness::repository;

#[test]
fn rows_and_tokenizer_come_out_again() {
    let folder = repository().join("data/quickstart");
    let (train, test) = content::rows::rows();
    for (name, rows) in [("train", &train), ("test", &test)] {
        let file = folder.join(format!("{name}.parquet")).display().to_string();
        let dataset = Dataset::open(&[file], &Stores::default()).unwrap();
        let mut row = 0;
        for unit in dataset.units() {
            for chunk in dataset.read(&unit, 1024).unwrap() {
                let Chunk { batch, .. } = chunk.unwrap();
                let texts =
                    ["prompt", "chosen", "rejected"].map(|name| batch.column_by_name(name).unwrap().as_string::<i32>());
                for at in 0..batch.num_rows() {
                    let made = &rows[row];
                    let found = texts.map(|column| column.value(at));
                    assert_eq!(
                        found,
                        [made.prompt.as_str(), &made.chosen.text, &made.rejected.text],
                        "{name} row {row}"
                    );
                    row += 1;
                }
            }
        }
        assert_eq!(row, rows.len(), "{name}");
    }
    let json = content::bpe::tokenizer_json(&train).unwrap() + "\n";
    assert!(
        json == std::fs::read_to_string(folder.join("tokenizer/tokenizer.json")).unwrap(),
        "tokenizer.json differs"
    );
}
