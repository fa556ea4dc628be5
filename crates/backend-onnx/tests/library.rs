//! Which files are taken for ONNX Runtime's library, what is said of the others, and that the real one sends nothing.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    missing_docs,
    reason = "a failed test is a panic, a skipped one says so"
)]
#![cfg(unix)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tandem_backend_onnx::library::{environment, find, inspect, library_file_name, switch_telemetry_off};
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

/// A library that says it is ONNX Runtime of `version`, and is nothing else.
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
    assert!(error.hint().unwrap().to_string().contains("tandem setup"), "{:?}", error.hint());
    // It is refused in the same words when the engine is to start, and the process lives.
    assert_eq!(environment(Some(path)).err().unwrap().to_string(), message);
}

#[test]
fn files_that_are_no_library_are_named_for_what_they_are() {
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
fn a_pipe_is_refused_at_once_and_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe.so");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    refused(&pipe, "is no regular file");
}

#[test]
fn a_library_of_something_else_is_refused_unloaded() {
    let dir = tempfile::tempdir().unwrap();
    // Were it loaded, it would end the process.
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
fn a_program_is_refused() {
    // An executable that may be loaded at any address has the form of a library, but no entry point.
    let error = find(Some(&std::env::current_exe().unwrap())).unwrap_err().to_string();
    assert!(error.contains("not a library") || error.contains("not ONNX Runtime"), "{error}");
}

#[test]
fn a_library_that_is_too_old_is_refused_with_both_versions() {
    let dir = tempfile::tempdir().unwrap();
    let old = runtime_of_version(&dir, "1.20.1");
    assert_eq!(find(Some(&old)).unwrap(), old, "its version is known only once it is loaded");
    let error = environment(Some(&old)).err().unwrap();
    assert!(error.to_string().ends_with("is ONNX Runtime 1.20.1, and this build needs 1.24 or later"), "{error}");
    assert!(error.hint().unwrap().to_string().contains("tandem setup"));
}

#[test]
fn a_library_cut_anywhere_is_refused_and_nothing_crashes() {
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
fn a_library_for_another_machine_is_refused_by_name() {
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
fn damaged_headers_never_crash_the_reader() {
    let dir = tempfile::tempdir().unwrap();
    let whole = fs::read(runtime_of_version(&dir, "1.31.1")).unwrap();
    let path = dir.path().join("damaged.so");
    for position in 0..64 {
        for value in [0, 0x7f, 0xff] {
            let mut bytes = whole.clone();
            bytes[position] = value;
            fs::write(&path, bytes).unwrap();
            // Whether a byte matters depends on which one it is; what counts is an answer.
            drop(inspect(&path));
        }
    }
}

#[test]
fn a_relative_path_is_taken_from_the_working_directory() {
    let error = find(Some(Path::new("no/such.so"))).unwrap_err().to_string();
    let absolute = std::env::current_dir().unwrap().join("no/such.so");
    assert!(error.contains(&absolute.display().to_string()), "{error}");
}

// What follows starts the real engine, each in a process of its own: `child_starts_the_engine` is run by them.

const CHILD: &str = "TANDEM_TEST_CHILD_LIBRARY";

/// Runs the child with `library` in a home of its own, where nothing suppresses telemetry; gives back its output.
fn start_engine_in(home: &TempDir, library: &Path, variables: &[(&str, &str)]) -> String {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_starts_the_engine", "--nocapture"])
        .env_clear()
        .env("HOME", home.path())
        .env(CHILD, library)
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}");
    text
}

/// The library that `tandem setup` obtained; a test without it says that it is skipped.
fn real_library() -> Option<PathBuf> {
    match find(None) {
        Ok(path) => Some(path),
        Err(error) => {
            eprintln!("skipped: {error}");
            None
        }
    }
}

#[test]
fn child_starts_the_engine() {
    let Some(library) = std::env::var_os(CHILD).map(PathBuf::from) else {
        return;
    };
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
    assert!(other.starts_with("`/no/such.so` cannot be used: this process already runs"), "{other}");

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
fn the_engine_writes_and_sends_nothing_of_its_own() {
    let Some(library) = real_library() else {
        return;
    };
    let home = tempfile::tempdir().unwrap();
    let output = start_engine_in(&home, &library, &[]);
    assert!(output.contains("engine said:"), "{output}");
    assert!(!output.contains("onnxruntime Error"), "its log is silent unless asked for: {output}");
    let written: Vec<_> = fs::read_dir(home.path()).unwrap().flatten().map(|entry| entry.path()).collect();
    assert_eq!(written, Vec::<PathBuf>::new());
}

#[test]
fn the_engines_log_is_written_when_asked_for() {
    let Some(library) = real_library() else {
        return;
    };
    let home = tempfile::tempdir().unwrap();
    let verbose = start_engine_in(&home, &library, &[("TANDEM_ORT_LOG", "verbose")]);
    assert!(verbose.contains("onnxruntime Verbose") || verbose.contains("onnxruntime Info"), "{verbose}");
}

#[test]
fn the_name_of_the_library_is_the_systems() {
    let expected = if cfg!(target_os = "macos") { "libonnxruntime.dylib" } else { "libonnxruntime.so" };
    assert_eq!(library_file_name(), expected);
}
