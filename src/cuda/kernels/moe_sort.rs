//! Where tokens go: `cuda/moe_sort.cu`.

use super::families::MoeSort;
use super::params::{self, MoeSortParams};
use crate::cuda::runtime::{narrow, Device, Entry, Geometry, Held, PreparedLaunch, Region};
use crate::error::{Error, Result};
use cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut};
use std::ops::Range;

/// Elements of workspace that [`moe_sort`] needs for so many pairs of a token and an expert, and experts here.
pub fn moe_sort_workspace(pairs: usize, experts: usize) -> usize {
    match blocks(pairs) {
        1 => 0,
        blocks => blocks.saturating_mul(experts),
    }
}

fn blocks(pairs: usize) -> usize {
    pairs.div_ceil(params::IMMA_SORT_PAIRS as usize).max(1)
}

/// Sorts a router's choices by expert: [`Routing::of_slice`](crate::ops::Routing::of_slice) on the device, the same numbers.
///
/// `indices [T * k]` of experts in `0..total`, of which those of `here` lie on this device. Writes `offsets [here + 1]` and
/// `rows [T * k]`: the row of each pair, -1 for a pair of another expert, and for an index that is no expert's, which
/// [`Device::check_faults`] then tells. Stable, and the same in every run. Enqueues one launch, or two for more than 1024
/// pairs; allocates nothing and waits for nothing.
///
/// # Errors
/// [`Error::Value`] when `here` is empty or not among the experts, or there are more of them than fit a block's shared
/// memory (12,000 at least); [`Error::Length`] for vectors of other lengths; those of the memory itself; what
/// [`Device::check_faults`] knows of earlier calls. After an error nothing was enqueued.
pub fn moe_sort(
    device: &Device,
    stream: &CudaStream,
    indices: &impl DevicePtr<i32>,
    (here, total): (Range<usize>, usize),
    offsets: &mut impl DevicePtrMut<i32>,
    rows: &mut impl DevicePtrMut<i32>,
    workspace: &mut impl DevicePtrMut<i32>,
) -> Result<()> {
    device.check_faults()?;
    let mut held = Held::new(device, stream)?;
    let pairs = indices.len();
    let needed = moe_sort_workspace(pairs, here.len());
    let sort = Sort {
        indices: held.read_vector("the router's indices", indices, pairs)?,
        offsets: held.write_vector("the experts' offsets", offsets, here.len() + 1)?,
        rows: held.write_vector("the rows of the pairs", rows, pairs)?,
        counts: held.write_vector("the workspace", workspace, needed)?,
    };
    enqueue(&held, sort, here, total)
}

/// What a sort reads and writes: vectors of as many elements as it says there.
pub(in crate::cuda) struct Sort<'a> {
    pub indices: Region<'a>,
    pub offsets: Region<'a>,
    pub rows: Region<'a>,
    pub counts: Region<'a>,
}

/// The same over memory that is held.
pub(in crate::cuda) fn enqueue(
    held: &Held<'_>,
    sort: Sort<'_>,
    here: Range<usize>,
    total: usize,
) -> Result<()> {
    const COUNT: Entry<MoeSort> = Entry::new("moe_sort_count");
    const PLACE: Entry<MoeSort> = Entry::new("moe_sort_place");
    if here.is_empty() || here.end > total {
        return Err(Error::Value {
            what: "the range of experts",
            found: format!("{here:?}"),
            expected: format!("at least one of 0..{total}"),
        });
    }
    let (pairs, experts) = (sort.indices.cols, here.len());
    let blocks = blocks(pairs);
    let params = || -> Result<MoeSortParams> {
        Ok(MoeSortParams {
            indices: sort.indices.address as *const _,
            counts: if blocks == 1 { 0 } else { sort.counts.address } as *mut _,
            offsets: sort.offsets.address as *mut _,
            rows: sort.rows.address as *mut _,
            fault: held.device().fault_address() as *mut _,
            pairs: narrow("pairs of a token and an expert", pairs)?,
            first: narrow("the first expert", here.start)?,
            experts: narrow("experts", experts)?,
            total: narrow("experts", total)?,
        })
    };
    let geometry = Geometry::new((blocks as u64, 1), (params::IMMA_SORT_THREADS, 1))
        .with_shared(experts * size_of::<i32>());
    let (device, stream) = (held.device(), held.stream());
    let place = PreparedLaunch::new(device, stream, PLACE, geometry, params()?)?;
    if blocks > 1 {
        let count = PreparedLaunch::new(device, stream, COUNT, geometry, params()?)?;
        // SAFETY: all regions are held, and of the lengths that the parameters say.
        unsafe { count.enqueue()? };
    }
    // SAFETY: as above.
    unsafe { place.enqueue() }
}
