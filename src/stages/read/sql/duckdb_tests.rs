//! 2,000 random expressions against what DuckDB answered for every row: tests/fixtures/where/make_where.py made both.

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
}

fn table(path: &Path) -> RecordBatch {
    let dataset = Dataset::open(&[path.to_str().unwrap().to_owned()], &Stores::default()).unwrap();
    let batches = dataset.units().into_iter().flat_map(|unit| dataset.read(&unit, 1000).unwrap());
    let batches: Vec<RecordBatch> = batches.map(|chunk| chunk.unwrap().batch).collect();
    arrow::compute::concat_batches(dataset.schema(), &batches).unwrap()
}

/// What is wrong with an expression, or its rows.
fn answer(sql: &str, batch: &RecordBatch) -> Result<String, Problem> {
    let is = |test: &str| {
        let filter = Filter::new(&format!("({sql}) IS {test}"), &batch.schema())?;
        Ok(filter.keep(batch).unwrap_or_else(|error| panic!("{sql}: {error}")))
    };
    let (is_true, is_false) = (is("TRUE")?, is("FALSE")?);
    let letter = |row| match (is_true.value(row), is_false.value(row)) {
        (true, _) => 'T',
        (_, true) => 'F',
        _ => 'N',
    };
    Ok((0..batch.num_rows()).map(letter).collect())
}

#[test]
#[expect(clippy::print_stdout, reason = "the table of the docs, and what is refused")]
fn an_expression_gives_the_rows_of_duckdb_or_is_refused() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = repository.join("tests/fixtures/where");
    let tables: Vec<RecordBatch> =
        (0..10).map(|number| table(&folder.join(format!("table-{number}.parquet")))).collect();
    let lines = BufReader::new(GzDecoder::new(File::open(folder.join("expressions.jsonl.gz")).unwrap())).lines();
    let mut counts =
        [("the same rows", 0), ("the same rows, and a value where DuckDB has an error", 0), ("refused by `check`", 0)];
    let (mut refused, mut wrong) = (BTreeMap::<String, usize>::new(), Vec::new());
    for line in lines {
        let case: Case = serde_json::from_str(&line.unwrap()).unwrap();
        let kind = match answer(&case.sql, &tables[case.table]) {
            Err(problem) => {
                let message = problem.message.split(", at character").next().unwrap_or_default().to_owned();
                *refused.entry(message).or_default() += 1;
                2
            }
            Ok(rows) => {
                let is_same = rows.chars().zip(case.rows.chars()).all(|(own, theirs)| own == theirs || theirs == 'E');
                if !is_same {
                    wrong.push(format!("table {}: {}\n  DuckDB {}\n  here   {rows}", case.table, case.sql, case.rows));
                }
                usize::from(rows != case.rows)
            }
        };
        counts[kind].1 += 1;
    }
    let shown: String = counts.iter().map(|(kind, count)| format!("| {kind} | {count} |\n")).collect();
    println!("{shown}");
    let mut reasons: Vec<(String, usize)> = refused.into_iter().collect();
    reasons.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    for (reason, count) in reasons.iter().take(40) {
        println!("{count:4} {reason}");
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong[..wrong.len().min(40)].join("\n"));
    assert!(counts[2].1 < 200, "{} of 2,000 are refused", counts[2].1);
    let docs = std::fs::read_to_string(repository.join("docs/datasets.md")).unwrap();
    assert!(docs.contains(&shown), "docs/datasets.md must have\n{shown}");
}
