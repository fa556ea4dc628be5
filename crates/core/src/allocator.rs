//! Memory that was freed and that the allocator keeps.
//!
//! The GNU C library's takes blocks of some megabytes from a heap that it gives back from its end only. A cache that grows by doubling
//! leaves all its earlier rooms behind there, too small for the later ones: as much again as it holds.

/// Gives whole pages of it back to the system, where the allocator can be told to. It takes some milliseconds: for after what is rare
/// and large.
pub fn trim() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[expect(unsafe_code, reason = "a call of the C library")]
    // SAFETY: it may be called at any time and from any thread, and touches only what is free.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod tests {
    use super::*;

    /// Bytes of this process that are in memory.
    fn resident() -> usize {
        let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
        4096 * pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap()
    }

    #[test]
    fn holes_are_given_back() {
        // Blocks that come from the heap, every second of which is freed: none is at its end.
        const BLOCK: usize = 100_000;
        let mut blocks: Vec<Option<Vec<u8>>> = (0..2000).map(|_| Some(vec![1; BLOCK])).collect();
        blocks.iter_mut().step_by(2).for_each(|block| *block = None);
        let before = resident();
        trim();
        let after = resident();
        assert!(before >= after + 500 * BLOCK, "{before} {after}");
        assert!(blocks.iter().skip(1).step_by(2).all(|block| block.as_ref().is_some_and(|block| block[BLOCK - 1] == 1)));
    }
}
