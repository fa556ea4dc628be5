//! The pinned wheels: one for each system, with the SHA-256 of the wheel and of its library.

use tandem_core::{Error, Result};

use crate::library::VERSION;

/// Files of the wheel that are installed beside the library.
pub(super) const NOTICES: [&str; 2] = ["LICENSE", "ThirdPartyNotices.txt"];

/// The wheel's directory that holds [`NOTICES`].
pub(super) const NOTICES_DIR: &str = "onnxruntime";

/// One wheel and the library in it.
#[derive(Clone, Debug)]
pub(super) struct Pin {
    /// As [`crate::library::target`] names it.
    pub(super) target: &'static str,
    /// The platform tag, for pip.
    pub(super) platform: &'static str,
    /// The wheel's file name.
    pub(super) wheel: &'static str,
    pub(super) wheel_size: u64,
    pub(super) wheel_sha256: &'static str,
    /// The library's path in the wheel.
    pub(super) member: &'static str,
    pub(super) member_size: u64,
    pub(super) member_sha256: &'static str,
}

// The wheels for CPython 3.12; the library is the same file in the wheels for other versions of Python.
static PINS: [Pin; 3] = [
    Pin {
        target: "linux-x86_64",
        platform: "manylinux_2_28_x86_64",
        wheel: "onnxruntime-1.31.1-cp312-cp312-manylinux_2_28_x86_64.whl",
        wheel_size: 23_760_988,
        wheel_sha256: "1f3dea47f2f0e5117c2404cea7d21fd253ae7836a3bf167a501cdfbb2600d536",
        member: "onnxruntime/capi/libonnxruntime.so.1.31.1",
        member_size: 29_352_200,
        member_sha256: "fc44112fbe06d7d689c57e11d3862031f64711007e4ee020f8eed5185fd2c1d3",
    },
    Pin {
        target: "linux-aarch64",
        platform: "manylinux_2_28_aarch64",
        wheel: "onnxruntime-1.31.1-cp312-cp312-manylinux_2_28_aarch64.whl",
        wheel_size: 21_420_803,
        wheel_sha256: "0b9a492176886992e0e875f06bc0367e333f5fff11711a2d642e18b02f3009cc",
        member: "onnxruntime/capi/libonnxruntime.so.1.31.1",
        member_size: 25_265_040,
        member_sha256: "8aa3b76b28c778a2b1dd660d34161adb1d508c9ccd04ff9dc80e26eca5df8467",
    },
    Pin {
        target: "macos-aarch64",
        platform: "macosx_14_0_arm64",
        wheel: "onnxruntime-1.31.1-cp312-cp312-macosx_14_0_arm64.whl",
        wheel_size: 20_882_125,
        wheel_sha256: "96dd2564b10ea7153ad9c207e7cd8e5917cb3ba521e0e0a62ac03486fdc8d56c",
        member: "onnxruntime/capi/libonnxruntime.1.31.1.dylib",
        member_size: 33_037_336,
        member_sha256: "d586cbe89effc085a09d3341b3cfbd5c322517f9d397aeb20814af21433f2b36",
    },
];

pub(super) fn pin_for(target: &str) -> Result<&'static Pin> {
    PINS.iter().find(|pin| pin.target == target).ok_or_else(|| {
        let known: Vec<_> = PINS.iter().map(|pin| format!("`{}`", pin.target)).collect();
        Error::Unsupported {
            what: format!("setting up ONNX Runtime on `{target}`"),
            reason: format!("release {VERSION} is pinned for {} only", known.join(", ")),
            hint: Some(
                "build ONNX Runtime 1.24 or later, or obtain it otherwise, and name its library with `ORT_DYLIB_PATH`".into(),
            ),
        }
    })
}

/// The pin whose library has this name and size: tells the wheels of two systems apart.
pub(super) fn of_library(member: &str, size: u64) -> Option<&'static Pin> {
    PINS.iter().find(|pin| pin.member == member && pin.member_size == size)
}
