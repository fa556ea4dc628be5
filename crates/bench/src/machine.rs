//! The machine that figures were measured on: what it is, what its memory can do, and what else it was doing.

mod activity;

use serde::{Deserialize, Serialize};
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};

pub use self::activity::{Activity, Conditions};

/// What a machine is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's own name.
    pub processor: String,
    /// Processors that this process may use: affinity and control groups count.
    pub n_processors: usize,
    /// Cores beneath them; a core may show as two processors.
    pub n_cores: Option<usize>,
    /// Extensions of the processor that decide how fast products are.
    pub extensions: Vec<String>,
    /// Physical memory in bytes.
    pub memory_bytes: u64,
    /// The most that this process's control group may use, where that is less.
    pub memory_limit_bytes: Option<u64>,
    /// Processors' worth of time that its control group may use, where that is limited.
    pub processor_limit: Option<f64>,
    /// The system with its version.
    pub system: String,
    /// Its kernel.
    pub kernel: String,
    /// `performance`, `powersave`, …, where the system tells.
    pub governor: Option<String>,
}

impl Machine {
    /// This machine.
    pub fn this() -> Self {
        let what =
            RefreshKind::nothing().with_cpu(CpuRefreshKind::nothing()).with_memory(MemoryRefreshKind::nothing().with_ram());
        let system = System::new_with_specifics(what);
        let memory_bytes = system.total_memory();
        let limit = system.cgroup_limits().map(|limits| limits.total_memory);
        Self {
            processor: system.cpus().first().map(|cpu| cpu.brand().trim().to_owned()).unwrap_or_default(),
            n_processors: std::thread::available_parallelism().map_or(1, usize::from),
            n_cores: System::physical_core_count(),
            extensions: extensions(),
            memory_bytes,
            memory_limit_bytes: limit.filter(|&limit| limit > 0 && limit < memory_bytes),
            processor_limit: processor_limit(),
            system: System::long_os_version().unwrap_or_default(),
            kernel: System::kernel_version().unwrap_or_default(),
            governor: line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        }
    }

    /// Whether figures of the two may be compared: the same processor, and as many of it.
    pub fn is_like(&self, other: &Self) -> bool {
        let key = |machine: &Self| (machine.processor.clone(), machine.n_processors);
        key(self) == key(other)
    }
}

/// What `cpu.max` of a control group (version 2) allows; see cgroups(7).
fn processor_limit() -> Option<f64> {
    let text = line("/sys/fs/cgroup/cpu.max")?;
    let (quota, period) = text.split_once(' ')?;
    Some(quota.parse::<f64>().ok()? / period.parse::<f64>().ok()?)
}

fn extensions() -> Vec<String> {
    #[cfg(target_arch = "x86_64")]
    let found = [
        ("avx2", std::arch::is_x86_feature_detected!("avx2")),
        ("fma", std::arch::is_x86_feature_detected!("fma")),
        ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
        ("avx512vnni", std::arch::is_x86_feature_detected!("avx512vnni")),
        ("avx512bf16", std::arch::is_x86_feature_detected!("avx512bf16")),
        ("avxvnni", std::arch::is_x86_feature_detected!("avxvnni")),
    ];
    #[cfg(target_arch = "aarch64")]
    let found = [
        ("neon", std::arch::is_aarch64_feature_detected!("neon")),
        ("dotprod", std::arch::is_aarch64_feature_detected!("dotprod")),
        ("i8mm", std::arch::is_aarch64_feature_detected!("i8mm")),
        ("bf16", std::arch::is_aarch64_feature_detected!("bf16")),
    ];
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let found = [(std::env::consts::ARCH, true)];
    found.into_iter().filter(|(_, is_there)| *is_there).map(|(name, _)| name.to_owned()).collect()
}

/// The first line of a file of the system's; `None` when there is none.
fn line(path: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    text.lines().next().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_processors_and_memory() {
        let machine = Machine::this();
        assert!(machine.n_processors > 0 && machine.memory_bytes > 1 << 20, "{machine:?}");
        assert!(machine.is_like(&machine.clone()));
        assert!(!machine.is_like(&Machine { n_processors: 1000, ..machine.clone() }));
    }
}
