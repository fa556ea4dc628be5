//! Memory for the KV cache of one sequence, in blocks of positions.
//!
//! A block holds the keys and values of all layers for some positions, so that what a sequence uses is one range that grows at its end. It
//! lies in [huge pages](crate::huge_pages), of which less than one is unused, however many layers there are: buffers of a layer each would waste
//! one per layer. Address space is reserved for the whole context where that costs nothing, and then growing moves nothing.

use std::fmt;
use std::io;

use bytemuck::Pod;
use memmap2::{MmapMut, MmapOptions};

use crate::huge_pages;

/// Positions of a block.
pub const BLOCK_POSITIONS: usize = 256;

/// Tokens of which the memory is in use when `n_tokens` are held. What a short sequence does not use of its block is not touched.
pub fn resident_tokens(n_tokens: u64) -> u64 {
    let of_block = BLOCK_POSITIONS as u64;
    if n_tokens <= of_block { n_tokens } else { n_tokens.checked_next_multiple_of(of_block).unwrap_or(u64::MAX) }
}

/// The alignment of the first block: the size of huge pages on most machines.
const ALIGNMENT: usize = 2 << 20;

/// Blocks of zeros, until something is written to them. Those of which nothing was used take address space and no memory.
pub struct KvMemory {
    mapping: MmapMut,
    /// Bytes of the mapping before the first block.
    skipped: usize,
    block_bytes: usize,
    /// Blocks in use, and those for which there is address space.
    n_used: usize,
    n_reserved: usize,
    /// Blocks of the whole context.
    n_most: usize,
}

impl KvMemory {
    /// Memory for up to `context_length` tokens in blocks of `block_bytes`. No block is in use.
    ///
    /// # Errors
    /// Those of the system.
    pub fn new(block_bytes: usize, context_length: usize) -> io::Result<Self> {
        let n_most = context_length.div_ceil(BLOCK_POSITIONS).max(1);
        let n_reserved = if is_address_space_scarce() { 1 } else { n_most };
        Self::with_reserved(block_bytes, n_reserved, n_most)
    }

    fn with_reserved(block_bytes: usize, n_reserved: usize, n_most: usize) -> io::Result<Self> {
        let (mapping, n_reserved) = map(block_bytes, 1, n_reserved)?;
        let skipped = mapping.as_ptr().align_offset(ALIGNMENT);
        Ok(Self { mapping, skipped, block_bytes, n_used: 0, n_reserved, n_most })
    }

    /// Makes blocks for `n_tokens` usable; what others hold stays. [`first`](Self::first) may change.
    ///
    /// # Errors
    /// Those of the system; nothing is changed then.
    pub fn reserve(&mut self, n_tokens: usize) -> io::Result<()> {
        let n_blocks = n_tokens.div_ceil(BLOCK_POSITIONS);
        if n_blocks <= self.n_used {
            return Ok(());
        }
        if n_blocks > self.n_reserved {
            let most = self.n_reserved.saturating_mul(2).min(self.n_most).max(n_blocks);
            let (mapping, n_reserved) = map(self.block_bytes, n_blocks, most)?;
            let skipped = mapping.as_ptr().align_offset(ALIGNMENT);
            let mut larger = Self { mapping, skipped, n_reserved, ..*self };
            larger.set_used(n_blocks);
            larger.bytes_mut()[..self.bytes().len()].copy_from_slice(self.bytes());
            *self = larger;
        }
        self.set_used(n_blocks);
        Ok(())
    }

    /// Tokens for which there are blocks.
    pub fn capacity(&self) -> usize {
        self.n_used * BLOCK_POSITIONS
    }

    /// The bytes of a block.
    pub fn block_bytes(&self) -> usize {
        self.block_bytes
    }

    /// The address of the first block.
    pub fn first(&mut self) -> *mut u8 {
        self.bytes_mut().as_mut_ptr()
    }

    /// The blocks in use as values.
    ///
    /// # Panics
    /// When a block is not whole values.
    pub fn values<V: Pod>(&self) -> &[V] {
        bytemuck::cast_slice(self.bytes())
    }

    /// As [`values`](Self::values), to be written to.
    ///
    /// # Panics
    /// When a block is not whole values.
    pub fn values_mut<V: Pod>(&mut self) -> &mut [V] {
        bytemuck::cast_slice_mut(self.bytes_mut())
    }

    fn bytes(&self) -> &[u8] {
        &self.mapping[self.skipped..][..self.n_used * self.block_bytes]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.mapping[self.skipped..][..self.n_used * self.block_bytes]
    }

    fn set_used(&mut self, n_blocks: usize) {
        self.n_used = n_blocks;
        // Short sequences touch what they need of the first block.
        if n_blocks > 1 {
            let start = self.mapping.as_ptr().expose_provenance() + self.skipped;
            let used = (n_blocks * self.block_bytes).next_multiple_of(ALIGNMENT).min(self.n_reserved * self.block_bytes);
            huge_pages::advise(start..start + used);
        }
    }
}

impl fmt::Debug for KvMemory {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { block_bytes, n_used, n_reserved, .. } = self;
        formatter
            .debug_struct("KvMemory")
            .field("block_bytes", block_bytes)
            .field("n_used", n_used)
            .field("n_reserved", n_reserved)
            .finish_non_exhaustive()
    }
}

/// Maps `most` blocks, or as many as the system gives address space for, but at least `least`.
fn map(block_bytes: usize, least: usize, most: usize) -> io::Result<(MmapMut, usize)> {
    let mut n_blocks = most;
    loop {
        let size = n_blocks.checked_mul(block_bytes).and_then(|size| size.checked_add(ALIGNMENT));
        let mapped = match size.filter(|&size| isize::try_from(size).is_ok()) {
            Some(size) => MmapOptions::new().len(size).no_reserve_swap().map_anon(),
            None => Err(io::ErrorKind::OutOfMemory.into()),
        };
        match mapped {
            Ok(mapping) => return Ok((mapping, n_blocks)),
            Err(error) if n_blocks == least => return Err(error),
            Err(_) => n_blocks = (n_blocks / 2).max(least),
        }
    }
}

/// Whether what is reserved is missing elsewhere: where it is limited, and on systems that find memory for all of it at once.
fn is_address_space_scarce() -> bool {
    #[cfg(all(unix, target_pointer_width = "64"))]
    {
        rustix::process::getrlimit(rustix::process::Resource::As).current.is_some()
    }
    #[cfg(not(all(unix, target_pointer_width = "64")))]
    {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_zeros_and_keep_what_they_hold_as_they_grow() {
        for n_reserved in [1, 40] {
            let mut memory = KvMemory::with_reserved(3 << 16, n_reserved, 40).unwrap();
            assert_eq!((memory.capacity(), memory.values::<u16>().len()), (0, 0));
            let mut held = 0;
            for n_tokens in [1, 200, 300, 301, 5000, 5000, 256 * 40] {
                memory.reserve(n_tokens).unwrap();
                assert_eq!(memory.capacity(), n_tokens.next_multiple_of(BLOCK_POSITIONS));
                assert_eq!(memory.values::<u16>().len() * 2, memory.capacity() / BLOCK_POSITIONS * memory.block_bytes());
                let values = memory.values_mut::<u16>();
                assert!(values[..held].iter().enumerate().all(|(i, value)| *value == i as u16), "{n_tokens}");
                assert!(values[held..].iter().all(|value| *value == 0), "{n_tokens}");
                held = values.len();
                values.iter_mut().enumerate().for_each(|(i, value)| *value = i as u16);
                assert!(memory.first().addr().is_multiple_of(ALIGNMENT));
            }
            memory.reserve(1).unwrap();
            assert_eq!(memory.capacity(), 256 * 40, "it never shrinks");
        }
    }

    #[test]
    fn whole_blocks_are_resident_but_for_the_first() {
        assert_eq!([0, 1, 256, 257, 512, 8100].map(resident_tokens), [0, 1, 256, 512, 512, 8192]);
        assert_eq!(resident_tokens(u64::MAX), u64::MAX);
    }

    #[test]
    fn more_than_the_context_can_be_reserved() {
        let mut memory = KvMemory::new(64, 10).unwrap();
        memory.reserve(1000).unwrap();
        assert_eq!((memory.capacity(), memory.values::<u8>().len()), (1024, 256));
    }

    #[test]
    fn a_context_beyond_the_address_space_is_reserved_in_part_or_refused() {
        let memory = KvMemory::new(1 << 20, usize::MAX).unwrap();
        assert!(memory.n_reserved >= 1 && memory.n_most > memory.n_reserved);
        let mut memory = KvMemory::new(1 << 20, 100).unwrap();
        memory.reserve(100).unwrap();
        memory.values_mut::<u8>().fill(7);
        assert!(memory.reserve(usize::MAX).is_err());
        assert!(memory.capacity() == BLOCK_POSITIONS && memory.values::<u8>().iter().all(|value| *value == 7));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn blocks_lie_in_huge_pages() {
        let enabled = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
        if enabled.is_empty() || enabled.contains("[never]") {
            return eprintln!("skipped: this system has no huge pages, or wants none");
        }
        let mut memory = KvMemory::new(3 << 20, 32_768).unwrap();
        memory.reserve(8192).unwrap();
        memory.values_mut::<u8>().fill(1);
        let first = memory.first().addr();
        // The line of addresses of its mapping, and the lines of sizes after it.
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut is_own = false;
        let mut huge = 0;
        for line in smaps.lines() {
            if let Some((start, end)) = line.split_once(' ').and_then(|(addresses, _)| addresses.split_once('-'))
                && let (Ok(start), Ok(end)) = (usize::from_str_radix(start, 16), usize::from_str_radix(end, 16))
            {
                is_own = start < first + (96 << 20) && first < end;
            } else if let Some(size) = line.strip_prefix("AnonHugePages:").filter(|_| is_own) {
                huge += size.trim().trim_end_matches(" kB").parse::<usize>().unwrap();
            }
        }
        if huge == 0 {
            return eprintln!("skipped: this system makes no huge page on request");
        }
        assert!(huge >= 48 << 10, "{huge} KiB of 96 MiB");
    }
}
