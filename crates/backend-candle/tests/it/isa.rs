//! `TANDEM_ISA`: it is read once for a process, so each value is tried in a process of its own, which runs `child`.

use std::process::Command;

use tandem_core::LoadOptions;
use tandem_core::conformance::describe;

use crate::{golden, load};

/// What this process reports about the golden model; a line of it is read by the other tests.
#[test]
fn child() {
    match load(&golden("qwen3"), &LoadOptions::default()) {
        Ok(model) => println!("loaded: {}", model.info().engine_version),
        Err(error) => println!("refused: {}", describe(&error)),
    }
}

fn with_isa(value: &str) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let output = command.args(["--exact", "isa::child", "--nocapture"]).env("TANDEM_ISA", value).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn tandem_isa_lowers_the_instruction_set_and_is_reported() {
    assert!(with_isa("plain").contains("(plain)"), "{}", with_isa("plain"));
    let best = with_isa("");
    assert!(
        best.contains("loaded: ")
            && (cfg!(not(any(target_arch = "x86_64", target_arch = "aarch64"))) || !best.contains("(plain)")),
        "{best}"
    );
}

#[test]
fn unknown_tandem_isa_is_an_error_that_lists_the_values() {
    let output = with_isa("avx1024");
    for part in ["refused: ", "`TANDEM_ISA`", "`avx1024`", "`plain`"] {
        assert!(output.contains(part), "no {part} in {output}");
    }
}
