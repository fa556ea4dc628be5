//! The commands of README.md, run as a reader would run them.

use std::env;
use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::process::{self, Profile};

/// Runs every command with `tandem` on a model that is part of it; each must succeed.
pub(crate) fn check(profile: Profile) -> Result<()> {
    let text = fs::read_to_string(process::root().join("README.md")).context("README.md")?;
    let commands = commands(&text);
    ensure!(!commands.is_empty(), "README.md has no commands");
    let binary = process::tandem(profile, &[])?;
    let dir = std::path::Path::new(binary.get_program()).parent().context("a binary lies in a directory")?.to_path_buf();
    let old = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths([dir].into_iter().chain(env::split_paths(&old))).context("`PATH`")?;
    for command in commands {
        eprintln!("$ {command}");
        let mut shell = Command::new("sh");
        shell.args(["-c", command]).env("PATH", &path).current_dir(process::root()).stdin(Stdio::null());
        let output = shell.output().context("cannot run `sh`")?;
        ensure!(
            output.status.success(),
            "`{command}` of README.md failed ({})\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        // A chat without input ends, and a machine may have no models to list.
        let may_be_silent = command.contains(" chat ") || command == "tandem list";
        ensure!(!output.stdout.is_empty() || may_be_silent, "`{command}` of README.md printed nothing");
    }
    Ok(())
}

/// The lines of shell examples that run `tandem`, but for those on a model that the reader has to bring or that a network brings.
fn commands(text: &str) -> Vec<&str> {
    let blocks = text.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    let lines = blocks.flat_map(str::lines).map(|line| line.split(" # ").next().unwrap_or(line).trim_end());
    let runs = lines.filter(|line| line.starts_with("tandem ") || line.contains("| tandem "));
    runs.filter(|line| !line.split(' ').any(|word| word.starts_with("./") || is_on_hub(word))).collect()
}

/// `Owner/name`.
fn is_on_hub(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_alphanumeric()) && word.split('/').count() == 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_the_lines_that_run_tandem() {
        let text = "`tandem no`\n```sh\ncargo xtask demo   # tandem\ntandem run demo \"x\"   # a comment\ntandem chat ./own\ntandem pull Owner/name\n```\n\
                    tandem no\n```toml\ntandem no\n```\n```sh\necho x | tandem run demo\n```\n";
        assert_eq!(commands(text), ["tandem run demo \"x\"", "echo x | tandem run demo"]);
    }
}
