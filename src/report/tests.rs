//! Reports of few rows, against numbers made by hand.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int64Array, ListArray, StringArray};
use arrow::buffer::OffsetBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Float32Type, Int32Type, Schema};
use serde_json::{Value, json};

use super::*;
use crate::columns::lists::{from_masks, from_rows};
use crate::io::list_element;

/// An answer's ids, rewards and two masks, as texts of `0` and `1`.
type Given<'a> = (&'a [i32], &'a [f32], [&'a str; 2]);

fn texts(rows: &[Vec<&str>]) -> ArrayRef {
    let values = StringArray::from_iter_values(rows.iter().flatten().collect::<Vec<_>>());
    let element = Arc::new(Field::new("element", values.data_type().clone(), false));
    Arc::new(ListArray::new(element, OffsetBuffer::from_lengths(rows.iter().map(Vec::len)), Arc::new(values), None))
}

fn text_of(id: i32) -> &'static str {
    [" a", "b", "<|end|>", "\n"][id as usize - 1]
}

/// Rows of a chosen and a rejected answer.
fn batch(rows: &[[Given; 2]]) -> RecordBatch {
    let mut columns: Vec<(String, ArrayRef)> =
        vec![("row_id".into(), Arc::new(Int64Array::from_iter_values(0..rows.len() as i64)))];
    for (index, side) in ["chosen", "rejected"].into_iter().enumerate() {
        let of = |name: &str| format!("{side}_{name}");
        let marks =
            |mask: usize| rows.iter().map(move |row| row[index].2[mask].bytes().map(|b| b == b'1').collect::<Vec<_>>());
        let shown: Vec<Vec<&str>> =
            rows.iter().map(|row| row[index].0.iter().map(|id| text_of(*id)).collect()).collect();
        columns.push((of("ids"), from_rows::<Int32Type>(rows.iter().map(|row| row[index].0))));
        columns.push((of("token_rewards"), from_rows::<Float32Type>(rows.iter().map(|row| row[index].1))));
        columns.push((of("key_mask_random"), from_masks(marks(1))));
        columns.push((of("key_mask"), from_masks(marks(0))));
        columns.push((of("tokens"), texts(&shown)));
    }
    RecordBatch::try_from_iter(columns).unwrap()
}

fn rows() -> RecordBatch {
    batch(&[
        [(&[1, 2, 3], &[0.5, -0.25, 1.0], ["101", "110"]), (&[1, 4], &[-1.0, 0.25], ["10", "10"])],
        [(&[2], &[2.0], ["1", "0"]), (&[4, 4], &[0.0, -0.5], ["01", "11"])],
        [(&[2], &[f32::NAN], ["1", "0"]), (&[4], &[0.0], ["1", "1"])],
    ])
}

fn contents(batch: &RecordBatch, settings: Settings) -> Contents {
    let mut builder = Builder::new(&batch.schema(), None, settings).unwrap();
    builder.add(batch).unwrap();
    builder.finish("rows".into(), None).unwrap()
}

fn report(batch: &RecordBatch) -> Value {
    json!(contents(batch, Settings::default()))
}

fn sum(tokens: u64, key_tokens: u64, reward: f64, magnitude: f64) -> Value {
    json!({"tokens": tokens, "key_tokens": key_tokens, "reward": reward, "magnitude": magnitude})
}

#[test]
fn sums_are_those_made_by_hand() {
    let found = report(&rows());
    let numbers = &found["statistics"];
    assert_eq!((&numbers["rows"], &numbers["ranked_right"], &numbers["unusable"]), (&json!(2), &json!(2), &json!(1)));
    // 1.25 + 0.75 and 2 + 0.5.
    let margin = json!({"count": 2, "mean": 2.25, "min": 2.0, "max": 2.5, "deviation": 0.25});
    assert_eq!(numbers["margin"], margin);
    assert_eq!(numbers["masks"], json!(["key_mask", "key_mask_random"]));
    let (chosen, rejected) = (&numbers["chosen"], &numbers["rejected"]);
    assert_eq!(chosen["whole"], sum(4, 3, 3.25, 3.75));
    assert_eq!(rejected["whole"], sum(4, 2, -1.25, 1.75));
    assert_eq!(rejected["zero_rewards"], 1);
    // The first tokens of both answers; the third of three begins at 66 % of its answer.
    assert_eq!(chosen["tenths"][0], sum(2, 2, 2.5, 2.5));
    assert_eq!(chosen["tenths"][6], sum(1, 1, 1.0, 1.0));
    assert_eq!(chosen["classes"]["word_start"], sum(1, 1, 0.5, 0.5));
    assert_eq!(chosen["classes"]["inside_word"], sum(2, 1, 1.75, 2.25));
    assert_eq!(chosen["classes"]["special"], sum(1, 1, 1.0, 1.0));
    assert_eq!(rejected["classes"]["newline"], sum(3, 1, -0.25, 0.75));
    assert_eq!(chosen["marked"], json!({"key_mask": 3, "key_mask_random": 2}));
    let [both, first, second] =
        ["both", "only_first", "only_second"].map(|name| numbers["overlaps"][0]["chosen"][name].clone());
    assert_eq!([both, first, second], [json!(1), json!(2), json!(1)]);
    let order: Vec<&Value> = chosen["highest"].as_array().unwrap().iter().map(|token| &token["text"]).collect();
    assert_eq!(order, ["b", "<|end|>", " a"]);
    assert_eq!((chosen["lowest"].as_array().unwrap().len(), &rejected["lowest"][0]["text"]), (0, &json!(" a")));
    // The best half of three tokens are two, of one token one: 1.5 + 2 of the 3.5 that speak for the chosen answers.
    let half = chosen["curve"].as_array().unwrap().iter().find(|point| point["percent"] == 50).unwrap();
    assert_eq!(half["share"], 1.0);
    // Three tokens: 1.25, one token: 2.
    let lengths: Vec<(f64, f64)> = chosen["lengths"]["columns"]
        .as_array()
        .unwrap()
        .iter()
        .map(|column| (column["from"].as_f64().unwrap(), column["mean"].as_f64().unwrap()))
        .collect();
    assert_eq!(lengths, [(1.0, 2.0), (3.0, 1.25)]);
    assert_eq!(chosen["length_and_reward"], -1.0);
}

#[test]
fn rows_that_another_engine_wrote_give_the_same_numbers() {
    let rows = rows();
    let schema = rows.schema();
    // As polars writes them: large lists whose elements may be null.
    let columns = schema.fields().iter().zip(rows.columns()).map(|(field, column)| {
        let large = match list_element(column.data_type()) {
            Some(DataType::Utf8) => Some(DataType::LargeUtf8),
            other => other.cloned(),
        };
        let large = large.map(|element| DataType::LargeList(Arc::new(Field::new("item", element, true))));
        (field.name().clone(), large.map_or_else(|| column.clone(), |large| cast(column, &large).unwrap()))
    });
    assert_eq!(report(&RecordBatch::try_from_iter(columns).unwrap()), report(&rows));
}

#[test]
fn what_is_probably_wrong_is_said() {
    let found = report(&rows());
    let warnings: Vec<&str> = found["warnings"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
    assert!(warnings[0].starts_with("1 rows, the first of them row 3, have a reward"), "{warnings:?}");
    // 1 of 3.75, and 0.75 of 1.75.
    assert!(warnings[1].starts_with("26.7 % of the reward of chosen answers"), "{warnings:?}");
    assert!(warnings[2].starts_with("42.9 % of the reward of rejected answers"), "{warnings:?}");
    assert_eq!(warnings.len(), 3);
    let swapped = report(&batch(&[[(&[1], &[-1.0], ["1", "1"]), (&[2], &[1.0], ["1", "1"])]]));
    assert!(swapped["warnings"].to_string().contains("in only 0.0 % of the rows"), "{}", swapped["warnings"]);
}

#[test]
fn the_whole_does_not_depend_on_how_rows_come_in() {
    let rows = rows();
    let mut builder = Builder::new(&rows.schema(), None, Settings::default()).unwrap();
    for row in 0..rows.num_rows() {
        builder.add(&rows.slice(row, 1)).unwrap();
    }
    assert_eq!(json!(builder.finish("rows".into(), None).unwrap()), report(&rows));
}

#[test]
fn the_shown_rows_follow_from_the_rule() {
    let answers: Vec<(Vec<i32>, Vec<f32>)> = (0..100).map(|row| (vec![1, 2], vec![row as f32, 0.0])).collect();
    let given: Vec<[Given; 2]> = answers
        .iter()
        .map(|(ids, rewards)| [(&ids[..], &rewards[..], ["10", "01"]), (&[4][..], &[0.0][..], ["0", "0"])])
        .collect();
    let batch = batch(&given);
    let shown = |settings: Settings| {
        let found = contents(&batch, settings).sample;
        let of = |why: Why| found.rows.iter().filter(|row| row.why == why).map(|row| row.row).collect::<Vec<_>>();
        ([of(Why::LargestMargin), of(Why::SmallestMargin), of(Why::Random)], found.rule.clone())
    };
    let ([largest, smallest, random], rule) = shown(Settings { rows: 8, seed: 1 });
    assert_eq!((largest, smallest, random.len()), (vec![99, 100], vec![1, 2], 4));
    assert!(rule.starts_with("8 of 100 rows are shown: the 2 with the largest"), "{rule}");
    let again = shown(Settings { rows: 8, seed: 1 }).0[2].clone();
    let other = shown(Settings { rows: 8, seed: 2 }).0[2].clone();
    assert!(again == random && other != random, "{random:?} {other:?}");
    let (all, rule) = shown(Settings { rows: 100, seed: 1 });
    assert_eq!((all.iter().map(Vec::len).sum::<usize>(), &rule[..]), (100, "All rows are shown."));
    assert!(shown(Settings { rows: 0, seed: 1 }).0.iter().all(Vec::is_empty));
}

#[test]
fn a_row_is_shown_as_it_is_and_a_token_of_a_megabyte_is_cut() {
    let rows = rows();
    let first = &json!(contents(&rows, Settings::default()))["sample"]["rows"][0];
    let expected = json!({
        "reward": 1.25, "tokens": [" a", "b", "<|end|>"], "ids": [1, 2, 3], "rewards": [0.5, -0.25, 1.0],
        "masks": ["101", "110"], "left_out": 0,
    });
    assert_eq!(first["chosen"], expected);
    let long = "x".repeat(1 << 20);
    let huge = [vec![&long[..], "b", "c"], vec![&long], vec![&long]];
    let schema = rows.schema();
    let columns = schema.fields().iter().zip(rows.columns()).map(|(field, column)| {
        let column = if field.name() == "chosen_tokens" { texts(&huge) } else { column.clone() };
        (field.name().clone(), column)
    });
    let huge = contents(&RecordBatch::try_from_iter(columns).unwrap(), Settings::default());
    let page = html(&Page::Rows(&huge));
    assert!(page.len() < 200_000 && page.contains("… (1048576 characters)"), "{}", page.len());
}

#[test]
fn columns_that_lack_or_differ_are_named() {
    let rows = rows();
    let schema = Schema::new(rows.schema().fields().iter().skip(3).cloned().collect::<Vec<_>>());
    let problems = Builder::new(&schema, None, Settings::default()).err().unwrap();
    let messages: Vec<&str> = problems.iter().map(|problem| &problem.message[..]).collect();
    assert_eq!(messages, ["no column `chosen_ids`", "no column `chosen_token_rewards`"]);
    let uneven = batch(&[[(&[1, 2], &[0.5], ["11", "11"]), (&[4], &[0.0], ["0", "0"])]]);
    let mut builder = Builder::new(&uneven.schema(), None, Settings::default()).unwrap();
    let error = builder.add(&uneven).unwrap_err().to_string();
    assert!(error.contains("row 1") && error.contains("another length than the ids"), "{error}");
}

#[test]
fn plots_are_drawn_of_what_there_is() {
    let plots = contents(&rows(), Settings::default()).plots();
    let names = ["rewards", "margins", "token_rewards", "reward_curve", "positions", "reward_positions", "lengths"];
    assert_eq!(plots.iter().map(|(name, _)| *name).collect::<Vec<_>>(), names);
    assert!(plots[0].1.contains(">chosen</text>") && plots[0].1.contains(">rejected</text>"));
    assert!(contents(&rows().slice(0, 0), Settings::default()).plots().is_empty());
}
