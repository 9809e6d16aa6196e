//! Tensor maps: what the tensor memory accelerator knows of an operand.

use crate::cuda::launch::driver;
use crate::error::{Error, Result};
use cudarc::driver::{sys, CudaContext};
use std::sync::{Arc, Mutex};

/// Where an operand lies, and the rows of a tile of it: all that a map depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    pub address: u64,
    pub rows: usize,
    pub k: usize,
    pub stride: usize,
    pub box_rows: usize,
}

/// Why the accelerator can't read an operand; none where it can.
pub(super) fn refusal(address: u64, rows: usize, k: usize, stride: usize) -> Option<String> {
    if k == 0 {
        return Some("K = 0".into());
    }
    if !address.is_multiple_of(16) {
        return Some(format!("address {address:#x}"));
    }
    // The stride of a single row is never used.
    if rows > 1 && (!stride.is_multiple_of(16) || stride as u64 >= 1 << 40) {
        return Some(format!("stride {stride}"));
    }
    None
}

/// A map by value, as a kernel's parameter takes it.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(128))]
pub(super) struct TensorMap(pub sys::CUtensorMap);

impl TensorMap {
    /// int8 rows of 128 bytes of K under the 128-byte swizzle; zeros outside of `[rows, k]`.
    pub fn encode(context: &Arc<CudaContext>, layout: Layout) -> Result<Self> {
        let Layout {
            address,
            rows,
            k,
            stride,
            box_rows,
        } = layout;
        context
            .bind_to_thread()
            .map_err(driver("cuCtxSetCurrent"))?;
        let mut map = TensorMap(sys::CUtensorMap { opaque: [0; 16] });
        let extents = [k as u64, rows as u64];
        let stride = if rows > 1 {
            stride
        } else {
            k.next_multiple_of(16)
        };
        let strides = [stride as u64];
        let boxes = [super::tile::STAGE_K as u32, box_rows as u32];
        let steps = [1u32; 2];
        // SAFETY: every pointer is to a live array of the rank's length, the map is 128-byte aligned; the call reads
        // nothing at `address`.
        unsafe {
            sys::cuTensorMapEncodeTiled(
                &mut map.0,
                sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_UINT8,
                2,
                address as *mut _,
                extents.as_ptr(),
                strides.as_ptr(),
                boxes.as_ptr(),
                steps.as_ptr(),
                sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
                sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        }
        .result()
        .map_err(driver("cuTensorMapEncodeTiled"))?;
        Ok(map)
    }
}

/// The tensor maps of a plan or layer, made when an operand is first met and again only where its address, shape or
/// tile changed.
///
/// ```
/// let maps = imma::cuda::TensorMaps::default();
/// // One for each plan and weight, given to every `Device::igemm90` of it.
/// # let _ = maps;
/// ```
#[derive(Debug, Default)]
pub struct TensorMaps {
    a: Mutex<Option<Box<(Layout, TensorMap)>>>,
    w: Mutex<Option<Box<(Layout, TensorMap)>>>,
}

impl TensorMaps {
    pub(super) fn a(&self, context: &Arc<CudaContext>, layout: Layout) -> Result<TensorMap> {
        Self::get(&self.a, context, layout)
    }

    pub(super) fn w(&self, context: &Arc<CudaContext>, layout: Layout) -> Result<TensorMap> {
        Self::get(&self.w, context, layout)
    }

    fn get(
        kept: &Mutex<Option<Box<(Layout, TensorMap)>>>,
        context: &Arc<CudaContext>,
        layout: Layout,
    ) -> Result<TensorMap> {
        // Nothing panics while it is held.
        let mut kept = kept.lock().unwrap_or_else(|poison| poison.into_inner());
        match &*kept {
            Some(known) if known.0 == layout => Ok(known.1),
            _ => {
                let map = TensorMap::encode(context, layout)?;
                *kept = Some(Box::new((layout, map)));
                Ok(map)
            }
        }
    }
}

/// The error for operands that the accelerator can't read.
pub(super) fn unsupported(what: &'static str, why: String) -> Error {
    Error::Unavailable {
        what: "igemm_sm90",
        found: format!("{what} with {why}"),
        expected: "K of at least 1, addresses and strides that are multiples of 16 bytes, strides below 2^40; other operands go to igemm_sm80"
            .into(),
    }
}
