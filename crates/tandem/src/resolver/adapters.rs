//! Adapters of the hub.

use tandem_core::Result;
use tandem_core::adapter::AdapterFiles;
use tandem_hub::{FileSelector, PullOptions};

use super::Resolver;
use crate::reference::AdapterRef;
use crate::settings::Settings;

impl Resolver {
    /// `adapter` with its files on this machine: one of the hub is downloaded, unless it is in the cache. The progress and the cancel
    /// token are those of `settings.load`.
    ///
    /// # Errors
    /// As [`Hub::find`](tandem_hub::Hub::find).
    pub fn find_adapter(&self, adapter: &AdapterRef, settings: &Settings) -> Result<AdapterRef> {
        let Some(reference) = adapter.hub() else { return Ok(adapter.clone()) };
        let select = FileSelector::new(|listing| AdapterFiles::needed(listing.name, listing.files));
        let (progress, cancel) = (settings.load.progress.clone(), settings.load.cancel.clone());
        let snapshot = self.hub()?.find(&reference, &PullOptions { progress, cancel, ..PullOptions::new(select) })?;
        Ok(AdapterRef { path: Some(snapshot.directory), ..adapter.clone() })
    }

    /// `settings` with all of their adapters on this machine.
    ///
    /// # Errors
    /// As [`find_adapter`](Self::find_adapter).
    pub fn find_adapters(&self, settings: &Settings) -> Result<Settings> {
        let adapters = settings.adapters.iter().map(|adapter| self.find_adapter(adapter, settings)).collect::<Result<_>>()?;
        Ok(Settings { adapters, ..settings.clone() })
    }
}
