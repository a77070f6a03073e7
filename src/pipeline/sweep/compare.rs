//! Differences between the things that a stage compares. Variants of one seed have their rows and starts in common, so
//! differences are taken seed by seed; and as several are looked at in one table, their tests are corrected for that.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Sweep;
use super::numbers::Measured;
use super::statistics::{Mean, decimals, holm, shown, shown_p};
use super::table::{Choice, Line, heads, lines, markdown};

/// Compares one label of a stage's result table with all others.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Compare {
    /// The stage.
    #[schemars(extend("examples" = ["report"]))]
    pub stage: String,
    /// Label that all others are compared with.
    #[schemars(extend("examples" = ["sepo"]))]
    pub against: String,
    /// Metrics to compare.
    #[schemars(extend("examples" = [["accuracy", "margin"]]))]
    pub metrics: Vec<String>,
}

/// Lines that are compared in one table: with the values that were chosen for them, or all with one value.
#[derive(Clone, Copy)]
enum Which<'a> {
    Chosen,
    With(&'a str),
}

impl Which<'_> {
    fn takes(self, line: &Line) -> bool {
        match self {
            Self::Chosen => line.choice != Choice::Other,
            Self::With(value) => line.chosen.is_empty() || line.chosen == value,
        }
    }
}

impl Compare {
    /// The comparison as Markdown: for each number a table with what was chosen, then one for every value.
    pub(super) fn text(&self, sweep: &Sweep, measured: &[Measured]) -> String {
        let Some(repeats) = &sweep.repeats else { return String::new() };
        let lines = lines(sweep, measured, &self.stage);
        let mut values: Vec<&str> =
            lines.iter().filter(|line| line.choice != Choice::Open).map(|line| line.chosen).collect();
        values.dedup();
        values.sort_by(|a, b| crate::pipeline::order::natural(a, b));
        values.dedup();
        let mut out = String::new();
        for metric in &self.metrics {
            for which in std::iter::once(Which::Chosen).chain(values.iter().map(|value| Which::With(value))) {
                let rows = self.rows(&lines, metric, which);
                if rows.is_empty() {
                    continue;
                }
                let with = match (which, &sweep.choose) {
                    (Which::With(value), Some(choose)) => format!(", all with `{}` {value}", choose.variable),
                    (Which::Chosen, Some(choose)) if !values.is_empty() => {
                        let own = lines.iter().filter(|line| line.label == self.against && which.takes(line));
                        let own: Vec<&str> = own.map(|line| line.chosen).collect();
                        format!(
                            ", each with the `{}` chosen for it ({}: {})",
                            choose.variable,
                            self.against,
                            own.join(", ")
                        )
                    }
                    _ => String::new(),
                };
                let against = &self.against;
                out += &format!(
                    "\n### {}: {metric} less that of `{against}`, paired by `{repeats}`{with}\n\n",
                    self.stage
                );
                let head = [vec![""], heads(sweep), vec!["n", "difference", "p", "p (Holm)"]].concat();
                out += &markdown(&head, &table(&rows, sweep));
            }
        }
        out
    }

    /// Every line but those of `against`, with its difference from the one of these that has the same values.
    fn rows<'l, 'a>(&self, lines: &'l [Line<'a>], metric: &str, which: Which) -> Vec<(&'l Line<'a>, Mean)> {
        let taken = || lines.iter().filter(|line| which.takes(line));
        let others = taken().filter(|line| line.label != self.against);
        let difference = |line: &'l Line<'a>| {
            let base = taken().find(|base| base.label == self.against && base.values == line.values)?;
            let (own, theirs) = (line.cells.get(metric)?, base.cells.get(metric)?);
            let pairs = own.iter().filter_map(|(repeat, own)| Some(own - theirs.get(repeat)?));
            let pairs: Vec<f64> = pairs.collect();
            (pairs.len() > 1).then(|| (line, Mean::of(pairs.into_iter())))
        };
        others.filter_map(difference).collect()
    }
}

fn table(rows: &[(&Line, Mean)], sweep: &Sweep) -> Vec<Vec<String>> {
    let means: Vec<Mean> = rows.iter().map(|(_, mean)| *mean).collect();
    let ps: Vec<f64> = means.iter().map(Mean::p).collect();
    let (corrected, digits) = (holm(&ps), decimals(&means));
    let row = |((line, mean), (p, corrected)): (&(&Line, Mean), (f64, f64))| {
        let mut row = vec![line.label.to_owned()];
        row.extend(line.values.iter().map(|value| (*value).to_owned()));
        row.extend(sweep.choose.as_ref().map(|_| line.chosen.to_owned()));
        row.extend([mean.n.to_string(), shown(*mean, digits), shown_p(p), shown_p(corrected)]);
        row
    };
    rows.iter().zip(ps.iter().copied().zip(corrected)).map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::super::table::tests::{one, sweep};
    use super::*;

    // >>> import numpy as np; from scipy import stats; from statsmodels.stats.multitest import multipletests
    // >>> own = np.array([.70, .72, .71]); random = np.array([.60, .64, .60]); all = np.array([.71, .71, .72])
    // >>> d = random - own; d.mean(), stats.t.ppf(.975, 2) * stats.sem(d), stats.ttest_rel(random, own).pvalue
    // (-0.09667, 0.03795, 0.00821)
    // >>> d = all - own; d.mean(), stats.t.ppf(.975, 2) * stats.sem(d), stats.ttest_rel(all, own).pvalue
    // (0.00333, 0.02869, 0.66667)
    // >>> multipletests([0.00821, 0.66667], method="holm")[1]
    // array([0.01642, 0.66667])
    #[test]
    fn differences_are_paired_and_corrected() {
        let mut measured = Vec::new();
        for (label, values) in
            [("sepo", [0.70, 0.72, 0.71]), ("random", [0.60, 0.64, 0.60]), ("all", [0.71, 0.71, 0.72])]
        {
            for (seed, value) in ["1", "2", "3"].into_iter().zip(values) {
                measured.push(one([seed, "3", "report", label, "accuracy"], value));
            }
        }
        let sweep = sweep(serde_json::json!({"choose": null, "over": {"seed": [1, 2, 3]}}));
        let compare = Compare { stage: "report".into(), against: "sepo".into(), metrics: vec!["accuracy".into()] };
        let expected = "
### report: accuracy less that of `sepo`, paired by `seed`

|  | n | difference | p | p (Holm) |
|---|---|---|---|---|
| all | 3 | 0.003 ± 0.029 | 0.667 | 0.667 |
| random | 3 | -0.097 ± 0.038 | 0.008 | 0.016 |
";
        assert_eq!(compare.text(&sweep, &measured), expected);
    }

    #[test]
    fn what_was_chosen_and_each_value_for_all_have_their_tables() {
        let mut measured = Vec::new();
        for (label, of_3, of_4) in [("sepo", 0.9, 0.7), ("random", 0.6, 0.8)] {
            for (lr, value) in [("3", of_3), ("4", of_4)] {
                for (seed, noise) in [("1", 0.0), ("2", 0.02)] {
                    for stage in ["judge", "report"] {
                        measured.push(one(
                            [seed, lr, stage, label, "accuracy"],
                            value + noise * f64::from(label.len() as u8),
                        ));
                    }
                }
            }
        }
        let compare = Compare { stage: "report".into(), against: "sepo".into(), metrics: vec!["accuracy".into()] };
        let text = compare.text(&sweep(serde_json::json!({})), &measured);
        let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| random")).collect();
        let shown: Vec<(&str, &str)> = rows
            .iter()
            .map(|row| row.split(" | ").collect::<Vec<_>>())
            .map(|cells| (cells[1], cells[3].split(' ').next().unwrap()))
            .collect();
        // 0.8 less 0.9 with what was chosen; 0.6 less 0.9 with 3, 0.8 less 0.7 with 4; 0.02 more, on average.
        assert_eq!(shown, [("4", "-0.08"), ("3", "-0.28"), ("4", "0.12")], "{text}");
        assert!(
            text.contains("each with the `lr` chosen for it (sepo: 3)")
                && text.contains("all with `lr` 3")
                && text.contains("all with `lr` 4"),
            "{text}"
        );
    }
}
