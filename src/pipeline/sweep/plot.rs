//! Plots over the variants of a sweep, as SVG: one number against another, or against the number that a label ends with
//! (`both_10`, `both_20`, ... is a line called `both`) or a number's own name (`reward_in_best_10`, ...). Where there are
//! several repeats, bars show the 95 % interval that the table has.

use std::fmt::Write;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::statistics::Mean;
use super::table::{Choice, Line};
use super::words;
use crate::pipeline::order::natural;

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

/// A point with the intervals around it.
#[derive(Debug, Clone, Copy)]
struct Point {
    x: Mean,
    y: Mean,
}

/// Points with one name, from left to right.
#[derive(Debug)]
struct Series {
    name: String,
    points: Vec<Point>,
}

impl Plot {
    /// The plot of `lines`, those of its stage.
    ///
    /// # Errors
    /// No line has both numbers.
    pub(super) fn svg(&self, lines: &[Line]) -> Result<String, String> {
        let series = self.series(lines);
        let points = || series.iter().flat_map(|series| &series.points);
        let ends = |mean: Mean| [mean.mean - mean.half, mean.mean + mean.half];
        let right = Axis::over(points().flat_map(|point| ends(point.x)));
        let up = Axis::over(points().flat_map(|point| ends(point.y)));
        let (Some(right), Some(up)) = (right, up) else {
            return Err(format!("stage `{}` measured no `{}` together with `{}`", self.stage, self.x, self.y));
        };
        Ok(self.draw(&series, right, up))
    }

    fn series(&self, lines: &[Line]) -> Vec<Series> {
        let mut all: Vec<Series> = Vec::new();
        let mut add = |name: String, point: Point| match all.iter_mut().find(|series| series.name == name) {
            Some(series) => series.points.push(point),
            None => all.push(Series { name, points: vec![point] }),
        };
        let exactly = |mean: f64| Mean { mean, error: 0.0, half: 0.0, n: 1 };
        for line in lines.iter().filter(|line| line.choice != Choice::Other) {
            let named = |label: &str| [&[label], &line.values[..]].concat().join(" ");
            if self.x == METRIC {
                let of = line.cells.keys().filter_map(|name| Some((numbered(name)?, line.mean(name)?)));
                for ((_, x), y) in of.filter(|((name, _), _)| *name == self.y) {
                    add(named(line.label), Point { x: exactly(x), y });
                }
                continue;
            }
            let Some(y) = line.mean(&self.y) else { continue };
            if self.x == LABEL {
                let Some((name, x)) = numbered(line.label) else { continue };
                add(named(name), Point { x: exactly(x), y });
            } else if let Some(x) = line.mean(&self.x) {
                add(named(line.label), Point { x, y });
            }
        }
        all.iter_mut().for_each(|series| series.points.sort_by(|a, b| a.x.mean.total_cmp(&b.x.mean)));
        all.sort_by(|a, b| natural(&a.name, &b.name));
        all
    }

    fn draw(&self, series: &[Series], right: Axis, up: Axis) -> String {
        let frame = Frame::around(series, right, up);
        let y = self.y_label.clone().unwrap_or_else(|| words::of(&self.y));
        let x = self.x_label.clone().unwrap_or_else(|| match self.x.as_str() {
            LABEL => "number at the end of the name".into(),
            METRIC => format!("{}, by the number in its name", words::of(&self.y)),
            name => words::of(name),
        });
        let title = self.title.clone().unwrap_or_else(|| format!("{}: {y} by {x}", self.stage));
        let mut drawing = Drawing::new(frame.width, frame.bottom + BELOW);
        drawing.text(frame.left, 18.0, "start", 14.0, &title);
        drawing.text((frame.left + frame.right) / 2.0, frame.bottom + 38.0, "middle", SIZE, &x);
        drawing.upwards(16.0, (frame.top + frame.bottom) / 2.0, &y);
        for tick in frame.across.ticks() {
            drawing.text(frame.x(tick), frame.bottom + 18.0, "middle", SIZE, &frame.across.shown(tick));
        }
        for tick in frame.up.ticks() {
            drawing.text(frame.left - 8.0, frame.y(tick) + 4.0, "end", SIZE, &frame.up.shown(tick));
        }
        let Frame { left, right, top, bottom, .. } = frame;
        drawing.line(&format!("M{left} {top}V{bottom}H{right}"), "#6b7280", 1.0);
        let last = |series: &Series| series.points.last().map(|point| frame.place(*point));
        let ends: Vec<(f64, f64)> = series.iter().map(|series| last(series).unwrap_or_default()).collect();
        let heights = apart(&ends.iter().map(|(_, y)| *y).collect::<Vec<_>>(), top + GAP / 2.0, bottom);
        for ((series, colour), ((x, y), height)) in
            series.iter().zip(COLOURS.iter().cycle()).zip(ends.iter().zip(heights))
        {
            let label = right + LEADER;
            drawing.line(&format!("M{x:.1} {y:.1}L{:.1} {height:.1}", label - 4.0), colour, 0.35);
            drawing.text(label, height + 4.0, "start", SIZE, &series.name);
            let way: Vec<String> = series
                .points
                .iter()
                .map(|point| {
                    let (x, y) = frame.place(*point);
                    format!("{x:.1} {y:.1}")
                })
                .collect();
            if way.len() > 1 {
                drawing.line(&format!("M{}", way.join("L")), colour, 1.0);
            }
            for point in &series.points {
                drawing.point(&frame, *point, colour);
            }
        }
        drawing.end()
    }
}

/// Size of letters, and an upper bound of the width of one of them.
const SIZE: f64 = 12.0;
const LETTER: f64 = 7.0;
/// Between the base lines of two labels.
const GAP: f64 = 15.0;
/// Between the frame and the labels beside it.
const LEADER: f64 = 28.0;
/// Below the frame.
const BELOW: f64 = 50.0;
const COLOURS: [&str; 8] = ["#2563eb", "#dc2626", "#16a34a", "#9333ea", "#d97706", "#0891b2", "#be185d", "#4d7c0f"];

/// Where the axes are, in pixels.
struct Frame {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
    /// Of the whole picture.
    width: f64,
    across: Axis,
    up: Axis,
}

impl Frame {
    /// A frame with room for the labels of all `series` beside it.
    fn around(series: &[Series], across: Axis, up: Axis) -> Self {
        let widest = |texts: &mut dyn Iterator<Item = usize>| texts.max().unwrap_or_default() as f64 * LETTER;
        let names = widest(&mut series.iter().map(|series| series.name.chars().count()));
        let left = 44.0 + widest(&mut up.ticks().map(|tick| up.shown(tick).len()));
        let (right, top) = (left + 440.0, 34.0);
        let bottom = top + 330f64.max(GAP * (series.len() + 1) as f64);
        Self { left, right, top, bottom, width: right + LEADER + names + 10.0, across, up }
    }

    fn x(&self, value: f64) -> f64 {
        self.left + self.across.share(value) * (self.right - self.left)
    }

    fn y(&self, value: f64) -> f64 {
        self.bottom - self.up.share(value) * (self.bottom - self.top)
    }

    fn place(&self, point: Point) -> (f64, f64) {
        (self.x(point.x.mean), self.y(point.y.mean))
    }
}

/// Heights near those `wanted`, each a gap or more from all others, between `top` and `bottom`.
fn apart(wanted: &[f64], top: f64, bottom: f64) -> Vec<f64> {
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by(|a, b| wanted[*a].total_cmp(&wanted[*b]));
    let mut heights = wanted.to_vec();
    let mut least = top;
    for index in &order {
        heights[*index] = heights[*index].max(least);
        least = heights[*index] + GAP;
    }
    let mut most = bottom;
    for index in order.iter().rev() {
        heights[*index] = heights[*index].min(most);
        most = heights[*index] - GAP;
    }
    heights
}

/// An SVG file that grows.
struct Drawing(String);

impl Drawing {
    fn new(width: f64, height: f64) -> Self {
        Self(format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" font-family=\"sans-serif\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
        ))
    }

    fn text(&mut self, x: f64, y: f64, anchor: &str, size: f64, text: &str) {
        let text = escaped(text);
        let _ = writeln!(
            self.0,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" font-size=\"{size}\">{text}</text>"
        );
    }

    /// Text that is read from below.
    fn upwards(&mut self, x: f64, y: f64, text: &str) {
        let text = escaped(text);
        let _ = writeln!(
            self.0,
            "<text transform=\"translate({x:.1} {y:.1}) rotate(-90)\" text-anchor=\"middle\" font-size=\"{SIZE}\">{text}</text>"
        );
    }

    fn line(&mut self, path: &str, colour: &str, opacity: f64) {
        let _ = writeln!(self.0, "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-opacity=\"{opacity}\"/>");
    }

    fn point(&mut self, frame: &Frame, point: Point, colour: &str) {
        let (x, y) = frame.place(point);
        let [low, high] = [point.y.mean - point.y.half, point.y.mean + point.y.half].map(|y| frame.y(y));
        let [from, to] = [point.x.mean - point.x.half, point.x.mean + point.x.half].map(|x| frame.x(x));
        if point.y.half > 0.0 {
            self.line(&format!("M{x:.1} {low:.1}V{high:.1}"), colour, 0.6);
        }
        if point.x.half > 0.0 {
            self.line(&format!("M{from:.1} {y:.1}H{to:.1}"), colour, 0.6);
        }
        let _ = writeln!(self.0, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"{colour}\"/>");
    }

    fn end(self) -> String {
        self.0 + "</svg>\n"
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
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
        // A value that is a tick but for its rounding needs no step more.
        let (first, last) = ((least / step + 1e-9).floor(), (most / step - 1e-9).ceil());
        Some(Self { from: first * step, to: last.max(first + 1.0) * step, step })
    }

    fn share(&self, value: f64) -> f64 {
        (value - self.from) / (self.to - self.from)
    }

    fn ticks(&self) -> impl Iterator<Item = f64> + '_ {
        let count = ((self.to - self.from) / self.step).round() as usize;
        (0..=count).map(|index| self.from + index as f64 * self.step)
    }

    /// A tick with as many decimals as the step between two of them needs.
    fn shown(&self, tick: f64) -> String {
        let decimals = -self.step.log10().floor();
        if !(-6.0..=6.0).contains(&decimals) {
            return format!("{tick:.0e}");
        }
        // The tick at 0 may have come out as a very small number.
        let tick = if tick.abs() < self.step / 2.0 { 0.0 } else { tick };
        format!("{tick:.*}", decimals.max(0.0) as usize)
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

    /// Every text that is not turned: from where to where it goes, and the height of its base line.
    fn boxes(svg: &str) -> Vec<(f64, f64, f64)> {
        let attribute = |line: &str, name: &str| -> Option<String> {
            Some(line.split_once(&format!(" {name}=\""))?.1.split('"').next()?.to_owned())
        };
        let of = |line: &str| {
            let (x, y): (f64, f64) = (attribute(line, "x")?.parse().ok()?, attribute(line, "y")?.parse().ok()?);
            let width = line.split('>').nth(1)?.split('<').next()?.chars().count() as f64 * LETTER;
            let from = match attribute(line, "text-anchor")?.as_str() {
                "middle" => x - width / 2.0,
                "end" => x - width,
                _ => x,
            };
            Some((from, from + width, y))
        };
        svg.lines().filter(|line| line.starts_with("<text x=")).filter_map(of).collect()
    }

    #[test]
    fn labels_do_not_overlap_however_close_points_are() {
        let labels = [
            "sepo",
            "sepo_random",
            "sepo_reversed",
            "sepo_chosen_only",
            "sepo_all",
            "dpo",
            "ipo",
            "simpo",
            "rrhf",
            "tdpo2",
            "tgdpo",
            "t_reg",
            "tbpo_a",
            "tbpo_q",
            "a",
            "b",
            "c",
            "d",
            "e",
            "f",
            "g",
            "h",
            "i",
            "j",
            "k",
            "l",
        ];
        for (step, drift) in [(0.0, 0.0), (1e-4, 0.0), (1e-4, 1e-7), (0.05, 3e5)] {
            let at = |index: usize, step: f64| [1.0 + step * index as f64; 2];
            let lines: Vec<Line> = labels
                .iter()
                .enumerate()
                .map(|(index, label)| line(label, &[("accuracy", at(index, step)), ("kl", at(index, drift))]))
                .collect();
            let svg = plot("kl", "accuracy").svg(&lines).unwrap();
            let boxes = boxes(&svg);
            assert!(boxes.len() > labels.len(), "{svg}");
            for (index, a) in boxes.iter().enumerate() {
                for b in &boxes[..index] {
                    let apart = a.1 <= b.0 || b.1 <= a.0 || (a.2 - b.2).abs() >= SIZE;
                    assert!(apart, "{a:?} {b:?}: {svg}");
                }
            }
        }
    }

    #[test]
    fn axes_begin_and_end_at_round_numbers() {
        let axis = Axis::over([0.031, 0.094].into_iter()).unwrap();
        assert!((axis.from - 0.02).abs() < 1e-12 && (axis.to - 0.1).abs() < 1e-12, "{} {}", axis.from, axis.to);
        let flat = Axis::over([0.5, 0.5].into_iter()).unwrap();
        assert!(flat.to > flat.from && flat.share(0.5).is_finite());
        let small = Axis::over([1e-5, 3e-5].into_iter()).unwrap();
        let ticks: Vec<String> = small.ticks().map(|tick| small.shown(tick)).collect();
        assert_eq!(ticks, ["0.000010", "0.000015", "0.000020", "0.000025", "0.000030"]);
    }
}
