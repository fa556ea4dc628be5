//! Models: found, downloaded whole, verified, told apart, and chosen to fit the memory.

pub mod catalog;
pub mod machine;
pub mod plan;
