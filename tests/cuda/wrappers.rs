//! The safe wrappers: one clear error for each thing that does not fit, and launches that a graph can hold.

use crate::support::{self, device, fake, stream};
use imma::cuda::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use imma::cuda::kernels::{self, Dequantize};
use imma::cuda::Matrix;
use imma::rounding::Rounding;
use imma::Error;

#[test]
fn what_does_not_fit_is_refused_before_anything_runs() {
    let (own, stream) = (support::own_device(), stream());
    let device = &*own;
    let input = stream.clone_htod(&[1.0f32; 24]).unwrap();
    let mut output = stream.clone_htod(&[9i8; 24]).unwrap();
    let mut scales = stream.clone_htod(&[9.0f32; 4]).unwrap();
    let mut zeros = stream.clone_htod(&[9i32; 4]).unwrap();
    let nearest = Rounding::NearestEven;
    let before = device.launches();

    let mut rows = |input: Matrix<_>, rows, cols| {
        let output = Matrix::new(&mut output, rows, cols);
        kernels::quantize_rows::<f32>(device, &stream, input, output, &mut scales, nearest)
            .unwrap_err()
    };
    // Four rows of seven need 28 elements.
    let error = rows(Matrix::new(&input, 4, 7), 4, 6);
    assert!(
        matches!(
            error,
            Error::Length {
                what: "input",
                found: 24,
                expected: 28
            }
        ),
        "{error}"
    );
    let error = rows(Matrix::new(&input, 4, 6), 4, 7);
    assert!(
        matches!(error, Error::Length { what: "output", .. }),
        "{error}"
    );
    let error = rows(Matrix::new(&input, 4, 6), 4, 5);
    assert!(matches!(error, Error::ShapeMismatch { .. }), "{error}");
    let error = rows(Matrix::new(&input, 4, 6), 3, 6);
    assert!(matches!(error, Error::ShapeMismatch { .. }), "{error}");
    let error = rows(Matrix::new(&input, 3, 6), 3, 6);
    assert!(
        matches!(
            error,
            Error::Length {
                what: "scales",
                found: 4,
                expected: 3
            }
        ),
        "{error}"
    );
    let error = rows(Matrix::new(&input, 4, 6).with_stride(5), 4, 6);
    assert!(
        matches!(error, Error::Value { what: "input", .. }),
        "{error}"
    );
    let error = rows(Matrix::new(&input, 4, 6).with_stride(usize::MAX), 4, 6);
    assert!(
        matches!(error, Error::Length { what: "input", .. }),
        "{error}"
    );

    // A view of floats that starts in the middle of one.
    let bytes = stream.clone_htod(&[0u8; 64]).unwrap();
    let odd = bytes.slice(2..);
    // SAFETY: any bits are floats; the address is what this is about.
    let odd = unsafe { odd.transmute::<f32>(4) }.unwrap();
    let mut four = stream.clone_htod(&[0i8; 4]).unwrap();
    let mut one = stream.clone_htod(&[0.0f32]).unwrap();
    let error = kernels::quantize_rows(
        device,
        &stream,
        Matrix::new(&odd, 1, 4),
        Matrix::new(&mut four, 1, 4),
        &mut one,
        nearest,
    )
    .unwrap_err();
    assert!(
        matches!(error, Error::Value { what: "input", .. }),
        "{error}"
    );

    // Columns want the output transposed.
    let mut six = stream.clone_htod(&[0.0f32; 6]).unwrap();
    let error = kernels::quantize_cols(
        device,
        &stream,
        Matrix::new(&input, 4, 6),
        Matrix::new(&mut output, 4, 6),
        &mut six,
        nearest,
    )
    .unwrap_err();
    assert!(matches!(error, Error::ShapeMismatch { .. }), "{error}");
    let error = kernels::quantize_rows_asymmetric(
        device,
        &stream,
        Matrix::new(&input, 6, 4),
        Matrix::new(&mut output, 6, 4),
        &mut six,
        &mut zeros,
    )
    .unwrap_err();
    assert!(
        matches!(
            error,
            Error::Length {
                what: "zero points",
                ..
            }
        ),
        "{error}"
    );

    for scale in [0.0, -1.0, f32::NAN, f32::INFINITY, 1e-40] {
        let error = kernels::quantize_static(
            device,
            &stream,
            Matrix::new(&input, 4, 6),
            Matrix::new(&mut output, 4, 6),
            scale,
            nearest,
        )
        .unwrap_err();
        assert!(
            matches!(
                error,
                Error::Value {
                    what: "the static scale",
                    ..
                }
            ),
            "{error}"
        );
    }

    let integers = stream.clone_htod(&[1i8; 24]).unwrap();
    let mut floats = stream.clone_htod(&[0.0f32; 24]).unwrap();
    let both = Dequantize {
        row_zero_points: Some((&zeros).into()),
        col_zero_points: Some((&zeros).into()),
        ..Default::default()
    };
    let error = kernels::dequantize(
        device,
        &stream,
        Matrix::new(&integers, 4, 6),
        Matrix::new(&mut floats, 4, 6),
        both,
    )
    .unwrap_err();
    assert!(
        matches!(
            error,
            Error::Value {
                what: "zero points",
                ..
            }
        ),
        "{error}"
    );
    let short = Dequantize {
        col_scales: Some((&scales).into()),
        ..Default::default()
    };
    let error = kernels::dequantize(
        device,
        &stream,
        Matrix::new(&integers, 4, 6),
        Matrix::new(&mut floats, 4, 6),
        short,
    )
    .unwrap_err();
    assert!(
        matches!(
            error,
            Error::Length {
                what: "column scales",
                ..
            }
        ),
        "{error}"
    );
    let error = kernels::transpose_s8(
        device,
        &stream,
        Matrix::new(&integers, 4, 6),
        Matrix::new(&mut output, 4, 6),
    )
    .unwrap_err();
    assert!(matches!(error, Error::ShapeMismatch { .. }), "{error}");

    assert_eq!(device.launches(), before);
    stream.synchronize().unwrap();
    assert_eq!(stream.clone_dtoh(&output).unwrap(), [9i8; 24]);
}

#[test]
fn empty_matrices_are_legal() {
    let (device, stream) = (device(), stream());
    let input = stream.clone_htod(&[1.0f32; 4]).unwrap();
    let mut output = stream.clone_htod(&[9i8; 4]).unwrap();
    let mut scales = stream.clone_htod(&[9.0f32; 4]).unwrap();
    let mut none = scales.slice_mut(0..0);
    let nearest = Rounding::NearestEven;
    // No rows: nothing happens.
    kernels::quantize_rows(
        device,
        &stream,
        Matrix::new(&input, 0, 4),
        Matrix::new(&mut output, 0, 4),
        &mut none,
        nearest,
    )
    .unwrap();
    // No columns: each row is one of zeros, bounded by 1; its padding is written.
    kernels::quantize_rows(
        device,
        &stream,
        Matrix::new(&input, 4, 0),
        Matrix::new(&mut output, 4, 1),
        &mut scales,
        nearest,
    )
    .unwrap();
    assert_eq!(stream.clone_dtoh(&scales).unwrap(), [1.0 / 127.0; 4]);
    assert_eq!(stream.clone_dtoh(&output).unwrap(), [0i8; 4]);
}

#[test]
fn a_launch_allocates_and_waits_for_nothing() {
    let Some(fake) = fake() else {
        println!("not run: the emulated driver counts, hardware does not");
        return;
    };
    let (device, stream) = (device(), stream());
    let nearest = Rounding::NearestEven;
    let input = stream.clone_htod(&[1.0f32; 24]).unwrap();
    let mut output = stream.clone_htod(&[9i8; 24]).unwrap();
    let mut turned = stream.clone_htod(&[9i8; 24]).unwrap();
    let mut scales = stream.clone_htod(&[9.0f32; 4]).unwrap();
    let mut channel_scales = stream.clone_htod(&[9.0f32; 6]).unwrap();
    let mut zeros = stream.clone_htod(&[9i32; 4]).unwrap();
    let mut floats = stream.clone_htod(&[9.0f32; 24]).unwrap();
    let from = Matrix::new(&input, 4, 6);

    fake.mark();
    let to = Matrix::new(&mut output, 4, 6);
    kernels::quantize_rows(device, &stream, from, to, &mut scales, nearest).unwrap();
    let to = Matrix::new(&mut output, 4, 6);
    kernels::quantize_rows_asymmetric(device, &stream, from, to, &mut scales, &mut zeros).unwrap();
    let to = Matrix::new(&mut turned, 6, 4);
    kernels::quantize_cols(device, &stream, from, to, &mut channel_scales, nearest).unwrap();
    let to = Matrix::new(&mut output, 4, 6);
    kernels::quantize_static(device, &stream, from, to, 0.5, nearest).unwrap();
    let how = Dequantize {
        row_scales: Some((&scales).into()),
        row_zero_points: Some((&zeros).into()),
        ..Default::default()
    };
    let integers = Matrix::new(&output, 4, 6);
    kernels::dequantize(
        device,
        &stream,
        integers,
        Matrix::new(&mut floats, 4, 6),
        how,
    )
    .unwrap();
    kernels::transpose_s8(device, &stream, integers, Matrix::new(&mut turned, 6, 4)).unwrap();

    assert_eq!(fake.launches_since_mark(None), 6);
    assert_eq!(fake.allocations_since_mark(), 0);
    assert_eq!(fake.frees_since_mark(), 0);
    assert_eq!(fake.synchronisations_since_mark(), 0);
}

#[test]
fn launches_can_be_captured_in_a_graph() {
    let (device, stream) = (device(), stream());
    let first: Vec<f32> = (0..60).map(|i| i as f32 - 30.0).collect();
    let mut input = stream.clone_htod(&first).unwrap();
    let mut output = stream.clone_htod(&[0i8; 60]).unwrap();
    let mut scales = stream.clone_htod(&[0.0f32; 3]).unwrap();
    let mut turned = stream.clone_htod(&[0i8; 60]).unwrap();
    stream.synchronize().unwrap();

    stream
        .begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        .unwrap();
    kernels::quantize_rows(
        device,
        &stream,
        Matrix::new(&input, 3, 20),
        Matrix::new(&mut output, 3, 20),
        &mut scales,
        Rounding::NearestEven,
    )
    .unwrap();
    kernels::transpose_s8(
        device,
        &stream,
        Matrix::new(&output, 3, 20),
        Matrix::new(&mut turned, 20, 3),
    )
    .unwrap();
    let graph = stream
        .end_capture(CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH)
        .unwrap()
        .expect("two launches were captured");
    stream.synchronize().unwrap();
    assert_eq!(
        stream.clone_dtoh(&turned).unwrap(),
        [0i8; 60],
        "captured, not run"
    );

    for factor in [1.0, -2.0] {
        // The same graph over new data at the same place.
        let data: Vec<f32> = first.iter().map(|x| x * factor).collect();
        stream.memcpy_htod(&data, &mut input).unwrap();
        graph.launch().unwrap();
        stream.synchronize().unwrap();
        let found = stream.clone_dtoh(&turned).unwrap();
        let scales = stream.clone_dtoh(&scales).unwrap();
        for r in 0..3 {
            let row = &data[r * 20..][..20];
            let bound = imma::numerics::bound(imma::numerics::absmax(row.iter().copied()));
            assert_eq!(scales[r], imma::numerics::scale(bound));
            for c in 0..20 {
                let q = imma::numerics::quantize(row[c] * imma::numerics::multiplier(bound));
                assert_eq!(found[c * 3 + r], q, "row {r}, column {c}");
            }
        }
    }
}
