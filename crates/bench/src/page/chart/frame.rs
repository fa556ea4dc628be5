//! What every chart has: a title, a description, a caption, and its figures as a table.

use maud::{Markup, html};

use super::super::text::inline;
use super::super::{Ids, Table};

/// The width that charts are drawn for, in the unit of their coordinates: a phone's.
pub(super) const WIDTH: f64 = 360.0;

/// Puts `drawing`, of [`WIDTH`] by `height`, into a figure.
pub(super) fn figure(
    (title, description): (&str, &str),
    height: f64,
    drawing: &Markup,
    below: &Markup,
    figures: &Table,
    ids: &mut Ids,
) -> Markup {
    let (title_id, description_id) = (ids.next(), ids.next());
    html! {
        figure {
            figcaption { (inline(title)) }
            svg role="img" viewBox=(format!("0 0 {WIDTH} {height:.0}")) aria-labelledby=(format!("{title_id} {description_id}")) {
                title id=(title_id) { (title.replace('`', "")) }
                desc id=(description_id) { (description.replace('`', "")) }
                (drawing)
            }
            (below)
            details { summary { "The chart as a table" } (figures.render(ids)) }
        }
    }
}

/// An interval that can be drawn.
pub(super) fn finite(interval: Option<(f64, f64)>) -> Option<(f64, f64)> {
    interval.filter(|(low, high)| low.is_finite() && high.is_finite())
}

/// Round numbers from 0 to at least `most`: three to six of them, evenly spaced.
pub(super) fn ticks(most: f64) -> Vec<f64> {
    if !most.is_finite() || most <= 0.0 {
        return vec![0.0, 1.0];
    }
    let power = 10_f64.powf((most / 4.0).log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().map(|factor| factor * power).find(|step| most / step <= 5.0);
    let step = step.unwrap_or(10.0 * power);
    let n = (most / step - 1e-9).ceil() as usize;
    (0..=n).map(|i| i as f64 * step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axis_ticks_are_round_and_cover_the_maximum() {
        assert_eq!(ticks(83.0), [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]);
        assert_eq!(ticks(1.0), [0.0, 0.2, 0.4, 0.6000000000000001, 0.8, 1.0]);
        assert_eq!(ticks(0.0), [0.0, 1.0]);
        assert_eq!(ticks(f64::NAN), [0.0, 1.0]);
        for most in [0.013, 3.2, 7.0, 999.0, 12_345.0] {
            let ticks = ticks(most);
            assert!((3..=7).contains(&ticks.len()) && ticks.last().is_some_and(|&last| last >= most), "{ticks:?}");
        }
    }
}
