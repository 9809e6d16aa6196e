//! cuBLASLt as cudarc finds and uses it.
mod cudarc_common;

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys::{self, cublasComputeType_t as Compute, cudaDataType_t as Type};
use cudarc::driver::{CudaSlice, CudaStream, DevicePtr, DevicePtrMut};
use cudarc_common::context;
use half::f16;
use sys::cublasLtMatmulDescAttributes_t as DescAttribute;
use sys::cublasLtMatmulPreferenceAttributes_t as PreferenceAttribute;
use sys::cublasLtMatrixLayoutAttribute_t as LayoutAttribute;
use sys::cublasStatus_t as Status;

const NOT_SUPPORTED: Status = Status::CUBLAS_STATUS_NOT_SUPPORTED;
const INVALID: Status = Status::CUBLAS_STATUS_INVALID_VALUE;

/// A product as the caller of cuBLASLt describes it.
struct Product {
    handle: sys::cublasLtHandle_t,
    desc: sys::cublasLtMatmulDesc_t,
    /// A, B, and C which is D.
    layouts: [sys::cublasLtMatrixLayout_t; 3],
}

fn set_desc<T>(desc: sys::cublasLtMatmulDesc_t, which: DescAttribute, value: &T) -> Status {
    let (pointer, bytes) = (value as *const T as *const c_void, size_of::<T>());
    // SAFETY: the descriptor lives, and the value has the size stated.
    status(unsafe { result::set_matmul_desc_attribute(desc, which, pointer, bytes) })
}

fn status<T>(result: Result<T, CublasError>) -> Status {
    result.map_or_else(|e| e.0, |_| Status::CUBLAS_STATUS_SUCCESS)
}

impl Product {
    /// D[m, n] = A[k, m]^T B[k, n], with these types and leading dimensions.
    fn new(
        (compute, scale): (Compute, Type),
        [operand, result]: [Type; 2],
        (m, n, k): (u64, u64, u64),
        [lda, ldb, ldd]: [i64; 3],
    ) -> Self {
        let desc = result::create_matmul_desc(compute, scale).unwrap();
        assert_eq!(
            set_desc(desc, DescAttribute::CUBLASLT_MATMUL_DESC_TRANSA, &1i32),
            Status::CUBLAS_STATUS_SUCCESS
        );
        let layout = |t, rows, cols, ld| result::create_matrix_layout(t, rows, cols, ld).unwrap();
        Product {
            handle: result::create_handle().unwrap(),
            desc,
            layouts: [
                layout(operand, k, m, lda),
                layout(operand, k, n, ldb),
                layout(result, m, n, ldd),
            ],
        }
    }

    fn int8(shape: (u64, u64, u64), lds: [i64; 3]) -> Self {
        let types = (Compute::CUBLAS_COMPUTE_32I, Type::CUDA_R_32I);
        Self::new(types, [Type::CUDA_R_8I, Type::CUDA_R_32I], shape, lds)
    }

    fn set_layout<T>(&self, which: LayoutAttribute, i: usize, value: T) {
        let (pointer, bytes) = (&raw const value as *const c_void, size_of::<T>());
        // SAFETY: the layout lives, and the value has the size stated.
        unsafe { result::set_matrix_layout_attribute(self.layouts[i], which, pointer, bytes) }
            .unwrap();
    }

    /// Candidates with so much workspace at most.
    fn candidates(
        &self,
        workspace: usize,
    ) -> Result<Vec<sys::cublasLtMatmulHeuristicResult_t>, Status> {
        let [a, b, d] = self.layouts;
        let mut found = vec![unsafe { std::mem::zeroed() }; 8];
        let mut count = 0;
        let preference = result::create_matmul_pref().unwrap();
        // SAFETY: all descriptors live; there is room for the eight results asked for.
        unsafe {
            result::set_matmul_pref_attribute(
                preference,
                PreferenceAttribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                &raw const workspace as *const c_void,
                size_of::<usize>(),
            )
            .unwrap();
            let status = sys::cublasLtMatmulAlgoGetHeuristic(
                self.handle,
                self.desc,
                a,
                b,
                d,
                d,
                preference,
                8,
                found.as_mut_ptr(),
                &mut count,
            );
            result::destroy_matmul_pref(preference).unwrap();
            if status != Status::CUBLAS_STATUS_SUCCESS {
                return Err(status);
            }
        }
        found.truncate(count as usize);
        Ok(found)
    }

    /// Runs it, with an algorithm and so much workspace.
    fn run<A, D, S>(
        &self,
        stream: &Arc<CudaStream>,
        [alpha, beta]: [S; 2],
        (a, b, d): (&CudaSlice<A>, &CudaSlice<A>, &mut CudaSlice<D>),
        algo: Option<&sys::cublasLtMatmulAlgo_t>,
        workspace: Option<&mut CudaSlice<u8>>,
    ) -> Status {
        let [a_layout, b_layout, d_layout] = self.layouts;
        let (a, _a) = a.device_ptr(stream);
        let (b, _b) = b.device_ptr(stream);
        let (d, _d) = d.device_ptr_mut(stream);
        let bytes = workspace.as_ref().map_or(0, |w| w.len());
        let workspace = workspace.map(|w| w.device_ptr_mut(stream).0).unwrap_or(0);
        // SAFETY: all descriptors and buffers live; the emulator checks what they say.
        status(unsafe {
            result::matmul(
                self.handle,
                self.desc,
                &raw const alpha as *const c_void,
                &raw const beta as *const c_void,
                a as *const c_void,
                a_layout,
                b as *const c_void,
                b_layout,
                d as *const c_void,
                d_layout,
                d as *mut c_void,
                d_layout,
                algo.map_or(std::ptr::null(), |a| a as *const _),
                workspace as *mut c_void,
                bytes,
                stream.cu_stream() as sys::cudaStream_t,
            )
        })
    }
}

impl Drop for Product {
    fn drop(&mut self) {
        // SAFETY: made in `new`, destroyed here only.
        unsafe {
            for layout in self.layouts {
                result::destroy_matrix_layout(layout).unwrap();
            }
            result::destroy_matmul_desc(self.desc).unwrap();
            result::destroy_handle(self.handle).unwrap();
        }
    }
}

/// Bytes of a simple generator.
fn bytes(seed: u32, n: usize) -> Vec<i8> {
    (0..n as u32)
        .map(|i| ((i ^ seed).wrapping_mul(2_654_435_761) >> 13) as i8)
        .collect()
}

fn sum(a: &[i8], b: &[i8], k: usize, (i, j): (usize, usize), (lda, ldb): (usize, usize)) -> i32 {
    (0..k)
        .map(|x| i32::from(a[i * lda + x]) * i32::from(b[j * ldb + x]))
        .sum()
}

#[test]
fn int8_products_are_exact() {
    let (_, context) = context();
    let stream = context.new_stream().unwrap();
    let (m, n, k) = (8, 5, 36);
    let (lda, ldb, ldd) = (40, 36, 12);
    let product = Product::int8((8, 5, 36), [40, 36, 12]);
    let (a, b) = (bytes(1, m * lda), bytes(2, n * ldb));
    let (da, db) = (
        stream.clone_htod(&a).unwrap(),
        stream.clone_htod(&b).unwrap(),
    );
    let mut d = stream.clone_htod(&vec![7i32; n * ldd]).unwrap();
    let best = product.candidates(32 << 20).unwrap();
    let done = product.run(
        &stream,
        [3, -2],
        (&da, &db, &mut d),
        Some(&best[0].algo),
        None,
    );
    assert_eq!(done, Status::CUBLAS_STATUS_SUCCESS);
    let result = stream.clone_dtoh(&d).unwrap();
    for j in 0..n {
        for i in 0..ldd {
            let want = match i < m {
                true => 3 * sum(&a, &b, k, (i, j), (lda, ldb)) - 14,
                false => 7,
            };
            assert_eq!(result[j * ldd + i], want, "row {i} column {j}");
        }
    }
}

#[test]
fn a_float_scale_gives_int8_rounded_half_to_even() {
    let (_, context) = context();
    let stream = context.new_stream().unwrap();
    let types = (Compute::CUBLAS_COMPUTE_32I, Type::CUDA_R_32F);
    let product = Product::new(types, [Type::CUDA_R_8I; 2], (4, 1, 4), [4; 3]);
    let a = [1i8, 0, 0, 0, 3, 0, 0, 0, -5, 0, 0, 0, 100, 100, 0, 0];
    let da = stream.clone_htod(&a).unwrap();
    let db = stream.clone_htod(&[1i8, 9, 0, 0]).unwrap();
    let mut d = stream.clone_htod(&[0i8; 4]).unwrap();
    let done = product.run(&stream, [0.5f32, 0.0], (&da, &db, &mut d), None, None);
    assert_eq!(done, Status::CUBLAS_STATUS_SUCCESS);
    // 0.5, 1.5, -2.5, 500
    assert_eq!(stream.clone_dtoh(&d).unwrap(), [0, 2, -2, 127]);
}

#[test]
fn batches_follow_their_strides() {
    let (_, context) = context();
    let stream = context.new_stream().unwrap();
    let product = Product::int8((4, 3, 8), [8, 8, 4]);
    for (i, stride) in [(0, 32i64), (1, 24), (2, 12)] {
        product.set_layout(LayoutAttribute::CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, i, 5i32);
        product.set_layout(
            LayoutAttribute::CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
            i,
            stride,
        );
    }
    let (a, b) = (bytes(3, 160), bytes(4, 120));
    let (da, db) = (
        stream.clone_htod(&a).unwrap(),
        stream.clone_htod(&b).unwrap(),
    );
    let mut d = stream.alloc_zeros::<i32>(60).unwrap();
    let done = product.run(&stream, [1, 0], (&da, &db, &mut d), None, None);
    assert_eq!(done, Status::CUBLAS_STATUS_SUCCESS);
    let result = stream.clone_dtoh(&d).unwrap();
    for (at, found) in result.iter().enumerate() {
        let (batch, j, i) = (at / 12, at / 4 % 3, at % 4);
        let want = sum(&a[batch * 32..], &b[batch * 24..], 8, (i, j), (8, 8));
        assert_eq!(*found, want, "batch {batch} row {i} column {j}");
    }
}

#[test]
fn what_the_real_one_refuses_is_refused() {
    let (fake, _context) = context();
    let refused = |product: &Product| product.candidates(0).unwrap_err();
    let fine = Product::int8((8, 5, 8), [8, 8, 8]);
    assert_eq!(fine.candidates(0).unwrap().len(), 1);
    for (shape, lds) in [
        ((6, 5, 8), [8, 8, 8]),
        ((8, 5, 6), [8, 8, 8]),
        ((8, 5, 8), [9, 8, 8]),
        ((8, 5, 8), [8, 10, 8]),
        ((8, 5, 8), [8, 8, 9]),
    ] {
        assert_eq!(refused(&Product::int8(shape, lds)), NOT_SUPPORTED);
        assert!(fake.last_refusal().unwrap().contains("multiple of 4"));
    }
    assert_eq!(refused(&Product::int8((8, 5, 8), [4, 8, 8])), INVALID);
    let float_out = Product::new(
        (Compute::CUBLAS_COMPUTE_32I, Type::CUDA_R_32F),
        [Type::CUDA_R_8I, Type::CUDA_R_32F],
        (8, 8, 8),
        [8; 3],
    );
    assert_eq!(refused(&float_out), NOT_SUPPORTED);

    use DescAttribute as D;
    let with = |which, value: u64, bytes: usize| {
        let product = Product::int8((8, 8, 8), [8; 3]);
        let pointer = &raw const value as *const c_void;
        // SAFETY: the descriptor lives; eight bytes are there.
        let set = unsafe { result::set_matmul_desc_attribute(product.desc, which, pointer, bytes) };
        match set {
            Ok(()) => product
                .candidates(0)
                .map_or_else(|s| s, |_| Status::CUBLAS_STATUS_SUCCESS),
            Err(e) => e.0,
        }
    };
    assert_eq!(with(D::CUBLASLT_MATMUL_DESC_TRANSA, 0, 4), NOT_SUPPORTED);
    assert_eq!(with(D::CUBLASLT_MATMUL_DESC_TRANSB, 1, 4), NOT_SUPPORTED);
    assert_eq!(with(D::CUBLASLT_MATMUL_DESC_EPILOGUE, 4, 4), NOT_SUPPORTED);
    assert_eq!(
        with(D::CUBLASLT_MATMUL_DESC_BIAS_POINTER, 64, 8),
        NOT_SUPPORTED
    );
    assert_eq!(
        with(D::CUBLASLT_MATMUL_DESC_POINTER_MODE, 2, 4),
        NOT_SUPPORTED
    );
    assert_eq!(with(D::CUBLASLT_MATMUL_DESC_EPILOGUE, 1, 8), INVALID);
    assert_eq!(
        with(D::CUBLASLT_MATMUL_DESC_EPILOGUE, 1, 4),
        Status::CUBLAS_STATUS_SUCCESS
    );
}

#[test]
fn workspaces_are_needed_honoured_and_overwritten() {
    let (_, context) = context();
    let stream = context.new_stream().unwrap();
    let product = Product::int8((4, 1, 4096), [4096, 4096, 4]);
    assert_eq!(product.candidates(0).unwrap().len(), 1);
    let all = product.candidates(32 << 20).unwrap();
    let sizes: Vec<_> = all.iter().map(|c| c.workspaceSize).collect();
    assert_eq!(sizes, [32 << 20, 4 << 20, 0]);
    let a = stream.clone_htod(&vec![1i8; 4 * 4096]).unwrap();
    let b = stream.clone_htod(&vec![1i8; 4096]).unwrap();
    let mut d = stream.alloc_zeros::<i32>(4).unwrap();
    let mut workspace = stream.alloc_zeros::<u8>(4 << 20).unwrap();
    let mut run = |i: usize, workspace: Option<&mut CudaSlice<u8>>| {
        product.run(
            &stream,
            [1, 0],
            (&a, &b, &mut d),
            Some(&all[i].algo),
            workspace,
        )
    };
    assert_eq!(run(0, Some(&mut workspace)), INVALID);
    assert_eq!(run(1, None), INVALID);
    assert_eq!(run(2, None), Status::CUBLAS_STATUS_SUCCESS);
    assert_eq!(run(1, Some(&mut workspace)), Status::CUBLAS_STATUS_SUCCESS);
    assert_ne!(stream.clone_dtoh(&workspace).unwrap()[0], 0);
    assert_eq!(stream.clone_dtoh(&d).unwrap(), [4096; 4]);
}

#[test]
fn halves_are_multiplied_too() {
    let (_, context) = context();
    let stream = context.new_stream().unwrap();
    let types = (Compute::CUBLAS_COMPUTE_32F, Type::CUDA_R_32F);
    let product = Product::new(types, [Type::CUDA_R_16F; 2], (2, 2, 3), [3, 3, 2]);
    let halves = |list: &[f32]| {
        let list: Vec<f16> = list.iter().map(|x| f16::from_f32(*x)).collect();
        stream.clone_htod(&list).unwrap()
    };
    let (a, b) = (
        halves(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
        halves(&[1.0, 0.0, 1.0, 0.5, 0.5, 0.5]),
    );
    let mut d = halves(&[0.0; 4]);
    let done = product.run(&stream, [2.0f32, 0.0], (&a, &b, &mut d), None, None);
    assert_eq!(done, Status::CUBLAS_STATUS_SUCCESS);
    let result = stream.clone_dtoh(&d).unwrap();
    assert_eq!(result.map_to_f32(), [8.0, 20.0, 6.0, 15.0]);
}

/// For comparison with literals.
trait MapToF32 {
    fn map_to_f32(&self) -> Vec<f32>;
}

impl MapToF32 for Vec<f16> {
    fn map_to_f32(&self) -> Vec<f32> {
        self.iter().map(|x| x.to_f32()).collect()
    }
}

#[test]
fn products_are_captured_in_graphs() {
    let (fake, context) = context();
    // SAFETY: the buffers here are used on one stream.
    unsafe { context.disable_event_tracking() };
    let stream = context.new_stream().unwrap();
    let product = Product::int8((4, 1, 4), [4; 3]);
    let a = stream.clone_htod(&[1i8; 16]).unwrap();
    let b = stream.clone_htod(&[2i8; 4]).unwrap();
    let mut d = stream.clone_htod(&[0i32; 4]).unwrap();
    fake.mark();
    stream
        .begin_capture(
            cudarc::driver::sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL,
        )
        .unwrap();
    let captured = product.run(&stream, [1, 1], (&a, &b, &mut d), None, None);
    assert_eq!(captured, Status::CUBLAS_STATUS_SUCCESS);
    let flags = cudarc::driver::sys::CUgraphInstantiate_flags(0);
    let graph = stream.end_capture(flags).unwrap().unwrap();
    assert_eq!(fake.calls_since_mark("cublasLtMatmul"), 1);
    graph.launch().unwrap();
    graph.launch().unwrap();
    assert_eq!(stream.clone_dtoh(&d).unwrap(), [16; 4]);
}
