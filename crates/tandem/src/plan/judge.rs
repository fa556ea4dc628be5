//! Whether a plan fits the memory, and whether it can at all.

use super::MemoryPlan;
use crate::machine::Memory;

/// What a plan meets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It fits.
    Fits,
    /// More than is free: the machine would swap, or end some process. It can be tried.
    Tight,
    /// A limit that nothing can stretch: the process would be killed, or not get its memory.
    Refused(Limit),
}

/// A hard limit that a plan exceeds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// What sets it, in words.
    pub name: String,
    /// What is left of it, in bytes.
    pub left: u64,
    /// What is needed of it at the least, in bytes.
    pub needed: u64,
}

impl MemoryPlan {
    /// Compares it with `memory`.
    pub fn judge(&self, memory: &Memory) -> Verdict {
        if let Some(group) = memory.control_group.as_ref().filter(|group| self.unreclaimable() > group.left()) {
            return Verdict::Refused(Limit {
                name: format!("the control group's limit of memory (`{}`)", group.file.display()),
                left: group.left(),
                needed: self.unreclaimable(),
            });
        }
        if let Some(space) = memory.address_space.filter(|space| self.address_space() > space.left()) {
            return Verdict::Refused(Limit {
                name: "the limit of this process's address space (`ulimit -v`)".into(),
                left: space.left(),
                needed: self.address_space(),
            });
        }
        if self.peak() > memory.usable() { Verdict::Tight } else { Verdict::Fits }
    }
}
