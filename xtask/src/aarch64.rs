//! Builds tests for AArch64 Linux and runs them in user-mode emulation, with processors that have different instructions.
//!
//! It takes Rust's target `aarch64-unknown-linux-gnu`, and on Debian the packages `gcc-aarch64-linux-gnu` and `qemu-user-static` (`qemu-user` from
//! Debian 13 on). An emulator says whether results are right, and nothing about speed.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process;

const TARGET: &str = "aarch64-unknown-linux-gnu";

/// The cross compiler, which links what Rust compiles and compiles the C of dependencies.
const COMPILER: &str = "aarch64-linux-gnu-gcc";

/// Where its packages have the libraries of AArch64.
const LIBRARIES: &str = "/usr/aarch64-linux-gnu";

/// What the package of the emulator calls it.
const EMULATORS: [&str; 2] = ["qemu-aarch64-static", "qemu-aarch64"];

/// Emulated processors, and the best instruction set of the kernels that each has.
const PROCESSORS: [(&str, &str); 3] = [("cortex-a72", "neon"), ("neoverse-n1", "neon-dotprod"), ("max", "neon-i8mm")];

/// Runs the tests of the kernels on each processor; `all` has those of the candle backend follow on the last.
pub(crate) fn check(all: bool) -> Result<()> {
    let emulator = emulator()?;
    for (processor, instructions) in PROCESSORS {
        let mut command = test(&["--package", "tandem-kernels", "--lib"], &emulator, processor);
        command.env("TANDEM_EXPECTED_ISA", instructions);
        process::run(command)?;
    }
    if let ([.., (processor, _)], true) = (PROCESSORS, all) {
        process::run(test(&["--package", "tandem-backend-candle", "--lib", "--test", "candle"], &emulator, processor))?;
    }
    Ok(())
}

/// A run of cargo for some tests.
fn test(which: &[&str], emulator: &str, processor: &str) -> Command {
    let mut command = process::cargo(&[&["test", "--target", TARGET], which].concat());
    command
        .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", COMPILER)
        .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER", format!("{emulator} -L {LIBRARIES} -cpu {processor}"))
        .env("CC_aarch64_unknown_linux_gnu", COMPILER);
    command
}

/// The emulator, where it and the compiler are there.
fn emulator() -> Result<String> {
    let runs = |program: &str| {
        let mut command = Command::new(program);
        command.arg("--version");
        process::succeeds(command)
    };
    if !runs(COMPILER) {
        bail!("`{COMPILER}` is missing: install Debian's package `gcc-aarch64-linux-gnu`");
    }
    let emulator = EMULATORS.into_iter().find(|name| runs(name));
    emulator.map(str::to_owned).context("`qemu-aarch64` is missing: install Debian's package `qemu-user-static` or `qemu-user`")
}
