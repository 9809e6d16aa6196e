//! The emulated NCCL: integers reduced and gathered over emulated devices, and what is refused.

mod cudarc_common;

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DevicePtr};
use fake_cuda::install::install;
use libloading::os::unix::Library;

type Comm = usize;
type Code = u32;

/// `ncclUniqueId`.
#[derive(Clone, Copy)]
#[repr(C)]
struct UniqueId([u8; 128]);

const I32: u32 = 2;
const F32: u32 = 7;
const SUM: u32 = 0;
const MAX: u32 = 2;
const MIN: u32 = 3;
const INVALID_ARGUMENT: Code = 4;
const INVALID_USAGE: Code = 5;

/// The library, opened by the name that programs ask for.
struct Nccl(Library);

impl Nccl {
    fn open() -> Self {
        // Before any thread starts.
        std::env::set_var("IMMA_FAKE_DEVICES", "3");
        std::env::set_var("IMMA_FAKE_NCCL_MS", "500");
        install();
        // SAFETY: the emulator under another name.
        Nccl(unsafe { Library::new("libnccl.so.2") }.unwrap())
    }

    fn function<F: Copy>(&self, name: &str) -> F {
        // SAFETY: every caller asks for a function by its type.
        *unsafe { self.0.get::<F>(name.as_bytes()) }.unwrap()
    }

    fn id(&self) -> UniqueId {
        let mut id = UniqueId([0; 128]);
        let call: extern "C" fn(*mut UniqueId) -> Code = self.function("ncclGetUniqueId");
        assert_eq!(call(&mut id), 0);
        id
    }

    fn enter(&self, id: UniqueId, rank: i32, ranks: i32) -> Result<Comm, Code> {
        let call: extern "C" fn(*mut Comm, i32, UniqueId, i32) -> Code =
            self.function("ncclCommInitRank");
        let mut comm = 0;
        match call(&mut comm, ranks, id, rank) {
            0 => Ok(comm),
            code => Err(code),
        }
    }

    fn all_reduce(
        &self,
        rank: &Rank,
        (from, to): (u64, u64),
        count: usize,
        [of, by]: [u32; 2],
    ) -> Code {
        let call: extern "C" fn(u64, u64, usize, u32, u32, Comm, *mut c_void) -> Code =
            self.function("ncclAllReduce");
        let stream = rank.stream.cu_stream().cast();
        call(from, to, count, of, by, rank.comm, stream)
    }

    fn all_gather(&self, rank: &Rank, (from, to): (u64, u64), count: usize) -> Code {
        let call: extern "C" fn(u64, u64, usize, u32, Comm, *mut c_void) -> Code =
            self.function("ncclAllGather");
        call(
            from,
            to,
            count,
            I32,
            rank.comm,
            rank.stream.cu_stream().cast(),
        )
    }

    fn end(&self, name: &str, comm: Comm) -> Code {
        let call: extern "C" fn(Comm) -> Code = self.function(name);
        call(comm)
    }
}

/// A rank in its thread.
struct Rank {
    number: usize,
    comm: Comm,
    stream: Arc<CudaStream>,
}

impl Rank {
    fn upload(&self, data: &[i32]) -> CudaSlice<i32> {
        self.stream.clone_htod(data).unwrap()
    }

    fn address(&self, slice: &CudaSlice<i32>) -> u64 {
        slice.device_ptr(&self.stream).0
    }
}

/// A thread a rank, each on a device of its own.
fn ranks<R: Send>(nccl: &Nccl, count: usize, work: impl Fn(&Nccl, Rank) -> R + Sync) -> Vec<R> {
    let id = nccl.id();
    let work = &work;
    std::thread::scope(|scope| {
        let spawn = |number| {
            scope.spawn(move || {
                let context = CudaContext::new(number).unwrap();
                let stream = context.new_stream().unwrap();
                let comm = nccl.enter(id, number as i32, count as i32).unwrap();
                work(
                    nccl,
                    Rank {
                        number,
                        comm,
                        stream,
                    },
                )
            })
        };
        let threads: Vec<_> = (0..count).map(spawn).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    })
}

fn why() -> String {
    install().last_refusal().unwrap_or_default()
}

/// One test, as the number of devices is the process's.
#[test]
fn ranks_reduce_and_gather_and_what_is_wrong_is_named() {
    let nccl = Nccl::open();
    // What is asked for comes.
    let results = ranks(&nccl, 3, |nccl, rank| {
        let data = rank.upload(&[rank.number as i32, i32::MAX, -5]);
        let all = rank.upload(&[0; 9]);
        let (from, to) = (rank.address(&data), rank.address(&all));
        assert_eq!(nccl.all_gather(&rank, (from, to), 3), 0);
        assert_eq!(nccl.all_reduce(&rank, (from, from), 3, [I32, SUM]), 0);
        let sums = rank.stream.clone_dtoh(&data).unwrap();
        let turned = rank.upload(&[-(rank.number as i32), 7]);
        let at = rank.address(&turned);
        assert_eq!(nccl.all_reduce(&rank, (at, at), 2, [I32, MAX]), 0);
        let maxima = rank.stream.clone_dtoh(&turned).unwrap();
        assert_eq!(nccl.end("ncclCommFinalize", rank.comm), 0);
        assert_eq!(
            nccl.all_reduce(&rank, (at, at), 2, [I32, MAX]),
            INVALID_USAGE
        );
        assert_eq!(nccl.end("ncclCommDestroy", rank.comm), 0);
        assert_eq!(nccl.end("ncclCommDestroy", rank.comm), INVALID_ARGUMENT);
        (sums, maxima, rank.stream.clone_dtoh(&all).unwrap())
    });
    for (sums, maxima, all) in results {
        assert_eq!(sums, [3, i32::MAX.wrapping_mul(3), -15]);
        assert_eq!(maxima, [0, 7]);
        let max = i32::MAX;
        assert_eq!(all, [0, max, -5, 1, max, -5, 2, max, -5]);
    }

    // Other counts, other operations, another order: both ranks are named.
    for planted in 0..3 {
        for said in ranks(&nccl, 2, |nccl, rank| {
            let data = rank.upload(&[1; 8]);
            let at = rank.address(&data);
            let odd = rank.number == 1;
            let code = match planted {
                0 => nccl.all_reduce(&rank, (at, at), if odd { 3 } else { 4 }, [I32, SUM]),
                1 => nccl.all_reduce(&rank, (at, at), 4, [I32, if odd { MAX } else { SUM }]),
                _ if odd => nccl.all_reduce(&rank, (at, at), 4, [I32, SUM]),
                _ => nccl.all_gather(&rank, (at, at), 4),
            };
            assert_eq!(code, INVALID_USAGE);
            why()
        }) {
            assert!(
                said.contains("of rank 0") && said.contains("of rank 1"),
                "{said}"
            );
        }
        // The fault sticks to the context, as a kernel's does.
        install().reset();
    }

    // A rank that never comes is a deadlock, one that goes ends the wait at once.
    for aborts in [false, true] {
        let said = ranks(&nccl, 2, |nccl, rank| {
            if rank.number == 1 {
                if aborts {
                    nccl.end("ncclCommAbort", rank.comm);
                }
                return String::new();
            }
            let data = rank.upload(&[1; 4]);
            let at = rank.address(&data);
            assert_eq!(
                nccl.all_reduce(&rank, (at, at), 4, [I32, SUM]),
                INVALID_USAGE
            );
            why()
        });
        let part = if aborts {
            "rank 1 was aborted while rank 0 waits"
        } else {
            "deadlock: rank 0 waits in ncclAllReduce of 4 I32 by Sum, operation 0, to which ranks [1] never came"
        };
        assert!(said[0].contains(part), "{}", said[0]);
        install().reset();
    }

    // Memory of another device, beyond its end, or that nobody wrote; types that are not emulated.
    let elsewhere = CudaContext::new(2).unwrap().new_stream().unwrap();
    let foreign = elsewhere.clone_htod(&[1i32; 4]).unwrap();
    let foreign = foreign.device_ptr(&elsewhere).0;
    ranks(&nccl, 2, |nccl, rank| {
        let data = rank.upload(&[1; 4]);
        let at = rank.address(&data);
        assert_eq!(
            nccl.all_reduce(&rank, (foreign, at), 4, [I32, SUM]),
            INVALID_ARGUMENT
        );
        let said = why();
        let own = format!("is on device {}, its send buffer", rank.number);
        assert!(
            said.contains(&own) && said.contains("on device 2"),
            "{said}"
        );
        assert_eq!(
            nccl.all_reduce(&rank, (at, at), 5, [I32, SUM]),
            INVALID_ARGUMENT
        );
        assert!(why().contains("not inside of an allocation"), "{}", why());
        assert_eq!(
            nccl.all_reduce(&rank, (at, at), 4, [F32, SUM]),
            INVALID_ARGUMENT
        );
        assert_eq!(
            nccl.all_reduce(&rank, (at, at), 4, [I32, MIN]),
            INVALID_ARGUMENT
        );
        let start: extern "C" fn() -> Code = nccl.function("ncclGroupStart");
        assert_eq!(start(), INVALID_USAGE);
    });

    // Two ranks on one device, and an id that is none.
    let id = nccl.id();
    let codes: Vec<_> = std::thread::scope(|scope| {
        let nccl = &nccl;
        let threads = [0, 1].map(|rank| {
            scope.spawn(move || {
                let _context = CudaContext::new(0).unwrap();
                nccl.enter(id, rank, 2)
            })
        });
        threads.map(|t| t.join().unwrap()).into_iter().collect()
    });
    assert!(codes.iter().all(|c| *c == Err(INVALID_USAGE)), "{codes:?}");
    let _context = CudaContext::new(0).unwrap();
    assert_eq!(nccl.enter(UniqueId([0; 128]), 0, 1), Err(INVALID_ARGUMENT));
}
