//! Hostile files: the functions of the cargo-fuzz targets, run over the committed corpus and a fixed number of
//! mutations of it. No reader panics, and none allocates more than a bound.
//!
//! `IMMA_FUZZ_ROUNDS` is the number of mutations of each target. A finding is written to the temporary folder
//! of cargo's tests, for `cargo fuzz run TARGET FILE`.

#[path = "../fuzz/targets.rs"]
mod targets;

use std::alloc::{GlobalAlloc, Layout, System};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Mutex;

/// Mutations of a target, shared out among the files of its corpus, unless the environment says otherwise.
const ROUNDS: u64 = 20_000;

/// What reading and using one file may take, however it claims to be larger. The corpus has files of a few KB; the
/// most goes into compiling a checkpoint's patterns, which has a limit of its own.
const BOUND: usize = 32 << 20;

/// The system's allocator, which counts. What is beyond the bound is refused there, so that a length field that was
/// believed ends the test instead of the machine.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn add(bytes: usize) {
    let live = LIVE.fetch_add(bytes, Ordering::SeqCst) + bytes;
    PEAK.fetch_max(live, Ordering::SeqCst);
}

// SAFETY: every call goes to the system's allocator as it came, or answers null as one that has no memory may;
// `realloc` and `alloc_zeroed` are the trait's own.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        if layout.size() > 1 << 32 {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: the caller's.
        unsafe { System.dealloc(place, layout) };
        LIVE.fetch_sub(layout.size(), Ordering::SeqCst);
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// The meter counts the process: one target at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// Steps that are the same in every run (xorshift64*).
struct Steps(u64);

impl Steps {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

/// Lengths that break sums and products.
const LENGTHS: [u64; 12] = [
    0,
    1,
    0x7f,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    0x1_0000_0000,
    1 << 40,
    i64::MAX as u64 - 7,
    i64::MAX as u64,
    1 << 63,
    u64::MAX,
];

/// Damages a file in one way.
fn mutate(bytes: &mut Vec<u8>, steps: &mut Steps) {
    let at = steps.below(bytes.len());
    let length = LENGTHS[steps.below(LENGTHS.len())];
    match steps.below(9) {
        0 | 1 if !bytes.is_empty() => bytes[at] ^= 1 << steps.below(8),
        2 if !bytes.is_empty() => {
            bytes[at] = [0, 1, 0x7f, 0x80, 0xff, b'"', b'{', b'9'][steps.below(8)]
        }
        3 => bytes.truncate(at),
        // A length in binary, of any width.
        4 | 5 => {
            let width = [2, 4, 8][steps.below(3)];
            let fresh = &length.to_le_bytes()[..width];
            let end = (at + width).min(bytes.len());
            bytes.splice(at.min(end)..end, fresh.iter().copied());
        }
        // A length in text: the next number.
        6 => {
            let digit = |b: &u8| b.is_ascii_digit();
            let Some(start) = bytes[at.min(bytes.len())..].iter().position(digit) else {
                return;
            };
            let start = at + start;
            let digits = bytes[start..].iter().take_while(|b| digit(b)).count();
            bytes.splice(start..start + digits, length.to_string().into_bytes());
        }
        7 => {
            let end = (at + steps.below(64)).min(bytes.len());
            bytes.drain(at.min(end)..end);
        }
        _ => {
            let end = (at + steps.below(64)).min(bytes.len());
            let piece = bytes[at.min(end)..end].to_vec();
            let place = steps.below(bytes.len() + 1);
            bytes.splice(place..place, piece);
        }
    }
}

/// Runs a target over its corpus as it is and damaged; `good` says which files of the corpus it must take.
fn run(name: &str, target: fn(&Path, &[u8]) -> bool, good: fn(&str) -> bool) {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(name);
    let mut files: Vec<PathBuf> = std::fs::read_dir(&corpus)
        .expect("the corpus")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{name} has a corpus");
    let rounds = std::env::var("IMMA_FUZZ_ROUNDS").map_or(ROUNDS, |n| n.parse().expect("a number"));
    let rounds = rounds.div_ceil(files.len() as u64);
    let dir = targets::folder(name);
    let check = |bytes: &[u8], what: &dyn Fn() -> String| {
        let before = LIVE.load(Ordering::SeqCst);
        PEAK.store(before, Ordering::SeqCst);
        let result = catch_unwind(AssertUnwindSafe(|| target(&dir, bytes)));
        let took = PEAK.load(Ordering::SeqCst).saturating_sub(before);
        match result {
            Ok(taken) if took <= BOUND => taken,
            found => {
                let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{name}"));
                std::fs::write(&kept, bytes).expect("a place for the finding");
                let found = match found {
                    Ok(_) => format!("allocated {took} bytes, at most {BOUND} expected"),
                    Err(_) => "panicked".into(),
                };
                panic!("{name}: {} {found}; see {}", what(), kept.display())
            }
        }
    };
    // What is made once for the process is not counted.
    let _ = target(&dir, &[]);
    let (mut taken, mut refused) = (0u64, 0u64);
    for file in &files {
        let label = file
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        let bytes = std::fs::read(file).expect("a file of the corpus");
        let whole = check(&bytes, &|| label.clone());
        assert_eq!(whole, good(&label), "{name}: whether {label} is taken");
        for round in 0..rounds {
            let mut steps = Steps(round.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
            let mut damaged = bytes.clone();
            for _ in 0..=steps.below(3) {
                mutate(&mut damaged, &mut steps);
            }
            match check(&damaged, &|| format!("{label}, round {round}")) {
                true => taken += 1,
                false => refused += 1,
            }
        }
    }
    let _ = std::fs::remove_dir_all(dir);
    println!(
        "{name}: {} files, {taken} mutations taken, {refused} refused",
        files.len()
    );
    // Mutations reach both sides.
    assert!(
        rounds < 50 || (taken > 0 && refused > 0),
        "{taken} taken, {refused} refused"
    );
}

#[test]
fn npy_files() {
    run("npy", targets::npy, |name| name != "empty_huge");
}

#[test]
fn archives_of_frozen_operands() {
    run("frozen", targets::frozen, |name| name != "overlapping");
}

#[test]
fn members_of_frozen_operands() {
    run("frozen_members", targets::frozen_members, |_| true);
}

#[test]
fn checkpoints() {
    run("checkpoint", targets::checkpoint, |name| {
        name != "empty_huge"
    });
}

#[cfg(feature = "cuda")]
#[test]
fn caches_of_choices() {
    // `whole` was measured on another device.
    run("choices", targets::choices, |name| name != "whole");
}

#[test]
fn an_archive_whose_members_share_bytes_is_refused() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/frozen/overlapping");
    let found = imma::npz::read(file).expect_err("an error").to_string();
    assert!(found.contains("members that overlap"), "{found}");
}
