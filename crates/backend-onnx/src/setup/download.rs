//! Downloads the wheel with pip, under the user's own configuration of mirrors, proxies and caches.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use tandem_core::error::Source;
use tandem_core::{Error, Remedy, Result};

use super::pins::Pin;
use super::{SetupEvent, install_dir};
use crate::library::VERSION;

/// How many of pip's last lines an error shows.
const N_LAST_LINES: usize = 6;

/// A command that runs pip, without pip's own arguments.
#[derive(Clone, Debug)]
pub(super) struct Client(pub(super) Vec<OsString>);

/// The commands that run pip, best first. Isolated mode keeps Python from importing modules of the working directory, such as a `pip.py`.
pub(super) fn known_clients() -> Vec<Client> {
    let clients: [&[&str]; 4] = [&["python3", "-I", "-m", "pip"], &["python", "-I", "-m", "pip"], &["pip3"], &["pip"]];
    clients.iter().map(|words| Client(words.iter().map(Into::into).collect())).collect()
}

/// Downloads the wheel of `pin` into `dir` with the first of `clients` that works on this machine.
pub(super) fn download(pin: &Pin, clients: &[Client], dir: &Path, progress: &mut dyn FnMut(SetupEvent<'_>)) -> Result<PathBuf> {
    let client = clients.iter().find(|client| client.exists(dir)).ok_or_else(|| no_client(pin, clients))?;
    let shown = format!("{} {}", client.shown(), arguments(pin).join(" "));
    progress(SetupEvent::Downloading { command: &shown, bytes: pin.wheel_size });

    let failed =
        |problem: String, hint: Remedy, source: Option<Source>| Error::EngineLibrary { problem, hint: hint.into(), source };
    let mut command = client.command(dir);
    command.args(arguments(pin)).arg("-d").arg(dir).args(["--no-input", "--progress-bar", "off"]);
    // What a killed pip leaves behind is in `dir`, and is removed with it.
    command.env("TMPDIR", dir).env("PYTHONUNBUFFERED", "1").env("PYTHONIOENCODING", "utf-8");
    let (status, last_lines) = run(command, progress)
        .map_err(|error| failed(format!("`{}` could not be run", client.shown()), by_hand(pin), Some(error.into())))?;
    if !status.success() {
        let lines = Vec::from(last_lines).join("\n");
        let is_full = lines.contains("No space left on device");
        let hint = if is_full { install_dir::NO_SPACE_HINT.into() } else { by_hand(pin) };
        return Err(failed(format!("`{shown}` failed ({status})"), hint, Some(lines.into())));
    }
    let wheel = dir.join(pin.wheel);
    if !wheel.is_file() {
        return Err(failed(format!("`{shown}` did not download `{}`", pin.wheel), by_hand(pin), None));
    }
    Ok(wheel)
}

/// How to install the library on a machine without a network.
pub(super) fn by_hand(pin: &Pin) -> Remedy {
    Remedy::SetUpFromWheel { pip: arguments(pin).join(" "), wheel: pin.wheel.into() }
}

impl Client {
    /// The command in the working directory `dir`: not the caller's, whose files are not trusted.
    fn command(&self, dir: &Path) -> Command {
        let (program, first) = self.0.split_first().expect("a client is at least a program");
        let mut command = Command::new(program);
        command.args(first).current_dir(dir).stdin(Stdio::null());
        command
    }

    /// Whether it runs at all: a Python may lack pip, and a command may be a stub that asks to be installed.
    fn exists(&self, dir: &Path) -> bool {
        let status = self.command(dir).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    }

    fn shown(&self) -> String {
        self.0.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }
}

/// pip's arguments, except where to put the wheel.
fn arguments(pin: &Pin) -> Vec<String> {
    let requirement = format!("onnxruntime=={VERSION}");
    ["download", "--no-deps", "--only-binary=:all:", "--python-version", "3.12", "--implementation", "cp", "--platform"]
        .into_iter()
        .chain([pin.platform, &requirement])
        .map(str::to_owned)
        .collect()
}

/// Runs `command`, reports each line that it writes, and returns the last ones.
fn run(mut command: Command, progress: &mut dyn FnMut(SetupEvent<'_>)) -> io::Result<(ExitStatus, VecDeque<String>)> {
    let (reader, writer) = io::pipe()?;
    command.stdout(writer.try_clone()?).stderr(writer);
    let mut child = command.spawn()?;
    // It holds the write ends of the pipe, so the reader would never see the end.
    drop(command);
    let mut last = VecDeque::with_capacity(N_LAST_LINES);
    for line in BufReader::new(reader).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        let line = line.trim_end();
        if line.trim_start().is_empty() {
            continue;
        }
        progress(SetupEvent::Client { line });
        if last.len() == N_LAST_LINES {
            last.pop_front();
        }
        last.push_back(line.to_owned());
    }
    Ok((child.wait()?, last))
}

fn no_client(pin: &Pin, clients: &[Client]) -> Error {
    let tried: Vec<_> = clients.iter().map(|client| format!("`{}`", client.shown())).collect();
    Error::EngineLibrary {
        problem: format!("pip was not found: tried {}", tried.join(", ")),
        hint: ["install Python 3 with pip".into(), by_hand(pin)].into(),
        source: None,
    }
}
