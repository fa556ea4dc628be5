//! A backend whose models have adapters, so that the suite can be run with them.

use std::sync::Arc;

use tandem_core::adapter::ScaledAdapter;
use tandem_core::config::ModelConfig;
use tandem_core::files::{Listing, ModelFiles};
use tandem_core::footprint::{EstimateFootprint, Footprint, ModelShape, Workload};
use tandem_core::{Backend, BackendKind, DType, DeviceReport, LoadOptions, Model, OpenedModel, Result};

/// Another backend, and what is applied to each of its models.
pub(super) struct WithAdapters<B> {
    pub(super) inner: B,
    pub(super) adapters: Vec<ScaledAdapter>,
}

impl<B: Backend> Backend for WithAdapters<B> {
    fn kind(&self) -> BackendKind {
        self.inner.kind()
    }

    fn devices(&self) -> Vec<DeviceReport> {
        self.inner.devices()
    }

    fn select_files(&self, listing: &Listing<'_>, dtype: Option<DType>) -> Result<Vec<String>> {
        self.inner.select_files(listing, dtype)
    }

    fn footprint(&self, shape: &ModelShape, dtype: DType, workload: &Workload) -> Footprint {
        self.inner.footprint(shape, dtype, workload)
    }

    fn dtypes(&self, files: &ModelFiles) -> Vec<DType> {
        self.inner.dtypes(files)
    }

    fn open_unchecked(&self, files: &ModelFiles, options: &LoadOptions) -> Result<Box<dyn OpenedModel>> {
        let inner = self.inner.open_unchecked(files, options)?;
        Ok(Box::new(Opened { inner, adapters: self.adapters.clone() }))
    }
}

struct Opened {
    inner: Box<dyn OpenedModel>,
    adapters: Vec<ScaledAdapter>,
}

impl OpenedModel for Opened {
    fn options(&self) -> &LoadOptions {
        self.inner.options()
    }

    fn config(&self) -> &ModelConfig {
        self.inner.config()
    }

    fn dtype(&self) -> DType {
        self.inner.dtype()
    }

    fn footprint(&self) -> Result<EstimateFootprint> {
        self.inner.footprint()
    }

    fn load_unchecked(self: Box<Self>) -> Result<Arc<dyn Model>> {
        self.inner.load_unchecked()?.with_adapters(&self.adapters)
    }
}
