//! How much memory this process took.

/// The most resident memory so far, in bytes; `None` where the system does not say.
pub(crate) fn peak_rss_bytes() -> Option<u64> {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::uninit();
    #[expect(unsafe_code, reason = "the standard library does not ask the system for it")]
    // SAFETY: `usage` is a valid place for one `rusage`, which the call fills whenever it returns 0.
    let usage = unsafe { (libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) == 0).then(|| usage.assume_init()) }?;
    // Kibibytes on Linux, bytes on macOS (getrusage(2) of each).
    let unit = if cfg!(target_os = "macos") { 1 } else { 1024 };
    u64::try_from(usage.ru_maxrss).ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_is_in_bytes() {
        let block = std::hint::black_box(vec![1_u8; 64 << 20]);
        let peak = super::peak_rss_bytes().unwrap();
        assert!((block.len() as u64..16 << 30).contains(&peak), "{peak}");
    }
}
