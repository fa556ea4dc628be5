//! Names of the catalog and `auto`, as the repositories that they stand for.

use std::path::Path;

use anyhow::Result;
use tandem::catalog::{Catalog, CatalogEntry};
use tandem::plan::{Choice, choose};
use tandem::{BackendKind, DType, Error};

use crate::args::EngineOptions;
use crate::figures::bytes;
use crate::memory::{measurements, memory, sum, threads};
use crate::output::Output;

/// The word for the largest model that fits.
pub(crate) const AUTO: &str = "auto";

/// Whether `reference` is a word of the catalog's and no path that exists.
pub(crate) fn is_of_catalog(reference: &str) -> bool {
    !Path::new(reference).exists() && (reference == AUTO || Catalog::is_name(reference))
}

/// The repository that `reference` stands for, or itself where it is no word of the catalog's. What `auto` came to is said, with the
/// sum.
///
/// # Errors
/// [`Error::ModelNotFound`] for a name that the catalog has not, and where nothing fits.
pub(crate) fn resolve(reference: &str, catalog: &Catalog, options: &EngineOptions, output: &Output) -> Result<String> {
    if !is_of_catalog(reference) {
        return Ok(reference.into());
    }
    let (backend, _) = engine(options);
    if reference != AUTO {
        return Ok(known(catalog, reference)?.repository(backend).into());
    }
    let choice = auto(catalog, options);
    let taken = choice.taken().ok_or_else(|| nothing_fits(&choice))?;
    let (name, peak, usable) = (&taken.entry.name, bytes(taken.plan.peak()), bytes(choice.usable));
    output.note(&format!("`auto` is `{name}`: it takes about {peak} of {usable}: {}", sum(&taken.plan)));
    Ok(taken.entry.repository(backend).into())
}

/// The entry called `name`.
///
/// # Errors
/// [`Error::ModelNotFound`] with names that are near.
pub(crate) fn known<'c>(catalog: &'c Catalog, name: &str) -> tandem::Result<&'c CatalogEntry> {
    catalog.find(name).ok_or_else(|| catalog.unknown(name))
}

/// What `auto` comes to under `options`.
pub(crate) fn auto(catalog: &Catalog, options: &EngineOptions) -> Choice {
    let n_threads = options.threads.map_or_else(threads, usize::from);
    choose(catalog, &memory(options), engine(options), options.context.map(usize::from), n_threads, &measurements())
}

/// The backend and dtype that count where none is given.
pub(crate) fn engine(options: &EngineOptions) -> (BackendKind, DType) {
    let backend = options.backend.or_else(|| tandem::compiled().first().copied()).unwrap_or(BackendKind::Onnx);
    (backend, options.dtype.unwrap_or(DType::F32))
}

/// Says so, with the smallest that there is.
pub(crate) fn nothing_fits(choice: &Choice) -> Error {
    let smallest = choice.smallest();
    let smallest = smallest.map(|candidate| format!("`{}` takes {}; ", candidate.entry.name, bytes(candidate.plan.peak())));
    Error::ModelNotFound {
        reference: AUTO.into(),
        reason: format!("no model of the catalog fits {}", bytes(choice.usable)),
        hint: format!("{}`--dtype int4` takes less, and `demo` is part of the program", smallest.unwrap_or_default()),
    }
}
