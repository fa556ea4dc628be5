//! Loads the built-in model and prints a story as it comes: `cargo run -p tandem --example story`.
#![expect(clippy::print_stdout, reason = "an example writes to the terminal")]

use std::io::Write;

use tandem::{Event, Settings};

fn main() -> tandem::Result<()> {
    let model = tandem::load("demo", &Settings::default())?;
    let mut chat = model.chat()?;
    for event in chat.say("Tell me a story about a fox who finds a lantern.")? {
        if let Event::Token { text, .. } | Event::Finished { text, .. } = event? {
            print!("{text}");
            std::io::stdout().flush().ok();
        }
    }
    println!();
    Ok(())
}
