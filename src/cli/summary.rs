//! What a run did, as tables for people.

use std::fmt::Write;

use serde_json::{Map, Value};

use super::numbers;
use crate::pipeline::report::StageReport;
use crate::pipeline::{Plan, Report};

/// Characters of a line.
const WIDTH: usize = 100;

/// The stages' counts, then what each of them measured.
pub(super) fn summary(plan: &Plan, report: &Report) -> String {
    let mut out = String::new();
    let done = plan.nodes.iter().filter_map(|node| Some((&node.id, report.stages.get(&node.id)?)));
    let done: Vec<(&String, &StageReport)> = done.collect();
    counts(&mut out, &done, report);
    for (id, stage) in done {
        measured(&mut out, id, stage);
    }
    for (id, stage) in &report.stages {
        for warning in &stage.warnings {
            let _ = writeln!(out, "\nwarning: stage `{id}`: {warning}");
        }
    }
    if !report.outputs.is_empty() {
        out.push('\n');
    }
    for file in &report.outputs {
        let _ = writeln!(out, "wrote {file}");
    }
    if let Some(why) = &report.waiting {
        let _ = writeln!(out, "\nnot finished: {why}");
    }
    out
}

/// Rows and seconds of every stage. A stage that was reused has the seconds of this run.
fn counts(out: &mut String, done: &[(&String, &StageReport)], report: &Report) {
    let width = done.iter().map(|(id, _)| id.chars().count()).max().unwrap_or_default().max(22);
    let _ = writeln!(out, "{:<width$} {:>9} {:>9} {:>9} {:>9}", "stage", "rows in", "rows out", "set aside", "seconds");
    for (id, stage) in done {
        let aside: u64 = stage.set_aside.values().sum();
        let (rows_in, rows_out, seconds) = (stage.rows_in, stage.rows_out, stage.reused.unwrap_or(stage.seconds));
        let reused = if stage.reused.is_some() { "  reused" } else { "" };
        let _ = writeln!(out, "{id:<width$} {rows_in:>9} {rows_out:>9} {aside:>9} {seconds:>9.1}{reused}");
        // Rows that a training holds out are counted apart from those that it trains on.
        let held_out = report.stages.get(&format!("{id}.eval")).into_iter().flat_map(|held_out| &held_out.set_aside);
        let reasons = stage.set_aside.iter().map(|reason| (reason, "")).chain(held_out.map(|it| (it, " (held out)")));
        for ((reason, count), held_out) in reasons.filter(|((_, count), _)| **count > 0) {
            let _ = writeln!(out, "{:<width$} {count} {reason}{held_out}", "");
        }
    }
}

/// The numbers of stage `id`: a list, and a table of those that it has for several things, such as models.
fn measured(out: &mut String, id: &str, stage: &StageReport) {
    let numbers = || stage.metrics.iter().filter(|(_, value)| !numbers::is_nothing(value));
    let compared: Vec<(&str, &Map<String, Value>)> =
        numbers().filter_map(|(name, value)| Some((name.as_str(), value.as_object()?))).collect();
    let mut list: Vec<(&str, String)> = numbers()
        .filter(|(_, value)| !value.is_object())
        .map(|(name, value)| (name.as_str(), numbers::one(value)))
        .collect();
    let sum = |name: &str| stage.metrics.get(name).and_then(Value::as_f64).filter(|sum| *sum > 0.0);
    if let (Some(tokens), Some(gflop), true) = (sum("tokens"), sum("gflop"), stage.seconds > 0.0) {
        for (name, sum) in [("tokens a second", tokens), ("GFLOP/s", gflop)] {
            list.push((name, numbers::one(&(sum / stage.seconds).into())));
        }
    }
    if list.is_empty() && compared.is_empty() {
        return;
    }
    let _ = writeln!(out, "\n{id}");
    let items: Vec<String> = list.iter().map(|(name, value)| format!("{name} {value}")).collect();
    *out += &lines(&items);
    if !compared.is_empty() {
        table(out, &compared);
    }
}

/// `items` with commas between them, in indented lines.
fn lines(items: &[String]) -> String {
    let (mut out, mut line) = (String::new(), String::new());
    for item in items {
        if !line.is_empty() && line.chars().count() + item.chars().count() + 3 > WIDTH {
            let _ = writeln!(out, " {line},");
            line.clear();
        }
        line += if line.is_empty() { " " } else { ", " };
        line += item;
    }
    if !line.is_empty() {
        let _ = writeln!(out, " {line}");
    }
    out
}

/// A column for each of several things, a row for every number that any of them has.
fn table(out: &mut String, columns: &[(&str, &Map<String, Value>)]) {
    let mut rows: Vec<(&str, Vec<String>)> = Vec::new();
    for name in union(columns) {
        let values: Vec<Option<&Value>> = columns.iter().map(|(_, column)| column.get(name)).collect();
        if !values.iter().flatten().all(|value| numbers::is_nothing(value)) {
            rows.push((name, numbers::row(&values)));
        }
    }
    let first = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or_default().max(28);
    let width = |index: usize, label: &str| {
        let cells = rows.iter().map(|(_, cells)| cells[index].chars().count());
        cells.chain([label.chars().count()]).max().unwrap_or_default().max(12)
    };
    let widths: Vec<usize> = columns.iter().enumerate().map(|(index, (label, _))| width(index, label)).collect();
    let labels = columns.iter().map(|(label, _)| (*label).to_owned()).collect();
    for (name, cells) in [("", labels)].into_iter().chain(rows) {
        let _ = write!(out, "  {name:<first$}");
        for (cell, width) in cells.iter().zip(&widths) {
            let _ = write!(out, " {cell:>width$}");
        }
        out.push('\n');
    }
}

/// The names of all columns' numbers. Those that only some columns have stand where these columns have them.
fn union<'a>(columns: &[(&str, &'a Map<String, Value>)]) -> Vec<&'a str> {
    let mut names: Vec<&str> = Vec::new();
    for (_, column) in columns {
        let mut next = 0;
        for name in column.keys() {
            match names.iter().position(|known| known == name) {
                Some(at) => next = at + 1,
                None => {
                    names.insert(next, name);
                    next += 1;
                }
            }
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn shown(metrics: Value) -> String {
        let mut out = String::new();
        let metrics = metrics.as_object().unwrap().clone();
        measured(&mut out, "report", &StageReport { metrics, ..StageReport::default() });
        out
    }

    #[test]
    fn a_table_has_every_number_that_any_column_has() {
        let rate = json!({"against": "before", "rate": 0.5, "low": 0.3125, "high": 0.6875});
        let out = shown(json!({
            "before": {"answers": 16, "perfect": 0.25},
            "policy": {"pairs": 512, "accuracy": 0.98046875, "answers": 16, "kl": 0.0123, "perfect": 0.5, "win_rate": rate},
        }));
        let expected = "
report
                                     before            policy
  pairs                                                   512
  accuracy                                              0.980
  answers                                16                16
  kl                                                   0.0123
  perfect                             0.250             0.500
  win_rate                                  0.50 [0.31, 0.69]
";
        assert_eq!(out, expected);
    }

    #[test]
    fn a_long_list_is_several_lines() {
        let items: Vec<String> = (0..30).map(|at| format!("metric_{at} {at}")).collect();
        let lines = lines(&items);
        assert!(lines.lines().all(|line| line.starts_with("  m") && line.chars().count() <= WIDTH), "{lines}");
        assert_eq!(lines.lines().map(str::trim).collect::<Vec<_>>().join(" "), items.join(", "));
        assert_eq!(super::lines(&[]), "");
    }

    #[test]
    fn counters_of_nothing_are_not_shown() {
        let out = shown(json!({"rows": 12, "chosen_truncated": 0, "example": "row 3", "share": 0.0}));
        assert_eq!(out, "\nreport\n  rows 12, example row 3, share 0\n");
        assert_eq!(shown(json!({"stand_ins": 0})), "");
        let out = shown(json!({"a": {"ties": 0, "rows": 1}, "b": {"ties": 0, "rows": 1}}));
        assert!(!out.contains("ties") && out.contains("rows"), "{out}");
    }
}
