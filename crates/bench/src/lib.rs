//! Measures any model behind the contract of `tandem-core`.
//!
//! `benches/overhead` holds the engine's own loop against Tandem's on the same graph.

mod memory;
pub mod page;
mod statistics;

pub use memory::peak_rss_bytes;
pub use statistics::{median, ratio_of_medians};
