//! The commands of README.md, run as a reader would run them.

use std::env;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::process::{self, Profile};

/// Commands that are not run, by a part of each, and why. Every other one is.
const NOT_RUN: [(&str, &str); 3] = [
    (" Qwen/", "downloads a gigabyte"),
    (" onnx-community/", "downloads a gigabyte"),
    ("tandem bench ", "takes minutes; the tests of the program run its options"),
];

/// What stands for a model of the reader's own, by the end of its name: `./my-model`, `./my-embedder`.
const OWN_MODELS: [(&str, &str); 3] =
    [("embedder", "goldens/embedders/bert-mean"), ("reranker", "goldens/embedders/cross-bert"), ("", "goldens/qwen2-tied")];

/// Files of the reader's own.
const OWN_FILES: [(&str, &str); 2] = [
    ("lines.txt", "A fox eats mice.\nRain fell on the hill.\n"),
    (
        "documents.jsonl",
        "{\"text\": \"A fox eats mice.\", \"body\": \"A fox eats mice.\"}\n{\"text\": \"Rain.\", \"body\": \"Rain fell.\"}\n",
    ),
];

/// Runs every command with `tandem`, in a directory of its own; each must succeed.
pub(crate) fn check(profile: Profile) -> Result<()> {
    let text = fs::read_to_string(process::root().join("README.md")).context("README.md")?;
    let (run, left_out) = split(&commands(&text))?;
    ensure!(!run.is_empty(), "README.md has no commands");
    for (command, reason) in left_out {
        println!("not run: `{command}` {reason}");
    }
    let binary = process::tandem(profile, &[])?;
    let programs = Path::new(binary.get_program()).parent().context("a binary lies in a directory")?.to_path_buf();
    let old = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths([programs].into_iter().chain(env::split_paths(&old))).context("`PATH`")?;
    let directory = process::target_directory()?.join("readme");
    if directory.exists() {
        fs::remove_dir_all(&directory).with_context(|| format!("`{}`", directory.display()))?;
    }
    fs::create_dir_all(&directory)?;
    OWN_FILES.iter().try_for_each(|(name, content)| fs::write(directory.join(name), content))?;
    for command in run {
        eprintln!("$ {command}");
        own_models(command).try_for_each(|name| copy_model(name, &directory.join(name)))?;
        let mut shell = Command::new("sh");
        shell
            .args(["-c", command])
            .env("PATH", &path)
            .env_remove("ORT_DISABLE_TELEMETRY")
            .current_dir(&directory)
            .stdin(Stdio::null());
        let output = shell.output().context("cannot run `sh`")?;
        ensure!(
            output.status.success(),
            "`{command}` of README.md failed ({})\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        // A chat without input ends, an export writes files, and a machine may have no models to list.
        let may_be_silent = ["tandem chat ", "tandem export ", "tandem list", "tandem setup"];
        let is_silent = output.stdout.is_empty() && !may_be_silent.iter().any(|beginning| command.starts_with(beginning));
        ensure!(!is_silent, "`{command}` of README.md printed nothing");
    }
    Ok(())
}

/// Copies what stands for the model called `name`.
fn copy_model(name: &str, to: &Path) -> Result<()> {
    let stands_for = OWN_MODELS.iter().find(|(end, _)| name.ends_with(end)).map_or("", |(_, golden)| golden);
    let from = process::root().join(stands_for);
    process::copy_files(&from, to)?;
    let pooling = "1_Pooling";
    if from.join(pooling).is_dir() { process::copy_files(&from.join(pooling), &to.join(pooling)) } else { Ok(()) }
}

/// The lines of shell examples that run `tandem`.
fn commands(text: &str) -> Vec<&str> {
    let blocks = text.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    let lines = blocks.flat_map(str::lines).map(|line| line.split(" # ").next().unwrap_or(line).trim_end());
    lines.filter(|line| line.starts_with("tandem ") || line.contains("| tandem ")).collect()
}

/// A command that is not run, and the reason.
type LeftOut<'c> = (&'c str, &'static str);

/// The commands to run, and those that are not with the reason; an error for a reason that concerns none.
fn split<'c>(commands: &[&'c str]) -> Result<(Vec<&'c str>, Vec<LeftOut<'c>>)> {
    let reason = |command: &str| NOT_RUN.iter().find(|(part, _)| command.contains(part)).map(|&(_, reason)| reason);
    for (part, _) in NOT_RUN {
        ensure!(commands.iter().any(|command| command.contains(part)), "no command of README.md contains `{part}` any more");
    }
    let left_out = commands.iter().filter_map(|command| Some((*command, reason(command)?))).collect();
    Ok((commands.iter().copied().filter(|command| reason(command).is_none()).collect(), left_out))
}

/// The names of models of the reader's own.
fn own_models(command: &str) -> impl Iterator<Item = &str> {
    command.split(' ').filter_map(|word| word.strip_prefix("./")).filter(|name| !name.contains('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_the_lines_that_run_tandem() {
        let text = "`tandem no`\n```sh\ncargo xtask demo   # tandem\ntandem run demo \"x\"   # a comment\ntandem chat ./own\n```\n\
                    tandem no\n```toml\ntandem no\n```\n```sh\necho x | tandem run demo\n```\n";
        assert_eq!(commands(text), ["tandem run demo \"x\"", "tandem chat ./own", "echo x | tandem run demo"]);
        assert_eq!(own_models("tandem run ./own ./a.json demo").collect::<Vec<_>>(), ["own"]);
    }

    #[test]
    fn every_command_is_run_or_has_a_reason_that_is_still_needed() {
        let commands = vec!["tandem run demo", "tandem pull Qwen/x", "tandem chat onnx-community/x", "tandem bench demo"];
        let (run, left_out) = split(&commands).unwrap();
        assert_eq!((run, left_out.len()), (vec!["tandem run demo"], 3));
        assert!(split(&commands[..3]).is_err(), "the last reason is stale");
    }
}
