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

    /// Whether the page of `address` is in memory.
    #[expect(unsafe_code, reason = "a call of the C library")]
    fn is_resident(address: usize) -> bool {
        const PAGE: usize = 4096;
        let mut state = 0;
        // SAFETY: it reads the state of one page, mapped or not, and writes one byte.
        let outcome = unsafe { libc::mincore(std::ptr::without_provenance_mut(address / PAGE * PAGE), PAGE, &raw mut state) };
        outcome == 0 && state & 1 == 1
    }

    #[test]
    fn holes_in_the_heap_are_given_back() {
        // Blocks that come from the heap, every second of which is freed: none is at its end.
        const BLOCK: usize = 100_000;
        let mut blocks: Vec<Option<Vec<u8>>> = (0..2000).map(|_| Some(vec![1; BLOCK])).collect();
        let middles: Vec<usize> = blocks.iter().flatten().map(|block| block.as_ptr().addr() + BLOCK / 2).collect();
        assert!(middles.iter().all(|&middle| is_resident(middle)));
        blocks.iter_mut().step_by(2).for_each(|block| *block = None);
        trim();
        // Tests beside this one may have taken some of the holes.
        let n_left = middles.iter().step_by(2).filter(|&&middle| is_resident(middle)).count();
        assert!(n_left < 500, "{n_left} of 1000 holes are still in memory");
        assert!(blocks.iter().skip(1).step_by(2).all(|block| block.as_ref().is_some_and(|block| block[BLOCK - 1] == 1)));
    }
}
