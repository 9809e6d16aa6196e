//! Ranks with a device each, and what they do together through NCCL.

use crate::cuda::runtime::{download, driver, nccl_status, same_context, upload, Device};
use crate::error::{Error, Result};
use crate::gemm::agreement::Agreement;
use cudarc::driver::{CudaSlice, CudaStream, DevicePtr, DevicePtrMut};
use cudarc::nccl::result::{self, NcclError, NcclStatus};
use cudarc::nccl::sys;
use std::ffi::c_void;
use std::fmt;
use std::mem::MaybeUninit;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of what ranks compare when a layer is made.
const AGREEMENT: usize = 4096;

/// What ranks that belong together have in common: made once, on any rank, and carried to the others.
#[derive(Clone, Copy)]
pub struct UniqueId(sys::ncclUniqueId);

impl UniqueId {
    /// A new one.
    ///
    /// # Errors
    /// [`Error::Unavailable`] without NCCL, [`Error::Group`] when it refuses.
    pub fn new() -> Result<Self> {
        available()?;
        let id = result::get_uniqueid();
        id.map(UniqueId)
            .map_err(|error| refused("ncclGetUniqueId", &error, (0, 0)))
    }

    /// Its bytes, for a channel of the caller's.
    pub fn to_bytes(self) -> [u8; 128] {
        self.0.internal.map(|byte| byte as u8)
    }

    /// The one of these bytes.
    pub fn from_bytes(bytes: [u8; 128]) -> Self {
        UniqueId(sys::ncclUniqueId {
            internal: bytes.map(|byte| byte as _),
        })
    }
}

impl fmt::Debug for UniqueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UniqueId")
    }
}

/// One rank's place among ranks that work on a layer together, each on a device of its own.
///
/// All ranks call the same operations in the same order. Operations are enqueued on a stream, allocate nothing and wait for
/// nothing on the host; a graph may hold them. NCCL 2.14 or later is needed. When an operation fails, or a rank
/// [aborts](Self::abort), that rank's part is ended, and every later call of its says why. NCCL asks all ranks to abort then:
/// it does not promise that the others hear of it by themselves, so tell them, or their work may wait until they abort too.
pub struct Group {
    device: Arc<Device>,
    rank: usize,
    ranks: usize,
    comm: Mutex<Comm>,
}

/// NCCL's handle, until it is ended.
struct Comm {
    handle: sys::ncclComm_t,
    /// Why it was ended.
    ended: Option<String>,
}

// SAFETY: NCCL lets any thread use a communicator, one at a time, which the mutex sees to.
unsafe impl Send for Comm {}

/// Refuses to go on where the bindings would panic.
fn available() -> Result<()> {
    let status = nccl_status();
    if status.is_usable() {
        return Ok(());
    }
    Err(Error::Unavailable {
        what: "library",
        found: "NCCL".into(),
        expected: status.to_string(),
    })
}

fn refused(call: &'static str, error: &NcclError, (rank, ranks): (usize, usize)) -> Error {
    Error::Group {
        rank,
        ranks,
        what: format!("{call} gave {:?} ({})", error.0, error.0 as u32),
    }
}

impl Group {
    /// The place of `rank` among `ranks`; waits for all others, which call it too, in other threads or processes.
    ///
    /// # Errors
    /// [`Error::Unavailable`] without NCCL, [`Error::Group`] when it refuses: two ranks on one device, or ranks that never come.
    pub fn new(device: &Arc<Device>, id: UniqueId, rank: usize, ranks: usize) -> Result<Self> {
        available()?;
        let bound = device.context().bind_to_thread();
        bound.map_err(driver("cuCtxSetCurrent"))?;
        let number = |n: usize| {
            i32::try_from(n).map_err(|_| Error::Value {
                what: "the number of ranks",
                found: n.to_string(),
                expected: "one that an i32 holds".into(),
            })
        };
        let (r, n) = (number(rank)?, number(ranks)?);
        let mut handle = MaybeUninit::uninit();
        // SAFETY: the handle is written before a success is answered; the device's context is current.
        let made = unsafe { result::comm_init_rank(handle.as_mut_ptr(), n, id.0, r) };
        made.map_err(|error| refused("ncclCommInitRank", &error, (rank, ranks)))?;
        // SAFETY: it was made.
        let handle = unsafe { handle.assume_init() };
        Ok(Group {
            device: device.clone(),
            rank,
            ranks,
            comm: Mutex::new(Comm {
                handle,
                ended: None,
            }),
        })
    }

    /// The places of devices of this process, in their order.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn of_devices(devices: &[Arc<Device>]) -> Result<Vec<Self>> {
        let id = UniqueId::new()?;
        std::thread::scope(|scope| {
            let place =
                |(rank, device)| scope.spawn(move || Self::new(device, id, rank, devices.len()));
            let threads: Vec<_> = devices.iter().enumerate().map(place).collect();
            let places = threads.into_iter().map(|thread| thread.join());
            places
                .map(|place| place.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect()
        })
    }

    /// Which rank this is.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// How many ranks there are.
    pub fn ranks(&self) -> usize {
        self.ranks
    }

    /// This rank's device.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// Ends this rank's part: every later call answers `why`. The other ranks have to abort as well.
    pub fn abort(&self, why: &str) {
        let mut comm = self.comm.lock().unwrap_or_else(PoisonError::into_inner);
        comm.end(why);
    }

    /// The maximum over the ranks, element by element, where it lies.
    ///
    /// # Errors
    /// [`Error::Group`] when NCCL refuses, now or before; [`Error::Value`] for memory of another device.
    pub fn all_reduce_max(
        &self,
        stream: &CudaStream,
        values: &mut impl DevicePtrMut<i32>,
    ) -> Result<()> {
        self.all_reduce(stream, values, sys::ncclRedOp_t::ncclMax)
    }

    /// The sum over the ranks, element by element, where it lies; it wraps.
    ///
    /// # Errors
    /// As [`all_reduce_max`](Self::all_reduce_max).
    pub fn all_reduce_sum(
        &self,
        stream: &CudaStream,
        values: &mut impl DevicePtrMut<i32>,
    ) -> Result<()> {
        self.all_reduce(stream, values, sys::ncclRedOp_t::ncclSum)
    }

    fn all_reduce(
        &self,
        stream: &CudaStream,
        values: &mut impl DevicePtrMut<i32>,
        by: sys::ncclRedOp_t,
    ) -> Result<()> {
        let context = values.stream().context().clone();
        same_context("values to reduce", self.device.context(), &context)?;
        let count = values.len();
        let (address, _guard) = values.device_ptr_mut(stream);
        self.call("ncclAllReduce", stream, |comm, stream| {
            let of = sys::ncclDataType_t::ncclInt32;
            let from = address as *const c_void;
            // SAFETY: `count` integers of this device, which the guard keeps until the call is enqueued.
            unsafe { result::all_reduce(from, address as *mut c_void, count, of, by, comm, stream) }
        })
    }

    /// The bytes of every rank, in the order of ranks.
    fn all_gather(
        &self,
        stream: &CudaStream,
        from: &CudaSlice<u8>,
        to: &mut CudaSlice<u8>,
    ) -> Result<()> {
        let count = from.len();
        if to.len() != count * self.ranks {
            return Err(self.error(format!("room for {} bytes of {count} a rank", to.len())));
        }
        let (from, _read) = from.device_ptr(stream);
        let (to, _written) = to.device_ptr_mut(stream);
        self.call("ncclAllGather", stream, |comm, stream| {
            let of = sys::ncclDataType_t::ncclUint8;
            // SAFETY: memory of this device of the sizes that were just checked, kept by the guards.
            unsafe {
                result::all_gather(
                    from as *const c_void,
                    to as *mut c_void,
                    count,
                    of,
                    comm,
                    stream,
                )
            }
        })
    }

    fn call(
        &self,
        name: &'static str,
        stream: &CudaStream,
        call: impl FnOnce(sys::ncclComm_t, sys::cudaStream_t) -> Result<NcclStatus, NcclError>,
    ) -> Result<()> {
        same_context("the stream", self.device.context(), stream.context())?;
        let bound = self.device.context().bind_to_thread();
        bound.map_err(driver("cuCtxSetCurrent"))?;
        let mut comm = self.comm.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(why) = &comm.ended {
            return Err(self.error(why.clone()));
        }
        let mut pending = sys::ncclResult_t::ncclSuccess;
        // SAFETY: the handle is live, and one result is written.
        let asked = unsafe { sys::ncclCommGetAsyncError(comm.handle, &mut pending) };
        let before = [asked, pending].into_iter().find(|r| r.result().is_err());
        let done = match before {
            Some(error) => Err(NcclError(error)),
            None => call(comm.handle, stream.cu_stream().cast()),
        };
        done.map(|_| ()).map_err(|error| {
            let error = refused(name, &error, (self.rank, self.ranks));
            comm.end(&format!("the group ended earlier: {error}"));
            error
        })
    }

    pub(super) fn error(&self, what: String) -> Error {
        Error::Group {
            rank: self.rank,
            ranks: self.ranks,
            what,
        }
    }

    /// Compares what the ranks say; waits for them.
    pub(super) fn agree(&self, stream: &Arc<CudaStream>, mine: &Agreement) -> Result<()> {
        let mut bytes = mine.to_bytes();
        if bytes.len() > AGREEMENT {
            let what = format!("{} bytes to agree on, more than {AGREEMENT}", bytes.len());
            return Err(self.error(what));
        }
        // What fills it up is no line.
        bytes.resize(AGREEMENT, b'\n');
        let from = upload(stream, &bytes)?;
        let mut to = upload(stream, &vec![0u8; AGREEMENT * self.ranks])?;
        self.all_gather(stream, &from, &mut to)?;
        let all = download(stream, &to)?;
        let all: Vec<Vec<u8>> = all.chunks(AGREEMENT).map(<[u8]>::to_vec).collect();
        Agreement::differences(&all).map_err(|what| self.error(what))
    }

    /// Runs `work`; when it fails this rank's part is ended.
    pub(super) fn or_abort<R>(&self, work: impl FnOnce() -> Result<R>) -> Result<R> {
        let done = work();
        if let Err(why) = &done {
            self.abort(&why.to_string());
        }
        done
    }
}

impl Comm {
    fn end(&mut self, why: &str) {
        if self.ended.is_none() {
            self.ended = Some(why.into());
            // SAFETY: the handle is live, and not used after this.
            let _ = unsafe { result::comm_abort(self.handle) };
        }
    }
}

impl Drop for Comm {
    fn drop(&mut self) {
        if self.ended.is_some() {
            return;
        }
        // SAFETY: the handle is live, and not used after this. What can't be ended well is ended at once.
        unsafe {
            let finalised = result::comm_finalize(self.handle);
            if finalised.is_err() || result::comm_destroy(self.handle).is_err() {
                let _ = result::comm_abort(self.handle);
            }
        }
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group")
            .field("rank", &self.rank)
            .field("ranks", &self.ranks)
            .field("device", &self.device.context().ordinal())
            .finish()
    }
}
