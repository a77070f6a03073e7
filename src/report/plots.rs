//! The plots of a report of scored rows.

use super::statistics::{Histogram, SideSummary, Sum, Summary};
use crate::plot::{Marks, Plot, Point, Series};

/// The plots of `summary`, as SVG files with their names. A plot of which there is no number is left out.
pub(super) fn of(summary: &Summary) -> Vec<(&'static str, String)> {
    let plots = [
        ("rewards", histogram(summary, "Rewards of answers", "reward (nats)", "answers", |side| &side.rewards)),
        ("margins", margins(summary)),
        (
            "token_rewards",
            histogram(summary, "Rewards of tokens", "reward (nats)", "tokens", |side| &side.token_rewards),
        ),
        ("reward_curve", curve(summary)),
        ("positions", tenths(summary, "Key tokens by position", "share of key tokens", Sum::key_share)),
        ("reward_positions", tenths(summary, "Reward by position", "reward of a token (nats)", Sum::mean_reward)),
        ("lengths", lengths(summary)),
    ];
    plots.into_iter().filter_map(|(name, plot)| Some((name, plot.svg()?))).collect()
}

/// A line for each side.
fn sides(summary: &Summary, points: impl Fn(&SideSummary) -> Vec<Point>) -> Vec<Series> {
    let sides = [("chosen", &summary.chosen), ("rejected", &summary.rejected)];
    sides.map(|(name, side)| Series { name: name.into(), points: points(side) }).into()
}

fn columns(histogram: &Histogram) -> Vec<Point> {
    histogram.columns.iter().map(|column| Point::new(column.from, column.count as f64)).collect()
}

fn plot(title: &str, x: &str, y: &str, marks: Marks, series: Vec<Series>) -> Plot {
    Plot { title: title.into(), x: x.into(), y: y.into(), marks, series }
}

/// Both sides' columns have one width.
fn histogram(summary: &Summary, title: &str, x: &str, y: &str, of: fn(&SideSummary) -> &Histogram) -> Plot {
    let marks = Marks::Columns { width: of(&summary.chosen).width };
    plot(title, x, y, marks, sides(summary, |side| columns(of(side))))
}

fn margins(summary: &Summary) -> Plot {
    let series = vec![Series { name: "margin".into(), points: columns(&summary.margins) }];
    let marks = Marks::Columns { width: summary.margins.width };
    plot("Margins: reward of the chosen answer minus that of the rejected one", "margin (nats)", "pairs", marks, series)
}

fn curve(summary: &Summary) -> Plot {
    let points = |side: &SideSummary| {
        let of = side.curve.iter().filter(|point| point.share.is_finite());
        of.map(|point| Point::new(point.percent as f64, point.share)).collect()
    };
    let (x, y) = ("best tokens of an answer (%)", "share of the reward that speaks for its side");
    plot("How few tokens hold the reward", x, y, Marks::Dots, sides(summary, points))
}

fn tenths(summary: &Summary, title: &str, y: &str, value: fn(&Sum) -> f64) -> Plot {
    let points = |side: &SideSummary| {
        let values = side.tenths.iter().enumerate().filter(|(_, sum)| value(sum).is_finite());
        values.map(|(tenth, sum)| Point::new(10.0 * tenth as f64 + 5.0, value(sum))).collect()
    };
    plot(title, "position in the answer (%)", y, Marks::Dots, sides(summary, points))
}

fn lengths(summary: &Summary) -> Plot {
    let points = |side: &SideSummary| {
        let middle = |from: f64| from + (side.lengths.width - 1.0) / 2.0;
        side.lengths.columns.iter().map(|column| Point::new(middle(column.from), column.mean)).collect()
    };
    plot(
        "Reward by length",
        "tokens of the answer",
        "mean reward of an answer (nats)",
        Marks::Dots,
        sides(summary, points),
    )
}
