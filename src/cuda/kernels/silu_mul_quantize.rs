//! SiLU, product and per-token quantisation: `cuda/silu_mul_quantize.cu`.

use super::families::SiluMulQuantize;
use super::params::{self, SiluMulQuantizeParams};
use super::quantize_rows::{check_output, geometry};
use crate::cuda::runtime::{narrow, Device, DeviceElement, Entry, Held, Matrix, PreparedLaunch};
use crate::error::{Error, Result};
use cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut};

const OP: &str = "silu_mul_quantize";
const ENTRIES: [Entry<SiluMulQuantize>; 3] = [
    Entry::new("silu_mul_quantize_f32"),
    Entry::new("silu_mul_quantize_f16"),
    Entry::new("silu_mul_quantize_bf16"),
];

/// `SiLU(gate) * up`, each row quantised with its own scale: what runs right before a SwiGLU's last product.
///
/// ```text
/// y[r, c]      = T( T( silu(gate[r, c]) ) * up[r, c] )                                  not stored
/// output[r, c] = clip(round(y[r, c] * (127 / bound[r])), -127, 127),  NaN -> 0          scales[r] = bound[r] / 127
/// ```
///
/// The bits of [`silu_mul`](crate::ops::silu_mul) into T followed by [`quantize_rows`](super::quantize_rows), which are
/// those of [`silu_mul_quantize`](crate::ops::silu_mul_quantize) on the CPU. Where one product made both halves as
/// `[rows, 2 K]`, they are two views of it with stride `2 K`.
///
/// `scales` has one element a row. `output` has the rows of `gate` and at least its columns; the columns beyond are
/// set to zero. Rows of up to 48 KiB are read from memory once, longer ones twice. Rows on 16-byte boundaries are
/// accessed 16 bytes at a time, others element by element.
///
/// # Errors
/// As [`quantize_rows`](super::quantize_rows); [`Error::ShapeMismatch`] when `up` has another shape than `gate`.
pub fn silu_mul_quantize<T: DeviceElement>(
    device: &Device,
    stream: &CudaStream,
    gate: Matrix<&impl DevicePtr<T>>,
    up: Matrix<&impl DevicePtr<T>>,
    output: Matrix<&mut impl DevicePtrMut<i8>>,
    scales: &mut impl DevicePtrMut<f32>,
) -> Result<()> {
    let mut held = Held::new(device, stream)?;
    let gate = held.read::<T>("gate", &gate)?;
    let up = held.read::<T>("up", &up)?;
    let output = held.write("output", output)?;
    if (up.rows, up.cols) != (gate.rows, gate.cols) {
        return Err(Error::ShapeMismatch {
            op: OP,
            lhs: vec![gate.rows, gate.cols],
            rhs: vec![up.rows, up.cols],
            expected: "gate and up of one shape".into(),
        });
    }
    check_output(OP, [gate.rows, gate.cols], &output)?;
    let scales = held.write_vector("scales", scales, gate.rows)?;
    let params = SiluMulQuantizeParams {
        gate: gate.address as *const _,
        up: up.address as *const _,
        output: output.address as *mut _,
        scales: scales.address as *mut _,
        gate_stride: gate.stride as u64,
        up_stride: up.stride as u64,
        output_stride: output.stride as u64,
        rows: narrow("rows", gate.rows)?,
        cols: narrow("columns", gate.cols)?,
        padded: narrow("output columns", output.cols)?,
        reserved: 0,
    };
    if gate.rows == 0 {
        return Ok(());
    }
    let most = params::IMMA_SILU_MAX_THREADS;
    let geometry = geometry(gate.rows, gate.cols, size_of::<T>(), most);
    let entry = Entry::by_type(T::DTYPE, ENTRIES);
    let launch = PreparedLaunch::new(device, stream, entry, geometry, params)?;
    // SAFETY: all regions are held; up and output were checked against the gate, the scales have an element a row.
    unsafe { launch.enqueue() }
}
