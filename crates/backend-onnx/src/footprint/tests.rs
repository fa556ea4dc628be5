//! Footprints near what runs took.

use tandem_core::DType;
use tandem_core::conformance::{MeasuredPeak, check_footprints};

const MEASURED: [MeasuredPeak; 18] = [
    ("demo", DType::F32, 499, 512, 63),
    ("demo", DType::F32, 1008, 1024, 63),
    ("demo", DType::Int8, 499, 512, 56),
    ("demo", DType::Int8, 1008, 1024, 59),
    ("demo", DType::Int4, 499, 512, 54),
    ("demo", DType::Int4, 1008, 1024, 56),
    ("qwen2.5-0.5b", DType::F32, 499, 512, 2644),
    ("qwen2.5-0.5b", DType::F32, 7992, 8192, 2837),
    ("qwen2.5-0.5b", DType::Int8, 499, 512, 906),
    ("qwen2.5-0.5b", DType::Int8, 7992, 8192, 1005),
    ("qwen2.5-0.5b", DType::Int4, 499, 512, 590),
    ("qwen2.5-0.5b", DType::Int4, 7992, 8192, 770),
    ("qwen3-0.6b", DType::F32, 499, 512, 3295),
    ("qwen3-0.6b", DType::F32, 7992, 8192, 5147),
    ("qwen3-0.6b", DType::Int8, 499, 512, 1124),
    ("qwen3-0.6b", DType::Int8, 7992, 8192, 2941),
    ("qwen3-0.6b", DType::Int4, 499, 512, 818),
    ("qwen3-0.6b", DType::Int4, 7992, 8192, 2739),
];

#[test]
fn footprints_are_within_a_tenth_of_measured_peaks() {
    check_footprints(&crate::OnnxBackend::new(None), &MEASURED);
}
