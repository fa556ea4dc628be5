//! The commands that keep models: `pull`, `list`, `rm`.

use std::path::PathBuf;

use clap::Args;

use super::engine::WeightsArgs;
use super::{OutputArgs, examples};

/// Download a model of the Hugging Face hub, or bring the one that is there up to date.
///
/// Only the files that the backend and dtype need are downloaded, into the cache that Python's `huggingface_hub` uses as well. Each is
/// verified before it gets its name. What broke off goes on where it ended, also after Ctrl-C; two processes make one download. The
/// directory is printed.
#[derive(Args, Debug)]
#[command(after_help = examples::PULL)]
pub(crate) struct PullArgs {
    /// The model: `owner/name[@revision]`, `owner/name:Q4_K_M` for one of several GGUF files, a name of the catalog, or `auto`; with
    /// `--locked` every one in the lock file when none is named
    #[arg(id = "model", value_name = "MODEL", required_unless_present_any = ["locked", "from_bundle"])]
    pub(crate) reference: Option<String>,
    #[command(flatten)]
    pub(crate) weights: WeightsArgs,
    /// Write commit and SHA-256 of each file to the lock file
    #[arg(long, conflicts_with = "locked")]
    pub(crate) lock: bool,
    /// Accept exactly what the lock file says, and nothing else
    #[arg(long)]
    pub(crate) locked: bool,
    /// The lock file
    #[arg(long, value_name = "FILE", default_value = "tandem.lock")]
    pub(crate) lock_file: PathBuf,
    /// Write the model to one file, for a machine without a network
    #[arg(long, value_name = "FILE", requires = "model", conflicts_with = "from_bundle")]
    pub(crate) bundle: Option<PathBuf>,
    /// Take the model from such a file, and open no connection
    #[arg(long, value_name = "FILE", conflicts_with_all = ["model", "backend", "dtype"])]
    pub(crate) from_bundle: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// List the models of the hub that are on this machine.
///
/// Those that other programs downloaded into the same cache are among them. What the graphs take that were made of checkpoints is
/// said as well.
#[derive(Args, Debug)]
#[command(after_help = examples::LIST)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// Remove models of the hub from this machine.
///
/// With a revision only what no other revision of the model has is removed.
#[derive(Args, Debug)]
#[command(after_help = examples::RM)]
pub(crate) struct RmArgs {
    /// The models: `owner/name[@revision]`, or names of the catalog, with every repository of theirs
    #[arg(id = "model", value_name = "MODEL", required_unless_present = "graphs")]
    pub(crate) references: Vec<String>,
    /// Remove the graphs that were made of checkpoints and are kept for the next load; those in use stay
    #[arg(long)]
    pub(crate) graphs: bool,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}
