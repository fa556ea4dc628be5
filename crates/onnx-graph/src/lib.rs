//! Read, check, edit, build and write ONNX graphs, without an engine.
