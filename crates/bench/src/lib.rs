//! Measures any model behind the contract of `tandem-core`.
//!
//! `benches/overhead` holds the engine's own loop against Tandem's on the same graph.

pub mod closeness;
pub mod loss;
pub mod machine;
pub mod measure;
mod memory;
pub mod page;
pub mod parity;
pub mod peer;
pub mod probe;
mod process;
pub mod record;
pub mod report;
pub mod run;
pub mod shape;
pub mod statistics;
pub mod work;

pub use memory::peak_rss_bytes;
pub use statistics::{median, ratio_of_medians};
