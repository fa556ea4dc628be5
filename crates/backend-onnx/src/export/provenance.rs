//! The metadata of a graph about its origin: the checkpoint, the hashes of its files, and the exporter.

use tandem_core::adapter::ScaledAdapter;
use tandem_core::cache::{origin, sources};
use tandem_core::files::ModelFiles;

use super::EXPORTER_VERSION;

/// Names and values for the graph's `metadata_props`, to which the builder adds the dtypes; `hashes` are those of [`sources`], in order.
/// They contain neither dates nor paths, so that the same export gives the same bytes.
pub(crate) fn metadata(files: &ModelFiles, hashes: &[String]) -> Vec<(String, String)> {
    let (source, revision) = origin(files);
    let mut all = vec![("source".to_owned(), source)];
    all.extend(revision.map(|revision| ("revision".into(), revision)));
    all.push(("exporter".into(), format!("tandem {EXPORTER_VERSION}")));
    let hashed = sources(files).zip(hashes).map(|(file, hash)| (format!("sha256.{}", file.file_name()), hash.clone()));
    all.extend(hashed);
    all.into_iter().map(|(name, value)| (format!("tandem.{name}"), value)).collect()
}

/// Names and values for the adapters that are merged into the weights, in order.
pub(crate) fn adapters(adapters: &[ScaledAdapter]) -> Vec<(String, String)> {
    let value = |ScaledAdapter { adapter, scale }: &ScaledAdapter| {
        let hash = adapter.origin().sha256.as_ref().map(|hash| format!(" sha256 {hash}")).unwrap_or_default();
        format!("{} scale {scale}{hash}", adapter.name())
    };
    adapters.iter().enumerate().map(|(index, adapter)| (format!("tandem.adapter.{index}"), value(adapter))).collect()
}
