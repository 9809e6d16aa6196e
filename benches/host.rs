//! What a layer on a device costs the host, with nothing of the device in it: launches are captured in a graph, not run.
//!
//! `cargo bench -p benches --features cuda --bench host` runs on the emulated driver, so that two versions can be compared on any
//! machine; `IMMA_BENCH_DEVICE=hardware` takes the machine's own. A line a case: the median of rounds, in microseconds a call.
#![allow(missing_docs)]

use imma::cuda::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use imma::cuda::{Device, DeviceLinear, Matrix, WeightOrder};
use imma::DType;
use std::time::Instant;

const ROUNDS: usize = 15;
const CALLS: usize = 200;
/// Outputs and inputs of the layer.
const N: usize = 64;
const K: usize = 256;

/// The median over rounds of a call's time.
fn report(name: &str, mut round: impl FnMut() -> f64) {
    let mut times: Vec<f64> = (0..ROUNDS).map(|_| round()).collect();
    times.sort_by(f64::total_cmp);
    println!("{name:40} {:8.2} us", times[ROUNDS / 2] * 1e6);
}

fn per_call(mut call: impl FnMut(usize)) -> f64 {
    let start = Instant::now();
    (0..CALLS).for_each(&mut call);
    start.elapsed().as_secs_f64() / CALLS as f64
}

fn main() {
    if std::env::var("IMMA_BENCH_DEVICE").as_deref() != Ok("hardware") {
        #[cfg(target_os = "linux")]
        fake_cuda::install::install();
    }
    let device = match Device::open(0) {
        Ok(device) => device,
        Err(error) => return println!("not run: {error}"),
    };
    // SAFETY: one stream uses every buffer here and is synchronised before they are dropped.
    unsafe { device.context().disable_event_tracking() };
    let stream = device.context().new_stream().expect("a stream");
    let weight = stream.alloc_zeros::<f32>(N * K).expect("memory");
    let weight = Matrix::new(&weight, N, K);
    let layer = DeviceLinear::from_float(&device, &stream, weight, WeightOrder::Outputs);
    let layer = layer.expect("a layer");
    let plan = |m| layer.plan(m, DType::F32, DType::F32).expect("a plan");

    report("a plan of a number of rows seen before", || {
        per_call(|i| drop(plan([1, 4096][i % 2])))
    });
    for m in [1, 128] {
        let x = stream.alloc_zeros::<f32>(m * K).expect("memory");
        let mut y = stream.alloc_zeros::<f32>(m * N).expect("memory");
        let bytes = plan(m).workspace_bytes().max(1);
        let mut workspace = stream.alloc_zeros::<u8>(bytes).expect("memory");
        report(&format!("a plan and its run, captured, {m} rows"), || {
            let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
            stream.begin_capture(mode).expect("capturing");
            let time = per_call(|_| {
                let y = Matrix::new(&mut y, m, N);
                let x = Matrix::new(&x, m, K);
                let run = layer.run(&plan(m), &stream, x, y, &mut workspace);
                run.expect("a run");
            });
            let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
            drop(stream.end_capture(flags).expect("a graph"));
            time
        });
    }
    stream.synchronize().expect("an idle stream");
}
