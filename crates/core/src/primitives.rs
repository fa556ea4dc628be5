//! The small values that everything above names: token ids, backends, devices, dtypes, numerics.

use std::fmt;
use std::str::FromStr;

use crate::named::{ParseNameError, named, serde_as_text};

/// The id of a token in a model's vocabulary.
pub type TokenId = u32;

/// An engine. Every kind is known in every build; one that is not compiled in is an error that names its feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BackendKind {
    /// ONNX Runtime.
    Onnx,
    /// candle.
    Candle,
    /// The reference implementation of the conformance suite; it cannot be asked for by name.
    Fake,
}

named!(BackendKind, "backend", { Onnx: "onnx", Candle: "candle" }, { Fake: "fake" });

/// Where a model runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Device {
    /// The processor.
    #[default]
    Cpu,
    /// An NVIDIA GPU by its index.
    Cuda(u32),
    /// Apple's CoreML.
    CoreMl,
}

impl Device {
    /// The forms in which a device is written.
    pub const NAMES: [&str; 4] = ["cpu", "cuda", "cuda:N", "coreml"];
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.pad("cpu"),
            Self::Cuda(index) => f.pad(&format!("cuda:{index}")),
            Self::CoreMl => f.pad("coreml"),
        }
    }
}

impl FromStr for Device {
    type Err = ParseNameError;

    fn from_str(text: &str) -> Result<Self, ParseNameError> {
        let index = |digits: &str| digits.parse().ok().map(Self::Cuda);
        let device = match text {
            "cpu" => Some(Self::Cpu),
            "coreml" => Some(Self::CoreMl),
            "cuda" => Some(Self::Cuda(0)),
            _ => text.strip_prefix("cuda:").and_then(index),
        };
        device.ok_or_else(|| match text {
            // candle has it, with faults in its attention that give wrong text and no error (candle #3388).
            "metal" => ParseNameError {
                option: "device",
                value: text.into(),
                problem: "is not supported: on Apple's machines, use `coreml` with the backend `onnx`".into(),
            },
            _ => ParseNameError::not_one_of("device", text, &Self::NAMES),
        })
    }
}

serde_as_text!(Device);

/// The dtype of a model's weights; the most precise first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// 32-bit floating point.
    F32,
    /// 16-bit floating point, IEEE.
    F16,
    /// 16-bit floating point, brain.
    Bf16,
    /// 8-bit integers with scales.
    Int8,
    /// 4-bit integers with a scale for each block.
    Int4,
}

named!(DType, "dtype", { F32: "f32", F16: "f16", Bf16: "bf16", Int8: "int8", Int4: "int4" });

/// In what the products with quantised weights are computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Numerics {
    /// Activations are rounded to 8 bits where the model leaves it open, which is faster on a processor.
    #[default]
    Fast,
    /// Activations stay floats.
    Exact,
}

named!(Numerics, "numerics", { Fast: "fast", Exact: "exact" });

/// In what the keys and values of a model that generates are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KvDType {
    /// 32-bit floating point.
    F32,
    /// 16-bit floating point, IEEE: half the memory, and half of what decoding reads of it. Products with it are computed in f32 by our own
    /// kernels. A key or a value of 65,520 or more is an error.
    F16,
}

named!(KvDType, "kv_dtype", { F32: "f32", F16: "f16" });

impl KvDType {
    /// What is used where none is requested, by kernels that have both: f16 for weights that run as anything but f32, unless numerics are
    /// exact.
    pub fn by_default(weights: DType, numerics: Numerics) -> Self {
        match (weights, numerics) {
            (DType::F32, _) | (_, Numerics::Exact) => Self::F32,
            _ => Self::F16,
        }
    }

    /// The same as a dtype.
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
        }
    }

    /// Bytes of a value.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
        }
    }
}

/// Whose kernels compute a graph's products and attention in ONNX Runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kernels {
    /// Tandem's own, as operators of the engine, where a node is one that they know: on the processor alone.
    Tandem,
    /// The engine's.
    Runtime,
}

named!(Kernels, "kernels", { Tandem: "tandem", Runtime: "runtime" });

/// What a model is loaded for. It matters for causal decoders, which do both; all others encode, whatever is said here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// To generate text.
    #[default]
    Generate,
    /// To give hidden states: a model so loaded need not generate, and its checkpoint need not have a head.
    Encode,
}

named!(Purpose, "purpose", { Generate: "generate", Encode: "encode" });

#[cfg(test)]
mod tests {
    use super::*;
    use crate::named::Named;

    #[test]
    fn names_read_back_as_the_values_they_display() {
        for dtype in DType::ALL {
            assert_eq!(dtype.to_string().parse(), Ok(*dtype));
            assert_eq!(serde_json::to_string(dtype).unwrap(), format!("\"{dtype}\""));
        }
        for device in [Device::Cpu, Device::CoreMl, Device::Cuda(0), Device::Cuda(3)] {
            assert_eq!(serde_json::from_value(serde_json::to_value(device).unwrap()).ok(), Some(device));
        }
        assert_eq!("cuda".parse(), Ok(Device::Cuda(0)));
        assert_eq!(BackendKind::Fake.to_string(), "fake");
    }

    #[test]
    fn the_cache_is_narrow_beside_narrow_weights() {
        let check = |weights, numerics, expected| assert_eq!(KvDType::by_default(weights, numerics), expected);
        check(DType::F32, Numerics::Fast, KvDType::F32);
        check(DType::Int4, Numerics::Fast, KvDType::F16);
        check(DType::Bf16, Numerics::Fast, KvDType::F16);
        check(DType::Int4, Numerics::Exact, KvDType::F32);
        for dtype in KvDType::ALL {
            assert_eq!(
                (dtype.to_string(), dtype.bytes()),
                (dtype.dtype().to_string(), if *dtype == KvDType::F16 { 2 } else { 4 })
            );
        }
    }

    #[test]
    fn other_texts_are_refused_with_the_names_there_are() {
        let check = |error: ParseNameError, expected: &str| assert_eq!(crate::Error::from(error).to_string(), expected);
        check("f64".parse::<DType>().unwrap_err(), "option `dtype`: `f64` is not one of `f32`, `f16`, `bf16`, `int8`, `int4`");
        check("fake".parse::<BackendKind>().unwrap_err(), "option `backend`: `fake` is not one of `onnx`, `candle`");
        check(
            "cuda:x".parse::<Device>().unwrap_err(),
            "option `device`: `cuda:x` is not one of `cpu`, `cuda`, `cuda:N`, `coreml`",
        );
        check("int8".parse::<KvDType>().unwrap_err(), "option `kv_dtype`: `int8` is not one of `f32`, `f16`");
        check("F32".parse::<Numerics>().unwrap_err(), "option `numerics`: `F32` is not one of `fast`, `exact`");
        assert!("metal".parse::<Device>().unwrap_err().problem.contains("use `coreml`"));
    }
}
