//! What a test may ask of the emulator, as plain C functions named `imma_fake_*`.
//!
//! Counts "since the mark" and the seed belong to the calling thread, so that tests of one process don't disturb
//! each other; totals, the last fault and the allocations belong to the process.
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::{c_char, CString};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::Mutex;

use super::abi::Text;
use super::state::{driver, lock, Driver};
use crate::exec::LaunchStats;

/// Counts since the driver started.
#[derive(Default)]
pub struct Totals {
    launches: HashMap<String, u64>,
    thread_instructions: u64,
    /// Bytes of all allocations ever made.
    pub allocated_bytes: u64,
}

/// Where a thread's seeds start that was given none.
static FIRST_SEED: AtomicU64 = AtomicU64::new(1);
static LAST_FAULT: Mutex<Option<CString>> = Mutex::new(None);

thread_local! {
    static CALLS: RefCell<HashMap<&'static str, u64>> = RefCell::default();
    static LAUNCHES: RefCell<HashMap<String, u64>> = RefCell::default();
    static LAST_REFUSAL: RefCell<Option<CString>> = const { RefCell::new(None) };
    /// What `imma_fake_last_fault` answered last, kept alive for its caller.
    static ANSWERED_FAULT: RefCell<Option<CString>> = const { RefCell::new(None) };
    static SEED: Cell<Option<u64>> = const { Cell::new(None) };
    static LAUNCH_NUMBER: Cell<u64> = const { Cell::new(0) };
}

const ALLOCATING: &[&str] = &[
    "cuMemAlloc_v2",
    "cuMemAllocAsync",
    "cuMemAllocFromPoolAsync",
    "cuMemHostAlloc",
    "cuMemAllocHost_v2",
];
const FREEING: &[&str] = &["cuMemFree_v2", "cuMemFreeAsync", "cuMemFreeHost"];
/// The calls that wait for the device.
const SYNCHRONISING: &[&str] = &[
    "cuCtxSynchronize",
    "cuStreamSynchronize",
    "cuEventSynchronize",
    "cuMemcpyHtoD_v2",
    "cuMemcpyDtoH_v2",
    "cuMemcpyDtoD_v2",
    "cuMemsetD8_v2",
    "cuMemsetD32_v2",
    "cuMemAlloc_v2",
    "cuMemFree_v2",
];

/// Counts a driver call of this thread.
pub fn count(name: &'static str) {
    CALLS.with_borrow_mut(|calls| *calls.entry(name).or_default() += 1);
}

/// Counts a kernel that ran.
pub fn count_launch(driver: &Driver, kernel: &str, stats: &LaunchStats) {
    LAUNCHES.with_borrow_mut(|launches| *launches.entry(kernel.to_owned()).or_default() += 1);
    let mut totals = lock(&driver.totals);
    *totals.launches.entry(kernel.to_owned()).or_default() += 1;
    totals.thread_instructions += stats.thread_instructions;
}

/// Seed of this thread's next launch: another for each, the same in each run of the test.
pub fn next_seed() -> u64 {
    let n = LAUNCH_NUMBER.get();
    LAUNCH_NUMBER.set(n + 1);
    SEED.get()
        .unwrap_or_else(|| FIRST_SEED.load(Relaxed))
        .wrapping_add(n.wrapping_mul(0x9E37_79B9_7F4A_7C15))
}

/// Sets the seed from which launches take theirs on threads that set none.
pub fn set_first_seed(seed: u64) {
    FIRST_SEED.store(seed, Relaxed);
}

fn c_string(text: &str) -> CString {
    CString::new(text.replace('\0', " ")).unwrap_or_default()
}

/// Says on stderr, once, why a call was refused, and keeps it for the thread.
pub fn note_refusal(text: &str) {
    eprintln!("fake_cuda: {text}");
    LAST_REFUSAL.set(Some(c_string(text)));
}

/// Says on stderr what a kernel did wrong, and keeps it.
pub fn note_fault(text: &str) {
    eprintln!("fake_cuda: {text}");
    *lock(&LAST_FAULT) = Some(c_string(text));
}

fn since_mark(names: &[&str]) -> u64 {
    CALLS.with_borrow(|calls| names.iter().filter_map(|n| calls.get(n)).sum())
}

fn of_totals<T: Default>(read: impl FnOnce(&Totals) -> T) -> T {
    driver().map_or_else(|_| T::default(), |d| read(&lock(&d.totals)))
}

fn select(launches: &HashMap<String, u64>, kernel: &Text) -> u64 {
    match kernel.get() {
        Ok(name) => launches.get(name).copied().unwrap_or(0),
        Err(_) => launches.values().sum(),
    }
}

/// The text of the last kernel fault, or null; valid until this thread asks again.
#[no_mangle]
pub extern "C" fn imma_fake_last_fault() -> *const c_char {
    let fault = lock(&LAST_FAULT).clone();
    ANSWERED_FAULT.set(fault);
    ANSWERED_FAULT.with_borrow(|f| f.as_ref().map_or(std::ptr::null(), |f| f.as_ptr()))
}

/// Why this thread's last refused call was refused, or null; valid until the next refusal.
#[no_mangle]
pub extern "C" fn imma_fake_last_refusal() -> *const c_char {
    LAST_REFUSAL.with_borrow(|r| r.as_ref().map_or(std::ptr::null(), |r| r.as_ptr()))
}

/// Forgets the last fault and the sticky error, as destroying the context would; objects stay.
#[no_mangle]
pub extern "C" fn imma_fake_reset() {
    *lock(&LAST_FAULT) = None;
    if let Ok(driver) = driver() {
        driver.clear_poison();
    }
}

/// Launches of a kernel in the whole process; null for all kernels.
#[no_mangle]
pub extern "C" fn imma_fake_launches(kernel: Text) -> u64 {
    of_totals(|t| select(&t.launches, &kernel))
}

/// Instructions that threads ran, in the whole process.
#[no_mangle]
pub extern "C" fn imma_fake_thread_instructions() -> u64 {
    of_totals(|t| t.thread_instructions)
}

/// Device allocations that are live.
#[no_mangle]
pub extern "C" fn imma_fake_live_allocations() -> u64 {
    driver().map_or(0, |d| lock(&d.allocations).len() as u64)
}

/// Bytes of device allocations that are live.
#[no_mangle]
pub extern "C" fn imma_fake_live_bytes() -> u64 {
    driver().map_or(0, |d| lock(&d.allocations).values().sum())
}

/// Bytes of all device allocations ever made.
#[no_mangle]
pub extern "C" fn imma_fake_allocated_bytes() -> u64 {
    of_totals(|t| t.allocated_bytes)
}

/// Starts this thread's counts anew.
#[no_mangle]
pub extern "C" fn imma_fake_mark() {
    CALLS.with_borrow_mut(HashMap::clear);
    LAUNCHES.with_borrow_mut(HashMap::clear);
}

/// Allocations (device and page-locked host) of this thread since its mark.
#[no_mangle]
pub extern "C" fn imma_fake_allocs_since_mark() -> u64 {
    since_mark(ALLOCATING)
}

/// Releases of memory by this thread since its mark.
#[no_mangle]
pub extern "C" fn imma_fake_frees_since_mark() -> u64 {
    since_mark(FREEING)
}

/// Calls of this thread since its mark that wait for the device.
#[no_mangle]
pub extern "C" fn imma_fake_syncs_since_mark() -> u64 {
    since_mark(SYNCHRONISING)
}

/// Launches of a kernel by this thread since its mark; null for all kernels.
#[no_mangle]
pub extern "C" fn imma_fake_launches_since_mark(kernel: Text) -> u64 {
    LAUNCHES.with_borrow(|launches| select(launches, &kernel))
}

/// Driver calls of a name (`cuMemcpyHtoDAsync_v2`) by this thread since its mark.
#[no_mangle]
pub extern "C" fn imma_fake_calls_since_mark(name: Text) -> u64 {
    name.get().map_or(0, |name| since_mark(&[name]))
}

/// Seed of this thread's schedules; its launches are numbered from 0 again.
#[no_mangle]
pub extern "C" fn imma_fake_set_seed(seed: u64) {
    SEED.set(Some(seed));
    LAUNCH_NUMBER.set(0);
}
