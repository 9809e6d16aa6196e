//! The safe layer over cuBLASLt: exact sums, its rules by name, candidates, workspaces, graphs, threads.

use crate::support::{device, hardware, stream, Random};
use imma::cuda::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use imma::cuda::cudarc::driver::CudaStream;
use imma::cuda::kernels::cublaslt::{CublasLt, LtOutput, LtProduct, LtResult, LtShape};
use imma::cuda::{status, Device, Status};
use imma::Error;
use std::process::Command;
use std::sync::Arc;

fn integers(random: &mut Random, n: usize) -> Vec<i8> {
    (0..n).map(|_| random.next() as i8).collect()
}

/// What a matrix needs, to its last element.
fn span(rows: usize, cols: usize, ld: usize, batch: usize, stride: usize) -> usize {
    (batch - 1) * stride + (rows - 1) * ld + cols
}

fn spans(s: &LtShape) -> [usize; 3] {
    let of = |i: usize, rows, cols| span(rows, cols, s.ld[i], s.batch, s.stride[i]);
    [of(0, s.m, s.k), of(1, s.n, s.k), of(2, s.m, s.n)]
}

/// Element `(b, i, j)` of the product, written out.
fn sum(s: &LtShape, a: &[i8], w: &[i8], (b, i, j): (usize, usize, usize)) -> i32 {
    (0..s.k)
        .map(|x| {
            let a = a[b * s.stride[0] + i * s.ld[0] + x];
            let w = w[b * s.stride[1] + j * s.ld[1] + x];
            i32::from(a) * i32::from(w)
        })
        .sum()
}

/// Every element of C's memory: the product, or `gap` between its rows.
fn expected<T: Copy>(s: &LtShape, gap: T, at: impl Fn((usize, usize, usize)) -> T) -> Vec<T> {
    let mut all = vec![gap; spans(s)[2]];
    for b in 0..s.batch {
        for i in 0..s.m {
            for j in 0..s.n {
                all[b * s.stride[2] + i * s.ld[2] + j] = at((b, i, j));
            }
        }
    }
    all
}

/// Runs a candidate over fresh memory with as much workspace as it wants.
fn run(
    stream: &Arc<CudaStream>,
    product: &LtProduct,
    candidate: usize,
    a: &[i8],
    w: &[i8],
) -> Vec<i32> {
    let (a, w) = (stream.clone_htod(a).unwrap(), stream.clone_htod(w).unwrap());
    let c = vec![i32::MIN + 5; spans(&product.shape())[2]];
    let mut c = stream.clone_htod(&c).unwrap();
    let bytes = product.candidates()[candidate].workspace_bytes();
    let mut workspace = stream.alloc_zeros::<u8>(bytes.max(1)).unwrap();
    product
        .run(
            stream,
            candidate,
            &a.as_view(),
            &w.as_view(),
            LtResult::I32(&mut c.as_view_mut()),
            &mut workspace.as_view_mut(),
        )
        .unwrap();
    stream.clone_dtoh(&c).unwrap()
}

#[test]
fn sums_are_exact_for_every_candidate_stride_and_batch() {
    let (device, stream) = (device(), stream());
    let lt = CublasLt::of(device).unwrap();
    let mut random = Random(1);
    for (m, n, k, pads, batch) in [
        (1, 4, 4, [0, 0, 0], 1),
        (7, 8, 36, [4, 12, 4], 1),
        (3, 20, 4096, [0, 16, 8], 1),
        (17, 12, 600, [0, 0, 0], 1),
        (5, 4, 16, [0, 16, 12], 3),
    ] {
        let ld = [k + pads[0], k + pads[1], n + pads[2]];
        let shape = LtShape {
            ld,
            batch,
            stride: [m * ld[0], n * ld[1], m * ld[2]].map(|x: usize| x.next_multiple_of(16)),
            ..LtShape::new(m, n, k)
        };
        let product = lt.product(shape).unwrap();
        let [a_len, w_len, _] = spans(&shape);
        let (a, w) = (integers(&mut random, a_len), integers(&mut random, w_len));
        let want = expected(&shape, i32::MIN + 5, |at| sum(&shape, &a, &w, at));
        assert!(!product.candidates().is_empty());
        for candidate in 0..product.candidates().len() {
            assert!(product.candidates()[candidate].workspace_bytes() <= lt.workspace_limit());
            let found = run(&stream, &product, candidate, &a, &w);
            assert!(found == want, "{shape:?}, candidate {candidate}");
        }
    }
}

#[test]
fn int8_results_are_scaled_rounded_to_even_and_clipped() {
    let (device, stream) = (device(), stream());
    let shape = LtShape {
        output: LtOutput::I8,
        ld: [4, 4, 16],
        ..LtShape::new(4, 16, 4)
    };
    let product = CublasLt::of(device).unwrap().product(shape).unwrap();
    let mut w = vec![0i8; 64];
    w[..4].copy_from_slice(&[1, 0, 0, 0]);
    w[4..8].copy_from_slice(&[100, 100, 0, 0]);
    let a = [1i8, 0, 0, 0, 3, 0, 0, 0, -5, 0, 0, 0, 100, 100, 0, 0];
    let (da, dw) = (
        stream.clone_htod(&a).unwrap(),
        stream.clone_htod(&w).unwrap(),
    );
    let mut c = stream.clone_htod(&[9i8; 64]).unwrap();
    let bytes = product.candidates()[0].workspace_bytes();
    let mut workspace = stream.alloc_zeros::<u8>(bytes.max(1)).unwrap();
    product
        .run(
            &stream,
            0,
            &da.as_view(),
            &dw.as_view(),
            LtResult::I8(&mut c.as_view_mut(), 0.5),
            &mut workspace.as_view_mut(),
        )
        .unwrap();
    let found = stream.clone_dtoh(&c).unwrap();
    // Sums 1, 3, -5, 100 and 100, 300, -500, 20000.
    let columns = [0, 1].map(|j| [0, 1, 2, 3].map(|i: usize| found[i * 16 + j]));
    assert_eq!(columns, [[0, 2, -2, 50], [50, 127, -128, 127]]);
}

#[test]
fn a_shape_is_asked_for_once() {
    let lt = CublasLt::of(device()).unwrap();
    let shape = LtShape::new(33, 44, 52);
    let first = lt.product(shape).unwrap();
    assert!(Arc::ptr_eq(&first, &lt.product(shape).unwrap()));
    let other = LtShape { m: 34, ..shape };
    assert!(!Arc::ptr_eq(&first, &lt.product(other).unwrap()));
    // 32 MiB from Hopper on.
    let hopper = device().properties().capability.0 >= 9;
    assert_eq!(
        lt.workspace_limit(),
        if hopper { 32 << 20 } else { 8 << 20 }
    );
    // The library's own handle is the same for all.
    assert!(Arc::ptr_eq(&lt, &CublasLt::of(device()).unwrap()));
}

#[test]
fn broken_rules_are_named_before_the_library_sees_them() {
    let lt = CublasLt::of(device()).unwrap();
    let fine = LtShape::new(8, 8, 16);
    let refuse = |shape| lt.product(shape).unwrap_err().to_string();
    let four = "expected a multiple of 4 for cuBLASLt: pad with zeros";
    let ld = |ld| LtShape { ld, ..fine };
    for (shape, want) in [
        (LtShape::new(8, 6, 16), format!("N is 6, {four}")),
        (LtShape::new(8, 8, 18), format!("K is 18, {four}")),
        (ld([18, 16, 8]), format!("A's row stride is 18, {four}")),
        (ld([16, 17, 8]), format!("W's row stride is 17, {four}")),
        (ld([16, 16, 9]), format!("C's row stride is 9, {four}")),
        (
            ld([12, 16, 8]),
            "A's row stride is 12, expected at least the 16 columns".into(),
        ),
        (
            LtShape::new(0, 8, 16),
            "M is 0, expected 1..=2^31 - 1 for cuBLASLt".into(),
        ),
        (
            LtShape { batch: 0, ..fine },
            "the batch is 0, expected 1..=2^31 - 1 for cuBLASLt".into(),
        ),
        (
            LtShape {
                batch: 2,
                stride: [127, 128, 64],
                ..fine
            },
            "A's batch stride is 127, expected a multiple of 16 bytes".into(),
        ),
        (
            LtShape {
                batch: 2,
                stride: [128, 128, 60],
                ..fine
            },
            "C's batch stride is 60, expected at least the 64 elements of one result".into(),
        ),
    ] {
        assert_eq!(refuse(shape), want);
    }
    let long = LtShape::new(8, 8, 131_072);
    assert!(matches!(lt.product(long), Err(Error::KTooLong { .. })));
}

#[test]
fn memory_that_does_not_fit_is_refused_and_nothing_runs() {
    let (device, stream) = (device(), stream());
    let product = CublasLt::of(device).unwrap();
    let product = product.product(LtShape::new(4, 4, 4096)).unwrap();
    let hungry = product
        .candidates()
        .iter()
        .position(|c| c.workspace_bytes() > 0);
    let modest = product
        .candidates()
        .iter()
        .position(|c| c.workspace_bytes() == 0);
    let zeros = |n| stream.alloc_zeros::<i8>(n).unwrap();
    let (a, w) = (zeros(4 * 4096 + 16), zeros(4 * 4096));
    let mut c = stream.clone_htod(&[7i32; 16]).unwrap();
    let mut none = stream.alloc_zeros::<u8>(1).unwrap();
    let mut refuse = |candidate, a_range: std::ops::Range<usize>, w_len, c_len| {
        let mut c = c.slice_mut(..c_len);
        product
            .run(
                &stream,
                candidate,
                &a.slice(a_range),
                &w.slice(..w_len),
                LtResult::I32(&mut c),
                &mut none.as_view_mut(),
            )
            .unwrap_err()
    };
    let (all, len) = (0..4 * 4096, 4 * 4096);
    let any = modest.unwrap_or(0);
    let short = |error: Error, name: &str| {
        assert!(
            matches!(&error, Error::Length { what, .. } if *what == name),
            "{error}"
        );
    };
    short(refuse(any, 0..len - 1, len, 16), "A");
    short(refuse(any, all.clone(), len - 1, 16), "W");
    if let Some(hungry) = hungry {
        short(refuse(hungry, all.clone(), len, 16), "the workspace");
    }
    if let Some(modest) = modest {
        short(refuse(modest, all.clone(), len, 15), "C");
        let odd = refuse(modest, 8..8 + len, len, 16).to_string();
        assert!(odd.ends_with("a multiple of 16 for cuBLASLt"), "{odd}");
    }
    let missing = refuse(99, all.clone(), len, 16).to_string();
    assert!(missing.starts_with("the cuBLASLt candidate is 99"));
    stream.synchronize().unwrap();
    assert_eq!(stream.clone_dtoh(&c).unwrap(), [7; 16]);
}

#[test]
fn products_are_captured_and_replayed_over_new_data() {
    let (device, stream) = (device(), stream());
    let shape = LtShape::new(3, 8, 16);
    let product = CublasLt::of(device).unwrap().product(shape).unwrap();
    let mut random = Random(5);
    let w = integers(&mut random, 8 * 16);
    let dw = stream.clone_htod(&w).unwrap();
    let mut da = stream.alloc_zeros::<i8>(3 * 16).unwrap();
    let mut c = stream.clone_htod(&[7i32; 24]).unwrap();
    let bytes = product.candidates()[0].workspace_bytes();
    let mut workspace = stream.alloc_zeros::<u8>(bytes.max(1)).unwrap();
    stream.synchronize().unwrap();
    stream
        .begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        .unwrap();
    let result = LtResult::I32(&mut c.as_view_mut());
    let (a_view, w_view, mut space) = (da.as_view(), dw.as_view(), workspace.as_view_mut());
    product
        .run(&stream, 0, &a_view, &w_view, result, &mut space)
        .unwrap();
    let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let graph = stream.end_capture(flags).unwrap().unwrap();
    assert_eq!(stream.clone_dtoh(&c).unwrap(), [7; 24], "captured, not run");
    for _ in 0..2 {
        let a = integers(&mut random, 3 * 16);
        stream.memcpy_htod(&a, &mut da).unwrap();
        graph.launch().unwrap();
        let want = expected(&shape, 0, |at| sum(&shape, &a, &w, at));
        assert_eq!(stream.clone_dtoh(&c).unwrap(), want);
    }
}

#[test]
fn threads_share_one_handle() {
    let lt = &CublasLt::of(device()).unwrap();
    std::thread::scope(|scope| {
        for seed in 0..3 {
            scope.spawn(move || {
                let stream = stream();
                let mut random = Random(seed);
                for _ in 0..8 {
                    let [m, n, k] = [9, 4, 8].map(|top| 1 + random.below(top));
                    let shape = LtShape::new(m, 4 * n, 4 * k);
                    let product = lt.product(shape).unwrap();
                    let a = integers(&mut random, m * 4 * k);
                    let w = integers(&mut random, 16 * n * k);
                    let want = expected(&shape, 0, |at| sum(&shape, &a, &w, at));
                    assert_eq!(run(&stream, &product, 0, &a, &w), want, "{shape:?}");
                }
            });
        }
    });
}

/// A machine with the driver and without the library: a process of its own, whose loader finds only the driver.
#[test]
fn a_missing_library_is_reported() {
    if hardware() {
        println!("not run: needs a driver without its libraries");
        return;
    }
    let folder = std::env::temp_dir().join(format!("imma-driver-only-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    for name in ["libcuda.so", "libcuda.so.1"] {
        let link = folder.join(name);
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink(fake_cuda::install::library().unwrap(), link).unwrap();
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "cublaslt::without_the_library",
            "--ignored",
            "--nocapture",
        ])
        .env("LD_LIBRARY_PATH", &folder)
        .output()
        .unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{errors}");
    assert!(
        said.contains("seen: library 'cuBLASLt' is not available here"),
        "{said}\n{errors}"
    );
}

#[test]
#[ignore = "run by a_missing_library_is_reported, in a process of its own"]
fn without_the_library() {
    if std::env::var_os("LD_LIBRARY_PATH").is_none() {
        return;
    }
    let device = Device::open(0).unwrap();
    assert!(matches!(status(), Status::NoCublasLt { devices: 1 }));
    println!("seen: {}", CublasLt::of(&device).unwrap_err());
}
