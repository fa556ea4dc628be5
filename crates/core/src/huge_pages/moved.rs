//! Moves weights out of mapped files into huge pages, which the page cache of most file systems does not have.
//!
//! A huge page is filled with what a page's worth of the mapping holds and put in its place by `mremap`: contents and addresses stay, and a thread that
//! reads meanwhile waits for the system call at the most. The memory is then the process's own, and that of the file no longer in use.

use std::fs;
use std::ops::Range;
use std::ptr;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::linux::{collapse_page, huge_page, huge_pages, rests};

/// The smallest page that any processor has: files are mapped in whole ones.
const SMALL_PAGE: usize = 4096;

/// Moves what is at `ranges` while `is_wanted` says so, a page at a time, and stands back for others.
pub(super) fn move_all(ranges: &[Range<usize>], is_wanted: &Mutex<bool>) {
    let Some(size) = huge_page() else { return };
    let pages = huge_pages(&within(&whole_pages(ranges), &MappedFiles::now().0), size);
    let rests = rests(pages.len());
    for start in pages {
        let began = Instant::now();
        let is_wanted = is_wanted.lock().unwrap_or_else(PoisonError::into_inner);
        // Where the system has no huge page left, weights stay in their file.
        if !*is_wanted || !move_page(start, size) {
            return;
        }
        drop(is_wanted);
        std::thread::sleep(rests * began.elapsed());
    }
}

/// Where files were mapped privately, without the right to run code, when it was looked up.
pub(super) struct MappedFiles(Vec<Range<usize>>);

impl MappedFiles {
    pub(super) fn now() -> Self {
        Self(mapped_files(&fs::read_to_string("/proc/self/maps").unwrap_or_default()))
    }

    /// Lets go of the memory of whole pages within `ranges` that are mapped from these files still: who reads them again reads the file. Nobody has
    /// written there.
    #[expect(unsafe_code, reason = "a call of the system that takes an address")]
    pub(super) fn release(&self, ranges: &[Range<usize>]) {
        let inner = |range: &Range<usize>| range.start.next_multiple_of(SMALL_PAGE)..range.end / SMALL_PAGE * SMALL_PAGE;
        let inner: Vec<_> = ranges.iter().map(inner).filter(|range| !range.is_empty()).collect();
        for range in within(&inner, &self.0) {
            // SAFETY: pages of a file that is mapped privately and not written to: they read the same before and after. An error changes nothing.
            unsafe { libc::madvise(ptr::with_exposed_provenance_mut(range.start), range.len(), libc::MADV_DONTNEED) };
        }
    }
}

/// `ranges` in whole small pages, in order, those that touch as one.
fn whole_pages(ranges: &[Range<usize>]) -> Vec<Range<usize>> {
    let round = |range: &Range<usize>| range.start / SMALL_PAGE * SMALL_PAGE..range.end.next_multiple_of(SMALL_PAGE);
    let mut rounded: Vec<_> = ranges.iter().filter(|range| !range.is_empty()).map(round).collect();
    rounded.sort_unstable_by_key(|range| range.start);
    joined(rounded)
}

/// Ranges in order, those that touch as one.
fn joined(ranges: impl IntoIterator<Item = Range<usize>>) -> Vec<Range<usize>> {
    let mut all: Vec<Range<usize>> = Vec::new();
    for range in ranges {
        match all.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => all.push(range),
        }
    }
    all
}

/// Where lines of `/proc/self/maps`, as proc_pid_maps(5) has them, say that files are mapped privately, without the right to run code.
fn mapped_files(maps: &str) -> Vec<Range<usize>> {
    let file = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let (addresses, permissions) = (fields.next()?, fields.next()?);
        let inode = fields.nth(2)?;
        let (start, end) = addresses.split_once('-')?;
        (matches!(permissions, "r--p" | "rw-p") && inode != "0")
            .then(|| Some(usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?))?
    };
    joined(maps.lines().filter_map(file))
}

/// What of `ranges` is in `others`; both are in order.
fn within(ranges: &[Range<usize>], others: &[Range<usize>]) -> Vec<Range<usize>> {
    let both = |range: &Range<usize>, other: &Range<usize>| range.start.max(other.start)..range.end.min(other.end);
    let all = ranges.iter().flat_map(|range| others.iter().map(move |other| both(range, other)));
    all.filter(|range| !range.is_empty()).collect()
}

/// Puts a huge page of `size` bytes in the place of what is mapped at `start`, and says whether it did. Nobody may write there, or unmap it,
/// meanwhile.
#[expect(unsafe_code, reason = "calls of the system that take an address")]
fn move_page(start: usize, size: usize) -> bool {
    let (read, write) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE);
    // SAFETY: new memory where the system has room; an error is handled.
    let room = unsafe { libc::mmap(ptr::null_mut(), 2 * size, read, write, -1, 0) };
    if room == libc::MAP_FAILED {
        return false;
    }
    let (first, place) = (room.expose_provenance(), ptr::with_exposed_provenance_mut::<libc::c_void>(start));
    let own = first.next_multiple_of(size);
    let page = ptr::with_exposed_provenance_mut::<libc::c_void>(own);
    // SAFETY: `page` is `size` bytes within the new memory; as many are mapped at `place` and not written to, which the caller promises.
    unsafe {
        libc::madvise(page, size, libc::MADV_HUGEPAGE);
        ptr::copy_nonoverlapping(place.cast_const().cast::<u8>(), page.cast::<u8>(), size);
    }
    // SAFETY: what was mapped at `place` holds the same as what takes its place, all at once, and nobody else can have the new memory. What
    // is left of that is unmapped.
    unsafe {
        let is_moved = collapse_page(own, size)
            && libc::mremap(page, size, size, libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED, place) != libc::MAP_FAILED;
        let end = if is_moved { own } else { own + size };
        for range in [first..end, own + size..first + 2 * size].iter().filter(|range| !range.is_empty()) {
            libc::munmap(ptr::with_exposed_provenance_mut(range.start), range.len());
        }
        is_moved
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::super::MovingFiles;
    use super::*;

    #[test]
    fn files_are_found_and_memory_is_not() {
        let maps = "1000-3000 r--p 00000000 fe:01 1234 /weights\n\
            3000-4000 rw-p 00002000 fe:01 1234 /weights\n\
            4000-5000 rw-p 00000000 00:00 0 \n\
            5000-6000 r-xp 00000000 fe:01 99 /usr/lib/libc.so.6\n\
            6000-7000 r--s 00000000 fe:01 99 /shared\n\
            8000-9000 r--p 00000000 fe:01 5 /a name with spaces\n\
            nonsense";
        assert_eq!(mapped_files(maps), [0x1000..0x4000, 0x8000..0x9000]);
    }

    #[test]
    fn ranges_are_rounded_joined_and_cut() {
        let page = SMALL_PAGE;
        let pages = whole_pages(&[3 * page + 5..4 * page + 1, 10..page, page + 1..page + 2, 9 * page..9 * page]);
        assert_eq!(pages, [0..2 * page, 3 * page..5 * page]);
        assert_eq!(within(&[0..10, 20..30], &[5..8, 9..25]), [5..8, 9..10, 20..25]);
        assert!(within(&[0..10, 20..30], &[10..20, 30..40]).is_empty());
    }

    #[test]
    fn moved_weights_are_what_they_were() {
        let Some(size) = huge_page() else { return eprintln!("skipped: this system has no huge pages, or wants none") };
        let mut file = tempfile::tempfile().unwrap();
        let values: Vec<u8> = (0..5 * size + 12_345).map(|i| (i * i % 251) as u8).collect();
        file.write_all(&values).unwrap();
        // SAFETY: nobody else has the file. As ONNX Runtime maps it.
        #[expect(unsafe_code, reason = "a file is mapped")]
        let mapped = unsafe { memmap2::MmapOptions::new().map_copy_read_only(&file) }.unwrap();
        let start = mapped.as_ptr().expose_provenance();
        let own = start..start + mapped.len();
        let before = MappedFiles::now().0;
        assert!(!within(std::slice::from_ref(&own), &before).is_empty(), "the file is mapped");
        move_all(std::slice::from_ref(&own), &Mutex::new(false));
        let still = MappedFiles::now().0;
        let n_mapped = |maps: &[Range<usize>]| within(std::slice::from_ref(&own), maps).iter().map(Range::len).sum::<usize>();
        assert_eq!(n_mapped(&still), n_mapped(&before), "nothing is moved that is not wanted any more");
        move_all(std::slice::from_ref(&own), &Mutex::new(true));
        assert!(mapped[..] == values[..], "contents stay");
        let after = MappedFiles::now().0;
        let n_moved = n_mapped(&before) - n_mapped(&after);
        if n_moved == 0 {
            return eprintln!("skipped: this system makes no huge page on request");
        }
        assert!(n_moved.is_multiple_of(size) && n_moved <= 5 * size, "{n_moved}");
        MappedFiles::now().release(std::slice::from_ref(&own));
        assert!(mapped[..] == values[..], "what is read again is what was released");
        drop(mapped);
        // SAFETY: there is nothing at these addresses, and nothing is done.
        #[expect(unsafe_code, reason = "the caller promises that ranges stay mapped")]
        drop(unsafe { MovingFiles::start(Vec::new(), Vec::new()) });
    }
}
