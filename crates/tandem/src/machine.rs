//! The memory that this process may use: the machine's, its control group's, its address space's.
//!
//! A control group kills whoever exceeds it; an address space refuses the allocation. Both are read before a model is loaded.

mod control_group;
mod processor;

use std::path::{Path, PathBuf};

pub use self::processor::{Processor, features};
use sysinfo::{MemoryRefreshKind, System};
pub use tandem_core::disk::free as free_disk;
pub use tandem_core::size::Size;

/// What there is, in bytes, at the moment when it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Physical memory of the machine.
    pub total: u64,
    /// What can be had without swapping.
    pub available: u64,
    /// The tightest control group that this process is in, where one has a limit.
    pub control_group: Option<ControlGroup>,
    /// The limit of the address space (`ulimit -v`), where there is one.
    pub address_space: Option<AddressSpace>,
}

/// A limit of a control group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlGroup {
    /// The file that says it.
    pub file: PathBuf,
    /// The most that all its processes may use; file contents that can be read again do not count.
    pub limit: u64,
    /// What they use now, without what the kernel gives back when it must.
    pub used: u64,
}

/// A limit of the address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressSpace {
    /// The most that this process may map.
    pub limit: u64,
    /// What it maps now.
    pub used: u64,
}

impl Memory {
    /// Of this machine and process.
    pub fn read() -> Self {
        let mut system = System::new();
        system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
        Self {
            total: system.total_memory(),
            available: system.available_memory(),
            control_group: control_group::tightest(Path::new("/")),
            address_space: address_space(),
        }
    }

    /// Of a machine with `total` bytes and nothing else to limit it, of which other programs take what they take on a machine
    /// that does little: an eighth, and half a gigabyte at the least.
    pub fn of_machine_with(total: u64) -> Self {
        const LEAST_OF_OTHERS: u64 = 1 << 29;
        let others = (total / 8).max(LEAST_OF_OTHERS).min(total);
        Self { total, available: total - others, control_group: None, address_space: None }
    }

    /// What a new process can take without pushing others out or being killed.
    pub fn usable(&self) -> u64 {
        let group = self.control_group.as_ref().map_or(u64::MAX, ControlGroup::left);
        self.available.min(group)
    }
}

impl ControlGroup {
    /// What is left of it.
    pub fn left(&self) -> u64 {
        self.limit.saturating_sub(self.used)
    }
}

impl AddressSpace {
    /// What is left of it.
    pub fn left(self) -> u64 {
        self.limit.saturating_sub(self.used)
    }
}

/// Source: getrlimit(2), `RLIMIT_AS`; proc(5), the first field of `statm`, in pages.
#[cfg(unix)]
fn address_space() -> Option<AddressSpace> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::As).current?;
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let pages: u64 = pages.and_then(|text| text.split(' ').next()?.parse().ok()).unwrap_or(0);
    Some(AddressSpace { limit, used: pages.saturating_mul(rustix::param::page_size() as u64) })
}

#[cfg(not(unix))]
fn address_space() -> Option<AddressSpace> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_memory() {
        let memory = Memory::read();
        assert!(memory.total > 0 && memory.available > 0 && memory.available <= memory.total, "{memory:?}");
        assert!(memory.usable() <= memory.available);
    }

    #[test]
    fn the_tightest_limit_decides() {
        let group = ControlGroup { file: "memory.max".into(), limit: 1000, used: 300 };
        let memory = Memory { total: 5000, available: 4000, control_group: Some(group), address_space: None };
        assert_eq!(memory.usable(), 700);
        assert_eq!(Memory { control_group: None, ..memory }.usable(), 4000);
        assert_eq!(AddressSpace { limit: 10, used: 20 }.left(), 0);
    }

    #[test]
    fn an_imagined_machine_has_other_programs() {
        assert_eq!(Memory::of_machine_with(16 << 30).usable(), 14 << 30);
        assert_eq!(Memory::of_machine_with(2 << 30).usable(), 3 << 29);
        assert_eq!(Memory::of_machine_with(1000).usable(), 0);
    }
}
