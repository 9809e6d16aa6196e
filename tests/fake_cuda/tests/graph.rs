//! Stream capture and graphs, one test at a time: a capture forbids calls to other threads too.
mod cudarc_common;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::sys::{CUgraphInstantiate_flags, CUresult, CUstreamCaptureMode as Mode};
use cudarc::driver::{CudaContext, CudaFunction, CudaSlice, CudaStream, PushKernelArg};
use cudarc_common::{code, context, function, shape};

const GLOBAL: Mode = Mode::CU_STREAM_CAPTURE_MODE_GLOBAL;
const THREAD_LOCAL: Mode = Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
const RELAXED: Mode = Mode::CU_STREAM_CAPTURE_MODE_RELAXED;

static TURN: Mutex<()> = Mutex::new(());

/// A context whose buffers don't wait for events, and the right to capture.
fn start() -> (MutexGuard<'static, ()>, Arc<CudaContext>, Arc<CudaStream>) {
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let (_, context) = context();
    // SAFETY: each test uses its buffers on streams that it synchronises itself.
    unsafe { context.disable_event_tracking() };
    let stream = context.new_stream().unwrap();
    (turn, context, stream)
}

/// Doubles four floats from one buffer into the other.
fn double(
    stream: &Arc<CudaStream>,
    scale: &CudaFunction,
    from: &CudaSlice<f32>,
    to: &mut CudaSlice<f32>,
) {
    let (n, by) = (4u32, 2.0f32);
    let mut launch = stream.launch_builder(scale);
    launch.arg(from).arg(to).arg(&n).arg(&by);
    // SAFETY: the kernel's parameters, and four elements in both buffers.
    unsafe { launch.launch(shape(1, 32, 0)) }.unwrap();
}

#[test]
fn captured_work_runs_at_each_launch_and_not_before() {
    let (_turn, context, stream) = start();
    let (fake, _) = cudarc_common::context();
    let scale = function(&context, "scale");
    let mut x = stream.clone_htod(&[1.0f32, 2.0, 3.0, 4.0]).unwrap();
    let mut y = stream.alloc_zeros::<f32>(4).unwrap();
    let mut tail = stream.clone_htod(&[9u8; 8]).unwrap();
    fake.mark();
    stream.begin_capture(THREAD_LOCAL).unwrap();
    double(&stream, &scale, &x, &mut y);
    stream.memcpy_dtod(&y, &mut x).unwrap();
    stream.memset_zeros(&mut tail).unwrap();
    let graph = stream.end_capture(CUgraphInstantiate_flags(0));
    let graph = graph.unwrap().unwrap();
    assert_eq!(fake.launches_since_mark(None), 0);
    assert_eq!(stream.clone_dtoh(&x).unwrap(), [1.0, 2.0, 3.0, 4.0]);
    assert_eq!(stream.clone_dtoh(&tail).unwrap(), [9; 8]);
    for _ in 0..3 {
        graph.launch().unwrap();
    }
    assert_eq!(fake.launches_since_mark(Some("scale")), 3);
    assert_eq!(stream.clone_dtoh(&x).unwrap(), [8.0, 16.0, 24.0, 32.0]);
    assert_eq!(stream.clone_dtoh(&tail).unwrap(), [0; 8]);
    drop(graph);
}

#[test]
fn waiting_and_allocating_spoil_a_capture() {
    let (_turn, context, stream) = start();
    let unsupported = CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    let invalidated = CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    let spoil = |mode, call: &dyn Fn() -> CUresult| {
        stream.begin_capture(mode).unwrap();
        let answer = call();
        let end = code(stream.end_capture(CUgraphInstantiate_flags(0)).map(|_| ()));
        (answer, end)
    };
    let synchronise = || code(stream.synchronize());
    assert_eq!(spoil(RELAXED, &synchronise), (unsupported, invalidated));
    let allocate = || {
        // SAFETY: freed at once if it was allocated.
        unsafe {
            let address = cudarc::driver::result::malloc_sync(16);
            let answer = code(address.map(|_| ()));
            if let Ok(address) = address {
                cudarc::driver::result::free_sync(address).unwrap();
            }
            answer
        }
    };
    let fine = (CUresult::CUDA_SUCCESS, CUresult::CUDA_SUCCESS);
    assert_eq!(spoil(GLOBAL, &allocate), (unsupported, invalidated));
    assert_eq!(spoil(THREAD_LOCAL, &allocate), (unsupported, invalidated));
    assert_eq!(spoil(RELAXED, &allocate), fine);
    let elsewhere = || {
        let context = context.clone();
        let other = std::thread::spawn(move || code(context.synchronize()));
        other.join().unwrap()
    };
    assert_eq!(spoil(THREAD_LOCAL, &elsewhere), fine);
    assert_eq!(spoil(GLOBAL, &elsewhere), (unsupported, invalidated));
    // After all that the stream works.
    stream.synchronize().unwrap();
    stream.clone_htod(&[1u8]).unwrap();
}

#[test]
fn streams_join_a_capture_by_its_events() {
    let (_turn, context, stream) = start();
    let scale = function(&context, "scale");
    let other = context.new_stream().unwrap();
    let x = stream.clone_htod(&[1.0f32; 4]).unwrap();
    let mut y = stream.alloc_zeros::<f32>(4).unwrap();
    let outside = stream.record_event(None).unwrap();

    stream.begin_capture(THREAD_LOCAL).unwrap();
    other.wait(&stream.record_event(None).unwrap()).unwrap();
    double(&other, &scale, &x, &mut y);
    stream.wait(&other.record_event(None).unwrap()).unwrap();
    let graph = stream.end_capture(CUgraphInstantiate_flags(0));
    graph.unwrap().unwrap().launch().unwrap();
    assert_eq!(stream.clone_dtoh(&y).unwrap(), [2.0; 4]);

    // The other stream's work is not waited for.
    stream.begin_capture(THREAD_LOCAL).unwrap();
    other.wait(&stream.record_event(None).unwrap()).unwrap();
    double(&other, &scale, &x, &mut y);
    assert_eq!(
        code(stream.end_capture(CUgraphInstantiate_flags(0)).map(|_| ())),
        CUresult::CUDA_ERROR_STREAM_CAPTURE_UNJOINED
    );
    other.synchronize().unwrap();

    // An event of before the capture is no part of it.
    stream.begin_capture(THREAD_LOCAL).unwrap();
    assert_eq!(
        code(stream.wait(&outside)),
        CUresult::CUDA_ERROR_STREAM_CAPTURE_ISOLATION
    );
    assert_eq!(
        code(stream.end_capture(CUgraphInstantiate_flags(0)).map(|_| ())),
        CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED
    );
}

#[test]
fn the_default_stream_can_t_be_captured() {
    let (_turn, context, _) = start();
    assert_eq!(
        code(context.default_stream().begin_capture(RELAXED)),
        CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED
    );
}
