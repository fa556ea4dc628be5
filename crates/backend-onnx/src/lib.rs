//! ONNX Runtime behind the contract of `tandem-core`.

pub mod library;
pub mod setup;
