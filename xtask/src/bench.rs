//! Both backends, measured in turns by `tandem bench`: in one program, or on request each in a program of its own.
//!
//! Sizes and build times of the programs are in the report. The measuring, its statistics and the report are `tandem bench`'s: options that
//! are not known here are handed on to it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use crate::interrupt::Interrupt;
use crate::process;

/// The features of the program with both backends.
const BOTH: &str = "onnx,candle";

/// Those of the programs that have one each.
const SEPARATE: [&str; 2] = ["onnx", "candle"];

/// The first short table: one round of each backend on the built-in model, in f32 and int4.
const FIRST_LOOK: [&str; 10] = [
    "bench",
    "demo",
    "--backend",
    BOTH,
    "--rounds=1",
    "--prompt=32",
    "--depth=0",
    "--generate=32",
    "--dtype=f32,int4",
    "--quiet",
];

/// The models that are measured when none is named: the built-in one, and the smallest shape of the models people run.
const USUAL: [&[&str]; 2] = [&["demo"], &["--shape", "qwen2.5-0.5b"]];

const HELP: &str = "\
usage: cargo xtask bench [--separate] [--clean] [--directory DIR] [OPTIONS OF `tandem bench`]

Builds a program with both backends, shows a first short table, and measures them in turns on the built-in model and on random weights in
the shape of Qwen2.5-0.5B.

  --separate         build a program for each backend as well, and measure each in its own, with its size and build time
  --clean            build everything anew, so that build times are those of a fresh clone
  --directory DIR    where the reports go [default: target/bench]

A model or `--shape NAME` takes the place of both; `--baseline FILE`, `--gate`, `--peer …`, `--rounds N` and all others go to
`tandem bench`: see `tandem bench --help`.";

/// What is done here; the rest is `tandem bench`'s.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    separate: bool,
    clean: bool,
    directory: Option<PathBuf>,
    /// Options of `tandem bench`, in their order.
    rest: Vec<String>,
    /// The rest names what to measure.
    has_model: bool,
}

/// A program that was built.
struct Build {
    features: &'static str,
    program: PathBuf,
    seconds: f64,
    is_clean: bool,
}

/// Builds, measures, and ends as the last measurement that did not end well.
pub(crate) fn run(arguments: &[&str]) -> Result<ExitCode> {
    if arguments.iter().any(|argument| matches!(*argument, "--help" | "-h")) {
        println!("{HELP}");
        return Ok(ExitCode::SUCCESS);
    }
    let options = parse(arguments)?;
    let directory =
        options.directory.clone().map_or_else(|| process::target_directory().map(|target| target.join("bench")), Ok)?;
    fs::create_dir_all(&directory).with_context(|| format!("`{}` cannot be made", directory.display()))?;
    let separate = if options.separate { &SEPARATE[..] } else { &[] };
    let features = [&[BOTH], separate].concat();
    let builds: Vec<Build> = features.into_iter().map(|features| build(features, &options)).collect::<Result<_>>()?;
    let both = &builds[0].program;
    process::run(process::command(both, &["setup"]))?;
    if !options.has_model {
        let code = process::exit_code(process::command(both, &FIRST_LOOK))?;
        if code != 0 {
            return Ok(ExitCode::from(code));
        }
    }
    let facts = directory.join("builds.json");
    fs::write(&facts, facts_of(&builds)?).with_context(|| format!("`{}` cannot be written", facts.display()))?;

    let models: Vec<&[&str]> = if options.has_model { vec![&[]] } else { USUAL.to_vec() };
    let interrupt = Interrupt::listen()?;
    let mut worst = 0;
    for model in models {
        if interrupt.was_pressed() {
            break;
        }
        let name = model.last().copied().unwrap_or("bench");
        let code = measure(&builds, model, &options.rest, &directory, name, &facts)?;
        // A failure outweighs a gate.
        worst = if code == 1 || worst == 1 { 1 } else { worst.max(code) };
    }
    Ok(ExitCode::from(worst))
}

/// Runs `tandem bench`; its exit code.
fn measure(builds: &[Build], model: &[&str], rest: &[String], directory: &Path, name: &str, facts: &Path) -> Result<u8> {
    let mut arguments: Vec<String> = vec!["bench".into()];
    arguments.extend(model.iter().map(|&part| part.to_owned()));
    let given = |option: &str| rest.iter().any(|part| part == option || part.starts_with(&format!("{option}=")));
    let mut add = |option: &str, value: String| {
        if !given(option) {
            arguments.extend([option.to_owned(), value]);
        }
    };
    add("--backend", BOTH.into());
    add("--threads", threads(std::thread::available_parallelism().map_or(1, usize::from)));
    add("--output", directory.join(format!("{name}.json")).display().to_string());
    add("--html", directory.join(format!("{name}.html")).display().to_string());
    for build in builds.iter().filter(|build| build.features != BOTH) {
        arguments.extend(["--program".into(), format!("{}={}", build.features, build.program.display())]);
    }
    arguments.extend(["--builds".into(), facts.display().to_string()]);
    arguments.extend(rest.iter().cloned());
    let both = builds.first().context("something was built")?;
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    process::exit_code(process::command(&both.program, &arguments))
}

/// The numbers of threads to compare: half of the processors, which are cores where a core shows as two, and all.
fn threads(n: usize) -> String {
    if n > 1 { format!("{},{n}", n / 2) } else { "1".into() }
}

/// Builds `tandem` in release with `features`. What is timed, or would undo another build, has a directory of its own.
fn build(features: &'static str, options: &Options) -> Result<Build> {
    let target = match features {
        BOTH if !options.clean => process::target_directory()?,
        _ => process::target_directory()?.join("bench-builds").join(features.replace(',', "-")),
    };
    if options.clean && target.exists() {
        fs::remove_dir_all(&target).with_context(|| format!("`{}` cannot be removed", target.display()))?;
    }
    let is_clean = !target.exists();
    let started = Instant::now();
    let mut cargo = process::cargo(&[
        "build",
        "--release",
        "--package",
        "tandem-cli",
        "--bin",
        "tandem",
        "--no-default-features",
        "--features",
        features,
    ]);
    cargo.env("CARGO_TARGET_DIR", &target);
    process::run(cargo)?;
    let program = target.join("release").join(format!("tandem{}", std::env::consts::EXE_SUFFIX));
    ensure!(program.is_file(), "`{}` was not built", program.display());
    Ok(Build { features, program, seconds: started.elapsed().as_secs_f64(), is_clean })
}

/// The builds as `tandem bench --builds` reads them: JSON, whose only texts here are features and a version.
fn facts_of(builds: &[Build]) -> Result<String> {
    let mut compiler = String::new();
    let mut rustc = std::process::Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc.arg("--version");
    process::lines(rustc, |line| compiler = line.chars().filter(|c| !matches!(c, '"' | '\\')).collect())?;
    let mut rows = Vec::new();
    for build in builds {
        let bytes = fs::metadata(&build.program).with_context(|| format!("`{}`", build.program.display()))?.len();
        // A build that found everything there says nothing of how long one takes.
        let seconds = if build.is_clean || build.seconds > 5.0 { format!("{:.1}", build.seconds) } else { "null".into() };
        rows.push(format!(
            "{{\"features\":\"{}\",\"seconds\":{seconds},\"is_clean\":{},\"bytes\":{bytes},\"compiler\":\"{compiler}\"}}",
            build.features, build.is_clean
        ));
    }
    Ok(format!("[{}]", rows.join(",")))
}

fn parse(arguments: &[&str]) -> Result<Options> {
    let mut options = Options::default();
    let mut arguments = arguments.iter().copied();
    let mut after_option = false;
    while let Some(argument) = arguments.next() {
        match argument {
            "--separate" => options.separate = true,
            "--clean" => options.clean = true,
            "--directory" => match arguments.next() {
                Some(directory) => options.directory = Some(directory.into()),
                None => bail!("`--directory` needs a directory"),
            },
            other => {
                // A word is a model unless it is the value of the option before it; of the options of `tandem bench`, `--gate` and
                // those on output have none.
                let is_option = other.starts_with('-');
                options.has_model |= other == "--shape" || other.starts_with("--shape=") || (!is_option && !after_option);
                after_option = is_option
                    && !other.contains('=')
                    && !matches!(other, "--gate" | "--json" | "--quiet" | "-q" | "--verbose" | "-v");
                options.rest.push(other.to_owned());
            }
        }
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(arguments: &[&str], rest: &[&str], has_model: bool) {
        let options = parse(arguments).unwrap();
        assert_eq!(options.rest, rest, "{arguments:?}");
        assert_eq!(options.has_model, has_model, "{arguments:?}");
    }

    #[test]
    fn unknown_bench_options_are_passed_on() {
        check(&[], &[], false);
        check(&["--clean", "--rounds", "9", "--gate"], &["--rounds", "9", "--gate"], false);
        check(&["--gate", "demo"], &["--gate", "demo"], true);
        check(&["--rounds", "9", "./model"], &["--rounds", "9", "./model"], true);
        check(&["--shape", "qwen3-0.6b"], &["--shape", "qwen3-0.6b"], true);
        check(&["--baseline=a.json", "demo"], &["--baseline=a.json", "demo"], true);
        assert_eq!(parse(&["--directory", "x"]).unwrap().directory, Some("x".into()));
        assert!(parse(&["--directory"]).is_err());
    }

    #[test]
    fn default_threads_are_half_and_all_processors() {
        assert_eq!([1, 2, 3, 16].map(threads), ["1", "1,2", "1,3", "8,16"]);
    }

    #[test]
    fn builds_are_written_as_json() {
        let program = std::env::current_exe().unwrap();
        let builds = [Build { features: "onnx,candle", program, seconds: 1.0, is_clean: false }];
        let facts = facts_of(&builds).unwrap();
        assert!(facts.starts_with(r#"[{"features":"onnx,candle","seconds":null,"is_clean":false,"bytes":"#), "{facts}");
    }
}
