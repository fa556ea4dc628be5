//! The weights of a checkpoint for candle-transformers, which requests them by name and shape.

use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Device, Result, Shape, Tensor};
use candle_nn::Init;
use candle_nn::var_builder::SimpleBackend;
use tandem_core::Error;
use tandem_core::checkpoint::{Checkpoint, StoredTensor};

use crate::weights::widened;

/// The weights of a checkpoint in f32.
pub(crate) struct CheckpointBackend<'c> {
    pub(crate) checkpoint: &'c Checkpoint,
    /// Names the weights in messages.
    pub(crate) file: &'c str,
    /// The first error, which candle's error type cannot carry.
    pub(crate) failed: &'c Mutex<Option<Error>>,
}

impl CheckpointBackend<'_> {
    fn read(&self, shape: Option<&[usize]>, name: &str) -> std::result::Result<(Vec<f32>, Vec<usize>), Error> {
        let stored: StoredTensor<'_> = self.checkpoint.tensor(name)?;
        if let Some(shape) = shape.filter(|&shape| shape != stored.shape) {
            let problem = format!("the weight is {:?}, but the configuration makes it {shape:?}", stored.shape);
            return Err(Error::bad_field(self.file, name, problem));
        }
        Ok((widened(&stored), stored.shape.to_vec()))
    }

    fn tensor(&self, shape: Option<&[usize]>, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        let (values, shape) = self.read(shape, name).map_err(|error| {
            let shown = candle_core::Error::Msg(error.to_string());
            self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            shown
        })?;
        Tensor::from_vec(values, shape, &Device::Cpu)?.to_device(device)?.to_dtype(dtype)
    }
}

impl SimpleBackend for CheckpointBackend<'_> {
    fn get(&self, shape: Shape, name: &str, _: Init, dtype: DType, device: &Device) -> Result<Tensor> {
        self.tensor(Some(shape.dims()), name, dtype, device)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        self.tensor(None, name, dtype, device)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.checkpoint.contains(name)
    }
}
