//! Bytes for packed operands.

/// Cache-line aligned bytes; many of them in huge pages where the system has those.
///
/// A product of few rows reads all weights once: with pages of 4 KiB it waits for their translations, and the hardware's
/// prefetcher stops at the end of each.
pub(crate) struct AlignedBytes {
    memory: Memory,
    len: usize,
}

enum Memory {
    Lines(Vec<Line>),
    /// Pages of our own, and where the first multiple of [`HUGE`] lies in them.
    #[cfg(target_os = "linux")]
    Pages(memmap2::MmapMut, usize),
}

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Bytes of a huge page on x86-64 and, with pages of 4 KiB, on AArch64.
#[cfg(target_os = "linux")]
const HUGE: usize = 2 << 20;

impl Default for AlignedBytes {
    fn default() -> Self {
        Self::zeroed(0)
    }
}

impl AlignedBytes {
    pub fn zeroed(len: usize) -> Self {
        AlignedBytes {
            memory: Memory::zeroed(len),
            len,
        }
    }

    /// Makes room for `len` bytes; what they hold is overwritten by the caller.
    pub fn resize(&mut self, len: usize) {
        if self.capacity_bytes() < len {
            // The old ones first.
            self.memory = Memory::Lines(Vec::new());
            self.memory = Memory::zeroed(len);
        }
        self.len = len;
    }

    pub fn capacity_bytes(&self) -> usize {
        match &self.memory {
            Memory::Lines(lines) => lines.len() * 64,
            #[cfg(target_os = "linux")]
            Memory::Pages(pages, skip) => pages.len() - skip,
        }
    }

    pub fn as_slice(&self) -> &[u8] {
        match &self.memory {
            // SAFETY: `Line` is 64 bytes without padding, and `len` is at most the bytes of all lines.
            Memory::Lines(lines) => unsafe {
                std::slice::from_raw_parts(lines.as_ptr().cast(), self.len)
            },
            #[cfg(target_os = "linux")]
            Memory::Pages(pages, skip) => &pages[*skip..][..self.len],
        }
    }

    /// The bytes as words, as many as are whole.
    pub fn as_words(&self) -> &[u32] {
        let bytes = self.as_slice();
        // SAFETY: lines and pages are aligned for words, and any bytes are a word.
        unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len() / 4) }
    }

    pub fn as_mut_words(&mut self) -> &mut [u32] {
        let bytes = self.as_mut_slice();
        // SAFETY: as above, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), bytes.len() / 4) }
    }

    /// The bytes as signed ones.
    pub fn as_mut_signed(&mut self) -> &mut [i8] {
        let bytes = self.as_mut_slice();
        // SAFETY: both types are one byte, of any value, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), bytes.len()) }
    }

    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        match &mut self.memory {
            // SAFETY: as above, and the borrow is exclusive.
            Memory::Lines(lines) => unsafe {
                std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), self.len)
            },
            #[cfg(target_os = "linux")]
            Memory::Pages(pages, skip) => &mut pages[*skip..][..self.len],
        }
    }
}

impl Memory {
    fn zeroed(len: usize) -> Self {
        #[cfg(target_os = "linux")]
        if len >= HUGE && !cfg!(miri) {
            if let Some(pages) = Self::pages(len) {
                return pages;
            }
        }
        Memory::Lines(vec![Line([0; 64]); len.div_ceil(64)])
    }

    /// Pages from a multiple of [`HUGE`] on. What is never touched, before and behind, takes no memory.
    #[cfg(target_os = "linux")]
    fn pages(len: usize) -> Option<Self> {
        let pages = memmap2::MmapMut::map_anon(len.checked_add(HUGE)?).ok()?;
        // A wish: systems without huge pages go on with small ones.
        let _ = pages.advise(memmap2::Advice::HugePage);
        let skip = pages.as_ptr().align_offset(HUGE);
        (skip <= HUGE).then_some(Memory::Pages(pages, skip))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_any_number_are_aligned_zeros() {
        for len in [0, 1, 64, 65, (2 << 20) - 1, 2 << 20, (5 << 20) + 3] {
            let mut bytes = AlignedBytes::zeroed(len);
            assert_eq!(bytes.as_slice().len(), len);
            assert!(bytes.as_slice().as_ptr().addr().is_multiple_of(64));
            assert!(bytes.as_slice().iter().all(|b| *b == 0));
            bytes.as_mut_slice().fill(7);
            bytes.resize(len / 2);
            assert_eq!(bytes.as_slice().len(), len / 2);
            assert!(bytes.capacity_bytes() >= len);
            bytes.resize(2 * len);
            bytes.as_mut_slice().fill(8);
            assert_eq!(bytes.as_slice().len(), 2 * len);
        }
    }
}
