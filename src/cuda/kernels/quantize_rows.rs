//! Per-token quantisation: `cuda/quantize_rows.cu`.

use super::families::QuantizeRows;
use super::params::{self, QuantizeRowsParams};
use crate::cuda::runtime::{
    narrow, Device, DeviceElement, Entry, Family, Geometry, Held, Matrix, PreparedLaunch, Region,
};
use crate::element::DType;
use crate::error::{Error, Result};
use crate::numerics::check_step;
use crate::rounding::Rounding;
use cudarc::driver::{CudaStream, CudaViewMut, DevicePtr, DevicePtrMut};

const ENTRIES: QuantizeEntries<QuantizeRows> = QuantizeEntries {
    nearest: [
        Entry::new("quantize_rows_f32"),
        Entry::new("quantize_rows_f16"),
        Entry::new("quantize_rows_bf16"),
    ],
    stochastic: [
        Entry::new("quantize_rows_stochastic_f32"),
        Entry::new("quantize_rows_stochastic_f16"),
        Entry::new("quantize_rows_stochastic_bf16"),
    ],
    asymmetric: [
        Entry::new("quantize_rows_asymmetric_f32"),
        Entry::new("quantize_rows_asymmetric_f16"),
        Entry::new("quantize_rows_asymmetric_bf16"),
    ],
};

/// With a scale known beforehand, and with a zero point too.
const GIVEN: [[Entry<QuantizeRows>; 3]; 2] = [
    [
        Entry::new("quantize_rows_given_f32"),
        Entry::new("quantize_rows_given_f16"),
        Entry::new("quantize_rows_given_bf16"),
    ],
    [
        Entry::new("quantize_rows_given_asymmetric_f32"),
        Entry::new("quantize_rows_given_asymmetric_f16"),
        Entry::new("quantize_rows_given_asymmetric_bf16"),
    ],
];

/// What the constants of rows are made of, symmetric and asymmetric, for elements of each type.
const EXTENTS: [[Entry<QuantizeRows>; 3]; 2] = [
    [
        Entry::new("quantize_rows_extents_f32"),
        Entry::new("quantize_rows_extents_f16"),
        Entry::new("quantize_rows_extents_bf16"),
    ],
    [
        Entry::new("quantize_rows_extents_asymmetric_f32"),
        Entry::new("quantize_rows_extents_asymmetric_f16"),
        Entry::new("quantize_rows_extents_asymmetric_bf16"),
    ],
];

/// Quantised by them.
const BY: [[Entry<QuantizeRows>; 3]; 2] = [
    [
        Entry::new("quantize_rows_by_f32"),
        Entry::new("quantize_rows_by_f16"),
        Entry::new("quantize_rows_by_bf16"),
    ],
    [
        Entry::new("quantize_rows_by_asymmetric_f32"),
        Entry::new("quantize_rows_by_asymmetric_f16"),
        Entry::new("quantize_rows_by_asymmetric_bf16"),
    ],
];

/// Quantises each row with its own scale.
///
/// ```text
/// bound[r]     = max |input[r, :]|, or 1 where 127 / that overflows
/// output[r, c] = clip(round(input[r, c] * (127 / bound[r])), -127, 127),  NaN -> 0
/// scales[r]    = bound[r] / 127
/// ```
///
/// The bits of [`numerics`](crate::numerics) and [`rounding`](crate::rounding). A row with NaN or infinity gives
/// zeros and a scale that is not finite. Stochastic rounding draws for element `(r, c)` at `r * cols + c`.
///
/// `output` has the rows of `input` and at least its columns; the columns beyond are set to zero. `scales` has
/// one element a row. A row of up to 64 KiB is read from memory once, a longer one twice.
///
/// # Errors
/// [`Error::ShapeMismatch`] and [`Error::Length`] when these do not fit; [`Error::Value`] for memory or a stream
/// of another context and for misaligned addresses; [`Error::Cuda`] when the driver refuses the launch. After an error
/// nothing was enqueued.
pub fn quantize_rows<T: DeviceElement>(
    device: &Device,
    stream: &CudaStream,
    input: Matrix<&impl DevicePtr<T>>,
    output: Matrix<&mut impl DevicePtrMut<i8>>,
    scales: &mut impl DevicePtrMut<f32>,
    rounding: Rounding,
) -> Result<()> {
    to_scales(
        device,
        stream,
        input,
        output,
        scales,
        Constants::Own(rounding),
    )
}

/// Quantises each row with its own scale and zero point.
///
/// ```text
/// lo, hi         = min(0, input[r, :]), max(0, input[r, :])
/// scales[r]      = (hi - lo) / 255
/// zero_points[r] = clip(round(-128 - lo * (255 / (hi - lo))), -128, 127)
/// output[r, c]   = clip(round(input[r, c] * (255 / (hi - lo))) + zero_points[r], -128, 127)
/// ```
///
/// The bits of [`asymmetric`](crate::numerics::asymmetric): a range so small that `255 / range` overflows counts
/// as 255; a row that is not finite gives zeros, zero point 0 and a NaN scale. Shapes and reads are those of
/// [`quantize_rows`]; padding is 0, not the zero point.
///
/// # Errors
/// As [`quantize_rows`].
pub fn quantize_rows_asymmetric<T: DeviceElement>(
    device: &Device,
    stream: &CudaStream,
    input: Matrix<&impl DevicePtr<T>>,
    output: Matrix<&mut impl DevicePtrMut<i8>>,
    scales: &mut impl DevicePtrMut<f32>,
    zero_points: &mut impl DevicePtrMut<i32>,
) -> Result<()> {
    let mut held = Held::new(device, stream)?;
    let place = Place {
        scales: held.write_vector("scales", scales, input.rows)?,
        zero_points: Some(held.write_vector("zero points", zero_points, input.rows)?),
        output: held.write("output", output)?,
    };
    let input = held.read::<T>("input", &input)?;
    let constants = Constants::Own(Rounding::NearestEven);
    enqueue(&held, T::DTYPE, input, place, constants)
}

/// Quantises each row with one scale known beforehand, and a zero point if there is one.
///
/// ```text
/// output[r, c] = clip(round(input[r, c] * (1 / scale)), -127, 127)                 without a zero point
/// output[r, c] = clip(round(input[r, c] * (1 / scale)) + zero_point, -128, 127)    with one; NaN counts as 0
/// scales[r]    = scale, or NaN for a row with NaN or infinity
/// ```
///
/// What a product by [`ActivationQuant::Static`](crate::gemm::ActivationQuant::Static) starts with. Shapes and padding are
/// those of [`quantize_rows`], and a row of any length is read once; [`quantize_static`](super::quantize_static()) writes no
/// scales and looks at nothing.
///
/// # Errors
/// [`Error::Value`] for a scale that is not above zero with a finite inverse and for a zero point outside -128..=127;
/// otherwise as [`quantize_rows`].
pub fn quantize_rows_given<T: DeviceElement>(
    device: &Device,
    stream: &CudaStream,
    input: Matrix<&impl DevicePtr<T>>,
    output: Matrix<&mut impl DevicePtrMut<i8>>,
    scales: &mut impl DevicePtrMut<f32>,
    scale: f32,
    zero_point: Option<i32>,
) -> Result<()> {
    check_given(scale, zero_point.unwrap_or(0))?;
    let constants = match zero_point {
        None => Constants::Given(scale),
        Some(zero_point) => Constants::GivenAsymmetric(scale, zero_point),
    };
    to_scales(device, stream, input, output, scales, constants)
}

/// What the constants of each row are made of, for rows of which `input` is a slice: the maximum over all slices, element by
/// element, is that of the whole rows, by which [`quantize_rows_by`] quantises each slice.
///
/// ```text
/// symmetric    extents [rows]       absmax of the row, the bits of a float: NaN above infinity above all numbers
/// asymmetric   extents [2 * rows]   the row's maximum, or 0; then minus its minimum, or 0
/// ```
///
/// None is negative, so that their maxima as i32 and as u32 are the same.
///
/// # Errors
/// [`Error::Length`] unless there is room for `rows` extents, or twice as many; otherwise as [`quantize_rows`].
pub fn row_extents<T: DeviceElement>(
    device: &Device,
    stream: &CudaStream,
    input: Matrix<&impl DevicePtr<T>>,
    extents: &mut impl DevicePtrMut<i32>,
    asymmetric: bool,
) -> Result<()> {
    let mut held = Held::new(device, stream)?;
    let words = input.rows * if asymmetric { 2 } else { 1 };
    let extents = held.write_vector("extents of rows", extents, words)?;
    let input = held.read::<T>("input", &input)?;
    let entry = Entry::by_type(T::DTYPE, EXTENTS[usize::from(asymmetric)]);
    launch(
        &held,
        T::DTYPE,
        entry,
        input,
        QuantizeRowsParams {
            extents: extents.address as *mut _,
            ..over(input)?
        },
    )
}

/// Quantises slices of rows by the extents of the whole rows, which [`row_extents`] and a maximum over the slices gave:
/// asymmetric when there is a place for zero points. With the extents of `input` itself these are the bits of
/// [`quantize_rows`] and [`quantize_rows_asymmetric`].
///
/// # Errors
/// [`Error::Length`] unless there are `rows` extents, or twice as many with zero points; otherwise as [`quantize_rows`].
pub fn quantize_rows_by<T: DeviceElement>(
    device: &Device,
    stream: &CudaStream,
    input: Matrix<&impl DevicePtr<T>>,
    extents: &impl DevicePtr<i32>,
    output: Matrix<&mut impl DevicePtrMut<i8>>,
    scales: &mut impl DevicePtrMut<f32>,
    zero_points: Option<&mut CudaViewMut<'_, i32>>,
) -> Result<()> {
    let mut held = Held::new(device, stream)?;
    let asymmetric = zero_points.is_some();
    let words = input.rows * if asymmetric { 2 } else { 1 };
    let extents = held.read_vector("extents of rows", extents, words)?;
    let scales = held.write_vector("scales", scales, input.rows)?;
    let zero_points = match zero_points {
        Some(zero_points) => Some(held.write_vector("zero points", zero_points, input.rows)?),
        None => None,
    };
    let output = held.write("output", output)?;
    let input = held.read::<T>("input", &input)?;
    check_output("quantize_rows_by", [input.rows, input.cols], &output)?;
    let entry = Entry::by_type(T::DTYPE, BY[usize::from(asymmetric)]);
    launch(
        &held,
        T::DTYPE,
        entry,
        input,
        QuantizeRowsParams {
            output: output.address as *mut _,
            output_stride: output.stride as u64,
            padded: narrow("output columns", output.cols)?,
            scales: scales.address as *mut _,
            zero_points: zero_points.map_or(0, |z| z.address) as *mut _,
            extents: extents.address as *mut _,
            ..over(input)?
        },
    )
}

/// The parameters of a kernel that reads these rows, and nothing else yet.
fn over(input: Region<'_>) -> Result<QuantizeRowsParams> {
    Ok(QuantizeRowsParams {
        input: input.address as *const _,
        output: std::ptr::null_mut(),
        scales: std::ptr::null_mut(),
        zero_points: std::ptr::null_mut(),
        extents: std::ptr::null_mut(),
        input_stride: input.stride as u64,
        output_stride: 0,
        seed: 0,
        rows: narrow("rows", input.rows)?,
        cols: narrow("columns", input.cols)?,
        padded: 0,
        scale: 1.0,
        multiplier: 1.0,
        zero_point: 0,
    })
}

fn launch(
    held: &Held<'_>,
    dtype: DType,
    entry: Entry<QuantizeRows>,
    input: Region<'_>,
    params: QuantizeRowsParams,
) -> Result<()> {
    if input.rows == 0 {
        return Ok(());
    }
    let most = params::IMMA_ROWS_MAX_THREADS;
    let geometry = geometry(input.rows, input.cols, dtype.bytes(), most);
    let launch = PreparedLaunch::new(held.device(), held.stream(), entry, geometry, params)?;
    // SAFETY: all regions are held; every output was checked against the input, the vectors have an element a row.
    unsafe { launch.enqueue() }
}

/// Rows with a scale each, and no zero points.
fn to_scales<T: DeviceElement>(
    device: &Device,
    stream: &CudaStream,
    input: Matrix<&impl DevicePtr<T>>,
    output: Matrix<&mut impl DevicePtrMut<i8>>,
    scales: &mut impl DevicePtrMut<f32>,
    constants: Constants,
) -> Result<()> {
    let mut held = Held::new(device, stream)?;
    let place = Place {
        scales: held.write_vector("scales", scales, input.rows)?,
        zero_points: None,
        output: held.write("output", output)?,
    };
    let input = held.read::<T>("input", &input)?;
    enqueue(&held, T::DTYPE, input, place, constants)
}

/// Refuses constants that no data can be quantised with.
pub(super) fn check_given(scale: f32, zero_point: i32) -> Result<()> {
    check_step("the static scale", scale)?;
    if (-128..=127).contains(&zero_point) {
        return Ok(());
    }
    Err(Error::Value {
        what: "the static zero point",
        found: zero_point.to_string(),
        expected: "-128..=127".into(),
    })
}

/// The entries of a kernel that quantises, for f32, f16 and bf16.
pub(super) struct QuantizeEntries<F> {
    pub nearest: [Entry<F>; 3],
    pub stochastic: [Entry<F>; 3],
    pub asymmetric: [Entry<F>; 3],
}

impl<F: Family> QuantizeEntries<F> {
    /// The entry for elements of a type, and the seed that it is given. With zero points, rounding is to the nearest.
    pub fn choose(&self, dtype: DType, asymmetric: bool, rounding: Rounding) -> (Entry<F>, u64) {
        let (entries, seed) = match rounding {
            _ if asymmetric => (self.asymmetric, 0),
            Rounding::Stochastic { seed } => (self.stochastic, seed),
            _ => (self.nearest, 0),
        };
        (Entry::by_type(dtype, entries), seed)
    }
}

/// Where quantised rows go.
pub(in crate::cuda) struct Place<'a> {
    pub output: Region<'a>,
    /// One a row.
    pub scales: Region<'a>,
    /// One a row, which makes it asymmetric.
    pub zero_points: Option<Region<'a>>,
}

/// Where the constants of a row come from.
pub(in crate::cuda) enum Constants {
    /// From the row itself.
    Own(Rounding),
    /// The caller knows the scale; a row that is not finite gets NaN in its place.
    Given(f32),
    /// And the zero point.
    GivenAsymmetric(f32, i32),
}

/// The same over memory that is held.
pub(in crate::cuda) fn enqueue(
    held: &Held<'_>,
    dtype: DType,
    input: Region<'_>,
    place: Place<'_>,
    constants: Constants,
) -> Result<()> {
    check_output("quantize_rows", [input.rows, input.cols], &place.output)?;
    let ((entry, seed), scale, zero_point) = match constants {
        Constants::Own(rounding) => {
            let asymmetric = place.zero_points.is_some();
            (ENTRIES.choose(dtype, asymmetric, rounding), 1.0, 0)
        }
        Constants::Given(scale) => ((Entry::by_type(dtype, GIVEN[0]), 0), scale, 0),
        Constants::GivenAsymmetric(scale, zero_point) => {
            ((Entry::by_type(dtype, GIVEN[1]), 0), scale, zero_point)
        }
    };
    launch(
        held,
        dtype,
        entry,
        input,
        QuantizeRowsParams {
            output: place.output.address as *mut _,
            output_stride: place.output.stride as u64,
            padded: narrow("output columns", place.output.cols)?,
            scales: place.scales.address as *mut _,
            zero_points: place.zero_points.map_or(0, |z| z.address) as *mut _,
            seed,
            scale,
            multiplier: 1.0 / scale,
            zero_point,
            ..over(input)?
        },
    )
}

/// Threads of a row and rows of a block: enough threads, up to `most`, that each holds at most `IMMA_ROWS_HELD` vectors,
/// and blocks of at least four warps.
pub(super) fn geometry(rows: usize, cols: usize, element: usize, most: u32) -> Geometry {
    let vectors = (cols * element).div_ceil(params::IMMA_VECTOR_BYTES as usize);
    let threads = vectors
        .div_ceil(params::IMMA_ROWS_HELD as usize)
        .next_multiple_of(32)
        .clamp(32, most as usize);
    let per_block = (128 / threads).max(1);
    let blocks = rows.div_ceil(per_block) as u64;
    Geometry::new((blocks, 1), (threads as u32, per_block as u32))
}

/// Checks that an output has the input's rows and at least its columns.
pub(super) fn check_output(
    op: &'static str,
    [rows, cols]: [usize; 2],
    output: &Region<'_>,
) -> Result<()> {
    if output.rows == rows && output.cols >= cols {
        return Ok(());
    }
    Err(Error::ShapeMismatch {
        op,
        lhs: vec![rows, cols],
        rhs: vec![output.rows, output.cols],
        expected: "an output with the input's rows and at least its columns".into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_real_models_are_held() {
        for (cols, element) in [
            (1, 4),
            (768, 2),
            (4096, 2),
            (11_008, 2),
            (16_384, 4),
            (32_768, 2),
        ] {
            let g = geometry(3, cols, element, 1024);
            let held = g.block.0 as usize * 64;
            assert!(held >= cols * element, "{cols}");
            assert!(g.block.0 * g.block.1 <= 1024 && g.block.0.is_multiple_of(32));
            assert!(g.grid.0 as usize * g.block.1 as usize >= 3);
        }
        assert_eq!(geometry(1, 1 << 20, 4, 1024).block, (1024, 1));
    }
}
