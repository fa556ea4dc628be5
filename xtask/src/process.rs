//! Running cargo and the built `tandem`, from the root of the workspace.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

/// How `tandem` is built. The tests' profile optimises dependencies only; it spares a second build of everything.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Profile {
    Dev,
    Release,
}

/// Builds the `tandem` binary.
pub(crate) fn build_tandem(profile: Profile) -> Result<()> {
    let mut arguments = vec!["build", "--package", "tandem-cli", "--bin", "tandem"];
    if matches!(profile, Profile::Release) {
        arguments.push("--release");
    }
    run(cargo(&arguments))
}

/// `tandem setup`; it says that there is nothing to do when so.
pub(crate) fn setup(profile: Profile) -> Result<()> {
    run(tandem(profile, &["setup"])?)
}

/// A run of cargo, the same one that runs this task.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root());
    // Cargo has set these for this task: build scripts that look at them would run again, and all that depends on them be built again.
    let of_task = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(of_task)) {
        command.env_remove(name);
    }
    command
}

/// A run of the `tandem` that was built last.
pub(crate) fn tandem(profile: Profile, arguments: &[&str]) -> Result<Command> {
    let dir = target_directory()?.join(match profile {
        Profile::Dev => "debug",
        Profile::Release => "release",
    });
    let path = dir.join(format!("tandem{}", std::env::consts::EXE_SUFFIX));
    ensure!(path.is_file(), "`{}` was not built", path.display());
    Ok(command(&path, arguments))
}

/// What a directory holds, in the order of names.
pub(crate) fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).with_context(|| format!("cannot read `{}`", directory.display()))?;
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.map(|entry| entry.path())).collect::<std::io::Result<_>>()?;
    paths.sort();
    Ok(paths)
}

/// Copies a model, a file or the files of a directory, into the directory `to`; not the answers that a golden comes with.
pub(crate) fn copy_files(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    let files = if from.is_file() { vec![from.to_path_buf()] } else { entries(from)? };
    for file in files.iter().filter(|file| file.is_file()) {
        let name = file.file_name().context("a file has a name")?;
        if !name.to_string_lossy().starts_with("golden.") {
            fs::copy(file, to.join(name)).with_context(|| format!("cannot copy `{}`", file.display()))?;
        }
    }
    Ok(())
}

/// Where cargo builds.
pub(crate) fn target_directory() -> Result<PathBuf> {
    // This task is itself a binary of the workspace, in the directory of its profile: wherever builds go, there it lies.
    let own = std::env::current_exe().context("where this task's own binary lies")?;
    let directory = own.parent().and_then(Path::parent).context("a binary lies in a directory of its profile")?;
    Ok(directory.to_path_buf())
}

/// A run of `program`, without the variable that cargo sets for tests and a user does not have.
pub(crate) fn command(program: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(root()).env_remove("ORT_DISABLE_TELEMETRY");
    command
}

/// Shows the command, runs it with this terminal, and gives its exit code; one that a signal ended has failed.
pub(crate) fn exit_code(mut command: Command) -> Result<u8> {
    let shown = show(&command);
    let status = command.status().with_context(|| format!("cannot run `{shown}`"))?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

/// Shows the command and runs it with this terminal.
pub(crate) fn run(mut command: Command) -> Result<()> {
    let shown = show(&command);
    let status = command.status().with_context(|| format!("cannot run `{shown}`"))?;
    ensure!(status.success(), "`{shown}` failed ({status})");
    Ok(())
}

/// Whether the command runs and succeeds; nothing of it is shown.
pub(crate) fn succeeds(mut command: Command) -> bool {
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// Runs the command and hands each line of its standard output to `line`; its errors go to the terminal.
pub(crate) fn lines(mut command: Command, mut line: impl FnMut(&str)) -> Result<()> {
    let shown = show(&command);
    let mut child = command.stdout(Stdio::piped()).spawn().with_context(|| format!("cannot run `{shown}`"))?;
    let stdout = child.stdout.take().context("standard output is piped")?;
    for text in BufReader::new(stdout).split(b'\n') {
        line(&String::from_utf8_lossy(&text.with_context(|| format!("reading from `{shown}`"))?));
    }
    let status = child.wait().with_context(|| format!("waiting for `{shown}`"))?;
    if !status.success() {
        bail!("`{shown}` failed ({status})");
    }
    Ok(())
}

/// The root of the workspace.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

fn show(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_stem().unwrap_or(command.get_program());
    let words: Vec<_> = [program].into_iter().chain(command.get_args()).map(OsStr::to_string_lossy).collect();
    let shown = words.join(" ");
    eprintln!("$ {shown}");
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_does_not_see_the_variables_of_this_task() {
        let command = cargo(&["build"]);
        let is_removed = |name: &str| command.get_envs().any(|(key, value)| key == name && value.is_none());
        assert!(is_removed("CARGO_PKG_NAME") && is_removed("CARGO_MANIFEST_DIR") && !is_removed("CARGO"));
    }
}
