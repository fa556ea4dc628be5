//! Instruction sets: which of them the processor has is found at run time, not at build time.

use std::sync::LazyLock;

/// An instruction set. All but [`Plain`](Self::Plain) are only ever obtained from [`Isa::all`], which checks that the processor has them:
/// the kernels rely on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Isa {
    /// What every processor has.
    Plain,
    /// 256 bits, with fused multiply-add and conversion of f16.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX2 with dot products of bytes.
    #[cfg(target_arch = "x86_64")]
    AvxVnni,
    /// 512 bits.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX-512 with dot products of bytes.
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
}

impl Isa {
    /// The best that this processor has.
    pub(crate) fn detect() -> Self {
        static BEST: LazyLock<Isa> = LazyLock::new(|| Isa::all().pop().expect("`Plain` is always there"));
        *BEST
    }

    /// All that this processor has, the best last.
    pub(crate) fn all() -> Vec<Self> {
        let mut sets = vec![Self::Plain];
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c") {
            sets.push(Self::Avx2);
            if is_x86_feature_detected!("avxvnni") {
                sets.push(Self::AvxVnni);
            }
            if is_x86_feature_detected!("avx512f") {
                sets.push(Self::Avx512);
                let bytes = is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512vl");
                if bytes && is_x86_feature_detected!("avx512vnni") {
                    sets.push(Self::Avx512Vnni);
                }
            }
        }
        sets
    }

    /// Whether products with quantised weights are faster with quantised activations, as the bench `kernels` measures. Plain Rust and
    /// AVX-512 without VNNI are faster without.
    pub(crate) fn quantizes_activations(self) -> bool {
        match self {
            Self::Plain => false,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => false,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 | Self::AvxVnni | Self::Avx512Vnni => true,
        }
    }

    /// The most inputs of a tile.
    pub(crate) fn tile_inputs(self) -> usize {
        match self {
            Self::Plain => 4,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 | Self::AvxVnni => 6,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 | Self::Avx512Vnni => 12,
        }
    }
}
