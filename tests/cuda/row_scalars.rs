//! `row_scale` and `row_zero` of `EpilogueParams`, a scale and a zero point of every row as kernel parameters: the bits are
//! those of vectors that hold them once for each row.

#[allow(dead_code)]
mod params {
    include!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/src/cuda/kernels/params.rs"
    ));
}

use crate::support::{device, stream, Random};
use imma::cuda::cudarc::driver::{
    CudaFunction, CudaSlice, CudaStream, DevicePtr, DevicePtrMut, DeviceRepr, LaunchConfig,
    PushKernelArg,
};
use imma::cuda::cudarc::nvrtc::Ptx;
use params::{EpilogueParams, FinishParams};
use std::sync::Arc;

#[repr(transparent)]
struct Params(FinishParams);
// SAFETY: the C struct that the kernel takes.
unsafe impl DeviceRepr for Params {}

/// Rows and columns: not whole quads.
const SHAPE: [usize; 2] = [7, 1037];

/// What the rows have: nothing, or numbers of each row or of all.
#[derive(Clone, Copy, Default)]
struct Rows<'a> {
    scales: Option<&'a CudaSlice<f32>>,
    zeros: Option<&'a CudaSlice<i32>>,
    scale: f32,
    zero: i32,
}

fn address<T>(slice: Option<&CudaSlice<T>>, stream: &CudaStream) -> u64 {
    slice.map_or(0, |s| s.device_ptr(stream).0)
}

struct Product {
    sums: CudaSlice<i32>,
    col_scales: CudaSlice<f32>,
    col_sums: CudaSlice<i32>,
    bias: CudaSlice<f32>,
}

impl Product {
    /// The output's words of `epilogue_i32`: floats, or the raw sums.
    fn finish(
        &self,
        function: &CudaFunction,
        stream: &Arc<CudaStream>,
        rows: Rows,
        raw: bool,
    ) -> Vec<u32> {
        let [m, n] = SHAPE;
        let mut output = stream.clone_htod(&vec![0xdead_beefu32; m * n]).unwrap();
        let some = |address: u64| if raw { 0 } else { address };
        let epilogue = EpilogueParams {
            output: output.device_ptr_mut(stream).0 as *mut _,
            residual: std::ptr::null(),
            bias: some(address(Some(&self.bias), stream)) as *const _,
            row_scales: address(rows.scales, stream) as *const _,
            col_scales: some(address(Some(&self.col_scales), stream)) as *const _,
            row_zeros: address(rows.zeros, stream) as *const _,
            col_sums: address(Some(&self.col_sums), stream) as *const _,
            output_stride: n as u64,
            residual_stride: 0,
            output_batch: 0,
            residual_batch: 0,
            row_batch: 0,
            col_batch: 0,
            rows: m as u32,
            cols: n as u32,
            row_step: 1,
            col_step: 1,
            zero_step: 1,
            output_type: if raw {
                params::IMMA_TYPE_I32
            } else {
                params::IMMA_TYPE_F32
            },
            residual_type: 0,
            bias_type: if raw { 0 } else { params::IMMA_TYPE_F32 },
            activation: params::IMMA_ACTIVATION_NONE,
            vectors: 0,
            out_multiplier: 0.0,
            gated: 0,
            row_scale: rows.scale,
            row_zero: rows.zero,
        };
        let finish = Params(FinishParams {
            sums: address(Some(&self.sums), stream) as *const _,
            stride: n as u64,
            split_stride: 0,
            batch_stride: 0,
            splits: 1,
            vector: 0,
            epilogue,
        });
        let threads = params::IMMA_EPILOGUE_THREADS;
        let launch = LaunchConfig {
            grid_dim: ((n as u32).div_ceil(4).div_ceil(threads), m as u32, 1),
            block_dim: (threads, 1, 1),
            shared_mem_bytes: 0,
        };
        // SAFETY: every part has as many elements as the kernel reads or writes, and lives until the copy below.
        unsafe { stream.launch_builder(function).arg(&finish).launch(launch) }.unwrap();
        stream.clone_dtoh(&output).unwrap()
    }
}

#[test]
fn a_scale_and_a_zero_point_of_all_rows_are_those_of_each() {
    let [m, n] = SHAPE;
    let (device, stream) = (device(), stream());
    let image = imma::cuda::images()
        .iter()
        .find(|i| i.name == "epilogue")
        .unwrap();
    let module = Ptx::from_binary(image.bytes.to_vec());
    let module = device.context().load_module(module).unwrap();
    let function = module.load_function("epilogue_i32").unwrap();
    let random = &mut Random(17);
    let mut integers = |count: usize, below: usize| -> Vec<i32> {
        let half = below as i32 / 2;
        (0..count)
            .map(|_| random.below(below) as i32 - half)
            .collect()
    };
    let (sums, col_sums) = (integers(m * n, 1 << 26), integers(n, 1 << 16));
    let mut floats = |size: f32| -> Vec<f32> {
        integers(n, 1 << 20)
            .iter()
            .map(|x| *x as f32 * size)
            .collect()
    };
    let (col_scales, bias) = (floats(1e-9), floats(1e-5));
    let product = Product {
        sums: stream.clone_htod(&sums).unwrap(),
        col_scales: stream.clone_htod(&col_scales).unwrap(),
        col_sums: stream.clone_htod(&col_sums).unwrap(),
        bias: stream.clone_htod(&bias).unwrap(),
    };
    let (scale, zero) = (0.012_345_67f32, -37i32);
    let scales = stream.clone_htod(&vec![scale; m]).unwrap();
    let zeros = stream.clone_htod(&vec![zero; m]).unwrap();
    let corrected = |i: usize| sums[i].wrapping_sub(zero.wrapping_mul(col_sums[i % n]));
    let value = |i: usize| (corrected(i) as f32 * scale).mul_add(col_scales[i % n], bias[i % n]);

    // The numbers that do not count are such as would show.
    let of_each = Rows {
        scales: Some(&scales),
        zeros: Some(&zeros),
        scale: f32::NAN,
        zero: i32::MAX,
    };
    let of_all = Rows {
        scale,
        zero,
        ..Rows::default()
    };
    for rows in [of_each, of_all] {
        let have = product.finish(&function, &stream, rows, false);
        assert!((0..m * n).all(|i| have[i] == value(i).to_bits()));
    }
    // Raw sums know of zero points, not of scales.
    for rows in [
        of_each,
        Rows {
            scale: f32::NAN,
            ..of_all
        },
    ] {
        let have = product.finish(&function, &stream, rows, true);
        assert!((0..m * n).all(|i| have[i] == corrected(i) as u32));
    }
}
