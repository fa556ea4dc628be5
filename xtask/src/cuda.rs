//! Type-checks the CUDA build of the candle backend, with a compiler of CUDA that comes as Python wheels and no GPU.
//!
//! candle compiles its kernels with nvcc while it is built, and asks the toolkit for its version. What it takes lies in cargo's target
//! directory: 500 MB. Nothing is linked or run, since that needs the driver's library.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::{process, tools};

/// The compiler, its parts and headers, and those that candle's kernels include: all of one release, which nvcc's own wheel does not ask
/// for.
const WHEELS: [&str; 6] = [
    "nvidia-cuda-nvcc==13.2.*",
    "nvidia-nvvm==13.2.*",
    "nvidia-cuda-crt==13.2.*",
    "nvidia-cuda-runtime==13.2.*",
    "nvidia-cuda-cccl==13.2.*",
    "nvidia-curand==10.4.*",
];

/// What the bindings call the toolkit of these wheels.
const TOOLKIT_VERSION: &str = "13020";

/// The oldest generation of GPUs with bf16, for which all kernels are there.
const COMPUTE_CAPABILITY: &str = "80";

/// Obtains the compiler where it is not there, and checks.
pub(crate) fn check() -> Result<()> {
    let toolkit = toolkit()?;
    let mut command = process::cargo(&[
        "clippy",
        "--package",
        "tandem-cli",
        "--package",
        "tandem-backend-candle",
        "--no-default-features",
        "--features",
        "candle-cuda",
        "--",
        "-D",
        "warnings",
    ]);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = [toolkit.join("bin")].into_iter().chain(std::env::split_paths(&path));
    command
        .env("PATH", std::env::join_paths(directories)?)
        .env("CUDA_HOME", &toolkit)
        .env("NVCC", toolkit.join("bin/nvcc"))
        .env("CUDA_COMPUTE_CAP", COMPUTE_CAPABILITY)
        .env("CUDARC_CUDA_VERSION", TOOLKIT_VERSION);
    process::run(command)
}

/// The directory with `bin/nvcc` and `include`, in an environment of Python that is made once.
fn toolkit() -> Result<PathBuf> {
    let environment = process::target_directory()?.join("cuda-wheels");
    if let Some(toolkit) = find(&environment)? {
        return Ok(toolkit);
    }
    tools::install_wheels(&environment, &WHEELS)?;
    let toolkit = find(&environment)?;
    toolkit.with_context(|| format!("the wheels installed no `bin/nvcc` in `{}`", environment.display()))
}

/// `lib/python3.x/site-packages/nvidia/cu13`, once it is whole.
fn find(environment: &Path) -> Result<Option<PathBuf>> {
    let Ok(pythons) = environment.join("lib").read_dir() else { return Ok(None) };
    for python in pythons {
        let toolkit = python?.path().join("site-packages/nvidia/cu13");
        if toolkit.join("include/curand_kernel.h").is_file() {
            ensure!(toolkit.join("bin/nvcc").is_file(), "`{}` has no `bin/nvcc`: remove it", toolkit.display());
            return Ok(Some(toolkit));
        }
    }
    Ok(None)
}
