//! The processor: how many threads this process may use of it, and what its instructions can do for an engine.

use sysinfo::System;

/// What this process has of the processor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Processor {
    /// The instruction set, such as `x86_64`.
    pub architecture: &'static str,
    /// Threads that this process may run at once: affinity and the quota of the control group count.
    pub threads: usize,
    /// Cores of the machine, where the system says.
    pub cores: Option<usize>,
    /// Instructions beyond the base that products of matrices gain from.
    pub features: Vec<&'static str>,
}

impl Processor {
    /// Of this machine and process.
    pub fn read() -> Self {
        Self {
            architecture: std::env::consts::ARCH,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            cores: System::physical_core_count(),
            features: features(),
        }
    }
}

/// Instructions of this processor that products of matrices gain from.
pub fn features() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    let known = [
        ("avx2", std::arch::is_x86_feature_detected!("avx2")),
        ("fma", std::arch::is_x86_feature_detected!("fma")),
        ("f16c", std::arch::is_x86_feature_detected!("f16c")),
        ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
        ("avx512vnni", std::arch::is_x86_feature_detected!("avx512vnni")),
        ("avx512bf16", std::arch::is_x86_feature_detected!("avx512bf16")),
    ];
    #[cfg(target_arch = "aarch64")]
    let known = [
        ("neon", std::arch::is_aarch64_feature_detected!("neon")),
        ("fp16", std::arch::is_aarch64_feature_detected!("fp16")),
        ("dotprod", std::arch::is_aarch64_feature_detected!("dotprod")),
        ("i8mm", std::arch::is_aarch64_feature_detected!("i8mm")),
        ("bf16", std::arch::is_aarch64_feature_detected!("bf16")),
    ];
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let known: [(&str, bool); 0] = [];
    known.into_iter().filter_map(|(name, has)| has.then_some(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_a_thread() {
        let processor = Processor::read();
        assert!(processor.threads >= 1, "{processor:?}");
        assert!(processor.cores.is_none_or(|cores| cores >= 1), "{processor:?}");
    }
}
