//! Set-up with a script in place of pip, and generated wheels: no network.
#![cfg(unix)]

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use tandem_core::{Error, Result};
use tempfile::TempDir;
use zip::write::SimpleFileOptions;

use super::download::Client;
use super::pins::{Pin, pin_for};
use super::{Recipe, SetupEvent, SetupOptions, SetupReport, obtain};
use crate::library::library_in_cache;

const WHEEL: &str = "onnxruntime-0.0.0-test.whl";
const MEMBER: &str = "onnxruntime/capi/libonnxruntime.so.0.0.0";
const LIBRARY: &[u8] = b"the library's bytes";

/// A directory with a wheel, a package client that hands it out, and a cache.
struct Fixture {
    dir: TempDir,
    pin: Pin,
}

impl Fixture {
    fn new() -> Self {
        let members = [(MEMBER, LIBRARY), ("onnxruntime/LICENSE", b"the licence".as_slice())];
        Self::with_members(&members, LIBRARY)
    }

    /// A wheel with `members`, and a pin that expects `library` in it.
    fn with_members(members: &[(&str, &[u8])], library: &[u8]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let wheel = zip_of(members);
        fs::write(dir.path().join(WHEEL), &wheel).unwrap();
        let fixture = Self { dir, pin: pin_of(&wheel, library) };
        fixture.client_runs(&format!("cp '{}' \"$dir\"; echo Saved", fixture.path(WHEEL).display()));
        fixture
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes the client: it counts its downloads, and runs `body` with `$dir` as the directory to fill.
    fn client_runs(&self, body: &str) {
        let script = format!(
            "if [ \"$1\" = --version ]; then exit 0; fi\necho x >>'{calls}'\n\
             while [ \"$1\" != -d ]; do shift; done\ndir=$2\n{body}\n",
            calls = self.path("calls").display()
        );
        fs::write(self.path("client"), script).unwrap();
    }

    /// The client, read by a shell: a test in another thread may be forking, and hold a file just written open.
    fn client(&self) -> Client {
        client_in(self.dir.path())
    }

    fn n_downloads(&self) -> usize {
        fs::read_to_string(self.path("calls")).map_or(0, |calls| calls.lines().count())
    }

    fn options(&self) -> SetupOptions {
        SetupOptions { wheel: None, cache: Some(self.path("cache")), force: false }
    }

    fn with_wheel(&self, wheel: PathBuf) -> SetupOptions {
        SetupOptions { wheel: Some(wheel), ..self.options() }
    }

    fn library(&self) -> PathBuf {
        library_in_cache(&self.path("cache"))
    }

    fn run(&self, options: &SetupOptions) -> (Result<SetupReport>, Vec<String>) {
        let recipe = Recipe { pin: &self.pin, clients: vec![self.client()] };
        let mut events = Vec::new();
        let result = obtain(options, &recipe, &mut |event| events.push(event.to_string()));
        (result, events)
    }

    fn fails(&self, options: &SetupOptions) -> Failure {
        let error = self.run(options).0.expect_err("set-up must fail");
        assert!(!self.library().exists(), "a failed set-up leaves no library");
        assert_eq!(self.leftovers(), Vec::<String>::new());
        Failure::of(error)
    }

    /// Temporary files in the library's directory.
    fn leftovers(&self) -> Vec<String> {
        let entries = fs::read_dir(self.library().parent().unwrap()).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().into_string().unwrap()).filter(|name| name.starts_with(".setup-")).collect()
    }
}

/// The three parts of an error that a user sees.
#[derive(Debug)]
struct Failure {
    message: String,
    cause: String,
    hint: String,
}

impl Failure {
    fn of(error: Error) -> Self {
        Self {
            message: error.to_string(),
            cause: std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default(),
            hint: error.hint().unwrap_or_default().to_string(),
        }
    }

    fn says(&self, message: &str) -> &Self {
        assert!(self.message.contains(message), "`{message}` is not in {self:#?}");
        self
    }

    fn by(&self, cause: &str) -> &Self {
        assert!(self.cause.contains(cause), "`{cause}` is not the cause in {self:#?}");
        self
    }

    fn hints(&self, hint: &str) -> &Self {
        assert!(self.hint.contains(hint), "`{hint}` is not hinted in {self:#?}");
        self
    }
}

fn client_in(dir: &Path) -> Client {
    Client(vec!["sh".into(), dir.join("client").into()])
}

fn zip_of(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, bytes) in members {
        zip.start_file(*name, SimpleFileOptions::default()).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn sha256(bytes: &[u8]) -> &'static str {
    format!("{:x}", Sha256::digest(bytes)).leak()
}

fn pin_of(wheel: &[u8], library: &[u8]) -> Pin {
    Pin {
        target: "test",
        platform: "test_platform",
        wheel: WHEEL,
        wheel_size: wheel.len() as u64,
        wheel_sha256: sha256(wheel),
        member: MEMBER,
        member_size: library.len() as u64,
        member_sha256: sha256(library),
    }
}

#[test]
fn download_installs_the_library_and_its_notices() {
    let fixture = Fixture::new();
    let (report, events) = fixture.run(&fixture.options());
    let report = report.unwrap();
    assert_eq!((report.library.clone(), report.already_there), (fixture.library(), false));
    assert_eq!(fs::read(&report.library).unwrap(), LIBRARY);
    assert_eq!(fs::read(report.library.with_file_name("LICENSE")).unwrap(), b"the licence");
    assert_eq!(fs::metadata(&report.library).unwrap().permissions().mode() & 0o777, 0o644);
    assert_eq!(fixture.leftovers(), Vec::<String>::new());
    let all = events.join("\n");
    assert!(all.contains("--platform test_platform onnxruntime==") && all.contains("\nSaved\n"), "{all}");
}

#[test]
fn second_set_up_does_nothing_unless_forced() {
    let fixture = Fixture::new();
    fixture.run(&fixture.options()).0.unwrap();
    let (again, events) = fixture.run(&fixture.options());
    assert!(again.unwrap().already_there);
    assert_eq!(events, Vec::<String>::new());
    assert_eq!(fixture.n_downloads(), 1);

    let forced = SetupOptions { force: true, ..fixture.options() };
    assert!(!fixture.run(&forced).0.unwrap().already_there);
    assert_eq!(fixture.n_downloads(), 2);
}

#[test]
fn changed_library_is_replaced_and_reported() {
    let fixture = Fixture::new();
    fixture.run(&fixture.options()).0.unwrap();
    fs::write(fixture.library(), b"something else").unwrap();
    let (report, events) = fixture.run(&fixture.options());
    assert!(!report.unwrap().already_there);
    let replacing = events.iter().find(|event| event.starts_with("replacing")).unwrap();
    assert!(replacing.contains(sha256(b"something else")), "{events:?}");
    assert_eq!(fs::read(fixture.library()).unwrap(), LIBRARY);
}

#[test]
fn local_wheel_is_installed_without_pip() {
    let fixture = Fixture::new();
    let (report, _) = fixture.run(&fixture.with_wheel(fixture.path(WHEEL)));
    assert!(!report.unwrap().already_there);
    assert_eq!(fs::read(fixture.library()).unwrap(), LIBRARY);
    assert_eq!(fixture.n_downloads(), 0);
    assert!(fixture.path(WHEEL).exists(), "the user's file stays");
}

#[test]
fn wheel_errors_say_what_the_file_is() {
    let fixture = Fixture::new();
    let file = |name: &str, bytes: &[u8]| {
        fs::write(fixture.path(name), bytes).unwrap();
        fixture.with_wheel(fixture.path(name))
    };
    fixture.fails(&fixture.with_wheel(fixture.path("gone.whl"))).says("gone.whl` cannot be read").by("No such file");
    fixture.fails(&fixture.with_wheel(fixture.dir.path().into())).says("is not a file");
    fixture.fails(&file("empty.whl", b"")).says("is not a wheel, or is truncated");
    fixture.fails(&file("text.whl", b"no zip")).says("is not a wheel, or is truncated");

    let whole = fs::read(fixture.path(WHEEL)).unwrap();
    fixture.fails(&file("cut.whl", &whole[..whole.len() / 2])).says("is not a wheel, or is truncated").hints(WHEEL);
    fixture.fails(&file("other.whl", &zip_of(&[("other/file", b"x")]))).says("is a wheel of something else: `onnxruntime/capi/");

    let failure = fixture.fails(&file("changed.whl", &zip_of(&[(MEMBER, b"another library")])));
    failure.says("holds a changed").says(sha256(b"another library")).says(sha256(LIBRARY)).hints("pip download --no-deps");
}

#[test]
fn wheel_for_another_system_is_reported() {
    let other = pin_for("linux-aarch64").unwrap();
    let library = vec![0; other.member_size as usize];
    let mut fixture = Fixture::with_members(&[(other.member, &library)], LIBRARY);
    fixture.pin.member = other.member;
    let failure = fixture.fails(&fixture.with_wheel(fixture.path(WHEEL)));
    failure.says("is the wheel for `linux-aarch64`, and the one for `test` is needed").hints(WHEEL);
}

#[test]
fn wheel_for_another_python_is_accepted() {
    let fixture = Fixture::new();
    fs::write(fixture.path("other.whl"), zip_of(&[("other/file", b"x"), (MEMBER, LIBRARY)])).unwrap();
    fixture.run(&fixture.with_wheel(fixture.path("other.whl"))).0.unwrap();
    assert_eq!(fs::read(fixture.library()).unwrap(), LIBRARY);
}

#[test]
fn downloaded_wheel_with_another_hash_is_refused() {
    let mut fixture = Fixture::new();
    fixture.pin.wheel_sha256 = sha256(b"what was pinned");
    fixture.fails(&fixture.options()).says(sha256(b"what was pinned")).says(WHEEL);
}

#[test]
fn library_with_another_hash_or_size_is_refused() {
    let fixture = Fixture::with_members(&[(MEMBER, b"THE library's bytes")], LIBRARY);
    fixture.fails(&fixture.options()).says("holds a changed").says(sha256(b"THE library's bytes")).says(sha256(LIBRARY));
    let shorter = Fixture::with_members(&[(MEMBER, &LIBRARY[1..])], LIBRARY);
    shorter.fails(&shorter.options()).says("holds a changed");
}

#[test]
fn extraction_is_bounded_in_size() {
    let bomb = vec![0; 64 << 20];
    let fixture = Fixture::with_members(&[(MEMBER, &bomb)], LIBRARY);
    fixture.fails(&fixture.options()).says(&format!("of more than {} bytes", LIBRARY.len()));
    let notice = Fixture::with_members(&[(MEMBER, LIBRARY), ("onnxruntime/LICENSE", &bomb)], LIBRARY);
    notice.fails(&notice.options()).says("holds a `onnxruntime/LICENSE` of more than 4194304 bytes");
}

#[test]
fn missing_pip_error_lists_the_commands_tried() {
    let fixture = Fixture::new();
    fixture.client_runs("exit 1");
    let without = |name: &str| Client(vec![fixture.path(name).into(), "-m".into(), "pip".into()]);
    let recipe = Recipe { pin: &fixture.pin, clients: vec![without("no-python3"), without("no-python")] };
    let failure = Failure::of(obtain(&fixture.options(), &recipe, &mut |_| {}).unwrap_err());
    failure.says("pip was not found").says("no-python3 -m pip`").says("no-python -m pip`");
    failure.hints("install Python 3 with pip").hints("give it to `tandem::backends::setup`");
}

#[test]
fn python_without_pip_is_skipped() {
    let fixture = Fixture::new();
    let recipe = Recipe { pin: &fixture.pin, clients: vec![Client(vec!["false".into()]), fixture.client()] };
    obtain(&fixture.options(), &recipe, &mut |_| {}).unwrap();
    assert_eq!(fixture.n_downloads(), 1);
}

#[test]
fn pip_failure_shows_its_last_lines_and_the_manual_steps() {
    let fixture = Fixture::new();
    let lines = "for n in 1 2 3 4 5 6 7; do echo \"WARNING: Retrying $n\" >&2; done\n\
                 echo 'ERROR: No matching distribution found for onnxruntime' >&2; exit 1";
    fixture.client_runs(lines);
    let failure = fixture.fails(&fixture.options());
    failure.says("client download --no-deps").says("failed (exit status: 1)");
    failure.by("WARNING: Retrying 7\nERROR: No matching distribution found").hints("give it to `tandem::backends::setup`");
    assert!(!failure.cause.contains("Retrying 1"), "only the last lines: {}", failure.cause);
}

#[test]
fn missing_download_is_an_error() {
    let fixture = Fixture::new();
    fixture.client_runs("exit 0");
    fixture.fails(&fixture.options()).says(&format!("did not download `{WHEEL}`"));
}

#[test]
fn unwritable_cache_is_an_error_with_a_hint() {
    let fixture = Fixture::new();
    fs::write(fixture.path("cache"), b"a file").unwrap();
    fixture.fails(&fixture.options()).says("cannot make").hints("TANDEM_CACHE");
}

#[test]
fn directory_at_the_librarys_path_is_an_error() {
    let fixture = Fixture::new();
    fs::create_dir_all(fixture.library()).unwrap();
    let failure = Failure::of(fixture.run(&fixture.options()).0.unwrap_err());
    failure.says("is where the library belongs, and is not a file").hints("move it away");
}

#[test]
fn full_disk_error_says_how_much_is_needed() {
    let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
    Failure::of(super::install_dir::cannot("write", Path::new("/cache"), full)).says("cannot write `/cache`").hints("100 MB");

    let fixture = Fixture::new();
    fixture.client_runs("echo \"OSError: [Errno 28] No space left on device\"; exit 2");
    fixture.fails(&fixture.options()).says("failed (exit status: 2)").hints("100 MB");
}

#[test]
fn unsupported_system_error_lists_the_supported_ones() {
    let failure = Failure::of(pin_for("windows-x86_64").unwrap_err());
    failure.says("`windows-x86_64`").says("`linux-x86_64`, `linux-aarch64`, `macos-aarch64`").hints("ORT_DYLIB_PATH");
    for target in ["linux-x86_64", "linux-aarch64", "macos-aarch64"] {
        let pin = pin_for(target).unwrap();
        assert!(pin.wheel.contains(pin.platform) && pin.wheel.contains(crate::library::VERSION), "{pin:?}");
        assert_eq!((pin.wheel_sha256.len(), pin.member_sha256.len()), (64, 64));
    }
}

/// Runs the set-up with the real pip, without a network, in a directory with a `pip.py`.
#[test]
fn modules_of_the_working_directory_are_not_imported() {
    let fixture = Fixture::new();
    let here = tempfile::tempdir().unwrap();
    fs::write(here.path().join("pip.py"), "open('imported', 'w')").unwrap();
    let output = child(&fixture).env(REAL_PIP, "1").env("PIP_NO_INDEX", "1").current_dir(here.path()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("error: ") && !text.contains("error: pip was not found"), "{text}");
    assert!(!here.path().join("imported").exists(), "{text}");
}

// What follows needs processes of their own. `child_sets_up` is run by them, in this same test binary.

const CHILD_DIR: &str = "TANDEM_TEST_SETUP_DIR";
/// Use the real pip instead of the script.
const REAL_PIP: &str = "TANDEM_TEST_REAL_PIP";

#[test]
fn child_sets_up() {
    let Some(dir) = std::env::var_os(CHILD_DIR).map(PathBuf::from) else {
        return;
    };
    let pin = pin_of(&fs::read(dir.join(WHEEL)).unwrap(), LIBRARY);
    let real_pip = std::env::var_os(REAL_PIP).is_some();
    let clients = if real_pip { super::download::known_clients() } else { vec![client_in(&dir)] };
    let options = SetupOptions { wheel: None, cache: Some(dir.join("cache")), force: false };
    let waited = &mut false;
    match obtain(&options, &Recipe { pin: &pin, clients }, &mut |event| *waited |= matches!(event, SetupEvent::Waiting)) {
        Ok(report) => println!("already_there={} waited={waited}", report.already_there),
        Err(error) if real_pip => println!("error: {error}"),
        Err(error) => panic!("{error}"),
    }
}

fn child(fixture: &Fixture) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "setup::tests::child_sets_up", "--nocapture"]).env(CHILD_DIR, fixture.dir.path());
    command
}

fn spawn_child(fixture: &Fixture) -> Child {
    child(fixture).stdout(Stdio::piped()).spawn().unwrap()
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(30), "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn concurrent_set_ups_share_one_download() {
    let fixture = Fixture::new();
    fixture.client_runs(&format!("sleep 0.5; cp '{}' \"$dir\"", fixture.path(WHEEL).display()));
    let children: Vec<_> = (0..4).map(|_| spawn_child(&fixture)).collect();
    let outputs = children.into_iter().map(|child| child.wait_with_output().unwrap());
    let outputs: Vec<_> = outputs
        .map(|output| {
            assert!(output.status.success());
            String::from_utf8(output.stdout).unwrap()
        })
        .collect();
    assert_eq!(fixture.n_downloads(), 1, "{outputs:?}");
    assert_eq!(outputs.iter().filter(|output| output.contains("already_there=false")).count(), 1, "{outputs:?}");
    assert_eq!(outputs.iter().filter(|output| output.contains("already_there=true")).count(), 3, "{outputs:?}");
    assert_eq!(fs::read(fixture.library()).unwrap(), LIBRARY);
}

#[test]
fn set_up_succeeds_after_a_killed_one() {
    let fixture = Fixture::new();
    fixture.client_runs("echo half >\"$dir/half.whl\"; touch \"$dir/../started\"; exec sleep 20");
    let mut child = spawn_child(&fixture);
    wait_until("the client has started", || fixture.library().with_file_name("started").exists());
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(fixture.leftovers().len(), 1, "the killed one could not clean up");
    assert!(!fixture.library().exists());

    fixture.client_runs(&format!("cp '{}' \"$dir\"", fixture.path(WHEEL).display()));
    fixture.run(&fixture.options()).0.unwrap();
    assert_eq!(fixture.leftovers(), Vec::<String>::new());
    assert_eq!(fs::read(fixture.library()).unwrap(), LIBRARY);
}
