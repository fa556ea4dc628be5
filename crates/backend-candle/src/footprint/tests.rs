//! Footprints near what runs took.

use tandem_core::DType;
use tandem_core::backend::{KvDType, Numerics};
use tandem_core::conformance::{MeasuredPeak, check_footprints};

const MEASURED: [MeasuredPeak; 18] = [
    ("demo", DType::F32, 499, 512, 27),
    ("demo", DType::F32, 999, 1024, 30),
    ("demo", DType::Int8, 499, 512, 25),
    ("demo", DType::Int8, 999, 1024, 28),
    ("demo", DType::Int4, 499, 512, 25),
    ("demo", DType::Int4, 999, 1024, 28),
    ("qwen2.5-0.5b", DType::F32, 499, 512, 1077),
    ("qwen2.5-0.5b", DType::F32, 7992, 8192, 1287),
    ("qwen2.5-0.5b", DType::Int8, 498, 512, 635),
    ("qwen2.5-0.5b", DType::Int8, 7989, 8192, 756),
    ("qwen2.5-0.5b", DType::Int4, 498, 512, 389),
    ("qwen2.5-0.5b", DType::Int4, 7989, 8192, 500),
    ("qwen3-0.6b", DType::F32, 499, 512, 1382),
    ("qwen3-0.6b", DType::F32, 7992, 8192, 3322),
    ("qwen3-0.6b", DType::Int8, 498, 512, 816),
    ("qwen3-0.6b", DType::Int8, 7989, 8192, 1888),
    ("qwen3-0.6b", DType::Int4, 498, 512, 514),
    ("qwen3-0.6b", DType::Int4, 7989, 8192, 1581),
];

#[test]
fn footprints_are_within_a_tenth_of_measured_peaks() {
    check_footprints(&crate::CandleBackend::new(), &MEASURED, |dtype| KvDType::by_default(dtype, Numerics::Fast).dtype());
}
