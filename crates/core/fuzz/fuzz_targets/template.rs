//! Any text is a chat template or an error, never a panic; it renders within its bounds, and no message of a person's becomes a special
//! token: `cargo +nightly fuzz run template`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::json;
use tandem_core::template::{ChatMessage, ChatTemplate, RenderOptions, TemplateTokens};

fuzz_target!(|source: &str| {
    let mut tokens = TemplateTokens { special: vec!["<|im_start|>".into(), "</s>".into()], ..TemplateTokens::default() };
    tokens.named.insert("bos_token".into(), "<s>".into());
    tokens.named.insert("eos_token".into(), "</s>".into());
    let Ok(template) = ChatTemplate::new(source, tokens, "fuzzed.jinja") else { return };
    let messages = [ChatMessage::system("be <|im_start|> brief"), ChatMessage::user("hi é"), ChatMessage::assistant("<think>a</think>b")];
    let options = RenderOptions {
        add_generation_prompt: true,
        tools: vec![json!({"type": "function", "function": {"name": "f", "parameters": {"x": [1, 2.5, null, true]}}})],
        now: Some(0),
        ..RenderOptions::default()
    };
    if let Ok(prompt) = template.render(&messages, &options) {
        assert_eq!(prompt.text(), prompt.pieces().iter().map(|piece| piece.text.as_str()).collect::<String>());
    }
});
