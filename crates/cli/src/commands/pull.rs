//! `tandem pull`: a model of the hub, on this machine.

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use serde::Serialize;
use tandem::hub::{FileSelector, Hub, HubReference, LockFile, LockedModel, PullOptions, Pulled};
use tandem::{CancelToken, Progress};

use crate::args::{EngineOptions, PullArgs};
use crate::config::Config;
use crate::download::with_progress;
use crate::failure::Usage;
use crate::figures;
use crate::output::Output;
use crate::resolve::{resolve, resolver};

/// What `--json` prints.
#[derive(Serialize)]
struct PullReport {
    models: Vec<ModelRow>,
    /// The lock file, where one was written or obeyed.
    lock_file: Option<String>,
    bundle: Option<String>,
}

#[derive(Serialize)]
struct ModelRow {
    model: String,
    repository: String,
    revision: String,
    commit: String,
    directory: String,
    bytes: u64,
    /// Bytes that came over the network.
    received_bytes: u64,
    pull_ms: u64,
    files: Vec<FileRow>,
}

#[derive(Serialize)]
struct FileRow {
    name: String,
    bytes: u64,
    /// SHA-256 of a large file, git's SHA-1 of a small one.
    hash: Option<String>,
    path: String,
}

/// What one model is pulled with.
struct Work<'w> {
    hub: &'w Hub,
    args: &'w PullArgs,
    select: FileSelector,
    output: &'w Output,
}

pub(crate) fn pull(args: PullArgs, output: &Output) -> Result<ExitCode> {
    let hub = Hub::from_env()?;
    let config = Config::load()?;
    let engine = EngineOptions { weights: args.weights, ..EngineOptions::default() }.or(config.engine);
    // What a lock file or a bundle holds is the same on every machine.
    let is_shared = args.lock || args.locked || args.bundle.is_some();
    let weights = if is_shared { engine.weights.or_published() } else { engine.weights };
    let (settings, resolver) = (weights.settings(), resolver(&config.catalog, &engine));
    let work = Work { hub: &hub, args: &args, select: resolver.file_selector(&settings), output };
    let models = match (&args.from_bundle, &args.reference) {
        (Some(bundle), _) => vec![work.unpack(bundle)?],
        (None, Some(reference)) => vec![work.one(&resolve(&resolver, reference, &settings, output)?.repository()?)?],
        (None, None) => work.lock_file()?.models.iter().map(|model| work.one(&reference_of(model))).collect::<Result<_>>()?,
    };
    if output.is_json() {
        let path = |path: &Path| path.display().to_string();
        let lock_file = (args.lock || args.locked).then(|| path(&args.lock_file));
        output.document(&PullReport { models, lock_file, bundle: args.bundle.as_deref().map(path) })?;
    } else {
        models.iter().try_for_each(|model| output.line(&output.for_stdout(&model.directory)))?;
    }
    Ok(ExitCode::SUCCESS)
}

impl Work<'_> {
    fn one(&self, reference: &HubReference) -> Result<ModelRow> {
        let locked = if self.args.locked { Some(self.locked(reference)?) } else { None };
        let started = Instant::now();
        let pulled = with_progress(&reference.to_string(), self.output, |progress, cancel| {
            let options = PullOptions { select: self.select.clone(), locked, progress: progress.clone(), cancel: cancel.clone() };
            let pulled = self.hub.pull(reference, &options)?;
            self.keep(reference, &pulled, &progress, &cancel)?;
            Ok(pulled)
        })?;
        Ok(self.row(reference, pulled, started))
    }

    fn unpack(&self, bundle: &Path) -> Result<ModelRow> {
        let started = Instant::now();
        let locks = if self.args.locked { Some(self.lock_file()?) } else { None };
        let (reference, pulled) = with_progress(&bundle.display().to_string(), self.output, |progress, cancel| {
            let (reference, pulled) = self.hub.read_bundle(bundle, locks.as_ref(), &progress, &cancel)?;
            self.keep(&reference, &pulled, &progress, &cancel)?;
            Ok((reference, pulled))
        })?;
        Ok(self.row(&reference, pulled, started))
    }

    /// Writes what was asked for beside the cache: the lock, the bundle.
    fn keep(&self, reference: &HubReference, pulled: &Pulled, progress: &Progress, cancel: &CancelToken) -> tandem::Result<()> {
        if self.args.lock {
            let mut lock = LockFile::read(&self.args.lock_file)?.unwrap_or_default();
            lock.insert(LockedModel::of(pulled, &reference.revision, progress, cancel)?);
            lock.write(&self.args.lock_file)?;
        }
        if let Some(bundle) = &self.args.bundle {
            self.hub.write_bundle(pulled, &reference.revision, bundle, progress, cancel)?;
        }
        Ok(())
    }

    fn lock_file(&self) -> Result<LockFile> {
        let file = &self.args.lock_file;
        LockFile::read(file)?.ok_or_else(|| {
            Usage::new(format!("the lock file `{}` does not exist", file.display()), "write one with `tandem pull MODEL --lock`")
                .into()
        })
    }

    fn locked(&self, reference: &HubReference) -> Result<LockedModel> {
        let lock = self.lock_file()?;
        let model = lock.get(&reference.repository).filter(|model| model.revision == reference.revision);
        model.cloned().ok_or_else(|| {
            let problem = format!("`{}` does not lock `{reference}`", self.args.lock_file.display());
            Usage::new(problem, format!("lock it with `tandem pull {reference} --lock`")).into()
        })
    }

    fn row(&self, reference: &HubReference, pulled: Pulled, started: Instant) -> ModelRow {
        let time = started.elapsed();
        let bytes = pulled.files.iter().map(|file| file.bytes).sum();
        let commit = pulled.snapshot.commit.to_string();
        let came = match pulled.received {
            0 => "nothing was downloaded".into(),
            received => format!("{} downloaded in {:.1} s", figures::bytes(received), time.as_secs_f64()),
        };
        let n_files = pulled.files.len();
        self.output.note(&format!(
            "{reference}: {} in {n_files} files, {came}, commit {}",
            figures::bytes(bytes),
            commit.get(..7).unwrap_or(&commit)
        ));
        let files = pulled.files.into_iter().map(|file| FileRow {
            name: file.name,
            bytes: file.bytes,
            hash: file.hash.map(|hash| hash.digits().to_owned()),
            path: file.path.display().to_string(),
        });
        ModelRow {
            model: reference.to_string(),
            repository: pulled.repository.to_string(),
            revision: reference.revision.to_string(),
            commit,
            directory: pulled.snapshot.directory.display().to_string(),
            bytes,
            received_bytes: pulled.received,
            pull_ms: u64::try_from(time.as_millis()).unwrap_or(u64::MAX),
            files: files.collect(),
        }
    }
}

fn reference_of(model: &LockedModel) -> HubReference {
    HubReference { repository: model.repository.clone(), variant: None, revision: model.revision.clone() }
}
