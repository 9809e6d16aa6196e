//! Cache lines that are asked for before they are needed. Hints, which change no result.

/// Asks for the cache line of an address, into the first level.
#[inline(always)]
pub(crate) fn first_level(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, which faults on no address; SSE is part of the architecture.
    unsafe {
        use core::arch::x86_64::{_mm_prefetch, _MM_HINT_T0};
        _mm_prefetch::<_MM_HINT_T0>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Asks for a cache line that will be written.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn to_write(at: *const u8) {
    #[cfg(not(miri))]
    // SAFETY: a hint, which reads and writes nothing and faults on no address. CPUs of the architecture that don't know it
    // do nothing.
    unsafe {
        core::arch::asm!("prefetchw [{}]", in(reg) at, options(nostack, preserves_flags, readonly));
    }
    #[cfg(miri)]
    let _ = at;
}

/// Asks for all cache lines of some bytes, into the first level.
#[inline(always)]
pub(crate) fn all(at: *const u8, bytes: usize) {
    let mut line = 0;
    while line < bytes {
        first_level(at.wrapping_add(line));
        line += 64;
    }
}
