//! How much memory a product takes: never more than its inputs, its output, the packed weights and 8 MiB, on one
//! thread and on two. Every allocation of the process is counted.

use half::f16;
use imma::element::OutputMut;
use imma::epilogue::Output;
use imma::gemm::{Gemm, Lhs, Weights};
use imma::ops::{matmul_true_int8_on, q_matmul_int8_on};
use imma::{matmul_true_int8, q_matmul_int8, Backend, Cpu, Element, Epilogue, Int8Linear};
use ndarray::{Array1, Array2, Array3, ArrayView2};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// What a product may take beyond inputs, output and packed weights.
const SLACK: usize = 8 << 20;

// --------------------------------------------------------------------------------------------- the counter

/// What was taken in one measurement: bytes live now, and at most since the peak was last forgotten.
struct Account {
    live: AtomicUsize,
    peak: AtomicUsize,
}

/// An account a measurement, so that a block is given back to the measurement that took it: threads of a pool that
/// was dropped end when they like, and free their buffers while the next measurement runs.
static ACCOUNTS: [Account; 4096] = [const {
    Account {
        live: AtomicUsize::new(0),
        peak: AtomicUsize::new(0),
    }
}; 4096];

/// The account that is open.
static OPEN: AtomicUsize = AtomicUsize::new(0);

impl Account {
    fn add(&self, bytes: usize) {
        let live = self.live.fetch_add(bytes, Ordering::SeqCst) + bytes;
        self.peak.fetch_max(live, Ordering::SeqCst);
    }
}

/// The system's allocator, which counts. In front of each block stands the number of its account. A reallocation
/// counts as both places at once.
struct Counting;

/// The block with its number in front, and where the caller's part begins.
fn with_number(layout: Layout) -> Option<(Layout, usize)> {
    Layout::new::<usize>().extend(layout).ok()
}

/// Enters a block of `layout` into the open account.
///
/// # Safety
/// `whole` is null or was allocated by `with_number(layout)`, whose offset is `at`.
unsafe fn enter(whole: *mut u8, at: usize, layout: Layout) -> *mut u8 {
    if whole.is_null() {
        return whole;
    }
    let open = OPEN.load(Ordering::SeqCst);
    ACCOUNTS[open].add(layout.size());
    // SAFETY: `at` bytes of the block lie in front of the caller's part, and at least a word of them.
    unsafe {
        let block = whole.add(at);
        block.cast::<usize>().sub(1).write_unaligned(open);
        block
    }
}

// SAFETY: every block is the system's, with room for a word in front of the part that is handed out, which keeps the
// size and alignment asked for; `realloc` is the trait's own.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some((whole, at)) = with_number(layout) else {
            return std::ptr::null_mut();
        };
        // SAFETY: the layout holds a word at least; the block is entered as what it is.
        unsafe { enter(System.alloc(whole), at, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let Some((whole, at)) = with_number(layout) else {
            return std::ptr::null_mut();
        };
        // SAFETY: the layout holds a word at least; the block is entered as what it is.
        unsafe { enter(System.alloc_zeroed(whole), at, layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let Some((whole, at)) = with_number(layout) else {
            return;
        };
        // SAFETY: `block` came from `alloc` with this layout, so that its number and the system's block lie in front.
        unsafe {
            let account = block.cast::<usize>().sub(1).read_unaligned();
            System.dealloc(block.sub(at), whole);
            ACCOUNTS[account]
                .live
                .fetch_sub(layout.size(), Ordering::SeqCst);
        }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// One measurement: what is live at most since it began or was restarted, of what was taken since it began.
struct Meter {
    account: &'static Account,
}

impl Meter {
    /// Opens the next account.
    fn new() -> Self {
        let next = OPEN.fetch_add(1, Ordering::SeqCst) + 1;
        Meter {
            account: ACCOUNTS
                .get(next)
                .expect("fewer measurements than accounts"),
        }
    }

    /// Forgets the peak so far; what is live still counts.
    fn restart(&self) {
        let live = self.account.live.load(Ordering::SeqCst);
        self.account.peak.store(live, Ordering::SeqCst);
    }

    fn peak(&self) -> usize {
        self.account.peak.load(Ordering::SeqCst)
    }

    /// Refuses a peak beyond what the parts and the slack allow.
    fn check(&self, what: String, parts: &[usize]) -> Result<(), String> {
        let (peak, allowed) = (self.peak(), parts.iter().sum::<usize>() + SLACK);
        if peak < allowed {
            return Ok(());
        }
        Err(format!(
            "{what}: {:.2} MiB beyond inputs, output and packed weights",
            (peak + SLACK - allowed) as f64 / (1 << 20) as f64
        ))
    }
}

/// One measurement at a time, and no panic beside it: a backtrace takes memory too.
static ONE: Mutex<()> = Mutex::new(());

fn report(failures: Vec<String>) {
    let _one = ONE.lock().unwrap_or_else(|broken| broken.into_inner());
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Runs `f` alone and on a thread of its own, which starts without the buffers that threads keep.
fn alone<R: Send>(f: impl FnOnce(&Meter) -> R + Send) -> R {
    let _one = ONE.lock().unwrap_or_else(|broken| broken.into_inner());
    std::thread::scope(|scope| {
        let run = scope.spawn(|| f(&Meter::new()));
        run.join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[test]
fn the_allocator_counts() {
    const MIB: usize = 1 << 20;
    alone(|meter| {
        for _ in 0..2 {
            drop(std::hint::black_box(vec![1u8; 3 * MIB]));
        }
        assert!((3 * MIB..4 * MIB).contains(&meter.peak()));
        meter.restart();
        assert!(meter.peak() < MIB);
        let other = std::thread::spawn(|| std::hint::black_box(vec![0u64; 5 * MIB / 8]).len());
        assert_eq!(other.join().ok(), Some(5 * MIB / 8));
        let mut grown = vec![0u8; MIB];
        grown.resize(4 * MIB, 1);
        assert!((5 * MIB..6 * MIB).contains(&meter.peak()));
    });
}

/// What an earlier measurement took and gives back late, as a pool's threads do, doesn't make a later one smaller.
#[test]
fn a_late_end_of_another_thread_changes_nothing() {
    const MIB: usize = 1 << 20;
    let (end, ends) = std::sync::mpsc::channel::<()>();
    let early = alone(move |_| {
        std::thread::spawn(move || {
            let kept = std::hint::black_box(vec![1u8; 16 * MIB]);
            ends.recv().ok();
            drop(kept);
        })
    });
    alone(|meter| {
        let own = std::hint::black_box(vec![1u8; 2 * MIB]);
        end.send(()).expect("the thread waits");
        early.join().expect("no panic");
        let more = std::hint::black_box(vec![1u8; 2 * MIB]);
        assert!((4 * MIB..5 * MIB).contains(&meter.peak()));
        drop((own, more));
    });
}

#[test]
fn a_product_that_takes_too_much_is_caught() {
    alone(|meter| {
        let a = ints(64, 64);
        let cpu = Cpu::new().with_threads(1).expect("one thread");
        let hidden = std::hint::black_box(vec![1u8; SLACK]);
        let out = matmul_true_int8_on(&cpu, a.view(), a.view()).expect("computed");
        let parts = [bytes(&a), bytes(&a), out.len() * 4];
        assert!(meter.check("planted".into(), &parts).is_err());
        drop(hidden);
        meter.restart();
        matmul_true_int8_on(&cpu, a.view(), a.view()).expect("computed");
        meter.check("as it is".into(), &parts).unwrap();
    });
}

// ------------------------------------------------------------------------------------------------ products

/// M, N, K: one row, few rows, tall, wide, square; sums as long as they may be, with few rows and with many.
const SHAPES: [(usize, usize, usize); 8] = [
    (1, 4096, 4096),
    (16, 4096, 4096),
    (20_000, 64, 256),
    (8, 20_000, 512),
    (2048, 2048, 2048),
    (1, 1, 131_071),
    (3, 70, 131_071),
    (90, 33, 131_071),
];

fn ints(rows: usize, cols: usize) -> Array2<i8> {
    Array2::from_shape_fn((rows, cols), |(i, j)| (i * 89 + j * 57) as u8 as i8)
}

fn floats<T: Element>(rows: usize, cols: usize) -> Array2<T> {
    Array2::from_shape_fn((rows, cols), |(i, j)| {
        T::from_f32(((i * 89 + j * 57) % 255) as f32 - 127.0)
    })
}

fn bytes<T, D: ndarray::Dimension>(x: &ndarray::Array<T, D>) -> usize {
    x.len() * size_of::<T>()
}

/// Both orders of a `[K, N]` matrix: row-major, and with contiguous columns.
fn both_orders<T>(w: &Array2<T>, transposed: bool) -> ArrayView2<'_, T> {
    if transposed {
        w.t()
    } else {
        w.view()
    }
}

fn kn(k: usize, n: usize, transposed: bool) -> (usize, usize) {
    if transposed {
        (n, k)
    } else {
        (k, n)
    }
}

/// Bytes of a packed `[K, N]` matrix.
fn packed_bytes(cpu: &Cpu, k: usize, n: usize) -> usize {
    alone(|_| {
        let w = Array2::<i8>::zeros((k, n));
        let packed = cpu.pack(Weights::Int8(w.view())).expect("packed");
        packed.bytes()
    })
}

/// Calls `check` for every shape, both orders of the weights, one thread and two; reports every failure.
fn everywhere(check: impl Fn(&Cpu, (usize, usize, usize), bool, String) -> Result<(), String>) {
    let mut failures = Vec::new();
    for threads in [1, 2] {
        let cpu = Cpu::new()
            .with_threads(threads)
            .expect("one or two threads");
        for shape in SHAPES {
            for transposed in [false, true] {
                let order = if transposed { "K-major" } else { "row-major" };
                let what = format!("{shape:?}, {order}, {threads} threads");
                failures.extend(check(&cpu, shape, transposed, what).err());
            }
        }
    }
    report(failures);
}

#[test]
fn prepacked_products() {
    everywhere(|cpu, (m, n, k), transposed, what| {
        alone(|meter| {
            // A pool of its own, so that it starts without buffers too.
            let cpu = cpu.clone().with_threads(cpu.threads()).expect("as before");
            let (rows, cols) = kn(k, n, transposed);
            let w = ints(rows, cols);
            let view = both_orders(&w, transposed);
            let packed = cpu.pack(Weights::Int8(view)).expect("packed");
            meter.check(format!("packing, {what}"), &[bytes(&w), packed.bytes()])?;
            drop(w);

            let a = ints(m, k);
            let mut out = Array2::<i32>::zeros((m, n));
            let parts = [bytes(&a), bytes(&out), packed.bytes()];
            meter.restart();
            let gemm = Gemm::new(Lhs::Int8(a.view()), &packed, Epilogue::to(Output::Raw));
            let gemm = gemm.expect("shapes fit");
            cpu.gemm(&gemm, OutputMut::I32(out.view_mut()))
                .expect("computed");
            meter.check(format!("gemm, {what}"), &parts)
        })
    });
}

#[test]
fn exact_products() {
    everywhere(|cpu, (m, n, k), transposed, what| {
        let packed = packed_bytes(cpu, k, n);
        alone(|meter| {
            let cpu = cpu.clone().with_threads(cpu.threads()).expect("as before");
            let (rows, cols) = kn(k, n, transposed);
            let (a, w) = (ints(m, k), ints(rows, cols));
            let w_view = both_orders(&w, transposed);
            let out = matmul_true_int8_on(&cpu, a.view(), w_view).expect("computed");
            let parts = [bytes(&a), bytes(&w), bytes(&out), packed];
            meter.check(format!("matmul_true_int8, {what}"), &parts)
        })
    });
}

fn quantised_products_of<T: Element>() {
    everywhere(|cpu, (m, n, k), transposed, what| {
        let packed = packed_bytes(cpu, k, n);
        alone(|meter| {
            let cpu = cpu.clone().with_threads(cpu.threads()).expect("as before");
            let (rows, cols) = kn(k, n, transposed);
            let (a, w) = (floats::<T>(m, k), floats::<T>(rows, cols));
            let w_view = both_orders(&w, transposed);
            let out = q_matmul_int8_on(&cpu, a.view(), w_view).expect("computed");
            let parts = [bytes(&a), bytes(&w), bytes(&out), packed];
            meter.check(format!("q_matmul_int8, {what}"), &parts)
        })
    });
}

#[test]
fn quantised_products() {
    quantised_products_of::<f32>();
    quantised_products_of::<f16>();
}

#[test]
fn linear_layers() {
    everywhere(|cpu, (m, n, k), transposed, what| {
        alone(|meter| {
            let cpu = cpu.clone().with_threads(cpu.threads()).expect("as before");
            // `[N, K]`: torch's order is the K-major one.
            let (rows, cols) = kn(k, n, transposed);
            let (w, bias) = (floats::<f32>(rows, cols), Array1::<f32>::ones(n));
            let weight = both_orders(&w, transposed).reversed_axes();
            let layer = Int8Linear::from_float_on(Arc::new(cpu), weight, Some(bias.view()));
            let layer = layer.expect("packed");
            let packed = layer.weights().bytes();
            meter.check(
                format!("Int8Linear::from_float, {what}"),
                &[bytes(&w), packed],
            )?;
            drop(w);
            let x = floats::<f32>(m, k);
            meter.restart();
            let y = layer.forward(x.view()).expect("computed");
            let parts = [bytes(&x), bytes(&y), packed];
            meter.check(format!("Int8Linear::forward, {what}"), &parts)
        })
    });
}

/// The functions' own backend, on rayon's pool; a batch with a right operand an entry.
#[test]
fn the_default_backend() {
    let cpu = Cpu::new();
    let (m, n, k) = (700, 1000, 900);
    let packed = packed_bytes(&cpu, k, n);
    let failures = [
        alone(|meter| {
            let (a, w) = (floats::<f32>(m, k), floats::<f32>(k, n));
            let out = q_matmul_int8(a.view(), w.view()).expect("computed");
            let parts = [bytes(&a), bytes(&w), bytes(&out), packed];
            meter.check("q_matmul_int8".into(), &parts)
        }),
        alone(|meter| {
            let value = |(b, i, j)| (b * 31 + i * 89 + j * 57) as u8 as i8;
            let a = Array3::from_shape_fn((12, m, k), value);
            let w = Array3::from_shape_fn((12, k, n), value);
            let out = matmul_true_int8(a.view(), w.view()).expect("computed");
            let parts = [bytes(&a), bytes(&w), bytes(&out), 12 * packed];
            meter.check("matmul_true_int8 of a batch".into(), &parts)
        }),
    ];
    report(failures.into_iter().filter_map(Result::err).collect());
}
