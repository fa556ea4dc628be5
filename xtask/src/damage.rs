//! Damaged models against every command that reads one: no crash, no hang, and little more memory than the undamaged model takes.
//!
//! Each run copies a small model, damages it, and runs one command on it. All follow from the seed and the number of the run, so that one
//! that was found can be repeated alone.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use fastrand::Rng;

use crate::interrupt::Interrupt;
use crate::parity;
use crate::process::{self, Profile};
use crate::test_run::BUILD;

mod edit;

const HELP: &str = "\
usage: cargo xtask damage [--seed N] [--runs N] [--only N] [--jobs N]

Damages small models (JSON values, bits of graphs and weights, truncated files) and runs every command that reads a model on them.

  --seed N    random seed [default: 0]
  --runs N    number of runs [default: 2000]
  --only N    repeat this run alone; its directory stays in target/damage
  --jobs N    runs at the same time [default: the number of processors]";

/// Longer than the undamaged model takes by this is a hang.
const MOST_EXTRA_TIME: Duration = Duration::from_secs(5);
/// More memory than the undamaged model takes by this is a finding.
const MOST_EXTRA_BYTES: u64 = 200_000_000;
/// How often a process is looked at.
const INTERVAL: Duration = Duration::from_millis(4);

/// What every model can be given to; `MODEL` and `BACKEND` are those of the case.
const COMMANDS: [&str; 6] = [
    "run MODEL fox --raw --max-tokens 4 --backend BACKEND",
    "run MODEL fox --max-tokens 4 --backend BACKEND --json",
    "chat MODEL --max-tokens 4 --backend BACKEND",
    "score MODEL fox --backend BACKEND",
    "show MODEL --backend BACKEND",
    "show MODEL --backend BACKEND --json --hashes",
];

/// What a checkpoint can be given to besides.
const OF_CHECKPOINTS: [&str; 3] = [
    "run MODEL fox --raw --max-tokens 4 --backend BACKEND --dtype int4",
    "bench MODEL --backend BACKEND --dtype f32 --rounds 1 --prompt 8 --depth 0 --generate 2 -o bench.json",
    "parity MODEL --reference BACKEND --candidate BACKEND --corpus prompts.txt --generate 2 --texts 1",
];

/// What a checkpoint can be given to that ONNX Runtime runs.
const EXPORT: &str = "export MODEL --dtype int8 --output exported";

/// A small model, and what runs it.
struct Model {
    /// A directory, or a GGUF file.
    path: PathBuf,
    backends: &'static [&'static str],
    is_checkpoint: bool,
}

struct Options {
    seed: u64,
    runs: usize,
    only: Option<usize>,
    jobs: usize,
}

/// What a process came to.
struct Ended {
    status: Option<ExitStatus>,
    time: Duration,
    peak_bytes: u64,
    errors: String,
}

/// One run: a model, its damages and a command.
struct Case<'m> {
    number: usize,
    model: &'m Model,
    arguments: Vec<String>,
    random: Rng,
}

/// Runs the damages; fails when there is a finding.
pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    if arguments.iter().any(|argument| matches!(*argument, "--help" | "-h")) {
        println!("{HELP}");
        return Ok(());
    }
    let options = parse(arguments)?;
    process::run(process::cargo(&[&["build", "--bin", "tandem"], &BUILD[..]].concat()))?;
    process::setup(Profile::Dev)?;
    let program = PathBuf::from(process::tandem(Profile::Dev, &[])?.get_program());
    let root = process::target_directory()?.join("damage");
    if root.exists() {
        fs::remove_dir_all(&root).with_context(|| format!("`{}`", root.display()))?;
    }
    let models = models()?;
    let numbers: Vec<usize> = options.only.map_or_else(|| (0..options.runs).collect(), |only| vec![only]);
    let next = AtomicUsize::new(0);
    let work = Work { program, root, models, undamaged: Mutex::default(), interrupt: Interrupt::listen()? };
    let counts = std::thread::scope(|scope| {
        let worker = |job: usize| {
            let (work, next, numbers, seed) = (&work, &next, &numbers, options.seed);
            scope.spawn(move || {
                let mut counts = Counts::default();
                while let Some(&number) =
                    numbers.get(next.fetch_add(1, Ordering::Relaxed)).filter(|_| !work.interrupt.was_pressed())
                {
                    work.one(seed, number, job, &mut counts)?;
                }
                Ok::<_, anyhow::Error>(counts)
            })
        };
        let workers: Vec<_> = (0..options.jobs).map(worker).collect();
        workers.into_iter().map(|worker| worker.join().expect("a worker returns its errors")).collect::<Result<Vec<Counts>>>()
    })?;
    let sum = |of: fn(&Counts) -> usize| counts.iter().map(of).sum::<usize>();
    let (n, n_refused, n_found) = (sum(|counts| counts.n), sum(|counts| counts.n_refused), sum(|counts| counts.n_found));
    println!(
        "{n} damaged models, seed {}: {n_refused} refused, {} accepted, {n_found} findings",
        options.seed,
        n - n_refused - n_found
    );
    ensure!(n_found == 0, "{n_found} findings; their directories are in `{}`", work.root.display());
    Ok(())
}

#[derive(Default)]
struct Counts {
    n: usize,
    n_refused: usize,
    n_found: usize,
}

/// What all runs have in common.
struct Work {
    program: PathBuf,
    root: PathBuf,
    models: Vec<Model>,
    /// Time and memory of each command on each undamaged model.
    undamaged: Mutex<BTreeMap<String, (Duration, u64)>>,
    interrupt: Interrupt,
}

impl Work {
    fn one(&self, seed: u64, number: usize, job: usize, counts: &mut Counts) -> Result<()> {
        let mut case = self.case(seed, number);
        let (time, bytes) = self.of_undamaged(&case, job)?;
        let directory = self.fresh(&format!("job-{job}"), &case)?;
        let damages = edit::damage(&directory.join("model"), &mut case.random)?;
        let limit = time + MOST_EXTRA_TIME;
        let mut ended = self.watch(&directory, &case.arguments, limit)?;
        if ended.status.is_none() {
            // Other programs may have kept the processors busy: only what takes so long again is a hang.
            ended = self.watch(&directory, &case.arguments, limit)?;
        }
        counts.n += 1;
        match finding(&ended, limit, bytes + MOST_EXTRA_BYTES) {
            Some(finding) => {
                counts.n_found += 1;
                let kept = self.root.join(format!("found-{number}"));
                fs::rename(&directory, &kept)?;
                println!("run {}: {finding}\n  {}\n  tandem {}", case.number, damages.join("; "), case.arguments.join(" "));
                let last: Vec<&str> = ended.errors.lines().rev().take(4).collect();
                last.iter().rev().for_each(|line| println!("  | {line}"));
            }
            None if !ended.status.is_some_and(|status| status.success()) => counts.n_refused += 1,
            None => {}
        }
        Ok(())
    }

    fn case(&self, seed: u64, number: usize) -> Case<'_> {
        let mut random = edit::random(seed, number as u64);
        let model = edit::one_of(&mut random, &self.models);
        let backend = *edit::one_of(&mut random, model.backends);
        let command = *edit::one_of(&mut random, &model.commands());
        let word = |word| match word {
            "BACKEND" => backend.to_owned(),
            "MODEL" => model.reference(),
            other => other.to_owned(),
        };
        Case { number, model, arguments: command.split(' ').map(word).collect(), random }
    }

    /// What the command takes on the undamaged model, measured once; it must succeed.
    fn of_undamaged(&self, case: &Case<'_>, job: usize) -> Result<(Duration, u64)> {
        let key = format!("{} {}", case.model.path.display(), case.arguments.join(" "));
        if let Some(&known) = self.undamaged.lock().expect("no worker panics").get(&key) {
            return Ok(known);
        }
        let directory = self.fresh(&format!("undamaged-{job}"), case)?;
        let ended = self.watch(&directory, &case.arguments, Duration::from_secs(120))?;
        let succeeded = ended.status.is_some_and(|status| status.success());
        ensure!(succeeded, "the undamaged model fails: {key}\n{}", ended.errors);
        let measured = (ended.time, ended.peak_bytes);
        self.undamaged.lock().expect("no worker panics").insert(key, measured);
        Ok(measured)
    }

    /// A directory with a copy of the model.
    fn fresh(&self, name: &str, case: &Case<'_>) -> Result<PathBuf> {
        let directory = self.root.join(name);
        if directory.exists() {
            fs::remove_dir_all(&directory)?;
        }
        case.model.copy(&directory.join("model"))?;
        fs::write(directory.join("prompts.txt"), "The fox\n")?;
        Ok(directory)
    }

    /// Runs the program, and ends it when it takes longer than `limit`.
    fn watch(&self, directory: &Path, arguments: &[String], limit: Duration) -> Result<Ended> {
        let errors = directory.join("stderr.txt");
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut command = process::command(&self.program, &arguments);
        // A group of its own, so that its workers end with it.
        command.current_dir(directory).env("HF_HUB_OFFLINE", "1").env("XDG_CONFIG_HOME", directory).process_group(0);
        command.stdin(Stdio::null()).stdout(fs::File::create(directory.join("stdout.txt"))?).stderr(fs::File::create(&errors)?);
        let started = Instant::now();
        let mut child = command.spawn().context("cannot run `tandem`")?;
        let mut peak_bytes = 0;
        loop {
            peak_bytes = peak_bytes.max(peak(child.id()));
            let status = child.try_wait()?;
            let time = started.elapsed();
            if status.is_some() || time > limit {
                if status.is_none() {
                    process::run(process::command(Path::new("kill"), &["-KILL", "--", &format!("-{}", child.id())]))?;
                    child.wait()?;
                }
                let errors = String::from_utf8_lossy(&fs::read(&errors)?).into_owned();
                return Ok(Ended { status, time, peak_bytes, errors });
            }
            std::thread::sleep(INTERVAL);
        }
    }
}

/// What is wrong with how the process ended.
fn finding(ended: &Ended, limit: Duration, most_bytes: u64) -> Option<String> {
    /// What Rust exits with after a panic.
    const PANICKED: i32 = 101;
    match ended.status {
        None => return Some(format!("a hang: still running after {:.1} s", limit.as_secs_f64())),
        Some(status) => match status.code() {
            None => return Some(format!("a crash: {status}")),
            Some(PANICKED) => return Some("a panic".into()),
            Some(_) if ended.errors.contains("panicked at") => return Some("a panic of a thread or a worker".into()),
            // As `ExitStatus` is displayed.
            Some(_) if ended.errors.contains("signal: ") => return Some("a crash of a worker".into()),
            Some(_) => {}
        },
    }
    let mb = |bytes: u64| bytes / 1_000_000;
    (ended.peak_bytes > most_bytes).then(|| format!("{} MB of memory exceed {} MB", mb(ended.peak_bytes), mb(most_bytes)))
}

/// The most memory of the process or of one of its workers so far; 0 where the system has no proc(5).
fn peak(process: u32) -> u64 {
    let read = |file: &str| fs::read_to_string(format!("/proc/{process}/{file}")).unwrap_or_default();
    let status = read("status");
    let kib = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    let children = read(&format!("task/{process}/children"));
    let of_children = children.split_whitespace().filter_map(|child| child.parse().ok()).map(peak).max();
    (kib.unwrap_or(0) * 1024).max(of_children.unwrap_or(0))
}

/// The built-in model, the goldens with their graphs as published tools write them, and GGUF files; all are small.
fn models() -> Result<Vec<Model>> {
    let goldens = process::root().join("goldens");
    let mut models = Vec::new();
    let mut checkpoints = process::entries(&goldens)?;
    checkpoints.push(process::root().join("models/demo"));
    for path in checkpoints.into_iter().filter(|path| path.join("config.json").is_file()) {
        let graphs = process::entries(&path.join("onnx")).unwrap_or_default();
        let of_genai = graphs.into_iter().filter(|path| path.join("genai_config.json").is_file());
        models.extend(of_genai.map(|path| Model { path, backends: &["onnx"], is_checkpoint: false }));
        let is_of_one = parity::OF_ONE_ENGINE.iter().any(|name| path.ends_with(name));
        let backends: &[&str] = if is_of_one { &["candle"] } else { &["candle", "onnx"] };
        models.push(Model { path, backends, is_checkpoint: true });
    }
    let files = process::entries(&goldens.join("gguf"))?;
    models.extend(files.into_iter().map(|path| Model { path, backends: &["candle"], is_checkpoint: false }));
    Ok(models)
}

impl Model {
    fn commands(&self) -> Vec<&'static str> {
        let of_checkpoints = if self.is_checkpoint { &OF_CHECKPOINTS[..] } else { &[] };
        let export = (self.is_checkpoint && self.backends.contains(&"onnx")).then_some(EXPORT);
        COMMANDS.iter().chain(of_checkpoints).copied().chain(export).collect()
    }

    /// How the copy in `model` is named on the command line.
    fn reference(&self) -> String {
        match self.path.file_name().filter(|_| self.path.is_file()) {
            Some(file) => format!("model/{}", file.to_string_lossy()),
            None => "model".into(),
        }
    }

    fn copy(&self, to: &Path) -> Result<()> {
        process::copy_files(&self.path, to)?;
        // This one is laid out as published: its graphs are the model.
        if self.path.ends_with("onnx-community") {
            process::copy_files(&self.path.join("onnx"), &to.join("onnx"))?;
        }
        Ok(())
    }
}

fn parse(arguments: &[&str]) -> Result<Options> {
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let mut options = Options { seed: 0, runs: 2000, only: None, jobs };
    for pair in arguments.chunks(2) {
        let [name, value] = pair else { bail!("`{}` needs a number\n\n{HELP}", pair[0]) };
        let number: u64 = value.parse().with_context(|| format!("`{name} {value}`"))?;
        match *name {
            "--seed" => options.seed = number,
            "--runs" => options.runs = number as usize,
            "--only" => options.only = Some(number as usize),
            "--jobs" => options.jobs = number.max(1) as usize,
            _ => bail!("there is no option `{name}`\n\n{HELP}"),
        }
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hangs_crashes_panics_and_memory_are_findings() {
        let ran = |script: &str, errors: &str, peak_bytes: u64| Ended {
            status: Some(std::process::Command::new("sh").args(["-c", script]).status().unwrap()),
            time: Duration::ZERO,
            peak_bytes,
            errors: errors.into(),
        };
        let found = |ended: &Ended| finding(ended, Duration::from_secs(1), 1000);
        assert_eq!(found(&ran("exit 0", "", 1000)), None);
        assert_eq!(found(&ran("exit 1", "error: the file is not valid JSON", 0)), None);
        assert_eq!(found(&ran("exit 101", "", 0)), Some("a panic".into()));
        assert!(found(&ran("exit 1", "thread 'x' panicked at y", 0)).is_some());
        assert!(found(&ran("exit 1", "onnx failed: it ended (signal: 11 (SIGSEGV))", 0)).is_some());
        assert!(found(&ran("kill -SEGV $$", "", 0)).is_some_and(|found| found.starts_with("a crash")));
        assert!(found(&ran("exit 0", "", 1001)).is_some_and(|found| found.contains("memory")));
        assert!(found(&Ended { status: None, ..ran("exit 0", "", 0) }).is_some_and(|found| found.starts_with("a hang")));
    }

    #[test]
    fn options_are_numbers() {
        let options = parse(&["--seed", "3", "--only", "7"]).unwrap();
        assert_eq!((options.seed, options.runs, options.only), (3, 2000, Some(7)));
        assert!(parse(&["--seed"]).is_err() && parse(&["--seed", "x"]).is_err() && parse(&["--fast", "1"]).is_err());
    }
}
