//! Which files are accepted as ONNX Runtime's library, how others are refused, and that the real one sends nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tandem_backend_onnx::library::{environment, find, inspect, library_file_name, switch_telemetry_off};
use tandem_core::{Remedy, conformance};
use tempfile::TempDir;

/// Compiles `source` as a C library with the compiler that built this test.
fn library_of(dir: &TempDir, name: &str, source: &str) -> PathBuf {
    let (input, output) = (dir.path().join(format!("{name}.rs")), dir.path().join(format!("lib{name}.so")));
    fs::write(&input, source).unwrap();
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let status = Command::new(rustc)
        .args(["--edition=2024", "--crate-type=cdylib", "-Cpanic=abort", "-Cdebuginfo=0", "-o"])
        .args([&output, &input])
        .status()
        .unwrap();
    assert!(status.success());
    output
}

/// A library that reports to be ONNX Runtime `version`, and has nothing else.
fn runtime_of_version(dir: &TempDir, version: &str) -> PathBuf {
    let source = format!(
        r#"
        use std::ffi::{{c_char, c_void}};
        #[repr(C)]
        pub struct Base {{ api: extern "C" fn(u32) -> *const c_void, version: extern "C" fn() -> *const c_char }}
        extern "C" fn api(_: u32) -> *const c_void {{ std::ptr::null() }}
        extern "C" fn version() -> *const c_char {{ c"{version}".as_ptr() }}
        static BASE: Base = Base {{ api, version }};
        #[unsafe(no_mangle)]
        pub extern "C" fn OrtGetApiBase() -> *const Base {{ &BASE }}
        "#
    );
    library_of(dir, "onnxruntime", &source)
}

#[track_caller]
fn refused(path: &Path, why: &str) {
    let error = find(Some(path)).unwrap_err();
    let message = error.to_string();
    assert!(message.contains(&path.display().to_string()) && message.contains(why), "{message}");
    assert!(error.hint().is_some_and(|hint| hint.iter().any(|remedy| *remedy == Remedy::SetUpLibrary)), "{:?}", error.hint());
    // It is refused in the same words when the engine is to start, and the process lives.
    assert_eq!(environment_error(path).0, message);
}

#[test]
fn other_files_are_refused_with_what_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        fs::write(dir.path().join(name), bytes).unwrap();
        dir.path().join(name)
    };
    refused(&dir.path().join("missing.so"), "there is no such file");
    refused(dir.path(), "is a directory, not a library");
    refused(&file("empty.so", b""), "is empty");
    refused(&file("short.so", b"\x7fE"), "is not a library");
    refused(&file("text.so", b"INPUT(libonnxruntime.so.1)\n"), "is not a library");
    refused(&file("windows.dll", b"MZ\x90\0\x03\0\0\0"), "is a library for Windows");

    let dangling = dir.path().join("dangling.so");
    std::os::unix::fs::symlink("nowhere", &dangling).unwrap();
    refused(&dangling, "cannot be read");
}

#[test]
fn pipe_is_refused_without_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe.so");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    refused(&pipe, "is not a regular file");
}

#[test]
fn other_library_is_refused_without_loading_it() {
    let dir = tempfile::tempdir().unwrap();
    // Loading it would end the process.
    let source = r#"
        extern "C" fn on_load() { std::process::abort() }
        #[used]
        #[cfg_attr(target_os = "macos", unsafe(link_section = "__DATA,__mod_init_func"))]
        #[cfg_attr(not(target_os = "macos"), unsafe(link_section = ".init_array"))]
        static ON_LOAD: extern "C" fn() = on_load;
        #[unsafe(no_mangle)]
        pub extern "C" fn something_else() {}
    "#;
    refused(&library_of(&dir, "other", source), "is a library, but not ONNX Runtime: it does not export `OrtGetApiBase`");
}

#[test]
fn executable_is_refused() {
    // A position-independent executable has the format of a library, without the entry point.
    let error = find(Some(&std::env::current_exe().unwrap())).unwrap_err().to_string();
    assert!(error.contains("not a library") || error.contains("not ONNX Runtime"), "{error}");
}

#[test]
fn old_library_is_refused_with_both_versions() {
    let dir = tempfile::tempdir().unwrap();
    let old = runtime_of_version(&dir, "1.20.1");
    assert_eq!(find(Some(&old)).unwrap(), old, "its version is known only once it is loaded");
    let (error, hint) = environment_error(&old);
    assert!(error.ends_with("is ONNX Runtime 1.20.1, and this build needs 1.24 or later"), "{error}");
    assert!(hint.contains("tandem::backends::setup"), "{hint}");
}

#[test]
fn truncated_library_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let whole = fs::read(runtime_of_version(&dir, "1.31.1")).unwrap();
    let cut = dir.path().join("cut.so");
    for sixteenth in 1..16 {
        fs::write(&cut, &whole[..whole.len() * sixteenth / 16]).unwrap();
        refused(&cut, "is a truncated or damaged library");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn library_for_another_architecture_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut bytes = fs::read(runtime_of_version(&dir, "1.31.1")).unwrap();
    // `e_machine` of the ELF header: 183 is AArch64, 62 is x86-64.
    let (other, name) = if cfg!(target_arch = "aarch64") { (62u16, "x86_64") } else { (183, "aarch64") };
    bytes[18..20].copy_from_slice(&other.to_le_bytes());
    let path = dir.path().join("other.so");
    fs::write(&path, bytes).unwrap();
    refused(&path, &format!("is a library for `{name}`, and this machine is `{}`", std::env::consts::ARCH));
}

#[test]
fn damaged_headers_do_not_crash() {
    let dir = tempfile::tempdir().unwrap();
    let whole = fs::read(runtime_of_version(&dir, "1.31.1")).unwrap();
    let path = dir.path().join("damaged.so");
    for position in 0..64 {
        for value in [0, 0x7f, 0xff] {
            let mut bytes = whole.clone();
            bytes[position] = value;
            fs::write(&path, bytes).unwrap();
            // Some bytes do not matter: any answer will do.
            drop(inspect(&path));
        }
    }
}

#[test]
fn relative_path_is_resolved_against_the_working_directory() {
    let error = find(Some(Path::new("no/such.so"))).unwrap_err().to_string();
    let absolute = std::env::current_dir().unwrap().join("no/such.so");
    assert!(error.contains(&absolute.display().to_string()), "{error}");
}

// A process keeps the first library that it loads, so whatever starts an engine here does so in a process of its own, which runs the
// test `child_…` and nothing else.

const CHILD: &str = "TANDEM_TEST_CHILD_LIBRARY";

/// This test binary, running the test `library::NAME` with `library`.
fn child(name: &str, library: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &format!("library::{name}"), "--nocapture"]).env(CHILD, library);
    command
}

/// The error and the hint of starting the engine with `library`.
fn environment_error(library: &Path) -> (String, String) {
    let output = child("child_fails_to_start_the_engine", library).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    let part = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{text}")).to_owned();
    (part("error: "), part("hint: "))
}

#[test]
fn child_fails_to_start_the_engine() {
    let Some(library) = std::env::var_os(CHILD) else { return };
    let error = environment(Some(Path::new(&library))).err().unwrap();
    println!("\nerror: {error}\nhint: {}", error.hint().unwrap());
}

/// Runs the child with `library` in a home of its own, where nothing suppresses telemetry; gives back its output.
fn start_engine_in(home: &TempDir, library: &Path, variables: &[(&str, &str)]) -> String {
    let mut command = child("child_starts_the_engine", library);
    command.env_clear().env(CHILD, library).env("HOME", home.path()).envs(variables.iter().copied());
    let output = command.output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}");
    text
}

/// Runs `case` with the library that `tandem setup` installed.
fn with_real_library(case: impl FnOnce(&PathBuf)) {
    conformance::with_fixture(|| find(None).map_err(|error| conformance::describe(&error)), case);
}

#[test]
fn child_starts_the_engine() {
    let Some(library) = std::env::var_os(CHILD).map(PathBuf::from) else { return };
    // A test runs beside the thread that started it, which waits for it.
    let with_telemetry = environment(Some(&library)).err().unwrap().to_string();
    assert!(with_telemetry.contains("`ORT_DISABLE_TELEMETRY` is not `1`, and other threads run"), "{with_telemetry}");
    #[expect(unsafe_code, reason = "a variable of the process is set")]
    // SAFETY: the other thread waits.
    unsafe {
        switch_telemetry_off();
    }
    let missing = environment(Some(Path::new("/no/such.so"))).err().unwrap();
    assert!(missing.to_string().contains("there is no such file"));
    let first = environment(Some(&library)).expect("a failure before leaves nothing behind");
    environment(Some(&library)).expect("the same library again");
    environment(None).expect("no library named: the one in use");
    let other = environment(Some(Path::new("/no/such.so"))).err().unwrap().to_string();
    assert!(other.starts_with("`/no/such.so` cannot be used: this process already uses"), "{other}");

    let builder = ort::session::Session::builder(&first).unwrap().with_intra_threads(1);
    let no_model = builder.unwrap().commit_from_memory(b"no model").map(drop).unwrap_err();
    println!("engine said: {no_model}");
    std::thread::sleep(std::time::Duration::from_millis(500));
    let open = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    for target in open.filter_map(|entry| fs::read_link(entry.path()).ok()) {
        assert!(!target.to_string_lossy().starts_with("socket:"), "the engine opened a socket");
    }
}

#[test]
fn engine_writes_no_file_and_opens_no_socket() {
    with_real_library(|library| {
        let home = tempfile::tempdir().unwrap();
        let output = start_engine_in(&home, library, &[]);
        assert!(output.contains("engine said:"), "{output}");
        assert!(!output.contains("onnxruntime Error"), "its log is silent unless requested: {output}");
        let written: Vec<_> = fs::read_dir(home.path()).unwrap().flatten().map(|entry| entry.path()).collect();
        assert_eq!(written, Vec::<PathBuf>::new());
    });
}

#[test]
fn engine_log_is_written_when_requested() {
    with_real_library(|library| {
        let home = tempfile::tempdir().unwrap();
        let verbose = start_engine_in(&home, library, &[("TANDEM_ORT_LOG", "verbose")]);
        assert!(verbose.contains("onnxruntime Verbose") || verbose.contains("onnxruntime Info"), "{verbose}");
    });
}

#[test]
fn library_file_name_follows_the_system() {
    let expected = if cfg!(target_os = "macos") { "libonnxruntime.dylib" } else { "libonnxruntime.so" };
    assert_eq!(library_file_name(), expected);
}
