//! Weights in huge pages.
//!
//! Decoding reads every weight for every token, from end to end. In pages of 4 KiB the processor looks up an address for each 4 KiB of
//! them and fetches ahead only to the end of each; in huge pages, of 2 MiB on most machines, that is gone (figures: README of
//! `tandem-bench`). Linux grants them on request, before memory is first written to: `advise`. Engines that come as a library do not
//! ask. So what a load has mapped is collapsed into huge pages after it, whoever allocated it: contents and addresses stay as they are. Mapped
//! files have none on most file systems: what of them is read for every token is moved ([`MovingFiles`]).

#[cfg(target_os = "linux")]
mod moved;

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

#[cfg(not(target_os = "linux"))]
use elsewhere::Mapped;
#[cfg(target_os = "linux")]
use linux::Mapped;

/// How long the threads rest before their first page. A short prompt has its first token by then, which they would delay: while the system
/// changes what is mapped, whoever touches memory for the first time waits.
const FIRST_REST: Duration = Duration::from_millis(100);

/// What a process has mapped before a load.
#[derive(Debug)]
pub struct MappingSnapshot(Mapped);

impl MappingSnapshot {
    /// What is mapped now.
    pub fn now() -> Self {
        Self(Mapped::now())
    }

    /// Gathers what is new since then into huge pages, page by page on a thread of its own that stands back for others: nobody waits. Only
    /// pages that are wholly in use are gathered, so that memory does not grow. Where the system has no huge pages, or its administrator
    /// wants none, nothing is done.
    pub fn collapse(self) {
        self.0.collapse();
    }
}

/// Copies weights into memory of its own, and returns the addresses of those that are no longer read where they were.
pub type Copying = Box<dyn FnOnce() -> Vec<Range<usize>> + Send>;

/// Weights in mapped files that are being moved into huge pages. Once this is dropped nothing more is moved; what was moved stays where it
/// is.
#[derive(Debug)]
pub struct MovingFiles {
    is_wanted: Arc<Mutex<bool>>,
}

impl MovingFiles {
    /// Does all of `copies`, and moves what of files is mapped at the addresses of `ranges` into huge pages of the process's own, on a thread of
    /// its own that stands back for others: nobody waits, and what is moved keeps its contents and addresses. What is not mapped from a file stays,
    /// and so does all of `ranges` where the system has no huge pages. Other processes do not share what was moved or copied.
    ///
    /// # Safety
    /// Until the result is dropped, what is at `ranges`, and at those of `copies`, stays mapped, and nobody writes to it.
    #[expect(unsafe_code, reason = "memory is moved while others read it")]
    pub unsafe fn start(copies: Vec<Copying>, ranges: Vec<Range<usize>>) -> Self {
        let is_wanted = Arc::new(Mutex::new(true));
        if !copies.is_empty() || !ranges.is_empty() {
            let own = Arc::clone(&is_wanted);
            let thread = std::thread::Builder::new().name("huge-pages".into());
            // When no thread can be had, weights stay where they are.
            let _ = thread.spawn(move || move_all(copies, &ranges, &own));
        }
        Self { is_wanted }
    }
}

impl Drop for MovingFiles {
    fn drop(&mut self) {
        // It is held while a page is moved, which takes a millisecond.
        *self.is_wanted.lock().unwrap_or_else(PoisonError::into_inner) = false;
    }
}

/// Whether the system makes huge pages on request: what is copied into new memory is read faster there.
pub fn are_available() -> bool {
    #[cfg(target_os = "linux")]
    return linux::huge_page().is_some();
    #[cfg(not(target_os = "linux"))]
    false
}

/// Does all of `copies` and then moves `ranges`, while `is_wanted` says so.
fn move_all(copies: Vec<Copying>, ranges: &[Range<usize>], is_wanted: &Mutex<bool>) {
    std::thread::sleep(FIRST_REST);
    #[cfg(target_os = "linux")]
    linux::stand_back();
    #[cfg(target_os = "linux")]
    let files = moved::MappedFiles::now();
    for copy in copies {
        let began = Instant::now();
        let is_wanted = is_wanted.lock().unwrap_or_else(PoisonError::into_inner);
        if !*is_wanted {
            return;
        }
        let left = copy();
        #[cfg(target_os = "linux")]
        files.release(&left);
        #[cfg(not(target_os = "linux"))]
        drop(left);
        drop(is_wanted);
        // New memory is cleared by the system, which the first prompt needs too.
        std::thread::sleep(began.elapsed());
    }
    #[cfg(target_os = "linux")]
    moved::move_all(ranges, is_wanted);
    #[cfg(not(target_os = "linux"))]
    let _ = ranges;
}

/// Asks that memory at the addresses of `range`, to some of which nobody has written yet, lie in huge pages; little of it is left where
/// it is.
pub(crate) fn advise(range: Range<usize>) {
    #[cfg(target_os = "linux")]
    linux::advise(range);
    #[cfg(not(target_os = "linux"))]
    let _ = range;
}

/// Other systems have no such call.
#[cfg(not(target_os = "linux"))]
mod elsewhere {
    #[derive(Debug)]
    pub(super) struct Mapped;

    impl Mapped {
        pub(super) fn now() -> Self {
            Self
        }

        pub(super) fn collapse(self) {}
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::fs;
    use std::ops::Range;
    use std::time::Instant;

    use super::FIRST_REST;

    /// How often as long as a page took the thread rests after it, at the most. While the system gathers one it gives no other thread new
    /// memory, which the first prompt needs.
    const MOST_RESTS: usize = 9;

    /// For so many pages it rests once more: few are gathered before the first prompt is read.
    const PAGES_A_REST: usize = 64;

    /// Linux 6.1's; not every C library names it.
    const COLLAPSE: libc::c_int = 25;

    /// Anonymous memory that can be written: ranges of addresses, in order.
    #[derive(Debug, Default)]
    pub(super) struct Mapped(Vec<Range<usize>>);

    impl Mapped {
        pub(super) fn now() -> Self {
            Self(fs::read_to_string("/proc/self/maps").unwrap_or_default().lines().filter_map(anonymous).collect())
        }

        pub(super) fn collapse(self) {
            let Some(size) = huge_page() else { return };
            let pages = huge_pages(&without(&Self::now().0, &self.0), size);
            if !pages.is_empty() {
                // When no thread can be had, weights stay where they are.
                let _ = std::thread::Builder::new().name("huge-pages".into()).spawn(move || {
                    std::thread::sleep(FIRST_REST);
                    stand_back();
                    let rests = rests(pages.len());
                    for start in pages {
                        let began = Instant::now();
                        collapse_page(start, size);
                        std::thread::sleep(rests * began.elapsed());
                    }
                });
            }
        }
    }

    /// The addresses of a line of `/proc/self/maps`, as proc_pid_maps(5) has them, when it is one of anonymous memory.
    fn anonymous(line: &str) -> Option<Range<usize>> {
        let mut fields = line.split_ascii_whitespace();
        let (addresses, permissions) = (fields.next()?, fields.next()?);
        let (inode, name) = (fields.nth(2)?, fields.next());
        let (start, end) = addresses.split_once('-')?;
        (permissions == "rw-p" && inode == "0" && name.is_none_or(|name| name == "[heap]"))
            .then(|| Some(usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?))?
    }

    /// How often as long as a page took the thread rests after it, for so many pages.
    pub(super) fn rests(n_pages: usize) -> u32 {
        (n_pages / PAGES_A_REST).min(MOST_RESTS) as u32
    }

    /// The size of a huge page in bytes; `None` where there are none or none are wanted.
    pub(super) fn huge_page() -> Option<usize> {
        let setting = |name| fs::read_to_string(format!("/sys/kernel/mm/transparent_hugepage/{name}")).ok();
        let wanted = !setting("enabled")?.contains("[never]");
        setting("hpage_pmd_size")?.trim().parse().ok().filter(|size: &usize| wanted && size.is_power_of_two())
    }

    /// What of `ranges` is not in `others`; both are in order.
    fn without(ranges: &[Range<usize>], others: &[Range<usize>]) -> Vec<Range<usize>> {
        let mut left = Vec::new();
        for range in ranges {
            let mut start = range.start;
            for other in others.iter().filter(|other| other.start < range.end && other.end > range.start) {
                left.push(start..other.start.max(start));
                start = start.max(other.end);
            }
            left.push(start..range.end.max(start));
        }
        left.retain(|range| !range.is_empty());
        left
    }

    /// Where the whole pages of `size` bytes within `ranges` start.
    pub(super) fn huge_pages(ranges: &[Range<usize>], size: usize) -> Vec<usize> {
        let within = |range: &Range<usize>| (range.start.next_multiple_of(size)..range.end).step_by(size);
        ranges.iter().flat_map(|range| within(range).filter(|start| start + size <= range.end)).collect()
    }

    /// As [`super::advise`], of a range of addresses.
    #[expect(unsafe_code, reason = "a call of the system that takes an address")]
    pub(super) fn advise(range: Range<usize>) {
        /// No other size is smaller, and a page that is not wholly in the range is left.
        const SMALLEST: usize = 4096;
        const WORTH_IT: usize = 2 << 20;
        let (start, end) = (range.start.next_multiple_of(SMALLEST), range.end / SMALLEST * SMALLEST);
        if range.len() >= WORTH_IT && huge_page().is_some() {
            // SAFETY: advice about the pages of memory that the caller has; it changes nothing that can be read, and may be refused.
            unsafe { libc::madvise(std::ptr::with_exposed_provenance_mut(start), end - start, libc::MADV_HUGEPAGE) };
        }
    }

    /// Lets other threads go first.
    #[expect(unsafe_code, reason = "a call of the system")]
    pub(super) fn stand_back() {
        // SAFETY: it changes this thread's priority and nothing else.
        unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 10) };
    }

    /// Makes one of the `size` bytes at `start` where all of them are in memory; whether it is one.
    #[expect(unsafe_code, reason = "calls of the system that take an address")]
    pub(super) fn collapse_page(start: usize, size: usize) -> bool {
        let start: *mut libc::c_void = std::ptr::with_exposed_provenance_mut(start);
        // As many as there are with the smallest pages.
        let mut resident = vec![1_u8; size / 4096];
        // SAFETY: it writes a byte for each page of the range, and there is room for as many; memory that is gone meanwhile is an error.
        let known = unsafe { libc::mincore(start, size, resident.as_mut_ptr()) } == 0;
        // SAFETY: the system moves pages and keeps what they hold; for memory that is gone or another's meanwhile that is as true.
        known && resident.iter().all(|page| page & 1 == 1) && unsafe { libc::madvise(start, size, COLLAPSE) } == 0
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn only_anonymous_memory_that_can_be_written_is_taken() {
            assert_eq!(anonymous("7f00-7f10 rw-p 00000000 00:00 0 "), Some(0x7f00..0x7f10));
            assert_eq!(anonymous("7f00-7f10 rw-p 00000000 00:00 0                          [heap]"), Some(0x7f00..0x7f10));
            for other in [
                "7f00-7f10 r--p 00000000 00:00 0 ",
                "7f00-7f10 rw-s 00000000 00:00 0 ",
                "7f00-7f10 rw-p 00000000 fe:01 1234 /usr/lib/libc.so.6",
                "7f00-7f10 rw-p 00000000 00:00 0 [stack]",
                "zz-7f10 rw-p 00000000 00:00 0",
                "",
            ] {
                assert_eq!(anonymous(other), None, "{other}");
            }
        }

        #[test]
        fn what_was_there_before_is_left() {
            let (one, two) = ([0..10, 20..30], [8..22, 25..26]);
            assert_eq!(without(&one, &[]), one);
            assert_eq!(without(&one, &two), [0..8, 22..25, 26..30]);
            assert_eq!(without(&two, &one), vec![10..20; 1]);
            assert!(without(&one, &[0..5, 5..40]).is_empty());
            assert_eq!(huge_pages(&[1..17, 20..31], 4), [4, 8, 12, 20, 24]);
        }

        #[test]
        fn gathered_memory_holds_what_it_held() {
            let Some(size) = huge_page() else { return eprintln!("skipped: this system has no huge pages, or wants none") };
            let values: Vec<u64> = (0..8 * size as u64 / 8).collect();
            let own = values.as_ptr().addr()..values.as_ptr().addr() + 8 * size;
            assert!(without(std::slice::from_ref(&own), &Mapped::now().0).is_empty(), "it is mapped");
            let of_values = huge_pages(&[own], size);
            assert!(of_values.len() >= 6, "of 8 pages' size at least 6 are whole: {}", of_values.len());
            let gathered = of_values.iter().filter(|&&start| collapse_page(start, size)).count();
            assert!(values.iter().enumerate().all(|(i, value)| *value == i as u64));
            let smaps = fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
            let huge = smaps
                .lines()
                .find_map(|line| line.strip_prefix("AnonHugePages:")?.trim().strip_suffix(" kB")?.parse::<usize>().ok());
            if gathered == 0 {
                return eprintln!("skipped: this system makes no huge page on request");
            }
            // The system may part one again at any time.
            assert!(huge.is_some_and(|kib| kib * 1024 >= size), "{gathered} pages, {huge:?} KiB");
        }

        #[test]
        fn advised_memory_is_written_and_read() {
            let mut values = vec![0_u64; (5 << 20) / 8 + 3];
            let start = values.as_mut_ptr().expose_provenance();
            super::super::advise(start..start + size_of_val(&*values));
            super::super::advise(start + 8..start + 32);
            super::super::advise(start..start);
            values.iter_mut().zip(1..).for_each(|(value, i)| *value = i);
            assert!(values.iter().zip(1..).all(|(value, i)| *value == i));
        }

        #[test]
        fn memory_without_contents_is_left() {
            let Some(size) = huge_page() else { return eprintln!("skipped: this system has no huge pages, or wants none") };
            // Not from the allocator, whose memory others may have written to.
            let Ok(empty) = memmap2::MmapMut::map_anon(4 * size) else { panic!("memory is to be had") };
            let start = empty.as_ptr().addr().next_multiple_of(size);
            assert!(!collapse_page(start, size));
            assert!(!collapse_page(0, size), "what is not mapped is left");
        }
    }
}
