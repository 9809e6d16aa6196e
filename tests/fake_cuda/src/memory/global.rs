//! Global memory: allocations that CTAs on several host threads read and write at once.
//!
//! Every byte has a shadow byte that says whether it was ever written. Virtual addresses are never
//! reused, so an access to freed memory is always recognised as such.
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, AtomicU8, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::{MemoryFault, GLOBAL_BASE};

/// Alignment of every allocation.
const ALIGN: u64 = 512;
/// Unmapped bytes between two allocations.
const GUARD: u64 = 1 << 20;
/// Shadow bytes of eight initialised bytes.
const INIT: u64 = 0x0101_0101_0101_0101;

/// One live allocation. All accesses are relaxed atomics of the access size, which is how plain
/// accesses of racing CTAs stay defined on the host.
pub struct Allocation {
    base: u64,
    size: u64,
    /// Bytes of `data` before the first.
    skip: u64,
    data: Box<[AtomicU64]>,
    shadow: Box<[AtomicU64]>,
    /// A kernel has written to it since the last launch began.
    written: AtomicBool,
}

/// So many words, zeroed.
fn zeros(words: usize) -> Box<[AtomicU64]> {
    const { assert!(align_of::<AtomicU64>() == align_of::<u64>()) };
    // Zeroed pages cost nothing until they are touched.
    let plain = Box::into_raw(vec![0u64; words].into_boxed_slice());
    // SAFETY: AtomicU64 has the size and bit validity of u64; its alignment is the same on the
    // 64-bit hosts this crate runs on (checked above), and the box is handed over whole.
    unsafe { Box::from_raw(plain as *mut [AtomicU64]) }
}

impl Allocation {
    fn new(base: u64, size: u64) -> Self {
        let words = size.div_ceil(8) as usize;
        Allocation {
            base,
            size,
            skip: 0,
            data: zeros(words),
            shadow: zeros(words),
            written: AtomicBool::new(false),
        }
    }

    /// Page-locked memory of the host, which kernels reach at the host's own address. It starts at a multiple of `align`.
    fn mapped(size: u64, align: u64) -> Self {
        let data = zeros((size + align).div_ceil(8) as usize);
        let start = data.as_ptr() as u64;
        let skip = start.next_multiple_of(align) - start;
        // The host writes it past the books: all of it counts as written.
        let shadow = zeros(data.len());
        shadow.iter().for_each(|word| word.store(INIT, Relaxed));
        Allocation {
            base: start + skip,
            size,
            skip,
            data,
            shadow,
            written: AtomicBool::new(false),
        }
    }

    /// First address.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    fn contains(&self, addr: u64, bytes: u64) -> bool {
        addr >= self.base && bytes <= self.size && addr - self.base <= self.size - bytes
    }

    /// Pointer to a byte of `words`; `addr` must lie in the allocation with `width` bytes behind it.
    fn at(&self, words: &[AtomicU64], addr: u64, width: u64) -> *mut u8 {
        assert!(self.contains(addr, width) && addr.is_multiple_of(width));
        words
            .as_ptr()
            .cast_mut()
            .cast::<u8>()
            .wrapping_add((addr - self.base + self.skip) as usize)
    }

    fn get(&self, words: &[AtomicU64], addr: u64, width: u64) -> u64 {
        let p = self.at(words, addr, width);
        // SAFETY: `at` checked that the `width` bytes lie inside `words` and are aligned; the memory
        // is only ever touched through atomics while the allocation lives.
        unsafe {
            match width {
                1 => u64::from(AtomicU8::from_ptr(p).load(Relaxed)),
                2 => u64::from(AtomicU16::from_ptr(p.cast()).load(Relaxed)),
                4 => u64::from(AtomicU32::from_ptr(p.cast()).load(Relaxed)),
                _ => AtomicU64::from_ptr(p.cast()).load(Relaxed),
            }
        }
    }

    fn set(&self, words: &[AtomicU64], addr: u64, width: u64, value: u64) {
        let p = self.at(words, addr, width);
        // SAFETY: as in `get`.
        unsafe {
            match width {
                1 => AtomicU8::from_ptr(p).store(value as u8, Relaxed),
                2 => AtomicU16::from_ptr(p.cast()).store(value as u16, Relaxed),
                4 => AtomicU32::from_ptr(p.cast()).store(value as u32, Relaxed),
                _ => AtomicU64::from_ptr(p.cast()).store(value, Relaxed),
            }
        }
    }

    /// Whether all `width` (1, 2, 4, 8) bytes at the aligned `addr` were written.
    pub fn is_initialised(&self, addr: u64, width: u64) -> bool {
        let want = INIT >> (64 - 8 * width);
        self.get(&self.shadow, addr, width) == want
    }

    /// Reads `width` (1, 2, 4, 8) bytes at the aligned `addr`, written or not.
    pub fn load(&self, addr: u64, width: u64) -> u64 {
        self.get(&self.data, addr, width)
    }

    /// Writes `width` (1, 2, 4, 8) bytes at the aligned `addr`.
    pub fn store(&self, addr: u64, width: u64, value: u64) {
        self.set(&self.data, addr, width, value);
        self.set(&self.shadow, addr, width, INIT);
    }

    /// Notes that the running kernel writes here.
    pub fn mark_written(&self) {
        if !self.written.load(Relaxed) {
            self.written.store(true, Relaxed);
        }
    }

    /// Reads bytes, all inside; the first one that nobody wrote, if there is one.
    pub fn read_bytes(&self, addr: u64, out: &mut [u8]) -> Option<u64> {
        let mut bad = None;
        pieces(addr, out.len() as u64, |at, width| {
            if bad.is_none() && !self.is_initialised(at, width) {
                bad = (at..at + width).find(|&b| !self.is_initialised(b, 1));
            }
            let to = (at - addr) as usize;
            out[to..to + width as usize]
                .copy_from_slice(&self.load(at, width).to_le_bytes()[..width as usize]);
        });
        bad
    }

    /// Writes bytes, all inside.
    pub fn write_bytes(&self, addr: u64, data: &[u8]) {
        pieces(addr, data.len() as u64, |at, width| {
            let from = (at - addr) as usize;
            let mut word = [0u8; 8];
            word[..width as usize].copy_from_slice(&data[from..from + width as usize]);
            self.store(at, width, u64::from_le_bytes(word));
        });
    }

    /// Replaces the `width` (2, 4, 8) bytes at the aligned `addr` atomically by `f(old)`; the old value.
    pub fn update(&self, addr: u64, width: u64, f: impl Fn(u64) -> u64) -> u64 {
        let p = self.at(&self.data, addr, width);
        // SAFETY: as in `get`.
        unsafe {
            match width {
                2 => {
                    let a = AtomicU16::from_ptr(p.cast());
                    u64::from(
                        a.fetch_update(Relaxed, Relaxed, |v| Some(f(u64::from(v)) as u16))
                            .unwrap_or(0),
                    )
                }
                4 => {
                    let a = AtomicU32::from_ptr(p.cast());
                    u64::from(
                        a.fetch_update(Relaxed, Relaxed, |v| Some(f(u64::from(v)) as u32))
                            .unwrap_or(0),
                    )
                }
                _ => {
                    let a = AtomicU64::from_ptr(p.cast());
                    a.fetch_update(Relaxed, Relaxed, |v| Some(f(v)))
                        .unwrap_or(0)
                }
            }
        }
    }
}

/// Calls `f(address, width)` for pieces that cover the range: 8 bytes where aligned, else 1.
fn pieces(addr: u64, bytes: u64, mut f: impl FnMut(u64, u64)) {
    let end = addr + bytes;
    let mut at = addr;
    while at < end {
        let width = if at.is_multiple_of(8) && end - at >= 8 {
            8
        } else {
            1
        };
        f(at, width);
        at += width;
    }
}

#[derive(Default)]
struct Table {
    live: BTreeMap<u64, Arc<Allocation>>,
    freed: BTreeMap<u64, u64>,
    next: u64,
    used: u64,
}

impl Table {
    fn find(&self, addr: u64, bytes: u64) -> Result<&Arc<Allocation>, MemoryFault> {
        match self.live.range(..=addr).next_back() {
            Some((_, a)) if a.contains(addr, bytes) => Ok(a),
            _ => Err(self.miss(addr, bytes)),
        }
    }

    /// Why an access that hit no allocation is wrong.
    fn miss(&self, addr: u64, bytes: u64) -> MemoryFault {
        if let Some((&base, &size)) = self.freed.range(..=addr).next_back() {
            if addr < base + size {
                return MemoryFault::UseAfterFree {
                    addr,
                    bytes,
                    base,
                    size,
                };
            }
        }
        let below = self.live.range(..=addr).next_back().map(|(_, a)| a);
        let above = self.live.range(addr..).next().map(|(_, a)| a);
        let near = match (below, above) {
            (Some(a), _) if addr - a.base < a.size + GUARD => {
                let past = addr.saturating_add(bytes).saturating_sub(a.base + a.size);
                format!(
                    ", ends {past} bytes past the allocation {:#x}+{}",
                    a.base, a.size
                )
            }
            (_, Some(a)) if a.base - addr < GUARD => {
                format!(
                    ", starts {} bytes before the allocation {:#x}+{}",
                    a.base - addr,
                    a.base,
                    a.size
                )
            }
            _ => String::from(", no allocation near"),
        };
        MemoryFault::OutOfBounds {
            addr,
            bytes,
            near: near.into(),
        }
    }
}

/// The device's global memory.
pub struct GlobalMemory {
    capacity: u64,
    table: RwLock<Table>,
}

impl GlobalMemory {
    /// Memory that can hold `capacity` bytes; host memory is taken as allocations are made.
    pub fn new(capacity: u64) -> Self {
        let table = Table {
            next: GLOBAL_BASE,
            ..Table::default()
        };
        GlobalMemory {
            capacity,
            table: RwLock::new(table),
        }
    }

    fn table(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn table_mut(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new, uninitialised allocation, 512-byte aligned, with unmapped memory on both sides.
    ///
    /// # Errors
    /// Zero bytes, or more than is left.
    pub fn alloc(&self, bytes: u64) -> Result<u64, MemoryFault> {
        if bytes == 0 {
            return Err(MemoryFault::ZeroSize);
        }
        let mut t = self.table_mut();
        let free = self.capacity - t.used;
        if bytes > free {
            return Err(MemoryFault::OutOfMemory { bytes, free });
        }
        let base = t.next;
        t.next = (base + bytes + GUARD).next_multiple_of(ALIGN);
        t.used += bytes;
        t.live.insert(base, Arc::new(Allocation::new(base, bytes)));
        Ok(base)
    }

    /// Page-locked memory of the host, zeroed: its address there and here. What the device has is not less by it.
    ///
    /// # Errors
    /// Zero bytes.
    pub fn map_host(&self, bytes: u64, align: u64) -> Result<u64, MemoryFault> {
        if bytes == 0 {
            return Err(MemoryFault::ZeroSize);
        }
        let mapped = Arc::new(Allocation::mapped(bytes, align));
        let base = mapped.base;
        let mut t = self.table_mut();
        // The system gives addresses again; ours are not.
        t.freed
            .retain(|at, size| at + *size <= base || base + bytes <= *at);
        t.live.insert(base, mapped);
        Ok(base)
    }

    /// Ends what [`map_host`](Self::map_host) began. Kernels that run keep the memory alive.
    ///
    /// # Errors
    /// `addr` is no such memory's address.
    pub fn unmap_host(&self, addr: u64) -> Result<(), MemoryFault> {
        let mut t = self.table_mut();
        match t.live.remove(&addr) {
            Some(a) => {
                t.freed.insert(addr, a.size);
                Ok(())
            }
            None => Err(MemoryFault::BadFree { addr }),
        }
    }

    /// Ends the allocation that starts at `addr`.
    ///
    /// # Errors
    /// `addr` is no live allocation's base.
    pub fn free(&self, addr: u64) -> Result<(), MemoryFault> {
        let mut t = self.table_mut();
        let Some(a) = t.live.remove(&addr) else {
            return Err(if t.freed.contains_key(&addr) {
                t.miss(addr, 0)
            } else {
                MemoryFault::BadFree { addr }
            });
        };
        t.used -= a.size;
        t.freed.insert(addr, a.size);
        Ok(())
    }

    /// Host to device.
    ///
    /// # Errors
    /// The range is not inside one live allocation.
    pub fn write(&self, addr: u64, data: &[u8]) -> Result<(), MemoryFault> {
        if data.is_empty() {
            return Ok(());
        }
        self.table()
            .find(addr, data.len() as u64)?
            .clone()
            .write_bytes(addr, data);
        Ok(())
    }

    /// Device to host.
    ///
    /// # Errors
    /// The range is not inside one live allocation, or a byte of it was never written.
    pub fn read(&self, addr: u64, out: &mut [u8]) -> Result<(), MemoryFault> {
        if out.is_empty() {
            return Ok(());
        }
        let a = self.table().find(addr, out.len() as u64)?.clone();
        match a.read_bytes(addr, out) {
            Some(addr) => Err(MemoryFault::Uninitialised { addr, bytes: 1 }),
            None => Ok(()),
        }
    }

    /// Device to device; bytes that were never written stay so at the destination.
    ///
    /// # Errors
    /// A range is not inside one live allocation.
    pub fn copy(&self, dst: u64, src: u64, bytes: u64) -> Result<(), MemoryFault> {
        if bytes == 0 {
            return Ok(());
        }
        let (d, s) = {
            let t = self.table();
            (t.find(dst, bytes)?.clone(), t.find(src, bytes)?.clone())
        };
        // Everything is read before anything is written: the ranges may overlap.
        let mut all = Vec::new();
        let aligned = dst % 8 == src % 8;
        let mut take = |at, width| {
            all.push((
                at,
                width,
                s.get(&s.data, at, width),
                s.get(&s.shadow, at, width),
            ))
        };
        if aligned {
            pieces(src, bytes, take);
        } else {
            (src..src + bytes).for_each(|at| take(at, 1));
        }
        for (at, width, value, init) in all {
            let to = at - src + dst;
            d.set(&d.data, to, width, value);
            d.set(&d.shadow, to, width, init);
        }
        Ok(())
    }

    /// Sets `bytes` bytes to `value`.
    ///
    /// # Errors
    /// The range is not inside one live allocation.
    pub fn fill(&self, addr: u64, value: u8, bytes: u64) -> Result<(), MemoryFault> {
        if bytes == 0 {
            return Ok(());
        }
        let a = self.table().find(addr, bytes)?.clone();
        let word = u64::from_le_bytes([value; 8]);
        pieces(addr, bytes, |at, width| a.store(at, width, word));
        Ok(())
    }

    /// Base and size of the live allocation that holds `addr`.
    pub fn allocation(&self, addr: u64) -> Option<(u64, u64)> {
        let t = self.table();
        t.find(addr, 1).ok().map(|a| (a.base, a.size))
    }

    /// Bytes in live allocations.
    pub fn used(&self) -> u64 {
        self.table().used
    }

    /// Bytes the device has.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// The allocations as they are now, for one launch.
    pub fn view(&self) -> GlobalView {
        let allocations: Vec<_> = self.table().live.values().cloned().collect();
        let unready = allocations.iter().map(|a| a.written.swap(false, Relaxed));
        GlobalView {
            unready: unready.collect(),
            allocations,
        }
    }

    /// Why an access that hit no allocation is wrong.
    pub fn explain_miss(&self, addr: u64, bytes: u64) -> MemoryFault {
        self.table().miss(addr, bytes)
    }
}

/// The allocations that live when a launch starts: looked up without a lock.
pub struct GlobalView {
    allocations: Vec<Arc<Allocation>>,
    /// Those that the kernel before wrote to.
    unready: Vec<bool>,
}

impl GlobalView {
    /// The allocation that holds `bytes` bytes at `addr`; `hint` remembers the last answer.
    pub fn find(&self, addr: u64, bytes: u64, hint: &mut usize) -> Option<&Allocation> {
        if let Some(a) = self.allocations.get(*hint) {
            if a.contains(addr, bytes) {
                return Some(a);
            }
        }
        let index = self
            .allocations
            .partition_point(|a| a.base <= addr)
            .checked_sub(1)?;
        *hint = index;
        self.allocations
            .get(index)
            .filter(|a| a.contains(addr, bytes))
            .map(AsRef::as_ref)
    }

    /// Whether the kernel before this launch wrote to the allocation that holds `addr`.
    pub fn is_unready(&self, addr: u64) -> bool {
        let mut hint = 0;
        self.find(addr, 1, &mut hint).is_some() && self.unready[hint]
    }
}
