//! Memory of this process.

/// The most physical memory that this process has used at once, in bytes; 0 where the system does not tell.
///
/// Source: `ru_maxrss` of getrusage(2), in kibibytes on Linux and in bytes on macOS.
pub fn peak_rss_bytes() -> u64 {
    // SAFETY: `rusage` is plain numbers, for which zeros are valid, and the call writes nothing but it.
    #[expect(unsafe_code, reason = "the standard library does not offer getrusage")]
    let peak = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        if libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) != 0 {
            return 0;
        }
        usage.ru_maxrss
    };
    let unit = if cfg!(target_os = "macos") { 1 } else { 1024 };
    u64::try_from(peak).unwrap_or(0) * unit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_grows_with_what_is_touched() {
        let before = peak_rss_bytes();
        let touched = vec![1_u8; 64 << 20];
        let after = peak_rss_bytes();
        assert!(after >= before + (48 << 20), "{before} to {after} with {} bytes", std::hint::black_box(&touched).len());
    }
}
