//! What a MODEL names: every command asks here, so that a name means the same to all of them.

use anyhow::Result;
use tandem::catalog::{Catalog, CatalogEntry};
use tandem::hub::HubReference;
use tandem::plan::{Candidate, Choice, choose};
use tandem::{BackendKind, DType, Error};

use crate::args::EngineOptions;
use crate::config::Config;
use crate::figures::bytes;
use crate::memory::{measurements, memory, sum, threads};
use crate::output::Output;

/// The word for the largest model that fits.
const AUTO: &str = "auto";

/// What a reference names.
pub(crate) enum Named {
    /// The built-in model, a path or a repository: what it says.
    Itself,
    /// A model of the catalog, by its name.
    OfCatalog(Box<CatalogEntry>),
    /// What `auto` came to.
    Auto(Box<Auto>),
}

/// The choice that `auto` stands for.
pub(crate) struct Auto {
    pub(crate) choice: Choice,
    pub(crate) taken: Candidate,
}

/// What `reference` names; what a command does with it is up to the command. No file is read and no hub asked.
///
/// # Errors
/// [`Error::ModelNotFound`] with names that are near, and where nothing fits.
pub(crate) fn named(reference: &str, catalog: &Catalog, options: &EngineOptions) -> tandem::Result<Named> {
    if tandem::is_local(reference) || HubReference::looks_like_one(reference) {
        return Ok(Named::Itself);
    }
    if reference == AUTO {
        let n_threads = options.compute.threads.map_or_else(threads, usize::from);
        let context = options.context.map(usize::from);
        let choice = choose(catalog, &memory(options), engine(options), context, n_threads, &measurements());
        let taken = choice.taken().cloned().ok_or_else(|| nothing_fits(&choice))?;
        return Ok(Named::Auto(Box::new(Auto { choice, taken })));
    }
    let entry = catalog.find(reference).ok_or_else(|| tandem::unknown(reference, catalog))?;
    Ok(Named::OfCatalog(Box::new(entry.clone())))
}

/// The reference that the backend of `options` loads; what `auto` came to is said.
///
/// # Errors
/// As [`named`].
pub(crate) fn resolve(reference: &str, catalog: &Catalog, options: &EngineOptions, output: &Output) -> Result<String> {
    let named = named(reference, catalog, options)?;
    named.say(output);
    let (backend, _) = engine(options);
    Ok(named.entry().map_or(reference, |entry| entry.repository(backend)).into())
}

/// The reference of the checkpoint, for work in which several backends are to have the same weights; under the user's own options.
///
/// # Errors
/// As [`named`], and for a configuration that is wrong.
pub(crate) fn resolve_checkpoint(reference: &str, output: &Output) -> Result<String> {
    let config = Config::load()?;
    let named = named(reference, &config.catalog, &config.engine)?;
    named.say(output);
    Ok(named.entry().map_or(reference, |entry| &entry.checkpoint).into())
}

impl Named {
    /// The model of the catalog, where it is one.
    pub(crate) fn entry(&self) -> Option<&CatalogEntry> {
        match self {
            Self::Itself => None,
            Self::OfCatalog(entry) => Some(entry),
            Self::Auto(auto) => Some(&auto.taken.entry),
        }
    }

    /// Every repository that its files may have come here from, or `reference` itself.
    pub(crate) fn repositories<'n>(&'n self, reference: &'n str) -> Vec<&'n str> {
        match self.entry() {
            Some(entry) => std::iter::once(&entry.checkpoint).chain(&entry.graphs).map(String::as_str).collect(),
            None => vec![reference],
        }
    }

    /// Says what `auto` came to, with the sum.
    pub(crate) fn say(&self, output: &Output) {
        let Self::Auto(auto) = self else { return };
        let Auto { choice, taken } = &**auto;
        let (name, peak, usable) = (&taken.entry.name, bytes(taken.plan.peak()), bytes(choice.usable));
        output.note(&format!("`auto` is `{name}`: it takes about {peak} of {usable}: {}", sum(&taken.plan)));
    }
}

/// The backend and dtype that count where none is given.
pub(crate) fn engine(options: &EngineOptions) -> (BackendKind, DType) {
    let backend = options.weights.backend.or_else(|| tandem::compiled().first().copied()).unwrap_or(BackendKind::Onnx);
    (backend, options.weights.dtype.unwrap_or(DType::F32))
}

/// Says so, with the smallest that there is.
fn nothing_fits(choice: &Choice) -> Error {
    let smallest = choice.smallest();
    let smallest = smallest.map(|candidate| format!("`{}` takes {}; ", candidate.entry.name, bytes(candidate.plan.peak())));
    Error::ModelNotFound {
        reference: AUTO.into(),
        reason: format!("no model of the catalog fits {}", bytes(choice.usable)),
        hint: format!("{}`--dtype int4` takes less, and `demo` is part of the program", smallest.unwrap_or_default()).into(),
    }
}
