//! Memory of which only what is written to is there. Address space for more sequences than there are, each with room to grow, costs nothing, so
//! that sequences can come, grow and leave without those beside them being moved.

use std::io;
use std::ops::Range;

use memmap2::{MmapOptions, MmapRaw};

/// The bytes of a page, which is there as a whole or not at all.
pub fn page_size() -> usize {
    #[cfg(unix)]
    {
        rustix::param::page_size()
    }
    #[cfg(not(unix))]
    {
        4096
    }
}

/// Bytes that begin as zeros, at the start of a page.
pub struct SparseMemory {
    mapping: MmapRaw,
}

impl SparseMemory {
    /// `n_bytes` of it.
    ///
    /// # Errors
    /// Those of the system, which may have less address space.
    pub fn new(n_bytes: usize) -> io::Result<Self> {
        if isize::try_from(n_bytes).is_err() {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let mapping = MmapOptions::new().len(n_bytes.max(1)).no_reserve_swap().map_anon()?;
        Ok(Self { mapping: MmapRaw::from(mapping) })
    }

    /// Has the system give it only small pages: in a huge one, what is written to brings much else with it.
    pub fn keep_small_pages(&self) {
        #[cfg(target_os = "linux")]
        {
            // A system without huge pages refuses, and need not be told.
            let _ = self.mapping.advise(memmap2::Advice::NoHugePage);
        }
    }

    /// Its first byte. Reading and writing there is unsafe as with any address.
    pub fn first(&self) -> *mut u8 {
        self.mapping.as_mut_ptr()
    }

    /// How many bytes it is.
    pub fn n_bytes(&self) -> usize {
        self.mapping.len()
    }

    /// Gives the whole pages in `range` back to the system, where it takes them. What is there afterwards is not known.
    ///
    /// # Safety
    /// Nothing there is read or written meanwhile, or read again before it is written.
    #[expect(unsafe_code, reason = "memory that others may have addresses of")]
    pub unsafe fn release(&self, range: Range<usize>) {
        let page = page_size();
        let (start, end) = (range.start.next_multiple_of(page), range.end.min(self.n_bytes()) / page * page);
        if start < end {
            #[cfg(unix)]
            {
                // SAFETY: the range is within the mapping, and by the caller's promise nobody uses it.
                // Pages that the system does not take stay as they are.
                let _ = unsafe { self.mapping.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, end - start) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(unsafe_code, reason = "memory by address")]
    fn values(memory: &mut SparseMemory) -> &mut [u8] {
        // SAFETY: all of it, which is borrowed.
        unsafe { std::slice::from_raw_parts_mut(memory.first(), memory.n_bytes()) }
    }

    #[test]
    fn what_was_not_written_is_zeros_and_costs_nothing() {
        // Far more than there is.
        let mut memory = SparseMemory::new(usize::MAX >> 24).unwrap_or_else(|_| SparseMemory::new(1 << 20).unwrap());
        memory.keep_small_pages();
        let values = values(&mut memory);
        let last = values.len() - 1;
        assert_eq!((values[0], values[last]), (0, 0));
        (values[0], values[last]) = (1, 2);
        assert_eq!((values[0], values[1], values[last]), (1, 0, 2));
        assert!(SparseMemory::new(usize::MAX).is_err());
        assert_eq!(memory.first().addr() % page_size(), 0);
    }

    #[test]
    #[cfg(target_os = "linux")]
    #[expect(unsafe_code, reason = "memory by address")]
    fn whole_pages_are_given_back_and_no_byte_beside_them() {
        let page = page_size();
        let mut memory = SparseMemory::new(8 * page).unwrap();
        values(&mut memory).fill(7);
        // SAFETY: no reference to it is left.
        unsafe { memory.release(page + 1..6 * page - 1) };
        let values = values(&mut memory);
        let n_kept = values.iter().filter(|value| **value == 7).count();
        assert!(values[..2 * page].iter().chain(&values[5 * page..]).all(|value| *value == 7));
        assert_eq!(n_kept, 5 * page, "pages that were given back are zeros");
        // SAFETY: as above.
        unsafe { memory.release(page + 1..2 * page) };
        assert_eq!(memory.n_bytes(), 8 * page);
    }
}
