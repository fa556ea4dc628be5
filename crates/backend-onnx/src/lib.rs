//! ONNX Runtime behind the contract of `tandem-core`.
