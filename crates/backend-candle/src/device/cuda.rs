//! NVIDIA GPUs: which there are, and whether this build can compute on them.
//!
//! candle's own check (`cuda_is_available`) says what was compiled in, not what is there; here a product is computed.

#[cfg(feature = "candle-cuda")]
pub(super) use self::with::{description, n_devices, open};
#[cfg(not(feature = "candle-cuda"))]
pub(super) use self::without::{description, n_devices, open};

#[cfg(not(feature = "candle-cuda"))]
mod without {
    use tandem_core::{BackendKind, Device, Remedy, Result};

    use crate::device::unavailable;

    /// None that could be used.
    pub(in crate::device) fn n_devices() -> u32 {
        0
    }

    /// What a GPU is called that nobody asked for its name.
    pub(in crate::device) fn description(_index: u32) -> String {
        "NVIDIA GPU through CUDA".into()
    }

    /// The error that names the feature.
    pub(in crate::device) fn open(index: u32) -> Result<candle_core::Device> {
        let hint =
            [Remedy::EnableFeature("candle-cuda".into()), Remedy::UseBackend(BackendKind::Onnx), Remedy::UseDevice(Device::Cpu)];
        Err(unavailable(Device::Cuda(index), "this build has no CUDA for candle", hint))
    }
}

#[cfg(feature = "candle-cuda")]
mod with {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use candle_core::cuda_backend::cudarc::driver::CudaContext;
    use candle_core::{Device as CandleDevice, Tensor};
    use tandem_core::{Device, Remedy, Result};

    use crate::device::unavailable;

    /// How many GPUs the driver knows; none when there is no driver.
    pub(in crate::device) fn n_devices() -> u32 {
        quietly(|| CudaContext::device_count().map_err(|error| error.to_string()))
            .ok()
            .and_then(|n| n.try_into().ok())
            .unwrap_or(0)
    }

    /// The name that the driver has for a GPU.
    pub(in crate::device) fn description(index: u32) -> String {
        let name = quietly(|| {
            let context = CudaContext::new(index as usize).map_err(|error| error.to_string())?;
            context.name().map_err(|error| error.to_string())
        });
        name.unwrap_or_else(|_| "NVIDIA GPU through CUDA".into())
    }

    /// The GPU number `index`, after it has computed a product: its kernels were compiled for one generation of GPUs.
    ///
    /// It has one stream, which all threads share. With candle's usual one for each thread, a step would not wait for what another
    /// thread wrote to the cache.
    pub(in crate::device) fn open(index: u32) -> Result<CandleDevice> {
        let tried = quietly(|| {
            let device = CandleDevice::new_cuda_with_stream(index as usize).map_err(|error| error.to_string())?;
            match probe(&device) {
                Ok(true) => Ok(device),
                Ok(false) => Err("it computed a product wrongly".into()),
                Err(error) => Err(error.to_string()),
            }
        });
        tried.map_err(|reason| {
            let hint = [
                "build with `CUDA_COMPUTE_CAP` of this GPU (`nvidia-smi` lists the GPUs and their driver)".into(),
                Remedy::UseDevice(Device::Cpu),
            ];
            unavailable(Device::Cuda(index), reason, hint)
        })
    }

    /// Whether a product through cuBLAS and a kernel of candle's come back right.
    fn probe(device: &CandleDevice) -> candle_core::Result<bool> {
        let two = Tensor::new(&[[1_f32, 2.0], [3.0, 4.0]], device)?;
        let product = (two.matmul(&two)? + 1.0)?;
        Ok(product.to_vec2::<f32>()? == [[8.0, 11.0], [16.0, 23.0]])
    }

    /// What `work` gives, or why not; a panic of the bindings is a reason like any other.
    fn quietly<T>(work: impl FnOnce() -> std::result::Result<T, String>) -> std::result::Result<T, String> {
        catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
            Err(text.unwrap_or("the bindings of CUDA gave up").into())
        })
    }
}
