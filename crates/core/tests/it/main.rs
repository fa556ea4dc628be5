//! The tests of what needs no engine, in one program.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    missing_docs,
    reason = "a failed test is a panic, and says what it was at"
)]

mod adapters;
mod config_goldens;
mod config_parse;
mod config_rope;
mod conformance;
mod files_content;
mod files_discover;
mod generate;
mod gguf;
mod sampler_goldens;
mod sampler_properties;
mod saved;
mod scheduler;
mod speculation;
mod stop_strings;
mod template_bounds;
mod template_goldens;
mod template_prompt;
mod template_render;
mod tokenizer_file;
mod tokenizer_fixtures;
mod tokenizer_stream;
