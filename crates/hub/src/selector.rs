//! Which files of a repository are needed is known above: a download of gigabytes that nothing reads helps nobody.

use std::fmt;
use std::sync::Arc;

use tandem_core::Result;
use tandem_core::files::Listing;

use crate::repository::HubReference;

/// Chooses the files of a repository that are needed, the small ones first.
#[derive(Clone)]
pub struct FileSelector(Arc<Select>);

type Select = dyn Fn(&Listing<'_>) -> Result<Vec<String>> + Send + Sync;

impl FileSelector {
    /// Has `select` choose.
    pub fn new(select: impl Fn(&Listing<'_>) -> Result<Vec<String>> + Send + Sync + 'static) -> Self {
        Self(Arc::new(select))
    }

    /// The weights as published, whatever the backend.
    pub fn checkpoint() -> Self {
        Self::new(|listing| listing.weights(None))
    }

    /// Those of `files` that are needed of `reference`. `read` is asked for the files that name others.
    pub(crate) fn select(
        &self,
        reference: &HubReference,
        files: &[&str],
        read: &dyn Fn(&str) -> Result<Vec<u8>>,
    ) -> Result<Vec<String>> {
        let variant = reference.variant.as_ref().map(|variant| variant.as_str());
        (self.0)(&Listing { name: reference.repository.id(), files, variant, read })
    }
}

impl fmt::Debug for FileSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FileSelector")
    }
}
