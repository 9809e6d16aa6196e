//! The epilogue on the device: [`crate::epilogue`] with its parts in device memory, and `cuda/epilogue.cu`.

use super::batches::Batches;
use super::launch::{narrow, Geometry, PreparedLaunch, MAX_GRID_Y};
use super::matrix::{aligned, check_vector, Matrix};
use super::module::Device;
use super::params::{self, EpilogueParams, FinishParams};
use crate::activation::Activation;
use crate::element::DType;
use crate::epilogue::output_columns;
use crate::error::{Error, Result};
use cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut, DeviceRepr, SyncOnDrop};
use half::{bf16, f16};

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for half::f16 {}
    impl Sealed for half::bf16 {}
    impl Sealed for i32 {}
    impl Sealed for i8 {}
}

/// What a product can be written as: f32, f16, bf16, i32 (the raw sums) or i8. Sealed.
pub trait OutputElement: sealed::Sealed + DeviceRepr + 'static {
    /// Its type.
    const DTYPE: DType;
}
macro_rules! output {
    ($($t:ty, $tag:ident;)*) => {
        $(impl OutputElement for $t { const DTYPE: DType = DType::$tag; })*
    };
}
output! { f32, F32; f16, F16; bf16, BF16; i32, I32; i8, I8; }

/// Floats of a type known at run time, in device memory.
#[derive(Clone, Copy)]
pub enum DeviceFloats<'a> {
    /// f32 elements.
    F32(&'a dyn DevicePtr<f32>),
    /// f16 elements.
    F16(&'a dyn DevicePtr<f16>),
    /// bf16 elements.
    BF16(&'a dyn DevicePtr<bf16>),
}

/// An address, kept valid for the stream by its guard.
type Held<'a> = (u64, SyncOnDrop<'a>);

impl<'a> DeviceFloats<'a> {
    /// Type code, address and bytes of an element.
    fn hold(&self, what: &'static str, stream: &'a CudaStream) -> Result<(u32, Held<'a>, u64)> {
        Ok(match self {
            DeviceFloats::F32(s) => {
                let held = s.device_ptr(stream);
                aligned::<f32>(what, held.0)?;
                (params::IMMA_TYPE_F32, held, 4)
            }
            DeviceFloats::F16(s) => {
                let held = s.device_ptr(stream);
                aligned::<f16>(what, held.0)?;
                (params::IMMA_TYPE_F16, held, 2)
            }
            DeviceFloats::BF16(s) => {
                let held = s.device_ptr(stream);
                aligned::<bf16>(what, held.0)?;
                (params::IMMA_TYPE_BF16, held, 2)
            }
        })
    }

    fn len(&self) -> usize {
        match self {
            DeviceFloats::F32(s) => s.len(),
            DeviceFloats::F16(s) => s.len(),
            DeviceFloats::BF16(s) => s.len(),
        }
    }

    fn check_vector(&self, what: &'static str, device: &Device, expected: usize) -> Result<()> {
        match self {
            DeviceFloats::F32(s) => check_vector(what, device, *s, expected),
            DeviceFloats::F16(s) => check_vector(what, device, *s, expected),
            DeviceFloats::BF16(s) => check_vector(what, device, *s, expected),
        }
    }

    fn check_matrix(&self, matrix: &Matrix<DeviceFloats<'_>>, device: &Device) -> Result<()> {
        match self {
            DeviceFloats::F32(s) => matrix.check("residual", device, *s),
            DeviceFloats::F16(s) => matrix.check("residual", device, *s),
            DeviceFloats::BF16(s) => matrix.check("residual", device, *s),
        }
    }
}

/// What happens to the sums of a product, with its parts in device memory; a part that is `None` is left out.
///
/// The equation, its order and its rounding are those of [`crate::epilogue`].
#[derive(Clone, Copy, Default)]
pub struct DeviceEpilogue<'a> {
    /// One for each row, or a single one for all.
    pub row_scales: Option<&'a dyn DevicePtr<f32>>,
    /// One for each column, or a single one for all.
    pub col_scales: Option<&'a dyn DevicePtr<f32>>,
    /// The integers that stand for 0.0 in the rows, one each or one for all; needs `col_sums`.
    pub row_zero_points: Option<&'a dyn DevicePtr<i32>>,
    /// The sum of each column of the weights; only with `row_zero_points`.
    pub col_sums: Option<&'a dyn DevicePtr<i32>>,
    /// Added to each column.
    pub bias: Option<DeviceFloats<'a>>,
    /// Applied after the bias; of a gated product to the gate alone.
    pub activation: Activation,
    /// Columns `2 j` and `2 j + 1` are a gate and what it multiplies: the output is `[M, N / 2]`. Not for raw sums.
    pub gated: bool,
    /// Added last, in the output's shape.
    pub residual: Option<Matrix<DeviceFloats<'a>>>,
    /// The step of an int8 output: needed there, refused elsewhere.
    pub out_scale: Option<f32>,
}

impl std::fmt::Debug for DeviceEpilogue<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeviceEpilogue")
            .field("row_scales", &self.row_scales.map(|v| v.len()))
            .field("col_scales", &self.col_scales.map(|v| v.len()))
            .field("row_zero_points", &self.row_zero_points.map(|v| v.len()))
            .field("bias", &self.bias.is_some())
            .field("activation", &self.activation)
            .field("gated", &self.gated)
            .field("residual", &self.residual.is_some())
            .field("out_scale", &self.out_scale)
            .finish()
    }
}

/// Parameters that are checked, with the guards of what they point to.
pub(super) struct Prepared<'a> {
    pub params: EpilogueParams,
    _guards: Vec<SyncOnDrop<'a>>,
}

/// The codes that kernels know the output types by.
fn type_code(dtype: DType) -> u32 {
    match dtype {
        DType::F32 => params::IMMA_TYPE_F32,
        DType::F16 => params::IMMA_TYPE_F16,
        DType::BF16 => params::IMMA_TYPE_BF16,
        DType::I32 => params::IMMA_TYPE_I32,
        DType::I8 => params::IMMA_TYPE_I8,
    }
}

impl<'a> DeviceEpilogue<'a> {
    /// Columns of the output of a product with `n` columns.
    pub(super) fn output_columns(&self, n: usize) -> Result<usize> {
        output_columns(n, self.gated)
    }

    /// Checks every part against an output of that shape and type. `fresh`: its int8 have scales of their own.
    fn check(
        &self,
        device: &Device,
        [m, out]: [usize; 2],
        output: DType,
        batches: &Batches,
        fresh: bool,
    ) -> Result<()> {
        let n = if self.gated {
            out.saturating_mul(2)
        } else {
            out
        };
        // One for all: of every product, so that nothing lies between them.
        let one_or = |len: usize, all: usize, stride: usize| match len {
            1 if stride == 0 || batches.count == 1 => Ok(1),
            _ => batches.span(all, stride),
        };
        let (rows, cols) = (batches.rows, batches.cols);
        if let Some(scales) = self.row_scales {
            check_vector("row scales", device, scales, one_or(scales.len(), m, rows)?)?;
        }
        if let Some(scales) = self.col_scales {
            check_vector(
                "column scales",
                device,
                scales,
                one_or(scales.len(), n, cols)?,
            )?;
        }
        if let Some(zeros) = self.row_zero_points {
            check_vector(
                "row zero points",
                device,
                zeros,
                one_or(zeros.len(), m, rows)?,
            )?;
        }
        if let Some(sums) = self.col_sums {
            check_vector("column sums", device, sums, batches.span(n, cols)?)?;
        }
        if self.row_zero_points.is_some() != self.col_sums.is_some() {
            return Err(Error::Value {
                what: "zero points",
                found: "row zero points or column sums alone".into(),
                expected: "both: acc - zero_point * column_sum".into(),
            });
        }
        if let Some(bias) = self.bias {
            bias.check_vector("bias", device, batches.span(n, cols)?)?;
        }
        if let Some(residual) = &self.residual {
            if (residual.rows, residual.cols) != (m, out) {
                return Err(Error::Shape {
                    op: "epilogue",
                    what: "residual",
                    found: vec![residual.rows, residual.cols],
                    expected: format!("[{m}, {out}]"),
                });
            }
            residual.data.check_matrix(residual, device)?;
            batches.check("residual", residual, batches.residual, residual.data.len())?;
        }
        let refuse = |what, expected| {
            Err(Error::Epilogue {
                what,
                output,
                expected,
            })
        };
        match (output, self.out_scale) {
            (DType::I8, None) if fresh => {}
            (_, Some(_)) if fresh => return refuse("an out_scale", "none: each row gets its own"),
            (DType::I8, None) => return refuse("no out_scale", "an out_scale above zero"),
            (DType::I8, Some(s)) if !(s > 0.0 && (1.0 / s).is_finite()) => {
                return Err(Error::Value {
                    what: "out_scale",
                    found: s.to_string(),
                    expected: "a number above zero with a finite inverse".into(),
                })
            }
            (DType::I8, Some(_)) | (_, None) => {}
            (_, Some(_)) => return refuse("an out_scale", "an out_scale only with i8 output"),
        }
        if output == DType::I32 {
            if self.row_scales.is_some() || self.col_scales.is_some() {
                return refuse("scales", "the raw sums carry no scales");
            }
            if self.bias.is_some() || self.residual.is_some() || self.activation != Activation::None
            {
                return refuse("a bias, activation or residual", "the raw sums only");
            }
            if self.gated {
                return refuse(
                    "a gated product",
                    "a float or i8 output: pairs of raw sums have no product",
                );
            }
        }
        Ok(())
    }

    /// Checks that the output has the shape that sums become.
    pub(super) fn check_sums<S>(
        &self,
        op: &'static str,
        sums: &Matrix<S>,
        output: [usize; 2],
    ) -> Result<()> {
        let expected = [sums.rows, self.output_columns(sums.cols)?];
        if output == expected {
            return Ok(());
        }
        Err(Error::ShapeMismatch {
            op,
            lhs: vec![sums.rows, sums.cols],
            rhs: output.to_vec(),
            expected: format!("an output [{}, {}]", expected[0], expected[1]),
        })
    }

    /// Checks everything and gathers what the kernels take. `output` is checked by the caller's matrix.
    pub(super) fn prepare<O: OutputElement>(
        &self,
        device: &Device,
        stream: &'a CudaStream,
        output: &'a mut Matrix<&mut impl DevicePtrMut<O>>,
    ) -> Result<Prepared<'a>> {
        self.prepare_batches(device, stream, output, &Batches::ONE, false)
    }

    /// The same for several products; `fresh`: for an int8 output whose rows get scales of their own.
    pub(super) fn prepare_batches<O: OutputElement>(
        &self,
        device: &Device,
        stream: &'a CudaStream,
        output: &'a mut Matrix<&mut impl DevicePtrMut<O>>,
        batches: &Batches,
        fresh: bool,
    ) -> Result<Prepared<'a>> {
        let (m, out) = (output.rows, output.cols);
        let n = if self.gated {
            out.saturating_mul(2)
        } else {
            out
        };
        output.check("output", device, &*output.data)?;
        batches.check("output", output, batches.output, output.data.len())?;
        batches.check_apart(output)?;
        self.check(device, [m, out], O::DTYPE, batches, fresh)?;
        let bytes = size_of::<O>() as u64;
        let stride = output.stride as u64;
        let (target, guard) = output.data.device_ptr_mut(stream);
        aligned::<O>("output", target)?;
        let mut guards = vec![guard];
        let mut vectors = 0;
        // Groups of four columns are one access where rows start at a multiple of it.
        let mut vector = |flag: u32, address: u64, strides: [u64; 2], bytes: u64| {
            if address.is_multiple_of(4 * bytes) && strides.iter().all(|s| s.is_multiple_of(4)) {
                vectors |= flag;
            }
        };
        let [output_batch, residual_batch, col_batch] =
            [batches.output, batches.residual, batches.cols].map(|s| s as u64);
        // Kernels count these in 32 bits.
        let step32 = |what, len, stride| {
            narrow(what, batches.span(len, stride)?).and_then(|_| narrow(what, stride))
        };
        vector(
            params::IMMA_VECTOR_OUTPUT,
            target,
            [stride, output_batch],
            bytes,
        );
        let mut pointer = |held: Option<Held<'a>>| -> u64 {
            held.map_or(0, |(address, guard)| {
                guards.push(guard);
                address
            })
        };
        let f32s = |what, s: Option<&'a dyn DevicePtr<f32>>| -> Result<Option<Held<'a>>> {
            s.map(|s| {
                let held = s.device_ptr(stream);
                aligned::<f32>(what, held.0).map(|_| held)
            })
            .transpose()
        };
        let i32s = |what, s: Option<&'a dyn DevicePtr<i32>>| -> Result<Option<Held<'a>>> {
            s.map(|s| {
                let held = s.device_ptr(stream);
                aligned::<i32>(what, held.0).map(|_| held)
            })
            .transpose()
        };
        let row_scales = pointer(f32s("row scales", self.row_scales)?);
        let col_scales = pointer(f32s("column scales", self.col_scales)?);
        let row_zeros = pointer(i32s("row zero points", self.row_zero_points)?);
        let col_sums = pointer(i32s("column sums", self.col_sums)?);
        vector(
            params::IMMA_VECTOR_COL_SCALES,
            col_scales,
            [0, col_batch],
            4,
        );
        let (mut bias_type, mut bias) = (0, 0);
        if let Some(floats) = &self.bias {
            let (code, held, bytes) = floats.hold("bias", stream)?;
            (bias_type, bias) = (code, pointer(Some(held)));
            vector(params::IMMA_VECTOR_BIAS, bias, [0, col_batch], bytes);
        }
        let (mut residual_type, mut residual, mut residual_stride) = (0, 0, 0);
        if let Some(matrix) = &self.residual {
            let (code, held, bytes) = matrix.data.hold("residual", stream)?;
            residual_stride = matrix.stride as u64;
            (residual_type, residual) = (code, pointer(Some(held)));
            vector(
                params::IMMA_VECTOR_RESIDUAL,
                residual,
                [residual_stride, residual_batch],
                bytes,
            );
        }
        let step = |len: Option<usize>| u32::from(len != Some(1));
        let params = EpilogueParams {
            output: target as *mut _,
            residual: residual as *const _,
            bias: bias as *const _,
            row_scales: row_scales as *const _,
            col_scales: col_scales as *const _,
            row_zeros: row_zeros as *const _,
            col_sums: col_sums as *const _,
            output_stride: stride,
            residual_stride,
            output_batch,
            residual_batch,
            row_batch: step32("rows of a batch", m, batches.rows)?,
            col_batch: step32("columns of a batch", n, batches.cols)?,
            rows: narrow("rows", m)?,
            cols: narrow("columns", n)?,
            row_step: step(self.row_scales.map(|s| s.len())),
            col_step: step(self.col_scales.map(|s| s.len())),
            zero_step: step(self.row_zero_points.map(|s| s.len())),
            output_type: type_code(O::DTYPE),
            residual_type,
            bias_type,
            activation: match self.activation {
                Activation::None => params::IMMA_ACTIVATION_NONE,
                Activation::Relu => params::IMMA_ACTIVATION_RELU,
                Activation::Silu => params::IMMA_ACTIVATION_SILU,
                Activation::Gelu => params::IMMA_ACTIVATION_GELU,
                Activation::GeluTanh => params::IMMA_ACTIVATION_GELU_TANH,
            },
            vectors,
            out_multiplier: self.out_scale.map_or(0.0, |s| 1.0 / s),
            gated: self.gated.into(),
            row_scale: 1.0,
            row_zero: 0,
        };
        Ok(Prepared {
            params,
            _guards: guards,
        })
    }
}

/// Where int32 sums lie: `splits` matrices, `split_stride` elements apart; the next product's come right after the last.
#[derive(Clone, Copy)]
pub(super) struct Sums {
    pub address: u64,
    pub stride: u64,
    pub splits: u32,
    pub split_stride: u64,
}

impl Sums {
    /// One matrix of them.
    pub fn whole(address: u64, stride: usize) -> Self {
        Self {
            address,
            stride: stride as u64,
            splits: 1,
            split_stride: 0,
        }
    }

    /// What the kernels take.
    pub fn finish(&self, epilogue: EpilogueParams) -> FinishParams {
        let vector = self.address.is_multiple_of(16)
            && self.stride.is_multiple_of(4)
            && (self.splits == 1 || self.split_stride.is_multiple_of(4));
        FinishParams {
            sums: self.address as *const _,
            stride: self.stride,
            split_stride: self.split_stride,
            batch_stride: u64::from(self.splits) * self.split_stride,
            splits: self.splits,
            vector: vector.into(),
            epilogue,
        }
    }
}

impl Device {
    /// `output = epilogue(sums)`: int32 sums `[M, N]` that lie in memory, to any output type. The output is `[M, N]`, or
    /// `[M, N / 2]` when gated.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] when the matrices differ in shape, [`Error::Length`] when a vector does not fit,
    /// [`Error::Epilogue`] when a part does not go with the output type, and those of the matrices themselves. After an
    /// error nothing was enqueued.
    pub fn epilogue<O: OutputElement>(
        &self,
        stream: &CudaStream,
        sums: Matrix<&impl DevicePtr<i32>>,
        mut output: Matrix<&mut impl DevicePtrMut<O>>,
        epilogue: &DeviceEpilogue<'_>,
    ) -> Result<()> {
        sums.check("sums", self, sums.data)?;
        epilogue.check_sums("epilogue", &sums, [output.rows, output.cols])?;
        let (source, _source) = sums.data.device_ptr(stream);
        aligned::<i32>("sums", source)?;
        let prepared = epilogue.prepare(self, stream, &mut output)?;
        let sums = Sums::whole(source, sums.stride);
        // SAFETY: sums, output and every part were checked against the shape; the guards live here.
        unsafe { self.finish(stream, sums, 1, prepared.params) }
    }

    /// Enqueues the epilogue over sums in memory.
    ///
    /// # Safety
    /// All that the parameters point to is valid for the shape and lives until the stream is past this launch.
    pub(super) unsafe fn finish(
        &self,
        stream: &CudaStream,
        sums: Sums,
        batches: u32,
        epilogue: EpilogueParams,
    ) -> Result<()> {
        let (rows, cols) = (u64::from(epilogue.rows), u64::from(epilogue.cols));
        if rows == 0 || cols == 0 {
            return Ok(());
        }
        let threads = params::IMMA_EPILOGUE_THREADS;
        let geometry = Geometry {
            grid: (
                cols.div_ceil(4).div_ceil(threads.into()),
                rows.min(MAX_GRID_Y),
            ),
            block: (threads, 1),
            dynamic_shared: 0,
        };
        let params = sums.finish(epilogue);
        let launch = PreparedLaunch::new(self, stream, "epilogue_i32", geometry, params)?;
        let launch = launch.with_depth(batches)?;
        // SAFETY: the caller's.
        unsafe { launch.enqueue() }
    }
}
