//! Tables over the variants of a sweep, one for each stage that compares several things (`evaluate`, `audit`), and one of
//! what every model's run took.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::numbers::Measured;
use super::statistics::{Mean, decimals, shown};
use super::{Choose, Sweep, text_of};
use crate::pipeline::order::natural;

/// The numbers of one row of a table, by metric and by the value of the variable that repeats.
pub(super) type Cells<'a> = BTreeMap<&'a str, BTreeMap<&'a str, f64>>;

/// A line of a table.
#[derive(Debug)]
pub(super) struct Line<'a> {
    pub(super) label: &'a str,
    /// The values of the variables that neither repeat nor are chosen.
    pub(super) values: Vec<&'a str>,
    /// The value of the variable that is chosen; empty where none is, or where it makes no difference.
    pub(super) chosen: &'a str,
    pub(super) choice: Choice,
    pub(super) cells: Cells<'a>,
}

/// What a line is among those of its label that differ by the variable that is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Choice {
    /// Nothing was to be decided: there is one such line, or no stage that decides about its label.
    Open,
    Chosen,
    Other,
}

impl Line<'_> {
    /// The mean of `metric` over the repeats.
    pub(super) fn mean(&self, metric: &str) -> Option<Mean> {
        self.cells.get(metric).map(mean)
    }
}

fn mean(repeats: &BTreeMap<&str, f64>) -> Mean {
    Mean::of(repeats.values().copied())
}

/// Rows of a table: a label and the values of the variables that neither repeat nor are chosen.
struct Row<'a> {
    label: &'a str,
    values: Vec<&'a str>,
    /// By value of the chosen variable; by the empty text where none is chosen.
    cells: BTreeMap<&'a str, Cells<'a>>,
}

fn rows<'a>(sweep: &Sweep, measured: &'a [Measured], stage: &str) -> Vec<Row<'a>> {
    let others = others(sweep);
    let mut rows: Vec<Row> = Vec::new();
    for m in measured.iter().filter(|m| m.stage == stage && !m.label.is_empty()) {
        let value = |name: &str| m.values.get(name).map_or("", String::as_str);
        let values: Vec<&str> = others.iter().map(|name| value(name)).collect();
        let chosen = sweep.choose.as_ref().map_or("", |choose| value(&choose.variable));
        let repeat = sweep.repeats.as_deref().map_or("", value);
        let at = rows.iter().position(|row| row.label == m.label && row.values == values).unwrap_or_else(|| {
            rows.push(Row { label: &m.label, values, cells: BTreeMap::new() });
            rows.len() - 1
        });
        rows[at].cells.entry(chosen).or_default().entry(&m.metric).or_default().insert(repeat, m.value);
    }
    rows.sort_by(|a, b| {
        let by_values = || a.values.iter().zip(&b.values).map(|(a, b)| natural(a, b)).find(|order| order.is_ne());
        natural(a.label, b.label).then_with(|| by_values().unwrap_or(std::cmp::Ordering::Equal))
    });
    rows
}

/// The variables that neither repeat nor are chosen.
fn others(sweep: &Sweep) -> Vec<&str> {
    let fixed = |name: &String| {
        sweep.repeats.as_ref() == Some(name) || sweep.choose.as_ref().is_some_and(|choose| choose.variable == *name)
    };
    sweep.over.keys().filter(|name| !fixed(name)).map(String::as_str).collect()
}

/// The value that is chosen by the one-standard-error rule (Breiman and others, Classification and Regression Trees, 3.4.3):
/// the first of the sweep's list whose mean is no more than one standard error of the best mean below it.
fn decide<'a>(sweep: &Sweep, choose: &Choose, judged: &Row<'a>) -> Option<&'a str> {
    let scored = judged.cells.iter().filter_map(|(value, cells)| Some((*value, mean(cells.get(&*choose.metric)?))));
    let mut scored: Vec<(&str, Mean)> = scored.collect();
    let listed: Vec<String> = sweep.over.get(&choose.variable)?.iter().map(text_of).collect();
    scored.sort_by(|(a, _), (b, _)| {
        let place = |value: &str| listed.iter().position(|listed| listed == value).unwrap_or(listed.len());
        place(a).cmp(&place(b)).then_with(|| natural(a, b))
    });
    let best = scored.iter().map(|(_, mean)| mean).max_by(|a, b| a.mean.total_cmp(&b.mean))?;
    let least = best.mean - best.error;
    scored.iter().find(|(_, mean)| mean.mean >= least).map(|(value, _)| *value)
}

/// The lines of the table of `stage`.
pub(super) fn lines<'a>(sweep: &Sweep, measured: &'a [Measured], stage: &str) -> Vec<Line<'a>> {
    let judges = sweep.choose.as_ref().map(|choose| (choose, rows(sweep, measured, &choose.stage)));
    let mut lines = Vec::new();
    for row in rows(sweep, measured, stage) {
        let judged = judges.as_ref().and_then(|(choose, judges)| {
            let judge = judges.iter().find(|judge| judge.label == row.label && judge.values == row.values)?;
            decide(sweep, choose, judge)
        });
        // Where the value makes no difference, as for what stands before the training, one line is enough.
        let mut each = row.cells.values();
        let alike = each.next().is_some_and(|first| row.cells.len() > 1 && each.all(|cells| cells == first));
        let single = row.cells.len() == 1;
        let mut cells: Vec<(&str, Cells)> = row.cells.into_iter().collect();
        cells.sort_by(|(a, _), (b, _)| natural(a, b));
        if alike {
            cells.truncate(1);
        }
        for (value, cells) in cells {
            let choice = match judged {
                Some(_) if alike || single => Choice::Open,
                Some(judged) if judged == value => Choice::Chosen,
                Some(_) => Choice::Other,
                None => Choice::Open,
            };
            let chosen = if alike { "" } else { value };
            lines.push(Line { label: row.label, values: row.values.clone(), chosen, choice, cells });
        }
    }
    lines
}

/// The names of the columns that tell the lines of a table apart, but for the label.
pub(super) fn heads(sweep: &Sweep) -> Vec<&str> {
    others(sweep).into_iter().chain(sweep.choose.as_ref().map(|choose| choose.variable.as_str())).collect()
}

/// A table in Markdown.
pub(super) fn markdown(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut out = format!("| {} |\n|{}\n", head.join(" | "), "---|".repeat(head.len()));
    for row in rows {
        let _ = writeln!(out, "| {} |", row.join(" | "));
    }
    out
}

/// The table of `stage`. A line for every value of the variable that is chosen, and a word beside the one that was.
pub(super) fn table(sweep: &Sweep, measured: &[Measured], stage: &str) -> String {
    let lines = lines(sweep, measured, stage);
    let metrics: BTreeSet<&str> = lines.iter().flat_map(|line| line.cells.keys().copied()).collect();
    let mut metrics: Vec<&str> = metrics.into_iter().collect();
    metrics.sort_by(|a, b| natural(a, b));
    let digits: Vec<usize> = metrics
        .iter()
        .map(|metric| decimals(&lines.iter().filter_map(|line| line.mean(metric)).collect::<Vec<_>>()))
        .collect();
    let head = [vec![""], heads(sweep), vec!["n"], metrics.clone()].concat();
    let row = |line: &Line| {
        let mut row = vec![line.label.to_owned()];
        row.extend(line.values.iter().map(|value| (*value).to_owned()));
        row.extend(sweep.choose.as_ref().map(|_| match line.choice {
            Choice::Chosen => format!("{} (chosen)", line.chosen),
            Choice::Open | Choice::Other => line.chosen.to_owned(),
        }));
        row.push(line.cells.values().map(BTreeMap::len).max().unwrap_or_default().to_string());
        row.extend(
            metrics
                .iter()
                .zip(&digits)
                .map(|(metric, digits)| line.mean(metric).map_or_else(String::new, |mean| shown(mean, *digits))),
        );
        row
    };
    format!("## {stage}\n\n{}", markdown(&head, &lines.iter().map(row).collect::<Vec<_>>()))
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use super::super::numbers;
    use super::*;

    pub(in crate::pipeline::sweep) fn sweep(more: serde_json::Value) -> Sweep {
        let mut sweep = serde_json::json!({
            "over": { "seed": [1, 2], "lr": [3, 4] }, "repeats": "seed",
            "choose": { "variable": "lr", "stage": "judge", "metric": "accuracy" },
        });
        sweep.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(sweep).unwrap()
    }

    /// A number of seed, learning rate, stage, label and metric.
    pub(in crate::pipeline::sweep) fn one(at: [&str; 5], value: f64) -> Measured {
        let [seed, lr, stage, label, metric] = at.map(str::to_owned);
        let values = [("seed".to_owned(), seed), ("lr".to_owned(), lr)].into();
        Measured { values: Arc::new(values), stage, label, metric, value }
    }

    /// By learning rate, accuracy of both seeds at the stage that decides.
    fn judged(label: &str, of_3: [f64; 2], of_4: [f64; 2]) -> Vec<Measured> {
        let all = [("1", "3", of_3[0]), ("2", "3", of_3[1]), ("1", "4", of_4[0]), ("2", "4", of_4[1])];
        all.map(|(seed, lr, value)| one([seed, lr, "judge", label, "accuracy"], value)).to_vec()
    }

    #[test]
    fn what_a_choice_does_not_change_has_one_line() {
        let mut measured = judged("policy", [0.0, 1.0], [5.0, 5.5]);
        for m in measured.clone() {
            for (stage, gflop) in [("oracle", 7.0), ("policy", if m.values["lr"] == "4" { 3.0 } else { 2.0 })] {
                for (metric, value) in [("gflop", gflop), ("loss", 0.5)] {
                    measured.push(one([&m.values["seed"], &m.values["lr"], stage, "", metric], value));
                }
            }
        }
        let costs = numbers::costs(&measured);
        let text = table(&sweep(serde_json::json!({})), &[costs, measured].concat(), numbers::COSTS);
        let rows: Vec<&str> = text.lines().skip(2).collect();
        assert_eq!(rows[0], "|  | lr | n | gflop |");
        assert_eq!(
            rows[2..],
            ["| oracle |  | 2 | 7 ± 0 |", "| policy | 3 | 2 | 2 ± 0 |", "| policy | 4 (chosen) | 2 | 3 ± 0 |"]
        );
    }

    // At 4 the mean of `near` is 0.7 and its standard error 0.1, so that 0.65 at 3 is near enough; that of `far` is not.
    #[test]
    fn the_first_value_within_a_standard_error_of_the_best_is_chosen() {
        let measured = [
            judged("near", [0.6, 0.7], [0.6, 0.8]),
            judged("far", [0.5, 0.58], [0.6, 0.8]),
            judged("top", [0.9, 0.9], [0.1, 0.2]),
        ]
        .concat();
        let sweep = sweep(serde_json::json!({}));
        let lines = lines(&sweep, &measured, "judge");
        let chosen = lines.iter().filter(|line| line.choice == Choice::Chosen).map(|line| (line.label, line.chosen));
        assert_eq!(chosen.collect::<Vec<_>>(), [("far", "4"), ("near", "3"), ("top", "3")]);
        assert_eq!(lines.len(), 6, "every value has its line");
    }

    #[test]
    fn rows_and_columns_are_sorted_by_their_numbers() {
        let mut measured = Vec::new();
        for label in ["both_100", "both_20", "both_10"] {
            for metric in ["best_100", "best_20"] {
                measured.push(one(["1", "3", "report", label, metric], 0.5));
            }
        }
        let text = table(&sweep(serde_json::json!({"choose": null})), &measured, "report");
        let rows: Vec<&str> = text.lines().skip(2).collect();
        assert_eq!(rows[0], "|  | lr | n | best_20 | best_100 |");
        let labels: Vec<&str> = rows[2..].iter().map(|row| row.split(" | ").next().unwrap()).collect();
        assert_eq!(labels, ["| both_10", "| both_20", "| both_100"]);
    }
}
