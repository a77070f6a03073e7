//! What a run did, as tables for people.

use std::fmt::Write;

use serde_json::Value;

use crate::pipeline::{Plan, Report};

/// The stages' counts, then what each of them measured.
pub(super) fn summary(plan: &Plan, report: &Report) -> String {
    let mut out = format!("{:<22} {:>9} {:>9} {:>9} {:>9}\n", "stage", "rows in", "rows out", "set aside", "seconds");
    let done = plan.nodes.iter().filter_map(|node| Some((&node.id, report.stages.get(&node.id)?)));
    for (id, stage) in done.clone() {
        let aside: u64 = stage.set_aside.values().sum();
        let (rows_in, rows_out, seconds) = (stage.rows_in, stage.rows_out, stage.seconds);
        let _ = writeln!(out, "{id:<22} {rows_in:>9} {rows_out:>9} {aside:>9} {seconds:>9.1}");
        for (reason, count) in &stage.set_aside {
            let _ = writeln!(out, "{:<22} {count} {reason}", "");
        }
        // Rows that a training holds out are counted apart from those that it trains on.
        for (reason, count) in report.stages.get(&format!("{id}.eval")).iter().flat_map(|held_out| &held_out.set_aside)
        {
            let _ = writeln!(out, "{:<22} {count} {reason} (held out)", "");
        }
    }
    for (id, stage) in done.filter(|(_, stage)| !stage.metrics.is_empty()) {
        let _ = writeln!(out, "\n{id}");
        let rows: Option<Vec<_>> = stage.metrics.iter().map(|(name, row)| Some((name, row.as_object()?))).collect();
        match rows {
            Some(rows) => table(&mut out, &rows),
            None => {
                for (name, value) in &stage.metrics {
                    let _ = writeln!(out, "  {name:<28} {}", number(value));
                }
                for (name, sum) in [("tokens a second", "tokens"), ("GFLOP/s", "gflop")] {
                    let sum =
                        stage.metrics.get(sum).and_then(Value::as_f64).filter(|_| stage.metrics.contains_key("gflop"));
                    if let Some(sum) = sum.filter(|_| stage.seconds > 0.0) {
                        let _ = writeln!(out, "  {name:<28} {:.1}", sum / stage.seconds);
                    }
                }
            }
        }
    }
    for (id, stage) in &report.stages {
        for warning in &stage.warnings {
            let _ = writeln!(out, "\nwarning: stage `{id}`: {warning}");
        }
    }
    for file in &report.outputs {
        let _ = writeln!(out, "\nwrote {file}");
    }
    if let Some(why) = &report.waiting {
        let _ = writeln!(out, "\nnot finished: {why}");
    }
    out
}

/// Entries that are maps themselves: a column for each of them.
fn table(out: &mut String, columns: &[(&String, &serde_json::Map<String, Value>)]) {
    let _ = write!(out, "  {:<28}", "");
    for (name, _) in columns {
        let _ = write!(out, " {name:>12}");
    }
    out.push('\n');
    let Some((_, first)) = columns.first() else { return };
    for name in first.keys() {
        let _ = write!(out, "  {name:<28}");
        for (_, column) in columns {
            let _ = write!(out, " {:>12}", column.get(name).map(number).unwrap_or_default());
        }
        out.push('\n');
    }
}

fn number(value: &Value) -> String {
    match value.as_f64() {
        Some(value) if value.fract() == 0.0 && value.abs() < 1e15 => format!("{value}"),
        Some(value) if value != 0.0 && value.abs() < 1e-3 => format!("{value:.3e}"),
        Some(value) => format!("{value:.4}"),
        None => value.to_string(),
    }
}
