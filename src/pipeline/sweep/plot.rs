//! Plots over the variants of a sweep, as SVG: one number against another, or against the number that a label ends with
//! (`both_10`, `both_20`, ... is a line called `both`) or a number's own name (`reward_in_best_10`, ...).

use std::collections::BTreeMap;
use std::fmt::Write;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::table::{Line, mean};

/// A plot of what one stage compares.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Plot {
    /// The stage.
    pub stage: String,
    /// What goes to the right: a number of the table; `label`, which stands for the number that a label ends with; or
    /// `metric`, for the numbers that the names after `y` end with (`y: reward_in_best` for `reward_in_best_10`, ...).
    pub x: String,
    /// What goes up: a number of the table, or with `x: metric` several.
    pub y: String,
}

/// A point: what it is, where it is.
struct Point<'a> {
    label: &'a str,
    x: f64,
    y: f64,
}

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 400.0;
const MARGIN: [f64; 4] = [70.0, 150.0, 20.0, 50.0];
const COLOURS: [&str; 6] = ["#2563eb", "#dc2626", "#16a34a", "#9333ea", "#d97706", "#0891b2"];

impl Plot {
    /// The plot of `lines`, those of its stage; none where no line has both numbers.
    pub(super) fn svg(&self, lines: &[Line]) -> Option<String> {
        let mut series: BTreeMap<&str, Vec<Point>> = BTreeMap::new();
        for line in lines {
            let number = |name: &str| line.cells.get(name).map(|values| mean(values));
            if self.x == "metric" {
                let named = line.cells.iter().filter_map(|(name, values)| Some((numbered(name)?, mean(values))));
                let points =
                    named.filter(|((name, _), _)| *name == self.y).map(|((_, x), y)| Point { label: "", x, y });
                series.entry(line.label).or_default().extend(points);
                continue;
            }
            let Some(y) = number(&self.y) else { continue };
            if self.x == "label" {
                let Some((name, x)) = numbered(line.label) else { continue };
                series.entry(name).or_default().push(Point { label: "", x, y });
            } else if let Some(x) = number(&self.x) {
                series.entry(line.label).or_default().push(Point { label: line.label, x, y });
            }
        }
        let all = || series.values().flatten();
        let (right, up) = (Axis::over(all().map(|point| point.x))?, Axis::over(all().map(|point| point.y))?);
        let [left, after, top, below] = MARGIN;
        let place = |point: &Point| {
            (
                left + right.share(point.x) * (WIDTH - left - after),
                HEIGHT - below - up.share(point.y) * (HEIGHT - top - below),
            )
        };
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{HEIGHT}\" font-family=\"sans-serif\" \
             font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
        );
        let mut text = |x: f64, y: f64, anchor: &str, text: &str| {
            let text = text.replace('&', "&amp;").replace('<', "&lt;");
            let _ = writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>");
        };
        let bottom = HEIGHT - below;
        let below_all = if ["label", "metric"].contains(&self.x.as_str()) { "" } else { &self.x };
        text((left + WIDTH - after) / 2.0, HEIGHT - 10.0, "middle", below_all);
        text(left, 14.0, "start", &self.y);
        for tick in right.ticks() {
            text(left + right.share(tick) * (WIDTH - left - after), bottom + 18.0, "middle", &shown(tick));
        }
        for tick in up.ticks() {
            text(left - 8.0, bottom - up.share(tick) * (bottom - top) + 4.0, "end", &shown(tick));
        }
        for (index, (name, points)) in series.iter().enumerate() {
            match points.as_slice() {
                [point] if !point.label.is_empty() => {
                    text(place(point).0 + 7.0, place(point).1 + 4.0, "start", point.label)
                }
                points => {
                    if let Some(last) = points.iter().max_by(|a, b| a.x.total_cmp(&b.x)) {
                        text(WIDTH - after + 10.0, place(last).1 + 4.0 + 2.0 * index as f64, "start", name);
                    }
                }
            }
        }
        let _ =
            writeln!(out, "<path d=\"M{left} {top}V{bottom}H{}\" fill=\"none\" stroke=\"#6b7280\"/>", WIDTH - after);
        for ((_, mut points), colour) in series.into_iter().zip(COLOURS.iter().cycle()) {
            points.sort_by(|a, b| a.x.total_cmp(&b.x));
            let places: Vec<(f64, f64)> = points.iter().map(place).collect();
            let way: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            let _ = writeln!(out, "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\"/>", way.join(" "));
            for (x, y) in places {
                let _ = writeln!(out, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"{colour}\"/>");
            }
        }
        Some(out + "</svg>\n")
    }
}

/// `name_10` as a name and a number.
fn numbered(label: &str) -> Option<(&str, f64)> {
    let (name, number) = label.rsplit_once('_')?;
    Some((name, number.parse().ok()?))
}

fn shown(tick: f64) -> String {
    let text = format!("{tick:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// From where to where an axis goes, with ticks at round numbers.
struct Axis {
    from: f64,
    to: f64,
    step: f64,
}

impl Axis {
    fn over(values: impl Iterator<Item = f64>) -> Option<Self> {
        let (least, most) = values.filter(|value| value.is_finite()).fold(None, |ends, value| {
            let (least, most): (f64, f64) = ends.unwrap_or((value, value));
            Some((least.min(value), most.max(value)))
        })?;
        let room = if most > least { most - least } else { 1.0 };
        let rough = room / 5.0;
        let unit = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|times| times * unit).into_iter().find(|step| *step >= rough)?;
        Some(Self {
            from: (least / step).floor() * step,
            to: (most / step).ceil().max((least / step).floor() + 1.0) * step,
            step,
        })
    }

    fn share(&self, value: f64) -> f64 {
        (value - self.from) / (self.to - self.from)
    }

    fn ticks(&self) -> impl Iterator<Item = f64> + '_ {
        let count = ((self.to - self.from) / self.step).round() as usize;
        (0..=count).map(|index| self.from + index as f64 * self.step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines() -> Vec<Line<'static>> {
        let line = |label, accuracy, drift| Line {
            label,
            values: Vec::new(),
            chosen: "",
            cells: [("accuracy", vec![accuracy]), ("drift", vec![drift])].into(),
        };
        vec![line("both_10", 0.5, -0.2), line("both_20", 0.7, -0.1), line("all", 0.6, 0.1)]
    }

    #[test]
    fn numbers_at_the_end_of_labels_make_lines() {
        let plot = |x: &str| Plot { stage: "s".into(), x: x.into(), y: "accuracy".into() }.svg(&lines()).unwrap();
        let by_label = plot("label");
        assert_eq!(by_label.matches("<circle").count(), 2, "{by_label}");
        assert!(by_label.contains(">both</text>") && !by_label.contains(">all<"), "{by_label}");
        let by_drift = plot("drift");
        assert_eq!(by_drift.matches("<circle").count(), 3, "{by_drift}");
        assert!(by_drift.contains(">all</text>"), "{by_drift}");
        assert!(Plot { stage: "s".into(), x: "nothing".into(), y: "accuracy".into() }.svg(&lines()).is_none());
    }

    #[test]
    fn numbers_at_the_end_of_names_make_lines() {
        let cells = [("best_10", vec![0.5]), ("best_20", vec![0.7, 0.9]), ("worst_10", vec![0.1])].into();
        let lines = [Line { label: "chosen", values: Vec::new(), chosen: "", cells }];
        let plot = Plot { stage: "s".into(), x: "metric".into(), y: "best".into() }.svg(&lines).unwrap();
        assert_eq!(plot.matches("<circle").count(), 2, "{plot}");
        assert!(plot.contains(">chosen</text>") && plot.contains(">20</text>"), "{plot}");
    }

    #[test]
    fn axes_begin_and_end_at_round_numbers() {
        let axis = Axis::over([0.031, 0.094].into_iter()).unwrap();
        assert!((axis.from - 0.02).abs() < 1e-12 && (axis.to - 0.1).abs() < 1e-12, "{} {}", axis.from, axis.to);
        let flat = Axis::over([0.5, 0.5].into_iter()).unwrap();
        assert!(flat.to > flat.from && flat.share(0.5).is_finite());
    }
}
