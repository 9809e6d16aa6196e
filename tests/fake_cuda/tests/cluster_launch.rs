//! Tensor maps and cluster launches through the driver's C functions, as a host program makes them.
mod cudarc_common;

use std::ffi::c_void;

use cudarc::driver::sys::{self, CUresult};
use cudarc::driver::{CudaFunction, CudaStream, DevicePtr};
use cudarc::nvrtc::Ptx;
use cudarc_common::context;

/// A place for a tensor map, aligned as the driver wants it.
#[repr(C, align(128))]
struct Map(sys::CUtensorMap);

fn encode(
    data_type: sys::CUtensorMapDataType,
    swizzle: sys::CUtensorMapSwizzle,
    at: u64,
    extents: [u64; 2],
    boxes: [u32; 2],
    pitch: u64,
) -> Result<Map, CUresult> {
    // SAFETY: plain bytes, which the call writes.
    let mut map: Map = unsafe { std::mem::zeroed() };
    // SAFETY: the arrays have two entries (strides one), as the rank says.
    let result = unsafe {
        sys::cuTensorMapEncodeTiled(
            &mut map.0,
            data_type,
            2,
            at as *mut c_void,
            extents.as_ptr(),
            [pitch].as_ptr(),
            boxes.as_ptr(),
            [1u32, 1].as_ptr(),
            sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            swizzle,
            sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_NONE,
            sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    };
    match result {
        CUresult::CUDA_SUCCESS => Ok(map),
        other => Err(other),
    }
}

fn launch(
    function: &CudaFunction,
    stream: &CudaStream,
    grid: u32,
    cluster: Option<u32>,
    maps: &[Map; 3],
    k: i32,
) -> CUresult {
    // SAFETY: an attribute's value is plain data.
    let mut attribute: sys::CUlaunchAttribute = unsafe { std::mem::zeroed() };
    attribute.id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
    let size = sys::CUlaunchAttributeValue_union__bindgen_ty_1 {
        x: cluster.unwrap_or(1),
        y: 1,
        z: 1,
    };
    attribute.value.clusterDim = size;
    let config = sys::CUlaunchConfig {
        gridDimX: grid,
        gridDimY: 1,
        gridDimZ: 1,
        blockDimX: 256,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: 4 * 2 * 8192 + 64 * 64 * 4 + 64 + 1024,
        hStream: stream.cu_stream(),
        attrs: &mut attribute,
        numAttrs: u32::from(cluster.is_some()),
    };
    let pointer = |map: &Map| std::ptr::from_ref(map).cast_mut().cast::<c_void>();
    let mut params = [
        pointer(&maps[0]),
        pointer(&maps[1]),
        pointer(&maps[2]),
        std::ptr::from_ref(&k).cast_mut().cast(),
    ];
    // SAFETY: the kernel's four parameters, alive during the call, which copies them.
    unsafe {
        sys::cuLaunchKernelEx(
            &config,
            function.cu_function(),
            params.as_mut_ptr(),
            std::ptr::null_mut(),
        )
    }
}

#[test]
fn a_gemm_in_clusters_of_two() {
    use sys::CUtensorMapDataType::{
        CU_TENSOR_MAP_DATA_TYPE_INT32 as INT32, CU_TENSOR_MAP_DATA_TYPE_UINT8 as UINT8,
    };
    use sys::CUtensorMapSwizzle::{
        CU_TENSOR_MAP_SWIZZLE_128B as WIDE, CU_TENSOR_MAP_SWIZZLE_NONE as PLAIN,
    };
    let (_, context) = context();
    let text = include_str!("ptx/hopper.ptx");
    let module = context.load_module(Ptx::from_src(text)).unwrap();
    let function = module.load_function("hopper_igemm").unwrap();
    let shared = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    function.set_attribute(shared, 100 * 1024).unwrap();
    let stream = context.new_stream().unwrap();
    let (m, n, k) = (128usize, 64usize, 256usize);
    let a = stream.clone_htod(&vec![2i8; m * k]).unwrap();
    let b = stream.clone_htod(&vec![-3i8; n * k]).unwrap();
    let c = stream.alloc_zeros::<i32>(m * n).unwrap();
    let (pa, pb, pc) = (
        a.device_ptr(&stream).0,
        b.device_ptr(&stream).0,
        c.device_ptr(&stream).0,
    );
    let (k64, n64) = (k as u64, n as u64);
    let maps = [
        encode(UINT8, WIDE, pa, [k64, m as u64], [128, 64], k64).unwrap(),
        encode(UINT8, WIDE, pb, [k64, n64], [128, 32], k64).unwrap(),
        encode(INT32, PLAIN, pc, [n64, m as u64], [64, 64], 4 * n64).unwrap(),
    ];
    assert_eq!(
        launch(&function, &stream, 2, Some(2), &maps, k as i32),
        CUresult::CUDA_SUCCESS
    );
    stream.synchronize().unwrap();
    assert!(stream
        .clone_dtoh(&c)
        .unwrap()
        .iter()
        .all(|v| *v == -6 * 256));
    // The kernel names its cluster, so the launch need not; another one, or a grid that it does not divide, is refused.
    assert_eq!(
        launch(&function, &stream, 2, None, &maps, k as i32),
        CUresult::CUDA_SUCCESS
    );
    let refused = CUresult::CUDA_ERROR_INVALID_CLUSTER_SIZE;
    assert_eq!(
        launch(&function, &stream, 4, Some(4), &maps, k as i32),
        refused
    );
    assert_eq!(
        launch(&function, &stream, 3, Some(2), &maps, k as i32),
        refused
    );
    // A box row wider than its swizzle, a stride of 8 bytes more, a box of 257 rows.
    let invalid = CUresult::CUDA_ERROR_INVALID_VALUE;
    for (boxes, pitch) in [([144, 64], k64), ([128, 64], k64 + 8), ([128, 257], k64)] {
        assert_eq!(
            encode(UINT8, WIDE, pa, [k64, m as u64], boxes, pitch).err(),
            Some(invalid)
        );
    }
}
