//! Plots as SVG: points with their intervals, lines and histograms over one pair of axes. They know nothing of what they show.

mod axis;

use std::fmt::Write;

use axis::Axis;

/// A number, with half the width of the interval around it; 0 where there is none.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Value {
    /// The number.
    pub at: f64,
    /// Half of its interval.
    pub half: f64,
}

impl From<f64> for Value {
    fn from(at: f64) -> Self {
        Self { at, half: 0.0 }
    }
}

impl Value {
    fn ends(self) -> [f64; 2] {
        [self.at - self.half, self.at + self.half]
    }
}

/// A point with the intervals around it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// To the right.
    pub x: Value,
    /// Upwards.
    pub y: Value,
}

impl Point {
    /// A point without intervals.
    pub fn new(x: f64, y: f64) -> Self {
        Self { x: x.into(), y: y.into() }
    }
}

/// Points with one name, from left to right.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// The label beside the last point.
    pub name: String,
    /// The points.
    pub points: Vec<Point>,
}

/// How the points of a plot are drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Marks {
    /// As dots with bars for their intervals, joined by a line.
    Dots,
    /// As a line alone, for many points.
    Line,
    /// As the columns of a histogram: a point is the left end of a column of this width, and its height.
    Columns {
        /// On the axis to the right.
        width: f64,
    },
}

/// A plot.
#[derive(Debug, Clone, PartialEq)]
pub struct Plot {
    /// What stands above it.
    pub title: String,
    /// What stands below the axis to the right.
    pub x: String,
    /// What stands beside the axis upwards.
    pub y: String,
    /// How points are drawn.
    pub marks: Marks,
    /// What is drawn.
    pub series: Vec<Series>,
}

impl Plot {
    /// The plot as an SVG file; none where there is no finite point.
    pub fn svg(&self) -> Option<String> {
        let points = || self.series.iter().flat_map(|series| &series.points);
        // Columns stand on 0, and the last one ends behind its point.
        let (width, floor) = match self.marks {
            Marks::Columns { width } => (width, Some(0.0)),
            Marks::Dots | Marks::Line => (0.0, None),
        };
        let across =
            Axis::over(points().flat_map(|point| [point.x.ends(), point.x.ends().map(|x| x + width)]).flatten())?;
        let up = Axis::over(points().flat_map(|point| point.y.ends()).chain(floor))?;
        let frame = Frame::around(&self.series, across, up);
        let mut drawing = Drawing::new(frame.width, frame.bottom + BELOW);
        self.axes(&frame, &mut drawing);
        self.points(&frame, &mut drawing);
        Some(drawing.end())
    }

    fn axes(&self, frame: &Frame, drawing: &mut Drawing) {
        let Frame { left, right, top, bottom, .. } = *frame;
        drawing.text(left, 18.0, "start", 14.0, &self.title);
        drawing.text((left + right) / 2.0, bottom + 38.0, "middle", SIZE, &self.x);
        drawing.upwards(16.0, (top + bottom) / 2.0, &self.y);
        for tick in frame.across.ticks() {
            drawing.text(frame.x(tick), bottom + 18.0, "middle", SIZE, &frame.across.shown(tick));
        }
        for tick in frame.up.ticks() {
            drawing.text(left - 8.0, frame.y(tick) + 4.0, "end", SIZE, &frame.up.shown(tick));
        }
        drawing.line(&format!("M{left} {top}V{bottom}H{right}"), "#6b7280", 1.0);
    }

    fn points(&self, frame: &Frame, drawing: &mut Drawing) {
        let last = |series: &Series| series.points.last().map(|point| frame.place(*point));
        let ends: Vec<(f64, f64)> = self.series.iter().map(|series| last(series).unwrap_or_default()).collect();
        let heights = apart(&ends.iter().map(|(_, y)| *y).collect::<Vec<_>>(), frame.top + GAP / 2.0, frame.bottom);
        for ((series, colour), ((x, y), height)) in
            self.series.iter().zip(COLOURS.iter().cycle()).zip(ends.iter().zip(heights))
        {
            let label = frame.right + LEADER;
            drawing.line(&format!("M{x:.1} {y:.1}L{:.1} {height:.1}", label - 4.0), colour, 0.35);
            drawing.text(label, height + 4.0, "start", SIZE, &series.name);
            match self.marks {
                Marks::Columns { width } => drawing.columns(frame, &series.points, width, colour),
                Marks::Line => drawing.way(frame, &series.points, colour),
                Marks::Dots => {
                    drawing.way(frame, &series.points, colour);
                    series.points.iter().for_each(|point| drawing.point(frame, *point, colour));
                }
            }
        }
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
        (self.x(point.x.at), self.y(point.y.at))
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

    /// The line through `points`.
    fn way(&mut self, frame: &Frame, points: &[Point], colour: &str) {
        let place = |point: &Point| {
            let (x, y) = frame.place(*point);
            format!("{x:.1} {y:.1}")
        };
        if points.len() > 1 {
            self.line(&format!("M{}", points.iter().map(place).collect::<Vec<_>>().join("L")), colour, 1.0);
        }
    }

    /// The outline of columns of one `width` that stand on 0.
    fn columns(&mut self, frame: &Frame, points: &[Point], width: f64, colour: &str) {
        let floor = frame.y(0.0);
        let column = |point: &Point| {
            let (from, height) = frame.place(*point);
            format!("M{from:.1} {floor:.1}V{height:.1}H{:.1}V{floor:.1}", frame.x(point.x.at + width))
        };
        let path: String = points.iter().filter(|point| point.y.at > 0.0).map(column).collect();
        let _ = writeln!(
            self.0,
            "<path d=\"{path}\" fill=\"{colour}\" fill-opacity=\"0.25\" stroke=\"{colour}\" stroke-opacity=\"0.8\"/>"
        );
    }

    fn point(&mut self, frame: &Frame, point: Point, colour: &str) {
        let (x, y) = frame.place(point);
        let [low, high] = point.y.ends().map(|y| frame.y(y));
        let [from, to] = point.x.ends().map(|x| frame.x(x));
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

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(marks: Marks, series: Vec<Series>) -> Plot {
        Plot { title: "t".into(), x: "x".into(), y: "y".into(), marks, series }
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
            let at = |index: usize, step: f64| 1.0 + step * index as f64;
            let series = labels.iter().enumerate().map(|(index, label)| Series {
                name: (*label).into(),
                points: vec![Point::new(at(index, drift), at(index, step))],
            });
            let svg = plot(Marks::Dots, series.collect()).svg().unwrap();
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
    fn columns_stand_on_0_and_end_behind_their_points() {
        let points = vec![Point::new(-1.0, 3.0), Point::new(0.0, 0.0), Point::new(1.0, 2.0)];
        let svg = plot(Marks::Columns { width: 1.0 }, vec![Series { name: "s".into(), points }]).svg().unwrap();
        // Two columns: the empty one is not drawn. 0 and 2, where the last column ends, are on the axes.
        let path = svg.lines().find(|line| line.contains("fill-opacity")).unwrap();
        assert_eq!(path.matches('M').count(), 2, "{path}");
        assert!(svg.contains(">2</text>") && svg.contains(">0</text>"), "{svg}");
        let right = path.split('H').nth(2).unwrap().split('V').next().unwrap();
        assert_eq!(right.parse::<f64>().unwrap(), 44.0 + LETTER + 440.0, "{path}");
    }

    #[test]
    fn names_are_text_and_nothing_is_drawn_of_nothing() {
        let evil = "</text><script>alert(1)</script>&";
        let svg = plot(Marks::Line, vec![Series { name: evil.into(), points: vec![Point::new(0.0, 1.0)] }]).svg();
        let svg = svg.unwrap();
        assert!(!svg.contains("<script") && svg.contains("&lt;script>alert(1)&lt;/script>&amp;"), "{svg}");
        assert_eq!(plot(Marks::Dots, vec![Series { name: "s".into(), points: Vec::new() }]).svg(), None);
        assert_eq!(
            plot(Marks::Dots, vec![Series { name: "s".into(), points: vec![Point::new(f64::NAN, 1.0)] }]).svg(),
            None
        );
    }
}
