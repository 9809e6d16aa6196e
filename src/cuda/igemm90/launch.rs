//! A launch with a cluster, and with leave to start while the kernel before it ends.

use super::tensor_map::TensorMap;
use super::tile::{Tile90, THREADS};
use crate::cuda::launch::{driver, same_context};
use crate::cuda::module::Device;
use crate::cuda::params::IgemmSm90Params;
use crate::error::{Error, Result};
use cudarc::driver::{sys, CudaStream};
use std::sync::atomic::Ordering;

/// Enqueues an instance on `blocks` blocks.
///
/// # Safety
/// Maps and parameters describe memory that lives, and that nothing else touches, until the stream is past this launch.
pub(super) unsafe fn enqueue(
    device: &Device,
    stream: &CudaStream,
    tile: &Tile90,
    blocks: u32,
    [tall, wide, output]: [TensorMap; 3],
    params: IgemmSm90Params,
) -> Result<()> {
    same_context("the stream", device.context(), stream.context())?;
    let kernel = device.kernel(tile.entry)?;
    if tile.shared() as u64 > u64::from(kernel.max_dynamic_shared)
        || kernel.max_threads < THREADS as u32
    {
        return Err(Error::Value {
            what: "shared memory and threads of a block",
            found: format!(
                "{} bytes and {THREADS} threads for {}",
                tile.shared(),
                tile.entry
            ),
            expected: format!(
                "at most {} and {}",
                kernel.max_dynamic_shared, kernel.max_threads
            ),
        });
    }
    let context = device.context();
    context
        .bind_to_thread()
        .map_err(driver("cuCtxSetCurrent"))?;
    let mut attributes = [
        // The kernel waits itself for what came before (griddepcontrol.wait) before it touches any operand.
        sys::CUlaunchAttribute {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue {
                programmaticStreamSerializationAllowed: 1,
            },
        },
        sys::CUlaunchAttribute {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue {
                clusterDim: sys::CUlaunchAttributeValue_union__bindgen_ty_1 {
                    x: tile.cluster as u32,
                    y: 1,
                    z: 1,
                },
            },
        },
    ];
    let config = sys::CUlaunchConfig {
        gridDimX: blocks,
        gridDimY: 1,
        gridDimZ: 1,
        blockDimX: THREADS as u32,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: tile.shared() as u32,
        hStream: stream.cu_stream(),
        attrs: attributes.as_mut_ptr(),
        // A cluster of one is none.
        numAttrs: if tile.cluster > 1 { 2 } else { 1 },
    };
    let mut arguments = [
        (&raw const tall).cast_mut().cast(),
        (&raw const wide).cast_mut().cast(),
        (&raw const output).cast_mut().cast(),
        (&raw const params).cast_mut().cast(),
    ];
    // SAFETY: the kernel takes three maps and the parameters, which live here until the call has copied them; the
    // caller answers for what they point to.
    unsafe {
        sys::cuLaunchKernelEx(
            &config,
            kernel.function.cu_function(),
            arguments.as_mut_ptr(),
            std::ptr::null_mut(),
        )
    }
    .result()
    .map_err(driver("cuLaunchKernelEx"))?;
    kernel.launches.fetch_add(1, Ordering::Relaxed);
    Ok(())
}
