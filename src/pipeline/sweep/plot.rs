//! Plots over the variants of a sweep, as SVG: one number against another, or against the number that a label ends with
//! (`both_10`, `both_20`, ... is a line called `both`) or a number's own name (`reward_in_best_10`, ...). Where there are
//! several repeats, bars show the 95 % interval that the table has.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::statistics::Mean;
use super::table::{Choice, Line};
use super::words;
use crate::pipeline::order::natural;
use crate::plot::{self, Marks, Point, Series, Value};

/// A plot of a stage's result table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Plot {
    /// The stage.
    #[schemars(extend("examples" = ["report"]))]
    pub stage: String,
    /// Horizontal axis: a metric of the table; `label`, for the number at the end of each label; or `metric`, for the
    /// numbers at the end of the metrics whose names begin with `y` (`y: reward_in_best` for `reward_in_best_10`, …).
    #[schemars(extend("examples" = ["label"]))]
    pub x: String,
    /// Vertical axis: a metric of the table. With `x: metric`, the common start of several names.
    #[schemars(extend("examples" = ["accuracy"]))]
    pub y: String,
    /// Title. The default names the axes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["Accuracy by share of key tokens"]))]
    pub title: Option<String>,
    /// Label of the horizontal axis. The default is the metric in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["key tokens (%)"]))]
    pub x_label: Option<String>,
    /// Label of the vertical axis. The default is the metric in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["held-out accuracy"]))]
    pub y_label: Option<String>,
}

/// The words for [`Plot::x`] that are no number's name.
pub(super) const LABEL: &str = "label";
pub(super) const METRIC: &str = "metric";

/// `name_10` as a name and a number.
pub(super) fn numbered(label: &str) -> Option<(&str, f64)> {
    let (name, number) = label.rsplit_once('_')?;
    Some((name, number.parse().ok()?))
}

impl Plot {
    /// The plot of `lines`, those of its stage.
    ///
    /// # Errors
    /// No line has both numbers.
    pub(super) fn svg(&self, lines: &[Line]) -> Result<String, String> {
        let series = self.series(lines);
        let y = self.y_label.clone().unwrap_or_else(|| words::of(&self.y));
        let x = self.x_label.clone().unwrap_or_else(|| match self.x.as_str() {
            LABEL => "number at the end of the name".into(),
            METRIC => format!("{}, by the number in its name", words::of(&self.y)),
            name => words::of(name),
        });
        let title = self.title.clone().unwrap_or_else(|| format!("{}: {y} by {x}", self.stage));
        let drawn = plot::Plot { title, x, y, marks: Marks::Dots, series }.svg();
        drawn.ok_or_else(|| format!("stage `{}` measured no `{}` together with `{}`", self.stage, self.x, self.y))
    }

    fn series(&self, lines: &[Line]) -> Vec<Series> {
        let mut all: Vec<Series> = Vec::new();
        let mut add = |name: String, point: Point| match all.iter_mut().find(|series| series.name == name) {
            Some(series) => series.points.push(point),
            None => all.push(Series { name, points: vec![point] }),
        };
        for line in lines.iter().filter(|line| line.choice != Choice::Other) {
            let named = |label: &str| [&[label], &line.values[..]].concat().join(" ");
            if self.x == METRIC {
                let of = line.cells.keys().filter_map(|name| Some((numbered(name)?, line.mean(name)?)));
                for ((_, x), y) in of.filter(|((name, _), _)| *name == self.y) {
                    add(named(line.label), Point { x: x.into(), y: y.into() });
                }
                continue;
            }
            let Some(y) = line.mean(&self.y) else { continue };
            if self.x == LABEL {
                let Some((name, x)) = numbered(line.label) else { continue };
                add(named(name), Point { x: x.into(), y: y.into() });
            } else if let Some(x) = line.mean(&self.x) {
                add(named(line.label), Point { x: x.into(), y: y.into() });
            }
        }
        all.iter_mut().for_each(|series| series.points.sort_by(|a, b| a.x.at.total_cmp(&b.x.at)));
        all.sort_by(|a, b| natural(&a.name, &b.name));
        all
    }
}

impl From<Mean> for Value {
    fn from(mean: Mean) -> Self {
        Self { at: mean.mean, half: mean.half }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn line(label: &'static str, cells: &[(&'static str, [f64; 2])]) -> Line<'static> {
        let repeats = |[one, two]: [f64; 2]| BTreeMap::from([("1", one), ("2", two)]);
        let cells = cells.iter().map(|(metric, values)| (*metric, repeats(*values))).collect();
        Line { label, values: Vec::new(), chosen: "", choice: Choice::Open, cells }
    }

    fn lines() -> Vec<Line<'static>> {
        let both = |accuracy: f64, drift: f64| [("accuracy", [accuracy; 2]), ("chosen_drift", [drift; 2])];
        vec![line("both_10", &both(0.5, -0.2)), line("both_20", &both(0.7, -0.1)), line("all", &both(0.6, 0.1))]
    }

    fn plot(x: &str, y: &str) -> Plot {
        Plot { stage: "s".into(), x: x.into(), y: y.into(), title: None, x_label: None, y_label: None }
    }

    #[test]
    fn numbers_at_the_end_of_labels_make_lines() {
        let by_label = plot("label", "accuracy").svg(&lines()).unwrap();
        assert_eq!(by_label.matches("<circle").count(), 2, "{by_label}");
        assert!(by_label.contains(">both</text>") && !by_label.contains(">all<"), "{by_label}");
        let by_drift = plot("chosen_drift", "accuracy").svg(&lines()).unwrap();
        assert_eq!(by_drift.matches("<circle").count(), 3, "{by_drift}");
        assert!(by_drift.contains(">all</text>"), "{by_drift}");
        let none = plot("nothing", "accuracy").svg(&lines()).unwrap_err();
        assert_eq!(none, "stage `s` measured no `nothing` together with `accuracy`");
    }

    #[test]
    fn numbers_at_the_end_of_names_make_lines() {
        let lines = [line("chosen", &[("best_10", [0.5; 2]), ("best_20", [0.7, 0.9]), ("worst_10", [0.1; 2])])];
        let plot = plot("metric", "best").svg(&lines).unwrap();
        assert_eq!(plot.matches("<circle").count(), 2, "{plot}");
        assert!(plot.contains(">chosen</text>") && plot.contains(">20</text>"), "{plot}");
    }

    #[test]
    fn a_plot_has_a_title_and_axes_in_words() {
        let drawn = plot("chosen_drift", "accuracy").svg(&lines()).unwrap();
        for text in [
            ">s: accuracy by drift of chosen tokens (nats a token)</text>",
            ">drift of chosen tokens (nats a token)</text>",
            ">accuracy</text>",
        ] {
            assert!(drawn.contains(text), "{text}: {drawn}");
        }
        let own = Plot { title: Some("A < B".into()), x_label: Some("share, %".into()), ..plot("label", "accuracy") };
        let drawn = own.svg(&lines()).unwrap();
        assert!(drawn.contains(">A &lt; B</text>") && drawn.contains(">share, %</text>"), "{drawn}");
    }

    #[test]
    fn bars_are_the_intervals_of_the_table() {
        let lines = [
            line("a", &[("accuracy", [0.5, 0.6]), ("kl", [1.0, 1.0])]),
            line("b", &[("accuracy", [0.7; 2]), ("kl", [2.0, 3.0])]),
        ];
        let drawn = plot("kl", "accuracy").svg(&lines).unwrap();
        let bars = drawn.matches("stroke-opacity=\"0.6\"").count();
        assert_eq!(bars, 2, "one upwards at `a`, one across at `b`: {drawn}");
    }
}
