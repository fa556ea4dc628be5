//! The commands that keep models: `pull`, `list`, `rm`.

use std::path::PathBuf;

use clap::Args;

use super::engine::WeightsArgs;
use super::{OutputArgs, examples};

/// Download a model from the Hugging Face hub, or update it.
///
/// Only the files that the backend and dtype need are downloaded, into the cache that Python's `huggingface_hub` also uses. Each file is
/// verified before it is moved into place. Interrupted downloads resume, also after Ctrl-C; concurrent processes share one download. The
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
    /// Write the commit and the SHA-256 of each file to the lock file
    #[arg(long, conflicts_with = "locked")]
    pub(crate) lock: bool,
    /// Accept only what the lock file says
    #[arg(long)]
    pub(crate) locked: bool,
    /// The lock file
    #[arg(long, value_name = "FILE", default_value = "tandem.lock")]
    pub(crate) lock_file: PathBuf,
    /// Write the model to one file, for a machine without network access
    #[arg(long, value_name = "FILE", requires = "model", conflicts_with = "from_bundle")]
    pub(crate) bundle: Option<PathBuf>,
    /// Take the model from such a file, without network access
    #[arg(long, value_name = "FILE", conflicts_with_all = ["model", "backend", "dtype"])]
    pub(crate) from_bundle: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// List the downloaded models of the hub.
///
/// Models that other programs downloaded into the same cache are included. The space taken by graphs built from checkpoints is reported
/// as well.
#[derive(Args, Debug)]
#[command(after_help = examples::LIST)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// Remove downloaded models.
///
/// With a revision, only files that no other revision of the model uses are removed.
#[derive(Args, Debug)]
#[command(after_help = examples::RM)]
pub(crate) struct RmArgs {
    /// The models: `owner/name[@revision]`, or names of the catalog, which include all their repositories
    #[arg(id = "model", value_name = "MODEL", required_unless_present = "graphs")]
    pub(crate) references: Vec<String>,
    /// Remove cached graphs and quantised weights that were made of checkpoints; those in use remain
    #[arg(long)]
    pub(crate) graphs: bool,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}
