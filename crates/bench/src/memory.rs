//! Memory of this process.

/// The most physical memory that this process has used at once, in bytes; `None` where the system does not tell.
///
/// On Linux this is `VmHWM` of proc(5). getrusage(2) cannot replace it: what it reports starts at the memory of the program that
/// started this one.
#[cfg(target_os = "linux")]
pub fn peak_rss_bytes() -> Option<u64> {
    peak_in(&std::fs::read_to_string("/proc/self/status").ok()?)
}

/// The most physical memory that this process has used at once, in bytes; `None` where the system does not tell.
///
/// Source: `ru_maxrss` of getrusage(2), in bytes on macOS.
#[cfg(not(target_os = "linux"))]
pub fn peak_rss_bytes() -> Option<u64> {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::uninit();
    // SAFETY: `usage` is a valid place for one `rusage`, which the call fills whenever it returns 0.
    #[expect(unsafe_code, reason = "the standard library does not ask the system for it")]
    let usage = unsafe { (libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) == 0).then(|| usage.assume_init()) }?;
    u64::try_from(usage.ru_maxrss).ok()
}

/// `VmHWM` in bytes, from the text of a process's `status`.
pub(crate) fn peak_in(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_grows_with_what_is_touched() {
        let before = peak_rss_bytes().unwrap();
        let touched = vec![1_u8; 64 << 20];
        let after = peak_rss_bytes().unwrap();
        assert!(after >= before.max(60 << 20), "{before} to {after} with {} bytes", std::hint::black_box(&touched).len());
    }
}
