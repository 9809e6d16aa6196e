//! NCCL, as much of it as integer all-reduces and gathers need, over the emulated devices of this process: one rank a thread.
//!
//! ```text
//! status   results        world   ranks of one unique id and what they do together        this file   the C functions
//! ```
//!
//! A collective runs where the driver's work runs: in the thread that enqueues it, or replays the graph that holds it. There
//! it waits for the other ranks, so every rank needs a thread of its own, and calls of several ranks between
//! `ncclGroupStart` and `ncclGroupEnd` of one thread are refused. Ranks that call different things, buffers of another
//! device or outside of an allocation, bytes that nobody wrote, a rank that leaves and one that never comes (a deadlock, after
//! `IMMA_FAKE_NCCL_MS`, 20000 by default) are errors with both ranks in the reason.
mod status;
mod world;

use std::collections::HashMap;
use std::ffi::c_char;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};

use crate::driver::abi::Out;
use crate::driver::handles::Table;
use crate::driver::state::{lock, Driver};
use crate::driver::status::Status as DriverStatus;
use crate::driver::work::{submit, Work};
use crate::driver::{self};
use status::{Result, Status};
use world::{Call, Reduction, Type, World};

/// 2.27.0, as the library counts.
const VERSION: i32 = 22_700;
/// Bytes of an `ncclUniqueId`.
const ID_BYTES: usize = 128;
/// What our ids begin with.
const MARK: &[u8; 8] = b"fakenccl";

/// `ncclUniqueId`, which goes by value.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct UniqueId([u8; ID_BYTES]);

/// A communicator.
struct Comm {
    world: Arc<World>,
    rank: usize,
    device: i32,
    /// Operations that this rank has run.
    turn: AtomicU64,
    finalised: Mutex<bool>,
}

struct Library {
    comms: Table<Comm>,
    worlds: Mutex<HashMap<u64, Arc<World>>>,
}

fn library() -> &'static Library {
    static LIBRARY: OnceLock<Library> = OnceLock::new();
    LIBRARY.get_or_init(|| Library {
        comms: Table::new("NCCL communicator"),
        worlds: Mutex::default(),
    })
}

impl Library {
    fn comm(&self, handle: usize) -> Result<Arc<Comm>> {
        let comm = self.comms.get(handle);
        comm.map_err(|r| Status::INVALID_ARGUMENT.because(r.why.unwrap_or_default()))
    }

    fn end(&self, handle: usize, how: &'static str) -> Result {
        let comm = self.comm(handle)?;
        // It may have been removed meanwhile, by another thread: then there is nothing left to do.
        let _ = self.comms.remove(handle);
        comm.world.leave(comm.rank, how);
        Ok(())
    }
}

/// Answers one exported call: counts it, reports a refusal, keeps panics on this side.
fn answer(name: &'static str, body: impl FnOnce(&'static Library) -> Result) -> Status {
    driver::count(name);
    match catch_unwind(AssertUnwindSafe(|| body(library()))) {
        Ok(Ok(())) => Status::SUCCESS,
        Ok(Err(refusal)) => {
            driver::note_refusal(&format!("{name}: {:?}: {}", refusal.status, refusal.why));
            refusal.status
        }
        Err(panic) => {
            let text = driver::panic_text(&*panic);
            driver::note_refusal(&format!("{name}: the emulator panicked: {text}"));
            Status::INTERNAL_ERROR
        }
    }
}

#[no_mangle]
extern "C" fn ncclGetVersion(out: Out<i32>) -> Status {
    answer("ncclGetVersion", |_| Ok(out.set(VERSION)?))
}

#[no_mangle]
extern "C" fn ncclGetErrorString(status: Status) -> *const c_char {
    status.text().as_ptr()
}

#[no_mangle]
extern "C" fn ncclGetUniqueId(out: Out<UniqueId>) -> Status {
    answer("ncclGetUniqueId", |_| {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let mut id = UniqueId([0; ID_BYTES]);
        id.0[..8].copy_from_slice(MARK);
        id.0[8..16].copy_from_slice(&NEXT.fetch_add(1, Relaxed).to_le_bytes());
        Ok(out.set(id)?)
    })
}

#[no_mangle]
extern "C" fn ncclCommInitRank(out: Out<usize>, ranks: i32, id: UniqueId, rank: i32) -> Status {
    answer("ncclCommInitRank", |library| {
        driver::ready()?;
        let (mark, number) = (&id.0[..8], &id.0[8..16]);
        if mark != MARK {
            return Err(
                Status::INVALID_ARGUMENT.because("the unique id is none of ncclGetUniqueId's")
            );
        }
        let number = number
            .iter()
            .rev()
            .fold(0, |n, byte| n << 8 | u64::from(*byte));
        let good = ranks >= 1 && (0..ranks).contains(&rank);
        if !good {
            let why = format!("rank {rank} of {ranks}");
            return Err(Status::INVALID_ARGUMENT.because(why));
        }
        let (ranks, rank) = (ranks as usize, rank as usize);
        let world = {
            let mut worlds = lock(&library.worlds);
            let world = worlds.entry(number);
            world.or_insert_with(|| Arc::new(World::new(ranks))).clone()
        };
        let device = driver::current_device();
        world.enter(ranks, rank, device)?;
        lock(&library.worlds).remove(&number);
        Ok(out.set(library.comms.insert(Comm {
            world,
            rank,
            device,
            turn: AtomicU64::new(0),
            finalised: Mutex::new(false),
        }))?)
    })
}

#[no_mangle]
extern "C" fn ncclCommFinalize(comm: usize) -> Status {
    answer("ncclCommFinalize", |library| {
        let comm = library.comm(comm)?;
        let mut finalised = lock(&comm.finalised);
        if *finalised {
            return Err(Status::INVALID_ARGUMENT.because("the communicator is finalised already"));
        }
        *finalised = true;
        Ok(())
    })
}

#[no_mangle]
extern "C" fn ncclCommDestroy(comm: usize) -> Status {
    answer("ncclCommDestroy", |library| {
        library.end(comm, "was destroyed")
    })
}

#[no_mangle]
extern "C" fn ncclCommAbort(comm: usize) -> Status {
    answer("ncclCommAbort", |library| library.end(comm, "was aborted"))
}

#[no_mangle]
extern "C" fn ncclCommGetAsyncError(comm: usize, out: Out<Status>) -> Status {
    answer("ncclCommGetAsyncError", |library| {
        let comm = library.comm(comm)?;
        Ok(out.set(comm.world.broken().unwrap_or(Status::SUCCESS))?)
    })
}

#[no_mangle]
extern "C" fn ncclCommCount(comm: usize, out: Out<i32>) -> Status {
    answer("ncclCommCount", |library| {
        Ok(out.set(library.comm(comm)?.world.ranks as i32)?)
    })
}

#[no_mangle]
extern "C" fn ncclCommUserRank(comm: usize, out: Out<i32>) -> Status {
    answer("ncclCommUserRank", |library| {
        Ok(out.set(library.comm(comm)?.rank as i32)?)
    })
}

#[no_mangle]
extern "C" fn ncclCommCuDevice(comm: usize, out: Out<i32>) -> Status {
    answer("ncclCommCuDevice", |library| {
        Ok(out.set(library.comm(comm)?.device)?)
    })
}

#[no_mangle]
extern "C" fn ncclGroupStart() -> Status {
    answer("ncclGroupStart", |_| {
        let why = "groups of calls are not emulated: one rank a thread, one call at a time";
        Err(Status::INVALID_USAGE.because(why))
    })
}

#[no_mangle]
extern "C" fn ncclGroupEnd() -> Status {
    answer("ncclGroupEnd", |_| {
        Err(Status::INVALID_USAGE.because("ncclGroupEnd without ncclGroupStart"))
    })
}

/// Where a collective reads and writes.
#[derive(Clone, Copy)]
struct Buffers {
    from: (u64, u64),
    to: (u64, u64),
}

impl Comm {
    /// Refuses memory that is not all inside of one allocation of this rank's device.
    fn check(&self, driver: &Driver, what: &str, (at, bytes): (u64, u64)) -> Result {
        if bytes == 0 {
            return Ok(());
        }
        let whole = driver.memory.allocation(at);
        let inside = whole.filter(|(base, size)| at + bytes <= base + size);
        let Some((base, _)) = inside else {
            let why = format!(
                "rank {}: the {what} buffer {at:#x}+{bytes} is not inside of an allocation",
                self.rank
            );
            return Err(Status::INVALID_ARGUMENT.because(why));
        };
        let owner = lock(&driver.owners).get(&base).copied();
        match owner {
            Some(owner) if owner != self.device => {
                let why = format!(
                    "rank {} is on device {}, its {what} buffer {at:#x} on device {owner}",
                    self.rank, self.device
                );
                Err(Status::INVALID_ARGUMENT.because(why))
            }
            _ => Ok(()),
        }
    }

    fn run(&self, driver: &Driver, call: Call, buffers: Buffers) -> Result {
        let mut part = vec![0; buffers.from.1 as usize];
        let read = driver.memory.read(buffers.from.0, &mut part);
        read.map_err(|fault| Status::CUDA_ERROR.because(fault))?;
        let turn = self.turn.fetch_add(1, Relaxed);
        let made = self.world.join(turn, self.rank, call, part)?;
        let written = driver.memory.write(buffers.to.0, &made);
        written.map_err(|fault| Status::CUDA_ERROR.because(fault))
    }
}

/// Enqueues a collective.
fn enqueue(library: &Library, comm: usize, call: Call, buffers: Buffers, stream: usize) -> Result {
    let driver = driver::ready()?;
    let comm = library.comm(comm)?;
    if *lock(&comm.finalised) {
        return Err(Status::INVALID_USAGE.because("a call after ncclCommFinalize"));
    }
    if driver::current_device() != comm.device {
        let why = format!(
            "rank {} is on device {}, the calling thread's context on device {}",
            comm.rank,
            comm.device,
            driver::current_device()
        );
        return Err(Status::INVALID_USAGE.because(why));
    }
    comm.check(driver, "send", buffers.from)?;
    comm.check(driver, "receive", buffers.to)?;
    let stream = driver.stream(stream)?;
    let task = Work::Task(Arc::new(move |driver: &Driver| {
        comm.run(driver, call, buffers).map_err(|refusal| {
            let why = format!("{:?}: {}", refusal.status, refusal.why);
            DriverStatus::LAUNCH_FAILED.because(why)
        })
    }));
    submit(driver, &stream, task).map_err(|refusal| {
        let said = format!("{:?}", refusal.status);
        Status::INVALID_USAGE.because(refusal.why.unwrap_or(said))
    })
}

#[no_mangle]
extern "C" fn ncclAllReduce(
    from: u64,
    to: u64,
    count: usize,
    of: u32,
    by: u32,
    comm: usize,
    stream: usize,
) -> Status {
    answer("ncclAllReduce", |library| {
        let (of, by) = (
            Type::new(of)?,
            match by {
                0 => Reduction::Sum,
                2 => Reduction::Max,
                _ => {
                    let why = format!("ncclRedOp_t {by} is none, or not emulated");
                    return Err(Status::INVALID_ARGUMENT.because(why));
                }
            },
        );
        if !matches!(of, Type::I32 | Type::U32) {
            let why = format!("an all-reduce of {of:?}: integers of 32 bits alone are emulated");
            return Err(Status::INVALID_ARGUMENT.because(why));
        }
        let bytes = (count * of.bytes()) as u64;
        let buffers = Buffers {
            from: (from, bytes),
            to: (to, bytes),
        };
        enqueue(
            library,
            comm,
            Call::AllReduce(count, of, by),
            buffers,
            stream,
        )
    })
}

#[no_mangle]
extern "C" fn ncclAllGather(
    from: u64,
    to: u64,
    count: usize,
    of: u32,
    comm: usize,
    stream: usize,
) -> Status {
    answer("ncclAllGather", |library| {
        let of = Type::new(of)?;
        let bytes = (count * of.bytes()) as u64;
        let ranks = library.comm(comm)?.world.ranks as u64;
        let buffers = Buffers {
            from: (from, bytes),
            to: (to, bytes * ranks),
        };
        enqueue(library, comm, Call::AllGather(count, of), buffers, stream)
    })
}
