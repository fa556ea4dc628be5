//! Charts as SVG, drawn for a phone's width and enlarged where there is more.
//!
//! Their own and not a plotting library's: those set colours and sizes in the picture, where a style sheet cannot make them dark, and
//! have neither title nor description for readers who cannot see them.

mod bars;
mod frame;
mod lines;

pub use self::bars::{Bar, BarChart, BarGroup};
pub use self::lines::{LineChart, Point, Scale, Series};

/// Colours and marks of series that are told apart; a further one begins again.
const N_SERIES: usize = 8;

/// The class of series `i` in the style sheet.
fn series_class(i: usize) -> String {
    format!("c{}", i % N_SERIES)
}
