//! The driver as cudarc finds and uses it: no environment is set up for these tests.
mod cudarc_common;

use cudarc::driver::sys::{
    CUdevice_attribute as Attribute, CUevent_flags, CUfunction_attribute as FunctionAttribute,
    CUresult,
};
use cudarc::driver::{CudaContext, PushKernelArg};
use cudarc::nvrtc::Ptx;
use cudarc_common::{code, context, function, module, shape, FATBIN};

#[test]
fn a_fatbin_is_loaded_and_its_kernel_run() {
    let (fake, context) = context();
    let scale = function(&context, "scale");
    let stream = context.new_stream().unwrap();
    let input: Vec<f32> = (0..1000).map(|i| i as f32 * 0.5).collect();
    let device = stream.clone_htod(&input).unwrap();
    let mut output = stream.alloc_zeros::<f32>(1000).unwrap();
    fake.mark();
    let (n, by) = (1000u32, 3.0f32);
    let mut launch = stream.launch_builder(&scale);
    launch.arg(&device).arg(&mut output).arg(&n).arg(&by);
    // SAFETY: the kernel's four parameters, and 1000 elements in both buffers.
    unsafe { launch.launch(shape(8, 128, 0)) }.unwrap();
    assert_eq!(fake.launches_since_mark(Some("scale")), 1);
    assert_eq!(fake.launches_since_mark(Some("reverse")), 0);
    assert_eq!(fake.allocations_since_mark(), 0);
    assert_eq!(fake.synchronisations_since_mark(), 0);
    assert!(fake.thread_instructions() > 1000);
    let result = stream.clone_dtoh(&output).unwrap();
    stream.synchronize().unwrap();
    assert_eq!(fake.synchronisations_since_mark(), 1);
    assert!(result.iter().zip(&input).all(|(a, b)| *a == 3.0 * b));
}

#[test]
fn text_and_packed_fatbins_are_loaded_too() {
    let (_, context) = context();
    let text = fake_cuda::fatbin::ptx_for(FATBIN, 90).unwrap();
    context.load_module(Ptx::from_src(text)).unwrap();
    for packed in [
        &include_bytes!("data/scale_lz4.fatbin")[..],
        include_bytes!("data/scale_zstd.fatbin"),
    ] {
        let module = context.load_module(Ptx::from_binary(packed.to_vec()));
        module.unwrap().load_function("scale").unwrap();
    }
}

#[test]
fn images_that_can_t_run_are_refused_with_the_reason() {
    let (fake, context) = context();
    let load = |image: Vec<u8>| code(context.load_module(Ptx::from_binary(image)));
    let elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\0".to_vec();
    assert_eq!(load(elf), CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU);
    assert!(fake.last_refusal().unwrap().contains("cubin"));
    let unknown = ".version 8.0\n.target sm_80\n.address_size 64\n\
                   .visible .entry k() { frobnicate.u32 %r1, %r2; ret; }";
    assert_eq!(
        code(context.load_module(Ptx::from_src(unknown))),
        CUresult::CUDA_ERROR_INVALID_PTX
    );
    assert!(fake.last_refusal().unwrap().contains("frobnicate"));
    let above = ".version 8.0\n.target sm_120\n.address_size 64\n.visible .entry k() { ret; }";
    assert_eq!(
        code(context.load_module(Ptx::from_src(above))),
        CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU
    );
    assert_eq!(
        code(module(&context).load_function("absent")),
        CUresult::CUDA_ERROR_NOT_FOUND
    );
    assert!(fake.last_refusal().unwrap().contains("scale"));
}

#[test]
fn shared_memory_is_limited_until_the_kernel_opts_in() {
    let (fake, context) = context();
    let reverse = function(&context, "reverse");
    let stream = context.new_stream().unwrap();
    let mut data = stream.clone_htod(&[1i32, 2, 3, 4]).unwrap();
    let mut launch = |bytes| {
        let mut launch = stream.launch_builder(&reverse);
        launch.arg(&mut data);
        // SAFETY: the kernel's one parameter, and an element for each of four threads.
        code(unsafe { launch.launch(shape(1, 4, bytes)) }.map(|_| ()))
    };
    assert_eq!(launch(48 * 1024), CUresult::CUDA_SUCCESS);
    assert_eq!(launch(48 * 1024 + 1), CUresult::CUDA_ERROR_INVALID_VALUE);
    assert!(fake.last_refusal().unwrap().contains("MAX_DYNAMIC_SHARED"));
    let limit = context
        .attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)
        .unwrap();
    assert_eq!(limit, 227 * 1024);
    let dynamic = FunctionAttribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    let opt_in = |bytes| code(reverse.set_attribute(dynamic, bytes));
    assert_eq!(opt_in(limit + 1), CUresult::CUDA_ERROR_INVALID_VALUE);
    assert_eq!(opt_in(limit), CUresult::CUDA_SUCCESS);
    assert_eq!(reverse.get_attribute(dynamic).unwrap(), limit);
    assert_eq!(launch(limit as u32), CUresult::CUDA_SUCCESS);
    assert_eq!(launch(limit as u32 + 1), CUresult::CUDA_ERROR_INVALID_VALUE);
    // Two launches succeeded: reversed twice.
    assert_eq!(stream.clone_dtoh(&data).unwrap(), [1, 2, 3, 4]);
}

#[test]
fn wrong_launches_are_refused_before_anything_runs() {
    let (_, context) = context();
    let reverse = function(&context, "reverse");
    let stream = context.new_stream().unwrap();
    let mut data = stream.clone_htod(&[0i32; 4]).unwrap();
    for (blocks, threads) in [(0, 4), (1, 0), (1, 1025), (1, 2048)] {
        let mut launch = stream.launch_builder(&reverse);
        launch.arg(&mut data);
        // SAFETY: refused.
        let result = unsafe { launch.launch(shape(blocks, threads, 0)) };
        assert_eq!(
            code(result.map(|_| ())),
            CUresult::CUDA_ERROR_INVALID_VALUE,
            "{blocks} x {threads}"
        );
    }
    assert_eq!(
        reverse.occupancy_max_active_blocks_per_multiprocessor(1024, 0, None),
        Ok(1)
    );
    assert_eq!(
        reverse.occupancy_max_active_blocks_per_multiprocessor(128, 48 * 1024, None),
        Ok(4)
    );
}

#[test]
fn memory_is_strict() {
    let (fake, context) = context();
    let stream = context.new_stream().unwrap();
    // SAFETY: nothing is written, which is the point.
    let raw = unsafe { stream.alloc::<u8>(64) }.unwrap();
    assert_eq!(
        code(stream.clone_dtoh(&raw)),
        CUresult::CUDA_ERROR_INVALID_VALUE
    );
    assert!(fake.last_refusal().unwrap().contains("uninitialised"));
    let before = fake.live_allocations();
    assert!(before >= 1);
    drop(raw);
    // SAFETY: refused.
    let huge = unsafe { stream.alloc::<u8>(1 << 50) };
    assert_eq!(code(huge), CUresult::CUDA_ERROR_OUT_OF_MEMORY);
    // SAFETY: refused.
    let none = unsafe { stream.alloc::<u8>(0) };
    assert_eq!(code(none), CUresult::CUDA_ERROR_INVALID_VALUE);
    let (free, total) = context.mem_get_info().unwrap();
    assert!(free <= total && total == context.total_mem().unwrap());
    // SAFETY: refused: this was never an allocation.
    let result = unsafe { cudarc::driver::result::free_sync(0x1234_5000) };
    assert_eq!(code(result), CUresult::CUDA_ERROR_INVALID_VALUE);
}

#[test]
fn destroyed_handles_are_recognised() {
    use cudarc::driver::result::{event, stream};
    let (_, context) = context();
    context.bind_to_thread().unwrap();
    let handle = stream::create(stream::StreamKind::NonBlocking).unwrap();
    let mark = event::create(CUevent_flags::CU_EVENT_DEFAULT).unwrap();
    // SAFETY: the emulator checks every handle.
    unsafe {
        event::record(mark, handle).unwrap();
        stream::destroy(handle).unwrap();
        let gone = CUresult::CUDA_ERROR_INVALID_HANDLE;
        assert_eq!(code(stream::synchronize(handle)), gone);
        assert_eq!(code(stream::destroy(handle)), gone);
        assert_eq!(code(event::record(mark, handle)), gone);
        assert_eq!(
            code(event::record(handle.cast(), std::ptr::null_mut())),
            gone
        );
        event::destroy(mark).unwrap();
        assert_eq!(code(event::synchronize(mark)), gone);
    }
}

#[test]
fn a_thread_without_a_context_is_told_so() {
    let (_, context) = context();
    std::thread::spawn(move || {
        let none = cudarc::driver::result::malloc_sync;
        // SAFETY: refused.
        let result = unsafe { none(16) };
        assert_eq!(code(result), CUresult::CUDA_ERROR_INVALID_CONTEXT);
        context.bind_to_thread().unwrap();
        // SAFETY: allocated here, freed here.
        unsafe { cudarc::driver::result::free_sync(none(16).unwrap()) }.unwrap();
    })
    .join()
    .unwrap();
}

#[test]
fn events_measure_time() {
    let (_, context) = context();
    let stream = context.new_stream().unwrap();
    let timed = Some(CUevent_flags::CU_EVENT_DEFAULT);
    let start = stream.record_event(timed).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(5));
    let end = stream.record_event(timed).unwrap();
    let ms = start.elapsed_ms(&end).unwrap();
    assert!((4.9..5000.0).contains(&ms), "{ms}");
    let untimed = stream.record_event(None).unwrap();
    assert_eq!(
        code(start.elapsed_ms(&untimed)),
        CUresult::CUDA_ERROR_INVALID_HANDLE
    );
}

#[test]
fn the_device_describes_itself() {
    let (_, context) = context();
    assert_eq!(context.compute_capability().unwrap(), (9, 0));
    assert!(context.name().unwrap().contains("sm_90"));
    assert_ne!(context.uuid().unwrap().bytes, [0; 16]);
    assert_eq!(CudaContext::device_count().unwrap(), 1);
    assert_eq!(
        code(CudaContext::new(1)),
        CUresult::CUDA_ERROR_INVALID_DEVICE
    );
    for (attribute, value) in [
        (Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 132),
        (Attribute::CU_DEVICE_ATTRIBUTE_WARP_SIZE, 32),
        (Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE, 50 << 20),
        (Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED, 1),
    ] {
        assert_eq!(context.attribute(attribute).unwrap(), value);
    }
    let error = format!("{:?}", CudaContext::new(1).unwrap_err());
    assert!(error.contains("invalid device ordinal"), "{error}");
}

#[test]
fn page_locked_memory_is_real_memory() {
    let (_, context) = context();
    let stream = context.new_stream().unwrap();
    // SAFETY: written below before it is read.
    let mut host = unsafe { context.alloc_pinned::<u32>(100) }.unwrap();
    host.as_mut_slice()
        .unwrap()
        .iter_mut()
        .zip(0..)
        .for_each(|(x, i)| *x = i);
    let device = stream.clone_htod(&host).unwrap();
    let back = stream.clone_dtoh(&device).unwrap();
    assert!(back.iter().copied().eq(0..100));
}

/// Under unified addressing a kernel writes page-locked memory at the host's address, while there is some.
#[test]
fn kernels_write_page_locked_memory_at_the_host_s_address() {
    let (_, context) = context();
    let (scale, stream) = (function(&context, "scale"), context.new_stream().unwrap());
    let input = stream.clone_htod(&[1f32, 2.0, 3.0]).unwrap();
    // SAFETY: memory of this size, zeroed by this driver; freed below.
    let host = unsafe { cudarc::driver::result::malloc_host(12, 1 | 2) }.unwrap();
    assert_eq!(host as usize % 4096, 0);
    let (address, n, by) = (host as u64, 3u32, 2.0f32);
    let launch = || {
        let mut launch = stream.launch_builder(&scale);
        launch.arg(&input).arg(&address).arg(&n).arg(&by);
        // SAFETY: the kernel's four parameters, three elements in both places.
        unsafe { launch.launch(shape(1, 32, 0)) }.unwrap();
        stream.synchronize()
    };
    launch().unwrap();
    // SAFETY: three floats of the memory above, which nothing writes any more.
    let found = unsafe { std::slice::from_raw_parts(host.cast::<f32>(), 3) };
    assert_eq!(found, [2.0, 4.0, 6.0]);
    // SAFETY: of `malloc_host`.
    unsafe { cudarc::driver::result::free_host(host) }.unwrap();
}
