//! Where the blocks of the KV caches of all sessions lie: an operator is given a tensor for each port, and asks how what it points to goes on.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};

/// By the address of the first block: where all end, and the bytes of each.
static ALL: RwLock<BTreeMap<usize, (usize, usize)>> = RwLock::new(BTreeMap::new());

/// Part of the blocks of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PartOfBlocks {
    /// From its address to the end of all blocks.
    pub(crate) n_bytes: usize,
    /// From a byte of a block to that of the next.
    pub(crate) stride_bytes: usize,
}

/// The blocks in which `address` lies; `None` for other memory.
pub(crate) fn part_of_blocks(address: usize) -> Option<PartOfBlocks> {
    let all = ALL.read().unwrap_or_else(PoisonError::into_inner);
    let (_, &(end, stride_bytes)) = all.range(..=address).next_back()?;
    (address < end).then(|| PartOfBlocks { n_bytes: end - address, stride_bytes })
}

/// Blocks that are found until this is dropped.
#[derive(Debug)]
pub(crate) struct RegisteredBlocks {
    first: usize,
}

impl RegisteredBlocks {
    /// `n_bytes` of blocks at address `first`, of `block_bytes` each; `None` where there are none.
    pub(crate) fn new(first: usize, n_bytes: usize, block_bytes: usize) -> Option<Self> {
        if n_bytes == 0 {
            return None;
        }
        ALL.write().unwrap_or_else(PoisonError::into_inner).insert(first, (first + n_bytes, block_bytes));
        Some(Self { first })
    }
}

impl Drop for RegisteredBlocks {
    fn drop(&mut self) {
        ALL.write().unwrap_or_else(PoisonError::into_inner).remove(&self.first);
    }
}
