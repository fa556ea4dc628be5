//! A model to damage, an engine to run it on, and the binary in surroundings of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use assert_cmd::Command as Checked;
use assert_cmd::cargo::cargo_bin;
use serde_json::Value;
use tandem::plan::Measurements;
use tempfile::TempDir;

/// Ids of the model's end tokens: with these flags it goes on for ever.
pub(crate) const ENDLESS: [&str; 2] = ["--logit-bias=285=-inf", "--logit-bias=287=-inf"];

/// A directory to work in, with the model `model` and an empty home.
pub(crate) struct Place {
    dir: TempDir,
}

/// What the binary did.
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A [`Place`] whose model runs on [`engine`], or nothing with a printed reason.
pub(crate) fn place_with_engine() -> Option<Place> {
    if has_onnx() { place_with_onnx() } else { Some(Place::new()) }
}

/// A [`Place`], or nothing with a printed reason when there is no ONNX Runtime; where `TANDEM_REQUIRE_ENGINES` is set and this build
/// has the backend, that is a failure.
pub(crate) fn place_with_onnx() -> Option<Place> {
    if !has_onnx() {
        eprintln!("skipped: this build has no backend `onnx`");
        return None;
    }
    if library().is_none() {
        let reason = "skipped: ONNX Runtime's library was not found (`tandem setup` obtains it)";
        assert!(std::env::var_os("TANDEM_REQUIRE_ENGINES").is_none(), "{reason}");
        eprintln!("{reason}");
        return None;
    }
    Some(Place::new())
}

/// The backend that models run on where none is named: ONNX Runtime, or candle in a build of candle alone.
pub(crate) fn engine() -> &'static str {
    if has_onnx() { "onnx" } else { "candle" }
}

/// A backend that is not part of this build, or nothing with a printed reason.
pub(crate) fn missing_backend() -> Option<String> {
    let compiled = tandem::backends::compiled();
    let missing = tandem::backends::KNOWN_BACKENDS.into_iter().find(|kind| !compiled.contains(kind));
    if missing.is_none() {
        eprintln!("skipped: this build has every backend");
    }
    missing.map(|kind| kind.to_string())
}

/// The file of [`Place::new`] that holds the weights.
pub(crate) fn weights() -> &'static str {
    if has_onnx() { "model/onnx/model.onnx" } else { "model/model.safetensors" }
}

pub(crate) fn has_onnx() -> bool {
    tandem::backends::default_backend() == tandem::BackendKind::Onnx
}

/// The library that the binary finds in the surroundings of the test run.
fn library() -> Option<&'static PathBuf> {
    static LIBRARY: OnceLock<Option<PathBuf>> = OnceLock::new();
    let found = || {
        let output = Command::new(cargo_bin!("tandem")).args(["devices", "--json"]).output().unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        report["backends"][0]["library"].as_str().map(PathBuf::from)
    };
    LIBRARY.get_or_init(found).as_ref()
}

impl Place {
    /// With a checkpoint whose graph is one file, as optimum exports it, or with its weights where candle runs it.
    pub(crate) fn new() -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap() };
        std::fs::create_dir(place.path("home")).unwrap();
        // Every machine reads its memory at this speed.
        let mut measured = Measurements::default();
        (1..=std::thread::available_parallelism().map_or(2, usize::from).max(2)).for_each(|n| measured.set_bandwidth(n, 40e9));
        measured.write(&place.path("home/state/tandem/memory.json")).unwrap();
        let published = if has_onnx() { "onnx/optimum_f32/model.onnx" } else { "model.safetensors" };
        place.copy(published, weights());
        for file in ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"] {
            place.copy(file, &format!("model/{file}"));
        }
        place
    }

    /// Puts the graph in two files there, as onnxruntime-genai's builder exports it.
    pub(crate) fn with_external_data(self) -> Self {
        for file in ["model.onnx", "model.onnx.data"] {
            self.copy(&format!("onnx/genai_f32/{file}"), &format!("model/onnx/{file}"));
        }
        self
    }

    /// Makes the context so long that a test can interrupt what fills it.
    pub(crate) fn with_long_context(self) -> Self {
        self.edit_json("model/config.json", |config| config["max_position_embeddings"] = 1_000_000.into());
        self
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        std::fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        std::fs::write(self.path(name), text).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    pub(crate) fn remove(&self, name: &str) {
        std::fs::remove_file(self.path(name)).unwrap();
    }

    /// Keeps the first `n_bytes` of a file.
    pub(crate) fn truncate(&self, name: &str, n_bytes: u64) {
        let file = std::fs::File::options().write(true).open(self.path(name)).unwrap();
        assert!(file.metadata().unwrap().len() > n_bytes);
        file.set_len(n_bytes).unwrap();
    }

    pub(crate) fn edit_json(&self, name: &str, edit: impl FnOnce(&mut Value)) {
        let mut json: Value = serde_json::from_str(&self.read(name)).unwrap();
        edit(&mut json);
        self.write(name, serde_json::to_vec(&json).unwrap());
    }

    /// The binary, in this directory, with nothing of the user's but the engine.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(cargo_bin!("tandem"));
        command.args(args).current_dir(self.dir.path()).stdin(Stdio::null());
        for variable in ["XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "TANDEM_CACHE", "CLICOLOR_FORCE"] {
            command.env_remove(variable);
        }
        // cargo sets it for tests that load the library themselves; a user has it not.
        command.env_remove("ORT_DISABLE_TELEMETRY");
        // Proxies and everything of the hub's are the user's as well; no test asks the real one.
        let of_network = |name: &str| name.starts_with("HF_") || name.to_ascii_lowercase().ends_with("_proxy");
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(of_network)) {
            command.env_remove(name);
        }
        command.env("HOME", self.path("home")).env("XDG_STATE_HOME", self.path("home/state")).env("HF_HUB_OFFLINE", "1");
        if let Some(library) = library() {
            command.env("ORT_DYLIB_PATH", library);
        }
        command
    }

    /// The same on a disk that takes no file of more than `most_kib`.
    #[cfg(unix)]
    pub(crate) fn tandem_on_full_disk(&self, most_kib: u32, args: &[&str]) -> Outcome {
        let program = self.command(args);
        // Without the signal, a write fails as on a full disk. Limits of files are in blocks of 512 bytes.
        let script = format!("trap '' XFSZ; ulimit -f {}; exec \"$0\" \"$@\"", most_kib * 2);
        let mut shell = Command::new("sh");
        shell.args(["-c", &script]).arg(program.get_program()).args(args).current_dir(self.dir.path()).stdin(Stdio::null());
        for (name, value) in program.get_envs() {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        let output = shell.output().unwrap();
        Outcome {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    pub(crate) fn tandem(&self, args: &[&str]) -> Outcome {
        self.tandem_with_input(args, "")
    }

    pub(crate) fn tandem_with_input(&self, args: &[&str], input: impl Into<Vec<u8>>) -> Outcome {
        let mut command = self.command(args);
        command.stdin(Stdio::piped());
        let output = Checked::from_std(command).write_stdin(input).output().unwrap();
        Outcome {
            code: output.status.code(),
            // The model is a random one, and what it says need not be UTF-8 before it is decoded; all that is printed is.
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// The one document that the command prints; it must succeed.
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let outcome = self.tandem(args);
        assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
        outcome.json()
    }

    /// Every file below the home directory, but for what is known of the machine.
    pub(crate) fn files_at_home(&self) -> Vec<PathBuf> {
        let mut found = self.files_below("home");
        found.retain(|path| !path.starts_with(self.path("home/state")));
        found
    }

    /// Every file and directory below a directory.
    pub(crate) fn files_below(&self, name: &str) -> Vec<PathBuf> {
        fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                found.push(path.clone());
                if path.is_dir() {
                    walk(&path, found);
                }
            }
        }
        let mut found = Vec::new();
        walk(&self.path(name), &mut found);
        found.sort();
        found
    }
}

impl Outcome {
    /// Standard output, which is one JSON document on one line.
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.stdout.lines().count(), 1, "{}", self.stdout);
        serde_json::from_str(&self.stdout).unwrap()
    }

    /// Checks for a failure with this exit code, whose message has all `parts`, and no result.
    #[track_caller]
    pub(crate) fn fails(&self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, Some(code), "{}{}", self.stdout, self.stderr);
        assert_eq!(self.stdout, "", "{}", self.stderr);
        assert!(self.stderr.starts_with("error: "), "{}", self.stderr);
        for part in parts {
            assert!(self.stderr.contains(part), "`{part}` is not in:\n{}", self.stderr);
        }
    }
}

impl Place {
    /// Copies a file of another golden, if it has it: `from` is relative to that of [`copy`](Self::copy).
    pub(crate) fn copy_if_there(&self, from: &str, to: &str) {
        let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens/qwen2-untied");
        if goldens.join(from).is_file() {
            self.copy(from, to);
        }
    }

    /// Copies a file of the golden checkpoint.
    pub(crate) fn copy(&self, from: &str, to: &str) {
        let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens/qwen2-untied");
        self.write(to, std::fs::read(goldens.join(from)).unwrap());
    }
}
