//! Tensor maps: what the tensor memory accelerator knows of an operand or output.

use crate::cuda::runtime::{driver, Region};
use crate::element::DType;
use crate::error::{Error, Result};
use cudarc::driver::{sys, CudaContext};
use std::sync::{Arc, Mutex};

/// Bytes of a box's row: the span of the 128-byte swizzle.
pub(super) const BOX_BYTES: usize = 128;

/// What the elements of a matrix are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Element {
    Byte,
    F16,
    BF16,
    F32,
}

impl Element {
    fn bytes(self) -> usize {
        match self {
            Element::Byte => 1,
            Element::F16 | Element::BF16 => 2,
            Element::F32 => 4,
        }
    }

    fn code(self) -> sys::CUtensorMapDataType {
        match self {
            Element::Byte => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_UINT8,
            Element::F16 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
            Element::BF16 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
            Element::F32 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
        }
    }

    /// That of an output which kernels store by maps; none where they do not.
    pub fn stored(dtype: DType) -> Option<Self> {
        match dtype {
            DType::F16 => Some(Element::F16),
            DType::BF16 => Some(Element::BF16),
            DType::F32 => Some(Element::F32),
            DType::I8 | DType::I32 => None,
        }
    }
}

/// Where a matrix lies, and the rows of a box of it: all that a map depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    pub address: u64,
    pub element: Element,
    pub rows: usize,
    pub cols: usize,
    pub stride: usize,
    pub box_rows: usize,
}

impl Layout {
    /// Of a region; its box is still open.
    pub fn of(region: &Region<'_>, element: Element) -> Self {
        Layout {
            address: region.address,
            element,
            rows: region.rows,
            cols: region.cols,
            stride: region.stride,
            box_rows: 0,
        }
    }

    /// Why the accelerator can't reach it; none where it can.
    pub fn refusal(&self) -> Option<String> {
        if self.cols == 0 {
            return Some("K = 0".into());
        }
        if !self.address.is_multiple_of(16) {
            return Some(format!("address {:#x}", self.address));
        }
        // The stride of a single row is never used.
        let stride = self.stride.checked_mul(self.element.bytes());
        if self.rows > 1 && !stride.is_some_and(|s| s.is_multiple_of(16) && (s as u64) < 1 << 40) {
            return Some(format!("stride {}", self.stride));
        }
        None
    }
}

/// A map by value, as a kernel's parameter.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(128))]
pub(super) struct TensorMap(pub sys::CUtensorMap);

impl TensorMap {
    /// For a kernel that neither reads nor writes through it.
    pub fn unused() -> Self {
        TensorMap(sys::CUtensorMap { opaque: [0; 16] })
    }

    /// Boxes of 128 bytes a row under the 128-byte swizzle; outside of `[rows, cols]` zeros are read, nothing written.
    /// A context must be current.
    fn encode(layout: Layout) -> Result<Self> {
        let Layout {
            address,
            element,
            rows,
            cols,
            stride,
            box_rows,
        } = layout;
        let mut map = TensorMap::unused();
        let extents = [cols as u64, rows as u64];
        let stride = if rows > 1 { stride } else { cols };
        let strides = [(stride * element.bytes()).next_multiple_of(16) as u64];
        let boxes = [(BOX_BYTES / element.bytes()) as u32, box_rows as u32];
        let steps = [1u32; 2];
        // SAFETY: every pointer is to a live array of the rank's length, the map is 128-byte aligned; the call reads
        // nothing at `address`.
        unsafe {
            sys::cuTensorMapEncodeTiled(
                &mut map.0,
                element.code(),
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

/// The tensor maps of a plan, made when an operand or output is first met and again only where its address, shape or tile
/// changed.
///
/// ```
/// let maps = imma::cuda::kernels::igemm_sm90::TensorMaps::default();
/// // One for each product that is enqueued again and again.
/// # let _ = maps;
/// ```
#[derive(Debug, Default)]
pub struct TensorMaps {
    a: Mutex<Option<Box<(Layout, TensorMap)>>>,
    w: Mutex<Option<Box<(Layout, TensorMap)>>>,
    output: Mutex<Option<Box<(Layout, TensorMap)>>>,
}

impl TensorMaps {
    pub(super) fn a(&self, context: &Arc<CudaContext>, layout: Layout) -> Result<TensorMap> {
        Self::get(&self.a, context, layout)
    }

    pub(super) fn w(&self, context: &Arc<CudaContext>, layout: Layout) -> Result<TensorMap> {
        Self::get(&self.w, context, layout)
    }

    pub(super) fn output(&self, context: &Arc<CudaContext>, layout: Layout) -> Result<TensorMap> {
        Self::get(&self.output, context, layout)
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
                context
                    .bind_to_thread()
                    .map_err(driver("cuCtxSetCurrent"))?;
                let map = TensorMap::encode(layout)?;
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
