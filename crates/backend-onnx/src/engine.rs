//! The engine's session of a graph: threads, optimisation, and where the graph and its weights are read from.

use std::ops::Deref;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;
use tandem_core::backend::LoadOptions;
use tandem_core::huge_pages::MovingFiles;
use tandem_core::{Error, Remedy, Result};
use tandem_kernels::Threads;
use tandem_kernels::matrix::Kernels;

use crate::device::session_builder;
use crate::error::Doing;
use crate::operators::{MappedWeights, Updates};
use crate::source::{GraphLocation, Source};
use crate::{library, operators, placement};

/// A session of the engine, and the threads of Tandem's kernels where it has such.
pub(crate) struct Engine {
    /// Ends before the session does, which has the weights that are moved.
    pub(crate) _moving: Option<MovingFiles>,
    pub(crate) session: Session,
    pub(crate) threads: Option<Arc<Threads>>,
}

impl Deref for Engine {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.session
    }
}

/// The configuration entry that says where a graph in memory has its weights.
const WEIGHTS_DIRECTORY: &str = "session.model_external_initializers_file_folder_path";

/// Whether the engine knows the domain of Tandem's operators. It keeps the domains of all sessions in one table and adds one that is missing
/// without a lock, so that of two first sessions at the same time one failed: the first is made alone.
static DOMAIN_REGISTERED: Mutex<bool> = Mutex::new(false);

/// Has the engine load `source` onto `options.device`, with the library at `library` or the one that is found, and with Tandem's operators where
/// `own` says how their kernels are chosen; these note their weights in `mapped`.
pub(crate) fn commit(
    library: Option<&Path>,
    options: &LoadOptions,
    source: &Source,
    own: Option<Kernels>,
    updates: &Arc<Updates>,
    mapped: &Arc<MappedWeights>,
) -> Result<Session> {
    const DOING: &str = "to prepare a session";
    let environment = library::environment(library)?;
    let mut builder = session_builder(&environment, options)?
        .with_optimization_level(GraphOptimizationLevel::All)
        .doing(DOING)?
        .with_intra_threads(n_threads(options))
        .doing(DOING)?
        .with_intra_op_spinning(options.onnx.spin)
        .doing(DOING)?
        // A decoder's shapes differ from run to run: a pattern would be kept for each and never used again.
        .with_memory_pattern(false)
        .doing(DOING)?
        .with_config_entry(placement::RECORD, "1")
        .doing(DOING)?;
    // Held only until a session with such operators was made.
    let mut first =
        own.is_some().then(|| DOMAIN_REGISTERED.lock().unwrap_or_else(PoisonError::into_inner)).filter(|known| !**known);
    if let Some(kernels) = own {
        builder = builder.with_operators(operators::domain(kernels, updates, mapped).doing(DOING)?).doing(DOING)?;
    }
    let session = match &source.location {
        GraphLocation::File(path) => builder.commit_from_file(path),
        GraphLocation::Memory { bytes, weights: None } => builder.commit_from_memory(bytes),
        GraphLocation::Memory { bytes, weights: Some(directory) } => {
            builder.with_config_entry(WEIGHTS_DIRECTORY, directory.to_string_lossy()).doing(DOING)?.commit_from_memory(bytes)
        }
    };
    if let Some(known) = &mut first {
        **known = session.is_ok();
    }
    drop(first);
    session.map_err(|error| Error::BadFile {
        file: source.name.clone(),
        problem: "the engine cannot use this graph".into(),
        hint: Some(["obtain or export the model again".into(), Remedy::ListDevices].into()),
        source: Some(Box::new(error)),
    })
}

/// The number of threads that a run uses.
pub(crate) fn n_threads(options: &LoadOptions) -> usize {
    options.threads.or_else(|| std::thread::available_parallelism().ok()).map_or(1, usize::from)
}
