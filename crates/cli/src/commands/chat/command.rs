//! What is typed in a chat: messages, and commands that begin with `/`.

use std::path::PathBuf;

use anyhow::Result;

use crate::failure::Usage;

/// `/help`.
pub(super) const HELP: &str = "\
/help               this list
/clear              begin anew; the system message stays
/save FILE          write the conversation as JSON, and its keys and values to `FILE.kv`; `/save! FILE` replaces a file
/load FILE          go on with a conversation that was saved; with `FILE.kv` it need not be computed anew
/set                list the options of generation
/set NAME VALUE     change one, such as `/set temperature 0.7`; VALUE `default` is as the model's publisher has it
/system             show what the model is told before the conversation
/system TEXT        change it; `/system off` removes it
/adapter            list the adapters that were used; `*` marks the one that is
/adapter NAME       answer with this adapter from here on: a directory, a file, or a name of the hub, with `=SCALE` behind it for a part
/adapter off        answer without
/stats              tokens and speeds of the last answer, and how full the context is
/quit               leave; so does Ctrl-D

A line that ends in `\\` goes on in the next one; lines between two lines of `\"\"\"` are one message.
A message that begins with `/` is written with two: `//`.
Ctrl-C ends an answer; at the prompt it clears the line, and twice it leaves.
";

const NAMES: [&str; 10] = ["help", "adapter", "clear", "save", "save!", "load", "set", "system", "stats", "quit"];

/// One entry.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Entry<'t> {
    Nothing,
    Message(String),
    Help,
    Clear,
    ListAdapters,
    Adapter { name: &'t str },
    Save { file: PathBuf, replace: bool },
    Load { file: PathBuf },
    ListOptions,
    Set { name: &'t str, value: &'t str },
    System { text: Option<&'t str> },
    Stats,
    Quit,
}

impl<'t> Entry<'t> {
    /// # Errors
    /// [`Usage`] for a command that there is not, or that lacks what it works on.
    pub(super) fn parse(text: &'t str) -> Result<Self> {
        let trimmed = text.trim();
        let Some(command) = trimmed.strip_prefix('/') else {
            return Ok(if trimmed.is_empty() { Self::Nothing } else { Self::Message(text.to_owned()) });
        };
        if command.starts_with('/') {
            return Ok(Self::Message(command.to_owned()));
        }
        let (name, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        let rest = rest.trim();
        Ok(match name {
            "help" | "?" => Self::Help,
            "clear" => Self::Clear,
            "adapter" if rest.is_empty() => Self::ListAdapters,
            "adapter" => Self::Adapter { name: rest },
            "save" | "save!" => Self::Save { file: file(name, rest)?, replace: name == "save!" },
            "load" => Self::Load { file: file(name, rest)? },
            "set" if rest.is_empty() => Self::ListOptions,
            "set" => {
                let (name, value) = rest.split_once(char::is_whitespace).ok_or_else(|| {
                    Usage::new(format!("`/set {rest}` gives no value"), "write `/set NAME VALUE`, or `/set` for the list")
                })?;
                Self::Set { name, value: value.trim() }
            }
            "system" => Self::System { text: (!rest.is_empty()).then_some(rest) },
            "stats" => Self::Stats,
            "quit" | "exit" => Self::Quit,
            _ => return Err(unknown(name)),
        })
    }
}

fn file(command: &str, rest: &str) -> Result<PathBuf> {
    if rest.is_empty() {
        return Err(Usage::new(format!("`/{command}` names no file"), format!("write `/{command} FILE`")).into());
    }
    let home = rest.strip_prefix("~/").and_then(|rest| Some(std::env::home_dir()?.join(rest)));
    Ok(home.unwrap_or_else(|| rest.into()))
}

fn unknown(name: &str) -> anyhow::Error {
    let near = NAMES.iter().map(|known| (strsim::damerau_levenshtein(known, name), known)).min();
    let hint = match near {
        Some((distance, known)) if distance <= 2 => format!("did you mean `/{known}`? `/help` lists the commands"),
        _ => "`/help` lists the commands; a message that begins with `/` is written with two".into(),
    };
    Usage::new(format!("there is no command `/{name}`"), hint).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &Entry<'_>) {
        assert_eq!(&Entry::parse(text).unwrap(), expected, "{text}");
    }

    #[test]
    fn messages_and_commands_are_told_apart() {
        check("", &Entry::Nothing);
        check("  ", &Entry::Nothing);
        check(" hello / there", &Entry::Message(" hello / there".into()));
        check("//etc is a directory", &Entry::Message("/etc is a directory".into()));
        check("/help", &Entry::Help);
        check("/save my talk.json", &Entry::Save { file: "my talk.json".into(), replace: false });
        check("/save! a", &Entry::Save { file: "a".into(), replace: true });
        check("/adapter", &Entry::ListAdapters);
        check("/adapter ./mine=0.5", &Entry::Adapter { name: "./mine=0.5" });
        check("/set", &Entry::ListOptions);
        check("/set stop  two words ", &Entry::Set { name: "stop", value: "two words" });
        check("/system\nbe brief\nbe kind", &Entry::System { text: Some("be brief\nbe kind") });
        check("/exit", &Entry::Quit);
    }

    #[test]
    fn what_is_no_command_says_what_is() {
        let message = |text| {
            let error = Entry::parse(text).unwrap_err();
            let failure = crate::failure::Failure::new(&error);
            format!("{}; {}", failure.message, failure.hint.unwrap_or_default())
        };
        assert_eq!(message("/stat"), "there is no command `/stat`; did you mean `/stats`? `/help` lists the commands");
        assert_eq!(message("/load"), "`/load` names no file; write `/load FILE`");
        assert!(message("/etc/passwd").contains("written with two"));
        assert!(message("/set top_k").contains("gives no value"));
    }

    #[test]
    fn help_names_every_command() {
        for name in NAMES {
            assert!(HELP.contains(&format!("/{name}")), "{name}");
        }
    }
}
