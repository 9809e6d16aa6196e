//! Memory, streams and weights of another device's context are refused before anything runs there.

use crate::support::{alone, hardware};
use imma::cuda::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use imma::cuda::cudarc::driver::{CudaContext, CudaSlice, CudaStream};
use imma::cuda::kernels::{igemm_sm80, quantize_rows, GemmOperands};
use imma::cuda::{Algorithm, Device, DeviceLhs, DeviceWeights, Matrix, Operands, Plan, Problem};
use imma::element::OutputMut;
use imma::epilogue::Output;
use imma::gemm::{Gemm, Lhs, Weights};
use imma::rounding::Rounding;
use imma::{Backend, Cpu, DType, Epilogue};
use ndarray::Array2;
use std::fmt::Debug;
use std::sync::Arc;

/// A reason that names both.
fn refused<T: Debug>(result: imma::Result<T>, what: &str) {
    let error = result.expect_err(what).to_string();
    assert!(
        error.starts_with(&format!("{what} is ")) && error.contains("context"),
        "{error}; expected {what}"
    );
}

#[test]
fn what_belongs_to_another_context_is_refused() {
    if !alone(
        "contexts::what_belongs_to_another_context_is_refused",
        &[("IMMA_FAKE_DEVICES", "2")],
    ) {
        return;
    }
    if !hardware() {
        fake_cuda::install::install();
    } else if CudaContext::device_count().unwrap() < 2 {
        println!("not run: a machine with two devices is needed");
        return;
    }
    let (device, other) = (Device::open(0).unwrap(), Device::open(1).unwrap());
    assert!(Device::open(2).is_err());
    let (stream, strange) = (
        device.context().new_stream().unwrap(),
        other.context().new_stream().unwrap(),
    );
    let (m, n, k) = (2, 8, 16);
    let problem = Problem::floats(m, n, k, DType::F32, DType::F32);
    let plan = Plan::new(&device, problem, Algorithm::Heuristic).unwrap();
    let w = Array2::<i8>::ones((n, k));
    let pack = |device: &Device, stream: &Arc<CudaStream>| {
        let w: CudaSlice<i8> = stream.clone_htod(w.as_slice().unwrap()).unwrap();
        let order = imma::cuda::WeightOrder::Outputs;
        DeviceWeights::pack_int8(device, stream, Matrix::new(&w, n, k), order, Some(&[1.0]))
            .unwrap()
    };
    let (here, there) = (pack(&device, &stream), pack(&other, &strange));
    let mut space = stream.alloc_zeros::<u8>(plan.workspace_bytes()).unwrap();
    let mut space_there = strange.alloc_zeros::<u8>(plan.workspace_bytes()).unwrap();
    let floats = stream.alloc_zeros::<f32>(m * k).unwrap();
    let floats_there = strange.alloc_zeros::<f32>(m * k).unwrap();
    let mut out = stream.alloc_zeros::<f32>(m * n).unwrap();
    let mut out_there = strange.alloc_zeros::<f32>(m * n).unwrap();
    let launches = (device.launches(), other.launches());
    macro_rules! run {
        ($stream:expr, $x:expr, $weights:expr, $out:expr, $space:expr) => {{
            let lhs = DeviceLhs::floats(Matrix::new(&$x, m, k));
            let out = Matrix::new(&mut $out, m, n);
            let operands = Operands::new(lhs, $weights.view(), out);
            plan.run($stream, operands, &mut $space)
        }};
    }
    refused(run!(&strange, floats, &here, out, space), "the stream");
    refused(
        run!(&stream, floats_there, &here, out, space),
        "the left operand",
    );
    refused(run!(&stream, floats, &there, out, space), "the weights");
    refused(run!(&stream, floats, &here, out_there, space), "the output");
    refused(
        run!(&stream, floats, &here, out, space_there),
        "the workspace",
    );

    // The calls below plans.
    let (q, q_there) = (
        stream.alloc_zeros::<i8>(m * k).unwrap(),
        strange.alloc_zeros::<i8>(n * k).unwrap(),
    );
    let mut sums = stream.alloc_zeros::<i32>(m * n).unwrap();
    let instance = "64x64x128".parse().unwrap();
    let operands = GemmOperands::new(
        Matrix::new(q.as_view(), m, k),
        Matrix::new(q_there.as_view(), n, k),
        Matrix::new((&mut sums).into(), m, n),
        Epilogue::to(Output::Raw),
    );
    let result = igemm_sm80(&device, &stream, instance, operands);
    assert!(result.unwrap_err().to_string().contains("context"));
    let mut scales = strange.alloc_zeros::<f32>(m).unwrap();
    let mut place = stream.alloc_zeros::<i8>(m * k).unwrap();
    let x = Matrix::new(&floats, m, k);
    let rounding = imma::rounding::Rounding::NearestEven;
    let result = quantize_rows(
        &device,
        &stream,
        x,
        Matrix::new(&mut place, m, k),
        &mut scales,
        rounding,
    );
    assert!(result.unwrap_err().to_string().contains("context"));
    assert_eq!((device.launches(), other.launches()), launches);

    // Behind ndarray: weights know where they were packed.
    let packed = Backend::pack(other.as_ref(), Weights::Int8(w.t())).unwrap();
    let a = Array2::<i8>::ones((m, k));
    let gemm = Gemm::new(Lhs::Int8(a.view()), &packed, Epilogue::to(Output::Raw)).unwrap();
    let mut found = Array2::<i32>::zeros((m, n));
    let backends: [&dyn Backend; 2] = [device.as_ref(), &Cpu::new()];
    for backend in backends {
        let error = backend.gemm(&gemm, OutputMut::I32(found.view_mut()));
        assert!(
            matches!(error, Err(imma::Error::PackedElsewhere { .. })),
            "{error:?}"
        );
    }
    other.gemm(&gemm, OutputMut::I32(found.view_mut())).unwrap();
    assert_eq!(found, Array2::from_elem((m, n), k as i32));
}

#[test]
fn a_capture_under_event_tracking_is_refused_with_what_to_do() {
    if !alone(
        "contexts::a_capture_under_event_tracking_is_refused_with_what_to_do",
        &[],
    ) {
        return;
    }
    if !hardware() {
        fake_cuda::install::install();
    }
    let device = Device::open(0).unwrap();
    // cudarc's defaults: with a stream of one's own, events are tracked.
    let stream = device.context().new_stream().unwrap();
    assert!(device.context().is_managing_stream_synchronization());
    let call = |x: &CudaSlice<f32>, q: &mut CudaSlice<i8>, scales: &mut CudaSlice<f32>| {
        quantize_rows(
            &device,
            &stream,
            Matrix::new(x, 3, 20),
            Matrix::new(q, 3, 20),
            scales,
            Rounding::NearestEven,
        )
    };
    let buffers = || {
        let x: Vec<f32> = (0..60).map(|i| i as f32 - 30.0).collect();
        let x = stream.clone_htod(&x).unwrap();
        let q = stream.clone_htod(&[99i8; 60]).unwrap();
        let scales = stream.clone_htod(&[0.0f32; 3]).unwrap();
        stream.synchronize().unwrap();
        (x, q, scales)
    };
    let capture = |run: &mut dyn FnMut()| {
        stream
            .begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
            .unwrap();
        run();
        let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        stream.end_capture(flags).unwrap()
    };
    let (x, mut q, mut scales) = buffers();
    // Outside of a capture tracking is no matter.
    call(&x, &mut q, &mut scales).unwrap();
    let want = stream.clone_dtoh(&q).unwrap();
    stream.synchronize().unwrap();
    let launches = device.launches();
    capture(&mut || {
        let error = call(&x, &mut q, &mut scales).unwrap_err().to_string();
        assert!(
            error.contains("being captured") && error.contains("disable_event_tracking()"),
            "{error}"
        );
    });
    assert_eq!(device.launches(), launches, "nothing was enqueued");
    // What the message says is enough.
    // SAFETY: one stream uses every buffer and is synchronised before they are dropped.
    unsafe { device.context().disable_event_tracking() };
    let (x, mut q, mut scales) = buffers();
    let graph = capture(&mut || call(&x, &mut q, &mut scales).unwrap());
    graph.expect("a kernel was captured").launch().unwrap();
    assert_eq!(stream.clone_dtoh(&q).unwrap(), want);
    stream.synchronize().unwrap();
}
