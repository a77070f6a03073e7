//! The curves of a training, from the lines that it logs.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use crate::plot::{Marks, Plot, Point, Series};

/// Points of a curve that are shown.
const MOST_POINTS: usize = 1000;

/// Numbers that belong into one plot: its file, its title, what stands beside it, and the metrics.
const PLOTS: [(&str, &str, &str, &[&str]); 6] = [
    ("loss", "Loss", "loss", &["loss"]),
    ("margin", "Margin of rewards", "nats", &["rewards/margins"]),
    ("accuracy", "Accuracy of rewards", "share of pairs", &["rewards/accuracies"]),
    ("drift", "Drift from the reference", "reward (nats)", &["rewards/chosen", "rewards/rejected"]),
    ("grad_norm", "Norm of gradients", "norm", &["grad_norm"]),
    ("learning_rate", "Learning rate", "rate", &["learning_rate"]),
];

/// What a training logged.
#[derive(Debug, Serialize)]
pub struct Training {
    /// Where the log is.
    pub source: String,
    /// The last step.
    steps: u64,
    /// Lines of the log that are no metrics, which are left out.
    broken_lines: u64,
    /// Every n-th point of a curve is shown.
    every: usize,
    /// By part and metric, such as `train/loss`: (step, value).
    curves: BTreeMap<String, Vec<(u64, f64)>>,
    /// The last value of each.
    last: BTreeMap<String, f64>,
}

/// The training whose log, `source`, holds `lines` of JSON.
pub fn training(source: String, lines: &str) -> Training {
    let (mut curves, mut broken_lines): (BTreeMap<String, Vec<(u64, f64)>>, u64) = (BTreeMap::new(), 0);
    for line in lines.lines() {
        let parsed = serde_json::from_str::<Value>(line).ok();
        let metrics = parsed
            .as_ref()
            .and_then(|line| Some((line.get("step")?.as_u64()?, line.get("part")?.as_str()?, line.as_object()?)));
        let Some((step, part, metrics)) = metrics else {
            broken_lines += 1;
            continue;
        };
        for (name, value) in metrics.iter().filter(|(name, _)| *name != "step") {
            if let Some(value) = value.as_f64() {
                curves.entry(format!("{part}/{name}")).or_default().push((step, value));
            }
        }
    }
    let steps = curves.values().flatten().map(|(step, _)| *step).max().unwrap_or_default();
    let last = curves.iter().filter_map(|(name, curve)| Some((name.clone(), curve.last()?.1))).collect();
    let every = curves.values().map(Vec::len).max().unwrap_or_default().div_ceil(MOST_POINTS).max(1);
    for curve in curves.values_mut() {
        let mut at = 0;
        curve.retain(|_| {
            at += 1;
            (at - 1) % every == 0
        });
    }
    Training { source, steps, broken_lines, every, curves, last }
}

impl Training {
    /// Whether it has no curve.
    pub fn is_empty(&self) -> bool {
        self.curves.is_empty()
    }

    /// The plots, as SVG files with their names.
    pub fn plots(&self) -> Vec<(&'static str, String)> {
        let svg = |(file, title, y, metrics): (&'static str, &str, &str, &[&str])| {
            let series = metrics.iter().flat_map(|metric| ["train", "eval"].map(|part| format!("{part}/{metric}")));
            let series = series.filter_map(|name| {
                let points = self.curves.get(&name)?.iter().map(|(step, value)| Point::new(*step as f64, *value));
                Some(Series { points: points.collect(), name })
            });
            let marks = Marks::Line;
            let plot = Plot { title: title.into(), x: "step".into(), y: y.into(), marks, series: series.collect() };
            Some((file, plot.svg()?))
        };
        PLOTS.into_iter().filter_map(svg).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_make_curves_and_what_is_no_line_is_counted() {
        let log = "{\"step\": 1, \"part\": \"train\", \"loss\": 0.5, \"rewards/chosen\": 1}\n\
                   {\"step\": 2, \"part\": \"train\", \"loss\": 0.25}\n\
                   {\"step\": 2, \"part\": \"eval\", \"loss\": 0.75}\n\
                   {\"step\": 3, \"par";
        let found = training("log".into(), log);
        assert_eq!(found.curves["train/loss"], [(1, 0.5), (2, 0.25)]);
        assert_eq!((found.steps, found.broken_lines, found.last["eval/loss"]), (2, 1, 0.75));
        let plots = found.plots();
        assert_eq!(plots.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["loss", "drift"]);
        assert!(plots[0].1.contains(">train/loss</text>") && plots[0].1.contains(">eval/loss</text>"));
    }

    #[test]
    fn long_curves_are_thinned_and_say_so() {
        let lines: String =
            (0..2500).map(|step| format!("{{\"step\": {step}, \"part\": \"train\", \"loss\": {step}}}\n")).collect();
        let found = training("log".into(), &lines);
        assert_eq!((found.every, found.curves["train/loss"].len(), found.last["train/loss"]), (3, 834, 2499.0));
        assert!(training(String::new(), "").is_empty());
    }
}
