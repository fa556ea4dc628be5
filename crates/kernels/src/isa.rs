//! Instruction sets: the kernels use the best one of the processor, found at run time, unless `TANDEM_ISA` selects a lower one.
//!
//! The variable exists for tests and for comparing results between processors. It governs the loops of this crate; those of engines and of
//! the `half` crate detect the processor themselves.

use std::fmt;
use std::sync::LazyLock;

use tandem_core::{Error, Result};

/// The environment variable that selects an instruction set.
const VARIABLE: &str = "TANDEM_ISA";

/// The name of the instruction set that kernels use, as `TANDEM_ISA` has it: `avx512-vnni`, `avx512`, `avx-vnni`, `avx2`, on AArch64
/// `neon-i8mm`, `neon-dotprod`, `neon`, or `plain`. Where the variable is invalid it is the best of the processor.
pub fn instruction_set() -> &'static str {
    Isa::current().name()
}

/// Checks `TANDEM_ISA`, which every backend does before it loads a model.
///
/// # Errors
/// [`Error::InvalidOption`] when the variable names an instruction set that the processor lacks.
pub fn check_instruction_set() -> Result<()> {
    Isa::selected().map(|_| ())
}

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
    /// 512 bits: AVX-512 F, BW, DQ and VL.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX-512 with dot products of bytes.
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
    /// The 128 bits of AArch64.
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// NEON with dot products of bytes.
    #[cfg(target_arch = "aarch64")]
    NeonDotprod,
    /// NEON with dot products and products of matrices of bytes.
    #[cfg(target_arch = "aarch64")]
    NeonI8mm,
}

impl Isa {
    /// The instruction set that kernels use: the best of this processor, or the one that `TANDEM_ISA` names.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] when the variable names none of [`all`](Self::all).
    pub(crate) fn selected() -> Result<Self> {
        static SELECTED: LazyLock<std::result::Result<Isa, String>> = LazyLock::new(|| match std::env::var_os(VARIABLE) {
            None => Ok(Isa::best()),
            Some(name) if name.is_empty() => Ok(Isa::best()),
            Some(name) => {
                let name = name.to_string_lossy().into_owned();
                Isa::all().into_iter().find(|isa| isa.name() == name).ok_or(name)
            }
        });
        SELECTED.clone().map_err(|name| {
            let names: Vec<String> = Self::all().iter().rev().map(|isa| format!("`{isa}`")).collect();
            Error::invalid_option(
                VARIABLE,
                name,
                format!("is not an instruction set of this processor, which has {}", names.join(", ")),
            )
        })
    }

    /// As [`selected`](Self::selected); loading a model has refused an invalid variable.
    pub(crate) fn current() -> Self {
        static CURRENT: LazyLock<Isa> = LazyLock::new(|| Isa::selected().unwrap_or_else(|_| Isa::best()));
        *CURRENT
    }

    /// The best that this processor has.
    fn best() -> Self {
        Self::all().pop().unwrap_or(Self::Plain)
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
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
            {
                sets.push(Self::Avx512);
                if is_x86_feature_detected!("avx512vnni") {
                    sets.push(Self::Avx512Vnni);
                }
            }
        }
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("neon") {
            sets.push(Self::Neon);
            if std::arch::is_aarch64_feature_detected!("dotprod") {
                sets.push(Self::NeonDotprod);
                if std::arch::is_aarch64_feature_detected!("i8mm") {
                    sets.push(Self::NeonI8mm);
                }
            }
        }
        sets
    }

    /// Its value of `TANDEM_ISA`.
    fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni => "avx-vnni",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => "avx512-vnni",
            #[cfg(target_arch = "aarch64")]
            Self::Neon => "neon",
            #[cfg(target_arch = "aarch64")]
            Self::NeonDotprod => "neon-dotprod",
            #[cfg(target_arch = "aarch64")]
            Self::NeonI8mm => "neon-i8mm",
        }
    }

    /// Whether products with quantised weights are faster with quantised activations, as the bench `kernels` measures. Plain Rust and
    /// AVX-512 without VNNI are faster without. NEON is not measured: its products of bytes take fewer instructions than widening weights to floats.
    pub(crate) fn quantizes_activations(self) -> bool {
        match self {
            Self::Plain => false,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => false,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 | Self::AvxVnni | Self::Avx512Vnni => true,
            #[cfg(target_arch = "aarch64")]
            Self::Neon | Self::NeonDotprod | Self::NeonI8mm => true,
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
            #[cfg(target_arch = "aarch64")]
            Self::Neon | Self::NeonDotprod | Self::NeonI8mm => 6,
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// Defines a function that is compiled for every width of vectors and runs in that of the current instruction set, so that the compiler
/// vectorises its loops. Functions that it calls must be inlined.
macro_rules! vectorized {
    (
        $(#[$attribute:meta])*
        $visibility:vis fn $name:ident($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block
    ) => {
        $(#[$attribute])*
        $visibility fn $name($($argument: $type),*) $(-> $result)? {
            #[inline(always)]
            fn plain($($argument: $type),*) $(-> $result)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2")]
            fn avx2($($argument: $type),*) $(-> $result)? {
                plain($($argument),*)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
            fn avx512($($argument: $type),*) $(-> $result)? {
                plain($($argument),*)
            }

            match $crate::isa::Isa::current() {
                $crate::isa::Isa::Plain => plain($($argument),*),
                // SAFETY: every `Isa` but `Plain` comes from `Isa::all`, which has checked that the processor has its instructions.
                #[cfg(target_arch = "x86_64")]
                #[expect(unsafe_code, reason = "not every processor has these instructions")]
                $crate::isa::Isa::Avx2 | $crate::isa::Isa::AvxVnni => unsafe { avx2($($argument),*) },
                // SAFETY: as for AVX2, and `Isa::all` has checked all four parts of AVX-512.
                #[cfg(target_arch = "x86_64")]
                #[expect(unsafe_code, reason = "not every processor has these instructions")]
                $crate::isa::Isa::Avx512 | $crate::isa::Isa::Avx512Vnni => unsafe { avx512($($argument),*) },
                // The compiler has NEON everywhere.
                #[cfg(target_arch = "aarch64")]
                $crate::isa::Isa::Neon | $crate::isa::Isa::NeonDotprod | $crate::isa::Isa::NeonI8mm => plain($($argument),*),
            }
        }
    };
}
pub(crate) use vectorized;
