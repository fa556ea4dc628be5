//! Lines over a horizontal axis, with a legend of marks below.

use maud::{Markup, html};

use super::super::text::{inline, number};
use super::super::{Cell, Ids, Table};
use super::frame::{WIDTH, figure, finite, ticks};
use super::{N_SERIES, series_class};

const HEIGHT: f64 = 240.0;
const LEFT: f64 = 44.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 38.0;

/// A chart of lines; the vertical axis begins at zero.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LineChart {
    /// What it shows.
    pub title: String,
    /// What one sees in it, in a sentence, for readers who cannot see it.
    pub description: String,
    /// What the horizontal axis shows, with its unit.
    pub x_label: String,
    /// What the vertical axis shows, with its unit.
    pub y_label: String,
    /// How the horizontal axis is divided.
    pub x_scale: Scale,
    /// The lines.
    pub series: Vec<Series>,
}

/// How an axis is divided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scale {
    /// Evenly.
    #[default]
    Linear,
    /// The values in their order, at equal distances: for 32, 128, 512.
    Ordinal,
}

/// One line.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series {
    /// Its name.
    pub name: String,
    /// Its points in the order of `x`.
    pub points: Vec<Point>,
}

/// One point of a line.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Point {
    /// Where it is.
    pub x: f64,
    /// Its value.
    pub y: f64,
    /// Where the value lies with 95% certainty.
    pub interval: Option<(f64, f64)>,
}

/// Where the values of both axes are in the drawing.
struct Axes {
    xs: Vec<f64>,
    scale: Scale,
    y_ticks: Vec<f64>,
}

impl LineChart {
    pub(in super::super) fn render(&self, ids: &mut Ids) -> Markup {
        let axes = Axes::of(self);
        let drawing = html! {
            (axes.draw(&self.x_label))
            @for (i, series) in self.series.iter().enumerate() { (series.draw(i, &axes)) }
        };
        let legend = html! {
            ul.legend {
                @for (i, series) in self.series.iter().enumerate() {
                    li {
                        svg class=(series_class(i)) viewBox="0 0 24 14" aria-hidden="true" {
                            path.line d="M1 7H23" {}
                            path.mark d=(mark(i, 12.0, 7.0)) {}
                        }
                        (inline(&series.name))
                    }
                }
            }
        };
        let title = format!("{} ({})", self.title, self.y_label);
        figure((&title, &self.description), HEIGHT, &drawing, &legend, &self.figures(&axes.xs), ids)
    }

    fn figures(&self, xs: &[f64]) -> Table {
        let columns: Vec<String> = std::iter::once("what".to_owned()).chain(xs.iter().map(|&x| tick_text(x))).collect();
        let rows = self.series.iter().map(|series| {
            let at = |x: f64| series.points.iter().find(|point| point.x == x);
            let cells = xs.iter().map(|&x| Cell::figure(at(x).map_or_else(|| "–".into(), |point| number(point.y))));
            std::iter::once(Cell::text(&series.name)).chain(cells).collect()
        });
        Table {
            caption: format!("{}, {}, by {}", self.title, self.y_label, self.x_label),
            columns,
            rows: rows.collect(),
            ..Table::default()
        }
    }
}

impl Axes {
    fn of(chart: &LineChart) -> Self {
        let points = || chart.series.iter().flat_map(|series| &series.points);
        let mut xs: Vec<f64> = points().map(|point| point.x).filter(|x| x.is_finite()).collect();
        xs.sort_by(f64::total_cmp);
        xs.dedup();
        let ends = points().flat_map(|point| [point.y, point.interval.map_or(0.0, |(_, high)| high)]);
        let most = ends.filter(|end| end.is_finite()).fold(0.0, f64::max);
        Self { xs, scale: chart.x_scale, y_ticks: ticks(most) }
    }

    fn x(&self, x: f64) -> f64 {
        let (first, last) = (self.xs.first().copied().unwrap_or(0.0), self.xs.last().copied().unwrap_or(1.0));
        let share = match self.scale {
            _ if self.xs.len() < 2 => 0.5,
            Scale::Linear => (x - first) / (last - first),
            Scale::Ordinal => self.xs.iter().position(|&other| other == x).unwrap_or(0) as f64 / (self.xs.len() - 1) as f64,
        };
        LEFT + 14.0 + share * (WIDTH - LEFT - RIGHT - 28.0)
    }

    fn y(&self, y: f64) -> f64 {
        let most = self.y_ticks.last().copied().unwrap_or(1.0);
        HEIGHT - BOTTOM - (y / most).clamp(0.0, 1.0) * (HEIGHT - TOP - BOTTOM)
    }

    /// Lines across, and the numbers on both axes; of many horizontal ones only some are written.
    fn draw(&self, x_label: &str) -> Markup {
        let every = self.xs.len().div_ceil(7).max(1);
        html! {
            @for &tick in &self.y_ticks {
                path.grid d=(format!("M{LEFT} {:.1}H{}", self.y(tick), WIDTH - RIGHT)) {}
                text.tick x=(LEFT - 6.0) y=(format!("{:.1}", self.y(tick) + 4.0)) text-anchor="end" { (tick_text(tick)) }
            }
            @for &x in self.xs.iter().step_by(every) {
                text.tick x=(format!("{:.1}", self.x(x))) y=(HEIGHT - BOTTOM + 16.0) text-anchor="middle" { (tick_text(x)) }
            }
            text.tick x=((LEFT + WIDTH - RIGHT) / 2.0) y=(HEIGHT - 5.0) text-anchor="middle" { (x_label) }
        }
    }
}

impl Series {
    fn draw(&self, i: usize, axes: &Axes) -> Markup {
        let points: Vec<&Point> = self.points.iter().filter(|point| point.x.is_finite() && point.y.is_finite()).collect();
        let line: String = points
            .iter()
            .enumerate()
            .map(|(n, point)| format!("{}{:.1} {:.1}", if n == 0 { 'M' } else { 'L' }, axes.x(point.x), axes.y(point.y)))
            .collect();
        html! {
            g class=(series_class(i)) {
                path.line d=(line) {}
                @for point in points {
                    @if let Some((low, high)) = finite(point.interval) {
                        path.whisker d=(format!("M{:.1} {:.1}V{:.1}", axes.x(point.x), axes.y(low), axes.y(high))) {}
                    }
                    path.mark d=(mark(i, axes.x(point.x), axes.y(point.y))) {}
                }
            }
        }
    }
}

/// The mark of series `i` around a point: each has a form of its own, for readers who cannot tell the colours apart. Once the colours begin anew, they meet
/// other forms.
fn mark(i: usize, x: f64, y: f64) -> String {
    match (i + i / N_SERIES) % 4 {
        0 => format!("M{:.1} {y:.1}a4 4 0 1 0 8 0a4 4 0 1 0 -8 0", x - 4.0),
        1 => format!("M{:.1} {:.1}h7v7h-7z", x - 3.5, y - 3.5),
        2 => format!("M{x:.1} {:.1}l5 8.5h-10z", y - 5.0),
        _ => format!("M{x:.1} {:.1}l5 5l-5 5l-5 -5z", y - 5.0),
    }
}

/// A number on an axis, without zeros that say nothing.
fn tick_text(value: f64) -> String {
    if value.abs() >= 1000.0 && value % 100.0 == 0.0 {
        format!("{}k", value / 1000.0)
    } else {
        format!("{}", (value * 1e6).round() / 1e6)
    }
}
