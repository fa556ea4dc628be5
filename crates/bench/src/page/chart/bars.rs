//! Bars: one beneath the other, each below its name, so that long names fit a phone.

use maud::{Markup, html};

use super::super::text::number;
use super::super::{Cell, Ids, Table};
use super::frame::{WIDTH, figure, finite};
use super::series_class;

const GROUP_HEIGHT: f64 = 26.0;
const BAR_HEIGHT: f64 = 36.0;
/// Room at the right for a value and its unit.
const VALUE_WIDTH: f64 = 56.0;

/// A chart of bars, which all begin at zero.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BarChart {
    /// What it shows.
    pub title: String,
    /// What one sees in it, in a sentence, for readers who cannot see it.
    pub description: String,
    /// The unit of every value.
    pub unit: String,
    /// Bars that belong together. One group needs no name.
    pub groups: Vec<BarGroup>,
}

/// Bars that belong together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BarGroup {
    /// Its name; none when it is empty.
    pub name: String,
    /// The bars.
    pub bars: Vec<Bar>,
}

/// One bar.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bar {
    /// Its name.
    pub name: String,
    /// Its length; nothing is drawn of what is not finite.
    pub value: f64,
    /// Where the value lies with 95% certainty.
    pub interval: Option<(f64, f64)>,
    /// Bars of the same series have the same colour.
    pub series: usize,
}

impl BarChart {
    pub(in super::super) fn render(&self, ids: &mut Ids) -> Markup {
        let bars = || self.groups.iter().flat_map(|group| &group.bars);
        let ends = bars().flat_map(|bar| [bar.value, bar.interval.map_or(0.0, |(_, high)| high)]);
        let most = ends.filter(|end| end.is_finite()).fold(f64::MIN_POSITIVE, f64::max);
        let scale = (WIDTH - VALUE_WIDTH) / most;
        let mut top = 0.0;
        let mut parts = Vec::new();
        for group in &self.groups {
            if !group.name.is_empty() {
                parts.push(html! { text.group x="0" y=(format!("{:.1}", top + 17.0)) { (group.name.replace('`', "")) } });
                top += GROUP_HEIGHT;
            }
            for bar in &group.bars {
                parts.push(bar.draw(top, scale));
                top += BAR_HEIGHT;
            }
        }
        let drawing = html! { @for part in &parts { (part) } };
        let title = if self.unit.is_empty() { self.title.clone() } else { format!("{} ({})", self.title, self.unit) };
        figure((&title, &self.description), top, &drawing, &html! {}, &self.figures(), ids)
    }

    fn figures(&self) -> Table {
        let mut table = Table::new(format!("{}, {}", self.title, self.unit), &["what", "value", "95% interval"]);
        for group in &self.groups {
            for bar in &group.bars {
                let name = if group.name.is_empty() { bar.name.clone() } else { format!("{}, {}", group.name, bar.name) };
                let interval =
                    finite(bar.interval).map_or_else(|| "–".into(), |(low, high)| format!("{} to {}", number(low), number(high)));
                table.rows.push(vec![Cell::text(name), Cell::figure(number(bar.value)), Cell::figure(interval)]);
            }
        }
        table
    }
}

impl Bar {
    fn draw(&self, top: f64, scale: f64) -> Markup {
        let length = if self.value.is_finite() { (self.value * scale).max(1.0) } else { 0.0 };
        let middle = top + 25.5;
        let whisker = finite(self.interval).map(|(low, high)| (low * scale, high * scale));
        let end = whisker.map_or(length, |(_, high)| high.max(length));
        html! {
            text x="0" y=(format!("{:.1}", top + 14.0)) { (self.name.replace('`', "")) }
            rect class=(series_class(self.series)) x="0" y=(format!("{:.1}", top + 19.0)) width=(format!("{length:.1}")) height="13" rx="2" {}
            @if let Some((low, high)) = whisker {
                path.whisker d=(format!("M{low:.1} {middle:.1}H{high:.1}M{low:.1} {:.1}v8M{high:.1} {:.1}v8", middle - 4.0, middle - 4.0)) {}
            }
            text.value x=(format!("{:.1}", end + 6.0)) y=(format!("{:.1}", top + 30.0)) { (number(self.value)) }
        }
    }
}
