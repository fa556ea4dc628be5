//! Plans of memory: `show`, `auto`, and what is refused before it is loaded.

use serde_json::Value;

use crate::support::{Outcome, Place, place_with_engine, place_with_onnx};

/// What does not depend on the machine.
const IMAGINED: [&str; 6] = ["--memory", "16GiB", "--threads", "2", "--backend", "onnx"];

fn imagined<'a>(args: &[&'a str]) -> Vec<&'a str> {
    [args, &IMAGINED].concat()
}

#[test]
fn a_plan_is_a_sum() {
    let report = Place::new().json(&["show", "demo", "--no-load", "--json", "--context", "512"]);
    let memory = &report["memory"];
    if tandem::backends::compiled().is_empty() {
        return assert_eq!(memory, &Value::Null);
    }
    let parts: u64 = memory["parts"].as_array().unwrap().iter().map(|part| part["bytes"].as_u64().unwrap()).sum();
    assert_eq!(memory["peak_bytes"].as_u64().unwrap(), parts, "{memory}");
    assert_eq!((&memory["n_tokens"], &memory["correction_bytes"]), (&512.into(), &Value::Null), "{memory}");
    let longer = Place::new().json(&["show", "demo", "--no-load", "--json", "--context", "1024"]);
    assert!(longer["memory"]["peak_bytes"].as_u64().unwrap() > parts);
}

#[test]
fn the_catalog_is_shown_without_a_download() {
    let Some(place) = place_with_onnx() else { return };
    let check = |name: &str, args: &[&str]| {
        let Outcome { code, stdout, stderr } = place.tandem(&imagined(args));
        assert_eq!((code, stderr.as_str()), (Some(0), ""));
        assert!(stdout.lines().all(|line| line.chars().count() <= 80), "{stdout}");
        insta::assert_snapshot!(name, stdout);
        #[cfg(unix)]
        insta::assert_snapshot!(format!("{name}_terminal"), crate::terminal::on_terminal(place.command(&imagined(args))).1);
    };
    check("show_catalog", &["show", "llama3.2:1b", "--dtype", "int4"]);
    check("show_auto", &["show", "auto"]);
    assert!(place.files_at_home().is_empty());
}

#[test]
fn a_model_is_shown_in_80_columns() {
    let Some(place) = crate::support::place_with_onnx() else { return };
    let check = |name: &str, args: &[&str]| {
        let Outcome { code, stdout, stderr } = place.tandem(&imagined(args));
        assert_eq!((code, stderr.as_str()), (Some(0), ""));
        assert!(stdout.lines().all(|line| line.chars().count() <= 80), "{stdout}");
        insta::assert_snapshot!(name, stdout);
        #[cfg(unix)]
        {
            let (_, text) = crate::terminal::on_terminal(place.command(&imagined(args)));
            insta::assert_snapshot!(format!("{name}_terminal"), text.replace('\u{1b}', "␛"));
        }
    };
    check("show_model", &["show", "model", "--no-load", "--hashes"]);
    check("show_demo", &["show", "demo", "--no-load"]);
}

#[test]
fn auto_is_the_largest_that_fits() {
    let Some(place) = place_with_onnx() else { return };
    let taken = |memory: &str| {
        let report = place.json(&["show", "auto", "--json", "--memory", memory, "--threads", "2", "--backend", "onnx"]);
        assert_eq!(report["memory"]["verdict"], "fits", "{report}");
        report["entry"]["parameters"].as_u64().unwrap()
    };
    assert_eq!(taken("1400MiB"), 494_032_768);
    assert!(taken("16GiB") >= 1_500_000_000);
    assert_eq!(taken("64GiB"), taken("16GiB"), "a larger one would be too slow");
    place.tandem(&["show", "auto", "--memory", "1GiB"]).fails(1, &["no model of the catalog fits", "hint: ", "`demo`"]);
    place.tandem(&["show", "auto", "--memory", "much"]).fails(2, &["`much` is not a size"]);
    place.tandem(&["run", "auto", "x", "--memory", "1GiB"]).fails(1, &["no model of the catalog fits"]);
    place.tandem(&["run", "qwen2.5:70b", "x"]).fails(1, &["no model `qwen2.5:70b`"]);
    place.tandem(&["show", "qwen2.5:70b"]).fails(1, &["no model `qwen2.5:70b`", "`qwen2.5:7b`"]);
}

#[test]
fn own_models_are_in_the_catalog() {
    let place = Place::new();
    let entry = "[[model]]\nname = 'mine:1b'\ncheckpoint = 'me/mine'\nkind = 'text'\narchitecture = 'llama'\n\
                 parameters = 1_000_000\nlayers = 2\nhidden_size = 8\nintermediate_size = 8\nheads = 2\nkv_heads = 1\n\
                 head_dim = 4\nvocabulary = 100\ntied_head = true\ncontext = 64\nlicence = 'mit'\ngood_at = 'tests'\n";
    place.write("tandem.toml", entry);
    place.tandem(&["show", "mine:1b"]).fails(2, &["field `model`", "may be set in the user's own file only"]);
    place.remove("tandem.toml");
    let users = match cfg!(target_os = "macos") {
        true => "home/Library/Application Support/tandem/tandem.toml",
        false => "home/.config/tandem/tandem.toml",
    };
    place.write(users, entry);
    assert_eq!(place.json(&["show", "mine:1b", "--json"])["entry"]["checkpoint"], "me/mine");
    place.write(users, entry.replace("layers = 2", "layers = 0"));
    place.tandem(&["show", "mine:1b"]).fails(2, &["field `model.layers`: `0` of `mine:1b`"]);
    place.write(users, entry.replace("layers = 2", "layer = 2"));
    place.tandem(&["show", "mine:1b"]).fails(2, &["field `model`", "unknown field `layer`"]);
}

/// `command` under `ulimit -v`, in KiB.
#[cfg(target_os = "linux")]
fn limited(command: &std::process::Command, kibibytes: u64) -> Outcome {
    after(&format!("ulimit -v {kibibytes}"), command)
}

/// `command` in a shell that did `first`.
#[cfg(target_os = "linux")]
fn after(first: &str, command: &std::process::Command) -> Outcome {
    let mut limited = std::process::Command::new("sh");
    limited.args(["-c", &format!("{first} && exec \"$@\""), "sh"]).arg(command.get_program()).args(command.get_args());
    limited.current_dir(command.get_current_dir().unwrap());
    limited.env_remove("HF_TOKEN").envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = limited.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Outcome { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// The built-in model on every backend: refused with the sum where the limit is too small, run where it is roomy.
#[cfg(target_os = "linux")]
#[test]
fn the_demo_is_refused_rather_than_killed() {
    let Some(place) = place_with_engine() else { return };
    for backend in tandem::backends::compiled() {
        let backend = backend.to_string();
        let run = ["run", "demo", "Tell me a story.", "--max-tokens", "4", "--temperature", "0", "--threads", "2"];
        let run = [&run[..], &["--backend", &backend]].concat();
        // The program itself maps 40 MB in a build with every feature. With the least of them nothing starts; with the most everything but the
        // thread that renders the prompt.
        for kibibytes in [50_000, 100_000, 200_000, 400_000] {
            let refused = limited(&place.command(&run), kibibytes);
            refused.fails(
                1,
                &[
                    "`demo` does not fit: it needs ",
                    " MB of memory, and ",
                    "(`ulimit -v`) leaves ",
                    "hint: the sum: engine ",
                    " + address space of threads ",
                ],
            );
        }
        let roomy = limited(&place.command(&run), 4_000_000);
        assert_eq!(roomy.code, Some(0), "{backend}: {}", roomy.stderr);
        assert!(!roomy.stdout.is_empty() && !roomy.stderr.contains("memory"), "{backend}: {}", roomy.stderr);
    }
}

/// A control group made for a test, with a limit of memory in bytes; removed when it is dropped.
#[cfg(target_os = "linux")]
struct Group(std::path::PathBuf);

#[cfg(target_os = "linux")]
impl Group {
    /// `None` where this process may make none.
    fn new(bytes: u64) -> Option<Self> {
        let versions = [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")];
        versions.into_iter().find_map(|(mount, limit)| {
            let group = std::path::Path::new(mount).join(format!("tandem-test-{}", std::process::id()));
            // In a group that is one, the file of the limit is there already.
            std::fs::create_dir(&group).ok()?;
            let group = Self(group);
            let file = group.0.join(limit);
            (file.exists() && std::fs::write(file, bytes.to_string()).is_ok()).then_some(group)
        })
    }
}

#[cfg(target_os = "linux")]
impl Drop for Group {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn what_does_not_fit_a_control_group_is_refused_with_the_sum() {
    let Some(place) = place_with_engine() else { return };
    let Some(group) = Group::new(200 << 20) else { return eprintln!("skipped: no control group can be made here") };
    let place = place.with_long_context();
    let within = |args: &[&str]| after(&format!("echo $$ > {}/cgroup.procs", group.0.display()), &place.command(args));
    refused_with_the_sum(&within, &["the control group's limit of memory (`/sys/fs/cgroup/", "leaves 2"]);
}

/// A run that would hold a million tokens is refused where `limited` runs it, for a reason with the `parts`; a short one is not, and
/// neither is one that insists.
#[cfg(target_os = "linux")]
fn refused_with_the_sum(limited: &dyn Fn(&[&str]) -> Outcome, parts: &[&str]) {
    // An end token that is sure to come, so that a run which is let through ends and needs no memory.
    let run = ["run", "model", "x", "--raw", "--max-tokens", "1000000", "--logit-bias=285=1000"];
    let always = ["`model` does not fit: it needs ", "hint: the sum: KV cache ", "--no-memory-check"];
    limited(&run).fails(1, &[&always[..], parts].concat());
    let short = ["run", "model", "x", "--raw", "--max-tokens", "5", "--logit-bias=285=1000"];
    for run in [&short[..], &[&run[..], &["--no-memory-check"]].concat()] {
        let outcome = limited(run);
        assert_eq!(outcome.code, Some(0), "{run:?}: {}", outcome.stderr);
    }
}

/// A limit of the address space is the one that a test can set without rights.
#[cfg(target_os = "linux")]
#[test]
fn what_cannot_fit_is_refused_with_the_sum() {
    let Some(place) = place_with_engine() else { return };
    let place = place.with_long_context();
    let limited = |args: &[&str]| limited(&place.command(args), 900_000);
    refused_with_the_sum(&limited, &["address space (`ulimit -v`) leaves "]);
    let json = limited(&["run", "model", "x", "--raw", "--max-tokens", "1000000", "--json"]);
    assert_eq!(json.code, Some(1));
    assert!(json.json()["error"]["message"].as_str().unwrap().contains("does not fit"), "{}", json.stdout);
}

#[test]
fn what_is_tight_is_warned_of_and_runs() {
    let Some(place) = place_with_engine() else { return };
    let before = place.read("home/state/tandem/memory.json");
    let run = ["run", "model", "x", "--raw", "--max-tokens", "1", "--memory", "520MiB"];
    let warned = place.tandem(&run);
    assert_eq!(warned.code, Some(0), "{}", warned.stderr);
    assert!(warned.stderr.contains("warning: `model` will use about "), "{}", warned.stderr);
    let silent = place.tandem(&[&run[..], &["--no-memory-check"]].concat());
    assert!(!silent.stderr.contains("warning"), "{}", silent.stderr);
    let detailed = place.tandem(&["run", "model", "x", "--raw", "--max-tokens", "1", "-v"]);
    assert!(detailed.stderr.contains(" planned, "), "{}", detailed.stderr);
    assert_eq!(place.read("home/state/tandem/memory.json"), before, "a tiny model teaches nothing");
}
