//! The epilogue on the device: [`crate::epilogue`] with its parts in device memory, and `cuda/epilogue.cu`, which runs it
//! over sums that lie in memory.
//!
//! ```text
//!   Epilogue<OnDevice>   what callers give: slices and views        -- hold -->
//!   Epilogue<InRegions>  addresses that were taken and checked      -- params -->
//!   EpilogueParams       its one form on the device, inside the parameters of every kernel that finishes sums
//! ```

use super::batches::Batches;
use super::checked::{CheckedProduct, Parts};
use super::epilogue_parts::{check_place, hold, OnDevice, Tagged};
use super::families::{EpiloguePerRow, EpilogueSums};
use super::params::{self, EpilogueParams, FinishParams, FinishQuantizeParams};
use crate::activation::Activation;
use crate::cuda::runtime::{
    narrow, Device, DeviceOutput, DeviceVector, Entry, Geometry, Held, Matrix, PreparedLaunch,
    Region, MAX_GRID_Y,
};
use crate::element::DType;
use crate::epilogue::{Epilogue, Output, Scales, ZeroPoints};
use crate::error::Result;
use cudarc::driver::{CudaStream, DevicePtr};

/// The codes that kernels know element types by.
fn type_code(dtype: DType) -> u32 {
    match dtype {
        DType::F32 => params::IMMA_TYPE_F32,
        DType::F16 => params::IMMA_TYPE_F16,
        DType::BF16 => params::IMMA_TYPE_BF16,
        DType::I32 => params::IMMA_TYPE_I32,
        DType::I8 => params::IMMA_TYPE_I8,
    }
}

fn activation_code(activation: Activation) -> u32 {
    match activation {
        Activation::None => params::IMMA_ACTIVATION_NONE,
        Activation::Relu => params::IMMA_ACTIVATION_RELU,
        Activation::Silu => params::IMMA_ACTIVATION_SILU,
        Activation::Gelu => params::IMMA_ACTIVATION_GELU,
        Activation::GeluTanh => params::IMMA_ACTIVATION_GELU_TANH,
    }
}

/// Which parts have their groups of four columns aligned to one access.
fn vectors(parts: &Parts<'_>) -> u32 {
    let (epilogue, batches) = (&parts.epilogue, &parts.batches);
    let mut flags = 0;
    let mut vector = |flag: u32, address: u64, strides: [usize; 2], bytes: usize| {
        let whole = strides.iter().all(|s| s.is_multiple_of(4));
        if whole && address.is_multiple_of(4 * bytes as u64) {
            flags |= flag;
        }
    };
    let out = &parts.out;
    let strides = [out.stride, batches.output];
    let bytes = epilogue.output.dtype().bytes();
    vector(params::IMMA_VECTOR_OUTPUT, out.address, strides, bytes);
    let scales = match &epilogue.col_scales {
        Scales::PerVector(v) => v.address,
        _ => 0,
    };
    let strides = [0, batches.cols];
    vector(params::IMMA_VECTOR_COL_SCALES, scales, strides, 4);
    if let Some(bias) = &epilogue.bias {
        let bytes = bias.dtype.bytes();
        vector(
            params::IMMA_VECTOR_BIAS,
            bias.region.address,
            strides,
            bytes,
        );
    }
    if let Some(Tagged { dtype, region }) = &epilogue.residual {
        let strides = [region.stride, batches.residual];
        vector(
            params::IMMA_VECTOR_RESIDUAL,
            region.address,
            strides,
            dtype.bytes(),
        );
    }
    flags
}

impl CheckedProduct<'_> {
    /// The epilogue in its one form on the device.
    pub(super) fn epilogue_params(&self) -> Result<EpilogueParams> {
        let (parts, shape) = (self.parts(), self.shape());
        let (epilogue, batches, out) = (&parts.epilogue, &parts.batches, &parts.out);
        // Kernels count these in 32 bits.
        let step32 = |what, len, stride| {
            narrow(what, batches.span(len, stride)?).and_then(|_| narrow(what, stride))
        };
        // Address, whether each has its own, and what all have where there is no address.
        let (row_scales, row_step, row_scale) = match &epilogue.row_scales {
            Scales::None => (0, 1, 1.0),
            Scales::PerTensor(one) => (0, 1, *one),
            Scales::PerVector(v) => (v.address, u32::from(v.cols != 1), 1.0),
        };
        let (col_scales, col_step) = match &epilogue.col_scales {
            Scales::PerVector(v) => (v.address, u32::from(v.cols != 1)),
            Scales::None | Scales::PerTensor(_) => (0, 1),
        };
        let (row_zeros, zero_step, row_zero) = match &epilogue.row_zero_points {
            ZeroPoints::None => (0, 1, 0),
            ZeroPoints::PerTensor(one) => (0, 1, *one),
            ZeroPoints::PerVector(v) => (v.address, u32::from(v.cols != 1), 0),
        };
        let place = |part: &Option<Tagged<'_>>| match part {
            Some(Tagged { dtype, region }) => {
                (type_code(*dtype), region.address, region.stride as u64)
            }
            None => (0, 0, 0),
        };
        let (bias_type, bias, _) = place(&epilogue.bias);
        let (residual_type, residual, residual_stride) = place(&epilogue.residual);
        Ok(EpilogueParams {
            output: out.address as *mut _,
            residual: residual as *const _,
            bias: bias as *const _,
            row_scales: row_scales as *const _,
            col_scales: col_scales as *const _,
            row_zeros: row_zeros as *const _,
            col_sums: parts.col_sums.map_or(0, |s| s.address) as *const _,
            output_stride: out.stride as u64,
            residual_stride,
            output_batch: batches.output as u64,
            residual_batch: batches.residual as u64,
            row_batch: step32("rows of a batch", shape.m, batches.rows)?,
            col_batch: step32("columns of a batch", shape.n, batches.cols)?,
            rows: narrow("rows", shape.m)?,
            cols: narrow("columns", shape.n)?,
            row_step,
            col_step,
            zero_step,
            output_type: type_code(epilogue.output.dtype()),
            residual_type,
            bias_type,
            activation: activation_code(epilogue.activation),
            vectors: vectors(parts),
            out_multiplier: match epilogue.output {
                Output::Int8 { scale } => 1.0 / scale,
                _ => 0.0,
            },
            gated: epilogue.gated.into(),
            row_scale,
            row_zero,
        })
    }
}

/// Where int32 sums lie: `splits` matrices, `split_stride` elements apart; the next product's come right after the last.
#[derive(Clone, Copy)]
pub(in crate::cuda) struct Sums<'a> {
    /// The first matrix.
    pub region: Region<'a>,
    pub splits: usize,
    pub split_stride: usize,
}

impl<'a> Sums<'a> {
    /// One matrix of them.
    pub fn whole(region: Region<'a>) -> Self {
        Self {
            region,
            splits: 1,
            split_stride: 0,
        }
    }

    fn finish(&self, epilogue: EpilogueParams) -> Result<FinishParams> {
        let Region {
            address, stride, ..
        } = self.region;
        let vector = address.is_multiple_of(16)
            && stride.is_multiple_of(4)
            && (self.splits == 1 || self.split_stride.is_multiple_of(4));
        Ok(FinishParams {
            sums: address as *const _,
            stride: stride as u64,
            split_stride: self.split_stride as u64,
            batch_stride: (self.splits * self.split_stride) as u64,
            splits: narrow("splits", self.splits)?,
            vector: vector.into(),
            epilogue,
        })
    }
}

/// Enqueues the epilogue of a product over its sums, to whatever output.
pub(in crate::cuda) fn enqueue(
    held: &Held<'_>,
    product: &CheckedProduct<'_>,
    sums: Sums<'_>,
) -> Result<()> {
    const SUMS: Entry<EpilogueSums> = Entry::new("epilogue_i32");
    const PER_ROW: Entry<EpiloguePerRow> = Entry::new("epilogue_quantize");
    let (device, stream) = (held.device(), held.stream());
    let shape = product.shape();
    let threads = params::IMMA_EPILOGUE_THREADS;
    let finish = sums.finish(product.epilogue_params()?)?;
    if let Some(scales) = product.parts().row_scales_out {
        // No columns still have scales.
        if shape.m == 0 {
            return Ok(());
        }
        let geometry = Geometry::new((shape.m as u64, 1), (threads, 1));
        let params = FinishQuantizeParams {
            scales: scales.address as *mut _,
            finish,
        };
        let launch = PreparedLaunch::new(device, stream, PER_ROW, geometry, params)?;
        // SAFETY: the product was checked, the scales have an element a row, and the caller's sums an element an output.
        return unsafe { launch.enqueue() };
    }
    if product.is_empty() {
        return Ok(());
    }
    let grid = (
        shape.n.div_ceil(4).div_ceil(threads as usize) as u64,
        (shape.m as u64).min(MAX_GRID_Y),
    );
    let geometry = Geometry::new(grid, (threads, 1)).with_depth(product.parts().batches.count);
    let launch = PreparedLaunch::new(device, stream, SUMS, geometry, finish)?;
    // SAFETY: as above.
    unsafe { launch.enqueue() }
}

/// `output = epilogue(sums)`: int32 sums `[M, N]` that lie in memory, to any output. The output is `[M, N]`, or
/// `[M, N / 2]` when gated; `col_sums` are the sums of the weights' rows, exactly when there are zero points.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) when the output does not have the shape that the sums become, [`Error::Length`](crate::Error::Length) when a vector does not
/// fit, [`Error::Epilogue`](crate::Error::Epilogue) when a part does not go with the output, and those of the memory itself. After an error nothing
/// was enqueued.
pub fn epilogue(
    device: &Device,
    stream: &CudaStream,
    sums: Matrix<&impl DevicePtr<i32>>,
    epilogue: &Epilogue<OnDevice<'_>>,
    col_sums: Option<DeviceVector<'_, i32>>,
    mut output: Matrix<DeviceOutput<'_>>,
) -> Result<()> {
    let mut held = Held::new(device, stream)?;
    let sums = held.read("sums", &sums)?;
    check_place(epilogue.output, &output.data)?;
    let (out, row_scales_out) = output.hold("output", &mut held)?;
    let col_sums = match &col_sums {
        Some(sums) => Some(held.read("column sums", &Matrix::new(&sums.0, 1, sums.len()))?),
        None => None,
    };
    let parts = Parts {
        // As if of operands without a contracted dimension.
        a: sums.columns_to(0),
        w: Region::rows_without_columns(sums.cols),
        out,
        row_scales_out,
        col_sums,
        groups: None,
        epilogue: hold(epilogue, &mut held)?,
        batches: Batches::ONE,
        group_rows: None,
    };
    let product = CheckedProduct::new("epilogue", parts)?;
    enqueue(&held, &product, Sums::whole(sums))
}
