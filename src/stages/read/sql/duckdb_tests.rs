//! 2,000 random expressions against what `DuckDB` answered for every row: tests/fixtures/where/make_where.py made both.

use super::*;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use flate2::read::GzDecoder;
use serde::Deserialize;

use crate::io::{Dataset, Stores};

#[derive(Deserialize)]
struct Case {
    table: usize,
    sql: String,
    /// True, false, null or an error, row by row.
    rows: String,
    /// Whether `DuckDB` needed wider integers than the columns have.
    wide: bool,
}

fn table(path: &Path) -> RecordBatch {
    let dataset = Dataset::open(&[path.to_str().unwrap().to_owned()], &Stores::default()).unwrap();
    let batches = dataset.units().into_iter().flat_map(|unit| dataset.read(&unit, 1000).unwrap());
    let batches: Vec<RecordBatch> = batches.map(|chunk| chunk.unwrap().batch).collect();
    arrow::compute::concat_batches(dataset.schema(), &batches).unwrap()
}

/// What is wrong with an expression, or its rows.
fn answer(sql: &str, batch: &RecordBatch) -> Result<String, Wrong> {
    let [is_true, is_false] = ["TRUE", "FALSE"].map(|test| Filter::new(&format!("({sql}) IS {test}"), &batch.schema()));
    let (is_true, is_false) = (is_true?, is_false?);
    let letter = |row| {
        let row = batch.slice(row, 1);
        match (is_true.keep(&row), is_false.keep(&row)) {
            (Ok(is_true), Ok(is_false)) => match (is_true.value(0), is_false.value(0)) {
                (true, _) => 'T',
                (_, true) => 'F',
                _ => 'N',
            },
            _ => 'E',
        }
    };
    Ok((0..batch.num_rows()).map(letter).collect())
}

#[test]
fn expressions_mean_what_they_mean_to_duckdb() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = repository.join("tests/fixtures/where");
    let tables: Vec<RecordBatch> =
        (0..10).map(|number| table(&folder.join(format!("table-{number}.parquet")))).collect();
    let lines = BufReader::new(GzDecoder::new(File::open(folder.join("expressions.jsonl.gz")).unwrap())).lines();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let (mut refused, mut wrong) = (BTreeMap::<String, usize>::new(), Vec::new());
    for line in lines {
        let case: Case = serde_json::from_str(&line.unwrap()).unwrap();
        let kind = match answer(&case.sql, &tables[case.table]) {
            Err(why) => {
                *refused.entry(why.message).or_default() += 1;
                "refused by `check`"
            }
            Ok(rows) if rows != case.rows => {
                // An error there may be a value here, where numbers have more room.
                let is_wider = rows.chars().zip(case.rows.chars()).all(|(own, theirs)| own == theirs || theirs == 'E');
                if !is_wider {
                    wrong.push(format!("table {}: {}\n  DuckDB {}\n  here   {rows}", case.table, case.sql, case.rows));
                }
                if is_wider { "an answer here, an error there" } else { "another answer" }
            }
            Ok(_) if case.wide => "the same answer, with wider integers there",
            Ok(rows) if rows.contains('E') => "the same answer, and an error for the same rows",
            Ok(_) => "the same answer",
        };
        *counts.entry(kind).or_default() += 1;
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong[..wrong.len().min(40)].join("\n"));
    let table: String = counts.iter().map(|(kind, count)| format!("| {kind} | {count} |\n")).collect();
    let docs = std::fs::read_to_string(repository.join("docs/where.md")).unwrap();
    assert!(docs.contains(&table), "docs/where.md must have\n{table}\nrefused: {refused:#?}");
}
