//! Tables over the variants of a sweep: every number in `numbers.parquet`, and for people `tables.md`, one table for each
//! stage that compares several things (`evaluate`, `audit`), and one of what every model's run took.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray};
use serde_json::Value;

use super::{Outcome, Sweep};
use crate::error::{Error, Place, Result};
use crate::io::{FileFormat, Owned};

/// A number that a stage of a variant reported. `label` is the model or the side that it is about, or empty.
#[derive(Clone, Copy)]
struct Measured<'a> {
    values: &'a BTreeMap<String, String>,
    stage: &'a str,
    label: &'a str,
    metric: &'a str,
    value: f64,
}

/// Writes the tables into `folder`; returns `tables.md` and the names of all files.
pub(super) fn write(sweep: &Sweep, outcomes: &[Outcome], folder: &mut Owned) -> Result<(String, Vec<String>)> {
    let measured: Vec<Measured> = outcomes.iter().flat_map(measured).collect();
    let (numbers, text_file) = (folder.expect("numbers.parquet")?, folder.expect("tables.md")?);
    let batch = batch(sweep, &measured).map_err(|error| Error::data(Place::file(&numbers), error))?;
    let mut writer = FileFormat::Parquet.create(&numbers, &batch.schema())?;
    writer.write(&batch)?;
    writer.finish()?;
    let measured = [costs(&measured), measured].concat();
    let stages: BTreeSet<&str> = measured.iter().filter(|m| !m.label.is_empty()).map(|m| m.stage).collect();
    let text = stages.iter().map(|stage| table(sweep, &measured, stage)).collect::<Vec<_>>().join("\n");
    text_file.write(text.clone())?;
    let mut files = vec![numbers.to_string(), text_file.to_string()];
    for (name, plot) in &sweep.plots {
        if let Some(svg) = plot.svg(&lines(sweep, &measured, &plot.stage)) {
            let file = folder.expect(&format!("{name}.svg"))?;
            file.write(svg)?;
            files.push(file.to_string());
        }
    }
    Ok((text, files))
}

fn measured(outcome: &Outcome) -> Vec<Measured<'_>> {
    let mut all = Vec::new();
    for (stage, report) in &outcome.report.stages {
        let mut put =
            |label, metric, value| all.push(Measured { values: &outcome.values, stage, label, metric, value });
        put("", "seconds", report.seconds);
        for (name, value) in report.metrics.iter().filter(|(name, _)| *name != "seconds") {
            match (value.as_f64(), value.as_object()) {
                (Some(value), _) => put("", name, value),
                (None, Some(several)) => {
                    // A rate with its interval counts as the rate.
                    let number = |value: &Value| value.as_f64().or_else(|| value.get("rate")?.as_f64());
                    let numbers = several.iter().filter_map(|(metric, value)| Some((metric, number(value)?)));
                    numbers.for_each(|(metric, value)| put(name, metric, value));
                }
                (None, None) => {}
            }
        }
    }
    all
}

/// What the stages that run a model took, each as a label of one table. Its name is no stage's.
fn costs<'a>(measured: &[Measured<'a>]) -> Vec<Measured<'a>> {
    let whole = |m: &&Measured| m.label.is_empty();
    let with_model: BTreeSet<&str> =
        measured.iter().filter(whole).filter(|m| m.metric == "gflop").map(|m| m.stage).collect();
    let wanted = |m: &&Measured| with_model.contains(m.stage) && ["seconds", "tokens", "gflop"].contains(&m.metric);
    let labelled = |m: &Measured<'a>| Measured { stage: "costs by stage", label: m.stage, ..*m };
    measured.iter().filter(whole).filter(wanted).map(labelled).collect()
}

/// One row a number: the sweep's variables, `stage`, `label`, `metric`, `value`.
fn batch(sweep: &Sweep, measured: &[Measured]) -> Result<RecordBatch, arrow::error::ArrowError> {
    let texts = |text: &dyn Fn(&Measured) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(measured.iter().map(text)))
    };
    let variables = sweep.over.keys().map(|name| (name.clone(), texts(&|m| m.values[name].clone())));
    let mut columns: Vec<(String, ArrayRef)> = variables.collect();
    columns.push(("stage".into(), texts(&|m| m.stage.to_owned())));
    columns.push(("label".into(), texts(&|m| m.label.to_owned())));
    columns.push(("metric".into(), texts(&|m| m.metric.to_owned())));
    columns.push(("value".into(), Arc::new(Float64Array::from_iter_values(measured.iter().map(|m| m.value)))));
    RecordBatch::try_from_iter(columns)
}

/// The numbers of one row of a table: by metric, over the repeats.
pub(super) type Cells<'a> = BTreeMap<&'a str, Vec<f64>>;

/// Rows of a table: a label and the values of the variables that neither repeat nor are chosen.
struct Row<'a> {
    label: &'a str,
    values: Vec<&'a str>,
    /// By value of the chosen variable; by the empty text where none is chosen.
    cells: BTreeMap<&'a str, Cells<'a>>,
}

fn rows<'a>(sweep: &Sweep, measured: &'a [Measured], stage: &str, others: &[&String]) -> Vec<Row<'a>> {
    let mut rows: Vec<Row> = Vec::new();
    for m in measured.iter().filter(|m| m.stage == stage && !m.label.is_empty()) {
        let values: Vec<&str> = others.iter().map(|name| m.values[*name].as_str()).collect();
        let chosen = sweep.choose.as_ref().map_or("", |choose| m.values[&choose.variable].as_str());
        let at = rows.iter().position(|row| row.label == m.label && row.values == values).unwrap_or_else(|| {
            rows.push(Row { label: m.label, values, cells: BTreeMap::new() });
            rows.len() - 1
        });
        rows[at].cells.entry(chosen).or_default().entry(m.metric).or_default().push(m.value);
    }
    rows.sort_by_key(|row| row.label);
    rows
}

/// A line of a table: with a choice, the value that did best at the stage that decides.
pub(super) struct Line<'a> {
    pub(super) label: &'a str,
    pub(super) values: Vec<&'a str>,
    pub(super) chosen: &'a str,
    pub(super) cells: Cells<'a>,
}

/// The variables that neither repeat nor are chosen.
fn others(sweep: &Sweep) -> Vec<&String> {
    let fixed = |name: &String| {
        sweep.repeats.as_ref() == Some(name) || sweep.choose.as_ref().is_some_and(|choose| choose.variable == *name)
    };
    sweep.over.keys().filter(|name| !fixed(name)).collect()
}

fn lines<'a>(sweep: &Sweep, measured: &'a [Measured], stage: &str) -> Vec<Line<'a>> {
    let others = others(sweep);
    let judges = sweep.choose.as_ref().map(|choose| (choose, rows(sweep, measured, &choose.stage, &others)));
    let mut lines = Vec::new();
    for row in rows(sweep, measured, stage, &others) {
        let best = judges.as_ref().and_then(|(choose, judges)| {
            let judge = judges.iter().find(|judge| judge.label == row.label && judge.values == row.values)?;
            let score = |cells: &Cells| cells.get(choose.metric.as_str()).map(|values| mean(values));
            let scored = judge.cells.iter().filter_map(|(value, cells)| Some((*value, score(cells)?)));
            scored.max_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(value, _)| value)
        });
        // Without a decision, every value has its line, or one for all where it makes no difference.
        let mut each = row.cells.values();
        let alike = each.next().is_some_and(|first| row.cells.len() > 1 && each.all(|cells| cells == first));
        if best.is_none() && alike {
            let cells = row.cells.into_values().next().unwrap_or_default();
            lines.push(Line { label: row.label, values: row.values, chosen: "", cells });
            continue;
        }
        for (chosen, cells) in row.cells.into_iter().filter(|(value, _)| best.is_none_or(|best| best == *value)) {
            lines.push(Line { label: row.label, values: row.values.clone(), chosen, cells });
        }
    }
    lines
}

/// The table of `stage`.
fn table(sweep: &Sweep, measured: &[Measured], stage: &str) -> String {
    let lines = lines(sweep, measured, stage);
    let mut out = format!("## {stage}\n\n");
    let metrics: BTreeSet<&str> = lines.iter().flat_map(|line| line.cells.keys().copied()).collect();
    let chosen = sweep.choose.as_ref().map(|choose| choose.variable.as_str());
    let mut head = vec![""];
    head.extend(others(sweep).iter().map(|name| name.as_str()));
    head.extend(chosen);
    head.push("n");
    head.extend(&metrics);
    let _ = writeln!(out, "| {} |\n|{}", head.join(" | "), "---|".repeat(head.len()));
    for Line { label, values, chosen: value, cells } in &lines {
        let n = cells.values().map(Vec::len).max().unwrap_or_default().to_string();
        let mut line = vec![(*label).to_owned()];
        line.extend(values.iter().map(|value| (*value).to_owned()));
        line.extend(chosen.map(|_| (*value).to_owned()));
        line.push(n);
        line.extend(metrics.iter().map(|metric| cells.get(metric).map_or_else(String::new, |v| interval(v))));
        let _ = writeln!(out, "| {} |", line.join(" | "));
    }
    out
}

pub(super) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Mean, and half the width of its 95 % interval.
fn interval(values: &[f64]) -> String {
    let (mean, n) = (mean(values), values.len());
    let number = |value: f64| {
        if value.fract() == 0.0 && value.abs() < 1e15 { format!("{value}") } else { format!("{value:.4}") }
    };
    if n < 2 {
        return number(mean);
    }
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1) as f64;
    format!("{} ± {}", number(mean), number(quantile(n - 1) * (variance / n as f64).sqrt()))
}

/// The 97.5 % quantile of Student's t.
// scipy 1.17: [round(scipy.stats.t.ppf(.975, d), 5) for d in range(1, 31)]
fn quantile(degrees: usize) -> f64 {
    const T: [f64; 30] = [
        12.70620, 4.30265, 3.18245, 2.77645, 2.57058, 2.44691, 2.36462, 2.30600, 2.26216, 2.22814, 2.20099, 2.17881,
        2.16037, 2.14479, 2.13145, 2.11991, 2.10982, 2.10092, 2.09302, 2.08596, 2.07961, 2.07387, 2.06866, 2.06390,
        2.05954, 2.05553, 2.05183, 2.04841, 2.04523, 2.04227,
    ];
    T.get(degrees - 1).copied().unwrap_or(1.96)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_choice_does_not_change_has_one_line() {
        let sweep: Sweep = serde_json::from_value(serde_json::json!({
            "over": { "seed": [1, 2], "lr": [3, 4] }, "repeats": "seed",
            "choose": { "variable": "lr", "stage": "judge", "metric": "accuracy" },
        }))
        .unwrap();
        let values = |seed: &str, lr: &str| {
            BTreeMap::from([("seed".to_owned(), seed.to_owned()), ("lr".to_owned(), lr.to_owned())])
        };
        let variants = [values("1", "3"), values("2", "3"), values("1", "4"), values("2", "4")];
        let one = |values, stage, label, metric, value| Measured { values, stage, label, metric, value };
        let mut measured = Vec::new();
        for (index, values) in variants.iter().enumerate() {
            measured.push(one(values, "judge", "policy", "accuracy", index as f64));
            for (stage, gflop) in [("oracle", 7.0), ("policy", 2.0 + (index / 2) as f64)] {
                measured.push(one(values, stage, "", "gflop", gflop));
                measured.push(one(values, stage, "", "loss", 0.5));
            }
        }
        let costs = costs(&measured);
        let text = table(&sweep, &[costs, measured].concat(), "costs by stage");
        let rows: Vec<&str> = text.lines().skip(2).collect();
        assert_eq!(rows[0], "|  | lr | n | gflop |");
        assert_eq!(rows[2..], ["| oracle |  | 2 | 7 ± 0 |", "| policy | 4 | 2 | 3 ± 0 |"]);
    }

    // scipy 1.17: stats.t.interval(.95, 4, loc=np.mean(x), scale=stats.sem(x)) for x = [1, 2, 3, 4, 6]
    // -> (0.8116, 5.5884), which is 3.2 ± 2.3884
    #[test]
    fn intervals_are_students() {
        assert_eq!(interval(&[1.0, 2.0, 3.0, 4.0, 6.0]), "3.2000 ± 2.3884");
        assert_eq!(interval(&[3.0]), "3");
    }
}
